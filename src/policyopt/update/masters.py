"""Training weights that are kept in 16 bit: an optimiser moves copies of them in float32.

bfloat16 has 8 bits of precision: Adam's step of 1e-6 on a weight of 0.02 is a sixtieth of what its last bit stands for,
and rounding takes all of it back; second moments that decay by 0.999 stand still in the same way. So a run would train
nothing and look healthy: ratios of 1, no divergence. Gradients that are added up over micro-batches in 16 bit are lost
alike: 1,024 ones make 256.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

LOW_PRECISION = (torch.float16, torch.bfloat16)
MASTER = "master"
"""What a parameter's float32 copy is called in the optimiser's state."""


class Masters(torch.optim.Optimizer):
    """An optimiser of parameters some of which are in 16 bit. make: the optimiser of what it really moves: float32
    copies of those, and the others themselves. A parameter is its copy, rounded.

    Where something else has written a parameter (an average, a renewed copy), its copy begins again from that.
    """

    def __init__(
        self, parameters: Sequence[nn.Parameter], make: Callable[[Sequence[nn.Parameter]], torch.optim.Optimizer]
    ):
        self._moved = [nn.Parameter(_wide(p)) if p.dtype in LOW_PRECISION else p for p in parameters]
        self.inner = make(self._moved)
        super().__init__(parameters, {"lr": self.inner.param_groups[0]["lr"]})
        self._low = [(p, copy) for p, copy in zip(parameters, self._moved, strict=True) if p is not copy]

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # pyright: ignore[reportIncompatibleMethodOverride]
        for own, copy in self._low:
            copy.copy_(torch.where(copy.to(own.dtype) == own, copy, _wide(own)))
            copy.grad = None if own.grad is None else _wide(own.grad)
        for group, inner in zip(self.param_groups, self.inner.param_groups, strict=True):
            inner["lr"] = group["lr"]
        self.inner.step()
        for own, copy in self._low:
            own.copy_(copy)
            copy.grad = None

    def state_dict(self) -> dict[str, Any]:
        """The inner optimiser's, with the copies among the state of their parameters."""
        found = self.inner.state_dict()
        masters = {place: {MASTER: copy.detach()} for place, copy in self._copies()}
        places = sorted({*found["state"], *masters})
        return {**found, "state": {n: {**found["state"].get(n, {}), **masters.get(n, {})} for n in places}}

    def load_state_dict(self, state_dict: Mapping[str, Any]) -> None:
        """Of what `state_dict` gave. ValueError: it holds no copies."""
        saved = {place: dict(held) for place, held in state_dict["state"].items()}
        missing = [place for place, _ in self._copies() if MASTER not in saved.get(place, {})]
        if missing:
            raise ValueError(
                f"the saved optimiser has no float32 copies of {len(missing)} of its 16-bit parameters; it was saved "
                "by an earlier version: begin the stage again from the saved weights"
            )
        with torch.no_grad():
            for place, copy in self._copies():
                copy.copy_(saved[place].pop(MASTER))
        self.inner.load_state_dict({**state_dict, "state": {n: held for n, held in saved.items() if held}})

    def _copies(self) -> list[tuple[int, Tensor]]:
        """The copies, by the place of their parameters."""
        low = {id(copy) for _, copy in self._low}
        return [(place, one) for place, one in enumerate(self._moved) if id(one) in low]


class Summed:
    """Gradients that several backward passes leave in 16 bit, added up in float32 and rounded once."""

    def __init__(self, parameters: Sequence[nn.Parameter]):
        self._low = [p for p in parameters if p.dtype in LOW_PRECISION]
        self._sums: dict[int, Tensor] = {}

    def add(self) -> None:
        """After every pass: take what it left."""
        for place, parameter in enumerate(self._low):
            if parameter.grad is not None:
                found = _wide(parameter.grad)
                self._sums[place] = self._sums[place].add_(found) if place in self._sums else found
                parameter.grad = None

    def give(self) -> None:
        """After the last one."""
        for place, total in self._sums.items():
            self._low[place].grad = total.to(self._low[place].dtype)


def _wide(x: Tensor) -> Tensor:
    return x.detach().to(torch.float32)
