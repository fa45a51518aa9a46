"""A preference set on one page."""

from __future__ import annotations

import math
from collections.abc import Sequence

from rich.console import Group
from rich.table import Table
from rich.text import Text

from policyopt.evaluation.preference_data import Measure


def page(found: Sequence[Measure]) -> Group:
    """A table of every measure with its 95 % interval, and below it a line for each that is alarming."""
    table = Table("measure", "value", "95 %", "of", title="Preference data")
    for one in found:
        between = "" if one.low is None or one.high is None else f"{_said(one.low, one)} .. {_said(one.high, one)}"
        table.add_row(one.name, _said(one.value, one), between, one.of, style="yellow" if one.remedy else None)
    alarms = [Text(f"{one.name}, {_said(one.value, one)}: {one.remedy}") for one in found if one.remedy]
    return Group(table, *(alarms or [Text("Nothing is alarming.")]))


def _said(value: float, of: Measure) -> str:
    if not math.isfinite(value):
        return "-"
    return f"{100 * value:.1f} %" if of.share else f"{value:.4g}" if value != int(value) else f"{int(value)}"
