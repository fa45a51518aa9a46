"""Log-probabilities regressed on what the KL-regularised optimum says of a step."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from torch import Tensor

from policyopt.compose import CompositionError, Loss, Seen, named_by
from policyopt.objective.implicit import log_change
from policyopt.ops.masked import masked_mean, select
from policyopt.types import Batch


@dataclass(frozen=True)
class AdvantageAlignment(Loss):
    """APA (arXiv 2306.02231): the log-ratio to an anchor is regressed on A / temperature, the KL-regularised optimum
    without its normaliser. No ratio, no clip: rows of any sampler will do."""

    temperature: float = 0.1
    anchor: str = "reference"

    formula = "(log pi - log pi_anchor - A_bt / temperature)^2"
    reads = ("advantage",)
    roles = named_by("anchor")

    def __post_init__(self) -> None:
        if self.temperature <= 0:
            raise CompositionError(f"temperature must be above 0, not {self.temperature}")

    def __call__(self, seen: Seen, batch: Batch) -> Tensor:
        target = select(batch.trained, batch.step["advantage"]) / self.temperature
        return (log_change(seen, batch, self.anchor) - target) ** 2

    def watch(self, seen: Seen, batch: Batch) -> Mapping[str, Tensor]:
        return {"log_ratio": log_change(seen, batch, self.anchor)}


@dataclass(frozen=True)
class RowAlignment(AdvantageAlignment):
    """The same of whole rows: the sum of a row's log-ratios is regressed on its mean advantage / temperature (direct
    advantage policy optimization, arXiv 2412.18279, where a row is one step of reasoning)."""

    formula = "(sum_t (log pi - log pi_anchor) - A_b / temperature)^2"

    def error(self, seen: Seen, batch: Batch) -> Tensor:
        change = log_change(seen, batch, self.anchor).sum(1)
        return change - masked_mean(batch.step["advantage"], batch.trained) / self.temperature

    def __call__(self, seen: Seen, batch: Batch) -> Tensor:
        return self.error(seen, batch) ** 2

    def watch(self, seen: Seen, batch: Batch) -> Mapping[str, Tensor]:
        return {"error": self.error(seen, batch).abs()}
