"""Traps 14 and 20 to 23: log-probabilities by role, importance weights, ratios and clipping."""

import math
from dataclasses import replace

import pytest
import torch
from torch import Tensor

import cases
import loops
from cases import CASES
from enumeration import choices_of
from policyopt.compose import Program, Role, Stage, Term
from policyopt.constraint.divergence import KLToReference
from policyopt.engines.plain import generate
from policyopt.methods import load
from policyopt.objective.supervised import SampledReverseKL
from policyopt.objective.surrogates import (
    ClippedSurrogate,
    GeometricSequenceSurrogate,
    PolicyGradient,
    ProductSequenceSurrogate,
    TruncatedImportance,
    clipped_surrogate,
)
from policyopt.policies.tabular import Table
from policyopt.run import Run
from policyopt.sampling.samplers import attempt
from policyopt.seen import SeenBatch, collect_roles
from policyopt.train import rounds
from policyopt.types import Batch
from policyopt.update.averaging import TokenMean
from policyopt.worlds.sequences import SequenceWorld, bandit
from support import (
    Grid,
    close,
    context,
    full_step,
    grids,
    method,
    numbers,
    per_row,
    ragged,
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
    batch = ragged().with_steps({"behaviour": 0.5 + code[:4, :13]})
    for rows in ([0, 1, 2, 3], [3, 1], [2]):
        part = collect_roles(ctx, batch)[torch.tensor(rows)]
        seen, expected = SeenBatch(ctx, part), code[rows, :13]
        for role, shift in (("policy", 0), ("old", 0), ("early", 0), ("kept", 0.5), ("behaviour", 0.5)):
            close(seen[role].logp, expected + shift, what=role)
        close(seen.value("critic"), expected, what="value")
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
