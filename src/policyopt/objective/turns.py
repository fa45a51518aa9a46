"""Losses per step, made losses per turn: a turn is one action, whose log-probability is the mean over its steps."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor

from policyopt.compose import Loss, Seen
from policyopt.objective.surrogates import ClippedSurrogate
from policyopt.ops.masked import select
from policyopt.ops.pieces import Pieces, pieces
from policyopt.types import Batch, Scores


class _Averaged:
    """What models say, with log-probabilities averaged over turns."""

    def __init__(self, seen: Any, batch: Batch, turns: Pieces):
        self._seen, self._batch, self._turns = seen, batch, turns

    def __getitem__(self, role: str) -> Scores:
        scores = self._seen[role]
        trained, turns = self._batch.trained, self._turns
        count = turns.total(trained.to(scores.logp.dtype)).clamp(min=1)
        return Scores(turns.spread(turns.total(select(trained, scores.logp)) / count), exact=scores.exact)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._seen, name)


@dataclass(frozen=True)
class OverTurns(Loss):
    """A loss of steps on the mean log-probabilities of turns (or scales, segments: `column`): all steps of a turn have
    its one value, so the ratio of a turn is the geometric mean of its steps'. Average it with `TurnMean`."""

    loss: Loss = field(default_factory=ClippedSurrogate)
    column: str = "turn"

    needs = "the turns of rows"

    @property
    def formula(self) -> str:  # pyright: ignore[reportIncompatibleVariableOverride]
        return f"{self.loss.formula}; log pi of a turn = mean over its steps"

    @property
    def penalises(self) -> str:  # pyright: ignore[reportIncompatibleVariableOverride]
        return self.loss.penalises

    @property
    def reads(self) -> tuple[str, ...]:
        return (*self.loss.reads, self.column)

    @property
    def roles(self) -> tuple[str, ...]:
        return self.loss.roles

    def averaged(self, seen: Seen, batch: Batch) -> Any:
        return _Averaged(seen, batch, pieces(batch, self.column, batch.trained))

    def __call__(self, seen: Seen, batch: Batch) -> Tensor:
        return select(batch.trained, self.loss(self.averaged(seen, batch), batch))

    def watch(self, seen: Seen, batch: Batch) -> Mapping[str, Any]:
        return self.loss.watch(self.averaged(seen, batch), batch)
