"""What the user sees while a run trains: a bar on a terminal, plain lines elsewhere; and where log messages go."""

from __future__ import annotations

import logging
import time
from collections.abc import Mapping
from typing import Protocol

from rich.console import Console
from rich.logging import RichHandler
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

# Metrics worth a column, and the names under which methods report them, the most telling first.
SHOWN = {
    "return": ("return",),
    "reward": ("reward",),
    "loss": ("loss/likelihood", "loss/preference", "loss/distillation", "loss/matching"),
    "KL": ("kl/kl", "reference_kl", "policy/kl_old"),
    "entropy": ("entropy",),
    "held-out": ("eval/reward", "eval/return_sampled", "eval/preference_accuracy", "eval/near_data"),
}


class Display(Protocol):
    """Told about every round. `stage` is the text of the current stage, such as "2/3 grpo"."""

    def begin(self, done: int, total: int) -> None: ...
    def expect(self, total: int, spent: str) -> None:
        """How many rounds there will be is known better now; spent: what ends the run in place of their number."""
        ...

    def round(self, stage: str, metrics: Mapping[str, float], timing: Mapping[str, float]) -> None: ...
    def end(self) -> None: ...


class Silent:
    """Shows nothing."""

    def begin(self, done: int, total: int) -> None:
        pass

    def expect(self, total: int, spent: str) -> None:
        pass

    def round(self, stage: str, metrics: Mapping[str, float], timing: Mapping[str, float]) -> None:
        pass

    def end(self) -> None:
        pass


def counting(console: Console) -> Progress:
    """A bar of what is counted, with the time used and left, that leaves nothing behind."""
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    return Progress(*columns, TimeRemainingColumn(), console=console, transient=True)


class Bar:
    """One bar over all stages of the run. A stage that ends leaves one line above it."""

    def __init__(self, console: Console):
        self._progress = Progress(
            TextColumn("[bold]{task.description}"),
            BarColumn(bar_width=None),
            MofNCompleteColumn(),
            TextColumn("{task.fields[shown]}"),
            TimeRemainingColumn(),
            console=console,
        )
        self._task: TaskID | None = None
        self._stage = self._last = self._spent = ""
        self._held_out: Mapping[str, float] = {}

    def begin(self, done: int, total: int) -> None:
        self._task = self._progress.add_task("starting", total=total, completed=done, shown="")
        self._progress.start()

    def expect(self, total: int, spent: str) -> None:
        self._spent = spent
        if self._task is not None:
            self._progress.update(self._task, total=total)

    def round(self, stage: str, metrics: Mapping[str, float], timing: Mapping[str, float]) -> None:
        if self._task is None:
            raise RuntimeError("Bar.begin comes before Bar.round")
        metrics = self._held_out = with_last(self._held_out, metrics)
        if self._stage and stage != self._stage:
            self._progress.console.print(f"{self._stage} done  {self._last}", highlight=False)
        self._stage, self._last = stage, _joined(self._spent, summary(metrics, timing))
        self._progress.update(self._task, advance=1, description=stage, shown=self._last)

    def end(self) -> None:
        self._progress.stop()


class Lines:
    """A plain line at the first and last round, where a stage begins, and every `seconds` in between."""

    def __init__(self, console: Console, seconds: float = 10.0):
        self._console, self._seconds = console, seconds
        self._done = self._total = self._first = 0
        self._began = self._shown = 0.0
        self._stage = self._spent = ""
        self._held_out: Mapping[str, float] = {}

    def begin(self, done: int, total: int) -> None:
        self._done = self._first = done
        self._total, self._began = total, time.monotonic()

    def expect(self, total: int, spent: str) -> None:
        self._total, self._spent = total, spent

    def round(self, stage: str, metrics: Mapping[str, float], timing: Mapping[str, float]) -> None:
        self._done += 1
        metrics = self._held_out = with_last(self._held_out, metrics)
        now = time.monotonic()
        due = now - self._shown >= self._seconds
        if due or stage != self._stage or self._done == self._total:
            left = (now - self._began) / (self._done - self._first) * (self._total - self._done)
            told = _joined(self._spent, summary(metrics, timing))
            text = f"round {self._done}/{self._total}  {stage}  {told}  {left:.0f} s left"
            # Written as it is: no wrapping at a made-up width, no markup.
            self._console.print(text, soft_wrap=True, markup=False, highlight=False)
            self._shown, self._stage = now, stage

    def end(self) -> None:
        pass


def progress(console: Console | None = None) -> Display:
    """The display that suits where the output goes."""
    console = Console() if console is None else console
    return Bar(console) if console.is_terminal else Lines(console)


def _joined(*told: str) -> str:
    return "  ".join(filter(None, told))


def with_last(before: Mapping[str, float], metrics: Mapping[str, float]) -> Mapping[str, float]:
    """The metrics of a round, and the last evaluation of the rounds before it where it has none of its own."""
    return {**{name: value for name, value in before.items() if name.startswith("eval/")}, **metrics}


def summary(metrics: Mapping[str, float], timing: Mapping[str, float]) -> str:
    """The metrics of `SHOWN` that this round has, and the rate."""
    shown = []
    for label, names in SHOWN.items():
        name = next((name for name in names if name in metrics), None)
        told = {"loss": "reward" in metrics, "reward": "return" in metrics}  # by a better one
        if name is not None and not told.get(label, False):
            shown.append(f"{label} {metrics[name]:.3g}")
    if metrics.get("unscored"):
        shown.append(f"unscored {metrics['unscored']:.0%}")
    return "  ".join([*shown, f"{timing['steps_per_second']:,.0f} steps/s"])


def log_to(console: Console, level: int = logging.INFO) -> None:
    """Show log messages above the bar instead of through it. The bar must be on the same console."""
    logger = logging.getLogger("policyopt")
    for handler in [handler for handler in logger.handlers if isinstance(handler, RichHandler)]:
        logger.removeHandler(handler)
    logger.addHandler(RichHandler(console=console, show_path=False, show_time=False))
    logger.setLevel(level)
