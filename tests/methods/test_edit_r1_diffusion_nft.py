"""Edit-R1 DiffusionNFT: `reduces_to` of specification 213, each identity a test."""

from dataclasses import replace

import pytest
import torch

import references_denoising as loops
from chains import TASKS, denoiser, drawn, flat, gradient_of, one_step, world, worth
from policyopt.compose import Program, Stage
from policyopt.credit.shares import GoodShare
from policyopt.engines.plain import generate
from policyopt.methods import load
from policyopt.objective.negative_aware import NegativeAware
from policyopt.ops.matching import MATCH_TIME, adaptive_clean_error
from policyopt.policies.chains import heun_flow
from policyopt.reward.digits import expected_digit
from policyopt.run import Run, StageContext
from policyopt.seen import SeenBatch
from policyopt.selection.solved import RETIRED, UnretiredTasks, UnsolvedGroups
from policyopt.selection.tasks import EveryRow, Selection
from policyopt.train import rounds
from policyopt.update.gradient import losses
from support import close

pytestmark = pytest.mark.usefixtures("float64")

SHARE = torch.tensor([0.0, 0.2, 0.5, 0.8, 1.0, 0.35], dtype=torch.float64)


def setting(loss: NegativeAware, same: bool = False, share: torch.Tensor = SHARE):
    """A trained, a lagged and a reference model (all alike if `same`), and six rows with shares."""
    models = {
        "policy": denoiser(),
        "lagged": denoiser(seed=0 if same else 5),
        "reference": denoiser(seed=0 if same else 6),
    }
    made = load("edit_r1_diffusion_nft")
    made = replace(made, objective=(replace(made.objective[0], loss=loss),))
    batch = drawn(models["policy"]).with_rows({"share": share})
    return models, StageContext(Run(models, None, None), Stage(made, 1)), batch


def total(ctx, batch, micro_rows=None):
    return sum(losses(ctx, batch, ctx.stage.terms, micro_rows), torch.zeros(()))


def test_values_and_gradients_equal_the_loops() -> None:
    loss = NegativeAware(beta=0.7, scale=5.0, pull=0.3, points=2)
    models, ctx, batch = setting(loss)
    batch = loss.plan(SeenBatch(ctx, batch), batch)
    seen = SeenBatch(ctx, batch)
    said = models["policy"].match(batch)
    found, slopes = loss(seen, batch), torch.zeros_like(said.prediction)
    for b in range(6):
        value = 0.0
        for p in range(2):
            lists = [m.match(batch).prediction[b, p].tolist() for m in models.values()]
            one, slope = loops.negative_aware(
                *lists, said.target[b, p].tolist(), float(said.scale[b, p, 0]), float(SHARE[b]), (0.7, 5.0, 0.3)
            )
            value += one / 2
            slopes[b, p] = torch.tensor(slope) / 2
        close(found[b], value, atol=1e-10)
    close(
        gradient_of(found.sum(), models["policy"]),
        gradient_of((slopes.detach() * said.prediction).sum(), models["policy"]),
        atol=1e-9,
    )


def test_at_the_lagged_model_it_is_the_advantage_times_weighted_matching() -> None:
    """For every b: 5 (2 rho - 1) = clip(A, -5, 5), so rho = 1/2 gives none."""
    found = []
    for beta in (0.3, 1.0, 2.0):
        models, ctx, batch = setting(NegativeAware(beta=beta, pull=0.0), same=True)
        found.append(gradient_of(total(ctx, batch), models["policy"]))
    models, ctx, batch = setting(loss := NegativeAware(pull=0.0), same=True)
    planned = loss.plan(SeenBatch(ctx, batch), batch)
    said = models["policy"].match(planned)
    weighted = adaptive_clean_error(said, said.prediction).mean(1)
    expected = gradient_of((5 * (2 * SHARE - 1) * weighted).mean(), models["policy"])
    assert float(expected.abs().max()) > 1e-3
    for gradient in found:
        close(gradient, expected, atol=1e-9)
    models, ctx, batch = setting(NegativeAware(pull=0.0), same=True, share=torch.full((6,), 0.5))
    assert float(gradient_of(total(ctx, batch), models["policy"]).abs().max()) < 1e-12


def test_with_good_samples_alone_and_b_one_it_is_weighted_flow_matching() -> None:
    """rho = 1: 5 l(v), whatever the lagged model says."""
    models, ctx, batch = setting(loss := NegativeAware(pull=0.0), share=torch.ones(6))
    planned = loss.plan(SeenBatch(ctx, batch), batch)
    said = models["policy"].match(planned)
    models, ctx, batch = setting(loss, share=torch.ones(6))
    close(total(ctx, batch).detach(), 5 * adaptive_clean_error(said, said.prediction).mean().detach())


def test_the_error_is_that_of_the_clean_sample() -> None:
    """x_t - t u - x_0 on the straight path."""
    policy = denoiser()
    batch = drawn(policy)
    batch = batch.with_rows(policy.noise(batch, torch.Generator().manual_seed(0), 2))
    said, t = policy.match(batch), batch.row[MATCH_TIME][..., None]
    clean = batch.row["_latent"][:, None]
    noised = (1 - t) * clean + t * batch.row["match_noise"]
    close(said.clean_error().detach(), (noised - t * said.prediction - clean).abs().detach(), atol=1e-10)


def test_micro_batches_and_models_see_the_same_points() -> None:
    values = []
    for micro in (None, 1, 4):
        models, ctx, batch = setting(NegativeAware(points=3))
        values.append(gradient_of(total(ctx, batch, micro), models["policy"]))
    close(values[1], values[0], atol=1e-12)
    close(values[2], values[0], atol=1e-12)


def small(**rules):
    made = load("edit_r1_diffusion_nft")
    selection = Selection(TASKS, rules.get("tasks", UnretiredTasks()), rules.get("rows", EveryRow()))
    return replace(made, selection=selection, sampling=replace(made.sampling, size=4))


def test_shares_of_a_group() -> None:
    policy = denoiser(heun_flow(4))
    done = one_step(small(), policy, world(policy)).round.credited
    reward = done.step["reward"].sum(1)
    for g in done.row["group"].unique():
        rows = done.row["group"] == g
        a = (reward[rows] - reward[rows].mean()) / (reward[rows].std(correction=0) + 1e-4)
        close(done.row["share"][rows], (a.clamp(-5, 5) / 10 + 0.5).clamp(0, 1), atol=1e-9)
    assert GoodShare(least=0.5).least == 0.5


def test_nothing_is_trained_where_every_group_is_good() -> None:
    policy = denoiser(heun_flow(4))
    before = flat(policy.parameters())
    made = small(rows=UnsolvedGroups())
    done = one_step(made, policy, world(policy, lambda points, task: 0.95 + 0.01 * points[:, 0].tanh()))
    assert len(done.round.kept) == 0
    close(flat(policy.parameters()), before)


def test_solved_prompts_are_retired_and_all_come_back_when_none_is_left() -> None:
    policy = denoiser(heun_flow(4))
    solved = {0, 2}

    def reward(points, task):
        return torch.where((task == 0) | (task == 2), 0.97, 0.5 + 0.4 * points[:, 0].tanh())

    run = Run({"policy": policy}, world(policy, reward), generate, 0)
    drawn_tasks = [set(d.judged.row["task"].tolist()) for d in rounds(run, Program((Stage(small(), 3),)))]
    assert drawn_tasks == [{0, 1, 2, 3}, {1, 3}, {1, 3}]
    assert run.cells[RETIRED.name] == sorted(solved)
    run = Run({"policy": policy}, world(policy, lambda points, task: torch.ones(len(task))), generate, 0)
    again = [set(d.judged.row["task"].tolist()) for d in rounds(run, Program((Stage(small(), 2),)))]
    assert again == [{0, 1, 2, 3}] * 2


def test_the_lagged_model_follows_and_the_reference_does_not() -> None:
    """d = min(0.001 n, 0.5): a copy after the first round."""
    policy = denoiser(heun_flow(4))
    begin = flat(policy.parameters())
    run = Run({"policy": policy}, world(policy, worth), generate, 0)
    before = begin
    for number, _ in enumerate(rounds(run, Program((Stage(small(), 3),)))):
        d = 0.001 * number
        expected = d * before + (1 - d) * flat(policy.parameters())
        before = flat(run.models["lagged"].parameters())
        close(before, expected)
    close(flat(run.models["reference"].parameters()), begin)
    assert float((begin - before).abs().max()) > 1e-6


def test_a_certain_judge_gives_the_digit() -> None:
    logits = torch.full((6, 6), -1e9)
    logits.fill_diagonal_(0.0)
    close(expected_digit(logits), torch.arange(6) / 5)
    close(expected_digit(torch.zeros(1, 6)), [0.5])
