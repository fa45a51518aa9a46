"""One program from start to end: the warden, a trusted process, isolates its child further, watches the clock and tells
the host how it ended. The program can neither see nor signal it.

Descriptors of the program: 0, 1, 2 as usual, 3 what it answers, 4 what it is asked, 5 its job (closed once read).
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import math
import os
import resource
import select
import signal
import sys
import tempfile
import time
from collections.abc import Callable
from typing import Any

from policyopt.sandbox import kernel, root, seccomp

ANSWERS, ASKED, JOB = 3, 4, 5
_READY = 6
_FILES_OPEN = 64
_HELPERS = 8  # processes of ours that count with the program's
_STACK = 64 << 20
_MEBIBYTE = 1 << 20
_OVERSLEPT = 0.5  # seconds that a wait may take longer than asked for
_FORGIVEN = 5.0  # seconds at most that a program gets back


class Broken(Exception):
    """The sandbox itself failed; the program is not to blame."""


def watch(run: Callable[[], None], limits: dict[str, Any], given: list[int], control: int, *, isolated: bool) -> None:
    """Run one program on the given descriptors (0 to 5) in a child, and report on `control`. Closing the other end of
    `control` ends the program."""
    try:
        with contextlib.ExitStack() as folder:
            if isolated:
                root.private_folder(limits["files_mb"], limits["files"])
                os.chdir(root.PRIVATE)
            else:
                os.chdir(folder.enter_context(tempfile.TemporaryDirectory(ignore_cleanup_errors=True)))
            report = _run(run, limits, given, control, isolated=isolated)
    except (OSError, Broken) as error:
        report = {"fault": f"{type(error).__name__}: {error}"}
    with contextlib.suppress(OSError):
        os.write(control, json.dumps(report).encode())


def _run(
    run: Callable[[], None], limits: dict[str, Any], given: list[int], control: int, *, isolated: bool
) -> dict[str, Any]:
    listening, telling = os.pipe()
    began = time.monotonic()
    child = os.fork()
    if child == 0:
        _become(run, limits, given, telling, isolated=isolated)
    for handle in (*given, telling):
        os.close(handle)
    try:
        word = os.read(listening, 500)
        broken = None
        if word != b"ready":
            broken = f"a program could not be confined: {word.decode(errors='replace') or 'it ended before'}"
        limit = None if broken else _until_over(child, control, limits, began)
        # The first process of a namespace can not be stopped from inside it.
        if limit == "seconds" and isolated and os.waitid(os.P_PID, child, os.WSTOPPED | os.WNOHANG | os.WNOWAIT):
            broken = "a program was stopped from outside"
    finally:
        # The first process of a namespace takes all others with it; without one, its group is all there is.
        with contextlib.suppress(ProcessLookupError):
            os.kill(child, signal.SIGKILL)
        if not isolated:
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(child, signal.SIGKILL)
        _, status, used = os.wait4(child, 0)
    if broken:
        raise Broken(broken)
    cpu = used.ru_utime + used.ru_stime
    if limit is None and cpu >= limits["cpu_seconds"]:
        limit = "cpu"
    return {"code": os.waitstatus_to_exitcode(status), "limit": limit, "cpu": cpu, "seconds": time.monotonic() - began}


def _until_over(child: int, control: int, limits: dict[str, Any], began: float) -> str | None:
    """Wait until the program ends (None), breaks a limit (its name) or is stopped by the host ("stopped")."""
    poller = select.poll()
    poller.register(control, select.POLLIN)
    ending = os.pidfd_open(child) if sys.platform == "linux" else None
    if ending is not None:
        poller.register(ending, select.POLLIN)
    forgiven = _FORGIVEN
    while True:
        left = began + limits["seconds"] - time.monotonic()
        cpu_left = limits["cpu_seconds"] - _cpu_seconds(child)
        if cpu_left <= 0 or left <= 0:
            return "cpu" if cpu_left <= 0 else "seconds"
        # Several threads use up CPU time faster than the clock goes.
        pause = min(left, max(cpu_left / 2, 0.01)) if ending is not None else 0.01
        looked = time.monotonic()
        ready = [handle for handle, _ in poller.poll(math.ceil(pause * 1000))]
        # What this process slept through (it was stopped with all others) counts for the program no more than for it;
        # within bounds, so that the host does not take the sandbox for broken.
        slept = min(forgiven, max(0.0, time.monotonic() - looked - pause - _OVERSLEPT))
        began, forgiven = began + slept, forgiven - slept
        if control in ready:
            return "stopped"
        if ready or (ending is None and os.waitid(os.P_PID, child, os.WEXITED | os.WNOHANG | os.WNOWAIT) is not None):
            return None


def _cpu_seconds(process: int) -> float:
    """Of a child that was not waited for yet; 0 where only the kernel's own limit counts it."""
    if sys.platform != "linux":
        return 0.0
    return time.clock_gettime(~process << 3 | 2)  # the clock of a process, as clock_getcpuclockid makes it


def _become(run: Callable[[], None], limits: dict[str, Any], given: list[int], telling: int, *, isolated: bool) -> None:
    """Give up everything that the program shall not have, then run it. Never returns."""
    try:
        _arrange(given, telling)
        _limit(limits, isolated=isolated)
        if isolated:
            kernel.prctl(kernel.PR_SET_PDEATHSIG, signal.SIGKILL)
            kernel.drop_privileges()
            kernel.filter_calls(seccomp.program())
        else:
            os.setsid()
        os.write(_READY, b"ready")
    except BaseException as error:  # noqa: BLE001 - whatever it is, the program must not start
        with contextlib.suppress(OSError):
            os.write(_READY, f"{type(error).__name__}: {error}".encode())
        os._exit(1)
    os.close(_READY)
    try:
        run()
    finally:
        os._exit(70)


def _arrange(given: list[int], telling: int) -> None:
    """The given descriptors as 0 to 5, `telling` as 6, and no other one."""
    high = [fcntl.fcntl(handle, fcntl.F_DUPFD, 64) for handle in (*given, telling)]
    for number, handle in enumerate(high):
        os.dup2(handle, number)
    os.closerange(_READY + 1, 1024)


def _limit(limits: dict[str, Any], *, isolated: bool) -> None:
    bounds = {
        "RLIMIT_AS": limits["memory_mb"] * _MEBIBYTE,
        "RLIMIT_FSIZE": limits["files_mb"] * _MEBIBYTE,
        # The warden's clock is finer; this one holds if the warden is gone.
        "RLIMIT_CPU": math.ceil(limits["cpu_seconds"]) + 1,
        "RLIMIT_NOFILE": _FILES_OPEN,
        "RLIMIT_CORE": 0,
        "RLIMIT_MEMLOCK": 0,
        "RLIMIT_MSGQUEUE": 0,
        "RLIMIT_STACK": _STACK,
    }
    if isolated:  # elsewhere the processes of the whole account would count
        bounds["RLIMIT_NPROC"] = limits["threads"] + _HELPERS
    for name, bound in bounds.items():
        kind = getattr(resource, name, None)
        if kind is None:
            continue
        hard = resource.getrlimit(kind)[1]
        most = bound if hard == resource.RLIM_INFINITY else min(bound, hard)
        with contextlib.ExitStack() as tolerated:
            if sys.platform == "darwin":  # refuses some of them
                tolerated.enter_context(contextlib.suppress(ValueError, OSError))
            resource.setrlimit(kind, (most, most))
