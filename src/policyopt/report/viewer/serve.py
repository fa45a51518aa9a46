"""Follows runs on this machine only: the same page, asking for its data again when they have changed."""

from __future__ import annotations

import json
import sys
import threading
from collections.abc import Mapping, Sequence
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from policyopt.report.viewer.collect import Collected, collect, stamp
from policyopt.report.viewer.page import packed, page
from policyopt.runtime.folder import RunFolder

HOST = "127.0.0.1"


class Server(ThreadingHTTPServer):
    """port 0: any free one. `url` is where the page is."""

    daemon_threads = True

    def __init__(self, folders: Sequence[RunFolder], port: int = 0, opened: Mapping[str, Any] | None = None):
        super().__init__((HOST, port), Handler)
        self.folders, self.opened = folders, opened
        self._page = page(None).encode()
        self._lock = threading.Lock()
        self._held: Collected | None = None

    @property
    def url(self) -> str:
        return f"http://{HOST}:{self.server_port}/"

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A browser that hung up or fell asleep is no trouble of the server."""
        if not isinstance(sys.exception(), (ConnectionError, TimeoutError)):
            super().handle_error(request, client_address)

    def answer(self, path: str) -> tuple[str, bytes, bool] | None:
        """Type, content, whether it is compressed; None: there is no such thing."""
        if path == "/":
            return "text/html; charset=utf-8", self._page, False
        if path == "/data/version":
            return "application/json", json.dumps({"version": stamp(self.folders)}).encode(), False
        if path == "/data/index":
            return "application/json", packed(self._read(anew=True).index), True
        name, _, number = path.rpartition("/")
        chunks = self._read(anew=False).chunks
        if name == "/data/chunk" and number.isascii() and number.isdigit() and int(number) < len(chunks):
            return "application/json", packed(chunks[int(number)]), True
        return None

    def _read(self, *, anew: bool) -> Collected:
        with self._lock:
            if self._held is None or (anew and self._held.index["version"] != stamp(self.folders)):
                self._held = collect(self.folders, self.opened)
            return self._held


class Handler(BaseHTTPRequestHandler):
    """GET alone. A page of another name that resolves to this machine is refused (DNS rebinding)."""

    server: Server
    protocol_version = "HTTP/1.1"
    timeout = 30.0  # seconds for a browser to say or take something, after which its connection is closed

    def do_GET(self) -> None:
        names = [f"{name}:{self.server.server_port}" for name in (HOST, "localhost")]
        if self.headers.get("Host") not in names:
            self.send_error(HTTPStatus.FORBIDDEN)
            return
        found = self.server.answer(self.path)
        if found is None:
            self.send_error(HTTPStatus.NOT_FOUND)
            return
        kind, content, compressed = found
        self.send_response(HTTPStatus.OK)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(content)))
        self.send_header("Cache-Control", "no-store")
        self.send_header("X-Content-Type-Options", "nosniff")
        if compressed:
            self.send_header("Content-Encoding", "gzip")
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, format: str, *args: object) -> None:
        pass
