"""A policy as data in a folder: JSON that says what it is made of, and safetensors of its weights. Opening it runs no
code."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from policyopt.plain import from_json

# What a file that is none of ours can raise when it is read, or when a policy is made of it.
BROKEN = (OSError, SafetensorError, RuntimeError, TypeError, ValueError, LookupError, AttributeError, ArithmeticError)

# Sizes that need not be seen in the weights: numbers of steps, say.
_LARGEST, _LONGEST = 4096, 1024


@dataclass(frozen=True)
class Folder:
    """One kind of folder: NAME.json and NAME.safetensors. title: what it holds, in words."""

    name: str
    title: str
    version: int
    error: type[ValueError]

    @property
    def spec(self) -> str:
        return f"{self.name}.json"

    @property
    def weights(self) -> str:
        return f"{self.name}.safetensors"

    def holds(self, folder: str | Path) -> bool:
        return (Path(folder) / self.spec).is_file()

    def write(self, folder: str | Path, content: Mapping[str, Any], policy: nn.Module) -> None:
        """The folder is made. Both files are whole or as they were."""
        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        weights = {name: value.detach().cpu().contiguous() for name, value in policy.state_dict().items()}
        temporary = folder / (self.weights + ".tmp")
        save_file(weights, temporary)
        os.replace(temporary, folder / self.weights)
        temporary = folder / (self.spec + ".tmp")
        said = {"format": f"policyopt {self.title}", "version": self.version, **content}
        temporary.write_text(json.dumps(said, indent=2, allow_nan=False) + "\n", encoding="utf-8")
        os.replace(temporary, folder / self.spec)

    def read(self, folder: str | Path) -> tuple[dict[str, Any], dict[str, Tensor]]:
        """What the two files hold. `error`: one is missing; others as in `BROKEN`, see `refusal`."""
        folder = Path(folder)
        for name in (self.spec, self.weights):
            if not (folder / name).is_file():
                raise self.error(
                    f"{str(folder)!r} has no {name}; a {self.title} is a folder of {self.spec} and {self.weights}, as "
                    "training writes it"
                )
        content = from_json((folder / self.spec).read_bytes())
        if content.pop("format") != f"policyopt {self.title}" or content.pop("version") != self.version:
            raise ValueError(f"it is no policyopt {self.title} of version {self.version}")
        weights = load_file(folder / self.weights)
        _bound(content, max(_LARGEST, sum(value.numel() for value in weights.values())), max(_LONGEST, len(weights)))
        return content, weights

    def refusal(self, folder: str | Path, error: Exception) -> ValueError:
        said = f"{type(error).__name__}: {str(error)[:500]}"
        return self.error(
            f"{str(folder)!r} can not be opened as a {self.title}: {said}; it was changed or written by another version"
        )


def _bound(value: Any, largest: int, longest: int) -> None:
    """ValueError: a policy of these sizes would be larger than its weights, which would only show once it is made."""
    if isinstance(value, dict):
        for item in value.values():
            _bound(item, largest, longest)
    elif isinstance(value, list):
        if len(value) > longest and all(type(item) is int for item in value):
            raise ValueError(f"it lists {len(value)} sizes, its weights are {longest} tensors at most")
        for item in value:
            _bound(item, largest, longest)
    elif type(value) is int and value > largest:
        raise ValueError(f"it has a size of {value}, its weights {largest} numbers at most")
