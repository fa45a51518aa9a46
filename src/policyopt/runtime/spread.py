"""Generating, grading and scoring by a crew: rows are divided, done elsewhere and put together in their order.

A row's steps follow from its key, whoever takes them, so neither the number of samplers nor the loss of some changes a
run. (Log-probabilities may differ in the last bit where matrices of few rows are multiplied otherwise: pieces have at
least `LEAST` rows.) Weights travel once for all through the object store, under their fingerprint, which every sampler
computes of what it holds.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from policyopt.engines.choose import engine_for
from policyopt.ops.fingerprint import fingerprint
from policyopt.runtime.cluster import ClusterError, Crew, fetched, put
from policyopt.runtime.ranks import Ranks
from policyopt.types import Batch, Scores, concatenate

LEAST = 32  # rows of a piece
_KEPT = 8  # versions of weights that stay in the object store


class Replica:
    """In a sampler: a policy whose weights are told, and worlds to take steps in."""

    def __init__(self, policy: nn.Module, worlds: Mapping[str, Any], engine: Any = None, deadline: float = 600.0):
        self.policy, self.worlds, self.deadline = policy, worlds, deadline
        self.engine = engine_for(policy, next(iter(worlds.values()))) if engine is None else engine
        self.held = fingerprint(policy)

    def extend(self, weights: tuple[Any, ...], held: int, world: str, given: tuple[Any, ...]) -> tuple[int, Batch]:
        """What the engine makes of (batch, keys, temperature, version, steps), with the fingerprint of the weights."""
        if held != self.held:
            state = fetched(weights[0], self.deadline, "weights")
            self.policy.load_state_dict(state)
            self.held = fingerprint(self.policy)
        batch, keys, temperature, version, steps = given
        device = next(self.policy.parameters()).device
        with torch.no_grad():
            done = self.engine(
                self.policy, self.worlds[world], batch.to(device), keys.to(device), temperature, version, steps=steps
            )
        return self.held, done.to("cpu")


class Spread:
    """Implements `run.Engine` by a crew of `Replica`s of the policy `like`. Other models and worlds are left to
    `local`, the engine of this process."""

    def __init__(self, local: Any, like: nn.Module, worlds: Callable[[], Mapping[str, Any]], crew: Crew):
        self.engine, self.crew, self._worlds = local, crew, worlds
        self._shapes = _shapes(like)
        self._published: dict[int, Any] = {}

    def __call__(
        self,
        policy: Any,
        world: Any,
        batch: Batch,
        keys: Tensor,
        temperature: float,
        version: int,
        steps: int | None = None,
    ) -> Batch:
        name = next((name for name, one in self._worlds().items() if one is world), None)
        if name is None or not len(batch) or _shapes(policy) != self._shapes:
            return self.engine(policy, world, batch, keys, temperature, version, steps=steps)
        held, weights = self._publish(policy)
        calls = [
            ("extend", ((weights,), held, name, (batch[rows].to("cpu"), keys[rows].cpu(), temperature, version, steps)))
            for rows in pieces(len(batch), self.crew.strength)
        ]
        answers = self.crew.map("sampling", calls)
        wrong = sorted({found for found, _ in answers} - {held})
        if wrong:
            raise ClusterError(
                f"phase sampling: a sampler's weights have the fingerprint {wrong[0]:x}, those that were sent "
                f"{held:x}; nothing was trained on its rows. Look for samplers of another version or precision"
            )
        return concatenate([done for _, done in answers]).to(batch.device)

    def __getattr__(self, name: str) -> Any:
        """Streams go on from environments of this process."""
        return getattr(self.engine, name)

    def _publish(self, policy: nn.Module) -> tuple[int, Any]:
        held = fingerprint(policy)
        if held not in self._published:
            state = {name: value.detach().cpu() for name, value in policy.state_dict().items()}
            self._published[held] = put(state)
            for old in list(self._published)[:-_KEPT]:
                del self._published[old]
        return held, self._published[held]


class FromLead:
    """An engine that rank 0 has, for all processes that train together."""

    def __init__(self, engine: Any, ranks: Ranks):
        self.engine, self.ranks = engine, ranks

    def __call__(self, policy: Any, world: Any, batch: Batch, *given: Any, **options: Any) -> Batch:
        made = self.ranks.from_lead("sampling", lambda: self.engine(policy, world, batch, *given, **options).to("cpu"))
        return made.to(batch.device)

    def __getattr__(self, name: str) -> Any:
        """Streams go on from environments that every process has."""
        return getattr(self.engine, name)


def pieces(rows: int, peers: int) -> list[slice]:
    """Adjacent rows for each of `peers`, at least `LEAST` where there are so many."""
    count = max(1, min(peers, rows // LEAST))
    return divided(rows, count)


def divided(rows: int, count: int) -> list[slice]:
    """Adjacent rows in `count` parts that differ by one at most."""
    return [slice(*ends) for ends in itertools.pairwise(rows * n // count for n in range(count + 1))]


def _shapes(model: nn.Module) -> list[tuple[str, torch.Size]]:
    return [(name, value.shape) for name, value in model.state_dict().items() if isinstance(value, Tensor)]


class SpreadGrader:
    """Implements `worlds.grading.Grader` by a crew of them."""

    def __init__(self, crew: Crew):
        self.crew = crew

    def grade(self, texts: Sequence[str], indices: Sequence[int]) -> list[Any]:
        count = max(1, min(len(texts), self.crew.strength))
        parts = divided(len(texts), count)
        answers = self.crew.map("grading", [("grade", (list(texts[part]), list(indices[part]))) for part in parts])
        return [grade for answer in answers for grade in answer]

    def close(self) -> None:
        self.crew.close()


class SpreadModel(nn.Module):
    """A model that nothing trains, held by a crew of scorers: this process has no weights of it.

    ranks: of several processes that train together, rank 0 has the crew, asks it about all rows and tells the others;
    so all of them ask at the same time.
    """

    together = True

    def __init__(self, name: str, crew: Crew | None, ranks: Ranks | None = None):
        super().__init__()
        self.name, self.crew, self.ranks = name, crew, ranks

    def _asked(self, method: str, count: int, part: Callable[[slice], tuple[Batch, tuple[Any, ...]]]) -> list[Any]:
        """What is said of `count` things, in pieces. part: the rows of a piece, and what is asked beside them."""

        def ask() -> list[Any]:
            assert self.crew is not None
            asked = [part(some) for some in pieces(count, self.crew.strength)]
            calls = [("ask", (self.name, method, _bare(rows), given)) for rows, given in asked]
            return self.crew.map(f"scoring by {self.name}", calls)

        return ask() if self.ranks is None else self.ranks.from_lead(f"scoring by {self.name}", ask)


class SpreadPolicy(SpreadModel):
    """Log-probabilities of the steps taken; whole distributions stay where they are."""

    def score(self, batch: Batch, context: str | None = None, *, full: bool = False) -> Scores:
        if full:
            raise ClusterError(f"model {self.name!r} is on scorers, which do not send whole distributions")
        answers = self._asked("score", len(batch), lambda some: (batch[some], (context,)))
        entropy = [answer.entropy for answer in answers]
        return Scores(
            torch.cat([answer.logp for answer in answers]).to(batch.device),
            None if any(one is None for one in entropy) else torch.cat(entropy).to(batch.device),
            exact=all(answer.exact for answer in answers),
        )


class SpreadReward(SpreadModel):
    """What a reward model says that each row is worth."""

    def worth(self, batch: Batch) -> Tensor:
        return torch.cat(self._asked("worth", len(batch), lambda some: (batch[some], ()))).to(batch.device)


class SpreadPreference(SpreadModel):
    """What a preference model says of pairs of rows."""

    def compare(self, batch: Batch, first: Tensor, second: Tensor) -> Tensor:
        if not len(first):
            return torch.zeros(0, device=batch.device)

        def pairs(some: slice) -> tuple[Batch, tuple[Tensor, Tensor]]:
            rows, place = torch.cat([first[some], second[some]]).unique(return_inverse=True)
            one, other = place.cpu().chunk(2)
            return batch[rows], (one, other)

        return torch.cat(self._asked("compare", len(first), pairs)).to(batch.device)


def _bare(batch: Batch) -> Batch:
    """Rows as they travel: without scores."""
    return Batch(batch.row, batch.step).to("cpu")


class Scorer:
    """In a scorer: models by name, which are asked without gradient."""

    def __init__(self, models: Mapping[str, Any]):
        self.models = models

    def ask(self, name: str, method: str, batch: Batch, given: tuple[Any, ...]) -> Any:
        model = self.models[name]
        device = next((p.device for p in model.parameters()), torch.device("cpu"))
        moved = [one.to(device) if isinstance(one, Tensor) else one for one in given]
        with torch.no_grad():
            found = getattr(model, method)(batch.to(device), *moved)
        if isinstance(found, Scores):
            entropy = None if found.entropy is None else found.entropy.cpu()
            return Scores(found.logp.cpu(), entropy, None, found.exact)
        return found.cpu()
