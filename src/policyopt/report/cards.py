"""A method's card: what was published, what it is made of, what its claim was and what came out.

Text and plot are functions of the method and of the stored result alone, so a card can be made again.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from policyopt.compose import Method, Nothing
from policyopt.evaluation.methods import axes_of, diff, text
from policyopt.evaluation.verify import ArmResult, Verification
from policyopt.methods import load
from policyopt.report.objective import describe
from policyopt.report.tables import table

MEANING = {
    "shown": "the whole interval lies beyond the smallest effect that counts",
    "not shown": "the interval reaches below the smallest effect that counts",
    "contradicted": "the whole interval lies on the wrong side of zero",
}


def card(method: Method, result: Verification | None) -> str:
    """The page in Markdown. Without a result the claim counts as unverified."""
    about = method.about
    sections = [
        f"# {about.key}: {about.title}",
        f"*{about.paper}; {about.equation}.* Runs on: {', '.join(about.policies)}. "
        f"Changes: {', '.join(axes_of(method)) or 'nothing'}.",
        about.mechanism,
        f"**When to use it.** {about.when_to_use}",
        f"**Departures from the paper.** {about.departures}",
        "## Claim",
        _unverified() if result is None else _claim(about.key, result),
        "## Executed objective",
        f"```text\n{describe(method)}```",
        *_relative(method),
    ]
    return "\n\n".join(sections) + "\n"


def _relative(method: Method) -> list[str]:
    """How it differs from its nearest relative."""
    nearest = method.about.nearest
    if not nearest:
        return []
    lines = [f"| | {method.key} | {nearest} |", "|---|---|---|"]
    lines += [f"| {slot} | {_cell(one)} | {_cell(two)} |" for slot, one, two in diff(method, load(nearest))]
    return [f"## Beside {nearest}", "\n".join(lines)]


def _cell(value: str) -> str:
    return value if value in ("-", text(Nothing())) else f"`{value}`"


def _unverified() -> str:
    return "Not tested yet in its present form: run `policyopt verify`."


def _claim(key: str, result: Verification) -> str:
    criterion = result.criterion
    paragraphs = [
        f"> {criterion['statement']}\n>\n> Source: {criterion['source']}.",
        f"**{str(result.verdict).capitalize()}.** {_numbers(result)}",
        f"![{result.curve_label or criterion['observable']}]({key}.png)",
        _table(result),
        f"**Criterion, fixed before the run.** {_criterion(criterion)}",
        f"**Budget.** {_budget(result)}",
        f"**Tuning.** {_tuning(result)}",
    ]
    if criterion["scope"]:
        paragraphs.append(f"**Scope.** {criterion['scope']}")
    paragraphs.append(_origin(result))
    return "\n\n".join(paragraphs)


def _numbers(result: Verification) -> str:
    criterion = result.criterion
    words = (
        f"{result.treated.label} less {result.baseline.label}: {result.difference} (95 % paired t interval over "
        f"{len(result.seeds)} seeds; {criterion['direction']} is better, {criterion['smallest_effect']:g} counts)."
    )
    if criterion["threshold"] is not None:
        words += f" {result.treated.label} alone: {result.level}, to reach {criterion['threshold']:g}."
    return f"{words} The verdict is computed: {MEANING[str(result.verdict)]}" + (
        "." if criterion["threshold"] is None else ", for the difference and for the level together."
    )


def _table(result: Verification) -> str:
    arms = (result.treated, result.baseline)
    rows = [(str(s), *(f"{arm.values[i]:.4g}" for arm in arms)) for i, s in enumerate(result.seeds)]
    rows += [("**mean**", *(f"**{sum(arm.values) / len(arm.values):.4g}**" for arm in arms))]
    rows += [(name, *(f"{arm.notes[name]:.4g}" for arm in arms)) for name in result.treated.notes]
    return table(("seed", *(arm.label for arm in arms)), rows, "lr")


def _criterion(criterion: Mapping[str, Any]) -> str:
    words = (
        f"Experiment `{criterion['experiment']}`. Observable: {criterion['observable']}; "
        f"{criterion['direction']} is better; smallest effect that counts: {criterion['smallest_effect']:g}"
    )
    words += "." if criterion["threshold"] is None else f"; level to reach: {criterion['threshold']:g}."
    return f"{words} Arms: {_arm(criterion['treated'])}; {_arm(criterion['baseline'])}."


def _arm(arm: Mapping[str, Any]) -> str:
    options = {**arm["overrides"], **arm["given"]}
    said = ", ".join(
        f"`{key}={value:g}`" if isinstance(value, float) else f"`{key}={value}`" for key, value in options.items()
    )
    return f"*{arm['label']}* (`{arm['method']}`{' with ' + said if said else ''})"


def _budget(result: Verification) -> str:
    if result.criterion.get("budget") == "cost":
        used = [f"{arm.label} {sum(arm.rows) / len(arm.rows):.0f}" for arm in (result.treated, result.baseline)]
        return (
            f"At most {result.criterion['rounds']} rounds; the observable is itself what is paid. Rows used, mean over "
            f"seeds: {', '.join(used)}."
        )
    rows = sorted(set(result.treated.rows))
    count = f"{rows[0]}" if len(rows) == 1 else f"{rows[0]} to {rows[-1]}"
    return (
        f"{result.criterion['rounds']} rounds and {count} rows a seed for both arms, counted and equal on every seed."
    )


def _tuning(result: Verification) -> str:
    tuning = result.criterion["tuning"]
    if tuning is None:
        return "None, for neither arm."

    def said(arm: ArmResult) -> str:
        scores = ", ".join(f"{value}: {score:.4g}" for value, score in arm.tried.items())
        return f"{arm.label} {arm.chosen:g} ({scores})"

    return (
        f"`{tuning['option']}` from {tuning['candidates']} by the mean score of {tuning['seeds']} other seeds, "
        f"the same search for both arms. Chosen: {said(result.treated)}; {said(result.baseline)}."
    )


def _origin(result: Verification) -> str:
    versions = ", ".join(f"{name} {version}" for name, version in result.versions.items())
    return f"Made by `policyopt verify {result.key}` with {versions}."


def plot(result: Verification, path: Path) -> None:
    """Mean curves of both arms, or their values where the experiment has no curve; with every seed's value."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    arms, colours = (result.treated, result.baseline), ("tab:blue", "tab:orange")
    curves = any(arm.curve for arm in arms)
    figure, axes = pyplot.subplots(1, 2 if curves else 1, figsize=(8.0, 2.8) if curves else (4.5, 2.8), squeeze=False)
    if curves:
        left, rounds = axes[0][0], result.criterion["rounds"]
        for arm, colour in zip(arms, colours, strict=True):
            step = rounds / max(1, len(arm.curve))
            left.plot([1 + i * step for i in range(len(arm.curve))], arm.curve, color=colour, label=arm.label)
        left.set(xlabel="round", title=f"{result.curve_label}, mean over seeds")
        left.legend(fontsize=7)
    right = axes[0][-1]
    for place, (arm, colour) in enumerate(zip(arms, colours, strict=True)):
        right.scatter([place] * len(arm.values), arm.values, color=colour, s=14)
        right.hlines(sum(arm.values) / len(arm.values), place - 0.2, place + 0.2, color=colour)
    right.set(title=f"each seed ({result.criterion['direction']} is better)", xlim=(-0.6, 1.6))
    right.set_xticks([0, 1], [arm.label for arm in arms], fontsize=7)
    for axis in axes[0]:
        axis.title.set_fontsize(8)
        axis.tick_params(labelsize=7)
    figure.tight_layout()
    # No name of the program that made it: the file should depend on the numbers alone.
    figure.savefig(path, dpi=80, metadata={"Software": None})
    pyplot.close(figure)


def write(method: Method, result: Verification | None, folder: Path) -> Path:
    """KEY.md and, with a result, KEY.png."""
    folder.mkdir(parents=True, exist_ok=True)
    page = folder / f"{method.key}.md"
    page.write_text(card(method, result), encoding="utf-8")
    if result is not None:
        plot(result, folder / f"{method.key}.png")
    return page
