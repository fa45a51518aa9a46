"""Learning curves with bands over seeds, and where every seed ended: one SVG that needs nothing else."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from policyopt.evaluation.comparison_record import ComparisonRecord
from policyopt.runtime.atomic import writing

SALT = "policyopt"  # of the ids in the file, which are random otherwise


def draw(record: ComparisonRecord, path: Path) -> None:
    """The picture is a function of the record alone."""
    import matplotlib
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    with matplotlib.rc_context({"svg.hashsalt": SALT, "svg.fonttype": "none", "font.size": 8}):
        arms = [arm.name for arm in record.arms if record.of(arm.name)]
        figure = Figure(figsize=(9, max(3.0, 1.6 + 0.22 * len(arms))), layout="constrained")
        FigureCanvasAgg(figure)
        left, right = figure.subplots(1, 2, width_ratios=(3, 2))
        colours = {arm: matplotlib.colormaps["tab10"](index % 10) for index, arm in enumerate(arms)}
        for arm in arms:
            _curve(left, record, arm, colours[arm])
        left.set(xlabel=f"{record.unit} used", ylabel=record.label)
        _ends(right, record, arms, colours)
        with writing(path):
            figure.savefig(path, format="svg", metadata={"Date": None, "Creator": None})


def _curve(axis: Any, record: ComparisonRecord, arm: str, colour: Any) -> None:
    """Mean over seeds and its 95 % t interval."""
    if len(record.of(arm)) < 2:
        return
    points = record.curve(arm)
    used = [share * record.amount for share, _ in points]
    axis.plot(used, [found.estimate for _, found in points], color=colour, linewidth=1.2, label=arm)
    low, high = ([getattr(found, side) for _, found in points] for side in ("low", "high"))
    axis.fill_between(used, low, high, color=colour, alpha=0.12, linewidth=0)


def _ends(axis: Any, record: ComparisonRecord, arms: list[str], colours: dict[str, Any]) -> None:
    """Every seed at the end, with mean and interval, the best arm on top."""
    sign = 1 if record.higher_is_better else -1
    values = {arm: [run.value for run in record.of(arm)] for arm in arms}
    order = sorted(arms, key=lambda arm: sign * sum(values[arm]) / len(values[arm]))
    for place, arm in enumerate(order):
        axis.scatter(values[arm], [place] * len(values[arm]), s=9, color=colours[arm], alpha=0.5, linewidths=0)
        if len(values[arm]) > 1:
            _, end = record.curve(arm)[-1]
            axis.plot([end.low, end.high], [place, place], color=colours[arm], linewidth=1.5)
            axis.plot([end.estimate], [place], marker="|", markersize=9, color=colours[arm])
    axis.set_yticks(range(len(order)), order)
    axis.set(xlabel=f"{record.label} at the end: seeds, mean, 95 % interval")
    for tick, arm in zip(axis.get_yticklabels(), order, strict=True):
        tick.set_color(colours[arm])
