"""Train a recipe with several seeds and print one table: success on held-out tasks before and after, seconds.

    python benchmarks/demo_seeds.py [--recipe recipes/demo.yaml] [--seeds 0 1 2 3 4] [--folder runs/seeds]
    python benchmarks/demo_seeds.py --given policy.native.weights=bfloat16 policy.reading.autocast=bfloat16

With `--given` the recipe is trained with these settings, too, and the difference that they make is printed, paired by
seed. Finished runs are read, not run again.
"""

from __future__ import annotations

import argparse
import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

from policyopt.evaluation.statistics import paired_difference


def summary(recipe: str, seed: int, folder: Path, given: list[str]) -> dict[str, Any]:
    """The summary of one run, trained now if it is not there."""
    path = folder / f"seed-{seed}"
    if not (path / "summary.json").exists():
        command = "import sys; from policyopt.cli import main; sys.exit(main())"
        arguments = ["train", recipe, f"seed={seed}", *given, "--folder", str(path)]
        subprocess.run([sys.executable, "-c", command, *arguments], check=True, stdout=sys.stderr)
    return json.loads((path / "summary.json").read_text(encoding="utf-8"))


def row(result: dict[str, Any], names: list[str]) -> str:
    cells = [str(result["seed"])]
    for name in names:
        low, high = result["after"][f"{name}_interval"]
        before, after = 100 * result["before"][name], 100 * result["after"][name]
        cells.append(f"{before:.1f} → {after:.1f} [{100 * low:.1f}, {100 * high:.1f}]")
    return "| " + " | ".join([*cells, f"{result['seconds']:.0f}"]) + " |"


def table(recipe: str, seeds: list[int], folder: Path, given: list[str]) -> dict[str, list[float]]:
    """Prints it; gives every measure after training, by seed."""
    results = [summary(recipe, seed, folder, given) for seed in seeds]
    names = [name.removesuffix("_interval") for name in results[0]["after"] if name.endswith("_interval")]
    names = [name for name in names if name != "reward"]  # no share
    names.sort(key=lambda name: int(name.removeprefix("pass_at_")) if name.startswith("pass_at_") else 0)
    print("| seed | " + " | ".join(f"{name.replace('pass_at_', 'pass@')} %" for name in names) + " | seconds |")
    print("|---|" + "---|" * (len(names) + 1))
    for result in results:
        print(row(result, names), flush=True)
    return {name: [100 * result["after"][name] for result in results] for name in names}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--recipe", default="recipes/demo.yaml")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2, 3, 4])
    parser.add_argument("--folder", type=Path, default=Path("runs/seeds"))
    parser.add_argument("--given", nargs="+", default=[], metavar="KEY=VALUE", help="settings to compare with")
    asked = parser.parse_args()
    folder = asked.folder / Path(asked.recipe).stem
    plain = table(asked.recipe, asked.seeds, folder, [])
    if not asked.given:
        return
    print("\nwith " + " ".join(asked.given))
    named = re.sub(r"[^\w.=-]", "_", "+".join(asked.given))
    changed = table(asked.recipe, asked.seeds, folder.with_name(f"{folder.name}+{named}"), asked.given)
    for name, found in changed.items():
        found = paired_difference(found, plain[name])
        print(f"{name}: {found.estimate:+.2f} [{found.low:.2f}, {found.high:.2f}] points (paired by seed, 95 %)")


if __name__ == "__main__":
    main()
