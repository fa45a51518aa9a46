"""Files that only programs read, and what is left of a process: the host's side of a confined process's descriptors."""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import selectors
import socket
import sys
import tempfile
from dataclasses import dataclass, field

_PIECE = 1 << 16


def read_only(content: bytes) -> int:
    """A descriptor at the start of a file without a name that nobody can change."""
    if sys.platform == "linux":
        handle = os.memfd_create("", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
        _fill(handle, content)
        seals = fcntl.F_SEAL_SEAL | fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_WRITE
        fcntl.fcntl(handle, fcntl.F_ADD_SEALS, seals)
        return handle
    with tempfile.TemporaryFile() as file:
        handle = os.dup(file.fileno())
    _fill(handle, content)
    return handle


def _fill(handle: int, content: bytes) -> None:
    rest = memoryview(content)
    while rest:
        rest = rest[os.write(handle, rest) :]
    os.lseek(handle, 0, os.SEEK_SET)


@dataclass
class Stream:
    """One pipe that a program writes to, read up to ``most`` bytes."""

    handle: int
    most: int
    data: bytearray = field(default_factory=bytearray)
    over: bool = False
    open: bool = True

    def read(self) -> bool:
        """Take in what is there; False once it has ended or there was too much (the rest is never read)."""
        piece, room = os.read(self.handle, _PIECE), self.most - len(self.data)
        self.data += piece[:room]
        self.over = len(piece) > room
        return bool(piece) and not self.over


class Watched:
    """The host's ends of one confined process: what it writes, and its warden's channel."""

    def __init__(self, job: bytes, stdin: bytes, asked: int | None, answers: int | None, most: int):
        """asked, answers: descriptors that another process holds the other end of; None: nothing to be asked, and the
        host reads the answers. They stay the caller's."""
        self._sent: list[int] = []
        self.streams: dict[str, Stream] = {}
        given = [self._own(read_only(stdin)), self._pipe("stdout", most), self._pipe("stderr", most)]
        given.append(answers if answers is not None else self._pipe("answers", most))
        given.append(asked if asked is not None else self._own(read_only(b"")))
        given.append(self._own(read_only(job)))
        self.control, theirs = socket.socketpair()
        self._sent.append(theirs.detach())
        self.given = (*given, self._sent[-1])
        self.report: dict[str, object] | None = None
        self.limit: str | None = None

    def _own(self, handle: int) -> int:
        self._sent.append(handle)
        return handle

    def _pipe(self, name: str, most: int) -> int:
        ours, theirs = os.pipe()
        self.streams[name] = Stream(ours, most)
        return self._own(theirs)

    def sent(self) -> None:
        """The process has its ends; ours must go, or we would never see it end."""
        while self._sent:
            os.close(self._sent.pop())

    def register(self, selector: selectors.BaseSelector) -> None:
        selector.register(self.control, selectors.EVENT_READ, (self, None))
        for stream in self.streams.values():
            selector.register(stream.handle, selectors.EVENT_READ, (self, stream))

    def take(self, selector: selectors.BaseSelector, stream: Stream | None) -> None:
        """Read what came on a stream, or (None) the warden's report."""
        if stream is None:
            selector.unregister(self.control)
            said = self.control.recv(_PIECE)
            self.report = json.loads(said) if said else {"fault": "the sandbox ended"}
        elif not stream.read():
            selector.unregister(stream.handle)
            stream.open = False
            if stream.over:
                self.stop("output")

    @property
    def over(self) -> bool:
        """Ended, and all it wrote was read."""
        return self.report is not None and not any(stream.open for stream in self.streams.values())

    def stop(self, limit: str | None) -> None:
        """Have the warden end the process."""
        self.limit = self.limit or limit
        with contextlib.suppress(OSError):
            self.control.shutdown(socket.SHUT_WR)

    def close(self) -> None:
        self.sent()
        self.control.close()
        for stream in self.streams.values():
            os.close(stream.handle)
