"""Judging one program by unit tests: what runs where, and who decides.

The program runs in a confined process that never holds what its answers are compared with. Outputs and returned values
are compared here, as bytes and plain values read strictly; test code runs in a second confined process.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

from policyopt.sandbox import wire
from policyopt.sandbox.host import Limits, Outcome, Sandbox
from policyopt.worlds.tasks import VerifierError
from policyopt.worlds.unit_tests import Call, Code, Script, UnitTests

FENCE = "```"
_LIMITS = ("cpu", "seconds", "output")
KILLED = "signal 9"


@dataclass(frozen=True)
class Judgement:
    """``passed`` of ``run`` tests; why the first failed one did, and the limit that the program broke, if it did."""

    passed: int
    run: int
    why: str = ""
    limit: str | None = None


def last_block(text: str) -> str | None:
    """The contents of the last fenced block that is closed; a line of three backquotes opens and closes one."""
    found: list[str] | None = None
    inside: list[str] | None = None
    for line in text.splitlines():
        if not line.lstrip().startswith(FENCE):
            if inside is not None:
                inside.append(line)
        elif inside is None:
            inside = []
        else:
            found, inside = inside, None
    return None if found is None else "\n".join(found) + "\n"


def judge(
    sandbox: Sandbox, source: str, tests: UnitTests, limits: Limits, tolerance: float, *, every: bool
) -> Judgement:
    """Run the tests until one fails (`every`: all of them) or a limit is broken. limits: of all runs together. Raises
    SandboxFault, and VerifierError for tests that are no Python."""
    runs = _Runs(sandbox, source, limits, tolerance)
    waiting: list[Callable[[], Judgement]] = [partial(runs.script, script) for script in tests.scripts]
    waiting += [partial(runs.codes, tests.codes)] if tests.codes else []
    waiting += [partial(runs.calls, tests.calls)] if tests.calls else []
    parts: list[Judgement] = []
    while waiting:
        part = waiting.pop()()
        parts.append(part)
        if part.limit is not None or (part.passed < part.run and not every):
            break
    why = next((part.why for part in parts if part.why), "")
    return Judgement(sum(part.passed for part in parts), tests.count, why, parts[-1].limit)


class _Runs:
    """The runs of one program, which share its limits."""

    def __init__(self, sandbox: Sandbox, source: str, limits: Limits, tolerance: float):
        self.sandbox, self.source, self.limits, self.tolerance = sandbox, source, limits, tolerance
        self.cpu, self.seconds = limits.cpu_seconds, limits.seconds

    def script(self, script: Script) -> Judgement:
        outcome = self.sandbox.run(self._job("script"), self._left(), script.stdin.encode(errors="surrogatepass"))
        broken = self._broken(outcome)
        if broken is not None:
            return Judgement(0, 1, broken, broken)
        if outcome.code != 0:
            return Judgement(0, 1, _ended(outcome))
        right = _lines(outcome.stdout.decode(errors="replace")) == _lines(script.stdout)
        return Judgement(int(right), 1, "" if right else f"printed {outcome.stdout[:100]!r}")

    def calls(self, calls: Sequence[Call]) -> Judgement:
        outcome = self.sandbox.run(self._job("calls", calls=[call.question for call in calls]), self._left())
        broken = self._broken(outcome)
        if broken is not None:
            return Judgement(0, len(calls), broken, broken)
        answers = outcome.answers.split(b"\n")[:-1]
        if len(answers) > len(calls):
            return Judgement(0, len(calls), "answered what was not asked")
        faults = [_wrong(answer, call, self.tolerance) for answer, call in zip(answers, calls, strict=False)]
        faults += [_ended(outcome)] * (len(calls) - len(answers))
        return Judgement(sum(fault is None for fault in faults), len(calls), next((f for f in faults if f), ""))

    def codes(self, codes: Sequence[Code]) -> Judgement:
        tests = [{"code": code.code, "entry_points": code.entry_points} for code in codes]
        served, testing = self.sandbox.pair(self._job("serve"), {"kind": "tests", "tests": tests}, self._left())
        broken = self._broken(served) or (testing.limit if testing.limit in _LIMITS else None)
        if broken is not None:
            return Judgement(0, len(codes), broken, broken)
        verdicts = [wire.loads(line) for line in testing.answers.split(b"\n")[:-1]]
        for verdict, why in verdicts:
            if verdict == "invalid":
                raise VerifierError(f"the task's test code is no Python: {why}")
        missing = [] if len(verdicts) == len(codes) else ["the tests ended early"]
        whys = [*(why for verdict, why in verdicts if verdict == "failed"), *missing]
        why = ascii(f"{whys[0]} {_last_line(served.stderr)}".strip())[1:-1] if whys else ""
        return Judgement(sum(verdict == "passed" for verdict, _ in verdicts), len(codes), why)

    def _job(self, kind: str, **more: Any) -> dict[str, Any]:
        return {"kind": kind, "source": self.source, **more}

    def _left(self) -> Limits:
        return replace(self.limits, cpu_seconds=max(self.cpu, 0.01), seconds=max(self.seconds, 0.01))

    def _broken(self, outcome: Outcome) -> str | None:
        """The limit that the program broke: a known one, or the signal with which the kernel ended it."""
        self.cpu -= outcome.cpu
        self.seconds -= (
            outcome.seconds
        )  # by the warden's clock: what happens to this process is not the program's doing
        if outcome.limit in _LIMITS:
            return outcome.limit
        return f"signal {-outcome.code}" if outcome.limit is None and outcome.code < 0 else None


def _lines(text: str) -> list[str]:
    """Without white space at the ends of lines, nor empty lines at the end."""
    return [line.rstrip() for line in text.rstrip().split("\n")]


def _ended(outcome: Outcome) -> str:
    return f"ended with exit code {outcome.code}: {_last_line(outcome.stderr)}"


def _wrong(line: bytes, call: Call, tolerance: float) -> str | None:
    """Why an answer, which may be any bytes, is not the wanted one."""
    try:
        answer: Any = wire.loads(line)
        if not isinstance(answer, list) or (answer[:1], len(answer)) not in ((["value"], 2), (["error"], 3)):
            return "sent no answer"
        if answer[0] == "error":
            right = call.raises is not None and answer[1] == call.raises
            return None if right else f"raised {answer[1]!r:.50}: {answer[2]!r:.200}"
        if call.raises is None and wire.same(wire.checked(answer[1]), call.returns, tolerance):
            return None
    except (wire.Unreadable, RecursionError) as error:
        return f"sent no plain value: {error}"
    return f"returned {line[:100]!r}"


def _last_line(errors: bytes) -> str:
    """Of what a program wrote to standard error; printable, whatever it is."""
    lines = errors[-1000:].decode(errors="replace").strip().splitlines()
    return ascii(lines[-1][:200])[1:-1] if lines else ""
