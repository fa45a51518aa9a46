"""Rollouts step by step, for people: what every step was worth to the update, and what the update did to it.

Numbers are taken after the round, under the models as the round left them. Nothing here moves a model, a cell or a
random stream of the run.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from policyopt.compose import Cell, Method, Part, Stage, Term
from policyopt.ops.divergence import k3
from policyopt.ops.random import generator
from policyopt.ops.sequences import total_reward
from policyopt.run import Run, StageContext
from policyopt.seen import SeenBatch
from policyopt.types import STEP_COLUMNS, Batch, Finish, Round, Source, StepKind
from policyopt.update.gradient import couples_of, plan
from policyopt.update.micro_batches import units

log = logging.getLogger("policyopt")

DIGITS = 5  # significant ones
# What stands in the tables under names of its own.
_KNOWN = {*STEP_COLUMNS, "advantage"}


class Observer(StageContext):
    """The run after a round, for reading only: what is drawn or measured here leaves no trace in the run."""

    def __init__(self, run: Run, stage: Stage):
        super().__init__(run, stage)
        self._drawn = 0

    @property
    def step(self) -> int:
        return self.run.step - 1  # the loop has moved on

    @property
    def stage_step(self) -> int:
        return self.step - self._stage.start

    @property
    def trainers(self) -> None:
        """What is only looked at is looked at by one process."""

    def rng(self, purpose: str) -> torch.Generator:
        self._drawn += 1
        return generator(self.seed, "rollouts", purpose, self.step, self._drawn)

    def __getitem__(self, cell: Cell) -> Any:
        return self.run.cells[cell.name] if cell.name in self.run.cells else cell.initial()

    def __setitem__(self, cell: Cell, value: Any) -> None:
        pass


@dataclass(frozen=True)
class Rollouts:
    """The first `rows` rows of a round (so that whole groups stand together), the first `steps` steps of each."""

    rows: int
    steps: int
    _warned: set[str] = field(default_factory=set, init=False, repr=False, compare=False)

    def chosen(self, done: Round) -> tuple[Batch, Batch, list[int]]:
        """The rows to show, the batch the update was given, and where in it each row is (-1: selection left it out).

        Where selection made rows of another form (turns, pieces), its rows are shown.
        """
        rows = done.credited[: self.rows]
        places: list[int] = []
        for row in range(len(rows)):
            places.append(_place(rows, row, done.kept, places))
        if len(done.kept) and all(place < 0 for place in places):
            rows = done.kept[: self.rows]
            places = list(range(len(rows)))
        return rows, done.kept, places

    def records(self, run: Run, stage: Stage, done: Round, told: Any) -> Iterable[Mapping[str, Any]]:
        """One JSON object a row. told(rows, steps): what only this kind of policy can say of rows, one object each."""
        rows, kept, places = self.chosen(done)
        if not len(rows):
            return []
        ctx = Observer(run, stage)
        devices = [run.device] if run.device.type == "cuda" else []
        with torch.no_grad(), torch.random.fork_rng(devices):
            used = [place for place in places if place >= 0]
            tables = self._tables(ctx, stage.method, kept, used) if used else {}
            words = told(rows, self.steps)
        return [
            {**self._row(rows, row, tables, used.index(place) if place >= 0 else None), **words[row]}
            for row, place in enumerate(places)
        ]

    def _row(self, rows: Batch, row: int, tables: Mapping[str, Tensor], at: int | None) -> dict[str, Any]:
        one = rows[torch.tensor([row], device=rows.device)]
        shown = one.valid[0].nonzero()[:, 0][: self.steps]
        columns = {name: one.step[name] for name in ("turn", "behaviour", "reward")} | _public(one)
        if at is None:
            columns["trained"] = torch.zeros_like(one.own)
        steps: dict[str, Any] = {name: rounded(column[0, shown]) for name, column in columns.items()}
        if len(set(steps["turn"])) < 2:
            del steps["turn"]
        steps["kind"] = [StepKind(kind).name.lower() for kind in one.step["kind"][0, shown].tolist()]
        known = {} if at is None else {name: column[at] for name, column in tables.items()}
        wide = int(shown.max()) + 1 if len(shown) else 0
        steps |= {
            name: rounded(column[shown]) for name, column in known.items() if column.dim() and len(column) >= wide
        }
        # Recorded rows have no behaviour, nobody sampled them; not every loss has a ratio.
        steps = {name: values for name, values in steps.items() if any(value is not None for value in values)}
        scored = bool(one.row["scored"][0])
        return {
            "row": row,
            "task": int(one.row["task"][0]),
            "group": int(one.row["group"][0]),
            "source": Source(int(one.row["source"][0])).name.lower(),
            "finish": Finish(int(one.row["finish"][0])).name.lower(),
            "reward": rounded(total_reward(one))[0] if scored else None,
            "length": int(one.lengths[0]),
            "surprise": _surprise(one, tables["policy"][at] if at is not None and "policy" in tables else None),
            "kept": at is not None,
            "totals": {name: rounded(column) for name, column in known.items() if not column.dim()},
            "steps": steps,
        }

    # -- what the update saw ---------------------------------------------------------------------------------------
    def _tables(self, ctx: Observer, method: Method, kept: Batch, places: Sequence[int]) -> dict[str, Tensor]:
        """Columns (n, T) or (n,) of the rows at `places` of the batch the update was given."""
        at = torch.tensor(places, device=kept.device)
        part = kept[at]
        found = {"trained": part.trained, **_public(part)}
        if "advantage" in part.step:
            found["advantage"] = part.step["advantage"]
        found |= self._scores(ctx, method, part)
        for term in (term for term in method.terms if _readable(term, kept)):
            try:
                found |= _of_term(ctx, kept, at, term)
            except Exception as error:  # noqa: BLE001 - a method of one's own may raise anything; training goes on
                self._leave_out(f"term {term.name!r} of {method.key}", error)
        _derive(found, part)
        return found

    def _scores(self, ctx: Observer, method: Method, part: Batch) -> dict[str, Tensor]:
        """Log-probabilities by role, and the entropy."""
        view, found = SeenBatch(ctx, part), {}
        for role in dict.fromkeys(("policy", *method.roles)):
            if role == "behaviour" or (role in method.roles and method.roles[role].when == "recorded"):
                continue
            try:
                scores = view[role]
            except Exception as error:  # noqa: BLE001 - as above
                self._leave_out(f"role {role!r} of {method.key}", error)
                continue
            found[role] = scores.logp
            if scores.entropy is not None and ("entropy" not in found or role == "old"):
                found["entropy"] = scores.entropy  # "old": the entropy at which the step was trained on
        return found

    def _leave_out(self, what: str, error: Exception) -> None:
        if what not in self._warned:
            self._warned.add(what)
            log.warning("rollouts are recorded without %s: %s: %s", what, type(error).__name__, error)


def _readable(term: Term, batch: Batch) -> bool:
    """An update may give its terms other rows than the round's (of a store, of turns), which are not shown here."""
    part = term.loss
    reads = part.reads if isinstance(part, Part) else ()
    return all(name in batch.row or name in batch.step for name in reads)


def _of_term(ctx: Observer, kept: Batch, at: Tensor, term: Term) -> dict[str, Tensor]:
    """The weight of every unit, and what the loss itself watches."""
    unit = units(kept, couples_of([term]))
    # Statistics are over the whole step; what a loss watches may look at the units that a row is coupled with.
    near = torch.isin(unit, unit[at]).nonzero()[:, 0]
    where = torch.searchsorted(near, at)
    (item,) = plan(ctx, kept, [term])
    found = {f"{term.name}/weight": item.weights[at]}
    full = item.batch[near]
    for watched, value in term.loss.watch(SeenBatch(ctx, full), full).items():
        column = value[0] if isinstance(value, tuple) else value
        if column.dim() in (1, 2) and len(column) == len(near):
            found[f"{term.name}/{watched}"] = column[where]
    return found


def _derive(found: dict[str, Tensor], part: Batch) -> None:
    """The columns that every viewer asks for, under one name each: as the method's terms watch them, or else from the
    log-probabilities."""
    now, before = found.get("policy"), found.get("old", part.step["behaviour"])
    for name in ("ratio", "clipped", "kl", "weight"):
        watched = next((key for key, column in found.items() if key.endswith(f"/{name}")), None)
        if watched is not None:
            column = found.pop(watched)
            found[name] = column if column.dim() == 2 else column[:, None].expand(-1, part.steps)
    if now is not None:
        found.setdefault("ratio", (now - before).exp())
        found.setdefault("kl", k3(now - found.get("reference", before)))
    for name in ("policy", "old", "reference", "ratio", "clipped", "kl", "entropy"):
        if name in found:
            found[name] = torch.where(part.trained, found[name].double(), math.nan)


def _public(batch: Batch) -> dict[str, Tensor]:
    """Step columns that parts have written for others to read."""
    return {
        name: column
        for name, column in batch.step.items()
        if name not in _KNOWN and not name.startswith("_") and column.dim() == 2
    } | ({"advantage": batch.step["advantage"]} if "advantage" in batch.step else {})


def _place(rows: Batch, row: int, kept: Batch, taken: Sequence[int]) -> int:
    """Where a row is in another batch, -1: nowhere. It is known by its draw, its task and its steps; of rows that are
    alike in all of these each has a place of its own."""
    if not len(kept):
        return -1
    near = (kept.row["group"] == rows.row["group"][row]) & (kept.row["task"] == rows.row["task"][row])
    names = [name for name in rows.step if name in ("kind", "behaviour") or name.startswith("_")]
    if not all(name in kept.step for name in names):
        return -1
    free = [place for place in near.nonzero()[:, 0].tolist() if place not in taken]
    alike = (place for place in free if all(_equal(rows.step[name][row], kept.step[name][place]) for name in names))
    return next(alike, -1)


def _equal(one: Tensor, other: Tensor) -> bool:
    """Up to padding (0) on the right; nan equals itself."""
    width = min(len(one), len(other))
    if bool(one[width:].any()) or bool(other[width:].any()):
        return False
    one, other = one[:width], other[:width]
    if one.is_floating_point():
        one, other = one.nan_to_num(), other.nan_to_num()
    return torch.equal(one, other)


def _surprise(one: Batch, policy: Tensor | None) -> float | None:
    """Mean negative log-probability of the own steps, as sampled; of recorded rows as the policy (T,) says now."""
    logp = one.step["behaviour"][one.own]
    if bool(logp.isnan().any()) and policy is not None:
        logp = policy
    logp = logp[~logp.isnan()]
    return rounded(-logp.double().mean()[None])[0] if len(logp) else None


def rounded(values: Tensor) -> list[Any]:
    """Numbers of `DIGITS` significant digits (nan: None, infinities: text), of any nesting."""
    if not values.is_floating_point():
        return values.int().tolist() if values.dtype == torch.bool else values.tolist()
    return _short(values.double().tolist())


def _short(value: Any) -> Any:
    if isinstance(value, list):
        return [_short(item) for item in value]
    if math.isinf(value):
        return str(value)  # as journals write it
    return None if math.isnan(value) else float(f"{value:.{DIGITS}g}")
