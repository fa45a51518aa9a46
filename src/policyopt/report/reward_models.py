"""What `policyopt reward` found, as text."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from policyopt.report.tables import table


def markdown(name: str, found: Mapping[str, Any]) -> str:
    """found: "benchmark" and "gold", each if it was asked for."""
    lines = [f"# {name}", ""]
    if "benchmark" in found:
        lines += _benchmark(found["benchmark"])
    if "gold" in found:
        lines += _gold(found["gold"])
    return "\n".join(lines) + "\n"


def _benchmark(found: Mapping[str, Any]) -> list[str]:
    rows = [(subset, str(said["items"]), _share(said)) for subset, said in found["subsets"].items()]
    rows += [("**all**", str(found["items"]), _share(found))]
    lines = [table(("subset", "items", "accuracy, 95 % interval"), rows, "lr")]
    lines += ["", f"Mean over subsets {100 * found['mean_over_subsets']:.1f} %. Calibration error of sigma(r - r') "]
    lines[-1] += f"(or of the judge's preference): {found['calibration_error']:.3f}."
    if found["unanswered"]:
        lines.append(f"{found['unanswered']} items have no answer and are left out.")
    return ["## Benchmark", "", *lines, ""]


def _gold(found: Mapping[str, Any]) -> list[str]:
    rows = [
        (str(said["n"]), f"{said['kl']:.2f}", _number(said, "proxy"), _number(said, "gold"))
        for said in found["best_of_n"]
    ]
    said = (
        f"Over {found['prompts']} held-out prompts, {found['candidates']} candidates each; 95 % intervals over prompts."
    )
    best = table(("best of n", "KL at most", "proxy reward", "gold reward"), rows, "r")
    lines = ["## Optimised against", "", said, "", best, ""]
    if found["policies"]:
        by_kl = sorted(found["policies"], key=lambda one: one["kl"])
        rows = [(p["policy"], *(_number(p, name) for name in ("kl", "proxy", "gold"))) for p in by_kl]
        lines += [table(("policy", "KL", "proxy reward", "gold reward"), rows, "lr"), ""]
    return lines


def _share(said: Mapping[str, Any]) -> str:
    low, high = said["accuracy_interval"]
    return f"{100 * said['accuracy']:.1f} % [{100 * low:.1f}, {100 * high:.1f}]"


def _number(said: Mapping[str, Any], name: str) -> str:
    low, high = ("?" if bound is None else f"{bound:.3f}" for bound in said[f"{name}_interval"])
    return f"{said[name]:.3f} [{low}, {high}]"
