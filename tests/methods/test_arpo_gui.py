"""ARPO: `reduces_to` of specification 81, rescued groups, what is stored, reachable tasks, the reward for form."""

from dataclasses import replace

import pytest
import torch

from asked import as_group, asking, first_symbol, kept_rounds, resumed, sampled
from enumeration import Grades, first_step
from policyopt.compose import Chain, CompositionError
from policyopt.evaluation.experiments._common import uniform_table
from policyopt.methods import load
from policyopt.ops.sequences import total_reward
from policyopt.options import override
from policyopt.policies.tabular import Table
from policyopt.remembered import TASKS
from policyopt.reward.checks import Checked
from policyopt.reward.parts import Verified
from policyopt.reward.score import ScoreSoFar
from policyopt.sampling.replay import RescuedGroup
from policyopt.sampling.samplers import Group
from policyopt.sampling.store import ROWS, store, stored
from policyopt.selection.scored import REACHABLE, Probed, ReachableTasks
from policyopt.selection.tasks import Selection
from policyopt.types import Source
from policyopt.worlds.sequences import SequenceWorld
from support import close, grids, ragged

pytestmark = pytest.mark.usefixtures("float64")


def chances(*values: float) -> Table:
    logits = torch.zeros(len(values) * 2, 2)
    logits[::2, 1] = torch.tensor(values).clamp(1e-9, 1 - 1e-9).logit()
    return Table(logits)


def with_success(ctx, tasks: tuple[int, ...]):
    """Store a success of each of these tasks."""
    rows = ctx.extend(ctx.world.start(ctx.world.tasks(torch.tensor(tasks))))
    one = torch.ones_like(rows.step["_step"])
    rows = rows.with_steps({"_step": one, "reward": torch.stack([torch.zeros(len(tasks)), torch.ones(len(tasks))], 1)})
    store(ctx, rows, 8)


def rescued(part: RescuedGroup, policy: Table, tasks: tuple[int, ...]):
    size = len(policy.logits) // 2
    ctx = asking(part, first_symbol(torch.tensor([0.0, 1.0]), size), policy, size)
    with_success(ctx, tasks)
    return ctx, sampled(ctx)


def test_with_nothing_stored_it_is_grpo_with_its_reward() -> None:
    as_group(RescuedGroup(size=4), 4)
    made = replace(load("arpo_gui"), reward=Verified(), before=(), sampling=Group(8))
    dapo = override(load("dapo"), {"objective.clip_high": 0.3})
    dapo = replace(dapo, reward=Verified())
    batch, grades = ragged(), Grades([0.5, 2.0, -1.0, 4.0])
    close(first_step(made, grids(), batch, grades).gradient, first_step(dapo, grids(), batch, grades).gradient)


def test_a_group_that_fails_gets_one_stored_success_and_others_stay() -> None:
    """Tasks 0 and 3 always fail; only 0 has a stored success. 1 is mixed, 2 always succeeds."""
    _, rows = rescued(RescuedGroup(size=4), chances(0.0, 0.5, 1.0, 0.0), (0, 1, 2))
    size, old = rows.row["task"].bincount().tolist(), rows.row["source"] == Source.REPLAY
    assert size == [4, 4, 4, 4]
    assert rows.row["task"][old].tolist() == [0]
    assert total_reward(rows)[rows.row["task"] == 0].sum() == 1.0
    assert total_reward(rows)[rows.row["task"] == 3].sum() == 0.0
    assert len(rows.row["group"].unique()) == 4


def test_spread_and_mean_decide_by_hand() -> None:
    """Equal scores of 0.3 are no failure (mean 0.2 or more); unequal ones below 0.2 are none either."""
    for grades, replaced in (((0.0, 0.0), True), ((0.3, 0.3), False), ((0.0, 0.09), True), ((0.0, 0.12), False)):
        world = first_symbol(torch.tensor(grades), 1)
        logits = torch.zeros(2, 2)
        ctx = asking(RescuedGroup(size=2), world, Table(logits), 1, seed=0)
        with_success(ctx, (0,))
        for seed in range(40):
            ctx.run.seed = seed
            rows = sampled(ctx)
            fresh_rows = sampled(asking(Group(2), world, Table(logits), 1, seed=seed))
            if len(set(total_reward(fresh_rows).tolist())) == len(set(grades)):
                break
        assert bool((rows.row["source"] == Source.REPLAY).any()) == replaced, grades


def test_successes_are_stored_once_and_the_newest_stay() -> None:
    ctx = asking(RescuedGroup(size=2, capacity=3), first_symbol(torch.tensor([0.0, 1.0]), 2), chances(0.4, 0.3), 2)
    rounds = kept_rounds(ctx, 12)
    assert sum(int((rows.row["source"] == Source.REPLAY).sum()) for rows in rounds) > 3
    for task in range(2):
        held = stored(ctx, task)
        assert held is not None
        good = [
            rows[(rows.row["task"] == task) & (rows.row["source"] == Source.POLICY) & (total_reward(rows) > 0.1)]
            for rows in rounds
        ]
        assert torch.equal(held.row["group"], torch.cat([rows.row["group"] for rows in good])[-3:])
        assert torch.equal(held.step["behaviour"], torch.cat([rows.step["behaviour"] for rows in good])[-3:])
    nothing = asking(RescuedGroup(size=4, capacity=0), first_symbol(torch.tensor([0.0, 1.0]), 2), chances(0.6, 0.3), 2)
    kept_rounds(nothing, 2)
    assert ROWS.name not in nothing.run.cells or not nothing.run.cells[ROWS.name]


def test_form_neither_blocks_a_rescue_nor_counts_as_success() -> None:
    """Rewards of failed rows differ by their form; the score does not."""
    world = SequenceWorld(
        1, 2, 2, lambda s, t: torch.zeros(len(s)).double(), checker=lambda s, t: (s[:, :1] == 1).double()
    )
    reward = Chain((Verified(), ScoreSoFar(), Checked(weight=0.5)))
    for score, replaced in (("score", 1), ("", 0)):
        ctx = asking(RescuedGroup(size=8, score=score), world, Table(torch.zeros(2, 2)), 1, reward=reward)
        good = ctx.stage.reward(ctx, ctx.extend(ctx.world.start(ctx.world.tasks(torch.tensor([0])))))
        store(ctx, good, 8)
        rows = sampled(ctx)
        assert set(total_reward(rows).tolist()) == {0.0, 0.5}
        assert int((rows.row["source"] == Source.REPLAY).sum()) == replaced


def test_tasks_the_starting_policy_never_solves_are_left_out() -> None:
    ctx = asking(Group(2), first_symbol(torch.tensor([0.0, 1.0]), 4), chances(0.0, 0.5, 1.0, 0.0), 2)
    ctx.stage = replace(ctx.stage, selection=Selection(4, ReachableTasks()))
    Probed(attempts=16)(ctx)
    known = ctx.run.cells[TASKS.name][REACHABLE]
    assert known.tolist() == [0.0, float(known[1]), 16.0, 0.0]
    assert 0 < float(known[1]) < 16
    assert set(ctx.stage.selection.draw(ctx, None).id.tolist()) == {1, 2}
    ctx.run.step = 1
    before = dict(ctx.run.cells[TASKS.name])
    Probed(attempts=3)(ctx)  # only in the first round of a stage
    assert ctx.run.cells[TASKS.name][REACHABLE] is before[REACHABLE]
    ctx.run.cells[TASKS.name] = {REACHABLE: torch.zeros(4)}
    assert sorted(ctx.stage.selection.draw(ctx, None).id.tolist()) == [0, 1, 2, 3]


def test_rows_that_have_their_form_alone_do_not_make_a_task_reachable() -> None:
    """Every row keeps the form, the rows of two tasks of four are right."""
    grades = torch.tensor([0.0, 1.0, 0.0, 0.3]).double()
    world = SequenceWorld(4, 2, 1, lambda s, t: grades[t], checker=lambda s, t: torch.ones(len(s), 1).double())
    made = load("arpo_gui")
    ctx = asking(Group(2), world, Table(torch.zeros(4, 2)), 4, reward=made.reward)
    ctx.stage = replace(ctx.stage, selection=replace(made.selection, count=4))
    made.before[0](ctx)
    assert ctx.run.cells[TASKS.name][REACHABLE].tolist() == [0.0, 16.0, 0.0, 16.0]
    assert set(ctx.stage.selection.draw(ctx, None).id.tolist()) == {1, 3}


def test_a_run_goes_on_from_its_state() -> None:
    def solved(strings, task):
        return (strings == 1).all(1).double()

    world = SequenceWorld(4, 2, 3, solved, checker=lambda s, t: (s[:, :1] == 1).double())
    changes = {"selection.count": 4, "sampling.size": 2, "before.attempts": 4}
    resumed(load("arpo_gui"), world, lambda: uniform_table(12, 2), changes=changes)


def test_impossible_options_are_refused() -> None:
    with pytest.raises(CompositionError, match="capacity"):
        RescuedGroup(capacity=-1)
    with pytest.raises(CompositionError, match="attempts"):
        Probed(attempts=0)
