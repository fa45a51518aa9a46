"""Traps 14, 20 to 26 and 28: log-probabilities, ratios, divergences, masks and equal paths."""

import math
from dataclasses import replace

import pytest
import torch
from torch import Tensor

import cases
import loops
from cases import CASES
from policyopt.compose import CompositionError, Program, Role, Stage, Term
from policyopt.constraint.divergence import ExactKL, K1Loss, K2Loss, K3Loss, KLToReference
from policyopt.credit.groups import GroupStandardised
from policyopt.credit.returns import GeneralisedAdvantage
from policyopt.engines.plain import generate
from policyopt.methods import load
from policyopt.objective.supervised import FullReverseKL, SampledReverseKL
from policyopt.objective.surrogates import (
    ClippedSurrogate,
    GeometricSequenceSurrogate,
    PolicyGradient,
    ProductSequenceSurrogate,
    TruncatedImportance,
    clipped_surrogate,
)
from policyopt.ops.divergence import k2, k3
from policyopt.policies.tabular import Table
from policyopt.reward.parts import ReferencePenalty
from policyopt.run import Run
from policyopt.sampling.samplers import attempt
from policyopt.seen import SeenBatch, collect_roles
from policyopt.train import rounds
from policyopt.types import Batch, Scores, Tasks
from policyopt.update.averaging import RowMean, SequenceSum, TokenMean
from policyopt.worlds.sequences import SequenceWorld, bandit
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


# -- 14 ---------------------------------------------------------------------------------------------------------
def test_trap_14_every_consumer_reads_its_own_column() -> None:
    """A model whose number for row b, step t is 100 b + t: through roles, permutations, values and recordings."""
    code = 100.0 * torch.arange(8)[:, None] + torch.arange(104)
    coded = Grid(logp=code, values=torch.cat([code, code[:, -1:] + 1], 1))
    models = dict.fromkeys(("policy", "old", "reference", "teacher", "critic"), coded)
    roles = {"old": Role("old"), "kept": Role(when="recorded"), "early": Role(when="collected")}
    ctx = context(method(roles=roles), models)
    batch = ragged().with_steps({"behaviour": code[:4, :13]})
    for rows in ([0, 1, 2, 3], [3, 1], [2]):
        part = collect_roles(ctx, batch)[torch.tensor(rows)]
        seen, expected = SeenBatch(ctx, part), code[rows, :13]
        for role in ("policy", "old", "kept", "behaviour", "early"):
            close(seen[role].logp, expected, what=role)
        close(seen.value("critic"), code[rows, :14], what="value")
    close(SeenBatch(ctx, collect_roles(ctx, batch)).batch.scores["early"].logp, code[:4, :13])


def test_trap_14_a_table_scores_what_it_sampled() -> None:
    """Own log-probabilities at every position, and step t of the score belongs to state t."""
    world = SequenceWorld(3, 4, 5, lambda s, t: t.double(), end=0)
    policy = Table(numbers(15, 4, seed=1))
    ctx = context(method(), {"policy": policy}, world, generate)
    batch = attempt(ctx, world.tasks(torch.tensor([0, 1, 2])), 8, 0.7)
    assert len(set(batch.lengths.tolist())) > 2, "rows must end at different steps"
    scored = policy.score(batch).logp
    close(scored[batch.own], batch.step["behaviour"][batch.own])
    logp = (policy.logits.detach() / 0.7).log_softmax(-1)
    for b, t in batch.own.nonzero().tolist():
        state = int(batch.row["task"][b]) * 5 + t
        close(scored[b, t], logp[state, int(batch.step["_step"][b, t])])


# -- 20 ---------------------------------------------------------------------------------------------------------
def choices_of(world: SequenceWorld, count: int) -> Batch:
    """One finished row per choice of a one-step world."""
    rows = world.complete(Tasks(torch.zeros(count, dtype=torch.int64)), torch.arange(count)[:, None])
    return rows.with_steps({"advantage": torch.zeros(count, 1)})


def test_trap_20_behaviour_old_and_current_are_three() -> None:
    """Weights change after sampling and again after collecting: each role keeps its own numbers."""
    world = bandit(torch.tensor([[0.0, 1.0, 2.0]]))
    policy = Table(numbers(1, 3, seed=2))
    ctx = context(method(roles={"old": Role(when="collected")}), {"policy": policy}, world, generate)
    batch = attempt(ctx, world.tasks(torch.zeros(6, dtype=torch.int64)), 1, 1.0)
    choice = batch.step["_step"][:, 0]
    told = []
    for _ in range(3):
        told.append(policy.logits.detach().log_softmax(-1)[0][choice])
        if len(told) == 2:
            batch = collect_roles(ctx, batch)
        with torch.no_grad():
            policy.logits.add_(numbers(1, 3, seed=10 + len(told)))
    seen = SeenBatch(ctx, batch)
    close(seen["behaviour"].logp[:, 0], told[0])
    close(seen["old"].logp[:, 0], told[1])
    close(seen["policy"].logp[:, 0], policy.logits.detach().log_softmax(-1)[0][choice])
    assert not torch.allclose(told[0], told[1])
    assert not seen["old"].logp.requires_grad
    assert seen["policy"].logp.requires_grad


def test_trap_20_truncated_importance_is_unbiased_without_a_cap() -> None:
    """A 3-choice vocabulary, enumerated: E_behaviour[w grad of the loss] is the exact gradient under the current
    policy; with a cap, weights are min(old / behaviour, cap)."""
    world, advantage = bandit(torch.zeros(1, 3)), torch.tensor([0.5, -1.0, 2.0])
    behaviour, current = numbers(3, seed=3).log_softmax(-1), numbers(3, seed=4)
    rows = choices_of(world, 3).with_steps({"advantage": advantage[:, None], "behaviour": behaviour[:, None]})

    def expectation(seen: SeenBatch, batch: Batch) -> Tensor:
        drawn = 3 * batch.step["behaviour"].exp()  # the average divides by the three rows
        return drawn * TruncatedImportance(cap=math.inf)(seen, batch)

    made = method(
        Term("policy", ClippedSurrogate(), TokenMean(), weight=expectation),
        roles={"old": Role(when="collected")},
    )
    ctx = context(made, {"policy": Table(current[None])}, world)
    rows = collect_roles(ctx, rows)
    _, gradient = full_step(ctx, rows)
    p = current.softmax(-1)
    close(gradient[0], -p * (advantage - (p * advantage).sum()), what="expected gradient")
    weights = (current.log_softmax(-1) - behaviour).exp()
    assert float(weights.max()) > 1.2
    capped = TruncatedImportance(cap=1.2)(SeenBatch(ctx, rows), rows)
    close(capped[:, 0], weights.clamp(max=1.2), what="capped weights")


def test_trap_20_steps_carry_the_version_that_took_them() -> None:
    world = bandit(torch.tensor([[0.0, 1.0, 2.0], [2.0, 1.0, 0.0]]))
    made = load("grpo")
    made = replace(made, update=replace(made.update, minibatches=2), sampling=replace(made.sampling, size=4))
    run = Run({"policy": Table(torch.zeros(2, 3))}, world, generate)
    for number, done in enumerate(rounds(run, Program((Stage(made, 3),)))):
        assert set(done.judged.step["version"][done.judged.own].tolist()) == {2 * number}


# -- 21 ---------------------------------------------------------------------------------------------------------
def test_trap_21_exponent_of_the_sequence_ratio() -> None:
    """Every step has ratio 1.1; lengths 1, 2, 5: geometric 1.1 each, product 1.1, 1.21, 1.61051."""
    models = grids()
    models["old"] = Grid(logp=models["policy"].logp.detach() - math.log(1.1))
    batch = per_row(ragged((1, 2, 5), tools=False), [1.0, 1.0, 1.0])
    for loss, ratios in (
        (GeometricSequenceSurrogate(0.9, 5.0), [1.1, 1.1, 1.1]),
        (ProductSequenceSurrogate(0.9, 5.0), [1.1, 1.21, 1.61051]),
    ):
        ctx = context(method(replace(CASES["geometric"].term(), loss=loss)), models)
        close(loss(SeenBatch(ctx, batch), batch), [-r for r in ratios], what=type(loss).__name__)
        close(loss.watch(SeenBatch(ctx, batch), batch)["ratio"], ratios)


# -- 22 ---------------------------------------------------------------------------------------------------------
CLIP_TABLE = {  # (ratio, advantage): value and gradient by log pi, with clip 0.2, 0.28 and dual clip 3
    (0.5, 1.0): (-0.5, -0.5),
    (1.0, 1.0): (-1.0, -1.0),
    (1.5, 1.0): (-1.28, 0.0),
    (5.0, 1.0): (-1.28, 0.0),
    (0.5, -1.0): (0.8, 0.0),
    (1.0, -1.0): (1.0, 1.0),
    (1.5, -1.0): (1.5, 1.5),
    (5.0, -1.0): (5.0, 5.0),
}


def test_trap_22_clip_table_and_dual_clip() -> None:
    for dual in (None, 3.0):
        for (ratio, advantage), (value, slope) in CLIP_TABLE.items():
            if dual and ratio == 5.0 and advantage < 0:
                value, slope = 3.0, 0.0
            models = grids()
            models["old"] = Grid(logp=models["policy"].logp.detach() - math.log(ratio))
            batch = per_row(ragged((1,)), [advantage])
            term = Term("policy", ClippedSurrogate(0.2, 0.28, dual), TokenMean())
            ctx = context(method(term), models)
            loss, gradient = full_step(ctx, batch)
            what = f"ratio {ratio}, advantage {advantage}, dual {dual}"
            close(loss, value, what=what)
            close(gradient[0, 0], slope, what=what)
            ctx.meter.add("loss/policy", 0.0, 1)
            assert ctx.meter.result()["policy/clipped"] == float(slope == 0.0), what


def test_trap_22_clipping_is_never_better_than_none() -> None:
    """-loss <= r A at every ratio and advantage: the surrogate is a lower bound."""
    ratio = numbers(200, seed=5, scale=1.5).exp()
    advantage = numbers(200, seed=6)
    loss = clipped_surrogate(ratio, advantage, 0.2, 0.28)
    assert bool((-loss <= ratio * advantage + 1e-15).all())
    assert bool((-loss < ratio * advantage - 1e-3).any()), "something must be clipped"


# -- 23 ---------------------------------------------------------------------------------------------------------
def test_trap_23_weights_are_constants_and_ratios_are_not() -> None:
    """TruncatedImportance carries no gradient even when `old` is the policy itself; the importance weight of the
    KL term and of sampled distillation does, and their k1 factor does not. By hand."""
    models, batch = grids(), cases.rich()
    roles = {"old": Role("policy", grad=True), "reference": Role("reference"), "teacher": Role("teacher")}
    term = Term("one", PolicyGradient(), TokenMean(), weight=TruncatedImportance(cap=1.1))
    _, gradient = full_step(context(method(term, roles=roles), models), batch)
    weight = (models["policy"].logp.detach()[:4, :13] - batch.step["behaviour"]).exp().clamp(max=1.1)
    count = int(batch.trained.sum())
    expected = torch.where(batch.trained, -weight * batch.step["advantage"] / count, 0.0)
    close(gradient[:4, :13], expected, what="importance weight")
    for key in ("kl", "sampled_reverse_kl", "clipped", "policy_gradient"):
        found = full_step(CASES[key].context(TokenMean(), models), batch)
        value, slope = cases.expected(CASES[key], batch, models, loops.token_mean)
        close(found[0], value, what=key)
        close(found[1], slope, what=key)
    seen = SeenBatch(CASES["kl"].context(models=models), batch)
    assert KLToReference()(seen, batch).requires_grad
    assert SampledReverseKL()(seen, batch).requires_grad


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
