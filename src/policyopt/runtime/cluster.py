"""Ray: what other processes do for a run, on this machine or on a cluster; with deadlines, and changing no number.

A `Crew` is some actors of one kind (samplers, graders, scorers). They may come and go: one that is lost is replaced,
and what it was doing is given to another. Ray is imported when a crew is first needed.
"""

from __future__ import annotations

import itertools
import logging
import os
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

logger = logging.getLogger("policyopt")

ATTEMPTS = 3  # for one piece of work, each by another peer
READY = 600.0  # seconds within which the first peer of a crew must be there
_GRACE = 10.0  # seconds for what is ready already


class ClusterError(RuntimeError):
    """Something between processes can not go on. Names the peers and the phase."""


def ray_package() -> Any:
    try:
        import ray  # pyright: ignore[reportMissingImports]
    except ImportError as error:
        raise ClusterError("runtime=ray needs the package ray: pip install 'policyopt[ray]'") from error
    return ray


def connect(address: str | None, cpus: int) -> Callable[[], None]:
    """Connect to a cluster ("auto", "ray://HOST:10001"), or start one of `cpus` slots on this machine (None). Returns
    what ends the connection; one that is there already stays."""
    ray = ray_package()
    if ray.is_initialized():
        return lambda: None
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    os.environ.setdefault("RAY_worker_niceness", "0")  # Ray would let everything else on the machine go first
    # Its processes would end themselves after a minute in which the machine was suspended.
    os.environ.setdefault("RAY_gcs_rpc_server_reconnect_timeout_s", str(int(READY)))
    given: dict[str, Any] = {"address": address} if address else {"num_cpus": cpus, "include_dashboard": False}
    if not address:  # what is found here (a reward of the user's) is found there
        given["runtime_env"] = {"env_vars": {"PYTHONPATH": os.pathsep.join(path for path in sys.path if path)}}
    try:
        ray.init(**given, log_to_driver=False, logging_level=logging.ERROR)
    except (ConnectionError, RuntimeError, ValueError) as error:
        raise ClusterError(
            f"phase connecting: no Ray cluster answers at {address or 'this machine'}: {error}; start one with "
            "`ray start --head`, or leave runtime.address out"
        ) from error
    return ray.shutdown


@dataclass(frozen=True)
class Needs:
    """What one peer occupies: processor slots and accelerators."""

    cpus: float = 1
    gpus: float = 0

    def bundle(self) -> dict[str, float]:
        return {"CPU": self.cpus} | ({"GPU": self.gpus} if self.gpus else {})

    def options(self, group: Any, place: int = 0) -> dict[str, Any]:
        """Of an actor in a bundle of a placement group; it is never started again by Ray itself."""
        from ray.util.scheduling_strategies import PlacementGroupSchedulingStrategy  # pyright: ignore[reportMissingImports]

        strategy = PlacementGroupSchedulingStrategy(group, place)
        return {"num_cpus": self.cpus, "num_gpus": self.gpus, "max_restarts": 0, "scheduling_strategy": strategy}


class Host:
    """In an actor: an object that is made there, and answers calls of its methods by name."""

    def __init__(self, make: Callable[[], Any]):
        self._made = make()

    def ready(self) -> str:
        return f"process {os.getpid()} on {os.uname().nodename}"

    def do(self, method: str, given: tuple[Any, ...]) -> Any:
        return getattr(self._made, method)(*given)


@dataclass(eq=False)
class Peer:
    """An actor of a crew, in a placement group of its own. where: known once it is ready."""

    name: str
    actor: Any
    group: Any
    starting: Any
    where: str = ""

    def __str__(self) -> str:
        return f"{self.name} ({self.where or 'not ready yet'})"


@dataclass
class _Work:
    """What is left to do in one `Crew.map`."""

    todo: deque[int]
    busy: dict[Any, tuple[Peer, int, float]] = field(default_factory=dict)
    done: dict[int, Any] = field(default_factory=dict)
    failed: dict[int, list[str]] = field(default_factory=dict)


class Crew:
    """`count` actors that hold what `make` makes. kind: what they are called. deadline: seconds for a piece of work."""

    def __init__(self, kind: str, count: int, make: Callable[[], Any], needs: Needs, deadline: float):
        self.kind, self.count, self.needs, self.deadline = kind, count, needs, deadline
        self._make, self._numbers = make, itertools.count()
        self._turn = threading.Lock()  # sampling ahead and training may both ask
        self.ready: list[Peer] = []
        self.starting: list[Peer] = []
        self.lost: list[str] = []
        for _ in range(count):
            self._start()

    @property
    def strength(self) -> int:
        """How many there are to share work: those that are ready, or, before any is, those that will be."""
        return len(self.ready) or self.count

    def map(self, phase: str, calls: Sequence[tuple[str, tuple[Any, ...]]]) -> list[Any]:
        """The answers to some calls (method, arguments), in their order, by whoever is free."""
        with self._turn:
            return self._map(phase, calls)

    def _map(self, phase: str, calls: Sequence[tuple[str, tuple[Any, ...]]]) -> list[Any]:
        ray, work = ray_package(), _Work(deque(range(len(calls))))
        self._first(phase)
        while len(work.done) < len(calls):
            free = [peer for peer in self.ready if not any(peer is other for other, *_ in work.busy.values())]
            for peer in free[: len(work.todo)]:
                number = work.todo.popleft()
                work.busy[peer.actor.do.remote(*calls[number])] = (peer, number, time.monotonic())
            if not work.busy:
                self._first(phase)
                continue
            oldest = min(since for *_, since in work.busy.values())
            left = max(0.0, oldest + self.deadline - time.monotonic())
            waited = [*work.busy, *(peer.starting for peer in self.starting)]
            found, _ = ray.wait(waited, num_returns=1, timeout=left)
            self._greet()
            for answer in found:
                if answer in work.busy:
                    self._take(phase, work, answer)
            self._overdue(phase, work)
        return [work.done[number] for number in range(len(calls))]

    def close(self) -> None:
        for peer in (*self.ready, *self.starting):
            self._end(peer)
        self.ready, self.starting = [], []

    def leave(self, peer: Peer) -> None:
        """Let a peer go for good: the crew has one less."""
        self.count -= 1
        self.ready.remove(peer)
        self._end(peer)

    def join(self) -> None:
        """One peer more, as soon as there is room for it."""
        self.count += 1
        self._start()

    # -- peers ---------------------------------------------------------------------------------------------------
    def _start(self) -> None:
        from ray.util.placement_group import placement_group  # pyright: ignore[reportMissingImports]

        group = placement_group([self.needs.bundle()], strategy="PACK")
        actor = ray_package().remote(Host).options(**self.needs.options(group)).remote(self._make)
        self.starting.append(Peer(f"{self.kind} {next(self._numbers)}", actor, group, actor.ready.remote()))

    def _greet(self) -> None:
        """Those that have started are of the crew from now on."""
        ray = ray_package()
        for peer in list(self.starting):
            if not ray.wait([peer.starting], timeout=0)[0]:
                continue
            self.starting.remove(peer)
            try:
                peer.where = ray.get(peer.starting, timeout=_GRACE)
                self.ready.append(peer)
            except ray.exceptions.RayTaskError as error:
                raise ClusterError(f"phase start: {peer} failed: {error.cause!r}") from error
            except ray.exceptions.RayError as error:
                if "creation task" in str(error):  # it would fail again
                    raise ClusterError(f"phase start: {peer} could not be made: {_last_line(error)}") from error
                self._replace(peer, "start", first_line(error))

    def _first(self, phase: str) -> None:
        """Wait until at least one peer is there."""
        ray, until = ray_package(), time.monotonic() + READY
        while not self.ready:
            left = until - time.monotonic()
            if left <= 0:
                names = ", ".join(map(str, self.starting)) or f"no {self.kind}"
                raise ClusterError(
                    f"phase {phase}: {names} did not start within {READY:g} s. Each needs "
                    f"{self.needs.bundle()}; free in the cluster are {free_slots()}. Add machines, or ask for less "
                    f"(runtime.{self.kind}s)"
                )
            ray.wait([peer.starting for peer in self.starting], num_returns=1, timeout=min(left, 1.0))
            self._greet()
        self._greet()

    def _replace(self, peer: Peer, phase: str, why: str) -> None:
        logger.warning("phase %s: %s was lost (%s); another takes its place", phase, peer, why)
        self.lost.append(f"{peer}: {why}")
        if peer in self.ready:
            self.ready.remove(peer)
        self._end(peer)
        if len(self.lost) > ATTEMPTS * max(1, self.count) and not self.ready:
            raise ClusterError(f"phase {phase}: every {self.kind} was lost: {'; '.join(self.lost[-ATTEMPTS:])}")
        self._start()

    def _end(self, peer: Peer) -> None:
        from ray.util.placement_group import remove_placement_group  # pyright: ignore[reportMissingImports]

        ray_package().kill(peer.actor, no_restart=True)
        remove_placement_group(peer.group)

    # -- work ----------------------------------------------------------------------------------------------------
    def _take(self, phase: str, work: _Work, answer: Any) -> None:
        ray = ray_package()
        peer, number, _ = work.busy.pop(answer)
        try:
            work.done[number] = ray.get(answer, timeout=_GRACE)
        except ray.exceptions.RayTaskError as error:
            cause = error.cause
            raise ClusterError(f"phase {phase}: {peer} failed: {type(cause).__name__}: {cause}") from error
        except ray.exceptions.RayError as error:
            self._again(phase, work, peer, number, first_line(error))

    def _overdue(self, phase: str, work: _Work) -> None:
        for answer, (peer, number, since) in list(work.busy.items()):
            if time.monotonic() - since >= self.deadline:
                del work.busy[answer]
                self._again(phase, work, peer, number, f"no answer within {self.deadline:g} s")

    def _again(self, phase: str, work: _Work, peer: Peer, number: int, why: str) -> None:
        """Give a piece of work to another peer, `ATTEMPTS` times at most."""
        tried = work.failed.setdefault(number, [])
        tried.append(f"{peer}: {why}")
        work.todo.appendleft(number)
        if len(tried) >= ATTEMPTS:
            raise ClusterError(
                f"phase {phase}: the same work was lost {ATTEMPTS} times: {'; '.join(tried)}. It may need more memory "
                "than a machine has, or longer than runtime.deadline"
            )
        self._replace(peer, phase, why)


def put(value: Mapping[str, Any]) -> Any:
    """A reference to a value in the cluster's object store."""
    return ray_package().put(value)


def fetched(reference: Any, deadline: float, what: str) -> Any:
    """The value of a reference; ClusterError if it does not come in time."""
    ray = ray_package()
    try:
        return ray.get(reference, timeout=deadline)
    except ray.exceptions.RayError as error:
        raise ClusterError(f"phase fetching {what}: {first_line(error)}") from error


def free_slots() -> dict[str, float]:
    found = ray_package().available_resources()
    return {name: found[name] for name in ("CPU", "GPU") if name in found}


def first_line(error: BaseException) -> str:
    return f"{type(error).__name__}: {str(error).strip().splitlines()[0] if str(error).strip() else ''}"


def _last_line(error: BaseException) -> str:
    """Where a traceback of another process says what went wrong."""
    return str(error).strip().splitlines()[-1].strip()
