"""The processes of one run: what they say to each other, always by name, always with a deadline."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh
from torch.distributed.distributed_c10d import PrefixStore  # pyright: ignore[reportPrivateImportUsage]

from policyopt.runtime.pulse import Pulse, Store

_APART = (
    "A reward, world or part of this run is no function of its inputs and the seed; mend it, or use runtime.trainers=1"
)


class RankError(RuntimeError):
    """A process of the run died, froze, or does not do what the others do. Names the ranks and the phase."""


@dataclass
class Ranks:
    """This process among those that train a run together; made by `joined`."""

    rank: int
    count: int
    mesh: DeviceMesh
    store: Store
    pulse: Pulse
    _phase: list[str] = field(default_factory=lambda: ["start"])

    @property
    def leads(self) -> bool:
        return self.rank == 0

    def place(self, device: torch.device) -> None:
        """Models are on this device. RankError: more processes than accelerators."""
        if device.type != self.mesh.device_type:
            here, there = int(os.environ.get("LOCAL_WORLD_SIZE", self.count)), torch.cuda.device_count()
            if device.type == "cuda" and there < here:
                raise RankError(
                    f"{here} processes of this machine need an accelerator each, and it has {there}; use "
                    f"runtime.trainers={there} or policy.device=cpu"
                )
            self.mesh = init_device_mesh(device.type, (self.count,))

    @contextlib.contextmanager
    def phase(self, name: str) -> Iterator[None]:
        """What is done inside, for errors. A failed exchange is told as who is missing, and in what they were."""
        self._phase.append(name)
        self.pulse.phase = name
        try:
            yield
        except (dist.DistBackendError, dist.DistNetworkError, RuntimeError) as error:
            if isinstance(error, RankError) or not _of_exchange(error):
                raise
            raise RankError(
                f"rank {self.rank} of {self.count} could not go on in {' of '.join(self._phase[:0:-1])}: "
                f"{self.pulse.missing()}. Go on from the last checkpoint. ({_first_line(error)})"
            ) from error
        finally:
            self._phase.pop()
            self.pulse.phase = self._phase[-1]

    def gather(self, value: Any) -> list[Any]:
        """Every rank's value, in their order. Values come from the run's own processes."""
        found: list[Any] = [None] * self.count
        dist.all_gather_object(found, (self._phase[-1], value))
        phases = [phase for phase, _ in found]
        if len(set(phases)) > 1:
            raise RankError(
                f"the ranks have come apart: they are in {', '.join(f'{n}: {p}' for n, p in enumerate(phases))}. "
                f"{_APART}"
            )
        return [given for _, given in found]

    def from_lead(self, phase: str, make: Callable[[], Any]) -> Any:
        """What rank 0 makes, on every rank."""
        with self.phase(phase):
            return self.gather(make() if self.leads else None)[0]

    def sum(self, x: Tensor) -> Tensor:
        """Over ranks, the same to the bit on all."""
        summed = x.clone()
        dist.all_reduce(summed)
        return summed

    def agree(self, what: str, value: Any) -> None:
        """RankError unless every rank has the same value."""
        values = self.gather(value)
        strange = [rank for rank, other in enumerate(values) if other != values[0]]
        if strange:
            raise RankError(
                f"ranks {strange} have another {what} than rank 0 ({values[strange[0]]} and {values[0]}), so they "
                f"would train different models. {_APART}"
            )


def _of_exchange(error: BaseException) -> bool:
    """Whether an error is of processes that could not reach each other; gloo raises plain RuntimeErrors."""
    if isinstance(error, (dist.DistBackendError, dist.DistNetworkError)):
        return True
    text = str(error)
    return any(sign in text for sign in ("gloo", "Timed out", "timed out", "Connection", "Broken pipe", "NCCL"))


def _first_line(error: BaseException) -> str:
    return str(error).strip().splitlines()[0][:200]


@contextlib.contextmanager
def joined(rank: int, count: int, store: Store, deadline: float) -> Iterator[Ranks]:
    """Meet the other ranks at a store; inside, exchanges wait at most `deadline` seconds. NCCL for what is on
    accelerators, of which every process takes its own, else gloo."""
    backend, local = "gloo", int(os.environ.get("LOCAL_RANK", rank))
    if torch.cuda.is_available():
        backend = "cpu:gloo,cuda:nccl"
        torch.cuda.set_device(local % torch.cuda.device_count())
    with Pulse(rank, count, store, deadline) as pulse:
        dist.init_process_group(
            backend, rank=rank, world_size=count, store=PrefixStore("ranks", store), timeout=timedelta(0, deadline)
        )
        try:
            yield Ranks(rank, count, init_device_mesh("cpu", (count,)), store, pulse)
        finally:
            dist.destroy_process_group()


def shares(weights: Sequence[float] | Tensor, count: int) -> list[list[int]]:
    """Numbers of items dealt out to `count` piles, the heaviest first, to and fro: about as many items in every pile
    and about as much weight."""
    order = sorted(range(len(weights)), key=lambda item: (-float(weights[item]), item))
    piles: list[list[int]] = [[] for _ in range(count)]
    for place, item in enumerate(order):
        lap, at = divmod(place, count)
        piles[count - 1 - at if lap % 2 else at].append(item)
    return [sorted(pile) for pile in piles]
