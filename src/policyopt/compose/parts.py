"""Parts: frozen options that declare what they read and write; losses and averages."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor

from policyopt.compose.protocols import Context, Seen
from policyopt.ops.pairs import pair_rows
from policyopt.types import Batch, Round


def named_by(*options: str) -> Any:
    """A declaration of a part whose names are what these options hold; one that is None names nothing."""
    return property(lambda part: tuple(name for option in options if (name := getattr(part, option)) is not None))


class Part:
    """Base of all parts: frozen dataclasses of options that declare what they read and write.

    reads, writes: row or step columns beyond the universal ones. roles: named log-probabilities it reads. A part for
    which they depend on its options makes them properties, or says which options name them (`named_by`).
    formula: the equation, for the printed objective.
    version: of what it computes; raised when its numbers change for equal options, so that runs can tell.
    """

    formula: ClassVar[str] = ""
    version: ClassVar[int] = 1
    penalises: ClassVar[str] = ""  # the model whose distance it charges for; charged once in a method

    reads: ClassVar[tuple[str, ...]] = ()
    writes: ClassVar[tuple[str, ...]] = ()
    roles: ClassVar[tuple[str, ...]] = ()
    critics: ClassVar[tuple[str, ...]] = ()  # models whose value head it reads
    data: ClassVar[Literal["", "rows", "pairs"]] = ""  # what it reads of the world's recordings
    needs: ClassVar[str] = ""  # what it asks of models beyond log-probabilities and values, in words
    around: ClassVar[str] = ""  # the field of the part that it adds something to: any part of its axis can stand there

    def after(self, ctx: Context, done: Round) -> None:
        """Runs after every round: a part that needs state keeps it in cells of the run and writes them here. By
        default it does the same for the parts that it is made of."""
        for name in getattr(self, "__dataclass_fields__", ()):
            value = getattr(self, name)
            for inner in value if isinstance(value, tuple) else (value,):
                if isinstance(inner, Part):
                    inner.after(ctx, done)


@dataclass(frozen=True)
class Chain(Part):
    """Parts of one axis one after another."""

    parts: tuple[Any, ...] = ()

    @property
    def reads(self) -> tuple[str, ...]:
        written: set[str] = set()
        needed = []
        for part in self.parts:
            needed += [column for column in part.reads if column not in written]
            written |= set(part.writes)
        return tuple(needed)

    @property
    def writes(self) -> tuple[str, ...]:
        return tuple(column for part in self.parts for column in part.writes)

    @property
    def roles(self) -> tuple[str, ...]:
        return tuple(role for part in self.parts for role in part.roles)

    @property
    def critics(self) -> tuple[str, ...]:
        return tuple(critic for part in self.parts for critic in part.critics)

    def __call__(self, ctx: Context, batch: Batch) -> Batch:
        for part in self.parts:
            batch = part(ctx, batch)
        return batch


@dataclass(frozen=True)
class Nothing(Part):
    """The axis is not used: the batch passes unchanged."""

    def __call__(self, ctx: Context, batch: Batch) -> Batch:
        return batch


NOTHING = Nothing()


class Loss(Part, ABC):
    """One summand of the loss, unreduced: (B, T) for steps, (B,) for rows (pairs sit on their chosen row)."""

    @abstractmethod
    def __call__(self, seen: Seen, batch: Batch) -> Tensor: ...

    def plan(self, seen: Seen, batch: Batch) -> Batch:
        """The batch with columns computed, without gradient, over the whole optimiser step: statistics of the batch
        belong here. Every micro-batch gets its rows of them."""
        return batch

    def idle(self, batch: Batch) -> Tensor | None:
        """In the loss's shape, where it has no gradient whatever the models say, as the planned columns tell (such as
        an advantage of exactly 0); None: that is not known."""
        return None

    def watch(self, seen: Seen, batch: Batch) -> Mapping[str, Tensor | tuple[Tensor, Tensor]]:
        """Diagnostics in the loss's shape; they are averaged over the units the term counts, or those of them that a
        mask beside the values selects."""
        return {}


class Averaging(Part, ABC):
    """Owns the scale: weights over the *whole* optimiser step, so that micro-batches and ranks only sum.

    mean: its weights add up to 1 over what is counted, which runs check (`runtime.invariants`).
    """

    mean: ClassVar[bool] = False

    @abstractmethod
    def __call__(self, mask: Tensor, batch: Batch, total: Callable[[Tensor], Tensor]) -> Tensor: ...


Coefficient = float | Callable[[Seen, Batch], Tensor]


PerStep = float | Callable[[Batch], Tensor]
"""A coefficient of a part: one number, or a function of the batch that broadcasts against its steps (or rows)."""


def coefficient(value: PerStep, batch: Batch) -> float | Tensor:
    """Clip ranges and the like may differ by step, task or training time: schedules are data."""
    return value(batch) if callable(value) else value


def trained_steps(seen: Seen, batch: Batch) -> Tensor:
    return batch.trained


def trained_rows(seen: Seen, batch: Batch) -> Tensor:
    """Rows with at least one trained step."""
    return batch.trained.any(1)


def chosen_rows(seen: Seen, batch: Batch) -> Tensor:
    """A pair's value lives on its chosen row; the pair counts if both sides are trained."""
    chosen, rejected = pair_rows(batch).T
    trained = batch.trained.any(1)
    counted = torch.zeros_like(trained)
    counted[chosen] = trained[chosen] & trained[rejected]
    return counted
