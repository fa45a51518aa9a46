"""Rows graded twice, and how long that takes."""

from __future__ import annotations

import time
from typing import Any

from policyopt.evaluation.flight.record import Grading
from policyopt.types import Batch

TRIED = 4  # rows graded first, to learn what one costs
CHEAP = 0.05  # seconds a row


def grade_world(world: Any, rows: Batch) -> Grading | None:
    """By the world's own grade. None where it has none of finished rows (environments pay while they run)."""
    if not hasattr(world, "grade") or not bool(rows.done.all()):
        return None
    rows = affordable(world.grade, rows)
    began = time.perf_counter()
    first = world.grade(rows)
    wall = time.perf_counter() - began
    second = world.grade(rows)
    each = (wall / max(1, len(rows)),) * len(rows)
    return Grading(first.detach().cpu().double(), second.detach().cpu().double(), each, wall)


def affordable(grade: Any, rows: Batch) -> Batch:
    """All rows if grading is cheap, else a few. The first ones also start what graders need."""
    grade(rows[:1])
    few = rows[:TRIED]
    began = time.perf_counter()
    grade(few)
    return rows if time.perf_counter() - began < CHEAP * len(few) else few
