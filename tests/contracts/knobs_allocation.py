"""Knobs of task orders that learn, numbers of attempts, stored rows and groups chosen by outcome."""

from typing import Any

import torch
from knobs_history import judged
from test_dead_knobs import Knob
from torch import Tensor

from policyopt.credit import subgroups
from policyopt.engines.plain import generate
from policyopt.objective.weighted import BySource
from policyopt.policies.tabular import Table
from policyopt.remembered import TASKS, noted
from policyopt.reward.parts import Verified
from policyopt.sampling import adaptive, replay
from policyopt.seen import SeenBatch
from policyopt.selection import scored
from policyopt.selection.tasks import Selection
from policyopt.train import _draw, _judge
from policyopt.types import Round
from policyopt.worlds.sequences import SequenceWorld
from support import context, grids, method, numbers, ragged, rewarded, with_row

GRADES = torch.tensor([0.0, 0.6, 1.0])


def graded() -> SequenceWorld:
    """Strings of two of three symbols, worth 0, 0.6 or 1 by the first."""
    return SequenceWorld(8, 3, 2, lambda strings, task: GRADES[strings[:, 0]].double())


def sampled(part: Any) -> Tensor:
    return judged(part, graded(), Table(numbers(16, 3, seed=4, scale=2.0)), 4)


def credited(part: Any) -> Tensor:
    rate = torch.tensor([0.5, 0.5, 0.25, 0.75], dtype=torch.float64)
    rows = rewarded(ragged(), [1.0, 0.0, 0.6, 1.0])
    rows = rows.with_rows({"rate": rate, "drawn": torch.tensor([8, 8, 4, 4]), "par": rate, "budget": rate})
    return part(context(method(), grids()), rows).step["advantage"]


def kept(part: Any) -> Tensor:
    return part(None, rewarded(ragged((2, 2, 2, 2)), [0.0, 0.6, 0.5, 5.0])).row["_row"]


def weighed(part: Any) -> Tensor:
    rows = with_row(ragged(), source=[0, 2, 3, 0])
    return part(SeenBatch(context(method(), grids()), rows), rows)


def later(part: Any) -> Tensor:
    """Tasks drawn after three rounds of rows of three tasks, and what is remembered."""
    made = method(selection=Selection(6, part), reward=Verified())
    ctx = context(made, {"policy": Table(numbers(16, 3, seed=5))}, graded(), generate)
    drawn = []
    for step in range(3):
        ctx.run.step = step
        rows = _judge(ctx)(ctx.extend(ctx.world.start(ctx.world.tasks(torch.tensor([1, 1, 1, 2, 2, 2, 5, 5])))))
        part.after(ctx, Round(rows, rows, rows, {}))
        drawn.append(part(ctx, 6).id.double())
    return torch.cat([*drawn, *[noted(ctx, name, 8) for name in sorted(ctx[TASKS])]])


def reachable(part: Any) -> Tensor:
    ctx = context(method(), {"policy": Table(numbers(16, 3))}, graded(), generate)
    ctx.run.cells[TASKS.name] = {scored.REACHABLE: torch.tensor([0, 3, 0, 1, 0, 0, 5, 0]).double()}
    return part(ctx, 6).id.double()


def probed(part: Any) -> Tensor:
    ctx = context(method(reward=Verified()), {"policy": Table(numbers(16, 3))}, graded(), generate)
    part(ctx)
    return torch.cat([noted(ctx, name, 8) for name in sorted(ctx[TASKS])])


def again(part: Any) -> Tensor:
    """Rows of ten rounds on the same tasks, of which some hardly ever succeed."""
    table = numbers(16, 3, seed=6)
    table[::4, 0] += 1.5
    made = method(sampling=part, reward=Verified(), selection=Selection(8))
    ctx = context(made, {"policy": Table(table)}, graded(), generate)
    found = []
    for step in range(10):
        ctx.run.step = step
        rows = part(ctx, _draw(ctx), _judge(ctx))
        part.after(ctx, Round(rows, rows, rows, {}))
        found += [torch.tensor([float(len(rows))]), rows.row["source"].double(), rows.step["behaviour"].flatten()]
    return torch.cat(found)


KNOBS = (
    Knob(subgroups.AgainstPar(), credited, {"weight": 2.0}),
    Knob(subgroups.AgainstRate(scaled=True), credited, {"epsilon": 0.5}),
    Knob(subgroups.Accepted(), credited, {"right": 0.7}),
    Knob(scored.RightRows(), kept, {"right": 0.7}),
    Knob(BySource(), weighed, {"replayed": 0.5, "recorded": 0.5}),
    Knob(scored.ThompsonTasks(), later, {"fading": 0.5, "fading_attempted": 0.5, "right": 0.7}),
    Knob(
        scored.PromisingTasks(diversity=0.5, every=1, span=1),
        later,
        {"share": 1.0, "outcome": 9.0, "diversity": 0.0, "every": 2, "span": 2, "right": 0.7},
    ),
    Knob(scored.ReachableTasks(), reachable, {"least": 4}),
    Knob(scored.Probed(attempts=4), probed, {"attempts": 5, "right": 0.7}),
    Knob(
        adaptive.AdaptiveGroup(size=2, per_round=4, rounds=2),
        sampled,
        {"size": 4, "per_round": 3, "rounds": 1, "right": 0.3, "temperature": 0.5},
    ),
    Knob(
        adaptive.AllocatedGroup(size=16, pilot=4, alpha=1.0),
        sampled,
        {"size": 3, "pilot": 3, "alpha": 0.0, "beta": 6.0, "right": 0.7, "temperature": 0.5},
    ),
    Knob(
        replay.ReplayedGroup(size=2, replayed=1, capacity=4, least=2),
        again,
        {"size": 3, "replayed": 2, "capacity": 2, "least": 3, "temperature": 0.5},
    ),
    Knob(
        replay.RescuedGroup(size=2, capacity=3, spread=0.1, most=0.4),
        again,
        {"size": 3, "capacity": 1, "spread": 0.0, "most": 0.9, "success": 0.7, "temperature": 0.5},
    ),
)
