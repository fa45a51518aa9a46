"""Rank 0 leads a run: it samples, trains and saves as a single process does, and tells the others when to do the same.

What only one process may do (the run's folder, evaluation, progress) is rank 0's alone. The others wait for what it
says at the store, where they also see whether it lives.
"""

from __future__ import annotations

import json
import logging
import shutil
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.distributed.tensor import DTensor, Shard, distribute_tensor, empty

from policyopt.compose import Program
from policyopt.ops.fingerprint import digest
from policyopt.run import Run
from policyopt.runtime.atomic import DiskFullError, flush_folder
from policyopt.runtime.checkpoint import CheckpointStore, load, load_shards, save
from policyopt.runtime.launch import wait
from policyopt.runtime.pulse import Pulses
from policyopt.runtime.ranks import Ranks
from policyopt.runtime.sharded_checkpoint import STATE, digests, divided, flush, unfinished, whole, write_shards
from policyopt.train import rounds

logger = logging.getLogger(__name__)


class Lead:
    """Rank 0's word to the others, one after another."""

    def __init__(self, ranks: Ranks):
        self.ranks, self._told = ranks, 0

    def tell(self, do: str, **given: Any) -> None:
        self.ranks.store.set(_key(self._told), json.dumps({"do": do, **given}))
        self._told += 1


def heard(ranks: Ranks) -> Iterator[dict[str, Any]]:
    """What rank 0 says, until it says stop. RankError if it gives no sign of life."""
    pulses, place = Pulses(ranks.store.clone(), ranks.count), 0
    while True:
        with ranks.phase("waiting for rank 0"):
            said = json.loads(wait(ranks.store, _key(place), pulses, 0))
        if said["do"] == "stop":
            return
        yield said
        place += 1


def _key(place: int) -> str:
    return f"told/{place}"


@dataclass
class SharedStore(CheckpointStore):
    """Checkpoints that all ranks write together, as rank 0 sees them."""

    lead: Lead | None = None

    def _save(self, state: Mapping[str, Any], path: Path) -> None:
        assert self.lead is not None
        self.lead.tell("save", path=str(path))
        write_together(self.lead.ranks, path, state)

    def _load(self, path: Path) -> dict[str, Any]:
        assert self.lead is not None
        state = own_part(self.lead.ranks, path)
        self.lead.tell("load", path=str(path))
        return state


def follow(ranks: Ranks, run: Run, program: Program) -> None:
    """What every rank but 0 does."""
    loop = rounds(run, program)
    for said in heard(ranks):
        if said["do"] == "round":
            pace = getattr(program, "pace", None)  # a stage with a budget is as long as rank 0 has found
            if pace is not None:
                pace(said["last"])
            next(loop)
        elif said["do"] == "save":
            try:
                write_together(ranks, Path(said["path"]), run.state())
            except DiskFullError as error:  # rank 0 has the same and says what to do
                logger.warning("%s", error)
        elif said["do"] == "load":
            run.load_state(own_part(ranks, Path(said["path"])), program)


def write_together(ranks: Ranks, path: Path, state: Mapping[str, Any]) -> None:
    """On every rank: a checkpoint that is whole, or not there. Refused if the ranks have come to differ."""
    part = unfinished(path)
    with ranks.phase("checkpoint"):
        ranks.agree("weights", [state["step"], *(digest(weights) for weights in state["models"].values())])
        if ranks.leads:
            for left in part.parent.glob(unfinished(Path("*.ckpt")).name):
                shutil.rmtree(left, ignore_errors=True)
            part.mkdir(parents=True)
        ranks.gather(None)  # the folder is there
        rest, tensors = divided(state)
        write_shards(part, tensors)
        if ranks.leads:
            flush(part)
            save({**rest, "files": digests(part), "ranks": ranks.count}, part / STATE)
            part.replace(path)
            flush_folder(path.parent)


def own_part(ranks: Ranks, path: Path) -> dict[str, Any]:
    """A state with this rank's shards of what optimisers keep; from a file, or from any number of ranks' shards."""

    def allocate(place: str, size: torch.Size, dtype: torch.dtype) -> Tensor:
        if not place.startswith("optimizers/"):
            return whole(place, size, dtype)
        return empty(*size, dtype=dtype, device_mesh=ranks.mesh, placements=[Shard(0)])

    state = load_shards(path, allocate) if path.is_dir() else load(path)
    return {**state, "optimizers": _sharded(state["optimizers"], ranks)}


def _sharded(value: Any, ranks: Ranks) -> Any:
    if isinstance(value, Tensor) and value.dim() and not isinstance(value, DTensor):
        placed = value.to(ranks.mesh.device_type)
        return distribute_tensor(placed, ranks.mesh, [Shard(0)], src_data_rank=None)
    if isinstance(value, dict):
        return {key: _sharded(item, ranks) for key, item in value.items()}
    return value
