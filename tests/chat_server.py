"""A chat model on localhost that fails as peers do: late, with errors, with nonsense, or not at all."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

Reply = Callable[[str, int], Any]
"""(question, how often it was asked before) -> a text; a status; seconds as float of silence; bytes as they are."""


def completion(text: Any) -> bytes:
    message = {"role": "assistant", "content": text}
    choice = {"index": 0, "message": message, "finish_reason": "stop"}
    return json.dumps(
        {"id": "x", "object": "chat.completion", "created": 0, "model": "m", "choices": [choice]}
    ).encode()


class ChatServer(ThreadingHTTPServer):
    daemon_threads = True

    def __init__(self, reply: Reply):
        super().__init__(("127.0.0.1", 0), _Handler)
        self.reply, self.lock = reply, threading.Lock()
        self.questions: list[str] = []
        self.busy = self.most_busy = 0
        self.closing = threading.Event()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}/v1"

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that hung up is none of the server's trouble."""


class _Handler(BaseHTTPRequestHandler):
    server: ChatServer

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
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
            return self._send(said, b'{"error": {"message": "no"}}')
        self._send(200, said if isinstance(said, bytes) else completion(said))

    def _send(self, status: int, body: bytes) -> None:
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *arguments: Any) -> None:
        """Silent."""


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
