"""A chat model on this machine for runs that are judged: as a script, `judge_server.py PORT FOLDER` (0: any port).

What it says is a function of the question. A file FOLDER/judge makes it misbehave: "disconnect" hangs up without an
answer, "corrupt" sends what is no completion.
"""

from __future__ import annotations

import hashlib
import json
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from chat import Handler, Server, completion

WAY = Path(sys.argv[2]) / "judge" if len(sys.argv) > 2 else Path("judge")


class Judge(Handler):
    def do_POST(self) -> None:
        question = json.loads(self.question())["messages"][-1]["content"]
        way = WAY.read_text() if WAY.is_file() else ""
        if way == "disconnect":
            self.close_connection = True
            return
        score = hashlib.sha256(question.encode()).digest()[0] % 10
        self.send(200, b'{"choices": [{"mess' if way == "corrupt" else json.dumps(completion(str(score))).encode())


if __name__ == "__main__":
    with Server(("127.0.0.1", int(sys.argv[1])), Judge) as server:
        print(server.server_address[1], flush=True)
        server.serve_forever()
