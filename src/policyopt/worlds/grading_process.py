"""The parent's side of one grading worker: a child process, its pipes and the clock of what it is doing."""

from __future__ import annotations

import contextlib
import json
import pickle
import queue
import subprocess
import sys
import tempfile
import threading
import time
from collections import deque
from collections.abc import Sequence
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

from policyopt.worlds import grading_worker

if TYPE_CHECKING:
    from policyopt.worlds.tasks import Entry

_CLOSE_SECONDS = 10.0
_TAKEN = (-15, -9)  # exit codes: SIGTERM, SIGKILL (which Windows does not name)
_ENDING_SECONDS = 1.0  # between the end of a process's pipe and its own
Job = tuple[int, str, "Entry"]


class WorkerProcess:
    """A worker, from start to kill. ``events`` receives (worker, line) for its replies and (worker, None)
    at its end.

    No call blocks on the child: one thread feeds it and one listens, and the owner compares ``since`` (when
    it last started, was given work or answered) with its deadlines.
    """

    def __init__(
        self,
        setup: grading_worker.Setup,
        folder: str,
        events: queue.SimpleQueue[tuple[WorkerProcess, bytes | None]],
    ) -> None:
        # -P keeps the script's folder, whose modules could shadow the standard library's, off sys.path.
        command = [sys.executable, "-P", "-B", str(Path(grading_worker.__file__).resolve())]
        self._complaints = tempfile.TemporaryFile()  # noqa: SIM115 - closed in close()
        self._process = subprocess.Popen(
            command, cwd=folder, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=self._complaints
        )
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._requests: queue.SimpleQueue[bytes | None] = queue.SimpleQueue()
        self._threads = [
            threading.Thread(target=self._feed, args=(self._process.stdin,), daemon=True),
            threading.Thread(target=self._listen, args=(self._process.stdout, events), daemon=True),
        ]
        self.ready = False
        self.pending: deque[Job] = deque()
        self.since = time.monotonic()
        for thread in self._threads:
            thread.start()
        # The child sees our search path, with "" (here) spelled out because it works in another folder.
        paths = [path or str(Path.cwd()) for path in sys.path]
        self._requests.put(grading_worker.frame(json.dumps(paths).encode()))
        self._requests.put(grading_worker.frame(pickle.dumps(setup)))

    @property
    def idle(self) -> bool:
        """Whether it is ready, has nothing to do and still runs."""
        return self.ready and not self.pending and self._process.poll() is None

    @property
    def ended_idle(self) -> bool:
        """Whether it has ended with nothing left to do."""
        return self.ready and not self.pending and self._process.poll() is not None

    def give(self, jobs: Sequence[Job]) -> None:
        """Send one chunk of work."""
        body = grading_worker.frame(pickle.dumps(list(jobs)))
        self.pending.extend(jobs)
        self.since = time.monotonic()
        self._requests.put(body)

    def read(self, line: bytes) -> dict[str, Any] | None:
        """One reply, or None when the line is not the reply that is due (the guarded code may write
        anything)."""
        self.since = time.monotonic()
        try:
            reply = json.loads(line)
        except ValueError:
            return None
        if not isinstance(reply, dict):
            return None
        if not self.ready:
            return reply if reply == {"ready": True} else None
        due = self.pending[0][0] if self.pending else None
        score, fault = reply.get("score"), reply.get("fault")
        number = isinstance(score, float) and score - score == 0.0
        well_formed = number if fault is None else score is None and isinstance(fault, str)
        return reply if well_formed and reply.get("at") == due and due is not None else None

    @property
    def process(self) -> int:
        return self._process.pid

    @property
    def frozen(self) -> bool:
        """Whether somebody has stopped the process, as the kernel tells (Linux)."""
        with contextlib.suppress(OSError):
            return Path(f"/proc/{self.process}/stat").read_text().rpartition(")")[2].split()[0] in "Tt"
        return False

    @property
    def taken(self) -> bool:
        """Whether the process, which ended, was ended from outside, or lost its pipe and still runs: no text's doing.
        What a text can bring about is a crash, an exit, or the kernel's signal at its limit of CPU time."""
        with contextlib.suppress(subprocess.TimeoutExpired):
            return self._process.wait(_ENDING_SECONDS) in _TAKEN
        return True

    def ending(self) -> str:
        """How the process ended, in words, with what it last wrote to standard error."""
        code = self._process.poll()
        if code is None:
            return "closed its pipe and went on running"
        self._complaints.seek(0)
        complaint = self._complaints.read()[-1000:].decode(errors="replace").strip()
        return f"exit code {code}" + (f", saying:\n{complaint}" if complaint else "")

    def close(self) -> None:
        """Kill the process and release its pipes and threads; waits at most a few seconds."""
        self._process.kill()
        self._requests.put(None)
        for thread in self._threads:
            thread.join(_CLOSE_SECONDS)
        self._process.wait(_CLOSE_SECONDS)
        self._complaints.close()

    def _feed(self, pipe: IO[bytes]) -> None:
        # A dead child is noticed by the listener; here it only ends the feeding.
        with contextlib.suppress(OSError):
            while (body := self._requests.get()) is not None:
                pipe.write(body)
                pipe.flush()
        with contextlib.suppress(OSError):
            pipe.close()

    def _listen(self, pipe: IO[bytes], events: queue.SimpleQueue[tuple[WorkerProcess, bytes | None]]) -> None:
        with pipe:
            for line in pipe:
                events.put((self, line))
        events.put((self, None))
