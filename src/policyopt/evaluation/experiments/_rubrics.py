"""Strings that a judge scores by a list of rules, and a meta judge that adds rules."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from policyopt.types import Batch, Finish
from policyopt.worlds.sequences import SequenceWorld

BRIEF, NOT_TOO_BRIEF = -1, -2
WORTH = {BRIEF: 2.0, NOT_TOO_BRIEF: 4.0}


@dataclass(frozen=True)
class Rubrics(SequenceWorld):
    """True quality: the share of `limit` places that hold the task's symbol. A rubric is a list of rules: a place
    (worth 1 if right), BRIEF (worth 2 for at most one symbol before the end: the loophole) or NOT_TOO_BRIEF (worth 4
    for more)."""

    target: Tensor | None = None

    def append(self, batch: Batch, step: Tensor, logp: Tensor, live: Tensor, version: int) -> Batch:
        """The limit is an end like any other: nothing is worth more behind it."""
        done = super().append(batch, step, logp, live, version)
        finish = torch.where(done.row["finish"] == Finish.TRUNCATED, int(Finish.STOPPED), done.row["finish"])
        return done.with_rows({"finish": finish})

    def right(self, strings: Tensor, task: Tensor) -> Tensor:
        """(B, limit)."""
        assert self.target is not None
        wide = torch.full((len(strings), self.limit), -1)
        wide[:, : strings.shape[1]] = strings
        return wide == self.target[task]

    def first_rubric(self) -> list[int]:
        return [BRIEF, 0]

    def judge_by(self, batch: Batch, rubric: Sequence[int]) -> Tensor:
        right = self.right(self.strings(batch), batch.row["task"])
        brief = batch.valid.sum(1) <= 2
        rules = {BRIEF: brief, NOT_TOO_BRIEF: ~brief}
        return torch.stack([WORTH.get(r, 1.0) * rules.get(r, right[:, max(r, 0)]).float() for r in rubric]).sum(0)

    def most(self, rubric: Sequence[int]) -> float:
        both = BRIEF in rubric and NOT_TOO_BRIEF in rubric
        return sum(WORTH.get(r, 1.0) for r in rubric) - (WORTH[BRIEF] if both else 0.0)

    def analyse(self, row: Batch, rubric: Sequence[int]) -> int | None:
        """The rule that is missing: of a row that is scored well and is worth little, its brevity; else its first wrong
        place that no rule asks for."""
        right = self.right(self.strings(row), row.row["task"])[0]
        score = float(self.judge_by(row, rubric)) / self.most(rubric)
        if score > 0.5 and float(right.float().mean()) < 0.5 and NOT_TOO_BRIEF not in rubric:
            return NOT_TOO_BRIEF
        wrong = [place for place in range(self.limit) if not right[place] and place not in rubric]
        return wrong[0] if wrong else None

    def refine(self, critique: int | None, rubric: Sequence[int]) -> list[int]:
        return [*rubric, *([] if critique is None else [critique])]

    def merge(self, rubrics: Sequence[Sequence[int]]) -> list[int]:
        return sorted({rule for rubric in rubrics for rule in rubric})
