"""Write docs/studies/on_policy.md from the records that `policyopt compare` left, which lie beside it.

    python benchmarks/study_page.py [--from runs/compare-points runs/compare-cartpole runs/compare-words]

With --from, report.json and curves.svg of these folders are taken first.
"""

from __future__ import annotations

import argparse
import math
import shutil
from pathlib import Path

from policyopt.evaluation.comparison import POWER, Comparison, Finding, detectable
from policyopt.evaluation.comparison_record import ComparisonRecord, from_json
from policyopt.report.comparison import answer, cost, ranking, shown, tuning

DOCS = Path(__file__).parents[1] / "docs" / "studies"
NAME = "on_policy"
TASKS = {
    "points": "A flow model of eight Gaussians on a ring is paid for samples near one of them",
    "cartpole": "An agent balances a pole for up to 200 steps (CartPole-v1)",
    "words": "A small decoder, taught by demonstrators of whom 30 % are right, spells words backward",
}

MORE = (20, 50)  # seeds

INTRODUCTION = """\
# Ten on-policy methods on three tasks

One language model, one agent, one flow model; ten published methods on each. All of it was made by
[`policyopt compare`](../comparison.md): equal beginnings, tasks, budgets and learning-rate searches, several seeds,
paired t tests with Holm's adjustment over all 45 pairs of a task, and an exact test that the methods differ at all.
The numbers on this page are made from the records beside it ([data](on_policy)) by `benchmarks/study_page.py`.

Settings are those of the recipes in `recipes/studies`, the same for all methods: rows a round, one pass over them in
four minibatches, no penalty for leaving a reference. So methods are compared by their objective and their credit (and
DAPO by its sampling), not by how many passes their papers make. Critics (PPO, A2C) learn at the rate that the recipe
gives. The learning rate of the policy was chosen for every method from the same three values, on seeds of their own.
"""

LIMITS = """\
## What this does not say

The tasks are small, the models tiny, the budgets short: it is a study of ten implementations that can be repeated on a
laptop, not of how methods rank on large models. A search of three learning rates on one or two seeds is coarse; where
the choice is at an end of it, the page says so. Returns end at 200 for the agent, and near 1 for the points: methods
that reach the end can not differ there, and the mean over the curve tells who was faster. One pass over the rows leaves
methods that clip their ratios little to clip. "Cannot tell apart" is not "equal": the records say how many seeds would
probably do. The seeds are as many as the machine had time for, with as many processes beside each other as a command
says; the agent's were raised from five to eight after a first report, which told nothing apart either.
"""


def overview(records: dict[str, ComparisonRecord]) -> str:
    """Means of all tasks side by side, with the places that the differences leave open."""
    found = {task: {place.arm: place for place in record.compare().places} for task, record in records.items()}
    arms = [arm.name for arm in next(iter(records.values())).arms]
    heads = [f"{task}: {record.label}" for task, record in records.items()]
    lines = [f"| method | {' | '.join(heads)} |", f"|---|{'---|' * len(heads)}"]
    for arm in arms:
        cells = []
        for task in records:
            place = found[task].get(arm)
            cells.append(
                "a run failed" if place is None else f"{shown(place.mean)}, place {place.rank[0]} to {place.rank[1]}"
            )
        lines.append(f"| {arm} | {' | '.join(cells)} |")
    return "\n".join(lines) + "\n\nMeans over seeds with 95 % t intervals; places that the differences leave open."


def power(found: Comparison) -> str:
    """What so many seeds find, and how many more would find of what is open."""
    effect = detectable(found.seeds, found.level, len(found.pairs))
    enough = [pair.enough or math.inf for pair in found.pairs if pair.finding == Finding.OPEN]
    more = " and ".join(f"{sum(n <= seeds for n in enough)} with {seeds}" for seeds in MORE)
    return (
        f"With {found.seeds} seeds, a difference of {effect:.1f} standard deviations (of differences over seeds) is "
        f"found with a probability of {100 * POWER:.0f} %. Of the {len(enough)} that are open, if they are as large as "
        f"they seem, {more} seeds would probably be told apart."
    )


def section(task: str, record: ComparisonRecord) -> str:
    """One task."""
    found = record.compare()
    apart = len(found.told_apart)
    return "\n\n".join(
        [
            f"## {task.capitalize()}",
            f"{TASKS[task]}. {record.amount:,.10g} {record.unit} a run, {len(record.seeds)} seeds; {record.over}.",
            answer(found),
            f"{apart} of {len(found.pairs)} differences are told apart. {power(found)}",
            f"![learning curves]({NAME}/{task}.svg)",
            ranking(record, found),
            tuning(record),
            cost(record),
            f"```bash\n{record.command}\n```",
        ]
    )


def page(records: dict[str, ComparisonRecord]) -> str:
    """The whole page."""
    seconds = sum(run.seconds for record in records.values() for run in record.runs)
    repeat = (
        "## Repeat it\n\nEvery section ends with its command. The runs of this page took "
        f"{seconds / 60:.1f} minutes of training on one core, beside building, evaluating and the searches for "
        "learning rates."
    )
    sections = [INTRODUCTION, overview(records), *(section(task, found) for task, found in records.items())]
    return "\n\n".join(part.strip() for part in [*sections, LIMITS, repeat]) + "\n"


def read(folder: Path) -> dict[str, ComparisonRecord]:
    """Records of the tasks that are there."""
    files = {task: folder / f"{task}.json" for task in TASKS}
    return {task: from_json(path.read_text(encoding="utf-8")) for task, path in files.items() if path.is_file()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--from", dest="folders", type=Path, nargs="*", default=[])
    data = DOCS / NAME
    data.mkdir(parents=True, exist_ok=True)
    for folder in parser.parse_args().folders:
        task = from_json((folder / "report.json").read_text(encoding="utf-8")).name
        shutil.copyfile(folder / "report.json", data / f"{task}.json")
        shutil.copyfile(folder / "curves.svg", data / f"{task}.svg")
    (DOCS / f"{NAME}.md").write_text(page(read(data)), encoding="utf-8")


if __name__ == "__main__":
    main()
