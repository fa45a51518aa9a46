"""What the user sees while a comparison runs: a table of arms and seeds on a terminal, plain lines elsewhere."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from typing import Any

from rich.console import Console, Group
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from policyopt.recipe.comparison.plan import Job

ENDS = {"finished": "done", "stopped": "stopped", "failed": "[red]failed[/]"}


class LiveBoard:
    """A row per arm, a cell per run: how far it is, and how it ended."""

    def __init__(self, console: Console):
        self._console = console
        self._live: Live | None = None

    def begin(self, phase: str, jobs: Sequence[Job], done: Sequence[Job]) -> None:
        self._phase, self._began, self._jobs = phase, time.monotonic(), list(jobs)
        self._cells = {job.folder: "·" for job in jobs} | {job.folder: "done" for job in done}
        self._before = len(done)
        self._live = Live(self._shown(), console=self._console, refresh_per_second=4)
        self._live.start()

    def heard(self, job: Job, told: Mapping[str, Any]) -> None:
        value = f" {told['value']:.3g}" if "value" in told else ""
        self._cells[job.folder] = ENDS[told["end"]] if "end" in told else f"{100 * told['share']:.0f} %{value}"
        if self._live is not None:
            self._live.update(self._shown())

    def end(self) -> None:
        if self._live is not None:
            self._live.update(self._shown())
            self._live.stop()

    def _shown(self) -> Group:
        table = Table(box=None, pad_edge=False)
        by_arm: dict[str, list[Job]] = {}
        for job in self._jobs:
            by_arm.setdefault(job.arm or "all arms", []).append(job)
        table.add_column(self._phase, no_wrap=True)
        for index in range(max(map(len, by_arm.values()))):
            table.add_column(str(index + 1), justify="right", no_wrap=True)
        for arm, jobs in by_arm.items():
            table.add_row(arm, *(self._cells[job.folder] for job in jobs))
        ended = sum(cell in ENDS.values() for cell in self._cells.values())
        bar = ProgressBar(total=len(self._cells), completed=ended, width=40)
        return Group(table, bar, Text(f"{ended} of {len(self._cells)} runs{self._left(ended)}"))

    def _left(self, ended: int) -> str:
        ran = ended - self._before
        if not ran:
            return ""
        left = (time.monotonic() - self._began) / ran * (len(self._cells) - ended)
        return f", about {left / 60:.0f} min left" if left > 90 else f", about {left:.0f} s left"


class LineBoard:
    """A line per run that ended."""

    def __init__(self, console: Console):
        self._console = console

    def begin(self, phase: str, jobs: Sequence[Job], done: Sequence[Job]) -> None:
        self._count, self._done, self._began = len(jobs), len(done), time.monotonic()
        self._say(f"{phase}: {len(jobs)} runs, {len(done)} of them finished already")

    def heard(self, job: Job, told: Mapping[str, Any]) -> None:
        if "end" in told:
            self._done += told["end"] == "finished"
            error = f": {told['error']}" if told["end"] == "failed" else ""
            seconds = time.monotonic() - self._began
            self._say(f"{self._done}/{self._count}  {seconds:5.0f} s  {job.label} {told['end']}{error}")

    def end(self) -> None:
        pass

    def _say(self, line: str) -> None:
        self._console.print(line, markup=False, highlight=False, soft_wrap=True)


def board(console: Console) -> LiveBoard | LineBoard:
    """The one that suits where the output goes."""
    return LiveBoard(console) if console.is_terminal else LineBoard(console)
