"""Updates on minibatches from a store of transitions."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from policyopt.compose import Cell, CompositionError
from policyopt.types import Batch
from policyopt.update.gradient import Gradients, single_steps

STORE = Cell("transitions", lambda: {"next": 0, "count": 0, "row": {}, "step": {}})
OWED = Cell("updates owed", float)
"""The part of an update that the steps so far are worth and that was not taken."""


def insert(store: Mapping[str, Any], batch: Batch, capacity: int) -> dict[str, Any]:
    """The store with the rows of a batch of single steps, the newest `capacity` of them: a ring of tensors, which are
    as long as was needed so far."""
    batch = batch[-capacity:]
    place = (torch.arange(len(batch), device=batch.device) + store["next"]) % capacity
    count = min(store["count"] + len(batch), capacity)

    def put(columns: Mapping[str, Tensor], new: Mapping[str, Tensor]) -> dict[str, Tensor]:
        strange = sorted(set(columns) ^ set(new)) if columns else []
        if strange:
            raise CompositionError(f"stored transitions need the same columns in every round; only some have {strange}")
        made = dict(columns) or {name: x.new_zeros((0, *x.shape[1:])) for name, x in new.items()}
        for name, x in new.items():
            held = made[name]
            if len(held) < count:  # doubled, so that a store is copied a few times in all
                longer = held.new_zeros((min(capacity, max(count, 2 * len(held))), *held.shape[1:]))
                longer[: len(held)] = held
                made[name] = longer
            made[name][place] = x
        return made

    return {
        "next": (store["next"] + len(batch)) % capacity,
        "count": count,
        "row": put(store["row"], batch.row),
        "step": put(store["step"], batch.step),
    }


@dataclass(frozen=True)
class ReplaySteps(Gradients):
    """The round's steps enter a store (a ring of the newest `capacity`); then `ratio` updates per new step, each on
    `size` transitions drawn uniformly, with replacement. Nothing is trained before the store has `starts` of them. What
    is less than an update is owed to the next round.

    Roles must be scored at the step: what was scored when the transition was collected is not stored.
    """

    capacity: int = 100_000
    size: int = 256
    ratio: float = 1.0
    starts: int = 1_000

    @property
    def _counts(self) -> tuple[str, ...]:
        return ("micro_rows", "capacity", "size", "starts")

    def batches(self, ctx: Any, batch: Batch) -> Iterator[tuple[Batch, Tensor]]:
        collected = [name for name, role in ctx.stage.roles.items() if role.when == "collected"]
        if collected:
            raise CompositionError(
                f"roles {collected} are scored when rows are collected, which stored transitions were not; use "
                "Role(when='step')"
            )
        fresh = single_steps(Batch(batch.row, batch.step))  # scores are not stored
        ctx[STORE] = store = insert(ctx[STORE], fresh, self.capacity)
        rng = ctx.rng("replay")
        if store["count"] < self.starts:
            return
        kept = Batch(store["row"], store["step"])
        owed = ctx[OWED] + self.ratio * len(fresh)
        count = math.floor(owed + 1e-6)  # 0.1 * 30 is 3
        ctx[OWED] = max(owed - count, 0.0)
        for _ in range(count):
            yield kept, torch.randint(store["count"], (self.size,), generator=rng).to(batch.device)
