"""The verifier `python_tests`: the program in an answer, run in a sandbox against the task's unit tests."""

from __future__ import annotations

import contextlib
import queue
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, ClassVar, Literal

from policyopt.worlds.tasks import Bench, Entry, Judged, Verifier, VerifierError

if TYPE_CHECKING:
    from policyopt.sandbox.host import Sandbox

_SECONDS, _WORKERS = 5.0, 1  # of a judgement outside a grader


@dataclass(frozen=True)
class PythonTests(Verifier):
    """1 iff the program in the text passes the tests in the entry's ``column`` (``score`` all) or the share of them
    that it passes (share). A program that breaks a limit scores 0.

    Args:
        score: all or share.
        program: where the program stands: either (the last fenced block, else the whole text), fenced or text.
        column: of the record; see ``unit_tests`` for what may stand there.
        cpu_seconds: processor time of a program over all its tests. The wall-clock limit is the grader's deadline.
        memory_mb, files_mb, output_kb, threads: see ``sandbox.host.Limits``.
        tolerance: relative, of returned floats.
        sandbox: isolated, or unsafe: on a machine that can not isolate, programs run with this account's rights.
    """

    score: Literal["all", "share"] = "all"
    program: Literal["either", "fenced", "text"] = "either"
    column: str = "tests"
    cpu_seconds: float = 2.0
    memory_mb: int = 512
    files_mb: int = 16
    output_kb: int = 1024
    threads: int = 16
    tolerance: float = 1e-9
    sandbox: Literal["isolated", "unsafe"] = "isolated"
    trusted: ClassVar[bool] = False

    def __post_init__(self) -> None:
        for name in ("cpu_seconds", "memory_mb", "files_mb", "output_kb", "threads"):
            if not getattr(self, name) > 0:
                raise VerifierError(f"{name} must be above 0, got {getattr(self, name)}")
        if not 0 <= self.tolerance < 1:
            raise VerifierError(f"tolerance must lie in [0, 1), got {self.tolerance}")

    def __call__(self, text: str, entry: Entry) -> float:
        bench = self.bench(_SECONDS, _WORKERS)
        try:
            ((score, fault, _),) = bench.grade([(text, entry)])
        finally:
            bench.close()
        if score is None:
            raise VerifierError(fault)
        return score

    def bench(self, seconds: float, workers: int) -> Bench:
        return Sandboxes(self, seconds, workers)

    def source(self, text: str) -> str | None:
        """The program in a text; None if there is none."""
        from policyopt.worlds.programs import last_block

        block = None if self.program == "text" else last_block(text)
        return text if block is None and self.program != "fenced" else block


class Sandboxes:
    """As many sandboxes as workers, each judging one answer at a time."""

    def __init__(self, rule: PythonTests, seconds: float, workers: int):
        from policyopt.sandbox.host import Limits, Sandbox

        amounts = {name: getattr(rule, name) for name in ("memory_mb", "files_mb", "output_kb", "threads")}
        self.rule = rule
        self._limits = Limits(cpu_seconds=rule.cpu_seconds, seconds=seconds, **amounts)
        self._all = [Sandbox(unsafe=rule.sandbox == "unsafe") for _ in range(workers)]
        self._all[0].start()  # so that a machine that can not isolate says so before any work
        # Last in, first out: a sandbox that runs is taken before one that is to be started.
        self._free: queue.LifoQueue[Sandbox] = queue.LifoQueue()
        for one in reversed(self._all):
            self._free.put(one)
        self._threads = ThreadPoolExecutor(workers, thread_name_prefix="policyopt-sandbox")

    def grade(self, jobs: Sequence[tuple[str, Entry]]) -> list[Judged]:
        """(score, fault, seconds) of each text, in order."""
        return list(self._threads.map(self._judged, jobs))

    def close(self) -> None:
        self._threads.shutdown(cancel_futures=True)
        for one in self._all:
            one.close()

    def _judged(self, job: tuple[str, Entry]) -> Judged:
        from policyopt.sandbox.host import SandboxFault

        text, entry = job
        sandbox, began = self._free.get(), time.perf_counter()
        try:
            score, fault = self._score(sandbox, text, entry), None
        except VerifierError as error:
            score, fault = None, f"raised VerifierError: {error}"
        except SandboxFault as error:
            score, fault = None, f"sandbox: {error}"
        finally:
            self._free.put(sandbox)
        return score, fault, time.perf_counter() - began

    def _score(self, sandbox: Sandbox, text: str, entry: Entry) -> float:
        from policyopt.sandbox.host import SandboxFault
        from policyopt.worlds.programs import KILLED, judge
        from policyopt.worlds.unit_tests import unit_tests

        tests, source = unit_tests(entry, self.rule.column), self.rule.source(text)
        if source is None:
            return 0.0
        share = self.rule.score == "share"
        judged = partial(judge, sandbox, source, tests, self._limits, self.rule.tolerance, every=share)
        found = None
        with contextlib.suppress(SandboxFault):
            found = judged()
        # Once more, in a new sandbox; or, where the program was killed (by its own doing too), in the same one.
        if found is None or found.limit == KILLED:
            found = judged()
        if found.limit is not None:
            return 0.0
        return found.passed / found.run if share else float(found.passed == found.run)
