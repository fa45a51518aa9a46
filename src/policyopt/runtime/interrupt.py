"""Stopping in order: the first Ctrl-C lets the round end, the second stops at once."""

from __future__ import annotations

import contextlib
import os
import signal
import threading
from collections.abc import Iterator, Mapping
from types import FrameType
from typing import Any

NOTICE = b"\nStopping after this round, with a checkpoint. Press Ctrl-C again to stop at once.\n"


@contextlib.contextmanager
def handled(handlers: Mapping[int, Any]) -> Iterator[None]:
    """Inside, these handlers of signals are in place. In another thread than the main one, where no signal arrives, the
    block changes nothing."""
    try:
        before = [(number, signal.signal(number, handler)) for number, handler in handlers.items()]
    except ValueError:
        before = []
    try:
        yield
    finally:
        for number, handler in before:
            signal.signal(number, handler)


class Interrupt:
    """Inside the block, the first SIGINT or SIGTERM sets `requested`; the second raises KeyboardInterrupt at once.

    Signals reach only a program's main thread; in another thread the block changes nothing.
    """

    def __init__(self) -> None:
        self.requested = False
        self._before: dict[int, Any] = {}

    def __enter__(self) -> Interrupt:
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGINT, signal.SIGTERM):
                self._before[number] = signal.signal(number, self._receive)
        return self

    def __exit__(self, *exc: object) -> None:
        for number, handler in self._before.items():
            # A handler that was not installed from Python is None and can not be put back from Python.
            signal.signal(number, signal.SIG_DFL if handler is None else handler)
        self._before.clear()

    def _receive(self, number: int, frame: FrameType | None) -> None:
        if self.requested:
            raise KeyboardInterrupt
        self.requested = True
        # Not print: a signal may arrive in the middle of one, and streams refuse to be entered twice. A closed
        # stderr is no reason to stop less orderly.
        with contextlib.suppress(OSError):
            os.write(2, NOTICE)
