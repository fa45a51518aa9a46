"""Steps per second of whole PPO training, collection and update, against Stable-Baselines3.

    make peers
    .venv/bin/python benchmarks/control_speed.py [--peer .peers/bin/python] [--rounds 7] [--only halfcheetah ...]

Both sides have the same environments, network, minibatches and one thread. Their rounds alternate, so that both see the
same machine; medians of `--rounds` rounds after a warm-up. Prints a table; `--json FILE` writes the numbers.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
from dataclasses import asdict
from pathlib import Path

from control_settings import SETTINGS
from rich.console import Console
from rich.table import Table

HERE = Path(__file__).parent
WARM_UP = 2


class Side:
    """A process that does a round of work when it is told to."""

    def __init__(self, python: str, script: str, setting: dict):
        environment = {**os.environ, "OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}
        self.process = subprocess.Popen(
            [python, str(HERE / "peers" / script), json.dumps(setting)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
            env=environment,
        )
        self.read()

    def read(self) -> dict[str, float]:
        for line in self.process.stdout:
            if line.startswith("{"):
                return json.loads(line)
        raise SystemExit(f"{self.process.args[1]} ended; run it by hand to see why: {self.process.args}")

    def go(self) -> dict[str, float]:
        self.process.stdin.write("go\n")
        self.process.stdin.flush()
        return self.read()

    def end(self) -> None:
        self.process.communicate("end\n")


def measure(name: str, peer: str, rounds: int, execution: str) -> dict:
    setting = SETTINGS[name]
    given = asdict(setting)
    sides = {
        "ours": Side(sys.executable, "ours_speed.py", {**given, "execution": execution}),
        "sb3": Side(peer, "sb3_speed.py", given),
    }
    found: dict[str, list[dict[str, float]]] = {side: [] for side in sides}
    for turn in range(WARM_UP + rounds):
        for side, process in sides.items():
            numbers = process.go()
            if turn >= WARM_UP:
                found[side].append(numbers)
    for process in sides.values():
        process.end()
    rate = {side: [setting.batch / numbers["seconds"] for numbers in turns] for side, turns in found.items()}
    ratios = [ours / theirs for ours, theirs in zip(rate["ours"], rate["sb3"], strict=True)]
    update = {side: statistics.median(n["update"] for n in turns) for side, turns in found.items()}
    collect = {side: statistics.median(n["seconds"] - n["update"] for n in turns) for side, turns in found.items()}
    return {
        "setting": name,
        "execution": execution,
        **given,
        "steps_per_second": {side: statistics.median(values) for side, values in rate.items()},
        "ratio": statistics.median(ratios),
        "ratios": ratios,
        "update_seconds": update,
        "collection_seconds": collect,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--peer", default=".peers/bin/python", help="Python of the peers' environment")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--only", nargs="*", choices=sorted(SETTINGS), default=list(SETTINGS))
    parser.add_argument("--execution", choices=("eager", "recorded", "compiled"), default="recorded")
    parser.add_argument("--json", type=Path)
    asked = parser.parse_args()
    table = Table("setting", "ours, steps/s", "SB3, steps/s", "ratio", "lowest..highest", "update", "collection")
    results = []
    for name in asked.only:
        r = measure(name, asked.peer, asked.rounds, asked.execution)
        results.append(r)
        rate, update, collect = r["steps_per_second"], r["update_seconds"], r["collection_seconds"]
        table.add_row(
            name,
            f"{rate['ours']:.0f}",
            f"{rate['sb3']:.0f}",
            f"{r['ratio']:.2f}",
            f"{min(r['ratios']):.2f}..{max(r['ratios']):.2f}",
            f"{update['ours']:.2f} / {update['sb3']:.2f} s",
            f"{collect['ours']:.2f} / {collect['sb3']:.2f} s",
        )
    Console().print(table)
    if asked.json:
        machine = {"processor": platform.processor() or platform.machine(), "cores": os.cpu_count()}
        asked.json.write_text(json.dumps({"machine": machine, "results": results}, indent=1) + "\n")


if __name__ == "__main__":
    main()
