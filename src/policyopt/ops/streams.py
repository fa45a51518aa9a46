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
    rows = zip(*(batch.row[name].tolist() for name in ("_env", "_episode", "_before", "episode_length")), strict=True)
    newest: dict[int, tuple[int, int, int, int]] = {}  # environment -> episode, steps before, row, its end or 0
    for row, (slot, episode, before, length) in enumerate(rows):
        newest[slot] = max(newest.get(slot, (-1, -1, -1, 0)), (episode, before, row, length))
    count = max(newest) + 1
    if len(newest) < count:
        without = sorted(set(range(count)) - set(newest))
        raise ValueError(f"every environment has a row in every round; {without} have none")
    actions, episodes, ended, last = [], [], [], []
    for slot in range(count):
        episode, before, row, length = newest[slot]
        fresh = batch.step["_action"][row][batch.own[row]].cpu()
        if length:
            fresh = fresh[:0]
        actions.append(torch.cat([state["actions"][slot], fresh]) if before and not length else fresh.clone())
        episodes.append(episode + (length > 0))
        ended.append(length > 0)
        last.append(row)
    over = torch.tensor(ended)
    memory = batch.row.get("_memory")
    return {
        "seed": state["seed"],
        "episode": torch.tensor(episodes),
        "actions": actions,
        "earned": torch.where(over, 0.0, batch.row["_earned"][last].cpu()),
        "memory": None if memory is None else memory[last].cpu().masked_fill(over[:, None], 0.0),
    }


def same_state(one: State | None, other: State) -> bool:
    """Whether two states are of the same place, exactly."""
    if one is None or one["seed"] != other["seed"] or not torch.equal(one["episode"], other["episode"]):
        return False
    return all(torch.equal(a, b) for a, b in zip(one["actions"], other["actions"], strict=True))
