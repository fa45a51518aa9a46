"""Which tasks and rows, who generates, what it was worth, preferences from rewards."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from enumeration import Grades
from policyopt.compose import CompositionError, Stage
from policyopt.engines.plain import generate
from policyopt.feedback.preferences import BestVersusWorst
from policyopt.methods import load
from policyopt.ops.sequences import total_reward
from policyopt.policies.tabular import Table
from policyopt.reward.parts import FromWorld, OverlongPenalty, ReferencePenalty, Verified, overlong_penalty
from policyopt.run import Run, StageContext
from policyopt.sampling.samplers import DynamicSampling, Group, Recorded, RecordedPairs
from policyopt.selection.tasks import Epochs, EveryRow, FinishedRows, InformativeGroups, PairedRows, Selection
from policyopt.train import _draw, _judge
from policyopt.types import Finish, Source
from policyopt.worlds.sequences import PairedWorld, SequenceWorld
from support import close, context, grids, method, numbers, ragged, rewarded, with_row

pytestmark = pytest.mark.usefixtures("float64")


def world(size: int = 5) -> SequenceWorld:
    strings = torch.tensor([[0, 1], [1, -1], [2, 2], [0, 0], [1, 1]])[:size]
    pairs = torch.stack([strings, strings.roll(1, 0)], 1)
    return SequenceWorld(
        size,
        3,
        2,
        lambda s, t: (s[:, 0] == t % 3).double(),
        pairs=pairs,
        pair_tasks=torch.arange(size),
        recordings=strings,
    )


def ctx_of(sampling, inner=None, **parts):
    policy = Table(numbers(10, 3, seed=1))
    return context(method(sampling=sampling, **parts), {"policy": policy}, inner or world(), generate, seed=3)


# -- selection ----------------------------------------------------------------------------------------------------
@given(st.lists(st.integers(1, 7), min_size=1, max_size=6))
def test_epochs_visit_every_task_once_wherever_rounds_cut_them(counts: list[int]) -> None:
    ctx, drawn = ctx_of(Group(), selection=Selection(count=2)), []
    for count in counts:
        drawn += Epochs()(ctx, count).id.tolist()
        ctx.run.drawn += count
    whole = Epochs()(ctx_of(Group()), sum(counts)).id.tolist()
    assert drawn == whole, "the order is a function of the position alone"
    for start in range(0, len(drawn) - 4, 5):
        assert sorted(drawn[start : start + 5]) == [0, 1, 2, 3, 4]


def test_epochs_differ_from_each_other() -> None:
    drawn = Epochs()(ctx_of(Group()), 25).id.tolist()
    assert len({tuple(drawn[i : i + 5]) for i in range(0, 25, 5)}) > 1


def test_groups_are_draws_not_tasks() -> None:
    """Seven draws of five tasks: a task drawn twice makes two groups, and rounds never share one."""
    ctx = ctx_of(Group(size=2), selection=Selection(count=7))
    batch = Group(size=2)(ctx, _draw(ctx), lambda rows: rows)
    assert len(batch.row["group"].unique()) == 7
    assert len(batch.row["task"].unique()) == 5
    assert batch.row["group"].bincount()[batch.row["group"]].tolist() == [2] * 14
    ctx.run.step = 1
    later = Group(size=2)(ctx, _draw(ctx), lambda rows: rows)
    assert not set(later.row["group"].tolist()) & set(batch.row["group"].tolist())


def test_rules_for_rows_by_hand() -> None:
    batch = with_row(
        rewarded(ragged(), [1.0, 2.0, 1.0, 5.0]), finish=[1, 2, 2, 1], rank=[0, -1, 1, -1], group=[0, 1, 0, 1]
    )
    for rule, rows in (
        (EveryRow(), [0, 1, 2, 3]),
        (InformativeGroups(), [1, 3]),
        (InformativeGroups(tolerance=3.5), []),
        (FinishedRows(), [0, 3]),
        (PairedRows(), [0, 2]),
    ):
        assert rule(None, batch).row["_row"].tolist() == rows, rule
        assert Selection(rows=rule).keep(None, batch).row["_row"].tolist() == rows
    assert int(Finish.TRUNCATED) == 2


def test_an_unscored_row_makes_no_group_informative() -> None:
    batch = with_row(rewarded(ragged(), [1.0, 2.0, 9.0, 2.0]), scored=[True, True, False, True])
    assert not len(InformativeGroups()(None, batch))


# -- sampling -----------------------------------------------------------------------------------------------------
def test_a_group_is_judged_once_and_records_its_temperature() -> None:
    calls = []
    ctx = ctx_of(Group(size=3, temperature=0.5), selection=Selection(count=2))
    judge = lambda rows: calls.append(len(rows)) or rows  # noqa: E731
    batch = Group(size=3, temperature=0.5)(ctx, _draw(ctx), judge)
    assert calls == [6]
    assert batch.row["temperature"].tolist() == [0.5] * 6
    assert batch.row["source"].tolist() == [int(Source.POLICY)] * 6
    assert bool(batch.done.all())
    assert ctx.run.drawn == 2


def test_dynamic_sampling_returns_whole_informative_groups_and_as_many_as_asked() -> None:
    part = DynamicSampling(size=6, most_draws=8)
    ctx = ctx_of(part, selection=Selection(count=3), reward=Verified())
    batch = part(ctx, _draw(ctx), _judge(ctx))
    group = batch.row["group"]
    assert len(group.unique()) == 3
    assert group.unique(return_counts=True)[1].tolist() == [6] * 3
    for one in group.unique():
        assert len(total_reward(batch)[group == one].unique()) == 2
    assert ctx.run.drawn % 3 == 0


def test_recorded_rows_have_unknown_behaviour() -> None:
    ctx = ctx_of(Recorded(), selection=Selection(count=5))
    batch = Recorded()(ctx, _draw(ctx), lambda rows: rows)
    assert bool(batch.step["behaviour"][batch.own].isnan().all())
    assert batch.row["source"].tolist() == [int(Source.DATASET)] * 5
    expected = {0: [0, 1], 1: [1, -1], 2: [2, 2], 3: [0, 0], 4: [1, 1]}
    strings = world().strings(batch).tolist()
    assert {int(t): s for t, s in zip(batch.row["task"], strings, strict=True)} == expected


def test_recorded_pairs_put_the_chosen_row_first() -> None:
    ctx = ctx_of(RecordedPairs(), PairedWorld(world()), selection=Selection(count=5))
    batch = RecordedPairs()(ctx, _draw(ctx), lambda rows: rows)
    assert batch.row["rank"].tolist() == [0, 1] * 5
    assert batch.row["pair"].bincount()[batch.row["pair"]].tolist() == [2] * 10
    strings, tasks = world().strings(batch).tolist(), batch.row["task"].tolist()
    recorded = world().recordings.tolist()
    for chosen in range(0, 10, 2):
        assert strings[chosen] == recorded[tasks[chosen]]
        assert strings[chosen + 1] == recorded[tasks[chosen] - 1]


@pytest.mark.parametrize(
    "make",
    [
        lambda: Group(size=0),
        lambda: Group(temperature=0.0),
        lambda: DynamicSampling(size=0),
        lambda: DynamicSampling(most_draws=0),
        lambda: Selection(count=0),
        lambda: OverlongPenalty(limit=5, buffer=6),
        lambda: OverlongPenalty(limit=5, buffer=0),
    ],
)
def test_options_out_of_range_are_refused(make) -> None:
    with pytest.raises(CompositionError):
        make()


# -- reward and feedback ------------------------------------------------------------------------------------------
def test_a_grade_sits_on_the_last_own_step() -> None:
    ctx = context(method(), grids(), Grades([1.0, float("nan"), 3.0, float("inf")]))
    batch = Verified()(ctx, ragged())
    close(total_reward(batch), [1.0, 0.0, 3.0, 0.0])
    assert batch.row["scored"].tolist() == [True, False, True, False]
    assert batch.step["reward"][2].nonzero()[:, 0].tolist() == [6]


def test_a_truncated_row_whose_grader_failed_has_its_declared_reward() -> None:
    ctx = context(method(), grids(), Grades([float("nan")] * 4))
    batch = with_row(ragged(), finish=[1, 2, 1, 2])
    judged = Verified(truncated=-1.0)(ctx, batch)
    assert judged.row["scored"].tolist() == [False, True, False, True]
    close(total_reward(judged), [0.0, -1.0, 0.0, -1.0])


def test_rewards_of_the_world_pass() -> None:
    batch = ragged()
    assert FromWorld()(None, batch) is batch


@given(st.integers(0, 40))
def test_soft_length_penalty(length: int) -> None:
    """Limit 20, buffer 5: 0 to 15, -1/5 a step to 20, then -1."""
    expected = 0.0 if length <= 15 else -1.0 if length >= 20 else -(length - 15) / 5
    close(overlong_penalty(torch.tensor([float(length)]), 20, 5), [expected])


def test_penalty_of_the_reference_is_stored_for_later_terms() -> None:
    models, batch = grids(), ragged()
    ctx = context(method(reward=ReferencePenalty(0.5)), models)
    shaped = ReferencePenalty(0.5)(ctx, batch)
    reference = models["reference"].logp.detach()[:4, :13]
    close(shaped.scores["reference"].logp, reference)
    gap = torch.where(batch.own, batch.step["behaviour"] - reference, 0.0)
    close(shaped.step["reward"], batch.step["reward"] - 0.5 * gap)
    close(ctx.meter.result()["reference_kl"], gap.sum() / batch.own.sum())


@given(st.lists(st.integers(-3, 3), min_size=6, max_size=6), st.lists(st.booleans(), min_size=6, max_size=6))
def test_best_against_worst_by_loops(rewards: list[int], scored: list[bool]) -> None:
    groups = [4, 9, 4, 9, 4, 9]
    batch = with_row(rewarded(ragged((2,) * 6), [float(r) for r in rewards]), group=groups, scored=scored)
    rank = BestVersusWorst()(None, batch).row["rank"].tolist()
    for group in (4, 9):
        rows = [b for b in range(6) if groups[b] == group and scored[b]]
        values = [rewards[b] for b in rows]
        if not rows or max(values) == min(values):
            assert all(rank[b] == -1 for b in range(6) if groups[b] == group)
            continue
        best, worst = rows[values.index(max(values))], rows[values.index(min(values))]
        for b in range(6):
            if groups[b] == group:
                assert rank[b] == {best: 0, worst: 1}.get(b, -1)


def test_drawn_tasks_lie_where_the_policy_is() -> None:
    """The device `meta` holds no numbers, but says where they would be."""
    world = SequenceWorld(4, 3, 2, lambda strings, task: task.double())
    run = Run({"policy": Table(torch.zeros(world.states, 3)).to("meta")}, world, generate)
    stage = Stage(load("grpo"), 1)
    run.enter(stage)
    tasks = _draw(StageContext(run, stage))(3)
    assert tasks.id.device.type == tasks.row["group"].device.type == "meta"
    assert len(tasks) == 3
