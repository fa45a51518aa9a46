"""Control policies in a folder: `policy.json` says what they are made of, `policy.safetensors` holds the weights and
the statistics of observations. Both are data: opening them runs no code."""

from __future__ import annotations

import dataclasses
import json
import math
import os
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from policyopt.policies.bodies import CNN, MLP, Recurrent
from policyopt.policies.control import Actor, ControlSpec
from policyopt.policies.heads import HEADS
from policyopt.policies.spaces import Box, Discrete, Multi, Observations

SPEC, WEIGHTS = "policy.json", "policy.safetensors"
_FORMAT, _VERSION = "policyopt control policy", 1
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


def save_control(policy: Actor, folder: str | Path) -> None:
    """Write the policy; the folder is made. Both files are whole or as they were."""
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    dtype = str(policy.out.weight.dtype).removeprefix("torch.")
    content = {"format": _FORMAT, "version": _VERSION, "dtype": dtype, **_plain(policy.spec)}
    weights = {name: value.detach().cpu().contiguous() for name, value in policy.state_dict().items()}
    _replace(folder / WEIGHTS, lambda path: save_file(weights, path))
    _replace(folder / SPEC, lambda path: path.write_text(json.dumps(content, indent=2, allow_nan=False) + "\n"))


def load_control(folder: str | Path) -> Actor:
    """The policy of a folder. PolicyFolderError: a file is missing, is no policy, or the two do not fit."""
    folder = Path(folder)
    for name in (SPEC, WEIGHTS):
        if not (folder / name).is_file():
            raise PolicyFolderError(
                f"{str(folder)!r} has no {name}; a control policy is a folder of {SPEC} and {WEIGHTS}, as training "
                "writes it"
            )
    spec, dtype = _opened(folder / SPEC)
    try:
        policy = Actor(spec, torch.Generator().manual_seed(0)).to(dtype)
        policy.load_state_dict(load_file(folder / WEIGHTS))
    except (SafetensorError, RuntimeError, TypeError, ValueError) as error:
        raise PolicyFolderError(f"{str(folder / WEIGHTS)!r} does not fit {SPEC} beside it: {error}") from error
    return policy


def _replace(path: Path, write: Any) -> None:
    temporary = path.with_name(path.name + ".tmp")
    write(temporary)
    os.replace(temporary, path)


def _opened(path: Path) -> tuple[ControlSpec, torch.dtype]:
    try:
        content = json.loads(path.read_text())
        if content.pop("format") != _FORMAT or content.pop("version") != _VERSION:
            raise ValueError(f"it is no {_FORMAT} of version {_VERSION}")
        dtype = _TYPES[content.pop("dtype")]
        spec = _made(content)
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise PolicyFolderError(
            f"{str(path)!r} does not describe a control policy: {type(error).__name__}: {error}; it was changed or "
            "written by another version"
        ) from error
    if not isinstance(spec, ControlSpec):
        raise PolicyFolderError(f"{str(path)!r} describes {type(spec).__name__}, not a whole control policy")
    return spec, dtype


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
