"""HAPO: `reduces_to` of specification 109, the record of every task, its two curves and modes."""

import math
from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from asked import resumed
from enumeration import Grades, first_step
from policyopt.compose import CompositionError
from policyopt.evaluation.experiments._lengths import LengthWorld, around, told_table
from policyopt.methods import load
from policyopt.ops.sequences import total_reward
from policyopt.options import override
from policyopt.remembered import TASKS
from policyopt.reward.lengths import COUNT, SHORTEST, SUM, AgainstHistory, cosine_saving, linear_saving
from policyopt.types import Round
from support import close, context, grids, method, ragged, rewarded

pytestmark = pytest.mark.usefixtures("float64")

RIGHT = [1.0, 0.0, 1.0, 1.0]


def knowing(records: list[float]):
    ctx = context(method(), grids())
    ctx.run.cells[TASKS.name] = {SHORTEST: torch.tensor(records)}
    return ctx


def test_without_weight_it_is_grpo() -> None:
    batch = ragged()
    without = override(load("hapo_history"), {"reward.against_history.weight": 0.0})
    grpo = override(load("grpo"), {"constraint.kl.weight": 0.0})
    found = [first_step(made, grids(), batch, Grades(RIGHT)).gradient for made in (without, grpo)]
    assert float(found[0].abs().max()) > 1e-2
    close(*found)


def test_the_first_visit_pays_the_grade_alone() -> None:
    batch = rewarded(ragged(tools=False), RIGHT)
    paid = AgainstHistory()(context(method(), grids()), batch)
    close(total_reward(paid), torch.tensor(RIGHT))
    assert paid.row["right"].tolist() == [True, False, True, True]


@pytest.mark.parametrize(
    ("length", "right", "bonus"),
    [
        *((2, True, math.cos(math.pi / 4)), (4, True, 0.0), (6, True, -0.7), (9, True, -0.7)),
        *((2, False, 0.0), (4, False, 0.0), (6, False, math.cos(3 * math.pi / 4)), (9, False, -1.0)),
    ],
)
def test_by_hand_at_a_record_of_four(length: int, right: bool, bonus: float) -> None:
    batch = rewarded(ragged((length,), tools=False), [float(right)])
    close(total_reward(AgainstHistory(weight=0.5)(knowing([4.0]), batch)), [right + 0.5 * bonus])


def test_the_line_by_hand() -> None:
    """h = 10: 1 - n/h below for right rows, nothing up to 11, then -(n - 11)/10 to the floors."""
    length = torch.tensor([5.0, 10.0, 11.0, 13.0, 40.0, 5.0, 13.0])
    right = torch.tensor([True, True, True, True, True, False, False])
    close(linear_saving(length, torch.full((7,), 10.0), right), [0.5, 0.0, 0.0, -0.2, -2.9, 0.0, -0.2], 1e-12)
    assert float(cosine_saving(torch.tensor([0.0]), torch.tensor([3.0]))) == 1.0


@settings(max_examples=30)
@given(st.integers(1, 12), st.integers(1, 12), st.floats(0.0, 1.4), st.integers(1, 15))
def test_a_right_row_is_always_worth_more_than_a_wrong_one(right: int, wrong: int, weight: float, record: int) -> None:
    """1 - 0.7 w > 0 for w < 1 / 0.7."""
    batch = rewarded(ragged((right, wrong), tools=False).with_rows({"task": torch.zeros(2).long()}), [1.0, 0.0])
    worth = total_reward(AgainstHistory(weight=weight)(knowing([float(record)]), batch))
    assert float(worth[0]) > float(worth[1])


def test_records_of_both_modes_and_their_order() -> None:
    """Written after the round, by task, of right rows only; the shortest never grows."""
    part, ctx = AgainstHistory(), context(method(), grids())
    for rewards, lengths in (([1.0, 1.0, 1.0, 0.0], (9, 4, 6, 1)), ([1.0, 0.0, 0.0, 1.0], (7, 2, 3, 8))):
        rows = part(ctx, rewarded(ragged(lengths, tools=False), rewards))
        part.after(ctx, Round(rows, rows, rows, {}))
    cell = ctx.run.cells[TASKS.name]
    assert cell[SHORTEST].tolist() == [6.0, 4.0]
    assert cell[SUM].tolist() == [22.0, 12.0]
    assert cell[COUNT].tolist() == [3.0, 2.0]
    mean = AgainstHistory(mode="mean").record(ctx, torch.tensor([0, 1, 7]))
    close(mean, [22 / 3, 6.0, 0.0])


def test_the_record_falls_in_a_run_and_survives_a_restart() -> None:
    world = LengthWorld(torch.tensor([4, 8, 12]), longest=20)
    made = override(load("hapo_history"), {"selection.count": 3, "update.learning_rate": 0.1})
    resumed(made, world, lambda: told_table(around(14, 20, 3), 0))


def test_gradient_against_a_loop() -> None:
    """Advantages from rewards that are worked out row by row."""
    batch = ragged(tools=False)
    made = replace(load("hapo_history"), before=(lambda ctx: ctx.run.cells.update({TASKS.name: records}),))
    records = {SHORTEST: torch.tensor([3.0, 5.0])}
    done = first_step(made, grids(), batch, Grades(RIGHT))
    worth = []
    for b, grade in enumerate(RIGHT):
        n, h = int(batch.lengths[b]), float(records[SHORTEST][b % 2])
        f = math.cos(math.pi * n / (2 * h)) if n < 2 * h else -1.0
        worth.append(grade + (max(f, -0.7) if grade else min(f, 0.0)))
    for b in range(4):
        pair = torch.tensor([worth[b % 2], worth[b % 2 + 2]])
        close(done.advantage[b], (worth[b] - pair.mean()) / (pair.std() + 1e-6))


def test_impossible_options_are_refused() -> None:
    for options in ({"weight": -1.0}, {"floor": 1.5}):
        with pytest.raises(CompositionError):
            AgainstHistory(**options)
