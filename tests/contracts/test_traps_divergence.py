"""Traps 24 to 26 and 28: divergences as losses, coefficients, masked numbers, equal paths."""

import math
from dataclasses import replace

import pytest
import torch
from torch import Tensor

import cases
import loops
from cases import CASES
from enumeration import choices_of
from policyopt.compose import CompositionError, Role, Term
from policyopt.constraint.divergence import ExactKL, K1Loss, K2Loss, K3Loss, KLToReference
from policyopt.credit.groups import GroupStandardised
from policyopt.credit.returns import GeneralisedAdvantage
from policyopt.objective.supervised import FullReverseKL, SampledReverseKL
from policyopt.objective.surrogates import (
    ClippedSurrogate,
    GeometricSequenceSurrogate,
    ProductSequenceSurrogate,
    TruncatedImportance,
)
from policyopt.ops.divergence import k2, k3
from policyopt.policies.tabular import Table
from policyopt.reward.parts import ReferencePenalty
from policyopt.seen import collect_roles
from policyopt.types import Batch, Scores
from policyopt.update.averaging import RowMean, SequenceSum, TokenMean
from policyopt.worlds.sequences import bandit
from support import (
    NAN,
    Grid,
    close,
    context,
    full_step,
    grid,
    grids,
    masked_entries,
    method,
    numbers,
    per_row,
    ragged,
    rewarded,
)

pytestmark = pytest.mark.usefixtures("float64")


# -- 24 ---------------------------------------------------------------------------------------------------------
def expected_gradient(loss: object, policy: Tensor, behaviour: Tensor, other: Tensor) -> Tensor:
    """E over one step drawn from `behaviour` of the gradient of a loss; by enumeration of 5 choices."""
    world = bandit(torch.zeros(1, 5))
    drawn = 5 * behaviour.softmax(-1)
    term = Term("one", loss, TokenMean(), weight=lambda seen, batch: drawn[batch.step["_step"]])
    models = {
        "policy": Table(policy[None]),
        "old": Table(behaviour[None]),
        "reference": Table(other[None]),
        "teacher": Table(other[None]),
    }
    roles = {
        "policy": Role(grad=True, full=True),
        **{name: Role(name, full=True) for name in ("old", "reference", "teacher")},
    }
    _, gradient = full_step(context(method(term, roles=roles), models, world), choices_of(world, 5))
    return gradient[0]


def test_trap_24_expected_gradient_of_the_kl_terms() -> None:
    """On and off policy: KLToReference, SampledReverseKL and the exact form have the gradient of KL(pi || ref)."""
    policy, other, stale = (numbers(5, seed=s) for s in (20, 21, 22))
    p, q = policy.softmax(-1).tolist(), other.softmax(-1).tolist()
    exact = torch.tensor(loops.kl(p, q)[1])
    assert float(exact.abs().max()) > 0.05
    for loss in (KLToReference(), SampledReverseKL(), ExactKL(), FullReverseKL()):
        for behaviour in (policy, stale):
            close(expected_gradient(loss, policy, behaviour, other), exact, what=type(loss).__name__)


def test_trap_24_estimators_as_losses_have_the_stated_bias() -> None:
    policy, other, stale = (numbers(5, seed=s) for s in (20, 21, 22))
    p, q = policy.softmax(-1), other.softmax(-1)
    exact = torch.tensor(loops.kl(p.tolist(), q.tolist())[1])
    close(expected_gradient(K1Loss(), policy, policy, other), torch.zeros(5), what="k1")
    close(expected_gradient(K2Loss(), policy, policy, other), exact, what="k2 on policy")
    off = expected_gradient(K2Loss(), policy, stale, other)
    assert float((off - exact).abs().max()) > 1e-2, "k2 off policy is biased"
    close(expected_gradient(K3Loss(), policy, policy, other), p - q, what="k3: the forward KL's gradient")


def test_kl_is_nonnegative_and_zero_and_flat_at_the_reference() -> None:
    policy, other = numbers(5, seed=20), numbers(5, seed=21)
    for loss in (KLToReference(), ExactKL(), FullReverseKL(), K2Loss(), K3Loss()):
        flat = expected_gradient(loss, policy, policy, policy)
        close(flat, torch.zeros(5), what=type(loss).__name__)
    d = numbers(100, seed=23)
    assert bool((k3(d) >= 0).all())
    assert bool((k2(d) >= 0).all())
    p, q = policy.softmax(-1).tolist(), other.softmax(-1).tolist()
    assert loops.kl(p, q)[0] > 0


# -- 25 (the dead-knob test is in test_dead_knobs) ----------------------------------------------------------------
def test_trap_25_a_coefficient_scales_exactly_one_term() -> None:
    """Loss is linear in the coefficient, and only the metric and gradient of its own term move."""
    models, batch, found = grids(), cases.rich(), []
    for weight in (0.0, 0.5, 1.0, 2.0):
        terms = (
            Term("policy", ClippedSurrogate(), TokenMean()),
            Term("kl", KLToReference(), TokenMean(), weight=weight),
        )
        ctx = context(method(*terms), models)
        loss, gradient = full_step(ctx, batch)
        ctx.meter.add("loss/policy", 0.0, 1)
        ctx.meter.add("loss/kl", 0.0, 1)
        found.append((weight, loss, gradient, ctx.meter.result()))
    (_, base, flat, metrics), (_, one, slope, unit) = found[0], found[2]
    assert abs(float(one - base)) > 1e-3
    for weight, loss, gradient, result in found:
        close(loss, base + weight * (one - base), what=f"loss at {weight}")
        close(gradient, flat + weight * (slope - flat), what=f"gradient at {weight}")
        close(result["loss/kl"], weight * unit["loss/kl"], what="metric of the term")
        close(result["loss/policy"], metrics["loss/policy"], what="metric of the other term")


def test_trap_25_the_same_distance_is_not_charged_twice() -> None:
    term = Term("kl", KLToReference(), TokenMean(), weight=0.1)
    with pytest.raises(CompositionError, match="charged twice"):
        method(term, reward=ReferencePenalty())
    with pytest.raises(CompositionError, match="charged twice"):
        method(term, Term("also", K3Loss(), TokenMean()))


def test_trap_25_the_penalty_in_the_reward_is_linear_too() -> None:
    batch, models = ragged(), grids()
    rewards = []
    for beta in (0.0, 0.5, 1.0):
        ctx = context(method(reward=ReferencePenalty(beta)), models)
        rewards.append(ReferencePenalty(beta)(ctx, batch).step["reward"])
    close(rewards[1], (rewards[0] + rewards[2]) / 2)
    gap = batch.step["behaviour"] - models["reference"].logp.detach()[:4, :13]
    close(rewards[2], batch.step["reward"] - torch.where(batch.own, gap, 0.0))


# -- 26 ---------------------------------------------------------------------------------------------------------
def poisoned_batch(batch: Batch, bad: float) -> Batch:
    columns = ("behaviour", "advantage", "return", "value")
    steps = {n: torch.where(batch.trained, batch.step[n], bad) for n in columns}
    return batch.with_steps({**steps, "reward": torch.where(batch.valid, batch.step["reward"], bad)})


def test_trap_26_masked_nan_and_inf_leave_no_trace() -> None:
    """In columns and in all models: same loss, gradient and metrics as with clean numbers, nothing non-finite."""
    for bad in (NAN, math.inf, -math.inf):
        for key, case in CASES.items():
            average = next(iter(cases.averages(case).values()))[0]
            models, batch = grids(case.full), cases.rich()
            weight = TruncatedImportance(2.0) if case.unit == "step" else 1.0
            term = replace(case.term(average), weight=weight)
            made = method(term, roles=case.roles)
            clean = context(made, models)
            value, gradient = full_step(clean, batch, model=case.trains)
            dirty = {}
            for name, model in models.items():
                tables = {n: masked_entries(batch, p.detach()) for n, p in model.named_parameters()}
                # Whole distributions with gradient come from the model, which answers for its own padding.
                keep = case.full and name == "policy"
                dirty[name] = model if keep else Grid(**{n: t.nan_to_num(bad) for n, t in tables.items()})
            other = context(made, dirty)
            found, slope = full_step(other, poisoned_batch(batch, bad), model=case.trains)
            close(found, value, what=f"{key} with {bad}")
            close(slope, gradient, what=f"gradient of {key} with {bad}")
            for name, number in clean.meter.result().items():
                close(other.meter.result()[name], number, what=f"{key} metric {name}")


def test_trap_26_credit_ignores_padding() -> None:
    for bad in (NAN, math.inf):
        batch = ragged()
        models = {"policy": grid(0), "critic": grid(4)}
        values = models["critic"].values.detach().clone()
        values[:4, :14][~torch.cat([batch.valid, torch.zeros(4, 1, dtype=torch.bool)], 1)] = bad
        dirty = {"policy": grid(0), "critic": Grid(logp=grid(4).logp.detach(), values=values)}
        for credit in (GroupStandardised(), GeneralisedAdvantage(gamma=0.9, lam=0.7)):
            clean = credit(context(method(), models), batch)
            found = credit(context(method(), dirty), poisoned_batch(batch, bad))
            for column in credit.writes:
                close(found.step[column], clean.step[column], what=f"{column} with {bad}")


# -- 28 ---------------------------------------------------------------------------------------------------------
def test_trap_28_micro_batches_of_1_7_and_all() -> None:
    """Every loss and averaging, 8 rows."""
    lengths = (1, 2, 7, 13, 3, 5, 2, 4)
    for key, case in CASES.items():
        for name, (average, _) in cases.averages(case).items():
            ctx, batch = case.context(average), ragged(lengths)
            value, gradient = full_step(ctx, batch, model=case.trains)
            for rows in (1, 7, 8):
                found, slope = full_step(ctx, batch, rows, case.trains)
                close(found, value, what=f"{key} {name} micro_rows {rows}")
                close(slope, gradient, what=f"{key} {name} micro_rows {rows}")


def test_trap_28_roles_collected_before_and_scored_at_the_step_agree() -> None:
    """Two paths to the same numbers: scores stored with the batch, and models asked on every micro-batch."""
    for key, case in CASES.items():
        models, batch = grids(case.full), cases.rich()
        value, gradient = full_step(case.context(models=models), batch, 1, case.trains)
        roles = {n: r if r.grad else replace(r, when="collected") for n, r in case.roles.items()}
        ctx = context(method(case.term(), roles=roles), models)
        stored = collect_roles(ctx, batch)
        calls = models["old"].calls
        found, slope = full_step(ctx, stored, 1, case.trains)
        assert models["old"].calls == calls, "collected roles are not scored again"
        close(found, value, what=key)
        close(slope, gradient, what=key)


def test_trap_28_the_same_divergence_by_two_parts() -> None:
    models = grids(full=True)
    models["teacher"] = models["reference"]
    batch, roles = cases.rich(), CASES["exact_kl"].roles
    first = full_step(context(method(Term("a", ExactKL(), TokenMean()), roles=roles), models), batch)
    second = full_step(context(method(Term("a", FullReverseKL(), TokenMean()), roles=roles), models), batch)
    close(first[0], second[0])
    close(first[1], second[1])


def test_sequence_surrogates_of_one_step_are_the_step_surrogate() -> None:
    batch, models = ragged((1, 1, 1, 1)), grids()
    step = full_step(context(method(Term("a", ClippedSurrogate(0.2, 0.28), TokenMean())), models), batch)
    for loss in (GeometricSequenceSurrogate(0.2, 0.28), ProductSequenceSurrogate(0.2, 0.28)):
        term = replace(CASES["geometric"].term(RowMean(), weight=1.0), loss=loss)
        row = full_step(context(method(term), models), batch)
        close(row[0], step[0])
        close(row[1], step[1])


def test_scores_that_are_given_win_over_models() -> None:
    """A stored score is used as it is; nothing else asks the model."""
    models, batch = grids(), per_row(ragged((2,)), [1.0])
    stored = batch.with_scores({"old": Scores(models["policy"].logp.detach()[:1, :2])})
    term = Term("a", ClippedSurrogate(), SequenceSum())
    loss, _ = full_step(context(method(term), models), stored)
    close(loss, -2.0)
    close(rewarded(batch, [3.0]).step["reward"], [[3.0, 0.0]])
