"""A chat model on localhost that fails as peers do: late, with errors, with nonsense, or not at all."""

from __future__ import annotations

import json
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "benchmarks"))

import chat

Reply = Callable[[str, int], Any]
"""(question, how often it was asked before) -> a text; a status; seconds as float of silence; bytes as they are."""


def completion(text: Any) -> bytes:
    return json.dumps(chat.completion(text)).encode()


class ChatServer(chat.Server):
    def __init__(self, reply: Reply):
        super().__init__(("127.0.0.1", 0), _Handler)
        self.reply, self.lock = reply, threading.Lock()
        self.questions: list[str] = []
        self.busy = self.most_busy = 0
        self.closing = threading.Event()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}/v1"


class _Handler(chat.Handler):
    server: ChatServer

    def do_POST(self) -> None:
        body = json.loads(self.question())
        question, server = body["messages"][-1]["content"], self.server
        with server.lock:
            before = server.questions.count(question)
            server.questions.append(question)
            server.busy += 1
            server.most_busy = max(server.most_busy, server.busy)
        try:
            self._answer(server.reply(question, before))
        finally:
            with server.lock:
                server.busy -= 1

    def _answer(self, said: Any) -> None:
        if isinstance(said, float):
            self.server.closing.wait(said)
            said = "late"
        if isinstance(said, int):
            return self.send(said, b'{"error": {"message": "no"}}')
        self.send(200, said if isinstance(said, bytes) else completion(said))


@contextmanager
def serving(reply: Reply) -> Iterator[ChatServer]:
    server = ChatServer(reply)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
    thread.start()
    try:
        yield server
    finally:
        server.closing.set()
        server.shutdown()
        server.server_close()
        thread.join()


def waited(condition: Callable[[], bool], seconds: float) -> bool:
    """Whether a condition became true in time."""
    end = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > end:
            return False
        time.sleep(0.05)
    return True
