"""The state of a run that several processes train, in one folder that each writes a part of, with
torch.distributed.checkpoint.

round-N.ckpt/ holds the tensors of models and optimisers as safetensors, every process's shards in a file of its own,
and `state.ckpt` (`runtime.checkpoint`), everything else with the digests of those files. The folder takes its place
when it is whole. It is read by any number of processes, each of its own shards; reading runs no code.
"""

from __future__ import annotations

import hashlib
import warnings
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.distributed.checkpoint.api import CheckpointException
from torch.distributed.checkpoint.hf_storage import HuggingFaceStorageReader, HuggingFaceStorageWriter
from torch.distributed.checkpoint.metadata import TensorStorageMetadata
from torch.distributed.checkpoint.state_dict_loader import load
from torch.distributed.checkpoint.state_dict_saver import save
from torch.distributed.tensor import DTensor

from policyopt.runtime.atomic import DiskFullError, flush_to_disk, is_full, writing

STATE = "state.ckpt"
_CHUNK = 1 << 20
_SECTIONS = ("models", "optimizers")


class ShardsError(RuntimeError):
    """A checkpoint of several processes that one of them could not write."""


Allocate = Callable[[str, torch.Size, torch.dtype], Tensor]
"""(place, size, dtype) -> the tensor that is read into: a whole one, or this process's shards of it."""


def whole(place: str, size: torch.Size, dtype: torch.dtype) -> Tensor:
    return torch.empty(size, dtype=dtype)


def divided(state: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """What is written as one object, and the tensors, by place, that are written by shards. In the object they are
    replaced by their places."""
    tensors: dict[str, Tensor] = {}
    places: dict[Any, str] = {}  # of tensors that several names hold (tied weights): safetensors wants one of each

    def walk(value: Any, place: str) -> Any:
        # A number costs nothing, and nothing can not be divided.
        if isinstance(value, Tensor) and (isinstance(value, DTensor) or (value.dim() and value.numel())):
            kept = place if isinstance(value, DTensor) else places.setdefault(_memory(value), place)
            tensors[kept] = value.detach()
            return {_PLACE: kept}
        if isinstance(value, Mapping):
            return {key: walk(item, f"{place}/{key}") for key, item in value.items()}
        return value

    rest = {name: walk(value, name) if name in _SECTIONS else value for name, value in state.items()}
    return rest, tensors


_PLACE = "tensor at"


def _memory(value: Tensor) -> Any:
    return value.data_ptr(), value.dtype, tuple(value.shape), value.stride()


def united(rest: Any, tensors: Mapping[str, Tensor]) -> Any:
    """The inverse of `divided`."""
    if isinstance(rest, dict):
        if set(rest) == {_PLACE}:
            return tensors[rest[_PLACE]]
        return {key: united(item, tensors) for key, item in rest.items()}
    return rest


def write_shards(folder: Path, tensors: dict[str, Tensor]) -> None:
    """On every rank: this one's part, into a folder that is not yet in its place. DiskFullError on every rank if there
    was no space on one."""
    writer = HuggingFaceStorageWriter(str(folder), save_distributed=True)
    try:
        save(tensors, storage_writer=writer)
    except (CheckpointException, OSError) as error:
        if (full := _full(error)) is not None:
            raise DiskFullError(full.errno, f"no space left to write {folder}: {full.strerror}") from error
        raise ShardsError(f"the checkpoint {folder} could not be written: {error}") from error


def _full(error: BaseException) -> OSError | None:
    """The "no space left" behind an error, of this rank or another."""
    causes = [error, *(cause for cause, _ in getattr(error, "failures", {}).values())]
    return next((cause for cause in causes if isinstance(cause, OSError) and is_full(cause)), None)


def flush(folder: Path) -> None:
    """Return only when the files of shards would survive a power cut."""
    for path in folder.glob("*.safetensors"):
        with writing(path), path.open("rb+") as file:
            flush_to_disk(file)


def digests(folder: Path) -> dict[str, str]:
    """Of every file of shards."""
    found = {}
    for path in sorted(folder.glob("*.safetensors")):
        digest = hashlib.blake2b(digest_size=32)
        with path.open("rb") as file:
            while chunk := file.read(_CHUNK):
                digest.update(chunk)
        found[path.name] = digest.hexdigest()
    return found


def read_shards(folder: Path, allocate: Allocate = whole) -> dict[str, Tensor]:
    """By place. Every process reads by itself what it asks for."""
    reader = HuggingFaceStorageReader(str(folder))
    known = reader.read_metadata().state_dict_metadata
    found = {
        place: allocate(place, told.size, told.properties.dtype)
        for place, told in known.items()
        if isinstance(told, TensorStorageMetadata)
    }
    with warnings.catch_warnings():
        # It is the intent.
        warnings.filterwarnings("ignore", "torch.distributed is disabled, unavailable or uninitialized", UserWarning)
        load(found, storage_reader=reader, no_dist=True)
    return found


def unfinished(path: Path) -> Path:
    """Where a checkpoint is written until it is whole."""
    return path.with_name(f".{path.name}.part")
