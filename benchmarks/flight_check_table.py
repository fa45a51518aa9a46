"""Planted faults against the checks of `policyopt check`, and false alarms of the healthy demo, as Markdown tables.

    python benchmarks/flight_check_table.py [--lessons 250] [--seeds 20] [--weights FILE] [--faults NAME ...]

The demo's first stage is run once (`--lessons` rounds); every fault is then planted into its second stage. The faults
are those of the tests (tests/planted_faults.py). Healthy flights: the demo as it is written, and its second stage after
the lessons with a KL term, for every seed.
"""

from __future__ import annotations

import argparse
import copy
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
sys.path[:0] = [str(ROOT / "tests"), str(ROOT / "tests" / "runtime")]

import torch  # noqa: E402
import yaml  # noqa: E402

from planted_faults import CHAT, FIRES, TEXT, Fault, conversations  # noqa: E402  # pyright: ignore[reportMissingImports]
from policyopt.evaluation.flight import CHECKS, Finding, Verdict, findings  # noqa: E402
from policyopt.evaluation.flight.collect import Sizes  # noqa: E402
from policyopt.recipe.build import build  # noqa: E402
from policyopt.recipe.flight import flown  # noqa: E402
from policyopt.recipe.schema import make_recipe  # noqa: E402
from policyopt.train import rounds  # noqa: E402

WITH_KL = "constraint.kl.weight=0.04"  # which the demo leaves out: its check is then asked as well
CHEAP = ("tasks.size=1000", "evaluation.tasks=50")
SIZES = Sizes(batches=1)
MARKS = {Verdict.OK: "·", Verdict.WARN: "w", Verdict.FAULT: "**F**", Verdict.SKIPPED: ""}
Weights = Mapping[str, torch.Tensor]


def taught(demo: Mapping[str, Any], lessons: int) -> Weights:
    """The demo's policy after its first stage."""
    with build(make_recipe({**demo, "stages": demo["stages"][:1]}, [*CHEAP, f"stages.0.steps={lessons}"])) as built:
        for _ in rounds(built.run, built.program):
            pass
        return copy.deepcopy(built.policy.state_dict())


def fly(
    recipe: Mapping[str, Any],
    changes: Sequence[str] = (),
    plant: Callable[[Any], None] | None = None,
    weights: Weights | None = None,
    seed: int = 0,
) -> list[Finding]:
    with build(make_recipe(recipe, changes)) as built:
        built.run.seed = seed
        if weights is not None:
            built.policy.load_state_dict(weights)
        if plant is not None:
            plant(built)
        return findings(flown(built, SIZES))


def row(name: str, fault: Fault, found: Sequence[Finding]) -> tuple[str, bool]:
    """A line of the matrix, and whether the fault was seen by every check that must see it."""
    by_name = {one.check: one.said.verdict for one in found}
    seen = all(by_name[check] in FIRES[fault.least] for check in fault.sees)
    cells = []
    for check in CHECKS:
        mark = MARKS[by_name[check.name]]
        cells.append(f"[{mark}]" if check.name in fault.sees else mark)
    said = "" if not fault.sees else "yes" if seen else "NO"
    return f"| {name} | {said} | " + " | ".join(cells) + " |", seen


def matrix(flights: Mapping[str, tuple[Fault, list[Finding]]]) -> str:
    numbers = [str(index + 1) for index in range(len(CHECKS))]
    lines = [f"{index + 1}. {check.name}" for index, check in enumerate(CHECKS)]
    lines += ["", "| planted fault | seen | " + " | ".join(numbers) + " |", "|---|---|" + ":-:|" * len(CHECKS)]
    made = {name: row(name, fault, found) for name, (fault, found) in flights.items()}
    seen = [made[name][1] for name, (fault, _) in flights.items() if fault.sees]
    return "\n".join([*lines, *(line for line, _ in made.values()), "", f"{sum(seen)} of {len(seen)} faults seen."])


def false_alarms(demo: Mapping[str, Any], after: Mapping[str, Any], weights: Weights, seeds: int) -> str:
    """How often each check fires on the healthy demo."""
    fired: dict[str, int] = {check.name: 0 for check in CHECKS}
    asked = dict(fired)
    for seed in range(seeds):
        for recipe, held in ((demo, None), (after, weights)):
            # The taught policy knows the characters of seed 0's tasks; there another seed is another sample.
            changes = (*CHEAP, WITH_KL) if held else (*CHEAP, f"seed={seed}")
            found = fly(recipe, changes, weights=held, seed=seed)
            fires = [f"{one.check}: {one.said.value}" for one in found if one.said.verdict in FIRES["warn"]]
            print(f"seed {seed}, {recipe['stages'][0]['method']}: {fires}", file=sys.stderr, flush=True)
            for one in found:
                asked[one.check] += one.said.verdict is not Verdict.SKIPPED
                fired[one.check] += one.said.verdict in FIRES["warn"]
    lines = ["| check | asked | fired |", "|---|---|---|"]
    return "\n".join([*lines, *(f"| {name} | {asked[name]} | {fired[name]} |" for name in fired)])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--lessons", type=int, default=250)
    parser.add_argument("--weights", type=Path, help="Where the taught policy is kept for other calls.")
    parser.add_argument("--seeds", type=int, default=20)
    parser.add_argument("--faults", nargs="*", default=[*TEXT, *CHAT])
    given = parser.parse_args()
    torch.set_num_threads(1)
    demo = yaml.safe_load((ROOT / "recipes" / "demo.yaml").read_text(encoding="utf-8"))
    after = {**demo, "stages": demo["stages"][1:], "tasks": {**demo["tasks"], "demonstrations": None}}
    began = time.perf_counter()
    if given.weights is not None and given.weights.is_file():
        weights = torch.load(given.weights, weights_only=True)
    else:
        weights = taught(demo, given.lessons)
        if given.weights is not None:
            torch.save(weights, given.weights)
    flights: dict[str, tuple[Fault, list[Finding]]] = {
        "(none)": (replace(next(iter(TEXT.values())), sees=()), fly(after, CHEAP, weights=weights))
    }
    with tempfile.TemporaryDirectory() as folder:
        chats = conversations(Path(folder))
        for name in given.faults:
            fault = {**TEXT, **CHAT}[name]
            base, held, cheap = (after, weights, CHEAP) if name in TEXT else (chats, None, ())
            flights[name] = fault, fly(base, [*cheap, *fault.changes], fault.plant, held)
            print(f"{time.perf_counter() - began:6.0f} s  {name}", file=sys.stderr)
    if given.faults:
        print(matrix(flights), flush=True)
    if given.seeds:
        print(f"\nHealthy demo, {given.seeds} seeds, before and after its first stage:\n")
        print(false_alarms(demo, after, weights, given.seeds))


if __name__ == "__main__":
    main()
