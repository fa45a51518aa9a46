"""Train a recipe with several seeds and print one table: success on held-out tasks before and after, seconds.

    python benchmarks/demo_seeds.py [--recipe recipes/demo.yaml] [--seeds 0 1 2 3 4] [--folder runs/seeds]

Finished runs are read, not run again.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from pathlib import Path
from typing import Any


def summary(recipe: str, seed: int, folder: Path) -> dict[str, Any]:
    """The summary of one run, trained now if it is not there."""
    path = folder / f"seed-{seed}"
    if not (path / "summary.json").exists():
        command = "import sys; from policyopt.cli import main; sys.exit(main())"
        arguments = ["train", recipe, f"seed={seed}", "--folder", str(path)]
        subprocess.run([sys.executable, "-c", command, *arguments], check=True, stdout=sys.stderr)
    return json.loads((path / "summary.json").read_text(encoding="utf-8"))


def row(result: dict[str, Any], names: list[str]) -> str:
    cells = [str(result["seed"])]
    for name in names:
        low, high = result["after"][f"{name}_interval"]
        before, after = 100 * result["before"][name], 100 * result["after"][name]
        cells.append(f"{before:.1f} → {after:.1f} [{100 * low:.1f}, {100 * high:.1f}]")
    return "| " + " | ".join([*cells, f"{result['seconds']:.0f}"]) + " |"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--recipe", default="recipes/demo.yaml")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2, 3, 4])
    parser.add_argument("--folder", type=Path, default=Path("runs/seeds"))
    given = parser.parse_args()
    results = [summary(given.recipe, seed, given.folder / Path(given.recipe).stem) for seed in given.seeds]
    names = [name.removesuffix("_interval") for name in results[0]["after"] if name.endswith("_interval")]
    names.sort(key=lambda name: int(name.removeprefix("pass_at_")) if name.startswith("pass_at_") else 0)
    print("| seed | " + " | ".join(f"{name.replace('pass_at_', 'pass@')} %" for name in names) + " | seconds |")
    print("|---|" + "---|" * (len(names) + 1))
    for result in results:
        print(row(result, names))


if __name__ == "__main__":
    main()
