"""What the sandbox holds back and what it costs: runs every attempt of tests/escapes.py and measures throughput.

    .venv/bin/python benchmarks/sandbox.py                    prints both tables
    .venv/bin/python benchmarks/sandbox.py --write docs/sandbox.md    puts them into the page, after its marker

Throughput is of warm sandboxes; "CPU" is all processor time of a judged program: host, zygote, warden and program.
"""

from __future__ import annotations

import argparse
import os
import platform
import random
import resource
import socket
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests"))

import escapes
from policyopt.sandbox.host import Limits, Sandbox
from policyopt.worlds.grading import Grader
from policyopt.worlds.grading import Limits as GradingLimits
from policyopt.worlds.programs import judge
from policyopt.worlds.tasks import Entry
from policyopt.worlds.verifiers import verifier

MARKER = "<!-- measured by benchmarks/sandbox.py -->"
_NAME = "POLICYOPT_BENCHMARK_SECRET"
SHORT = {
    "three calls of a function": (
        "def add(a, b):\n    return a + b\n",
        [{"call": "add", "args": [i, 2], "returns": i + 2} for i in range(3)],
    ),
    "a script with one input": ("print(sum(map(int, input().split())))", [{"stdin": "1 2\n", "stdout": "3\n"}]),
    "test code (two processes)": ("def add(a, b):\n    return a + b\n", ["assert add(1, 2) == 3"]),
}


def attempts() -> list[str]:
    """Rows of the table: a kind, an attempt, how it ended, what it scored."""
    kinds = {
        "system call": escapes.SYSTEM_CALLS,
        "reaching out": escapes.ACTS,
        "being paid for nothing": escapes.CHEATS,
        "taking too much": escapes.GLUTTONS,
    }
    rows = ["| kind | attempt | ended | score | next program |", "|---|---|---|---|---|"]
    held = 0
    with (
        tempfile.TemporaryDirectory() as folder,
        socket.create_server(("127.0.0.1", 0)) as server,
        Sandbox() as sandbox,
    ):
        file = Path(folder) / "file"
        file.write_text("private")
        os.environ[_NAME] = "private"
        host = escapes.Host(str(file), _NAME, server.getsockname()[1])
        for kind, programs in kinds.items():
            for name, attempt in programs.items():
                secret = random.SystemRandom().randrange(10**9, 10**12)
                tests = escapes.tests_of(attempt.by, secret)
                found = judge(sandbox, escapes.written(attempt.source, host), tests, attempt.limits, 0.0, every=True)
                good = escapes.GOOD[attempt.by].format(secret=secret)
                after = judge(sandbox, good, tests, Limits(cpu_seconds=20, seconds=60), 0.0, every=True)
                right = after.passed == after.run
                held += found.passed == 0 and right
                ended = {"limit": f"limit: {found.limit}"}.get(
                    escapes.ending(found), found.why.replace(str(file), "FILE")
                )
                shown = ended.replace(sys.base_prefix, "PYTHON")[:70].replace("|", "\\|").replace("`", "'")
                rows.append(f"| {kind} | {name} | `{shown or '-'}` | {found.passed / found.run:g} | {float(right):g} |")
    return [
        f"{held} of {len(escapes.ATTEMPTS)} attempts were contained and scored 0, each with a right program after it.",
        "",
        *rows,
    ]


def throughput(programs: int) -> list[str]:
    rows = ["| a short program: | sandboxes | programs a second | CPU a program |", "|---|---|---|---|"]
    for name, (program, tests) in SHORT.items():
        for workers in (1, 2):
            speed, cpu = _measured(program, tests, programs, workers)
            rows.append(f"| {name} | {workers} | {speed:.0f} | {1000 * cpu:.1f} ms |")
    return rows


def _measured(program: str, tests: list, count: int, workers: int) -> tuple[float, float]:
    """Programs a second of wall-clock time, and seconds of processor time each, start-up apart."""
    spent = []
    for programs in (workers, workers + count):
        before = _cpu()
        with Grader(
            verifier("python_tests"), [Entry("", None, metadata={"tests": tests})], GradingLimits(60.0, workers=workers)
        ) as grader:
            grader.grade([program] * workers, [0] * workers)
            began = time.perf_counter()
            grades = grader.grade([program] * (programs - workers), [0] * (programs - workers))
            wall = time.perf_counter() - began
        assert all(grade.score == 1.0 for grade in grades), grades
        spent.append(_cpu() - before)
    return count / wall, (spent[1] - spent[0]) / count


def _cpu() -> float:
    own, ended = resource.getrusage(resource.RUSAGE_SELF), resource.getrusage(resource.RUSAGE_CHILDREN)
    return own.ru_utime + own.ru_stime + ended.ru_utime + ended.ru_stime


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--programs", type=int, default=400, help="short programs per measurement")
    parser.add_argument("--write", type=Path, help="the page to put the tables into")
    chosen = parser.parse_args()
    load = os.getloadavg()[0]
    where = (
        f"Linux {platform.release()}, {platform.machine()}, {os.cpu_count()} cores, Python {platform.python_version()}"
    )
    lines = ["## Throughput", "", f"{where}, load {load:.1f} before the measurement.", "", *throughput(chosen.programs)]
    lines += ["", "## Attempts", "", *attempts()]
    text = "\n".join(lines) + "\n"
    if chosen.write is None:
        print(text)
        return
    page = chosen.write.read_text()
    if MARKER not in page:
        sys.exit(f"{chosen.write} has no line {MARKER!r}")
    chosen.write.write_text(page.partition(MARKER)[0] + MARKER + "\n\n" + text)
    print("\n".join(lines[:12]))


if __name__ == "__main__":
    main()
