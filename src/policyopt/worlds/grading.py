"""Grading: many texts against their entries, none of which can stop, slow down or harm the run.

Trusted verifiers run in this process; every other one in guarded worker processes (``grading_worker`` says
what the guard holds back and where it is weaker), or on a bench of its own (programs, in sandboxes). A text
whose judgement raises, returns no finite number, hits its deadline or ends its worker gets a ``Grade``
without a score, and with the fault in words; the other texts are graded as usual. A worker that is lost by no
doing of the text (killed or stopped from outside, cut off) is replaced and the text judged once more.
"""

from __future__ import annotations

import os
import queue
import tempfile
import threading
import time
from collections import deque
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from types import TracebackType

from policyopt.worlds.grading_process import Job, WorkerProcess
from policyopt.worlds.grading_worker import Setup, judge
from policyopt.worlds.tasks import Entry
from policyopt.worlds.verifiers import Verifier

_LARGEST_CHUNK = 32
_OVERSLEPT = 0.5  # seconds beyond a wait's own, after which this process was stopped or suspended itself
_HEARD = 1.0  # seconds that its workers then have to be heard


class GradingError(RuntimeError):
    """Grading as a whole can not go on (a worker does not start, or the grader is closed)."""


@dataclass(frozen=True)
class Grade:
    """The judgement of one text. ``score`` None means unscored: leave the row out of every statistic."""

    score: float | None
    fault: str | None
    seconds: float


@dataclass(frozen=True)
class Limits:
    """What one judgement may cost.

    Args:
        deadline: wall-clock seconds per text, all platforms.
        memory_mb: MiB of memory beyond the worker's own after start-up (enforced on Linux).
        workers: worker processes at most; None is one per core, at most 4.
        start_deadline: wall-clock seconds a worker may take to start and load the verifier.
    """

    deadline: float = 5.0
    memory_mb: int = 1024
    workers: int | None = None
    start_deadline: float = 60.0

    def __post_init__(self) -> None:
        for name in ("deadline", "memory_mb", "start_deadline"):
            if not getattr(self, name) > 0:
                raise ValueError(f"{name} must be above 0, got {getattr(self, name)}")
        if self.workers is not None and self.workers < 1:
            raise ValueError(f"workers must be at least 1, got {self.workers}; None chooses by cores")


class Grader:
    """Grades texts against a fixed list of entries; a context manager, or call ``close``.

    Workers start when first needed, stay for the next call and end with the grader or with this process,
    whichever ends first. Safe to call from several threads (calls take turns).
    """

    def __init__(self, verifier: Verifier, entries: Sequence[Entry], limits: Limits | None = None) -> None:
        self.verifier = verifier
        self.entries = entries
        self.limits = limits or Limits()
        self._most = self.limits.workers or min(4, os.cpu_count() or 1)
        self._bench = verifier.bench(self.limits.deadline, self._most)
        self._lock = threading.Lock()
        self._workers: list[WorkerProcess] = []
        self._events: queue.SimpleQueue[tuple[WorkerProcess, bytes | None]] = queue.SimpleQueue()
        self._folder = tempfile.TemporaryDirectory(prefix="policyopt-grading-", ignore_cleanup_errors=True)
        self._setup: Setup | None = None
        self._closed = False
        self._again: set[int | None] = set()  # positions judged once more; None: a worker was started once more

    def __enter__(self) -> Grader:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """End the workers; the grader can not be used again."""
        with self._lock:
            self._closed = True
            self._stop_workers()
            if self._bench is not None:
                self._bench.close()
            self._folder.cleanup()

    def grade(self, texts: Sequence[str], indices: Sequence[int]) -> list[Grade]:
        """Grade ``texts[i]`` against ``entries[indices[i]]``, in order."""
        if len(texts) != len(indices):
            raise ValueError(f"give one entry index per text, got {len(texts)} texts, {len(indices)} indices")
        if self._closed:
            raise GradingError("the grader is closed; make a new one")
        if self._bench is not None:
            with self._lock:
                jobs = [(text, self.entries[index]) for text, index in zip(texts, indices, strict=True)]
                return [Grade(*judged) for judged in self._bench.grade(jobs)]
        grades: dict[int, Grade] = {}
        guarded: list[Job] = []
        for position, (text, index) in enumerate(zip(texts, indices, strict=True)):
            entry = self.entries[index]
            if self.verifier.inline(entry):
                grades[position] = self._inline(text, entry)
            else:
                guarded.append((position, text, entry))
        if guarded:
            with self._lock:
                grades.update(self._grade_guarded(guarded))
        return [grades[position] for position in range(len(texts))]

    def _inline(self, text: str, entry: Entry) -> Grade:
        began = time.perf_counter()
        score, fault = judge(self.verifier, text, entry)
        return Grade(score, fault, time.perf_counter() - began)

    def _grade_guarded(self, jobs: Sequence[Job]) -> dict[int, Grade]:
        done: dict[int, Grade] = {}
        waiting = deque(jobs)
        self._again.clear()
        try:
            while len(done) < len(jobs):
                self._dispatch(waiting)
                self._advance(waiting, done)
        except BaseException:
            # Workers in the middle of a chunk would answer the next call with this one's grades.
            self._stop_workers()
            raise
        return done

    def _dispatch(self, waiting: deque[Job]) -> None:
        """Give work to idle workers, and start workers while there is more work than they can take."""
        # Idle ones that somebody ended (a signal to the whole process group) are in the way of new ones.
        for worker in [worker for worker in self._workers if worker.ended_idle]:
            self._workers.remove(worker)
            worker.close()
        size = max(1, min(_LARGEST_CHUNK, len(waiting) // (2 * self._most)))
        for worker in self._workers:
            if waiting and worker.idle:
                worker.give([waiting.popleft() for _ in range(min(size, len(waiting)))])
        starting = sum(not worker.ready for worker in self._workers)
        for _ in range(min(len(waiting) - starting, self._most - len(self._workers))):
            self._workers.append(WorkerProcess(self._described(), self._folder.name, self._events))

    def _advance(self, waiting: deque[Job], done: dict[int, Grade]) -> None:
        """Take in one event: a reply, a worker's end, or a deadline that passed."""
        clock = {worker: worker.since + self._allowance(worker) for worker in self._workers if _busy(worker)}
        try:
            worker, line = self._event(min(clock.values()) - time.monotonic())
        except queue.Empty:
            self._overdue(min(clock, key=clock.__getitem__), waiting, done)
            return
        if worker not in self._workers:
            return  # a last word of one that was stopped
        if line is None:
            taken, how = worker.taken, worker.ending()
            if not worker.ready and not (taken and self._once_more(None)):
                raise GradingError(f"phase start: grading worker {worker.process} ended before it was ready, {how}")
            self._lose(worker, f"its worker ended ({how}): a crash, a limit or an exit", waiting, done, again=taken)
            return
        reply = worker.read(line)
        if reply is None:
            self._lose(worker, f"its worker sent what is no reply: {line[:80]!r}", waiting, done, again=True)
        elif worker.ready:
            position, _, _ = worker.pending.popleft()
            done[position] = Grade(reply["score"], reply["fault"], float(reply["seconds"]))
        else:
            worker.ready = True

    def _event(self, seconds: float) -> tuple[WorkerProcess, bytes | None]:
        """The next event within some seconds, or queue.Empty. Where this process itself was stopped meanwhile, the
        deadline passed without the worker's doing: what it has to say is still heard."""
        began = time.monotonic()
        try:
            return self._events.get(timeout=max(0.0, seconds))
        except queue.Empty:
            if 0 < seconds > time.monotonic() - began - _OVERSLEPT:
                raise
        return self._events.get(timeout=_HEARD)

    def _overdue(self, worker: WorkerProcess, waiting: deque[Job], done: dict[int, Grade]) -> None:
        frozen = worker.frozen
        if not worker.ready and not (frozen and self._once_more(None)):
            raise GradingError(
                f"phase start: grading worker {worker.process} was not ready within {self.limits.start_deadline} s"
                f"{', it is stopped' if frozen else ''}; raise start_deadline, or make the verifier's import faster"
            )
        self._lose(worker, f"deadline {self.limits.deadline} s", waiting, done, again=frozen)

    def _allowance(self, worker: WorkerProcess) -> float:
        return self.limits.deadline if worker.ready else self.limits.start_deadline

    def _once_more(self, position: int | None) -> bool:
        """Whether this is the first time."""
        if position in self._again:
            return False
        self._again.add(position)
        return True

    def _lose(
        self, worker: WorkerProcess, fault: str, waiting: deque[Job], done: dict[int, Grade], *, again: bool = False
    ) -> None:
        """Kill a worker; the text it was at gets the fault, or is judged again; the rest of its chunk goes back to the
        front."""
        self._workers.remove(worker)
        seconds = time.monotonic() - worker.since
        worker.close()
        if worker.pending and not (again and self._once_more(worker.pending[0][0])):
            position, _, _ = worker.pending.popleft()
            done[position] = Grade(None, fault, seconds)
        waiting.extendleft(reversed(worker.pending))

    def _described(self) -> Setup:
        if self._setup is None:
            examples = _one_of_each_kind(self.entries)
            self._setup = Setup(self.verifier, examples, self.limits.deadline, self.limits.memory_mb)
        return self._setup

    def _stop_workers(self) -> None:
        while self._workers:
            self._workers.pop().close()


def _busy(worker: WorkerProcess) -> bool:
    """Whether an answer is due from it."""
    return not worker.ready or bool(worker.pending)


def _one_of_each_kind(entries: Iterable[Entry]) -> tuple[Entry, ...]:
    """One entry per generator that made any (a single one for other sources)."""
    kinds: dict[tuple[str, str], Entry] = {}
    for entry in entries:
        made = entry.metadata.get("source_dataset"), entry.metadata.get("source_options")
        kinds.setdefault((repr(made[0]), repr(made[1])), entry)
    return tuple(kinds.values())
