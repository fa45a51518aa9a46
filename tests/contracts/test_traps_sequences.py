"""Traps 34, 35, 37, 39 and 40: tool steps, truncation, preference identities, scales and names of losses."""

import itertools
import math
from dataclasses import replace

import pytest
import torch
from torch import Tensor

import cases
import loops
from cases import CASES
from policyopt.compose import Term
from policyopt.constraint.divergence import KLToReference
from policyopt.credit.groups import GroupCentred
from policyopt.credit.returns import GeneralisedAdvantage, ReturnToGo
from policyopt.objective.preference import PairLogistic
from policyopt.objective.supervised import NegativeLogLikelihood
from policyopt.objective.surrogates import GeometricSequenceSurrogate, ProductSequenceSurrogate
from policyopt.ops.sequences import total_reward
from policyopt.reward.parts import OverlongPenalty, ReferencePenalty, Verified
from policyopt.seen import SeenBatch
from policyopt.selection.tasks import FinishedRows
from policyopt.types import Batch, Finish, Scores, StepKind
from policyopt.update.averaging import RowMean, SequenceMean, SequenceSum, TokenMean
from policyopt.worlds.sequences import SequenceWorld
from support import (
    FULL_ROLES,
    Grid,
    close,
    context,
    full_step,
    grids,
    logit_grid,
    method,
    numbers,
    per_row,
    ragged,
    rewarded,
    with_row,
)

pytestmark = pytest.mark.usefixtures("float64")


# -- 34 ---------------------------------------------------------------------------------------------------------
class Ordinal(Grid):
    """A context-free model: the n-th *own* step of a row (step column `_own`) has the row's n-th numbers."""

    def score(self, batch: Batch, context: str | None = None, *, full: bool = False) -> Scores:
        rows = batch.row["_row"][:, None]
        if hasattr(self, "logp"):
            return Scores(self.logp[rows, batch.step["_own"]])
        return super().score(batch, context, full=full)

    def value(self, batch: Batch) -> Tensor:
        after = torch.cat([batch.step["_own"], batch.lengths[:, None]], 1)
        return self.values[batch.row["_row"][:, None], after]


def ordinals() -> dict[str, Grid]:
    return {n: Ordinal(logp=m.logp.detach(), values=m.values.detach()) for n, m in grids().items()}


def with_observation(batch: Batch, position: int, length: int, reward: float = 0.0) -> Batch:
    """Tool steps before a step of every row that goes on there. A careless world marks them as trained."""
    step = {}
    goes_on = batch.valid[:, position]
    for name, column in batch.step.items():
        if name == "_own":  # nothing a model says of tool steps may matter
            added = torch.full((len(batch), length), 90)
        elif column.is_floating_point():
            added = numbers(len(batch), length, seed=77)
        else:
            added = torch.ones(len(batch), length, dtype=column.dtype)
        if name == "kind":
            kind = torch.where(goes_on, int(StepKind.TOOL), int(StepKind.PAD)).to(column.dtype)
            added = kind[:, None].expand(-1, length)
        if name == "reward":
            added = torch.zeros(len(batch), length)
            added[goes_on, 0] = reward
        step[name] = torch.cat([column[:, :position], added, column[:, position:]], 1)
    return Batch(batch.row, step)


def plain() -> Batch:
    batch = ragged(tools=False)
    own = (batch.own.long().cumsum(1) - 1).clamp(min=0)
    return batch.with_steps({"_own": own})


OBSERVATIONS = ((1, 1), (1, 5), (4, 3), (12, 2))


def test_trap_34_observations_change_no_loss() -> None:
    """Insert a span of any length: gradients of all losses, lengths and averages stay (context-free model)."""
    for key, case in CASES.items():
        if case.full:
            continue
        models, batch = ordinals(), plain()
        for name, (average, _) in cases.averages(case).items():
            ctx = case.context(average, models)
            value, gradient = full_step(ctx, batch, model=case.trains)
            for position, length in OBSERVATIONS:
                longer = with_observation(batch, position, length)
                found, slope = full_step(ctx, longer, model=case.trains)
                close(found, value, what=f"{key} {name} at {position}, {length} steps")
                close(slope, gradient, what=f"{key} {name} at {position}, {length} steps")


def test_trap_34_returns_pass_through_observations() -> None:
    batch = plain()
    ctx = context(method(), ordinals())
    for credit in (ReturnToGo(gamma=0.9), GeneralisedAdvantage(gamma=0.9, lam=0.6)):
        base = credit(ctx, batch)
        for position, length in OBSERVATIONS:
            longer = credit(ctx, with_observation(batch, position, length))
            for column in credit.writes:
                close(longer.step[column][longer.own], base.step[column][base.own], what=f"{column}")
                assert float(longer.step[column][~longer.own].abs().max()) == 0.0


def test_trap_34_rewards_of_observations_belong_to_the_step_before() -> None:
    batch = plain()
    ctx = context(method(), ordinals())
    position, reward = 4, 2.5
    given = batch.step["reward"].clone()
    given[:, position - 1] += reward * batch.valid[:, position]
    by_hand = batch.with_steps({"reward": given})
    longer = with_observation(batch, position, 3, reward)
    close(total_reward(longer), total_reward(by_hand), what="total")
    for credit in (ReturnToGo(gamma=0.9), GeneralisedAdvantage(gamma=0.9, lam=0.6), GroupCentred()):
        found, base = credit(ctx, longer), credit(ctx, by_hand)
        close(found.step["advantage"][found.own], base.step["advantage"][base.own], what=type(credit).__name__)


def test_trap_34_observations_are_no_length_and_no_kl() -> None:
    batch = plain()
    longer = with_observation(batch, 4, 3)
    assert longer.lengths.tolist() == batch.lengths.tolist() == [1, 2, 7, 13]
    penalty = OverlongPenalty(limit=12, buffer=6)
    close(total_reward(penalty(None, longer)), total_reward(penalty(None, batch)))
    close(total_reward(penalty(None, batch)) - total_reward(batch), [0.0, 0.0, -1 / 6, -1.0])
    ctx = context(method(reward=ReferencePenalty(0.5)), ordinals())
    close(total_reward(ReferencePenalty(0.5)(ctx, longer)), total_reward(ReferencePenalty(0.5)(ctx, batch)))


# -- 35 ---------------------------------------------------------------------------------------------------------
def cut_and_finished() -> Batch:
    """Rows 2 and 3 have the same content as rows 0 and 1, but a limit ended them."""
    batch = ragged((3, 5, 3, 5), tools=False)
    same = {n: torch.cat([c[:2], c[:2]]) for n, c in batch.step.items()}
    stop, cut = int(Finish.STOPPED), int(Finish.TRUNCATED)
    return with_row(Batch(batch.row, same), finish=[stop, stop, cut, cut], group=[1, 1, 1, 1])


class Constant:
    def grade(self, batch: Batch) -> Tensor:
        return torch.tensor([1.0, 0.0, 1.0, 0.0])


def test_trap_35_declared_reward_of_truncated_rows() -> None:
    ctx, batch = context(method(), grids(), Constant()), cut_and_finished()
    close(total_reward(Verified()(ctx, batch)), [1.0, 0.0, 1.0, 0.0])
    close(total_reward(Verified(truncated=-2.0)(ctx, batch)), [1.0, 0.0, -2.0, -2.0])


def test_trap_35_truncated_rows_may_leave_every_term() -> None:
    """FinishedRows: gradient of finished rows alone, advantages still from the whole group."""
    batch = GroupCentred()(None, rewarded(cut_and_finished(), [1.0, 0.0, 1.0, 2.0]))
    kept = FinishedRows()(None, batch)
    assert kept.row["_row"].tolist() == [0, 1]
    terms = (CASES["policy_gradient"].term(TokenMean(), 1.0), Term("kl", KLToReference(), SequenceMean()))
    models = grids()
    _, gradient = full_step(context(method(*terms), models), kept)
    assert float(gradient[2:].abs().max()) == 0.0
    _, only = full_step(context(method(terms[0]), models), kept)
    close(only[:2, 0], [0.0, 1.0 / 8], what="A = R - 1 over the eight finished tokens")


def test_trap_35_the_world_says_which_rows_were_cut() -> None:
    world = SequenceWorld(1, 3, 2, lambda s, t: t.double(), end=0)
    rows = world.start(world.tasks(torch.zeros(3, dtype=torch.int64)))
    none, live = torch.zeros(3), torch.ones(3, dtype=torch.bool)
    rows = world.append(rows, torch.tensor([0, 1, 2]), none, live, 0)
    rows = world.append(rows, torch.tensor([1, 0, 2]), none, ~rows.done, 0)
    stop, cut = int(Finish.STOPPED), int(Finish.TRUNCATED)
    assert rows.row["finish"].tolist() == [stop, stop, cut]
    assert rows.lengths.tolist() == [1, 2, 2]


def test_trap_35_bootstrap_only_where_a_limit_ended_the_row() -> None:
    """Same rewards and values; the last delta of a cut row has gamma V of its last state, of a stopped one 0."""
    batch, gamma, lam = cut_and_finished(), 0.9, 0.5
    models = grids()
    table = models["critic"].values.detach().clone()
    table[2:4] = table[0:2]
    models["critic"] = Grid(logp=models["critic"].logp.detach(), values=table)
    found = GeneralisedAdvantage(gamma, lam, whitened=False)(context(method(), models), batch)
    for b, length in enumerate((3, 5, 3, 5)):
        after = float(table[b, length]) if b >= 2 else 0.0
        expected = loops.gae(batch.step["reward"][b, :length].tolist(), table[b, :length].tolist(), after, gamma, lam)
        close(found.step["advantage"][b, :length], expected, what=f"row {b}")
        close(found.step["return"][b, :length], torch.tensor(expected) + table[b, :length])


# -- 37 ---------------------------------------------------------------------------------------------------------
def test_trap_37_preference_loss_at_the_reference() -> None:
    """log 2, margin 0, accuracy one half (a tie is no win), gradient -(1 - 2e) beta / 2 per trained step."""
    batch = ragged()
    for beta, smoothing in ((0.1, 0.0), (0.5, 0.0), (0.5, 0.2)):
        models = grids()
        models["reference"] = Grid(logp=models["policy"].logp.detach())
        term = replace(CASES["pair_logistic"].term(weight=1.0), loss=PairLogistic(beta, smoothing))
        ctx = context(method(term), models)
        loss, gradient = full_step(ctx, batch)
        close(loss, math.log(2), what="loss")
        sign = torch.tensor([-1.0, -1.0, 1.0, 1.0])[:, None] * (1 - 2 * smoothing) * beta / 2 / 2
        close(gradient[:4, :13], torch.where(batch.trained, sign, 0.0), what="gradient")
        metrics = ctx.meter.result()
        assert metrics["one/margin"] == 0.0
        assert metrics["one/accuracy"] == 0.5


# -- 39 ---------------------------------------------------------------------------------------------------------
def doubled(batch: Batch) -> Batch:
    """Every row's steps twice in a row (context-free model: the same numbers again)."""
    width = batch.steps
    step = {n: torch.zeros(len(batch), 2 * width, dtype=c.dtype) for n, c in batch.step.items()}
    for name, column in batch.step.items():
        for b, length in enumerate(batch.lengths.tolist()):
            step[name][b, : 2 * length] = column[b, :length].repeat(2)
    return Batch(batch.row, step)


def test_trap_39_sums_and_means_scale_with_length() -> None:
    """Duplicate a row's tokens: DPO's margin doubles, the product ratio squares, the geometric one stays; token
    means stay and sums double."""
    models, batch = ordinals(), per_row(plain(), [1.0, 2.0, -1.0, 0.5])
    twice = doubled(batch)

    def watched(loss: object, rows: Batch, name: str) -> Tensor:
        return loss.watch(SeenBatch(context(method(), models), rows), rows)[name].detach()

    margin = watched(PairLogistic(0.3), batch, "margin")
    assert float(margin.abs().min()) == 0.0  # rejected rows carry nothing
    assert float(margin[:2].abs().min()) > 1e-3
    close(watched(PairLogistic(0.3), twice, "margin"), 2 * margin, what="margin")
    product, geometric = ProductSequenceSurrogate(), GeometricSequenceSurrogate()
    close(watched(product, twice, "ratio"), watched(product, batch, "ratio") ** 2, what="product")
    close(watched(geometric, twice, "ratio"), watched(geometric, batch, "ratio"), what="geometric")
    for average, factor in ((TokenMean(), 1.0), (SequenceMean(), 1.0), (SequenceSum(4.0), 2.0)):
        ctx = context(method(Term("one", NegativeLogLikelihood(), average)), models)
        close(full_step(ctx, twice)[0], factor * full_step(ctx, batch)[0], what=type(average).__name__)


# -- 40 ---------------------------------------------------------------------------------------------------------
# Options under which a case differs from its relatives on this batch.
DISTINCT = {"dual_clipped": {"dual_clip": 1.05}, "balanced_clip": {"low": 0.7, "low_end": 0.7, "share": 0.99}}

# log pi_old - log pi moves the policy as likelihood does, but is weighted by its own mean; -log pi under a context is
# the likelihood where the context is the rows' own.
ALIKE = {"likelihood", "drift", "surprise"}


def test_trap_40_every_objective_has_its_own_gradient() -> None:
    """All losses on one batch, by the same logits: no two gradients agree, and the executed loss is the named one."""
    models = {name: logit_grid(seed) for seed, name in enumerate(("policy", "old", "reference", "teacher"))}
    models["critic"] = grids()["critic"]
    found = {}
    for key, case in CASES.items():
        loss = replace(case.loss, **DISTINCT.get(key, {}))
        term = replace(case.term(name=key), loss=loss)
        ctx = context(method(term, roles=FULL_ROLES), models)
        _, gradient = full_step(ctx, cases.rich(), model=case.trains)
        ctx.meter.add(f"loss/{key}", 0.0, 1)
        assert f"loss/{key}" in ctx.meter.result()
        assert float(gradient.abs().max()) > 1e-4, key
        found[key] = gradient
    for first, second in itertools.combinations(found, 2):
        if found[first].shape == found[second].shape:
            difference = float((found[first] - found[second]).abs().max())
            assert difference > 1e-4 or {first, second} <= ALIKE, f"{first} and {second} have the same gradient"


def test_a_row_without_trained_steps_gives_no_sequence_loss() -> None:
    batch = per_row(ragged(), [1.0, 1.0, 1.0, 1.0])
    train = batch.step["train"].clone()
    train[3] = False
    ctx = context(method(CASES["geometric"].term(RowMean(), 1.0)), grids())
    found, _ = full_step(ctx, batch.with_steps({"train": train}))
    close(found, full_step(ctx, batch[torch.arange(3)])[0])
