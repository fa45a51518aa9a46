"""Weights of a policy as checkpoints name them, and their place in a model that keeps some of them side by side."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from policyopt.engines.native import EngineError
from policyopt.policies.language import Language

_INTEGERS = {1: torch.uint8, 2: torch.int16, 4: torch.int32, 8: torch.int64}


class StaleWeightsError(RuntimeError):
    """An engine's copy of the weights is not what was sent to it."""


def policy_weights(policy: Language) -> dict[str, Tensor]:
    """Parameters and buffers by their names in a checkpoint, detached. Adapters are merged into a copy of the model, as
    in a checkpoint, so those of a policy with adapters cost its memory once more."""
    model = copy.deepcopy(policy.model).merge_and_unload() if policy.adapted else policy.causal
    return {name: tensor.detach() for name, tensor in model.state_dict().items()}


def checksum(tensor: Tensor) -> int:
    """Changed by a change of a single bit, and by values that change places: the bits as integers, weighed by row and
    by column. Two passes over the memory."""
    plain = tensor.detach()
    plain = plain.contiguous().view(_INTEGERS[plain.element_size()])
    plain = plain.view(1, -1) if plain.dim() < 2 else plain.flatten(1)
    by_row, by_column = plain.sum(1, dtype=torch.int64), plain.sum(0, dtype=torch.int64)
    # Integers wrap around. Odd weights are invertible, so that no bit is multiplied away.
    rows = (_odd(by_row) * by_row).sum()
    columns = (_odd(by_column) * by_column).sum()
    return int(rows * 1_000_003 + columns)


def _odd(like: Tensor) -> Tensor:
    return 2 * torch.arange(len(like), device=like.device) + 1


def checksums(weights: Mapping[str, Tensor]) -> dict[str, int]:
    return {name: checksum(tensor) for name, tensor in weights.items()}


def places(model: nn.Module, weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The part of a model's memory that holds each tensor. A module may join others along their rows
    (`packed_modules_mapping`: joint name -> their names in order); a vocabulary may be padded behind its rows.

    EngineError: a tensor without a place, or a parameter that no tensor fills.
    """
    packed: Any = getattr(model, "packed_modules_mapping", {})
    joint = {part: (whole, parts) for whole, parts in packed.items() for part in parts}
    found: dict[str, Tensor] = {}
    filled: dict[int, int] = {}  # memory -> rows
    for name, tensor in weights.items():
        module, _, leaf = name.rpartition(".")
        parent, _, child = module.rpartition(".")
        start = 0
        if child in joint:
            whole, parts = joint[child]
            before = [f"{parent}.{part}.{leaf}" for part in parts[: parts.index(child)]]
            start = sum(len(weights[one]) for one in before if one in weights)
            module = f"{parent}.{whole}"
        held = _tensor(model, module, leaf, name)
        place = held[start : start + len(tensor)] if held.dim() else held
        if place.shape != tensor.shape:
            raise EngineError(f"the engine has no place for {name!r} of shape {tuple(tensor.shape)}; use engine=native")
        found[name] = place
        padded = getattr(model.get_submodule(module), "org_vocab_size", None) == len(tensor)
        rows = len(held) if padded or not held.dim() else start + len(tensor)
        filled[held.data_ptr()] = max(rows, filled.get(held.data_ptr(), 0))
    empty = [name for name, one in model.named_parameters() if filled.get(one.data_ptr()) != len(one)]
    if empty:
        raise EngineError(f"the policy has no weights for (all of) the engine's {empty[:3]}; use engine=native")
    return found


def _tensor(model: nn.Module, module: str, leaf: str, name: str) -> Tensor:
    try:
        held = getattr(model.get_submodule(module), leaf)
    except AttributeError as error:
        raise EngineError(f"the engine's model has no {name!r}: {error}; use engine=native") from error
    return held.detach()


def compare(sent: Mapping[str, int], held: Mapping[str, int]) -> None:
    """StaleWeightsError unless both checksums of every tensor are equal."""
    stale = [name for name in sent if held.get(name) != sent[name]]
    if stale:
        shown = ", ".join(stale[:4]) + (", ..." if len(stale) > 4 else "")
        raise StaleWeightsError(
            f"after a sync the engine holds the policy's weights, bit by bit; {len(stale)} of {len(sent)} tensors have "
            f"another checksum there: {shown}. Nothing was sampled with them; start the run again, or use engine=native"
        )
