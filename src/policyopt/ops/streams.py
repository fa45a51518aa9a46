"""Where environments that go on from round to round are, as data: enough to bring others to the same place.

A state is {"seed", "episode" (N,), "actions" [N tensors: since the episode began], "earned" (N,) the episode's rewards
so far, "memory" (N, H) or None: of a policy with one, 0 where an episode begins}.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch

from policyopt.ops.random import derive
from policyopt.types import Batch

State = Mapping[str, Any]


def first_state(seed: int) -> State:
    """No environment has begun."""
    return {"seed": seed, "episode": torch.zeros(0, dtype=torch.int64), "actions": [], "earned": None, "memory": None}


def episode_seed(seed: int, slot: int, episode: int) -> int:
    """The seed of every episode of every environment, 31 bits (what all environments take)."""
    return derive(seed, "environment", slot, "episode", episode) >> 32


def state_after(state: State, batch: Batch) -> State:
    """Where the environments are after the fragments of `batch`, which began at `state`.

    batch: rows with `_env`, `_episode`, `_before` (steps of the episode before the row), `_earned` (rewards of the
    episode up to the row's end) and `episode_length` (above 0 if the episode ended in the row).
    """
    needed = ("_env", "_episode", "_before", "_earned", "episode_length", *(("_memory",) * ("_memory" in batch.row)))
    rows = {name: batch.row[name].cpu() for name in needed}
    count = int(rows["_env"].max()) + 1
    order = sorted(range(len(batch)), key=lambda row: (int(rows["_episode"][row]), int(rows["_before"][row])))
    last = {int(rows["_env"][row]): row for row in order}
    if len(last) < count:
        raise ValueError(
            f"every environment has a fragment in every round; {sorted(set(range(count)) - set(last))} none"
        )
    index = torch.tensor([last[slot] for slot in range(count)])
    ended = rows["episode_length"][index] > 0
    actions, taken, own = [], batch.step["_action"], batch.own
    for slot, row in enumerate(index.tolist()):
        fresh = taken[row][own[row]].cpu().clone()
        if bool(ended[slot]):
            fresh = fresh[:0]
        elif int(rows["_before"][row]):
            fresh = torch.cat([state["actions"][slot], fresh])
        actions.append(fresh)
    return {
        "seed": state["seed"],
        "episode": rows["_episode"][index] + ended,
        "actions": actions,
        "earned": torch.where(ended, 0.0, rows["_earned"][index]),
        "memory": rows["_memory"][index].masked_fill(ended[:, None], 0.0) if "_memory" in rows else None,
    }


def same_state(one: State | None, other: State) -> bool:
    """Whether two states are of the same place, exactly."""
    if one is None or one["seed"] != other["seed"] or not torch.equal(one["episode"], other["episode"]):
        return False
    return all(torch.equal(a, b) for a, b in zip(one["actions"], other["actions"], strict=True))
