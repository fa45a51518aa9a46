"""One process at a time in a folder: a run or a comparison that two processes write would be destroyed.

The kernel holds the lock (`flock`; on Windows a locked region of the file) and lets go when its process ends, however
it ends, so nothing a dead process leaves behind blocks anybody. Network file systems: NFS 4 and Linux's NFS 3 with
lockd see locks of other hosts; mounts with `nolock`, and some FUSE file systems, do not, so there two hosts can enter.
"""

from __future__ import annotations

import contextlib
import json
import os
import shlex
import socket
import sys
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

from filelock import FileLock, Timeout

from policyopt.runtime.atomic import write_atomic

LOCK, HOLDER = ".lock", ".lock.json"
LETTING_GO = 2.0  # seconds for a process that is just ending


class InUseError(ValueError):
    """Another process works in the folder, or it can not be told. Names the holder."""


@contextlib.contextmanager
def alone(folder: Path) -> Iterator[None]:
    """Inside the block this process is the only one in an existing folder. Raises InUseError."""
    lock = FileLock(folder / LOCK, timeout=LETTING_GO, thread_local=False)
    try:
        lock.acquire()
    except Timeout:
        raise InUseError(
            f"{folder} is in use by {_holder(folder)}; two processes in one folder would destroy what is recorded "
            "there. Wait for its end, end it, or take another folder"
        ) from None
    except OSError as error:
        raise InUseError(f"{folder} can not be locked, so nothing can be written there: {error}") from error
    try:
        with contextlib.suppress(OSError):  # only for the message above; a full disk is told where it matters
            write_atomic(folder / HOLDER, json.dumps(_this_process()))
        yield
    finally:
        with contextlib.suppress(OSError):
            (folder / HOLDER).unlink(missing_ok=True)
        lock.release()


def is_lock(path: Path) -> bool:
    """Whether a file is one of those that `alone` makes."""
    return path.name in (LOCK, HOLDER)


def _this_process() -> dict[str, object]:
    since = datetime.now(UTC).strftime("%Y-%m-%d %H:%M:%S UTC")
    command = shlex.join([Path(sys.argv[0]).name, *sys.argv[1:]])[:500]
    return {"process": os.getpid(), "host": socket.gethostname(), "since": since, "command": command}


def _holder(folder: Path) -> str:
    try:
        told = json.loads((folder / HOLDER).read_text(encoding="utf-8"))
        return f"process {told['process']} on host {told['host']} since {told['since']} ({told['command']})"
    except (OSError, ValueError, TypeError, KeyError):
        return "another process"
