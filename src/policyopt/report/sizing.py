"""A plan in print."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from rich.table import Table

from policyopt.evaluation.sizing import GIB, Plan

LINES = ("parameters", "trainers", "GiB on each", "rows of a micro-batch", "frozen models on", "GPUs of a sampler",
         "GiB on each of them", "GiB of weights", "s to send them", "s to generate, one sampler", "s to train",
         "samplers", "s a round")  # fmt: skip


def cells(plan: Plan) -> tuple[str, ...]:
    """One model's column of the table."""
    shape = plan.shape
    large = f"{shape.parameters / 1e9:.2f} G" if shape.parameters > 1e8 else f"{shape.parameters / 1e6:.2f} M"
    if not plan.fits:
        return (large, "too large", f"{plan.trainer_memory / GIB:.0f}", *("-",) * (len(LINES) - 3))
    where = "-" if not plan.work.frozen else "trainers" if plan.held else "scorers"
    return (
        large,
        str(plan.trainers),
        f"{plan.trainer_memory / GIB:.1f}",
        str(plan.micro_rows),
        where,
        str(plan.sampler_gpus),
        f"{plan.sampler_memory / GIB:.1f}",
        f"{shape.weights / GIB:.1f}",
        *(_seconds(value) for value in (plan.sync, plan.generate, plan.train)),
        str(plan.samplers),
        _seconds(plan.round),
    )


def _seconds(value: float) -> str:
    return f"{value:.2g}" if value < 1 else f"{value:.0f}"


def table(plans: Sequence[Plan]) -> Table:
    machine, work = plans[0].machine, plans[0].work
    found = Table(
        "",
        *(plan.shape.name for plan in plans),
        title=f"{machine.name}: {work.rows} rows of {work.prompt} + {work.answer} tokens a round",
        caption=f"Arithmetic, not measured: {machine.used:.0%} of the operations and {machine.read:.0%} of the bytes a "
        "second; as many samplers as keep up with training.",
    )
    for name, *line in zip(LINES, *(cells(plan) for plan in plans), strict=True):
        found.add_row(name, *line)
    return found


def numbers(plans: Sequence[Plan]) -> list[dict[str, Any]]:
    """The same as JSON data; memory in bytes."""
    return [{**asdict(plan), "fits": plan.fits, "round": plan.round} for plan in plans]
