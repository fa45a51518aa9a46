"""Feed hostile inputs to everything that reads files and answers of others.

    python benchmarks/fuzz.py [--seconds 60] [--only recipe,checkpoint] [--seed 0] [--json fuzz.json]

An input may be refused by an error of policyopt's own, with a message; any other error, a message of thousands of
characters, more than 5 seconds or more than 1 GiB of memory is a defect, and is shown with the smallest input that
hypothesis finds. Nothing may be executed: a file that planted calls would make is looked for. Exit code 1 on a defect.
"""

from __future__ import annotations

import argparse
import json
import logging
import os
import resource
import sys
import tempfile
import time
from collections import Counter
from dataclasses import asdict, dataclass, field
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent))

from fuzzing.targets import TARGETS, Target
from hypothesis import HealthCheck, given, seed, settings
from hypothesis import strategies as st
from hypothesis.errors import FlakyFailure

SECONDS, MEBIBYTES, LETTERS = 5.0, 1024, 5000  # of processor time; of memory; of a message
PLANTED = Path("/tmp/policyopt-planted")
BATCH = 200  # examples between looks at the clock


class Defect(AssertionError):
    """What an input must not bring about."""


@dataclass
class Count:
    """Of one target. refused: by the library's own errors, by type."""

    inputs: int = 0
    taken: int = 0
    refused: Counter[str] = field(default_factory=Counter)
    slowest: float = 0.0
    defects: list[str] = field(default_factory=list)


def spent() -> float:
    """Processor time of this process and of those that it has waited for."""
    return sum(os.times()[:4])


def one(target: Target, folder: Path, content: object, count: Count) -> None:
    """Open one input. Raises Defect."""
    count.inputs += 1
    began, before = spent(), resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    try:
        target.opened(folder, content)
        count.taken += 1
    except Exception as error:
        if not type(error).__module__.startswith("policyopt."):
            raise Defect(f"{type(error).__module__}.{type(error).__name__}: {error}") from error
        if not 10 <= len(str(error)) <= LETTERS:
            raise Defect(f"{type(error).__name__} says {len(str(error))} characters: {str(error)[:200]}") from error
        count.refused[type(error).__name__] += 1
    seconds, grown = spent() - began, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
    count.slowest = max(count.slowest, seconds)
    if seconds > SECONDS:
        raise Defect(f"it took {seconds:.1f} s")
    if grown > MEBIBYTES << 10:
        raise Defect(f"it took {grown >> 10} MiB")
    if PLANTED.exists():
        PLANTED.unlink()
        raise Defect("it ran what the input says")


def batch(target: Target, folder: Path, number: int, examples: int, count: Count) -> None:
    """Some examples, a function of the number. Raises Defect with the smallest input that shows it."""

    @seed(number)
    @settings(
        max_examples=examples, deadline=None, database=None, derandomize=False, print_blob=False,
        suppress_health_check=list(HealthCheck), report_multiple_bugs=False,
    )  # fmt: skip
    @given(st.data())
    def run(data: st.DataObject) -> None:
        content = data.draw(inputs)
        try:
            one(target, folder, content, count)
        except Defect as defect:
            defect.add_note(f"input: {content!r:.600}")
            raise

    inputs = target.inputs(folder)
    run()


def fuzz(target: Target, seconds: float, start: int) -> Count:
    count, end, number = Count(), time.monotonic() + seconds, start
    with tempfile.TemporaryDirectory(prefix="policyopt-fuzz-") as folder:
        while time.monotonic() < end and not count.defects:
            try:
                batch(target, Path(folder), number, BATCH, count)
            except (Defect, FlakyFailure) as defect:
                count.defects.append("\n".join([str(defect), *getattr(defect, "__notes__", ())[:2]]))
            number += 1
    return count


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=60.0, help="in all")
    parser.add_argument("--only", help="targets, as recipe,checkpoint")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", help="file for the counts")
    asked = parser.parse_args()
    logging.disable(logging.WARNING)
    os.environ["COLUMNS"] = "200"
    names = [name for name in TARGETS if not asked.only or any(name.startswith(part) for part in asked.only.split(","))]
    found: dict[str, Count] = {}
    print("| read | inputs | taken | refused | slowest, ms | defects |\n|---|---:|---:|---:|---:|---:|")
    for name in names:
        count = found[name] = fuzz(TARGETS[name], asked.seconds / len(names), asked.seed)
        refused, slowest = sum(count.refused.values()), 1000 * count.slowest
        print(
            f"| {name} | {count.inputs} | {count.taken} | {refused} | {slowest:.0f} | {len(count.defects)} |",
            flush=True,
        )
    defects = [(name, defect) for name, count in found.items() for defect in count.defects]
    print(f"\n{sum(count.inputs for count in found.values())} inputs, {len(defects)} defects")
    for name, defect in defects:
        print(f"\n{name}: {defect}")
    if asked.json:
        Path(asked.json).write_text(json.dumps({name: asdict(count) for name, count in found.items()}, indent=1) + "\n")
    return 1 if defects else 0


if __name__ == "__main__":
    sys.exit(main())
