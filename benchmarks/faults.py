"""Break runs on purpose, 50 times and more, and see what comes of them.

    python benchmarks/faults.py [--only 3,7] [--seed 0] [--slower 1] [--json faults.json] [--list]

Every fault happens to a small run at a random moment (a function of the seed and the fault's number). The run must end
with the right result (bitwise that of an undisturbed one), or with a clear error within the deadline, after which
`policyopt resume` must reach the right result; and nothing that was recorded as done may be lost. Exit code 1 if
anything else happens. Some faults need root's rights (mounts), Debian's package `faketime`, or Ray; without, they are
left out.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import shutil
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from importlib.util import find_spec
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent))

from faulting import acts
from faulting.acts import Act, Damage, Judge, Scene
from faulting.processes import Process, waking
from faulting.workloads import ROUNDS, WORKLOADS, Workload, lost, recorded, result

DEADLINE = 120.0  # seconds for a run that is disturbed to end one way or the other


@dataclass(frozen=True)
class Fault:
    """act: to processes of the kind while the run goes on. damage: to the files of a run that was killed. place: on
    what it stands. gone: what the act did stays so until the run has ended."""

    workload: str
    kind: str
    what: str
    act: Act | None = None
    damage: Damage | None = None
    place: str = ""

    @property
    def target(self) -> str:
        """The kind of process that is acted on."""
        return "trainer" if self.place else self.kind


@dataclass(frozen=True)
class Seen:
    """What came of a fault: `end` is right, resumed or error (then resumed), or what went wrong."""

    number: int
    workload: str
    kind: str
    what: str
    end: str
    well: bool
    said: str
    seconds: float


def _faults() -> list[Fault]:
    found = [
        Fault(name, "trainer", "kill -9", acts.kill)
        for name in ("words", "words", "programs", "judged", "poles", "poles")
    ]
    found += [Fault(name, "trainer", "freeze", acts.freeze) for name in ("words", "programs", "judged")]
    found += [Fault(name, "trainer", "slow", acts.slow) for name in ("words", "poles")]
    found += [Fault("poles", "trainer", "starve of descriptors", acts.starve)]
    found += [Fault("words", "trainer", "Ctrl-C", acts.interrupt), Fault("poles", "trainer", "SIGTERM", acts.terminate)]
    damages = (
        ("truncate the newest checkpoint", acts.truncated), ("flip a bit of the newest checkpoint", acts.flipped),
        ("truncate every checkpoint", acts.all_truncated), ("leave a half-written line", acts.half_line),
        ("leave zeros, as a power cut", acts.zeros), ("cut a recorded result", acts.result_cut),
        ("cut the recipe", acts.recipe_cut),
    )  # fmt: skip
    found += [Fault("poles", "trainer", f"kill -9, {what}", acts.kill, damage) for what, damage in damages]
    for what, act, count in (("kill -9", acts.kill, 3), ("freeze", acts.freeze_for_good, 2), ("slow", acts.slow, 1),
                             ("disconnect", acts.disconnect, 2), ("corrupt its answers", acts.corrupt, 1)):  # fmt: skip
        found += [Fault("words", "grading worker", what, act)] * count
    for kind, whats in (
        ("sandbox", ("kill -9", "freeze")), ("sandbox inside", ("kill -9", "freeze", "slow")),
        ("warden", ("slow", "kill -9", "freeze")), ("program", ("kill -9", "freeze")),
    ):  # fmt: skip
        made = {"kill -9": acts.kill, "freeze": acts.freeze_for_good, "slow": acts.slow}
        found += [Fault("programs", kind, what, made[what]) for what in whats]
    for what, act in (("kill -9", acts.kill), ("kill -9", acts.kill), ("freeze", acts.freeze), ("slow", acts.slow)):
        found.append(Fault("compared", "compare worker", what, act))
    found.append(Fault("compared", "trainer", "kill -9", acts.kill))
    for what, act in (
        ("kill -9, start again", acts.restart), ("kill -9, for good", acts.kill), ("freeze", acts.freeze),
        ("freeze, for good", acts.freeze_for_good), ("slow", acts.slow), ("disconnect", acts.disconnect),
        ("corrupt its answers", acts.corrupt),
    ):  # fmt: skip
        found.append(Fault("judged", "judge server", what, act))
    found += [
        Fault("poles", "disk", "full", place="full"),
        Fault("words", "disk", "full", place="full"),
        Fault("poles", "disk", "file size limit", place="file size"),
        Fault("poles", "folder", "read-only after kill -9", acts.kill, place="read-only"),
        Fault("poles", "clock", "jump a day ahead", place="clock"),
        Fault("poles", "clock", "jump a day back", place="clock"),  # of others, faketime breaks every time.sleep
        Fault("words", "folder", "a second run in it", place="second"),
        Fault("compared", "folder", "a second comparison in it", place="second"),
    ]
    found += [
        Fault("ranks", "trainer rank", what, act)
        for what, act in (("kill -9", acts.kill), ("freeze", acts.freeze_for_good))
    ]
    for what, act in (("kill -9", acts.kill), ("freeze", acts.freeze), ("freeze, for good", acts.freeze_for_good)):
        found.append(Fault("spread", "Ray sampler", what, act))
    found += [
        Fault("placed", "Ray trainer", "kill -9", acts.kill),
        Fault("placed", "Ray trainer", "freeze, for good", acts.freeze_for_good),
        Fault("placed", "trainer", "kill -9", acts.kill),
    ]
    return found


FAULTS = _faults()


class Stage:
    """Runs faults, each in a folder of its own, against the undisturbed run of its workload."""

    def __init__(self, work: Path, seed: int, slower: float = 1.0):
        self.work, self.seed, self.slower, self.mounts = work, seed, slower, acts.own_mounts()
        self.deadline = DEADLINE * slower
        self._right: dict[str, dict[str, str]] = {}

    def possible(self, fault: Fault) -> bool:
        if fault.place in ("full", "read-only"):
            return self.mounts
        needs = WORKLOADS[fault.workload].needs
        if needs is not None and find_spec(needs) is None:
            return False
        return fault.place != "clock" or acts.FAKETIME is not None

    def right(self, workload: Workload) -> dict[str, str]:
        """What the undisturbed run leaves."""
        if workload.name not in self._right:
            base, judge = self._prepare(workload, f"{workload.name}-right")
            run = self._start(workload, workload.start(base), base, "log")
            ended = run.wait(5 * self.deadline)
            if judge is not None:
                judge.end()
            if not ended or run.code:
                run.end()
                raise SystemExit(f"the undisturbed run of {workload.name} failed:\n{run.said}")
            self._right[workload.name] = result(base / "run")
        return self._right[workload.name]

    def __call__(self, number: int) -> Seen:
        fault = FAULTS[number]
        workload = WORKLOADS[fault.workload]
        right, began = self.right(workload), time.monotonic()
        try:
            end, said = _Case(self, number, fault, workload, right)()
        except Exception as error:  # noqa: BLE001 - the other faults are tried as well
            end, said = f"NOT TRIED: {type(error).__name__}", f"{error}"
        well = end in ("right", "resumed", "error, resumed")
        seconds = round(time.monotonic() - began, 1)
        return Seen(number, fault.workload, fault.kind, fault.what, end, well, said, seconds)

    def _prepare(
        self, workload: Workload, name: str, before: Callable[[Path], None] | None = None
    ) -> tuple[Path, Judge | None]:
        base = self.work / name
        shutil.rmtree(base, ignore_errors=True)
        base.mkdir()
        if before is not None:
            before(base)
        judge = Judge(base) if workload.name == "judged" else None
        workload.prepare(base, judge.url if judge is not None else "", self.slower)
        return base, judge

    def _start(self, workload: Workload, arguments: Sequence[str], base: Path, log: str, **how: object) -> Process:
        given = {"fork": not workload.separate, **how}
        return Process(arguments, base, self.work / f"{base.name}.{log}", **given)  # type: ignore[arg-type]


class _Case:
    """One fault, from the start of its run to what is left of it."""

    def __init__(self, stage: Stage, number: int, fault: Fault, workload: Workload, right: dict[str, str]):
        self.stage, self.fault, self.workload, self.right = stage, fault, workload, right
        self.rng = random.Random(f"{stage.seed}/{number}")
        full = fault.place == "full"
        disk = (lambda base: acts.small_disk(base, self.rng.randrange(90, 170))) if full else None
        self.base, self.judge = stage._prepare(workload, f"{number:02d}", disk)
        self.run = self.base / "run"

    def __call__(self) -> tuple[str, str]:
        how: dict[str, object] = {}
        if self.fault.place == "file size":
            how["first"] = acts.largest_file(self.rng.randrange(8, 16))
        if self.fault.place == "clock":
            how |= {"fork": False, "environment": acts.false_clock(self.base)}
        process = self.stage._start(self.workload, self.workload.start(self.base), self.base, "log", **how)
        try:
            return self._watch(process)
        finally:
            process.end()
            if self.judge is not None:
                self.judge.end()
            acts.unmount(self.run)
            acts.unmount(self.base)

    def _watch(self, process: Process) -> tuple[str, str]:
        hit = self._strike(process)
        before = recorded(self.run)
        if not process.wait(self.stage.deadline):
            return f"HANGS beyond {self.stage.deadline:g} s", process.said[-300:]
        if not hit:
            return "MISSED: the run had ended", process.said[-300:]
        return self._judge(process, before)

    def _strike(self, process: Process) -> bool:
        """At a random moment. Whether there was anything to hit."""
        fault, scene = self.fault, Scene(self.base, process.pid, self.rng, self.judge)
        if fault.place in ("full", "file size"):
            return True
        journal = self.workload.progress(self.base)
        rounds = self.rng.randrange(3 if fault.damage is None else 5, ROUNDS - 3)

        def now() -> bool:
            return process.poll() is not None or (journal.is_file() and journal.read_bytes().count(b"\n") >= rounds)

        waking(now, self.stage.deadline)
        time.sleep(self.rng.uniform(0, 0.1))
        if process.poll() is not None:
            return False
        if fault.place == "clock":
            acts.jump(self.base, 86_400 if "ahead" in fault.what else -86_400)
        if fault.place == "second":
            return self._second()
        return fault.act is None or fault.act(scene, fault.target)

    def _second(self) -> bool:
        other = self.stage._start(self.workload, self.workload.resume(self.base), self.base, "second")
        ended = other.wait(self.stage.deadline)
        self.refused = other.said.strip()
        other.end()
        if not ended or other.code != 2 or "is in use by process" not in self.refused:
            raise AssertionError(f"a second run was let in: {other.code} {self.refused[-300:]}")
        return True

    def _judge(self, process: Process, before: dict) -> tuple[str, str]:
        said = process.said
        if process.code == 0:
            return self._compare("right", before, "")
        killed = process.code == -9 and self.fault.target == "trainer"
        stopped = process.code == 130 and "nothing is lost" in said
        clear = process.code in (1, 2) and "Traceback (most recent call last)" not in said and _error(said) != ""
        if not (killed or stopped or clear):
            return f"UNCLEAR: exit code {process.code}", said[-600:]
        return self._go_on("resumed" if killed or stopped else "error, resumed", before, _error(said))

    def _go_on(self, how: str, before: dict, said: str) -> tuple[str, str]:
        kept = acts.copied(self.run) if self.fault.damage is not None else None
        if self.fault.damage is not None:
            self.fault.damage(self.run, self.rng)
        if self.fault.place == "read-only":
            acts.read_only(self.run)
        if self.fault.place == "full":
            acts.larger_disk(self.base)
        if self.judge is not None and self.fault.kind == "judge server":
            self.judge.end()
            self.judge.start()
        process = self._again("again")
        if process.code in (1, 2) and _error(process.said) and (kept is not None or self.fault.place == "read-only"):
            how, said = "error, resumed", _error(process.said)
            acts.unmount(self.run)
            if kept is not None:
                acts.put_back(self.run, kept)
            process = self._again("once-more")
        if process.code != 0:
            return f"NOT RESUMED: exit code {process.code}", process.said[-600:]
        return self._compare(how, before, said)

    def _again(self, log: str) -> Process:
        # A run that was refused before it had a folder is started again.
        begun = self.workload.command == "compare" or (self.run / "recipe.yaml").is_file()
        arguments = self.workload.resume(self.base) if begun else self.workload.start(self.base)
        process = self.stage._start(self.workload, arguments, self.base, log)
        process.wait(self.stage.deadline)
        process.end()
        return process

    def _compare(self, end: str, before: dict, said: str) -> tuple[str, str]:
        found = result(self.run)
        differ = sorted(name for name in self.right.keys() | found.keys() if self.right.get(name) != found.get(name))
        if differ:
            return "WRONG: differs from the undisturbed run", ", ".join(differ)[:400]
        gone = lost(before, self.run)
        return (f"LOST: {gone[:3]}", said) if gone else (end, said or getattr(self, "refused", "")[-200:])


def _error(said: str) -> str:
    """The first line that says what went wrong."""
    lines = [line.strip() for line in said.splitlines()]
    return next((line for line in lines if line.startswith(("error: ", "failed "))), "")


def table(seen: Sequence[Seen]) -> str:
    """One line for every fault of a kind of process or thing, over the runs it happened in."""
    head = ("to", "fault", "in", "times", "right", "resumed", "clear error, then resumed", "wrong")
    lines = [f"| {' | '.join(head)} |", "|---|---|---|---:|---:|---:|---:|---:|"]
    groups: dict[tuple[str, str], list[Seen]] = {}
    for one in seen:
        groups.setdefault((one.kind, one.what), []).append(one)
    for (kind, what), found in groups.items():
        counted = Counter(one.end if one.well else "wrong" for one in found)
        cells = [counted[end] or "" for end in ("right", "resumed", "error, resumed", "wrong")]
        places = ", ".join(sorted({one.workload for one in found}))
        lines.append(f"| {' | '.join(map(str, (kind, what, places, len(found), *cells)))} |")
    return "\n".join([*lines, "", f"{sum(one.well for one in seen)} of {len(seen)} ended as promised."])


def preload() -> None:
    """What a run imports, once for all that are forked from here."""
    import torch

    torch.set_num_threads(1)
    import gymnasium  # noqa: F401
    import openai  # noqa: F401
    import transformers  # noqa: F401
    from torch.utils.tensorboard import SummaryWriter  # noqa: F401

    import policyopt.cli.app
    import policyopt.recipe.schema
    import policyopt.recipe.training
    import policyopt.report.listing  # noqa: F401


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", help="numbers of faults, as 3,7 or 10-20")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--slower", type=float, default=1.0, help="factor of all deadlines, for a busy machine")
    parser.add_argument("--json", help="file for the results")
    parser.add_argument("--list", action="store_true", help="print the faults and stop")
    asked = parser.parse_args()
    numbers = _numbers(asked.only) if asked.only else list(range(len(FAULTS)))
    if asked.list:
        print("\n".join(f"{n:3d} {FAULTS[n].workload:10s} {FAULTS[n].kind:15s} {FAULTS[n].what}" for n in numbers))
        return 0
    os.environ["OMP_NUM_THREADS"] = "1"
    preload()
    seen: list[Seen] = []
    with tempfile.TemporaryDirectory(prefix="policyopt-faults-", ignore_cleanup_errors=True) as work:
        stage = Stage(Path(work), asked.seed, asked.slower)
        for number in numbers:
            if not stage.possible(FAULTS[number]):
                print(f"{number:3d} not possible here: {FAULTS[number].kind} {FAULTS[number].what}")
                continue
            seen.append(one := stage(number))
            told = f"{number:3d} {one.workload:9s} {one.kind:15s} {one.what:38s} {one.end:16s} {one.seconds:6.1f} s"
            print(f"{told}  {one.said[:110]}", flush=True)
            if not one.well:
                print(one.said, flush=True)
    print("\n" + table(seen))
    if asked.json:
        Path(asked.json).write_text(json.dumps([asdict(one) for one in seen], indent=1) + "\n")
    return 0 if all(one.well for one in seen) else 1


def _numbers(text: str) -> list[int]:
    spans = [part.partition("-") for part in text.split(",")]
    return [n for first, dash, last in spans for n in range(int(first), int(last if dash else first) + 1)]


if __name__ == "__main__":
    sys.exit(main())
