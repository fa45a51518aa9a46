"""Recorded answers that are compared with each other, or judged one by one, as tokens and as rows."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from policyopt.types import Tasks


@dataclass(frozen=True)
class Ranked:
    """Answers to one prompt, the best first; none holds the prompt. A single one is judged by itself.

    rank: 0 ... K - 1; of a single answer 0 is good, 1 bad. numbers: by name one per answer, `label` among them, how
    good it is. marks: by name one per token of each answer. starts: the prompt of each, where they begin differently.
    """

    answers: Sequence[list[int]]
    rank: Sequence[int]
    numbers: Mapping[str, Sequence[float]] = field(default_factory=dict)
    starts: Sequence[list[int]] | None = None
    marks: Mapping[str, Sequence[list[float]]] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.answers)

    @property
    def label(self) -> Sequence[float]:
        """From 1, the best, down to 0, unless the data says otherwise."""
        even = [1 - rank / max(len(self) - 1, 1) for rank in self.rank]
        return self.numbers.get("label", even)


def pair(chosen: list[int], rejected: list[int]) -> Ranked:
    return Ranked([chosen, rejected], [0, 1])


def names(held: Sequence[Ranked]) -> tuple[str, ...]:
    """The numbers that rows of these have, `label` first."""
    return ("label", *(name for name in (held[0].numbers if held else ()) if name != "label"))


def marked(held: Sequence[Ranked], kind: Tensor) -> dict[str, Tensor]:
    """Step columns (B, T) of the numbers that tokens of recorded answers have, for rows as `rows_of` gives them; 1 at
    steps that are none of an answer's own, such as its end. kind: of the steps."""
    found = {}
    for name in held[0].marks if held else ():
        column = torch.ones(kind.shape, dtype=torch.get_default_dtype(), device=kind.device)
        for row, values in enumerate(values for one in held for values in one.marks[name]):
            column[row, : len(values)] = torch.tensor(values, dtype=column.dtype, device=column.device)
        found[name] = column
    return found


def rows_of(held: Sequence[Ranked], tasks: Tasks) -> tuple[Tasks, list[list[int]]]:
    """A task for every answer of the tasks' recordings, side by side, and the answers. `pair` is the task's draw, so
    the same task drawn twice makes two pairs."""
    device = tasks.id.device
    index = torch.arange(len(tasks), device=device).repeat_interleave(
        torch.tensor([len(one) for one in held], dtype=torch.int64, device=device)
    )
    group = tasks.row["group"] if "group" in tasks.row else torch.arange(len(tasks), device=device)
    columns: dict[str, Tensor] = {
        "pair": group[index],
        "rank": torch.tensor([rank for one in held for rank in one.rank], dtype=torch.int64, device=device),
    }
    for name in names(held):
        values = [value for one in held for value in (one.label if name == "label" else one.numbers[name])]
        columns[name] = torch.tensor(values, dtype=torch.get_default_dtype(), device=device)
    rows = tasks.with_rows({"group": group})[index].with_rows(columns)
    return rows, [answer for one in held for answer in one.answers]
