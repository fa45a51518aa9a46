"""Control policies in a folder: `policy.json` says what they are made of, `policy.safetensors` holds the weights and
the statistics of observations. Both are data: opening them runs no code."""

from __future__ import annotations

import dataclasses
import math
from pathlib import Path
from typing import Any

import torch

from policyopt.policies.bodies import CNN, MLP, Recurrent
from policyopt.policies.control import Actor, ControlSpec
from policyopt.policies.folders import BROKEN, Folder
from policyopt.policies.heads import HEADS
from policyopt.policies.spaces import Box, Discrete, Multi, Observations

_KINDS: dict[str, Any] = {
    "observations": Observations,
    "discrete": Discrete,
    "multi": Multi,
    "box": Box,
    "mlp": MLP,
    "cnn": CNN,
    "recurrent": Recurrent,
    "policy": ControlSpec,
    **{f"{name} head": head for name, head in HEADS.items()},
}
_NAMES = {kind: name for name, kind in _KINDS.items()}
_TYPES = {"float32": torch.float32, "float64": torch.float64}


class PolicyFolderError(ValueError):
    """A folder that can not be opened as a control policy; says what is wrong with it and the remedy."""


FOLDER = Folder("policy", "control policy", 1, PolicyFolderError)


def save_control(policy: Actor, folder: str | Path) -> None:
    """Write the policy; the folder is made. Both files are whole or as they were."""
    dtype = str(policy.out.weight.dtype).removeprefix("torch.")
    FOLDER.write(folder, {"dtype": dtype, **_plain(policy.spec)}, policy)


def load_control(folder: str | Path) -> Actor:
    """The policy of a folder. PolicyFolderError: a file is missing, is no policy, or the two do not fit."""
    try:
        content, weights = FOLDER.read(folder)
        dtype = _TYPES[content.pop("dtype")]
        spec = _made(content)
        if not isinstance(spec, ControlSpec):
            raise TypeError(f"{FOLDER.spec} describes {type(spec).__name__}, not a whole control policy")
        policy = Actor(spec, torch.Generator().manual_seed(0)).to(dtype)
        policy.load_state_dict(weights)
    except PolicyFolderError:
        raise
    except BROKEN as error:
        raise FOLDER.refusal(folder, error) from error
    return policy


def _plain(value: Any) -> Any:
    """JSON of records: {"kind": ..., fields}, infinite bounds as text."""
    if dataclasses.is_dataclass(value):
        fields = {field.name: _plain(getattr(value, field.name)) for field in dataclasses.fields(value)}
        return {"kind": _NAMES[type(value)], **fields}
    if isinstance(value, tuple):
        return [_plain(item) for item in value]
    return str(value) if isinstance(value, float) and not math.isfinite(value) else value


def _made(value: Any) -> Any:
    if isinstance(value, dict):
        kind = _KINDS[value["kind"]]
        fields = {name: _made(item) for name, item in value.items() if name != "kind"}
        missing = {field.name for field in dataclasses.fields(kind)} - set(fields)
        if missing:
            raise ValueError(f"{value['kind']} lacks {sorted(missing)}")
        return kind(**fields)
    if isinstance(value, list):
        return tuple(map(_made, value))
    return float(value) if value in ("inf", "-inf") else value
