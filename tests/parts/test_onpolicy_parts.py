"""Moments that outlive a round, averages of weights, stops; whole runs of the on-policy methods."""

import copy
import math
from dataclasses import dataclass, replace
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from policyopt.compose import CompositionError, Part, Program, Role, Stage, Term
from policyopt.constraint.divergence import ExactKL, KLToReference
from policyopt.constraint.mirror import InverseAnnealed
from policyopt.credit.running import MOMENTS, RunningStandardised
from policyopt.engines.plain import generate
from policyopt.methods import load
from policyopt.objective.decoupled import DecoupledSurrogate, RatioSurrogate
from policyopt.objective.dropout import SurrogateDropout
from policyopt.objective.surrogates import ClippedSurrogate
from policyopt.ops.sequences import on_last
from policyopt.options import override
from policyopt.policies.checkpoint import new_language
from policyopt.policies.tabular import Table
from policyopt.recorded import NotRecordableError
from policyopt.run import Run
from policyopt.seen import SeenBatch, collect_roles
from policyopt.train import rounds
from policyopt.types import Batch, Round, Scores
from policyopt.update.averages import CorrectedAverage
from policyopt.update.averaging import TokenMean
from policyopt.update.gradient import GradientSteps
from policyopt.update.optimizers import SGD
from policyopt.update.stopping import ApproximateKL
from policyopt.worlds.tables import garnet
from policyopt.worlds.tokens import TokenWorld
from support import close, context, grids, method, ragged, widened, with_row

pytestmark = pytest.mark.usefixtures("float64")
KEYS = ("a2c", "trpo", "mdpo", "ppo_ewma", "ppo_ewma:ppo_ewma_kl", "d_ppo_dropout")


# -- running moments -----------------------------------------------------------------------------------------------
def rounds_of(part, batches):
    """What a run of rounds writes, with the hook after each."""
    ctx, found = context(method(), grids()), []
    for batch in batches:
        out = part(ctx, batch)
        part.after(ctx, Round(out, out, out, {}))
        found.append(out)
    return ctx, found


def test_without_memory_it_is_whitening_by_the_population() -> None:
    batch = ragged()
    _, (out,) = rounds_of(RunningStandardised(decay=0.0, epsilon=0.0), [batch])
    raw = batch.step["advantage"][batch.own]
    close(out.step["advantage"][batch.own], (raw - raw.mean()) / raw.std(correction=0))
    close(out.step["advantage"][~batch.own], torch.zeros(int((~batch.own).sum())))
    close(out.step["raw_advantage"], batch.step["advantage"])


def test_moments_are_weighted_sums_over_rounds_and_count_steps() -> None:
    batches = [ragged(seed=1), ragged((5, 1), seed=2), ragged(seed=3)]
    ctx, found = rounds_of(RunningStandardised(decay=0.6, epsilon=0.0), batches)
    weights = torch.cat([torch.full((int(b.own.sum()),), 0.6 ** (2 - n)) for n, b in enumerate(batches)])
    raw = torch.cat([b.step["advantage"][b.own] for b in batches])
    mean = (weights * raw).sum() / weights.sum()
    variance = (weights * (raw - mean) ** 2).sum() / weights.sum()
    last = batches[-1]
    close(found[-1].step["advantage"][last.own], (last.step["advantage"][last.own] - mean) / variance.sqrt(), 1e-10)
    close(ctx[MOMENTS]["count"], weights.sum())


def test_parts_read_the_cell_and_only_the_hook_writes_it() -> None:
    ctx, part = context(method(), grids()), RunningStandardised()
    first, again = part(ctx, ragged()), part(ctx, ragged())
    close(first.step["advantage"], again.step["advantage"], atol=0.0)
    assert "advantage_moments" not in ctx.run.cells or not ctx[MOMENTS]["count"]


@given(st.integers(0, 9), st.floats(-5, 5), st.floats(0.1, 10))
def test_a_shift_and_a_scale_of_all_advantages_change_nothing(extra: int, shift: float, scale: float) -> None:
    batch = ragged()
    moved = batch.with_steps({"advantage": shift + scale * batch.step["advantage"]})
    part = RunningStandardised(epsilon=0.0)
    _, (one,) = rounds_of(part, [batch])
    _, (two,) = rounds_of(part, [widened(moved, extra)])
    close(two.step["advantage"][:, :13], one.step["advantage"], atol=1e-8)


def test_unscored_rows_and_empty_rounds_leave_the_moments() -> None:
    batch = with_row(ragged(), scored=[True, False, True, True])
    ctx, (out,) = rounds_of(RunningStandardised(), [batch])
    assert ctx[MOMENTS]["count"] == int(batch.own[batch.row["scored"]].sum())
    close(out.step["advantage"][1], torch.zeros(13))
    nobody = with_row(ragged(), scored=[False] * 4)
    ctx, (out,) = rounds_of(RunningStandardised(), [nobody])
    close(out.step["advantage"], nobody.step["advantage"])
    assert ctx[MOMENTS]["count"] == 0.0


# -- averages of weights, weights of terms, stops ----------------------------------------------------------------------
def test_a_stage_that_makes_the_average_again_begins_its_count_again() -> None:
    ctx = context(method(), grids())
    hook = CorrectedAverage("old", decay=0.9)
    hook(ctx)
    assert ctx.run.cells == {"average/old@0": 1.9}
    ctx.run.step = 5
    later = copy.copy(ctx)
    later._stage = Stage(method(), 10, 5)
    hook(later)
    assert ctx.run.cells["average/old@5"] == 1.9


def test_the_stop_is_asked_before_every_update() -> None:
    """The estimate k3 over trained steps; at the old policy it is 0, so the first update is always made."""
    batch, models = ragged(), grids()
    change = (models["policy"].logp - models["old"].logp).detach()[:4, :13][batch.trained]
    mean = float((change.exp() - 1 - change).mean())
    ctx = context(method(), models)
    assert bool(ApproximateKL(mean * 0.999)(SeenBatch(ctx, batch), batch))
    assert not bool(ApproximateKL(mean * 1.001)(SeenBatch(ctx, batch), batch))
    for limit, expected in ((1e9, 6), (1e-9, 1)):
        update = GradientSteps({"policy": SGD(0.5)}, epochs=6, stop=ApproximateKL(limit))
        roles = {"old": Role(when="collected")}
        ctx = context(method(Term("a", ClippedSurrogate(), TokenMean()), update=update, roles=roles), grids())
        update(ctx, collect_roles(ctx, batch))
        assert ctx.updates == expected


def test_a_limit_to_the_old_policy_may_stand_beside_a_penalty_to_the_reference() -> None:
    roles = {
        "policy": Role(grad=True, full=True),
        "old": Role(when="collected", full=True),
        "reference": Role("reference", full=True),
    }
    old = Term("old", ExactKL("policy", "old"), TokenMean())
    method(old, Term("reference", KLToReference(), TokenMean()), roles=roles)
    with pytest.raises(CompositionError, match="charged twice"):
        method(Term("one", ExactKL(), TokenMean()), Term("two", KLToReference(), TokenMean()), roles=roles)


@pytest.mark.parametrize(
    "make",
    [
        lambda: RunningStandardised(decay=1.0),
        lambda: RunningStandardised(epsilon=-1.0),
        lambda: CorrectedAverage("a", decay=1.0),
        lambda: ApproximateKL(0.0),
        lambda: InverseAnnealed(0.0),
        lambda: RatioSurrogate(cap=1.0),
        lambda: DecoupledSurrogate(cap=0.5),
        lambda: DecoupledSurrogate(clip_low=0.0),
        lambda: SurrogateDropout(share=1.0),
        lambda: SurrogateDropout(clip_high=0.0),
    ],
)
def test_options_out_of_range_are_refused(make) -> None:
    with pytest.raises(CompositionError):
        make()


def test_bounds_are_refused_in_the_new_ratios() -> None:
    batch = ragged().with_scores({"old": Scores(torch.zeros(4, 13), exact=False)})
    for loss in (RatioSurrogate(), DecoupledSurrogate(proximal="old")):
        ctx = context(method(Term("a", loss, TokenMean())), grids())
        with pytest.raises(CompositionError, match="old has scores"):
            loss(SeenBatch(ctx, batch), batch)


# -- whole runs ----------------------------------------------------------------------------------------------------
def program(key):
    changes = {"selection.count": 12, "update.critic.learning_rate": 0.05}
    if key != "trpo":
        changes["update.optimizers.policy.learning_rate"] = 0.05
    return Program((Stage(override(load(key), changes), 6),))


def new_run():
    world = replace(garnet(6, 3, 2, torch.Generator().manual_seed(3)), cut=False)
    return Run({"policy": Table(torch.zeros(6, 3))}, world, generate, 2)


@pytest.mark.parametrize("key", KEYS)
def test_a_run_goes_on_from_its_state_bit_for_bit(key: str) -> None:
    straight = new_run()
    metrics, saved = [], {}
    for done in rounds(straight, program(key)):
        metrics.append(repr(dict(done.metrics)))
        saved[straight.step] = copy.deepcopy(straight.state())
    for step in (1, 4):
        again = new_run()
        again.load_state(saved[step], program(key))
        assert [repr(dict(done.metrics)) for done in rounds(again, program(key))] == metrics[step:]
        for name, model in again.models.items():
            for own, other in zip(model.parameters(), straight.models[name].parameters(), strict=True):
                assert torch.equal(own, other), f"{key} {name} after {step}"


@pytest.mark.parametrize("key", KEYS)
def test_rewards_rise(key: str) -> None:
    """Rounds of 12 rows of a random process: the mean reward of the last two above that of the first."""
    found = [
        done.metrics["reward"] for done in rounds(new_run(), Program((replace(program(key).stages[0], steps=12),)))
    ]
    assert sum(found[-2:]) / 2 > found[0] + 0.5


@pytest.mark.parametrize("key", KEYS)
def test_recorded_updates_are_the_same_or_refused(key: str) -> None:
    """A weight by the round and a choice of samples are decided anew in every update: no recording repeats them."""
    found = []
    for execution in ("eager", "recorded"):
        run, made = new_run(), override(program(key).stages[0].method, {"update.execution": execution})
        if execution == "recorded" and key in ("mdpo", "d_ppo_dropout"):
            with pytest.raises(NotRecordableError, match="execution=eager"):
                next(rounds(run, Program((Stage(made, 2),))))
            return
        list(rounds(run, Program((Stage(made, 2),))))
        found.append(run.models["policy"].logits.detach())
    assert torch.equal(*found)


# -- tokens ----------------------------------------------------------------------------------------------------------
@dataclass(frozen=True)
class Length(Part):
    """Longer answers are worth more."""

    def __call__(self, ctx: Any, batch: Batch) -> Batch:
        return batch.with_steps({"reward": on_last(batch, batch.lengths.double())})


@pytest.mark.parametrize("key", ["trpo", "mdpo", "ppo_ewma", "d_ppo_dropout", "a2c"])
def test_language_models_are_trained_by_the_same_parts(key: str) -> None:
    """A small transformer, second derivatives through its attention included."""
    world = TokenWorld([[3], [5, 1, 7, 2, 9], [4, 4, 8]], eos=0, limit=5, decode=str)
    policy = new_language(13, "qwen2", hidden_size=16, layers=1, heads=2, seed=5, dtype=torch.float64)
    before = torch.cat([p.detach().flatten() for p in policy.parameters()])
    made = override(replace(load(key), reward=Length()), {"selection.count": 6})
    (done,) = rounds(Run({"policy": policy}, world, generate, 0), Program((Stage(made, 1),)))
    assert not torch.equal(torch.cat([p.detach().flatten() for p in policy.parameters()]), before)
    assert all(math.isfinite(value) for value in done.metrics.values())
    if key == "trpo":
        assert 0 < done.metrics["trust_region/kl"] <= 0.01
