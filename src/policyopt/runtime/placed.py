"""The processes that train one run as actors of a Ray cluster: placed, started, watched and ended together.

What a rank does and what is said of one that is lost is that of `runtime.launch`; only who starts it differs. Rank 0's
words (a bar, the outcome) appear where the command was given, and Ctrl-C there reaches rank 0.
"""

from __future__ import annotations

import _thread
import contextlib
import io
import os
import signal
import sys
import threading
import time
from collections.abc import Iterator
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist
from torch.distributed import TCPStore  # pyright: ignore[reportPrivateImportUsage]

from policyopt.runtime.cluster import READY, ClusterError, Needs, first_line, free_slots, ray_package
from policyopt.runtime.interrupt import NOTICE, handled
from policyopt.runtime.launch import ENDING, FROZEN, Work, cause, take_part
from policyopt.runtime.pulse import Pulses, Store

LOOK = 0.1  # seconds between two looks at the ranks


class Place:
    """In an actor: one rank."""

    def where(self) -> str:
        return f"process {os.getpid()} on {os.uname().nodename}"

    def train(self, rank: int, count: int, at: tuple[str, int], deadline: float, work: Work, given: Any) -> int:
        """Its part from start to end; the exit code. given: for `work`; the folder, the terminal's width (None: none)
        and the threads of torch come before."""
        folder, columns, threads, *given = given
        os.chdir(folder)
        torch.set_num_threads(threads)
        if torch.cuda.is_available():  # those that Ray gave this actor, and nobody else
            os.environ.update(LOCAL_RANK="0", LOCAL_WORLD_SIZE="1")
        store: Store = TCPStore(*at, is_master=False, timeout=timedelta(seconds=60))
        if rank:
            return take_part(rank, count, store, deadline, work, tuple(given))
        with _spoken(store.clone(), columns), _heard(store.clone()):
            return take_part(rank, count, store, deadline, work, tuple(given))


def launch_placed(count: int, work: Work, given: tuple[Any, ...], deadline: float, needs: Needs) -> None:
    """Run `work` on `count` actors, each of which occupies `needs`, until all have ended. Raises what `launch` does,
    and ClusterError if there is no room for all of them."""
    ray = ray_package()
    host = ray.util.get_node_ip_address()
    store = TCPStore(host, 0, is_master=True, wait_for_workers=False, timeout=timedelta(seconds=60))
    columns = os.get_terminal_size().columns if sys.stdout.isatty() else None
    beside = (os.getcwd(), columns, max(1, int(needs.cpus)))
    with _placed(count, needs) as actors:
        going = {
            actor.train.remote(rank, count, (host, store.port), deadline, work, (*beside, *given)): rank
            for rank, actor in enumerate(actors)
        }
        with _signals(store):
            _watch(going, count, store)


@contextlib.contextmanager
def _placed(count: int, needs: Needs) -> Iterator[list[Any]]:
    """A place for each rank in one placement group: there is room for all of them, or none starts."""
    from ray.util.placement_group import placement_group, remove_placement_group  # pyright: ignore[reportMissingImports]

    ray, actors = ray_package(), []
    group = placement_group([needs.bundle()] * count, strategy="PACK")
    try:
        if not group.wait(READY):
            raise ClusterError(
                f"phase start: {count} trainers found no room within {READY:g} s. Each needs {needs.bundle()}; free in "
                f"the cluster are {free_slots()}. Add machines, or ask for less (runtime.trainers)"
            )
        for rank in range(count):
            actors.append(ray.remote(Place).options(**needs.options(group, rank)).remote())
        yield actors
    finally:
        for actor in actors:
            ray.kill(actor, no_restart=True)
        remove_placement_group(group)


def _watch(going: dict[Any, int], count: int, store: Store) -> None:
    """Until all have ended. What goes wrong is told once the others had a moment to say what they know of it."""
    ray, pulses, said = ray_package(), Pulses(store, count), _Said(store)
    wrong: dict[int, tuple[str, bool]] = {}
    until = float("inf")
    while going and time.monotonic() < until:
        for one in ray.wait(list(going), num_returns=len(going), timeout=LOOK)[0]:
            rank = going.pop(one)
            try:
                code = ray.get(one)
            except ray.exceptions.RayError as error:
                wrong[rank] = (f"was lost ({first_line(getattr(error, 'cause', None) or error)})", True)
            else:
                if code:
                    wrong[rank] = (f"ended with exit code {code}", False)
        said.show()
        if wrong:
            until = min(until, time.monotonic() + ENDING)
        still = set(pulses.frozen(FROZEN)) & set(going.values())
        if still and not wrong:
            wrong[min(still)] = (f"has given no sign of life for {FROZEN:g} s", True)
            break
    said.show()
    if wrong:
        first = min(wrong, key=lambda rank: not wrong[rank][1])  # one that was lost, if any was
        how, lost = wrong[first]
        raise cause(store, count, pulses, first, how, lost=lost) from None


# -- words and signals -------------------------------------------------------------------------------------------------
class _Spoken(io.TextIOBase):
    """Text for the process that started this one."""

    def __init__(self, store: Store, terminal: bool):  # noqa: FBT001
        self._store, self._terminal, self._said, self._turn = store, terminal, 0, threading.Lock()

    def write(self, text: str) -> int:
        with self._turn, contextlib.suppress(RuntimeError, dist.DistError):  # the store is gone, and who would read
            if text:
                self._store.set(f"said/{self._said}", text)
                self._said += 1
        return len(text)

    def writable(self) -> bool:
        return True

    def isatty(self) -> bool:
        return self._terminal


class _Said:
    """What rank 0 has written, for this process's terminal."""

    def __init__(self, store: Store):
        self._store, self._shown = store, 0

    def show(self) -> None:
        while self._store.check([key := f"said/{self._shown}"]):
            sys.stdout.write(self._store.get(key).decode())
            self._store.delete_key(key)
            self._shown += 1
        sys.stdout.flush()


@contextlib.contextmanager
def _spoken(store: Store, columns: int | None) -> Iterator[None]:
    """Inside, what is printed is told to the process that started this one. columns: of its terminal, if it has one."""
    if columns is not None:
        os.environ["COLUMNS"] = str(columns)
    with contextlib.redirect_stdout(_Spoken(store, columns is not None)):
        yield


@contextlib.contextmanager
def _signals(store: Store) -> Iterator[None]:
    """Signals to this process are for rank 0, on whatever machine it is."""
    count = 0

    def pass_on(number: int, frame: Any) -> None:
        nonlocal count
        store.set(f"signal/{count}", str(number))
        count += 1
        with contextlib.suppress(OSError):
            os.write(2, NOTICE)

    with handled({signal.SIGINT: pass_on, signal.SIGTERM: pass_on}):
        yield


@contextlib.contextmanager
def _heard(store: Store) -> Iterator[None]:
    """Inside, signals that the process which started this one has passed on arrive here."""
    over = threading.Event()

    def listen() -> None:
        count = 0
        with contextlib.suppress(RuntimeError, dist.DistError):  # the store is gone
            while not over.wait(5 * LOOK):
                while store.check([f"signal/{count}"]):
                    _thread.interrupt_main(signal.Signals(int(store.get(f"signal/{count}"))))
                    count += 1

    thread = threading.Thread(target=listen, name="signals", daemon=True)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join(timeout=5)
