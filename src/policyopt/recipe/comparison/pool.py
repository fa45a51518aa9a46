"""Processes that run the jobs of a comparison side by side. Which process runs a job changes nothing in its result."""

from __future__ import annotations

import contextlib
import json
import os
import queue
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from policyopt.recipe.comparison.plan import Job
from policyopt.runtime.interrupt import Interrupt

Watch = Callable[[Job, Mapping[str, Any]], None]
WAIT = 0.2  # seconds between looks at the keyboard
WORKER = (sys.executable, "-m", "policyopt.recipe.comparison.worker")
THREADS = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")


def cores() -> int:
    """That this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


class Worker:
    """A process and what it is doing."""

    def __init__(self, command: Sequence[str], log: Path, answers: queue.Queue[tuple[Worker, str | None]]):
        self.job: Job | None = None
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

    def start(self, job: Job) -> None:
        self.job = job
        asked = {
            "recipe": job.recipe.model_dump(mode="json"),
            "folder": str(job.folder),
            "base": None if job.base is None else str(job.base),
        }
        assert self.process.stdin is not None
        with contextlib.suppress(BrokenPipeError):  # it has died; its end will be heard
            self.process.stdin.write(json.dumps(asked) + "\n")
            self.process.stdin.flush()

    def stop(self) -> None:
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGINT)

    def kill(self) -> None:
        self.process.kill()
        self.process.wait()
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
        self.failed: dict[str, str] = {}  # by label of the job

    def __enter__(self) -> Pool:
        return self

    def __exit__(self, *error: object) -> None:
        for worker in self._workers:
            worker.kill()

    def run(self, jobs: Sequence[Job], watch: Watch) -> bool:
        """All jobs, the first ones first. False: the user stopped them; those that are finished stay finished."""
        waiting = list(jobs)
        with Interrupt() as stop:
            while (waiting and not stop.requested) or self._busy():
                if stop.requested and not self._stopping:
                    self._stop()
                while waiting and not stop.requested and (idle := self._idle()) is not None:
                    idle.start(waiting.pop(0))
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
        try:
            worker, line = self._answers.get(timeout=WAIT)
        except queue.Empty:
            return
        job = worker.job
        if line is None:
            self._workers.remove(worker)
            worker.kill()
            end = "stopped" if self._stopping else "failed"
            told: dict[str, Any] = {"end": end, "error": f"its process ended with {worker.process.returncode}"}
        else:
            told = json.loads(line)
        if job is None:
            return
        if "end" in told:
            worker.job = None
            if told["end"] == "failed":
                self.failed[job.label] = told["error"]
        watch(job, told)
