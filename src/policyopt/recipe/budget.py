"""What a run uses up, round by round, and ending a stage with its budget.

Counted is what training itself needs; evaluations are not.

tokens   own steps of every policy that a round asked for steps, kept or thrown away: tokens of answers, actions,
         denoising steps; and those that it read from a data set.
samples  rows begun (answers, episodes, images), or read from a data set. A row that goes on, or forks, counts once.
seconds  processor time of the process where the policy is on the CPU, so that other programs do not count; else time
         by the clock.
"""

from __future__ import annotations

import contextlib
import hashlib
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any

from policyopt.compose import Program
from policyopt.recipe.base import UNITS, BudgetSection, RecipeError
from policyopt.run import Run
from policyopt.runtime.folder import RunFolder
from policyopt.runtime.journal import Journal, read
from policyopt.runtime.progress import Display, Silent
from policyopt.types import Batch, Round, Source

IDLE = 1000  # rounds in a row that use nothing up, after which a budget would never end


class Metered:
    """An engine that counts what it generates."""

    def __init__(self, engine: Any):
        self.engine = engine
        self.reset()

    def reset(self) -> None:
        self.tokens, self.samples, self.tasks = 0, 0, hashlib.blake2b(digest_size=8)

    def __call__(self, policy: Any, world: Any, batch: Batch, *given: Any, **options: Any) -> Batch:
        before = batch.lengths
        fresh = before == 0
        self._draw(batch[fresh])
        done = self.engine(policy, world, batch, *given, **options)
        self.tokens += int(done.lengths.sum() - before.sum())
        self.samples += int(fresh.sum())
        return done

    def _draw(self, rows: Batch) -> None:
        """Which tasks were drawn, in their order, one entry per group."""
        drawn = dict(zip(rows.row["group"].tolist(), rows.row["task"].tolist(), strict=True))
        self.tasks.update(repr(list(drawn.values())).encode())

    def apart(self) -> Metered:
        """The same engine counted anew, for a round that is sampled ahead of its training."""
        return Metered(self.engine)

    def take(self, other: Metered) -> None:
        """What was counted apart."""
        self.tokens, self.samples = self.tokens + other.tokens, self.samples + other.samples
        self.tasks = other.tasks

    def __getattr__(self, name: str) -> Any:
        """Engines that can also generate streams."""
        found = getattr(self.engine, name)
        return self._counted(found) if name == "stream" else found

    def _counted(self, stream: Any) -> Any:
        def counted(*args: Any, **options: Any) -> Batch:
            batch = stream(*args, **options)
            self.tokens += int(batch.lengths.sum())
            self.samples += int((batch.row["_before"] == 0).sum())
            return batch

        return counted


@dataclass(frozen=True)
class Spent:
    """Sums over rounds."""

    rounds: int = 0
    tokens: int = 0
    samples: int = 0
    seconds: float = 0.0

    @classmethod
    def of(cls, lines: Iterable[Mapping[str, Any]]) -> Spent:
        found = list(lines)
        return cls(len(found), *(sum(line[unit] for line in found) for unit in UNITS))


class Ledger:
    """cost.jsonl of a run: one line a round, with a digest of the tasks that were drawn in it."""

    def __init__(self, folder: RunFolder, run: Run):
        self._run, self._journal = run, Journal(folder.cost)
        self._meter = run.engine = Metered(run.engine)
        self.lines: list[dict[str, Any]] = []
        self._since = 0.0

    def open(self, start: int, *, whole: bool) -> None:
        """Go on at a round. RecipeError: the whole account is needed, and what earlier rounds used up is not known."""
        self._journal.cut(start)
        self.lines = read(self._journal.path)
        if whole and [line["step"] for line in self.lines] != list(range(start)):
            raise RecipeError(
                f"{self._journal.path} does not have the cost of all {start} rounds that were trained, so the budget "
                "can not be kept; delete the run's folder and start it again"
            )
        self.restart()

    def restart(self) -> None:
        """What was done since the last round was not training."""
        self._since = self._now()
        self._meter.reset()

    @contextlib.contextmanager
    def aside(self) -> Iterator[None]:
        """What is done inside is not training."""
        began = self._now()
        yield
        self._since += self._now() - began

    def write(self, step: int, done: Round) -> None:
        read_rows = done.judged[done.judged.row["source"] == Source.DATASET]
        line = {
            "tokens": self._meter.tokens + int(read_rows.lengths.sum()),
            "samples": self._meter.samples + len(read_rows),
            "seconds": self._now() - self._since,
            "tasks": self._meter.tasks.hexdigest(),
        }
        self._journal.append(step, line)
        self.lines.append({**line, "step": step})
        self.restart()

    def since(self, round_: int) -> Spent:
        """Used up from a round on."""
        return Spent.of(self.lines[round_:])

    def close(self) -> None:
        self._journal.close()

    def _now(self) -> float:
        return time.process_time() if self._run.device.type == "cpu" else time.perf_counter()


@dataclass(frozen=True)
class Paced(Program):
    """A program whose last stage is as long as its budget lasts: its length is found out as it is spent."""

    def pace(self, rounds: int) -> None:
        last = replace(self.stages[-1], steps=rounds)
        object.__setattr__(self, "stages", (*self.stages[:-1], last))


def planned(budget: BudgetSection, lines: list[dict[str, Any]], most: int) -> int:
    """Rounds that a stage will have had when its budget ends, from the cost of those it has had; at most `most`.

    No round begins that would, if it cost as much as the one before it, go beyond the budget. Until then the number is
    that of rounds of the mean cost so far, which is exact where rounds cost the same.
    """
    costs = [line[budget.unit] for line in lines]
    spent, rounds = sum(costs), len(costs)
    if not spent:
        if rounds >= IDLE:
            raise RecipeError(
                f"{rounds} rounds have used up no {budget.unit} of the budget, so it would never end; give it in "
                f"another unit ({', '.join(UNITS)})"
            )
        return most
    if spent + costs[-1] > budget.amount * (1 + 1e-12):
        return rounds
    return min(most, max(rounds + 1, int(rounds * budget.amount / spent * (1 + 1e-12))))


def share(budget: BudgetSection, spent: Spent) -> float:
    """Of the budget."""
    return getattr(spent, budget.unit) / budget.amount


class Budget:
    """Keeps the last stage of a run within what the recipe allows it, and says how much of that is spent."""

    def __init__(self, section: BudgetSection, program: Program, ledger: Ledger, display: Display | None = None):
        self.section, self.program, self._ledger = section, Paced(program.stages), ledger
        self._display = Silent() if display is None else display
        self._most = program.stages[-1].steps

    def pace(self) -> None:
        """After every round, and when a run goes on."""
        start = self.program.stages[-1].start
        self.program.pace(planned(self.section, self._ledger.lines[start:], self._most))
        if self._ledger.lines[start:]:
            spent = share(self.section, self._ledger.since(start))
            amount = f"{self.section.amount:,.10g} {self.section.unit}"
            self._display.expect(self.program.steps, f"{spent:.0%} of {amount}")

    def evaluate(self, folder: RunFolder, measure: Callable[[], Mapping[str, Any]]) -> None:
        """Every evaluation along the way that is due, as `results/along-N.json`; the last one is the run's own."""
        spent = self._ledger.since(self.program.stages[-1].start)
        for point in range(1, self.section.evaluations):
            if share(self.section, spent) >= point / self.section.evaluations:
                folder.once(f"along-{point}", lambda: {"spent": asdict(spent), "found": measure()})
