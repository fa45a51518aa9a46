"""Running statistics of observations: a hook that moves them, between rounds only."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from policyopt.compose import CompositionError, Context, Part
from policyopt.types import Round


@dataclass(frozen=True)
class UpdateNormaliser(Part):
    """After every round: the statistics of model `of` learn the observations that the round's own steps were taken at,
    and `also` (critics that see the same observations) take them over.

    Within a round nothing moves, so the first update's ratios are exactly 1; evaluation never calls it; frozen copies
    keep the statistics they were made with. Does nothing for a policy that was made without statistics.
    """

    of: str = "policy"
    also: tuple[str, ...] = ()

    def __call__(self, ctx: Context, done: Round) -> None:
        leader = self._model(ctx, self.of, "observe")
        if leader.normaliser is None:
            return
        leader.observe(done.judged)
        for name in self.also:
            self._model(ctx, name, "normaliser").normaliser.follow(leader.normaliser)

    def _model(self, ctx: Context, name: str, ability: str) -> Any:
        model = ctx.models[name]
        if not hasattr(model, ability):
            raise CompositionError(
                f"UpdateNormaliser needs models with statistics of observations (control policies and their critics); "
                f"{name!r} is {type(model).__name__}"
            )
        return model
