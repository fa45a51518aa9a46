"""Top-k, top-p and min-p for every way of sampling."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal

from policyopt.compose import CompositionError, Context, Part
from policyopt.ops.kept import truncated
from policyopt.sampling.samplers import Draw, Group, Judge
from policyopt.truncation import Truncation
from policyopt.types import Batch


@dataclass(frozen=True)
class Truncated(Part):
    """Another way of sampling, whose steps are taken from what top_k, top_p and min_p leave of the tempered policy, in
    this order, renormalised (`truncation.Truncation`). What was kept is recorded, and the policy, its old self, the
    reference and a teacher are all scored within it: the first ratio is 1, the KL of equal models 0.

    Set by `sampling.top_k`, `sampling.top_p` and `sampling.min_p` in any method. Steps that were cut off have no
    gradient, so nothing learns to take them; a step that was left alone has log-probability 0 and no gradient either.
    """

    of: Part = field(default_factory=Group)
    top_k: int | None = None
    top_p: float = 1.0
    min_p: float = 0.0

    around = "of"

    def __post_init__(self) -> None:
        if self.top_k is not None and self.top_k < 1:
            raise CompositionError(f"sampling.top_k must be at least 1, or none for all choices, not {self.top_k}")
        if not 0 < self.top_p <= 1:
            raise CompositionError(
                f"sampling.top_p is the mass to keep, above 0 and at most 1 (1 keeps all), not {self.top_p}"
            )
        if not 0 <= self.min_p <= 1:
            raise CompositionError(
                f"sampling.min_p is relative to the most probable choice, in 0..1 (0 keeps all), not {self.min_p}"
            )
        if isinstance(self.of, Truncated):
            raise CompositionError("sampling is truncated once; set top_k, top_p and min_p of one part")
        if not hasattr(self.of, "temperature"):
            raise CompositionError(
                "sampling.top_k, top_p and min_p cut off choices of a tempered policy, and "
                f"{type(self.of).__name__} has no temperature: leave them out"
            )

    @property
    def truncation(self) -> Truncation:
        return Truncation(self.top_k, self.top_p, self.min_p)

    def __call__(self, ctx: Context, draw: Draw, judge: Judge) -> Batch:
        held = ctx if not self.truncation.cuts else _Truncating(ctx, self.truncation)
        return self.of(held, draw, judge)  # type: ignore[operator]

    # What a method is checked by is the inner part's.
    @property
    def data(self) -> Literal["", "rows", "pairs"]:  # type: ignore[override]
        return self.of.data

    @property
    def reads(self) -> tuple[str, ...]:
        return self.of.reads

    @property
    def writes(self) -> tuple[str, ...]:
        return self.of.writes

    @property
    def roles(self) -> tuple[str, ...]:
        return self.of.roles

    @property
    def critics(self) -> tuple[str, ...]:
        return self.of.critics

    @property
    def needs(self) -> str:
        return self.of.needs

    @property
    def formula(self) -> str:
        return self.of.formula

    def __getattr__(self, name: str) -> Any:
        """Options of the inner part, for whoever looks at the whole axis."""
        if name.startswith("__") or name == "of":
            raise AttributeError(name)
        return getattr(self.of, name)


class _Truncating:
    """A context in which rows are continued by truncated sampling."""

    def __init__(self, ctx: Context, how: Truncation):
        self._ctx, self._how = ctx, how

    def extend(self, batch: Batch, model: str = "policy", temperature: float = 1.0, steps: int | None = None) -> Batch:
        found: Any = self._ctx.models[model]
        if not getattr(found, "truncates", False):
            raise CompositionError(
                "sampling.top_k, top_p and min_p are for policies that choose among finitely many and score within "
                f"what was kept (language models, tables); model {model!r} is a {type(found).__name__}: leave them out"
            )
        return self._ctx.extend(truncated(batch, self._how), model, temperature, steps)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._ctx, name)

    def __getitem__(self, cell: Any) -> Any:
        return self._ctx[cell]

    def __setitem__(self, cell: Any, value: Any) -> None:
        self._ctx[cell] = value
