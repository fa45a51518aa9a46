"""Control policies that are told where their own window led: an encoder of windows beside a decoder of actions, and
places in the encoder's space to act towards (OPPO, arXiv 2305.16217). Of language: `policies.hindsight_language`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from policyopt.compose import CompositionError
from policyopt.ops.masked import select
from policyopt.policies.bodies import MLP, Flat
from policyopt.types import Batch, Gaussian, Scores

HINDSIGHT = "hindsight"  # the context of a row that is scored beside the code of itself


class HindsightActor(nn.Module):
    """A `compose.Policy` over vectors `_obs` (B, T, S) and `_action` (B, T, D). Recorded rows are scored under the
    embedding of themselves, the mean over their steps of a network of state and action; new steps are taken under the
    place of its landmark. Steps are normal with deviation `std`. size 0: a policy without context."""

    kind = "control"

    def __init__(
        self, observations: int, actions: int, size: int = 8, width: int = 64, std: float = 0.1, seed: int = 0
    ):
        super().__init__()
        rng, self.size, self.std = torch.Generator().manual_seed(seed), size, std
        with torch.random.fork_rng(devices=[]):  # torch's own initialisation, replaced at once, is not to be noticed
            self.encoder = Flat(MLP((width,)), observations + actions, rng) if size else None
            self.embedding = _linear(width, size, rng) if size else None
            self.decoder = Flat(MLP((width, width)), observations + size, rng)
            self.out = _linear(width, actions, rng)
        self._aim: tuple[LandmarkModel, ...] = ()

    def embed(self, batch: Batch) -> Tensor:
        """(B, size) of whole rows."""
        if self.encoder is None or self.embedding is None:
            return batch.step["_obs"].new_zeros(len(batch), 0)
        hidden = self.encoder(torch.cat([batch.step["_obs"], batch.step["_action"]], -1))
        own = batch.own[..., None].expand_as(hidden)
        return self.embedding(select(own, hidden).sum(1) / batch.own.sum(1, keepdim=True).clamp(min=1))

    def act(self, observations: Tensor, context: Tensor) -> Gaussian:
        """Distributions (...) of the step at observations (..., S) under contexts (..., size)."""
        mean = self.out(self.decoder(torch.cat([observations, context], -1)))
        return Gaussian(mean, torch.full_like(mean, self.std))

    def aim(self) -> Tensor:
        """(size,) the place that new steps are taken under."""
        if self.size and not self._aim:
            raise CompositionError("this policy acts towards a place that oppo learns; it has none yet")
        return self._aim[0].place if self._aim else self.out.weight.new_zeros(0)

    def next(self, batch: Batch) -> Gaussian:
        return self.act(batch.row["_obs"], self.aim().expand(len(batch), -1))

    def at(self, batch: Batch, *, following: bool = False) -> Gaussian:
        seen = batch.following("_obs") if following else batch.step["_obs"]
        return self.act(seen, self.embed(batch)[:, None].expand(-1, batch.steps, -1))

    def taken(self, batch: Batch) -> Tensor:
        return batch.step["_action"]

    def score(self, batch: Batch, context: str | None = None, *, full: bool = False) -> Scores:
        dist = self.at(batch)
        return Scores(dist.log_prob(self.taken(batch)), dist.entropy(), dist if full else None)

    def emit(self, step: Tensor) -> Tensor:
        return step

    def receive(self, action: Tensor) -> Tensor:
        return action

    def make_landmark(self, rng: torch.Generator, *, trained: bool) -> LandmarkModel:
        """A place of its embeddings: a random one that it will act towards, or the fixed origin."""
        place = torch.randn(self.size, generator=rng) if trained else torch.zeros(self.size)
        made = LandmarkModel(self, nn.Parameter(place.to(self.out.weight), requires_grad=trained))
        if trained:
            # In a tuple, so that the place is not among the policy's own parameters.
            self._aim = (made,)
        return made


def _linear(inputs: int, outputs: int, rng: torch.Generator) -> nn.Linear:
    layer = nn.Linear(inputs, outputs)
    nn.init.orthogonal_(layer.weight, 1.0, generator=rng)
    nn.init.zeros_(layer.bias)
    return layer


class LandmarkModel(nn.Module):
    """worth(row) = -|place - embedding of the row|, the derivative of which is 0 where they meet."""

    def __init__(self, of: Any, place: nn.Parameter):
        super().__init__()
        self.place, self._of = place, (of,)

    def worth(self, batch: Batch) -> Tensor:
        """(B,)"""
        return -torch.linalg.vector_norm(self.place - self._of[0].embed(batch), dim=-1)


@dataclass(frozen=True)
class Landmark:
    """A place in the space of a policy's embeddings of windows (`policy.make_landmark`), read by `Seen.worth`: minus
    the distance of a row to it. trained: it starts anywhere and the policy acts towards it; else it is the origin."""

    of: str = "policy"
    trained: bool = True
    renewed: ClassVar[bool] = False

    def build(self, run: Any, name: str) -> nn.Module:
        policy: Any = run.models[self.of]
        if not hasattr(policy, "make_landmark"):
            raise CompositionError(
                f"model {name!r} is a place among embeddings of windows, which {type(policy).__name__} policies do not "
                "offer; in a recipe of language give policy.hindsight, in Python use policies.hindsight.HindsightActor"
            )
        return policy.make_landmark(run.rng(f"build/{name}"), trained=self.trained)
