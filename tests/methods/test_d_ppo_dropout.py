"""D-PPO: `reduces_to` of specification 88, and the identity that its score rests on."""

from dataclasses import replace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from enumeration import first_step
from policyopt.compose import Program, Stage, Term
from policyopt.engines.plain import generate
from policyopt.methods import load
from policyopt.objective.dropout import AFTER, BEFORE, KEPT, SurrogateDropout, cross_terms, dropped, kept_steps
from policyopt.objective.surrogates import ClippedSurrogate
from policyopt.options import override
from policyopt.policies.tabular import Table
from policyopt.reward.parts import FromWorld
from policyopt.run import Run
from policyopt.seen import SeenBatch
from policyopt.train import rounds
from policyopt.update.averaging import TokenMean
from policyopt.worlds.tables import garnet
from support import close, context, full_step, grids, method, numbers, ragged

pytestmark = pytest.mark.usefixtures("float64")


def trained(key, **changes):
    made = override(load(key), {"selection.count": 8, "update.optimizers.policy.learning_rate": 0.1, **changes})
    world = garnet(6, 3, 2, torch.Generator().manual_seed(3))
    run = Run({"policy": Table(numbers(6, 3, seed=1))}, world, generate)
    done = list(rounds(run, Program((Stage(made, 3),))))
    return run.models["policy"].logits.detach(), done


def test_nothing_dropped_is_ppo_bit_for_bit() -> None:
    ppo, _ = trained("ppo")
    ours, _ = trained("d_ppo_dropout", **{"objective.share": 0.0})
    assert torch.equal(ours, ppo)
    other, _ = trained("d_ppo_dropout")
    assert not torch.equal(other, ppo)


def test_the_gradient_is_ppos_on_the_kept_steps() -> None:
    """With the policy's loss averaged over kept steps: PPO of the batch in which the others are not trained on."""
    batch, models = ragged(), grids()
    loss = SurrogateDropout(0.2, 0.28, 0.4)
    ctx = context(method(Term("policy", loss, TokenMean(), mask=kept_steps)), models)
    value, gradient = full_step(ctx, batch)
    with torch.no_grad():
        kept = loss.plan(SeenBatch(ctx, batch), batch).step[KEPT]
    assert 0 < int(kept.sum()) < int(batch.trained.sum())
    rest = batch.with_steps({"train": batch.step["train"] & kept})
    plain = context(method(Term("policy", ClippedSurrogate(0.2, 0.28), TokenMean())), grids())
    expected, slope = full_step(plain, rest)
    close(value, expected)
    close(gradient, slope)


@given(st.lists(st.floats(-3, 3), min_size=2, max_size=12))
def test_the_score_is_the_variances_cross_term(u: list[float]) -> None:
    """n^2 Var(u) = (n - 1) sum u_t^2 - sum phi_t."""
    x = torch.tensor(u)
    phi = torch.tensor([a * sum(b for m, b in enumerate(u) if m != n) for n, a in enumerate(u)])
    close(cross_terms(x), phi, atol=1e-10)
    close(len(u) ** 2 * x.var(correction=0), (len(u) - 1) * (x**2).sum() - phi.sum(), atol=1e-9)


def test_what_is_dropped_by_hand() -> None:
    """Of four scores >= 0 at one half the two smallest; of three below 0 floor(1.5) = 1, the most negative."""
    score = torch.tensor([3.0, -1.0, 0.0, 2.0, -5.0, 1.0, -2.0])
    assert dropped(score, 0.5).tolist() == [False, False, True, False, True, True, False]
    assert not dropped(score, 0.24).any()
    assert dropped(torch.tensor([1.0, 1.0, 1.0]), 0.4).tolist() == [True, False, False], "the first among equals"
    assert not dropped(torch.zeros(0), 0.9).any()


@given(st.integers(0, 60))
def test_it_is_chosen_over_the_whole_step_and_knows_no_order(seed: int) -> None:
    """Micro-batches and permutations of rows keep the same steps; padding and untrained steps are no samples."""
    batch = ragged(seed=seed)
    loss = SurrogateDropout(0.2, 0.2, 0.3)

    def kept(rows):
        ctx = context(method(Term("a", loss, TokenMean(), mask=kept_steps)), grids())
        with torch.no_grad():
            return loss.plan(SeenBatch(ctx, rows), rows).step[KEPT]

    order = torch.tensor([2, 0, 3, 1])
    assert torch.equal(kept(batch)[order], kept(batch[order]))
    noisy = batch.with_steps({"advantage": torch.where(batch.trained, batch.step["advantage"], 1e6)})
    assert torch.equal(kept(noisy), kept(batch))
    assert not (kept(batch) & ~batch.trained).any()


def test_the_monitor_reports_both_variances() -> None:
    batch, models = ragged(), grids()
    loss = SurrogateDropout(share=0.3)
    ctx = context(method(Term("policy", loss, TokenMean(), mask=kept_steps)), models)
    full_step(ctx, batch)
    ratio = (models["policy"].logp - models["old"].logp).detach()[:4, :13].exp()
    u = (ratio * batch.step["advantage"])[batch.trained]
    with torch.no_grad():
        planned = loss.plan(SeenBatch(ctx, batch), batch)
    kept = (ratio * batch.step["advantage"])[planned.step[KEPT]]
    found = ctx.meter.result()
    close(found["policy/variance"], (u**2).mean() - u.mean() ** 2)
    close(found["policy/variance_kept"], (kept**2).mean() - kept.mean() ** 2)
    assert float(planned.step[BEFORE][0, 0]) != float(planned.step[AFTER][0, 0])


def test_the_critic_learns_from_all_steps() -> None:
    batch = ragged()
    batch = batch.with_steps({"reward": torch.where(batch.valid, batch.step["reward"], 0.0)})
    gradients = []
    for key in ("ppo", "d_ppo_dropout"):
        made = replace(load(key), reward=FromWorld(), constraint=())
        gradients.append(first_step(made, grids(), batch, model="critic", table="values").gradient)
    close(gradients[1], gradients[0])
