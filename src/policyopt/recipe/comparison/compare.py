"""A comparison in its folder: runs that are missing are trained, the others are read; then the report is made.

plan.json       what is compared                     shared/   what the arms of a seed have in common
tuning/, runs/  run folders, by arm and seed         log.txt   what the processes had to say
report.md, report.json, curves.svg
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from policyopt.evaluation.comparison_record import ComparisonRecord, to_json
from policyopt.recipe.base import RecipeError
from policyopt.recipe.build import build
from policyopt.recipe.comparison.plan import Job, Plan, bases, runs, tuning
from policyopt.recipe.comparison.pool import Pool, cores
from policyopt.recipe.comparison.results import comparison_record, is_finished, value_of
from policyopt.report.comparison import markdown
from policyopt.report.comparison_plot import draw
from policyopt.runtime.atomic import write_atomic
from policyopt.runtime.lock import alone, is_lock


class Board(Protocol):
    """Told how far the jobs of a phase are."""

    def begin(self, phase: str, jobs: Sequence[Job], done: Sequence[Job]) -> None: ...
    def heard(self, job: Job, told: Mapping[str, Any]) -> None: ...
    def end(self) -> None: ...


@dataclass(frozen=True)
class Compared:
    """record: None if the user stopped the comparison."""

    folder: Path
    record: ComparisonRecord | None
    failed: Mapping[str, str]

    @property
    def report(self) -> Path:
        return self.folder / "report.md"


def claim_folder(plan: Plan, folder: Path) -> None:
    """Make the folder this plan's, or go on with it. RecipeError: it holds another comparison."""
    path = folder / "plan.json"
    if path.is_file():
        differ = Plan.read(path).difference(plan)
        if differ:
            raise RecipeError(
                f"{folder} holds another comparison: {', '.join(differ)} differ. Give another --folder, or the same "
                "command; only arms and seeds can be added"
            )
    _must_be_ours(folder)
    write_atomic(path, plan.to_json())


def _must_be_ours(folder: Path) -> None:
    """A comparison's, or empty, or not there."""
    if folder.exists() and not (folder / "plan.json").is_file() and not all(map(is_lock, folder.iterdir())):
        raise RecipeError(f"{folder} is not empty and holds no comparison; give another --folder")


def check(plan: Plan) -> None:
    """Build a run of every arm, so that what is wrong with one is found before any is trained."""
    for arm in plan.arms:
        value = plan.tune.values[0] if plan.tune else None
        try:
            build(plan.of_arm(arm, 0, value)).close()
        except RecipeError:
            raise
        except ValueError as error:
            raise RecipeError(f"arm {arm}: {error}") from error


def compare(plan: Plan, folder: Path, board: Board, processes: int | None = None, command: str = "") -> Compared:
    """Train what is missing, then write the report. Equal plans give equal reports, but for clocks, however many
    processes there are and however often they were stopped (a budget of seconds is a clock)."""
    _must_be_ours(folder)
    check(plan)
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise RecipeError(f"the folder {folder} can not be made: {error}; give another --folder") from error
    with alone(folder):
        claim_folder(plan, folder)
        return _compare(plan, folder, board, processes, command)


def _compare(plan: Plan, folder: Path, board: Board, processes: int | None, command: str) -> Compared:
    with Pool(min(processes or cores(), len(plan.arms) * plan.seeds), folder / "log.txt") as pool:
        tried: dict[str, dict[str, float]] = {}
        searched = list(tuning(plan, folder))
        finished = _phase("shared beginnings", bases(plan, folder), pool, board)
        if finished:
            _must_not_fail(pool)
            finished = _phase("tuning", [job for _, _, job in searched], pool, board)
        if not finished:
            return Compared(folder, None, pool.failed)
        for arm in plan.arms if plan.tune else ():
            tried[arm] = _means(plan, arm, searched)
        chosen = {arm: _best(plan, found) for arm, found in tried.items()}
        jobs = runs(plan, folder, chosen)
        if not _phase("runs", jobs, pool, board):
            return Compared(folder, None, pool.failed)
        record = comparison_record(plan, jobs, tried, chosen, pool.failed, command)
        write_report(record, folder)
        return Compared(folder, record, pool.failed)


def write_report(record: ComparisonRecord, folder: Path) -> None:
    write_atomic(folder / "report.json", to_json(record))
    draw(record, folder / "curves.svg")
    write_atomic(folder / "report.md", markdown(record))


def _phase(name: str, jobs: Sequence[Job], pool: Pool, board: Board) -> bool:
    """Whether it came to its end."""
    done = [job for job in jobs if is_finished(job)]
    missing = [job for job in jobs if not is_finished(job)]
    if not missing:
        return True
    board.begin(name, jobs, done)
    try:
        return pool.run(missing, board.heard)
    finally:
        board.end()


def _must_not_fail(pool: Pool) -> None:
    if pool.failed:
        label, error = next(iter(pool.failed.items()))
        raise RecipeError(f"{label}: {error}; no arm can begin without it")


def _means(plan: Plan, arm: str, searched: Sequence[tuple[str, Any, Job]]) -> dict[str, float]:
    """Mean by value; a value with a run that failed is not chosen."""
    found: dict[str, float] = {}
    for value in plan.tune.values if plan.tune else ():
        jobs = [job for name, tried, job in searched if (name, tried) == (arm, value)]
        if all(map(is_finished, jobs)):
            found[str(value)] = sum(value_of(plan, job) for job in jobs) / len(jobs)
    if not found:
        raise RecipeError(f"every tuning run of {arm} failed; see log.txt in the folder of the comparison")
    return found


def _best(plan: Plan, found: Mapping[str, float]) -> Any:
    """The first of the best values."""
    assert plan.tune is not None
    sign = -1 if plan.lower_is_better else 1
    best = max(found, key=lambda value: sign * found[value])
    return next(value for value in plan.tune.values if str(value) == best)
