"""What a finished run leaves for people: summary, plot, table."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from policyopt.recipe.kinds import Evaluation
from policyopt.report.branches import sentences, table
from policyopt.runtime.atomic import writing
from policyopt.runtime.folder import RunFolder, RunFolderError, read_json, write_json
from policyopt.runtime.journal import read


@dataclass(frozen=True)
class Measure:
    """How people read a number: its label, and whether it is a share of successes, shown in percent."""

    label: str
    share: bool = True

    def shown(self, value: float, low: float, high: float) -> str:
        if self.share:
            return f"{100 * value:.1f} %  [{100 * low:.1f}, {100 * high:.1f}]"
        # Two digits of the width are what is known.
        decimals = 3 if high == low else max(0, 1 - math.floor(math.log10(high - low)))
        return f"{value:z.{decimals}f}  [{low:z.{decimals}f}, {high:z.{decimals}f}]"


MEASURES = {
    "greedy": Measure("greedy accuracy"),
    "preference_accuracy": Measure("preference accuracy"),
    "return_greedy": Measure("greedy return", share=False),
    "return_sampled": Measure("sampled return", share=False),
    "reward": Measure("reward", share=False),
    "modes": Measure("evenness of modes"),
    "near_data": Measure("samples like the data"),
}


def measures(values: Mapping[str, Any]) -> dict[str, Measure]:
    """The measures in an evaluation by name: greedy ones first, then pass@k by k."""
    found = sorted((name.removesuffix("_interval") for name in values if name.endswith("_interval")), key=_order)
    return {name: MEASURES.get(name) or Measure(name.replace("pass_at_", "pass@")) for name in found}


def _order(name: str) -> tuple[int, int]:
    k = int(name.removeprefix("pass_at_")) if name.startswith("pass_at_") else 0
    return k, list(MEASURES).index(name) if name in MEASURES else len(MEASURES)


@dataclass(frozen=True)
class Outcome:
    """before, after: None where there was no evaluation. seconds: training alone. draw: adds to the plot what only
    this kind of policy can show. branches: see `report.branches`; empty in a run of one policy. best: what the folder
    `best` holds (`recipe.along.Best`), if one was kept."""

    folder: RunFolder
    before: Evaluation | None
    after: Evaluation | None
    seconds: float
    seed: int
    draw: Callable[[Any], None] | None = None
    branches: Mapping[str, Any] = field(default_factory=dict)
    best: Mapping[str, Any] | None = None

    @classmethod
    def read(cls, folder: RunFolder) -> Outcome:
        """What a finished run left."""
        kept, after = read_json(folder.summary), read_json(folder.results / "after.json")
        branches = folder.results / "branches.json"
        report = read_json(branches) if branches.is_file() else {}
        try:
            found = Evaluation(**after) if after else None
            before = Evaluation(found.over, kept["before"]) if found and kept["before"] else None
            return cls(
                folder, before, found, float(kept["seconds"]), int(kept["seed"]), branches=report, best=kept.get("best")
            )
        except (KeyError, TypeError, ValueError) as error:
            raise RunFolderError(
                f"{folder.summary} and what lies in {folder.results} do not hold what a finished run leaves: "
                f"{error!r}; delete the summary and {folder.resume}"
            ) from error

    def write(self) -> None:
        """plot.png, then summary.json, which marks the run as finished."""
        measured = {name: found and found.measured for name, found in (("before", self.before), ("after", self.after))}
        with writing(self.folder.plot):
            plot(self.folder, measured["before"], measured["after"], self.draw)
        best = {} if self.best is None else {"best": dict(self.best)}
        write_json(self.folder.summary, {**measured, **best, "seconds": self.seconds, "seed": self.seed})

    def show(self, console: Console) -> None:
        """The table, the sampled answers and where everything is."""
        if self.before is not None and self.after is not None:
            console.print(comparison(self.before, self.after))
        if self.after is not None and self.after.remark:
            console.print(self.after.remark)
        if self.after is not None and self.after.answers:
            console.print("Sampled answers to held-out tasks:")
            for prompt, answer, score in self.after.answers:
                mark = _mark(score)
                console.print(f"  {mark}  {prompt} {answer}", markup=False, highlight=False)
        if self.branches:
            console.print(table(self.branches))
            for line in sentences(self.branches):
                console.print(f"  {line}", markup=False, highlight=False, soft_wrap=True)
        console.print(f"Trained in {self.seconds:.1f} s (seed {self.seed})")
        if self.best:
            found = self.best
            console.print(f"Best {found['measure']}: {found['value']:.6g}, after {found['round']} rounds")
        for label, path in (
            ("run folder", self.folder.path),
            ("plot", self.folder.plot),
            ("saved model", self.folder.model),
            *([("best model", self.folder.best)] if self.best else []),
            *([("report", self.folder.report)] if self.branches else []),
        ):
            console.print(f"{label:12s} {path}", markup=False, highlight=False, soft_wrap=True)


def _mark(score: float | None) -> str:
    """What people are told of an answer; between wrong and right, its score."""
    if score is None:
        return "unscored"
    return "right" if score >= 1 else "wrong" if score <= 0 else f"{score:.3g}"


def comparison(before: Evaluation, after: Evaluation) -> Table:
    """Before and after with 95 % intervals."""
    table = Table(title=f"{after.over}; 95 % intervals")
    for column in ("", "before", "after"):
        table.add_column(column)
    for name, measure in measures(after.measured).items():
        # One of them can lack a measure: a reward where no answer was scored.
        values = [found.measured for found in (before, after)]
        shown = [measure.shown(v[name], *v[f"{name}_interval"]) if name in v else "-" for v in values]
        table.add_row(measure.label, *shown)
    return table


def training_seconds(folder: RunFolder) -> float:
    """Seconds of all rounds, over restarts."""
    return sum(line["seconds"] for line in read(folder.timing))


# Metrics worth a learning curve, the most telling first; then any loss.
CURVES = ("return", "reward")


def plot(
    folder: RunFolder,
    before: Mapping[str, Any] | None,
    after: Mapping[str, Any] | None,
    draw: Callable[[Any], None] | None = None,
) -> Path:
    """The learning curve, and the evaluations beside it."""
    # Imported here: a second that commands without a plot need not wait. No screen is needed.
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9, 3.5), layout="constrained")
    FigureCanvasAgg(figure)
    parts: Any = figure.subfigures(1, 2, width_ratios=(3, 1)) if draw is not None else [figure]
    curve, bars = parts[0].subplots(1, 2, width_ratios=(2, 1))
    lines = read(folder.metrics)
    losses = [key for key in (lines or [{}])[-1] if key.startswith("loss/")]
    name = next((key for key in (*CURVES, *losses) if any(key in line for line in lines)), "reward")
    chosen = [line for line in lines if name in line]
    curve.plot([line["step"] for line in chosen], [line[name] for line in chosen], linewidth=1)
    curve.set(xlabel="round", ylabel=name, title=folder.path.name)
    bars.set(title="held-out")
    for offset, (label, values) in enumerate((("before", before), ("after", after))):
        if values is not None:
            _bars(bars, values, offset, label)
    if draw is not None:
        draw(parts[1])
    figure.savefig(folder.plot, dpi=110)
    return folder.plot


def _bars(axis: Any, values: Mapping[str, Any], offset: int, label: str) -> None:
    """The measures that are of one scale with the first."""
    found = measures(values)
    first = next(iter(found.values()))
    found = {name: measure for name, measure in found.items() if measure.share == first.share}
    heights = [values[name] for name in found]
    intervals = [values[f"{name}_interval"] for name in found]
    errors = [
        [max(0.0, height - low) for height, (low, _) in zip(heights, intervals, strict=True)],
        [max(0.0, high - height) for height, (_, high) in zip(heights, intervals, strict=True)],
    ]
    places = [index + 0.4 * offset for index in range(len(heights))]
    axis.bar(places, heights, width=0.38, label=label, yerr=errors, capsize=2)
    if first.share:
        axis.set(ylim=(0, 1.02))
    ticks = [measure.label.removesuffix(" accuracy") for measure in found.values()]
    axis.set_xticks([index + 0.2 for index in range(len(heights))], ticks, fontsize=8)
    axis.legend(fontsize=8, loc="lower right" if first.share else "best")
