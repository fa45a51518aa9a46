"""Processes that run the jobs of a comparison side by side. Which process runs a job changes nothing in its result."""

from __future__ import annotations

import contextlib
import json
import logging
import os
import queue
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from policyopt.recipe.comparison.plan import Job
from policyopt.runtime.interrupt import Interrupt

log = logging.getLogger("policyopt")

Watch = Callable[[Job, Mapping[str, Any]], None]
WAIT = 0.2  # seconds between looks at the keyboard
SILENT = 300.0  # seconds without a sign of life, after which a process is given up
STARTING = 900.0  # the same before its first one: on a busy machine it imports for minutes
TAKEN = (-15, -9)  # exit codes of processes ended from outside: SIGTERM, SIGKILL (which Windows does not name)
KILLING = 10.0  # seconds for the kernel to end a process
WORKER = (sys.executable, "-m", "policyopt.recipe.comparison.worker")
THREADS = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")


def cores() -> int:
    """That this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


class Worker:
    """A process and what it is doing."""

    def __init__(self, command: Sequence[str], log: Path, answers: queue.Queue[tuple[Worker, str | None]]):
        self.job: Job | None = None
        self.silent = 0.0  # seconds; those that this process was stopped or suspended itself do not count
        self.started = False
        with log.open("ab") as errors:
            self.process = subprocess.Popen(
                command,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=errors,
                env={**os.environ, **dict.fromkeys(THREADS, "1")},
                text=True,
                encoding="utf-8",
                start_new_session=True,  # Ctrl-C is ours to pass on, once
            )
        threading.Thread(target=self._listen, args=(answers,), daemon=True).start()

    def _listen(self, answers: queue.Queue[tuple[Worker, str | None]]) -> None:
        for line in self.process.stdout or ():
            answers.put((self, line))
        answers.put((self, None))

    @property
    def frozen(self) -> bool:
        """Whether it has given no sign of life for too long."""
        return self.silent > (SILENT if self.started else STARTING)

    def start(self, job: Job) -> None:
        self.job = job
        asked = {
            "recipe": job.recipe.model_dump(mode="json"),
            "folder": str(job.folder),
            "base": None if job.base is None else str(job.base),
        }
        # In a thread, because a process that does not read would hold up the one that writes.
        threading.Thread(target=self._tell, args=(json.dumps(asked) + "\n",), daemon=True).start()

    def _tell(self, line: str) -> None:
        assert self.process.stdin is not None
        with contextlib.suppress(OSError, ValueError):  # it has ended, or was given up
            self.process.stdin.write(line)
            self.process.stdin.flush()

    def stop(self) -> None:
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGINT)

    def kill(self) -> None:
        self.process.kill()
        with contextlib.suppress(subprocess.TimeoutExpired):  # the kernel ends it when it can
            self.process.wait(KILLING)
        for pipe in (self.process.stdin, self.process.stdout):
            with contextlib.suppress(BrokenPipeError):
                if pipe is not None:
                    pipe.close()


class Pool:
    """Use as a context manager. log: where the processes write what they have to say; command: what they are."""

    def __init__(self, size: int, log: Path, command: Sequence[str] = WORKER):
        self._size, self._log, self._command = size, log, command
        self._answers: queue.Queue[tuple[Worker, str | None]] = queue.Queue()
        self._workers: list[Worker] = []
        self._stopping = False
        self._waiting: list[Job] = []
        self._again: set[str] = set()  # labels of jobs that lost their process once by no doing of theirs
        self.failed: dict[str, str] = {}  # by label of the job

    def __enter__(self) -> Pool:
        return self

    def __exit__(self, *error: object) -> None:
        for worker in self._workers:
            worker.kill()

    def run(self, jobs: Sequence[Job], watch: Watch) -> bool:
        """All jobs, the first ones first. False: the user stopped them; those that are finished stay finished."""
        self._waiting = list(jobs)
        with Interrupt() as stop:
            while (self._waiting and not stop.requested) or self._busy():
                if stop.requested and not self._stopping:
                    self._stop()
                while self._waiting and not stop.requested and (idle := self._idle()) is not None:
                    idle.start(self._waiting.pop(0))
                self._hear(watch)
        return not stop.requested

    def _stop(self) -> None:
        self._stopping = True
        for worker in self._busy():
            worker.stop()

    def _busy(self) -> list[Worker]:
        return [worker for worker in self._workers if worker.job is not None]

    def _idle(self) -> Worker | None:
        for worker in self._workers:
            if worker.job is None:
                return worker
        if len(self._workers) < self._size:
            self._workers.append(Worker(self._command, self._log, self._answers))
            return self._workers[-1]
        return None

    def _hear(self, watch: Watch) -> None:
        """One answer, if one comes soon."""
        began, heard = time.monotonic(), None
        with contextlib.suppress(queue.Empty):
            heard = self._answers.get(timeout=WAIT)
        passed = min(time.monotonic() - began, 2 * WAIT)
        for worker in self._busy():
            worker.silent += passed
        if heard is not None and heard[0] in self._workers:  # else a last word of one that was given up
            self._take(*heard, watch)
        for worker in self._busy():
            if worker.frozen:
                self._lose(worker, watch)

    def _take(self, worker: Worker, line: str | None, watch: Watch) -> None:
        worker.silent, worker.started = 0.0, worker.started or line is not None
        if line is None:
            self._lose(worker, watch)
        elif "end" in (told := json.loads(line)) and worker.job is not None:
            self._end(worker, told, watch)
        elif told and worker.job is not None:
            watch(worker.job, told)

    def _lose(self, worker: Worker, watch: Watch) -> None:
        """A process that ended, or that is given up. A job whose process was taken from it goes on, once, from its last
        checkpoint in another one."""
        self._workers.remove(worker)
        worker.kill()
        job, code = worker.job, worker.process.returncode
        if job is None:
            return
        who = f"phase {'run' if worker.started else 'start'}: process {worker.process.pid}"
        error = f"{who} gave no sign of life for {worker.silent:.3g} s" if worker.frozen else f"{who} ended with {code}"
        if self._stopping:
            self._end(worker, {"end": "stopped"}, watch)
        elif (worker.frozen or code in TAKEN) and job.label not in self._again:
            self._again.add(job.label)
            self._waiting.insert(0, job)
            log.warning("%s: %s; it goes on in another process", job.label, error)
        else:
            self._end(worker, {"end": "failed", "error": error}, watch)

    def _end(self, worker: Worker, told: Mapping[str, Any], watch: Watch) -> None:
        job, worker.job = worker.job, None
        assert job is not None
        if told["end"] == "failed":
            self.failed[job.label] = told["error"]
        watch(job, told)
