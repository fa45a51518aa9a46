"""The host's side: `Sandbox` starts a zygote, gives it programs and says what became of them."""

from __future__ import annotations

import contextlib
import json
import logging
import os
import selectors
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from types import TracebackType
from typing import Any

from policyopt.sandbox import seccomp, zygote
from policyopt.sandbox.files import Watched

log = logging.getLogger("policyopt")

_START_SECONDS = 60.0
_CLOSE_SECONDS = 2.0
_GRACE_SECONDS = 10.0  # beyond a program's own limit, before the sandbox counts as broken
_warned: set[str] = set()


class SandboxUnavailable(RuntimeError):
    """This machine can not isolate programs; the message says why and what to do."""


class SandboxFault(RuntimeError):
    """The sandbox itself failed; nothing is known about the program."""


@dataclass(frozen=True)
class Limits:
    """What one program may use.

    Args:
        cpu_seconds: processor time of all its threads.
        seconds: wall-clock time.
        memory_mb: MiB of address space, the interpreter's own (about 60) among them.
        files_mb: MiB of its temporary folder, and of any one file.
        files: names in its temporary folder.
        output_kb: KiB on each of standard output, standard error and the channel of its answers.
        threads: at most.
    """

    cpu_seconds: float = 2.0
    seconds: float = 5.0
    memory_mb: int = 512
    files_mb: int = 16
    files: int = 256
    output_kb: int = 1024
    threads: int = 16

    def __post_init__(self) -> None:
        for name, value in asdict(self).items():
            if not value > 0:
                raise ValueError(f"{name} must be above 0, got {value}")


@dataclass(frozen=True)
class Outcome:
    """How a program ended. ``code``: as of `subprocess`; ``limit``: the one it broke (cpu, seconds, output), "stopped"
    if the other one of a pair ended first. What it wrote is anybody's bytes."""

    stdout: bytes
    stderr: bytes
    answers: bytes
    code: int
    limit: str | None
    cpu: float
    seconds: float

    @property
    def well(self) -> bool:
        """Ended by itself, as a program without an error does."""
        return self.code == 0 and self.limit is None


class Sandbox:
    """Runs programs one after the other (`run`), or a program and its tests (`pair`). One thread at a time; a context
    manager. It starts when first used and again after a fault, and ends with this process."""

    def __init__(self, *, unsafe: bool = False):
        if unsafe and "unsafe" not in _warned:
            _warned.add("unsafe")
            log.warning("sandbox=unsafe: programs run with this account's rights to files, processes and network")
        self.unsafe = unsafe
        self._process: subprocess.Popen[bytes] | None = None
        self._channel: socket.socket | None = None
        self._complaints: Any = None

    def __enter__(self) -> Sandbox:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def start(self) -> None:
        """Start the zygote, unless it runs; raises SandboxUnavailable."""
        if self._process is not None and self._process.poll() is None:
            return
        self.close()
        if (why := _missing(unsafe=self.unsafe)) is not None:
            raise SandboxUnavailable(_refusal(why))
        ours, theirs = socket.socketpair()
        self._complaints = tempfile.TemporaryFile()  # noqa: SIM115 - closed in close()
        command = [sys.executable, "-s", "-S", "-P", "-B", "-X", "utf8", str(Path(zygote.__file__).resolve())]
        with theirs:
            self._process = subprocess.Popen(
                [*command, str(theirs.fileno()), "unsafe" if self.unsafe else "isolated"],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=self._complaints,
                pass_fds=(theirs.fileno(),),
                cwd="/",
                # Equal programs see equal orders of sets; one arena keeps address space for the program.
                env={"PYTHONHASHSEED": "0", "MALLOC_ARENA_MAX": "1"},
                start_new_session=True,
            )
        self._channel = ours
        ours.settimeout(_START_SECONDS)
        if self._word() != b"r":
            why = self._ending()
            self.close()
            raise SandboxUnavailable(_refusal(why))
        ours.settimeout(_GRACE_SECONDS)

    def close(self) -> None:
        """End the zygote and with it everything inside."""
        if self._channel is not None:
            self._channel.close()  # at which the zygote ends, and everything with it
        if self._process is not None:
            try:
                self._process.wait(_CLOSE_SECONDS)
            except subprocess.TimeoutExpired:
                self._process.kill()
                self._process.wait(_GRACE_SECONDS)
        if self._complaints is not None:
            self._complaints.close()
        self._process = self._channel = self._complaints = None

    def run(self, job: dict[str, Any], limits: Limits, stdin: bytes = b"") -> Outcome:
        """One program. job: what ``program`` understands, as JSON."""
        watched = Watched(_packed(job), stdin, None, None, limits.output_kb * 1024)
        return self._watch([watched], limits)[0]

    def pair(self, program: dict[str, Any], tests: dict[str, Any], limits: Limits) -> tuple[Outcome, Outcome]:
        """A program that is asked and the tests that ask it, each in a process of its own; the tests' end ends both."""
        asking, asked = socket.socketpair()
        most = limits.output_kb * 1024
        with asking, asked:
            served = Watched(_packed(program), b"", asked.fileno(), asked.fileno(), most)
            testing = Watched(_packed(tests), b"", asking.fileno(), None, most)
            # Both ends are closed here once the processes have them, so that each sees the other one's end.
            first, second = self._watch([served, testing], limits, (asking, asked))
        return first, second

    def _watch(self, watched: Sequence[Watched], limits: Limits, held: Sequence[socket.socket] = ()) -> list[Outcome]:
        """Start the processes and read what they write until the last one has ended."""
        try:
            self.start()
            for one in watched:
                self._send(one, limits)
            for end in held:
                end.close()
            self._follow(watched, time.monotonic() + limits.seconds + _GRACE_SECONDS)
            return [_outcome(one) for one in watched]
        except (OSError, SandboxFault) as error:
            self.close()  # whatever still runs in it ends; the next program gets a new one
            raise SandboxFault(str(error)) from error
        finally:
            for one in watched:
                one.close()

    def _send(self, one: Watched, limits: Limits) -> None:
        assert self._channel is not None
        socket.send_fds(self._channel, [json.dumps(asdict(limits)).encode()], one.given)
        if self._word() != b"k":
            raise SandboxFault(f"phase hand-over: the sandbox ended: {self._ending()}")
        one.sent()

    def _follow(self, watched: Sequence[Watched], until: float) -> None:
        with selectors.DefaultSelector() as selector:
            for one in watched:
                one.register(selector)
            while not all(one.over for one in watched):
                ready = selector.select(max(0.0, until - time.monotonic()))
                if not ready:
                    raise SandboxFault(f"phase run: no end of a program within {_GRACE_SECONDS} s of its limit")
                for key, _ in ready:
                    one, stream = key.data
                    one.take(selector, stream)
                if watched[-1].report is not None:
                    for one in watched[:-1]:
                        one.stop(None)

    def _word(self) -> bytes:
        assert self._channel is not None
        with contextlib.suppress(OSError):
            return self._channel.recv(1)
        return b""

    def _ending(self) -> str:
        """Why the zygote is gone, in its own words."""
        assert self._process is not None
        try:
            code = self._process.wait(1.0)
        except subprocess.TimeoutExpired:
            return f"process {self._process.pid} does not answer"
        self._complaints.seek(0)
        said = self._complaints.read()[-1000:].decode(errors="replace").strip()
        return said or f"exit code {code}"


def _outcome(one: Watched) -> Outcome:
    report: Any = one.report
    if "fault" in report:
        raise SandboxFault(report["fault"])
    wrote = {"answers": b""} | {name: bytes(stream.data) for name, stream in one.streams.items()}
    return Outcome(**wrote, **(report | {"limit": one.limit or report["limit"]}))


def _packed(job: dict[str, Any]) -> bytes:
    return json.dumps(job).encode()


def _missing(*, unsafe: bool) -> str | None:
    """What this platform lacks."""
    if not hasattr(os, "fork"):
        return f"{sys.platform} has no fork"
    if not unsafe and sys.platform != "linux":
        return f"{sys.platform} has no namespaces"
    if not unsafe and not seccomp.supported():
        return "no filter of system calls is known for this processor"
    return None


def _refusal(why: str) -> str:
    return (
        f"programs are run isolated only, and this machine can not isolate them: {why}. Use Linux 5.12 or newer on "
        "x86_64 or aarch64 (on Windows: WSL 2) with user namespaces allowed (sysctl user.max_user_namespaces above 0, "
        "kernel.apparmor_restrict_unprivileged_userns=0; in a container: --security-opt seccomp=unconfined "
        "--security-opt apparmor=unconfined), or accept that programs have this account's rights: "
        "sandbox=unsafe among the verifier's options"
    )
