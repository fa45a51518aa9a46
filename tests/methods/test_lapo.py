"""LAPO: `reduces_to` of specification 72, both stages and what the first hands to the second."""

import math

import pytest
import torch

from asked import asking, equal, sampled
from enumeration import Grades, first_step
from policyopt.compose import CompositionError, Program, Stage
from policyopt.engines.plain import generate
from policyopt.evaluation.experiments._lengths import LengthWorld, around, told_table
from policyopt.methods import load
from policyopt.ops.groups import group_quantile
from policyopt.ops.sequences import total_reward
from policyopt.options import override
from policyopt.remembered import TASKS, recall
from policyopt.reward.lengths import MEDIAN, NearTheMiddle, NearTheTarget, bell, middle_bonus
from policyopt.run import Run
from policyopt.sampling.told import Remembered, ToldGroup
from policyopt.train import rounds
from policyopt.types import Round
from support import close, context, grids, method, ragged, rewarded, with_row

pytestmark = pytest.mark.usefixtures("float64")

RIGHT = [1.0, 0.0, 1.0, 1.0]
STAGES = (("lapo", "near_the_middle"), ("lapo:lapo_internalised", "near_the_target"))


@pytest.mark.parametrize(("key", "part"), STAGES)
def test_without_weights_both_stages_are_grpo(key: str, part: str) -> None:
    batch = ragged()
    without = override(load(key), {f"reward.{part}.weight": 0.0})
    grpo = override(load("grpo"), {"constraint.kl.weight": 0.0})
    found = [first_step(made, grids(), batch, Grades(RIGHT)).gradient for made in (without, grpo)]
    assert float(found[0].abs().max()) > 1e-2
    close(*found)


def test_a_flat_bell_scales_the_reward() -> None:
    batch = rewarded(ragged(tools=False), RIGHT)
    paid = NearTheTarget(weight=0.8, sigma=math.inf)(context(method(), grids()), batch)
    close(total_reward(paid), 1.8 * torch.tensor(RIGHT))


def test_quantiles_and_bonus_by_hand() -> None:
    """Right lengths 2, 4, 7, 8: q30 = 3.8, q70 = 6.8 + 0.3; decay 2."""
    batch = with_row(ragged((2, 4, 7, 8), tools=False), group=[0, 0, 0, 0])
    low, high = (
        group_quantile(batch.lengths.double(), batch.row["group"], torch.ones(4).bool(), q) for q in (0.3, 0.7)
    )
    close(low, [3.8] * 4)
    close(high, [7.1] * 4)
    paid = NearTheMiddle(weight=1.0, decay=2.0)(context(method(), grids()), rewarded(batch, [1.0, 1.0, 1.0, 1.0]))
    close(total_reward(paid), [1 + 0.1, 2.0, 2.0, 1 + 0.55])
    four = torch.tensor([4.0, 4.0])
    close(middle_bonus(torch.tensor([4.0, 9.0]), four, four, 10.0), [1.0, 0.5])
    close(middle_bonus(torch.tensor([4.0, 9.0]), four, four, 10.0, point=False), [0.0, 0.0])
    close(bell(torch.tensor([3.0]), torch.tensor([5.0]), 2.0), [math.exp(-0.5)])


def test_one_right_row_is_its_own_range() -> None:
    """Eq. 2 and 5: both quantiles are its length, which lies between them. The release pays nobody."""
    batch = rewarded(with_row(ragged((2, 4, 7, 8), tools=False), group=[0, 0, 1, 1]), [1.0, 0.0, 0.0, 0.0])
    for point, expected in ((True, 1.7), (False, 1.0)):
        paid = NearTheMiddle(point=point)(context(method(), grids()), batch)
        close(total_reward(paid), [expected, 0.0, 0.0, 0.0])


def test_the_median_is_the_latest_then_only_falls() -> None:
    ctx = context(method(), grids())
    seen = []
    for part, lengths, rewards in (
        (NearTheMiddle(), (3, 5, 6, 9), [1.0, 1.0, 1.0, 0.0]),
        (NearTheMiddle(), (9, 5, 8, 9), [1.0, 0.0, 1.0, 0.0]),
        (NearTheTarget(), (4, 7, 6, 9), [1.0, 1.0, 1.0, 1.0]),
        (NearTheTarget(), (9, 5, 9, 9), [1.0, 1.0, 1.0, 1.0]),
    ):
        rows = part(ctx, rewarded(ragged(lengths, tools=False), rewards))
        part.after(ctx, Round(rows, rows, rows, {}))
        seen.append(recall(ctx, MEDIAN, torch.tensor([0, 1])).tolist())
    assert seen == [[4.5, 5.0], [8.5, 5.0], [5.0, 5.0], [5.0, 5.0]]


def test_rows_of_the_second_stage_are_told_what_is_remembered() -> None:
    world = LengthWorld(torch.tensor([4, 8, 12]), longest=20, told=tuple(map(float, range(1, 21))))
    ctx = asking(ToldGroup(size=3, words=Remembered()), world, told_table(around(14, 20, 3), 20), count=3)
    ctx.run.cells[TASKS.name] = {MEDIAN: torch.tensor([5.0, 0.0, 7.0])}
    rows = sampled(ctx)
    told = {int(t): set(rows.row["budget"][rows.row["task"] == t].tolist()) for t in range(3)}
    assert told == {0: {5.0}, 1: {4096.0}, 2: {7.0}}
    assert (rows.step["_state"][:, 0] % 21)[rows.row["task"] == 0].tolist() == [5] * 3
    assert (rows.step["_state"][:, 0] % 21)[rows.row["task"] == 1].tolist() == [0] * 3
    with pytest.raises(CompositionError, match="'budget'"):
        sampled(asking(ToldGroup(size=3, words=Remembered())))


def test_both_stages_in_one_run_and_from_a_checkpoint() -> None:
    """The second stage finds what the first remembered, also after a restart between them."""
    small = {"selection.count": 3, "update.learning_rate": 0.05}
    stages = tuple(Stage(override(load(key), small), 2) for key, _ in STAGES)

    def fresh() -> Run:
        world = LengthWorld(torch.tensor([4, 8, 12]), longest=20, told=tuple(map(float, range(1, 21))))
        return Run({"policy": told_table(around(14, 20, 3), 20)}, world, generate, 5)

    straight, first, second = fresh(), fresh(), fresh()
    list(rounds(straight, Program(stages)))
    going = rounds(first, Program(stages))
    next(going), next(going)
    assert float(first.cells[TASKS.name][MEDIAN].min()) > 0
    second.load_state(first.state(), Program(stages))
    list(rounds(second, Program(stages)))
    equal(straight.cells, second.cells)
    one, other = (next(run.models["policy"].parameters()).detach() for run in (straight, second))
    close(one, other, 0.0)
    assert float(one[3:].abs().max()) > 0


def test_impossible_options_are_refused() -> None:
    for part, options in (
        (NearTheMiddle, {"low": 0.8}),
        (NearTheMiddle, {"decay": 0.0}),
        (NearTheTarget, {"sigma": 0.0}),
    ):
        with pytest.raises(CompositionError):
            part(**options)
