"""Terms of a loss and the log-probabilities they read."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from torch import Tensor

from policyopt.compose.parts import Averaging, Coefficient, Loss, trained_steps
from policyopt.compose.protocols import CompositionError, Seen
from policyopt.types import Batch


@dataclass(frozen=True)
class Term:
    """loss: unreduced. mask: which units count. average: owns the scale. weight: scalar or function, whole step.

    trains: the model whose parameters this term moves; couples: row columns that a minibatch must not split.
    limit: a hard bound; only an update that can honour it accepts the term.
    """

    name: str
    loss: Loss
    average: Averaging
    mask: Callable[[Seen, Batch], Tensor] = trained_steps
    weight: Coefficient = 1.0
    trains: str = "policy"
    couples: tuple[str, ...] = ()
    limit: float | None = None


@dataclass(frozen=True)
class Role:
    """A named log-probability: which model says it, under which context, when, and with or without gradient.

    when: "recorded" (as the sampler reported it), "collected" (scored once, before the update) or "step" (on
    every minibatch). full: also its whole distribution. context: a named context of the rows, None for the one
    they were sampled under.
    """

    model: str = "policy"
    context: str | None = None
    when: str = "step"
    grad: bool = False
    full: bool = False

    def __post_init__(self) -> None:
        if self.when not in ("recorded", "collected", "step"):
            raise CompositionError(f"Role.when must be 'recorded', 'collected' or 'step', not {self.when!r}")
        if self.grad and self.when != "step":
            raise CompositionError(f"a {self.when} role has no gradient; use when='step' or grad=False")
        if self.full and self.when == "recorded":
            raise CompositionError("samplers record log-probabilities, not distributions; use when='collected'")


RECORDED = Role(when="recorded")
