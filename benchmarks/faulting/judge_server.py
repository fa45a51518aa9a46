"""A chat model on this machine for runs that are judged: as a script, `judge_server.py PORT FOLDER` (0: any port).

What it says is a function of the question. A file FOLDER/judge makes it misbehave: "disconnect" hangs up without an
answer, "corrupt" sends what is no completion.
"""

from __future__ import annotations

import hashlib
import json
import sys
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

WAY = Path(sys.argv[2]) / "judge" if len(sys.argv) > 2 else Path("judge")


class Server(ThreadingHTTPServer):
    daemon_threads = True
    allow_reuse_address = True

    def handle_error(self, request: object, client_address: object) -> None:
        pass


class Handler(BaseHTTPRequestHandler):
    def do_POST(self) -> None:
        asked = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        way = WAY.read_text() if WAY.is_file() else ""
        if way == "disconnect":
            self.close_connection = True
            return
        score = hashlib.sha256(asked["messages"][-1]["content"].encode()).digest()[0] % 10
        choice = {"index": 0, "finish_reason": "stop", "message": {"role": "assistant", "content": str(score)}}
        reply = {"id": "x", "object": "chat.completion", "created": 0, "model": "m", "choices": [choice]}
        body = b'{"choices": [{"mess' if way == "corrupt" else json.dumps(reply).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:
        pass


if __name__ == "__main__":
    with Server(("127.0.0.1", int(sys.argv[1])), Handler) as server:
        print(server.server_address[1], flush=True)
        server.serve_forever()
