"""What a second trainer process brings: seconds of an update, and of sampling, by one process and by several.

    .venv/bin/python benchmarks/sharded.py --processes 2

Every process has one thread. One process is also measured with as many threads as there are processes. Times are the
median of the rounds after the first two. Efficiency is t(one) / (processes t(several)). "others" is the share of the
machine that other programs took meanwhile (Linux): times with more than a few percent of it are of little worth, unlike
the processor time that each process needs for a round.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from policyopt.compose import Program, Stage
from policyopt.engines.choose import engine_for
from policyopt.methods import load
from policyopt.options import override
from policyopt.policies.checkpoint import new_language
from policyopt.run import Run
from policyopt.runtime.launch import launch
from policyopt.runtime.ranks import Ranks
from policyopt.runtime.sharding import Generating, Sharded
from policyopt.train import rounds
from policyopt.worlds.tokens import TokenWorld


@dataclass(frozen=True)
class Size:
    """A model, and a round of it: tasks x attempts rows of at most `limit` tokens."""

    hidden: int
    layers: int
    tasks: int
    attempts: int
    limit: int
    rounds: int


SIZES = {"small": Size(128, 3, 16, 8, 32, 8), "medium": Size(256, 4, 8, 8, 48, 5)}


class Clocked:
    """An update or an engine whose time is kept."""

    def __init__(self, inner: Any):
        self.inner, self.seconds = inner, 0.0

    def __call__(self, *given: Any, **options: Any) -> Any:
        began = time.perf_counter()
        try:
            return self.inner(*given, **options)
        finally:
            self.seconds += time.perf_counter() - began

    def __getattr__(self, name: str) -> Any:
        return getattr(self.inner, name)


def odd(texts: list[str], tasks: list[int]) -> list[float]:
    return [float(len(text) % 2) for text in texts]


def measured(size: Size, ranks: Ranks | None) -> dict[str, float]:
    """Median seconds of a round's parts."""
    policy = new_language(512, "llama", hidden_size=size.hidden, layers=size.layers, heads=4, seed=1)
    world = TokenWorld([[3 + n, 5, 7] for n in range(size.tasks)], eos=0, limit=size.limit, decode=str, judge=odd)
    made = override(load("grpo"), {"selection.count": size.tasks, "sampling.size": size.attempts})
    engine = engine_for(policy, world)
    run = Run({"policy": policy}, world, engine, 0)
    if ranks is not None:
        run.trainers, engine = Sharded(ranks), Generating(engine, ranks)
    clocked = run.engine = Clocked(engine)
    seen: list[dict[str, float]] = []
    began, busy, own = time.perf_counter(), machine_busy(), time.process_time()
    for total in _timed(rounds(run, Program((Stage(made, size.rounds),)))):
        seen.append({"round": total, "sampling": clocked.seconds, "rest": total - clocked.seconds})
        clocked.seconds = 0.0
    used = time.process_time() - own
    each, used = used / size.rounds, used if ranks is None else sum(ranks.gather(used))
    spent = (machine_busy() - busy - used) / (time.perf_counter() - began) / (os.cpu_count() or 1)
    told = {"parameters": sum(p.numel() for p in policy.parameters()), "others": max(0.0, spent), "cpu": each}
    return told | {k: statistics.median(s[k] for s in seen[2:]) for k in seen[0]}


def machine_busy() -> float:
    """Processor seconds that all programs together have used; 0 where the system does not tell."""
    if not Path("/proc/stat").exists():
        return 0.0
    user, nice, system = map(int, Path("/proc/stat").read_text().split(maxsplit=4)[1:4])
    return (user + nice + system) / os.sysconf("SC_CLK_TCK")


def _timed(loop: Iterator[Any]) -> Iterator[float]:
    while True:
        began = time.perf_counter()
        if next(loop, None) is None:
            return
        yield time.perf_counter() - began


def several(ranks: Ranks, name: str, path: str) -> None:
    torch.set_num_threads(1)
    found = measured(SIZES[name], ranks)
    if ranks.leads:
        Path(path).write_text(json.dumps(found))


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--sizes", nargs="+", default=list(SIZES), choices=list(SIZES))
    asked = parser.parse_args()
    print(f"{platform.processor() or platform.machine()}, torch {torch.__version__}; seconds a round")
    print("| model | part | 1 process | 1 process, more threads | several | speed-up | efficiency | others |")
    print("|---|---|---|---|---|---|---|---|")
    for name in asked.sizes:
        torch.set_num_threads(1)
        one = measured(SIZES[name], None)
        torch.set_num_threads(asked.processes)
        threads = measured(SIZES[name], None)
        with tempfile.TemporaryDirectory() as folder:
            path = str(Path(folder) / "found.json")
            launch(asked.processes, several, (name, path), 300.0)
            more = json.loads(Path(path).read_text())
        for part in ("sampling", "rest", "round"):
            gain = one[part] / more[part]
            model = f"{name}, {one['parameters'] / 1e6:.1f} M"
            times = " | ".join(f"{x[part]:.3f}" for x in (one, threads, more))
            others = ", ".join(f"{x['others']:.0%}" for x in (one, threads, more))
            if part == "round":
                work = " | ".join(f"{x['cpu']:.3f}" for x in (one, threads, more))
                share = one["cpu"] / more["cpu"]
                print(f"| {model} | processor time of each | {work} | {share:.2f} | {share / asked.processes:.0%} | |")
            print(f"| {model} | {part} | {times} | {gain:.2f} | {gain / asked.processes:.0%} | {others} |", flush=True)


if __name__ == "__main__":
    main()
