"""SePPO: `reduces_to` of specification 151, each identity a test."""

import math
from dataclasses import replace

import pytest
import torch

import references_denoising as loops
from chains import DIMS, TASKS, denoiser, drawn, flat, gradient_of, world
from policyopt.compose import Program, Stage
from policyopt.engines.plain import generate
from policyopt.methods import load
from policyopt.objective.self_play import DenoisingPreference
from policyopt.ops.matching import MATCH_TIME
from policyopt.run import Run, StageContext
from policyopt.seen import SeenBatch
from policyopt.selection.tasks import Selection
from policyopt.train import rounds
from policyopt.types import Source
from policyopt.update.earlier import EARLIER, EarlierSelf
from policyopt.update.gradient import losses
from support import close

pytestmark = pytest.mark.usefixtures("float64")


def setting(loss: DenoisingPreference, same: bool = False):
    """A policy, a reference and three pairs whose rows are not neighbours."""
    policy, reference = denoiser(), denoiser(seed=0 if same else 5)
    made = load("seppo")
    made = replace(made, objective=(replace(made.objective[0], loss=loss),))
    ctx = StageContext(Run({"policy": policy, "reference": reference}, None, None), Stage(made, 1))
    batch = drawn(policy).with_rows(
        {"pair": torch.tensor([2, 0, 1, 0, 2, 1]), "rank": torch.tensor([0, 0, 1, 1, 1, 0])}
    )
    return ctx, batch


def total(ctx, batch, micro_rows=None):
    return sum(losses(ctx, batch, ctx.stage.terms, micro_rows), torch.zeros(()))


@pytest.mark.parametrize("flipped", [True, False])
def test_values_and_gradients_equal_the_loops(flipped) -> None:
    loss = DenoisingPreference(beta=0.8, flipped=flipped, points=2)
    ctx, batch = setting(loss)
    batch = loss.plan(SeenBatch(ctx, batch), batch)
    found = loss(SeenBatch(ctx, batch), batch)
    ours, theirs = (ctx.models[name].match(batch) for name in ("policy", "reference"))
    slopes, signs = torch.zeros_like(ours.prediction), set()
    for chosen, rejected in ((1, 3), (5, 2), (0, 4)):
        value = 0.0
        for p in range(2):
            lists = [
                [x[row, p].tolist() for row in (chosen, rejected)]
                for x in (ours.prediction, theirs.prediction, ours.target)
            ]
            one, by_chosen, by_rejected = loops.preference(*lists, 0.8, flipped=flipped)
            value += one / 2
            slopes[chosen, p], slopes[rejected, p] = torch.tensor(by_chosen) / 2, torch.tensor(by_rejected) / 2
            signs.add(bool(ours.error()[chosen, p] < theirs.error()[chosen, p]))
        close(found[chosen], value, atol=1e-10)
        assert float(found[rejected].detach()) == 0.0
    assert signs == {True, False}
    policy = ctx.models["policy"]
    expected = gradient_of((slopes.detach() * ours.prediction).sum(), policy)
    close(gradient_of(found.sum(), policy), expected, atol=1e-8)


def test_at_the_reference_the_loss_is_log_two() -> None:
    for flipped in (True, False):
        ctx, batch = setting(DenoisingPreference(flipped=flipped), same=True)
        close(total(ctx, batch), math.log(2))


def test_at_the_reference_the_flipper_has_no_side() -> None:
    """sign(0) = 0: only the winner moves the model, by -beta / 2 grad d_w."""
    ctx, batch = setting(loss := DenoisingPreference(beta=3.0), same=True)
    found = gradient_of(total(ctx, batch), ctx.models["policy"])
    ctx, batch = setting(loss, same=True)
    planned = loss.plan(SeenBatch(ctx, batch), batch)
    said = ctx.models["policy"].match(planned)
    winners = said.error()[batch.row["rank"] == 0, 0] * DIMS
    close(found, gradient_of(1.5 * winners.mean(), ctx.models["policy"]), atol=1e-9)


def test_always_pushed_down_it_is_diffusion_dpo() -> None:
    """-log sigma(-beta ((err_w - err_ref_w) - (err_l - err_ref_l))), the rejected row as a human's losing sample."""
    ctx, batch = setting(loss := DenoisingPreference(beta=2.0, flipped=False))
    found = total(ctx, batch)
    ctx, batch = setting(loss)
    planned = loss.plan(SeenBatch(ctx, batch), batch)
    ours, theirs = (ctx.models[name].match(planned) for name in ("policy", "reference"))
    gain = ((ours.prediction - ours.target) ** 2 - (theirs.prediction - theirs.target) ** 2).sum(-1)[:, 0]
    logit = -2.0 * torch.stack([gain[1] - gain[3], gain[5] - gain[2], gain[0] - gain[4]])
    close(found, -torch.nn.functional.logsigmoid(logit).mean(), atol=1e-10)


def test_both_of_a_pair_are_noised_to_the_same_time_and_never_separated() -> None:
    ctx, batch = setting(loss := DenoisingPreference(points=3))
    planned = loss.plan(SeenBatch(ctx, batch), batch)
    time = planned.row[MATCH_TIME]
    close(time[[1, 5, 0]], time[[3, 2, 4]])
    assert not torch.equal(planned.row["match_noise"][1], planned.row["match_noise"][3])
    ctx, batch = setting(loss)
    expected = gradient_of(total(ctx, batch), ctx.models["policy"])
    again, batch = setting(loss)
    close(gradient_of(total(again, batch, 2), again.models["policy"]), expected, atol=1e-10)


def small(choice: str = "uniform", every: int = 2):
    made = load("seppo")
    return replace(made, selection=Selection(TASKS), before=(EarlierSelf(every=every, choice=choice),))


def run_of():
    policy = denoiser()
    samples = torch.arange(TASKS * DIMS).view(TASKS, DIMS).double() / 10
    return Run({"policy": policy}, world(policy, samples=samples), generate, 0), samples


def test_winners_are_recorded_and_the_others_are_the_references() -> None:
    run, samples = run_of()
    (done,) = rounds(run, Program((Stage(small(), 1),)))
    rows = done.judged
    assert rows.row["rank"].tolist() == [0] * TASKS + [1] * TASKS
    close(rows.row["_latent"][:TASKS], samples[rows.row["task"][:TASKS]])
    assert rows.row["source"].tolist() == [int(Source.DATASET)] * TASKS + [int(Source.POLICY)] * TASKS
    assert rows.row["task"][:TASKS].tolist() == rows.row["task"][TASKS:].tolist()
    assert rows.trained.sum(1).tolist() == [1] * 2 * TASKS


def test_the_reference_is_one_of_the_selves_that_were() -> None:
    """SPIN-Diffusion takes the latest, DITTO the first."""
    wanted = {"latest": [0, 0, 1, 1, 2, 2], "first": [0] * 6}
    for choice in ("uniform", "latest", "first"):
        run, _ = run_of()
        begin, seen = flat(run.models["policy"].parameters()), []
        for _ in rounds(run, Program((Stage(small(choice), 6),))):
            selves = [torch.cat([x.flatten() for x in kept.values()]) for kept in run.cells[EARLIER.name]]
            now = flat(run.models["reference"].parameters())
            found = [torch.equal(now, one) for one in selves]
            assert any(found)
            seen.append(found.index(True))
        assert len(run.cells[EARLIER.name]) == 3
        assert seen == wanted.get(choice, seen)
        assert choice != "uniform" or (len(set(seen)) > 1 and seen != wanted["latest"])
        assert float((flat(run.models["policy"].parameters()) - begin).abs().max()) > 0
