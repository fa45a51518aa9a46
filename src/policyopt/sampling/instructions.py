"""What tasks are additionally told: a budget, a hint, a draft, a pattern."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from policyopt.compose import CompositionError
from policyopt.types import Tasks


def instructed(world: Any, tasks: Tasks, name: str, values: Tensor) -> Tasks:
    """The tasks with something more that they are told. values: (N,) a number each, where nan (or a share of 0) tells
    nothing, or (N, W) tokens, padded with `NO_TOKEN`, where an empty row tells nothing.

    A world lists the names it understands as `instructions` and says how in `instruct(tasks, name, values)`; one
    without `instruct` reads the row column of that name when rows start.
    """
    understood = sorted(getattr(world, "instructions", ()))
    if name not in understood:
        known = f"it understands {understood}" if understood else "it understands none"
        raise CompositionError(
            f"this method tells tasks a {name!r}, which {type(world).__name__} was not given words for ({known}); in a "
            f"recipe: tasks.instructions.{name}"
        )
    if hasattr(world, "instruct"):
        return world.instruct(tasks, name, values)
    return tasks.with_rows({name: values})
