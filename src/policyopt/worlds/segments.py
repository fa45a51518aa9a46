"""Compared segments of behaviour as data: two pieces of episodes, which may begin in different states, of which people
preferred one (CPL, arXiv 2310.13639).

A JSONL file with `{"chosen": SEGMENT, "rejected": SEGMENT}` per line, a segment `{"observations": T + 1 of them (the
last one after the last action), "actions": T}`; the number `strength`, if every line has it, becomes a row column.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from policyopt.types import Batch, Tasks
from policyopt.worlds import fields
from policyopt.worlds.preference_records import STRENGTH
from policyopt.worlds.recordings import Episode, Recording, RecordingError
from policyopt.worlds.sources import json_lines
from policyopt.worlds.tasks import SourceError

SIDES = ("chosen", "rejected")


class ComparedSegments:
    """Pairs of segments; a task is a pair. strengths: how strongly the first one is preferred, one per pair."""

    def __init__(
        self, pairs: Sequence[tuple[Episode, Episode]], strengths: Sequence[float] | None = None, name: str = "segments"
    ):
        if not pairs:
            raise RecordingError("compared segments need at least one pair")
        if strengths is not None and len(strengths) != len(pairs):
            raise RecordingError(f"every pair has a strength or none has; {len(strengths)} of {len(pairs)} have")
        self.name = name
        self.segments = Recording([segment for pair in pairs for segment in pair], "episode", name)
        self.strengths = None if strengths is None else torch.tensor(strengths, dtype=torch.get_default_dtype())

    @property
    def size(self) -> int:
        return self.segments.size // 2

    def acted_by(self, policy: Any) -> ComparedSegments:
        """These segments, their actions as the raw steps of a policy."""
        self.segments.acted_by(policy)
        return self

    def tasks(self, ids: torch.Tensor) -> Tasks:
        return Tasks(ids)

    def recorded_pairs(self, tasks: Tasks) -> Batch:
        """Two rows per task, the preferred segment first; `pair` is the task's draw."""
        device = tasks.id.device
        group = tasks.row["group"] if "group" in tasks.row else torch.arange(len(tasks), device=device)
        twice = tasks.with_rows({"group": group}).repeat(2)
        rank = torch.arange(2, device=device).repeat(len(tasks))
        rows = self.segments.recorded(Tasks(2 * twice.id + rank, twice.row))
        strength = {} if self.strengths is None else {STRENGTH: self.strengths.to(device)[twice.id]}
        label = 1 - rank.to(torch.get_default_dtype())
        return rows.with_rows({"task": twice.id, "pair": twice.row["group"], "rank": rank, "label": label, **strength})

    def recorded(self, tasks: Tasks) -> Batch:
        """The preferred segment of every task."""
        return self.segments.recorded(Tasks(2 * tasks.id, tasks.row)).with_rows({"task": tasks.id})

    def start(self, tasks: Tasks) -> Batch:
        return self.segments.start(tasks)

    def grade(self, batch: Batch) -> torch.Tensor:
        """(B, T) zeros: compared segments have no rewards."""
        return self.segments.grade(batch)


def read_segments(path: str | Path) -> ComparedSegments:
    """The pairs of a file. SourceError: the line, what it holds and what it should hold."""
    pairs, strengths = [], []
    for place, record in json_lines(path):
        try:
            given = record if isinstance(record, Mapping) else {}
            missing = [side for side in SIDES if side not in given]
            if missing:
                raise SourceError(f"compared segments are {{chosen, rejected}}; {missing[0]!r} is missing")
            pairs.append(tuple(_segment(given[side], side) for side in SIDES))
            strengths += [fields.number(given[STRENGTH], STRENGTH)] if STRENGTH in given else []
        except (SourceError, RecordingError) as error:
            raise SourceError(f"{place}: {error}") from error
    if not pairs:
        raise SourceError(f"{str(path)!r} holds no segments; give at least one pair")
    try:
        return ComparedSegments(pairs, strengths or None, f"segments of {path}")
    except RecordingError as error:
        raise SourceError(f"{path}: {error}") from error


def _segment(given: object, side: str) -> Episode:
    if not isinstance(given, Mapping) or not {"observations", "actions"} <= given.keys():
        raise SourceError(f"{side!r} must have 'observations' and 'actions', got {fields.kind(given)}")
    arrays = {}
    for name in ("observations", "actions"):
        try:
            array = np.asarray(given[name])
        except ValueError as error:
            raise SourceError(f"{name!r} of {side!r} are of unequal shapes: {error}") from error
        if array.dtype.kind not in "iuf" or not array.size or not np.isfinite(array).all():
            raise SourceError(f"{name!r} of {side!r} must be finite numbers, got {fields.kind(given[name])}")
        arrays[name] = array
    return Episode(arrays["observations"], arrays["actions"], np.zeros(len(arrays["actions"])), terminated=False)
