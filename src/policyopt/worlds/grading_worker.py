"""The grading worker: judges texts in a process that may not open sockets, start programs or write files.

Run as a script by ``grading``, with two frames on standard input (sys.path as JSON, then a pickled
``Setup``), then one pickled chunk of ``(position, text, entry)`` after another. It answers in JSON lines,
which the parent can read without trusting them: ``{"ready": true}``, then one line per judged text.

What holds the guarded code back: ``sys.addaudithook`` (all platforms: sockets, subprocesses, fork, exec,
ctypes, signals to others, opening for writing, changing the file system), resource limits (POSIX: CPU time
per text, file size 0, no core; Linux: address space) and the parent's deadline (all platforms). On macOS
the kernel does not enforce the address space limit, and Windows has no resource limits: memory is bounded
only by what fits into the deadline there. This contains accidents and hostile *text*. It is no sandbox for
hostile Python: a verifier is its user's own code.
"""

from __future__ import annotations

import contextlib
import importlib.util
import json
import math
import numbers
import os
import pickle
import queue
import signal
import struct
import sys
import threading
import time
from dataclasses import dataclass
from importlib.machinery import ModuleSpec
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any, BinaryIO

if TYPE_CHECKING:
    from policyopt.worlds.tasks import Entry
    from policyopt.worlds.verifiers import Verifier

HEADER = struct.Struct(">Q")
_LARGEST = 1e15  # of a score: sums of squares of such stay far below the largest float32, 3.4e38
_MEBIBYTE = 2**20
_PARENT_POLL_SECONDS = 0.5
_REFUSED = (
    "ctypes.",
    "os.chflags",
    "os.chmod",
    "os.chown",
    "os.exec",
    "os.fork",
    "os.kill",
    "os.link",
    "os.mkdir",
    "os.posix_spawn",
    "os.remove",
    "os.rename",
    "os.rmdir",
    "os.spawn",
    "os.startfile",
    "os.symlink",
    "os.system",
    "os.truncate",
    "os.utime",
    "pty.",
    "resource.",
    "shutil.",
    "socket.",
    "sqlite3.",
    "subprocess.",
    "winreg.",
)
_WRITING = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND


@dataclass(frozen=True)
class Setup:
    """What a worker is told once: the verifier, one entry of each kind to load, and its limits."""

    verifier: Verifier
    examples: tuple[Entry, ...]
    deadline: float
    memory_mb: int


def judge(verifier: Verifier, text: str, entry: Entry) -> tuple[float | None, str | None]:
    """(score, None), or (None, fault) when the verifier raises or returns what is not a finite number."""
    try:
        value = verifier(text, entry)
    except (KeyboardInterrupt, GeneratorExit):
        raise
    except BaseException as error:  # noqa: BLE001 - a verifier may raise anything, and the other texts go on
        return None, f"raised {type(error).__name__}: {_clipped(error)}"
    if not isinstance(value, numbers.Real):
        return None, f"returned {type(value).__name__}, not a number; return a float"
    score = float(value)
    if not math.isfinite(score):
        return None, f"returned {score}, not a finite number"
    if abs(score) > _LARGEST:
        return (
            None,
            f"returned {score:g}, beyond {_LARGEST:g}, where float32 can not square and sum rewards; scale them",
        )
    return score, None


def _clipped(error: BaseException) -> str:
    try:
        return str(error)[:300]
    except Exception:  # noqa: BLE001 - the message is the verifier's own code too
        return "(its message cannot be shown)"


class _Guard:
    """The audit hook and the resource limits, once installed for good."""

    def __init__(self) -> None:
        self.refusals: list[str] = []
        self._own = False

    def install(self, memory_mb: int) -> None:
        # multiprocessing starts programs through this function without an audit event.
        if importlib.util.find_spec("_posixsubprocess") is not None:
            import _posixsubprocess

            _posixsubprocess.fork_exec = self._refuse_fork_exec
        _limit_resources(memory_mb)
        sys.addaudithook(self._audit)

    def allow_cpu(self, seconds: float) -> None:
        """Let this process use ``seconds`` more of CPU time, then have the kernel end it (POSIX).

        The parent's deadline comes first; this one also ends a worker whose parent is gone.
        """
        if sys.platform == "win32":
            return
        import resource

        used = resource.getrusage(resource.RUSAGE_SELF)
        soft = math.ceil(used.ru_utime + used.ru_stime + seconds) + 2
        self._own = True
        try:
            hard = resource.getrlimit(resource.RLIMIT_CPU)[1]
            if hard != resource.RLIM_INFINITY:
                soft = min(soft, hard)
            resource.setrlimit(resource.RLIMIT_CPU, (soft, hard))
        finally:
            self._own = False

    def _audit(self, event: str, arguments: tuple[Any, ...]) -> None:
        if event == "open":
            path, _, flags = arguments
            if not isinstance(flags, int) or not flags & _WRITING or path == os.devnull:
                return
            self._refuse(f"writing to {path!r}"[:200])
        if event.startswith(_REFUSED) and not self._own:
            self._refuse(f"{event} {arguments!r}"[:200])

    def _refuse_fork_exec(self, *_: object) -> None:
        self._refuse("starting a program")

    def _refuse(self, what: str) -> None:
        self.refusals.append(what)
        raise PermissionError(f"refused in the grading worker: {what}")


def _remedy(refusal: str) -> str:
    """What helps where a library did it while it was imported, such as numpy, which loads others through ctypes."""
    return "; import at the top of the verifier's file, not while it judges" if refusal.startswith("ctypes.") else ""


def _limit_resources(memory_mb: int) -> None:
    """No file may grow, no core is dumped; on Linux at most ``memory_mb`` more address space than now."""
    if sys.platform == "win32":
        return
    import resource

    resource.setrlimit(resource.RLIMIT_FSIZE, (0, 0))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    if sys.platform == "linux":
        pages = int(Path("/proc/self/statm").read_text().split()[0])
        most = pages * resource.getpagesize() + memory_mb * _MEBIBYTE
        hard = resource.getrlimit(resource.RLIMIT_AS)[1]
        if hard != resource.RLIM_INFINITY:
            most = min(most, hard)
        resource.setrlimit(resource.RLIMIT_AS, (most, most))


def read_frame(stream: BinaryIO) -> bytes | None:
    """One length-prefixed frame, or None at the end of the stream."""
    header = stream.read(HEADER.size)
    if len(header) < HEADER.size:
        return None
    (length,) = HEADER.unpack(header)
    body = stream.read(length)
    return body if len(body) == length else None


def frame(body: bytes) -> bytes:
    """The body with its length before it."""
    return HEADER.pack(len(body)) + body


def _light_package(name: str, folder: Path) -> None:
    """Register a package whose ``__init__`` runs only if something asks for what it defines.

    The worker needs a few modules without heavy imports; a user's own code may still need the whole package.
    """
    module = ModuleType(name)
    module.__path__ = [str(folder)]
    module.__spec__ = ModuleSpec(name, None, is_package=True)

    def load(attribute: str) -> Any:
        if attribute.startswith("__"):
            raise AttributeError(attribute)
        del module.__dict__["__getattr__"]
        spec = importlib.util.spec_from_file_location(
            name, folder / "__init__.py", submodule_search_locations=[str(folder)]
        )
        if spec is None or spec.loader is None:
            raise ImportError(f"package {name} cannot be loaded from {folder}")
        module.__spec__ = spec
        spec.loader.exec_module(module)
        return getattr(module, attribute)

    module.__dict__["__getattr__"] = load
    sys.modules[name] = module


def _private_channels() -> tuple[BinaryIO, BinaryIO]:
    """The parent's pipes moved away from descriptors 0 and 1, which the guarded code may read and print
    to."""
    requests, replies = os.fdopen(os.dup(0), "rb"), os.fdopen(os.dup(1), "wb")
    _silence(0, 1)
    return requests, replies


def _silence(*descriptors: int) -> None:
    null = os.open(os.devnull, os.O_RDWR)
    for descriptor in descriptors:
        os.dup2(null, descriptor)
    os.close(null)


def _follow_parent(requests: BinaryIO, frames: queue.SimpleQueue[bytes]) -> None:
    """Pass frames on, and end this process at once when the parent's end of the pipe closes."""
    while (body := read_frame(requests)) is not None:
        frames.put(body)
    os._exit(0)


def _watch_parent(parent: int) -> None:
    """End this process when it is orphaned (a forked sibling may hold the pipe open)."""
    while os.getppid() == parent:
        time.sleep(_PARENT_POLL_SECONDS)
    os._exit(0)


def _start(requests: BinaryIO) -> Setup:
    """Read the setup and load all it needs, before any guard is up."""
    paths, setup = read_frame(requests), read_frame(requests)
    if paths is None or setup is None:
        os._exit(0)
    sys.path[:] = json.loads(paths)
    here = Path(__file__).resolve().parent
    _light_package("policyopt", here.parent)
    _light_package("policyopt.worlds", here)
    loaded = pickle.loads(setup)
    loaded.verifier.prepare(loaded.examples)
    return loaded


def main() -> None:
    """Serve chunks until the parent closes the pipe."""
    requests, replies = _private_channels()
    sys.dont_write_bytecode = True
    with contextlib.suppress(ValueError):
        # The parent decides about Ctrl-C.
        signal.signal(signal.SIGINT, signal.SIG_IGN)
    sys.modules.setdefault("policyopt.worlds.grading_worker", sys.modules["__main__"])
    setup = _start(requests)
    frames: queue.SimpleQueue[bytes] = queue.SimpleQueue()
    threading.Thread(target=_follow_parent, args=(requests, frames), daemon=True).start()
    if sys.platform != "win32":
        threading.Thread(target=_watch_parent, args=(os.getppid(),), daemon=True).start()
    guard = _Guard()
    guard.install(setup.memory_mb)
    _reply(replies, {"ready": True})
    # Until here standard error told the parent why a start failed; from here on it would meet the file limit.
    _silence(2)
    while True:
        for position, text, entry in pickle.loads(frames.get()):
            guard.allow_cpu(setup.deadline)
            guard.refusals.clear()
            began = time.perf_counter()
            score, fault = judge(setup.verifier, text, entry)
            if guard.refusals:
                # Also when the verifier swallowed the refusal: a score earned by a forbidden act is none.
                score, fault = None, f"refused {guard.refusals[0]}{_remedy(guard.refusals[0])}"
            seconds = time.perf_counter() - began
            _reply(replies, {"at": position, "score": score, "fault": fault, "seconds": seconds})


def _reply(replies: BinaryIO, message: dict[str, Any]) -> None:
    replies.write(json.dumps(message).encode() + b"\n")
    replies.flush()


if __name__ == "__main__":
    main()
