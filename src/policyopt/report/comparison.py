"""The report of a comparison in Markdown: ranking, differences, costs, and how it was done."""

from __future__ import annotations

import math
from collections.abc import Sequence

from policyopt.evaluation.comparison import MOST_SEEDS, POWER, Comparison, Finding, Pair
from policyopt.evaluation.comparison_record import ComparisonRecord, RunRecord
from policyopt.evaluation.statistics import MINIMUM_SEEDS, Interval
from policyopt.report.tables import table

COUNTED = {
    "tokens": "steps of policies (tokens, actions, denoising steps), generated or read, also those thrown away",
    "samples": "rows begun (answers, episodes, images) or read, also those thrown away",
    "seconds": "processor seconds of training on one core",
}


def markdown(record: ComparisonRecord) -> str:
    """The page; `curves.svg` lies beside it."""
    sections = [f"# {record.name}: {len(record.arms)} methods compared", _question(record)]
    if len(record.complete) > 1:
        found = record.compare()
        sections += [answer(found), "![learning curves](curves.svg)", "## Ranking", ranking(record, found)]
        sections += ["## Differences", _differences(found)]
    else:
        sections.append("**No ranking:** fewer than two arms finished all their seeds.")
    sections += ["## Cost", cost(record)]
    if record.tuning is not None:
        sections += ["## Tuning", tuning(record)]
    sections += ["## How it was compared", "\n".join(f"- {line}" for line in _protocol(record))]
    return "\n\n".join(sections) + "\n"


def _question(record: ComparisonRecord) -> str:
    better = "higher" if record.higher_is_better else "lower"
    return (
        f"Which method has the best **{record.label}** ({record.over}; {better} is better) after "
        f"{record.amount:,.10g} {record.unit}? {len(record.seeds)} seeds each."
    )


def answer(found: Comparison) -> str:
    """The findings in a few sentences; what a terminal shows."""
    best = found.places[0].arm
    behind = [pair.second for pair in found.pairs if pair.first == best and pair.finding == Finding.BETTER]
    level = [pair.second for pair in found.pairs if pair.first == best and pair.finding == Finding.OPEN]
    said = [f"**{best}** has the best mean, {shown(found.places[0].mean)}."]
    if behind:
        said.append(f"It is better than {_names(behind)}.")
    if level:
        said.append(f"It can not be told apart from {_names(level)} with {found.seeds} seeds.")
    if level and not behind:
        said.append("So this comparison does not say which method is best.")
    if found.seeds < MINIMUM_SEEDS:
        said.append(f"Fewer than {MINIMUM_SEEDS} seeds tell nothing apart; add --seeds {MINIMUM_SEEDS}.")
    near = [(pair.enough, pair.second) for pair in found.pairs if pair.first == best and pair.enough is not None]
    if near:
        said.append(f"About {_rounded(min(near)[0])} seeds would probably tell it from {min(near)[1]}.")
    return " ".join(said)


def shown(found: Interval) -> str:
    """With two digits of its width; more are not known."""
    width = found.high - found.low
    if not 0 < width < math.inf:
        return f"{found.estimate:.4g} [{found.low:.4g}, {found.high:.4g}]"
    decimals = max(0, 1 - math.floor(math.log10(width)))
    return f"{found.estimate:z.{decimals}f} [{found.low:z.{decimals}f}, {found.high:z.{decimals}f}]"


def _rounded(seeds: int) -> int:
    """Two digits, rounded up: more are not known."""
    unit = 10 ** max(0, len(str(seeds)) - 2)
    return -(-seeds // unit) * unit


def _names(arms: Sequence[str]) -> str:
    return arms[0] if len(arms) == 1 else f"{', '.join(arms[:-1])} and {arms[-1]}"


def ranking(record: ComparisonRecord, found: Comparison) -> str:
    """Means, and the places that the differences leave open."""
    header = ("place", "arm", f"{record.label}, mean over seeds", "mean over the curve", "best and worst seed")
    rows = []
    for place in found.places:
        runs = record.of(place.arm)
        values = [run.value for run in runs]
        whole = sum(sum(value for _, value in run.curve[1:]) / (len(run.curve) - 1) for run in runs) / len(runs)
        low, high = place.rank
        where = str(low) if low == high else f"{low} to {high}"
        rows.append([where, place.arm, shown(place.mean), f"{whole:.4g}", f"{min(values):.4g}, {max(values):.4g}"])
    made = table(header, rows, "llr")
    return f"{made}\n\n*Place*: those that the differences below leave open. Means with 95 % t intervals."


def _differences(found: Comparison) -> str:
    header = ("better mean", "other", "difference", "adjusted p", "finding", "seeds that would do")
    apart = len(found.told_apart)
    return (
        f"{apart} of {len(found.pairs)} differences are told apart. Intervals are paired by seed, 95 % each, for one "
        "difference alone; findings go by the p values adjusted for all of them.\n\n"
        + table(header, map(_difference, found.pairs), "llrrlr")
    )


def _difference(pair: Pair) -> list[str]:
    would = "" if pair.finding != Finding.OPEN else _would(pair)
    finding = f"**{pair.finding}**" if pair.finding != Finding.OPEN else str(pair.finding)
    return [pair.first, pair.second, shown(pair.difference), f"{pair.p:.3g}", finding, would]


def _would(pair: Pair) -> str:
    if pair.enough is not None:
        return f"about {_rounded(pair.enough)}"
    return f"over {MOST_SEEDS}" if pair.difference.estimate else "no difference seen"


def cost(record: ComparisonRecord) -> str:
    """What the runs of every arm used, and which failed."""
    header, rows = ("arm", "rounds", "samples", "tokens", "seconds", f"of the budget ({record.unit})"), []
    for arm in record.arms:
        runs = record.of(arm.name)
        if runs:
            used = [getattr(run, record.unit) / record.amount for run in runs]
            share = (
                f"{100 * min(used):.2f} %"
                if min(used) == max(used)
                else f"{100 * min(used):.2f} to {100 * max(used):.2f} %"
            )
            counts = [_range(runs, name) for name in ("rounds", "samples", "tokens", "seconds")]
            rows.append([arm.name, *counts, share])
        for seed, error in arm.failed.items():
            rows.append([arm.name, f"seed {seed} failed: {error}", "", "", "", ""])
    said = f"\n\nA run, after the {record.shared_rounds:,} rounds that all arms share." if record.shared_rounds else ""
    return table(header, rows, "lr") + said


def _range(runs: Sequence[RunRecord], name: str) -> str:
    values = [getattr(run, name) for run in runs]
    low, high = min(values), max(values)
    if name == "seconds":
        return f"{sum(values) / len(values):.1f}"
    return f"{low:,}" if low == high else f"{low:,} to {high:,}"


def tuning(record: ComparisonRecord) -> str:
    """What was tried for every arm, and what was chosen."""
    assert record.tuning is not None
    values = [str(value) for value in record.tuning["values"]]
    rows = []
    for arm in record.arms:
        tried = [f"{arm.tried[value]:.4g}" if value in arm.tried else "failed" for value in values]
        rows.append([arm.name, *tried, str(arm.tuned)])
    edge = [arm.name for arm in record.arms if str(arm.tuned) in (values[0], values[-1])]
    remark = f"\n\nChosen at an end of the search, so perhaps not the best there is: {_names(edge)}." if edge else ""
    seeds = record.tuning["seeds"]
    return (
        f"`{record.tuning['option']}`, for every arm by {seeds} {'seed' if seeds == 1 else 'seeds'} that the "
        f"comparison does not use, with the budget of a run.\n\n{table(('arm', *values, 'chosen'), rows, 'lr')}{remark}"
    )


def _protocol(record: ComparisonRecord) -> list[str]:
    alike = "the same policy (digests of its weights agree)" if record.began_alike else "**different policies**"
    lines = [
        f"Of each seed all arms begin with {alike}.",
        _tasks(record),
        f"Budget: {record.amount:,.10g} {record.unit} a run. Counted are {COUNTED[record.unit]}. No round begins that "
        "would go beyond it at the cost of the round before; schedules end with it. Evaluation is not counted.",
        f"Evaluated on the same held-out tasks at the beginning and {record.evaluations} times at equal shares of the "
        "budget; judged by the last one.",
        "Two arms: paired t test over seeds. All comparisons together: Holm's adjustment, and none without an exact "
        "test that rejects that all arms are equal, so that of equal arms the chance of any difference is at most 5 %. "
        "`benchmarks/aa_test.py` measures it.",
        f"*Seeds that would do*: with a probability of {100 * POWER:.0f} %, if the difference and its deviation are as "
        "seen; an order of magnitude.",
    ]
    if record.baseline is not None:
        lines.append(f"Compared with {record.baseline} alone; the others were not compared with each other.")
    for arm in record.arms:
        if arm.options or arm.method != arm.name:
            options = ", ".join(f"{key}={value}" for key, value in arm.options.items())
            lines.append(f"{arm.name}: method {arm.method}{', ' + options if options else ''}.")
    versions = ", ".join(f"{name} {version}" for name, version in record.versions.items())
    return [*lines, f"With {versions}:\n\n  ```\n  {record.command}\n  ```"]


def _tasks(record: ComparisonRecord) -> str:
    if not record.other_tasks:
        return "They draw the same tasks in the same order (digests of every round agree)."
    others = _names(record.other_tasks)
    return (
        f"They draw the same tasks in the same order, but for {others}: by their own rule, other tasks or more of them."
    )
