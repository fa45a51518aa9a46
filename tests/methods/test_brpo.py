"""BRPO: `reduces_to` of specification 94, each identity a test."""

from dataclasses import replace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from policyopt.compose import CompositionError, Program, Stage
from policyopt.credit.anytime import BudgetRelative, answer_steps, budget_relative, thought_steps
from policyopt.credit.groups import GroupCentred
from policyopt.engines.plain import generate
from policyopt.evaluation.experiments._anytime import KNOWN, Thoughts
from policyopt.methods import load
from policyopt.ops.sequences import total_reward
from policyopt.policies.tabular import Table
from policyopt.reward.parts import Verified
from policyopt.run import Run
from policyopt.sampling.anytime import Anytime
from policyopt.selection.tasks import Selection
from policyopt.train import _draw, _judge, rounds
from policyopt.update.gradient import GradientSteps
from policyopt.update.optimizers import SGD
from references_trees import budget_relative as by_loops
from support import close, context, method, numbers

pytestmark = pytest.mark.usefixtures("float64")


def world(limit=6, luck=0.5):
    right = torch.randint(4, (KNOWN,), generator=torch.Generator().manual_seed(1))
    return Thoughts(right, limit, luck, 3)


def drawn(part, of=None, count=3):
    of = of or world()
    made = method(sampling=part, reward=Verified(), selection=Selection(count))
    ctx = context(made, {"policy": Table(numbers(of.states, 4, seed=4))}, of, generate)
    return part(ctx, _draw(ctx), _judge(ctx)), ctx


@given(st.integers(0, 80), st.sampled_from(["both", "own", "group", "none"]))
def test_thoughts_are_credited_as_the_loops_say(seed: int, baseline) -> None:
    rng = torch.Generator().manual_seed(seed)
    score = torch.rand(5, 4, generator=rng, dtype=torch.float64)
    prior = torch.rand(4, generator=rng, dtype=torch.float64)
    group = torch.tensor([3, 3, 1, 3, 9])
    found = budget_relative(score, prior, group, baseline)
    close(found, by_loops(score.tolist(), prior.tolist(), group.tolist(), baseline))
    if baseline == "group":
        close(found[group == 3].sum(0), torch.zeros(4), 1e-12)


def test_the_first_segment_has_no_own_baseline() -> None:
    score, prior = numbers(4, 3, seed=1), torch.tensor([0.2, 0.3, 0.5])
    group = torch.zeros(4, dtype=torch.long)
    close(budget_relative(score, prior, group)[:, 0], budget_relative(score, prior, group, "group")[:, 0])
    assert (
        float((budget_relative(score, prior, group) - budget_relative(score, prior, group, "group")).abs().max()) > 0.1
    )


def test_one_budget_and_one_answer_is_the_centred_reward() -> None:
    """Thoughts: R - mean_G R, and so are the answers, which have no other of their cut."""
    batch, ctx = drawn(Anytime(4, (6,), answers=1))
    found = BudgetRelative((1.0,))(ctx, batch).step["advantage"]
    answers = batch.row["budget"] == 0
    plain = GroupCentred()(ctx, batch[answers]).step["advantage"]
    by_row = plain.sum(1) / batch[answers].lengths
    close(found[answers][batch[answers].own], plain[batch[answers].own])
    close(found[~answers][batch[~answers].own], by_row[:, None].expand(-1, batch.steps)[batch[~answers].own])
    assert float(by_row.abs().max()) > 0.2


def test_the_base_prior_with_the_groups_baseline_is_the_last_score_alone() -> None:
    batch, ctx = drawn(Anytime(4, (2, 4, 6), answers=2))
    found = BudgetRelative((0.0, 0.0, 1.0), "group")(ctx, batch).step["advantage"]
    reward, trace = total_reward(batch), batch.row["trace"]
    for b in (batch.row["budget"] < 0).nonzero()[:, 0].tolist():
        peers = [int(t) for t, g in zip(trace, batch.row["group"], strict=True) if g == batch.row["group"][b]]
        last = {t: float(reward[(trace == t) & (batch.row["budget"] == 2)].mean()) for t in peers}
        centred = last[int(trace[b])] - sum(last.values()) / len(last)
        close(found[b][batch.own[b]], torch.full((int(batch.own[b].sum()),), centred))


def test_answers_of_a_cut_sum_to_zero() -> None:
    batch, ctx = drawn(Anytime(4, (2, 4), answers=3))
    found = BudgetRelative((1.0, 2.0))(ctx, batch).step["advantage"]
    answers = answer_steps(None, batch)
    for cut in batch.row["cut"][batch.row["budget"] >= 0].unique():
        rows = (batch.row["cut"] == cut) & (batch.row["budget"] >= 0)
        assert int(rows.sum()) == 3
        assert float(found[rows][answers[rows]].sum()) == pytest.approx(0.0, abs=1e-12)
    assert float(found[answers].abs().max()) > 0.3


def test_prefixes_are_shared_and_only_what_is_new_is_trained() -> None:
    batch, _ = drawn(Anytime(2, (2, 4), answers=2))
    thought = batch.row["budget"] < 0
    assert (int(thought.sum()), int((~thought).sum())) == (6, 24)
    for b in (~thought).nonzero()[:, 0].tolist():
        kept = (2, 4)[int(batch.row["budget"][b])]
        (origin,) = (thought & (batch.row["trace"] == batch.row["trace"][b])).nonzero()[:, 0].tolist()
        for name in ("_step", "_state", "behaviour"):
            assert torch.equal(batch.step[name][b, :kept], batch.step[name][origin, :kept])
        assert batch.trained[b].nonzero()[:, 0].tolist() == [kept]
        assert int(batch.step["_state"][b, kept]) >= 6 * KNOWN
    assert batch.step["budget_of_step"][thought][:, :4].tolist() == [[0, 0, 1, 1]] * 6
    assert bool((thought_steps(None, batch) | answer_steps(None, batch)).eq(batch.trained).all())


def test_a_thought_that_ends_early_is_one_cut_asked_again_for_every_budget() -> None:
    """A world whose thoughts are over after 3 steps."""
    of = world(limit=3)
    batch, ctx = drawn(Anytime(2, (2, 4, 8), answers=2), of)
    rows = batch.row["budget"] >= 0
    late = rows & (batch.row["budget"] >= 1)
    for trace in batch.row["trace"].unique():
        mine = late & (batch.row["trace"] == trace)
        assert int(mine.sum()) == 4
    assert bool(BudgetRelative((1.0, 1.0, 1.0))(ctx, batch).step["advantage"].isfinite().all())


def test_unscored_answers_leave_the_statistics() -> None:
    batch, ctx = drawn(Anytime(2, (2, 4), answers=2))
    some = (batch.row["trace"] == 0) & (batch.row["budget"] == 1)
    gone = batch.with_rows({"scored": batch.row["scored"] & ~some})
    found = BudgetRelative((1.0, 1.0))(ctx, gone).step["advantage"]
    mine = (batch.row["trace"] == 0) & (batch.row["budget"] < 0)
    assert float(found[mine].abs().max()) == 0.0
    assert float(found[some].abs().max()) == 0.0


def test_the_gradient_is_the_mean_over_thoughts_plus_the_mean_over_answers() -> None:
    of, policy = world(), Table(numbers(world().states, 4, seed=4))
    made = load("brpo")
    made = replace(made, selection=Selection(2), sampling=Anytime(3, (2, 4), 2), credit=BudgetRelative((1.0, 1.0)))
    made = replace(made, update=GradientSteps({"policy": SGD(1.0)}, clip_norm=None))
    before = policy.logits.detach().clone()
    done = next(rounds(Run({"policy": policy}, of, generate), Program((Stage(made, 1),))))
    expected, rows = torch.zeros_like(before), done.kept
    for mask in (thought_steps(None, rows), answer_steps(None, rows)):
        for b, t in mask.nonzero().tolist():
            state, step = int(rows.step["_state"][b, t]), int(rows.step["_step"][b, t])
            slope = -before[state].softmax(-1)
            slope[step] += 1
            expected[state] += rows.step["advantage"][b, t] * slope / int(mask.sum())
    close(policy.logits.detach() - before, expected, 1e-10)


def test_accuracy_of_the_experiment_is_exact() -> None:
    """A policy that knows: a bit each time luck allows."""
    of = world(limit=8)
    policy = torch.zeros(of.states, 4)
    policy[torch.arange(of.states), of.right[torch.arange(of.states) % KNOWN]] = 1.0
    answer = torch.full((KNOWN, 4), 0.25)
    answer[1] = torch.tensor([0.5, 0.5, 0.0, 0.0])
    answer[2] = torch.tensor([0.0, 0.0, 0.5, 0.5])
    answer[3:] = torch.eye(4)
    policy[8 * KNOWN :] = answer
    found = of.accuracy(policy)
    for steps in (0, 1, 2, 5):
        none, one = 0.5**steps, steps * 0.5**steps
        assert float(found[steps]) == pytest.approx(none / 4 + one / 2 + (1 - none - one))


def test_refusals() -> None:
    for broken in (lambda: Anytime(budgets=(4, 2)), lambda: Anytime(answers=0), lambda: BudgetRelative((0.0, 0.0))):
        with pytest.raises(CompositionError):
            broken()
    batch, ctx = drawn(Anytime(2, (2, 4), 1))
    with pytest.raises(CompositionError, match="one weight"):
        BudgetRelative((1.0,))(ctx, batch)
