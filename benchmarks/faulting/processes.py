"""Processes of a run: started, found by their kind, and ended."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

LOOK = 0.02  # seconds between looks


class Process:
    """One start of `policyopt`, in a process group of its own, with its output in a file.

    fork: from this process, which has imported the program; else as a user starts it.
    """

    def __init__(self, arguments: Sequence[str], base: Path, log: Path, *, fork: bool = True,
                 first: Callable[[], None] | None = None, environment: dict[str, str] | None = None):  # fmt: skip
        self.log, self.code = log, None
        if fork:
            self.pid = os.fork()
            if self.pid == 0:
                _become(arguments, base, log, first)
        else:
            with log.open("wb") as output:
                self._popen = subprocess.Popen(
                    [sys.executable, "-m", "policyopt", *arguments], cwd=base, stdout=output, stderr=output,
                    stdin=subprocess.DEVNULL, start_new_session=True, preexec_fn=first,
                    env={**os.environ, **(environment or {}), "PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
                )  # fmt: skip
            self.pid = self._popen.pid

    code: int | None

    def poll(self) -> int | None:
        """The exit code, once it has ended; negative: the signal."""
        if self.code is None:
            pid, status = os.waitpid(self.pid, os.WNOHANG)
            if pid:
                self.code = os.waitstatus_to_exitcode(status)
        return self.code

    def wait(self, seconds: float) -> bool:
        """Whether it ends within seconds of this process's own waking time."""
        return waking(lambda: self.poll() is not None, seconds)

    def end(self) -> None:
        """All that is left of it."""
        for process in (*descendants(self.pid), self.pid):
            with contextlib.suppress(ProcessLookupError):
                os.kill(process, signal.SIGKILL)
        if self.poll() is None:
            self.wait(10)

    @property
    def said(self) -> str:
        return self.log.read_text(errors="replace")


def _become(arguments: Sequence[str], base: Path, log: Path, first: Callable[[], None] | None) -> None:
    code = 70
    try:
        os.setsid()
        os.chdir(base)
        handle = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        for number in (1, 2):
            os.dup2(handle, number)
        if first is not None:
            first()
        sys.argv[:] = ["policyopt", *arguments]
        sys.path.append(str(base))
        from policyopt.cli.app import main

        main()
        code = 0
    except SystemExit as end:
        code = end.code if isinstance(end.code, int) else int(end.code is not None)
    except BaseException:  # noqa: BLE001 - what a user would see
        import traceback

        traceback.print_exc()
        code = 1
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


def waking(condition: Callable[[], bool], seconds: float) -> bool:
    """Whether a condition becomes true; time that this process was stopped itself does not count."""
    spent = 0.0
    while not condition():
        if spent > seconds:
            return False
        began = time.monotonic()
        time.sleep(LOOK)
        spent += min(time.monotonic() - began, 5 * LOOK)
    return True


def descendants(process: int) -> list[int]:
    found = []
    for task in Path("/proc").glob(f"{process}/task/*/children"):
        with contextlib.suppress(OSError):
            found += [int(text) for text in task.read_text().split()]
    return found + [below for child in found for below in descendants(child)]


def _command(process: int) -> str:
    with contextlib.suppress(OSError):
        return Path(f"/proc/{process}/cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
    return ""


def of_kind(kind: str, run: int) -> list[int]:
    """Processes of one kind below a run, oldest first. A new kind is an entry of MARKS."""
    if kind == "trainer":
        return [run]
    mark, depth = MARKS[kind]
    found = [process for process in sorted(descendants(run)) if mark in _command(process)]
    if depth is None:
        return found
    # A sandbox forks: the process that was started, the first one inside, the warden and the program of a test.
    return [process for process in found if _depth(process, run, mark) == depth]


def _depth(process: int, run: int, mark: str) -> int:
    """How many parents of the same mark it has."""
    count = 0
    while (process := _parent(process)) not in (run, 0, 1) and mark in _command(process):
        count += 1
    return count


def _parent(process: int) -> int:
    with contextlib.suppress(OSError):
        return int(Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[1])
    return 0


MARKS: dict[str, tuple[str, int | None]] = {
    "grading worker": ("grading_worker.py", None),
    "sandbox": ("zygote.py", 0),
    "sandbox inside": ("zygote.py", 1),
    "warden": ("zygote.py", 2),
    "program": ("zygote.py", 3),
    "compare worker": ("policyopt.recipe.comparison.worker", None),
    "trainer rank": ("spawn_main", None),
    "Ray sampler": ("ray::Host", None),
    "Ray trainer": ("ray::Place", None),
}
