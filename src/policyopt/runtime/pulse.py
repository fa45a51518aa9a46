"""Signs of life of the processes of a run, at a store they all reach, so that failed exchanges name who is missing."""

from __future__ import annotations

import threading
import time
from typing import Any

import torch.distributed as dist

Store = Any  # torch exports no type for its stores
BEAT = 0.5  # seconds between two signs of life
STILL = 8  # beats without a sign after which a process counts as missing once an exchange has failed


class Pulse:
    """Tells the others every BEAT seconds that this process lives and what it does. Clocks are not compared: a process
    lives if its count of beats goes on."""

    def __init__(self, rank: int, count: int, store: Store, deadline: float):
        self.rank, self.count, self.deadline, self.phase = rank, count, deadline, "start"
        self._store = store.clone()  # its own connection: another thread waits on the first one
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._run, name=f"pulse of rank {rank}", daemon=True)

    def __enter__(self) -> Pulse:
        self._thread.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._over.set()
        self._thread.join(timeout=5)

    def _run(self) -> None:
        beat = 0
        while not self._over.wait(BEAT if beat else 0):
            beat += 1
            try:
                self._store.set(_key(self.rank), f"{beat} {self.phase}")
            except (RuntimeError, dist.DistError):
                return  # the store is gone, and with it who would read this

    def missing(self) -> str:
        """Which other ranks give no sign of life, and what they did last; takes some seconds."""
        try:
            pulses = Pulses(self._store.clone(), self.count)
            for _ in range(STILL):
                pulses.look()
                time.sleep(BEAT)
            gone = [rank for rank in pulses.frozen((STILL - 2) * BEAT) if rank != self.rank]
            if gone:
                return " and ".join(f"rank {r} gives no sign of life (last in {pulses.phase(r)})" for r in gone)
        except (RuntimeError, dist.DistError):
            return "the store at which the processes meet is gone, so the process that started them has ended"
        return f"every other rank lives, but one has failed or took more than {self.deadline:g} s (runtime.deadline)"


class Pulses:
    """Looks at the signs of life of all ranks. Time counts only while this process itself goes on: if all of them are
    stopped for a while, by a suspended machine, nobody is missing afterwards."""

    def __init__(self, store: Store, count: int):
        self._store, self._count = store, count
        self._said = dict.fromkeys(range(count), "")
        self._still = dict.fromkeys(range(count), 0.0)
        self._looked = time.monotonic()

    def look(self) -> None:
        now = time.monotonic()
        passed, self._looked = min(now - self._looked, 2 * BEAT), now
        for rank in range(self._count):
            said = self._store.get(_key(rank)).decode() if self._store.check([_key(rank)]) else ""
            beats = said != self._said[rank] or not said  # a process that still starts is not missing
            self._still[rank] = 0.0 if beats else self._still[rank] + passed
            self._said[rank] = said

    def frozen(self, seconds: float) -> list[int]:
        """Ranks without a sign for so long."""
        if time.monotonic() - self._looked >= BEAT / 2:
            self.look()
        return [rank for rank, still in self._still.items() if still >= seconds]

    def phase(self, rank: int) -> str:
        """What a rank last said that it does."""
        return self._said[rank].partition(" ")[2] or "no phase yet"


def _key(rank: int) -> str:
    return f"pulse/{rank}"
