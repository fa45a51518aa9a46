"""An update with a hard limit: the natural gradient by conjugate gradients, its length from the limit, backtracking."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel

from policyopt.compose import CompositionError, Part, Term
from policyopt.types import Batch
from policyopt.update.gradient import GradientSteps, NonFiniteGradientError, Planned, plan, planned_losses

RESIDUAL = 1e-20
"""Squared norm at which a linear system counts as solved."""


def conjugate_gradient(
    product: Callable[[Tensor], Tensor], target: Float[Tensor, " n"], iterations: int
) -> Float[Tensor, " n"]:
    """x with product(x) = target, product positive semi-definite, from 0 (Hestenes and Stiefel 1952). Of a singular
    product whose range holds the target: the solution of least norm."""
    x, residual = torch.zeros_like(target), target.clone()
    direction, size = residual.clone(), residual @ residual
    for _ in range(iterations):
        if size < RESIDUAL:
            break
        image = product(direction)
        curvature = direction @ image
        if not curvature > 0:  # rounding, or a direction that the product does not see
            break
        x = x + size / curvature * direction
        residual = residual - size / curvature * image
        following = residual @ residual
        direction, size = residual + following / size * direction, following
    return x


def _flat(gradients: Sequence[Tensor]) -> Tensor:
    return torch.cat([gradient.reshape(-1) for gradient in gradients])


class _NoMetrics:
    """A meter that forgets: evaluations of a search are no metrics of the round."""

    def add(self, name: str, value: Tensor | float, count: Tensor | float) -> None:
        pass


class _Closure:
    """Goal and limited distance of a batch as functions of the parameters, planned once: every evaluation has the same
    masks, scales and noise."""

    def __init__(self, ctx: Any, batch: Batch, goal: Sequence[Term], limited: Term, micro_rows: int | None):
        self.ctx, self.batch, self.micro_rows = copy.copy(ctx), batch, micro_rows
        self.ctx.meter = _NoMetrics()
        self.goal, self.limited = plan(ctx, batch, goal), plan(ctx, batch, [limited])
        self.parameters = [p for p in ctx.models[limited.trains].parameters() if p.requires_grad]

    def value(self, planned: Sequence[Planned]) -> float:
        with torch.no_grad():
            return sum(float(loss) for loss in planned_losses(self.ctx, self.batch, planned, self.micro_rows))

    def slope(self) -> tuple[float, Tensor]:
        """The goal's loss, and minus its gradient."""
        value, found = 0.0, _flat([torch.zeros_like(p) for p in self.parameters])
        for loss in planned_losses(self.ctx, self.batch, self.goal, self.micro_rows):
            value += float(loss.detach())
            if loss.requires_grad:
                found = found - _flat(self._gradient(loss, keep=False))
        return value, found

    def product(self, vector: Tensor) -> Tensor:
        """The second derivative of the distance times a vector: at the old policy, where the first derivative is 0,
        the Fisher information."""
        found = torch.zeros_like(vector)
        # Attention's fused kernels have no second derivative.
        with sdpa_kernel(SDPBackend.MATH):
            for loss in planned_losses(self.ctx, self.batch, self.limited, self.micro_rows):
                along = _flat(self._gradient(loss, keep=True)) @ vector if loss.requires_grad else loss
                if along.requires_grad:
                    found = found + _flat(self._gradient(along, keep=False))
        return found

    def _gradient(self, loss: Tensor, *, keep: bool) -> tuple[Tensor, ...]:
        return torch.autograd.grad(loss, self.parameters, create_graph=keep, allow_unused=True, materialize_grads=True)

    def place(self, start: Sequence[Tensor], step: Tensor | None = None) -> None:
        """The parameters: `start`, bit for bit, or that plus a step."""
        moves = None if step is None else step.split([p.numel() for p in start])
        with torch.no_grad():
            for n, (parameter, first) in enumerate(zip(self.parameters, start, strict=True)):
                parameter.copy_(first if moves is None else first + moves[n].view_as(first))


@dataclass(frozen=True)
class TrustRegion(Part):
    """One step of the model that the one limited term trains, on all rows of the round (arXiv 1502.05477, appendix C):

        maximise J = -(its other terms)  subject to  D = (the term with a limit) <= limit
        F x = grad J by conjugate gradients, F = D'' + damping 1 ;  step = sqrt(2 limit / (x F x)) shrink^k x

    with the first k at which D <= limit and J rises, by more than `share` of what its gradient promises. If there is
    none, or the gradient is 0, the model stays as it is, bit for bit. then: an update of the other models (a critic),
    which trains by their own terms. micro_rows: rows per forward pass (memory only). Losses must have second
    derivatives. Metrics trust_region/: accepted, and of accepted steps shrunk (k), kl, improvement.
    """

    iterations: int = 10
    damping: float = 0.1
    backtracks: int = 10
    shrink: float = 0.5
    share: float = 0.0
    micro_rows: int | None = None
    then: GradientSteps | None = None

    formula = "step = sqrt(2 limit / (x F x)) x shrink^k, F x = grad J, F = Hessian of the limited term + damping"
    honours_limits = True

    def __post_init__(self) -> None:
        if self.iterations < 1 or self.backtracks < 1 or (self.micro_rows is not None and self.micro_rows < 1):
            raise CompositionError(
                f"iterations, backtracks and micro_rows are at least 1, got {self.iterations}, {self.backtracks} and "
                f"{self.micro_rows}"
            )
        if self.damping < 0 or not 0 < self.shrink < 1 or not 0 <= self.share < 1:
            raise CompositionError(
                f"need damping >= 0, 0 < shrink < 1 and 0 <= share < 1, got {self.damping}, {self.shrink} and "
                f"{self.share}"
            )

    @property
    def optimizers(self) -> Mapping[str, Any]:
        """Models that it moves."""
        return {"policy": self, **({} if self.then is None else self.then.optimizers)}

    def __call__(self, ctx: Any, batch: Batch) -> None:
        goal, limited = self._terms(ctx.stage.terms)
        self._step(ctx, batch, goal, limited)
        ctx.count_update()
        if self.then is not None:
            self.then(ctx, batch)

    @staticmethod
    def _terms(terms: Sequence[Term]) -> tuple[list[Term], Term]:
        limited = [term for term in terms if term.limit is not None]
        if len(limited) != 1 or limited[0].weight != 1:
            raise CompositionError(
                f"a trust region has exactly one term with a limit, of weight 1; got {[t.name for t in limited]}. Give "
                "Term(limit=...) to the distance to the old policy"
            )
        goal = [term for term in terms if term.trains == limited[0].trains and term.limit is None]
        return goal, limited[0]

    def _step(self, ctx: Any, batch: Batch, goal: Sequence[Term], limited: Term) -> None:
        closure = _Closure(ctx, batch, goal, limited, self.micro_rows)
        before, slope = closure.slope()
        if not torch.isfinite(slope).all():
            raise NonFiniteGradientError(
                f"the gradient of {limited.trains!r} is not finite in round {ctx.step} (terms "
                f"{[t.name for t in goal]}); the model was left as it was. Look at the rewards of this round"
            )
        for name, value in (("loss", before), ("gradient_norm", slope.norm())):
            ctx.meter.add(f"{name}/{limited.trains}", value, 1)
        assert limited.limit is not None
        step = self._direction(closure, slope, limited.limit)
        accepted = step is not None and self._search(ctx, closure, before, slope @ step, step, limited.limit)
        ctx.meter.add("trust_region/accepted", float(accepted), 1)

    def _direction(self, closure: _Closure, slope: Tensor, limit: float) -> Tensor | None:
        """The step at which the quadratic model of the distance equals the limit; None without a slope."""

        def product(vector: Tensor) -> Tensor:
            return closure.product(vector) + self.damping * vector

        x = conjugate_gradient(product, slope, self.iterations)
        length = x @ product(x)
        return (2 * limit / length).sqrt() * x if length > 0 else None

    def _search(self, ctx: Any, closure: _Closure, before: float, promised: Tensor, step: Tensor, limit: float) -> bool:
        """Whether some fraction of the step was taken."""
        start = [p.detach().clone() for p in closure.parameters]
        for k in range(self.backtracks):
            part = self.shrink**k
            closure.place(start, part * step)
            improvement, distance = before - closure.value(closure.goal), closure.value(closure.limited)
            # Comparisons with nan are false: such a step is not taken.
            if distance <= limit and improvement > 0 and improvement > self.share * part * float(promised):
                for name, value in (("shrunk", k), ("kl", distance), ("improvement", improvement)):
                    ctx.meter.add(f"trust_region/{name}", value, 1)
                return True
        closure.place(start)
        return False
