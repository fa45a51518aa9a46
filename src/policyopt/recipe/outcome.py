"""What a finished run leaves for people: summary, plot, table."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from policyopt.runtime.atomic import disk_full_named
from policyopt.runtime.folder import RunFolder, write_json

LABELS = {"greedy": "greedy accuracy", "preference_accuracy": "preference accuracy"}


def measures(values: Mapping[str, Any]) -> dict[str, str]:
    """Names of the measures in an evaluation, and what people call them."""
    found = sorted((name.removesuffix("_interval") for name in values if name.endswith("_interval")), key=_order)
    return {name: LABELS.get(name, name.replace("pass_at_", "pass@")) for name in found}


def _order(name: str) -> int:
    """Greedy accuracy first, then pass@k by k."""
    return int(name.removeprefix("pass_at_")) if name.startswith("pass_at_") else 0


@dataclass(frozen=True)
class Outcome:
    """before, after: evaluations as in summary.json, None where there was no evaluation. answers: prompt, sampled
    answer, score (None: not scored) of a few held-out tasks. seconds: training alone."""

    folder: RunFolder
    before: Mapping[str, Any] | None
    after: Mapping[str, Any] | None
    answers: tuple[tuple[str, str, float | None], ...]
    seconds: float
    seed: int

    @classmethod
    def read(cls, folder: RunFolder) -> Outcome:
        """What a finished run left."""
        kept = json.loads(folder.summary.read_text(encoding="utf-8"))
        after = json.loads((folder.results / "after.json").read_text(encoding="utf-8"))
        answers = tuple(tuple(answer) for answer in after.get("answers", ()))
        return cls(folder, kept["before"], kept["after"], answers, kept["seconds"], kept["seed"])

    def write(self) -> None:
        """plot.png, then summary.json, which marks the run as finished."""
        measured = {"before": self.before, "after": self.after, "seconds": self.seconds, "seed": self.seed}
        with disk_full_named(self.folder.plot):
            plot(self.folder, self.before, self.after)
        write_json(self.folder.summary, measured)

    def show(self, console: Console) -> None:
        """The table, the sampled answers and where everything is."""
        if self.before is not None and self.after is not None:
            console.print(comparison(self.before, self.after))
            if self.after.get("unscored"):
                console.print(f"{self.after['unscored']} answers could not be scored and count as wrong")
        if self.answers:
            console.print("Sampled answers to held-out tasks:")
        for prompt, answer, score in self.answers:
            mark = "unscored" if score is None else "right" if score >= 1 else "wrong"
            console.print(f"  {mark}  {prompt} {answer}", markup=False, highlight=False)
        console.print(f"Trained in {self.seconds:.1f} s (seed {self.seed})")
        for label, path in (
            ("run folder", self.folder.path),
            ("plot", self.folder.plot),
            ("saved model", self.folder.model),
        ):
            console.print(f"{label:12s} {path}", markup=False, highlight=False, soft_wrap=True)


def comparison(before: Mapping[str, Any], after: Mapping[str, Any]) -> Table:
    """Before and after with 95 % intervals."""
    pairs = f"{after['pairs']} held-out pairs" if "pairs" in after else None
    table = Table(title=f"{pairs or _tasks(after)}; 95 % intervals")
    for column in ("", "before", "after"):
        table.add_column(column)
    for name, label in measures(after).items():
        table.add_row(label, *(_with_interval(values, name) for values in (before, after)))
    return table


def _tasks(values: Mapping[str, Any]) -> str:
    return f"{values['tasks']} held-out tasks, {values['samples']} samples a task"


def _with_interval(values: Mapping[str, Any], name: str) -> str:
    low, high = values[f"{name}_interval"]
    return f"{100 * values[name]:.1f} %  [{100 * low:.1f}, {100 * high:.1f}]"


def read_metrics(folder: RunFolder) -> list[dict[str, Any]]:
    if not folder.metrics.exists():
        return []
    return [json.loads(line) for line in folder.metrics.read_text(encoding="utf-8").splitlines()]


def training_seconds(folder: RunFolder) -> float:
    """Seconds of all rounds, over restarts."""
    if not folder.timing.exists():
        return 0.0
    return sum(json.loads(line)["seconds"] for line in folder.timing.read_text(encoding="utf-8").splitlines())


def plot(folder: RunFolder, before: Mapping[str, Any] | None, after: Mapping[str, Any] | None) -> Path:
    """The learning curve of the last stage that has rewards (or losses), and the evaluations beside it."""
    # Imported here: a second that commands without a plot need not wait. No screen is needed.
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9, 3.5), layout="constrained")
    FigureCanvasAgg(figure)
    curve, bars = figure.subplots(1, 2, width_ratios=(2, 1))
    lines = read_metrics(folder)
    rewarded = [line for line in lines if "reward" in line]
    name = "reward" if rewarded else next((key for key in (lines or [{}])[-1] if key.startswith("loss/")), "reward")
    chosen = [line for line in lines if name in line]
    curve.plot([line["step"] for line in chosen], [line[name] for line in chosen], linewidth=1)
    curve.set(xlabel="round", ylabel=name, title=folder.path.name)
    bars.set(ylim=(0, 1.02), title="held-out tasks")
    for offset, (label, values) in enumerate((("before", before), ("after", after))):
        if values is not None:
            _bars(bars, values, offset, label)
    figure.savefig(folder.plot, dpi=110)
    return folder.plot


def _bars(axis: Any, values: Mapping[str, Any], offset: int, label: str) -> None:
    labels = measures(values)
    heights = [values[name] for name in labels]
    intervals = [values[f"{name}_interval"] for name in labels]
    errors = [
        [max(0.0, height - low) for height, (low, _) in zip(heights, intervals, strict=True)],
        [max(0.0, high - height) for height, (_, high) in zip(heights, intervals, strict=True)],
    ]
    places = [index + 0.4 * offset for index in range(len(heights))]
    axis.bar(places, heights, width=0.38, label=label, yerr=errors, capsize=2)
    axis.set_xticks(
        [index + 0.2 for index in range(len(heights))],
        [label.removesuffix(" accuracy") for label in labels.values()],
        fontsize=8,
    )
    axis.legend(fontsize=8, loc="lower right")
