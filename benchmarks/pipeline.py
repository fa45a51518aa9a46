"""Seconds of a round with samplers in Ray, in step and ahead, measured and as `evaluation.sizing.simulated` predicts.

    python benchmarks/pipeline.py [--rounds 40] [--hidden 128] [--rows 384] [--json FILE]

Every arrangement trains the second stage of recipes/demo.yaml from the same new model, one thread a process. What one
sampler and no overlap cost gives the stages: generation, the rest of sampling (grading), training; the other rows are
predictions of the (max, +) recurrence and what was measured: the mean over rounds, because rounds sampled ahead come in
pairs. Efficiency: of two samplers against one, seconds of generation / (2 * seconds with two).
"""

from __future__ import annotations

import argparse
import json
import os
import tempfile
import time
from dataclasses import asdict
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")

import torch

from policyopt.evaluation.sizing import Stages, simulated
from policyopt.recipe.schema import load_recipe
from policyopt.recipe.training import Training
from policyopt.runtime.cluster import connect
from policyopt.runtime.spread import Spread

RECIPE = Path(__file__).parent.parent / "recipes" / "demo.yaml"
WARM = 3  # rounds that are not counted


class Timed:
    """A callable and the seconds spent in it."""

    def __init__(self, inner: Any):
        self.inner, self.seconds = inner, 0.0

    def __call__(self, *args: Any, **options: Any) -> Any:
        began = time.perf_counter()
        found = self.inner(*args, **options)
        self.seconds += time.perf_counter() - began
        return found

    def __getattr__(self, name: str) -> Any:
        return getattr(self.inner, name)


def measure(arguments: Any, samplers: int, staleness: int) -> dict[str, float]:
    """Mean seconds of a round, of what its sampling took, and of its generation. samplers 0: this process."""
    with tempfile.TemporaryDirectory() as place:
        changes = [
            "stages.0.steps=0",
            f"stages.1.steps={arguments.rounds + WARM}",
            "tasks.size=1000",
            "evaluation=null",
            "samples.rows=0",
            "checkpoint_every=1000",
            f"policy.new.hidden_size={arguments.hidden}",
            f"policy.new.intermediate_size={4 * arguments.hidden}",
            f"selection.count={arguments.rows // 8}",
            # The same work in every arrangement: a new model earns nothing, so no row would be trained on; and ahead of
            # training nobody scores again what was sampled.
            "update.skip_idle=false",
            "update.trust_sampler=0.01",
            f"runtime.staleness={staleness}",
            f"folder={place}/run",
            *(["runtime=ray", f"runtime.samplers={samplers}"] if samplers else []),
        ]
        with Training.start(load_recipe(RECIPE, changes)) as training:
            metered: Any = training.built.run.engine
            engine = metered.engine = Timed(metered.engine)
            sampling = training.session.sampled = Timed(training.session.sampled)
            if samplers:
                spread: Any = engine.inner
                assert isinstance(spread, Spread)
                while len(spread.crew.ready) < samplers:
                    spread.crew.map("start", [])
                    time.sleep(0.5)
            began = 0.0
            for number, _ in enumerate(training.rounds(), 1):
                if number == WARM:
                    began, engine.seconds, sampling.seconds = time.perf_counter(), 0.0, 0.0
            seconds = {"round": time.perf_counter() - began, "sample": sampling.seconds, "generate": engine.seconds}
        return {name: spent / arguments.rounds for name, spent in seconds.items()}


def divided(found: dict[str, float]) -> Stages:
    """The stages of a round without overlap."""
    return Stages(found["generate"], found["sample"] - found["generate"], found["round"] - found["sample"])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=40)
    parser.add_argument("--hidden", type=int, default=128)
    parser.add_argument("--rows", type=int, default=384)
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    end = connect(None, 4)  # once for all
    plain = measure(arguments, 0, 0)
    one = measure(arguments, 1, 0)
    # Generation by a sampler, with what it costs to send weights and rows.
    stages, here = divided(one), divided(plain)
    lines = [
        {"samplers": 0, "staleness": 0, "predicted": None, "measured": plain["round"]},
        {"samplers": 1, "staleness": 0, "predicted": None, "measured": one["round"]},
    ]
    efficiency = None
    for samplers, staleness in ((2, 0), (1, 1), (2, 1), (0, 1)):
        found = measure(arguments, samplers, staleness)
        predicted = simulated(stages if samplers else here, max(1, samplers), staleness)
        lines.append({"samplers": samplers, "staleness": staleness, "predicted": predicted, "measured": found["round"]})
        if (samplers, staleness) == (2, 0):
            efficiency = one["generate"] / (2 * found["generate"])
    end()
    for place, cost in (("one sampler", stages), ("here", here)):
        told = ", ".join(f"{name} {seconds:.3f} s" for name, seconds in asdict(cost).items())
        print(f"{place}: {told} a round; {os.cpu_count()} cores")
    print("samplers  staleness  predicted s  measured s")
    for line in lines:
        predicted = "-" if line["predicted"] is None else f"{line['predicted']:.3f}"
        print(f"{line['samplers'] or 'here':>8}  {line['staleness']:>9}  {predicted:>11}  {line['measured']:>10.3f}")
    assert efficiency is not None
    print(f"efficiency of two samplers: {efficiency:.2f}")
    if arguments.json is not None:
        costs = {"stages": asdict(stages), "here": asdict(here)}
        arguments.json.write_text(json.dumps({**costs, "lines": lines, "efficiency": efficiency}))


if __name__ == "__main__":
    main()
