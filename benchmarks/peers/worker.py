"""The protocol of a side of a benchmark: a process that does one round of work a line of its standard input."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable


def serve(turn: Callable[[], dict[str, float]]) -> None:
    """Answer each line "go" with the numbers of one round, each line "end" by leaving."""
    print(json.dumps({"ready": True}), flush=True)
    for line in sys.stdin:
        if line.strip() == "end":
            return
        print(json.dumps(turn()), flush=True)
