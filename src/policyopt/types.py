"""The records every part reads and writes. Imports nothing of ours but distributions.

Axis letters, here and everywhere: B rows (trajectories), T steps, N tasks, V choices, D dimensions of an
action, P positions of a prompt. A *row* is one trajectory; a *step* is a token, an action or a denoising step.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from enum import IntEnum
from functools import cached_property
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from policyopt.distributions import Categorical as Categorical
from policyopt.distributions import Distribution as Distribution
from policyopt.distributions import Gaussian as Gaussian
from policyopt.truncation import KEPT, recording


class StepKind(IntEnum):
    """Who made a step. Only OWN steps were chosen by the policy; `train` says separately which are trained on."""

    PAD = 0
    OWN = 1
    TOOL = 2  # written by a tool, the environment or another player: attended, never trained
    HINT = 3  # inserted into the policy's own turn: attended, never trained


class Source(IntEnum):
    """Where a row came from."""

    POLICY = 0
    TEACHER = 1
    REPLAY = 2
    DATASET = 3
    INJECTED = 4


class Finish(IntEnum):
    """Why a row ended. Inferred from what happened, never from token ids (pad may equal eos)."""

    RUNNING = 0
    STOPPED = 1  # the policy or the environment ended it
    TRUNCATED = 2  # a limit ended it


@dataclass(frozen=True)
class Scores:
    """What one model, under one context, says of the steps that were taken."""

    logp: Float[Tensor, "B T"]
    entropy: Float[Tensor, "B T"] | None = None
    dist: Distribution | None = None  # only where a role asks for full distributions
    exact: bool = True  # False: a bound or an energy; ratios refuse it

    def detach(self) -> Scores:
        return Scores(
            self.logp.detach(),
            None if self.entropy is None else self.entropy.detach(),
            None if self.dist is None else self.dist.detach(),
            self.exact,
        )

    def __getitem__(self, rows: Any) -> Scores:
        return Scores(
            self.logp[rows],
            None if self.entropy is None else self.entropy[rows],
            None if self.dist is None else self.dist[rows],
            self.exact,
        )


@dataclass(frozen=True)
class Tasks:
    """What is asked: an id per task and the columns that every rollout of it inherits."""

    id: Int[Tensor, " N"]
    row: Mapping[str, Tensor] = field(default_factory=dict)

    def repeat(self, times: int) -> Tasks:
        """Every task `times` times, its attempts side by side."""
        rows = {name: column.repeat_interleave(times, 0) for name, column in self.row.items()}
        return Tasks(self.id.repeat_interleave(times), rows)

    def with_rows(self, columns: Mapping[str, Tensor]) -> Tasks:
        return replace(self, row={**self.row, **columns})

    def to(self, device: torch.device | str) -> Tasks:
        return Tasks(self.id.to(device), {name: column.to(device) for name, column in self.row.items()})

    def __len__(self) -> int:
        return len(self.id)

    def __getitem__(self, index: Any) -> Tasks:
        return Tasks(self.id[index], {name: column[index] for name, column in self.row.items()})


# What a batch computes once, and the columns it follows from.
_COMPUTED = {"own": ("kind",), "valid": ("kind",), "trained": ("kind", "train"), "heat": ("temperature",)}
ROW_COLUMNS = ("task", "group", "source", "finish", "scored", "temperature")
STEP_COLUMNS = ("kind", "train", "behaviour", "reward", "turn", "version")
PROMPT = "_prompt"  # row column (B, P) of a context: left-padded with NO_TOKEN
REFERENCE_ANSWER = "reference answer"  # the context of rows that are read beside their task's own answer
NO_TOKEN = -1


@dataclass(frozen=True)
class Batch:
    """Rollouts, and everything that later parts learned about them.

    row:  {name: (B, ...)}; always `ROW_COLUMNS`: task id, group (one id per *draw*), source, finish,
          scored (False: a grader failed on the row, its reward is unknown), temperature (of the distribution
          that was sampled).
    step: {name: (B, T, ...)}; always `STEP_COLUMNS`: kind, train, behaviour (log-probability as sampled),
          reward, turn, version (of the policy that took the step).
    Columns starting with "_" belong to a policy or a world and are opaque to every part. A column that is in both is
    the *state*: `step` holds it before each step, `row` after the row's last step (the final observation of a finished
    row, never the one after a reset).
    """

    row: Mapping[str, Tensor]
    step: Mapping[str, Tensor]
    scores: Mapping[str, Scores] = field(default_factory=dict)

    def __post_init__(self) -> None:
        size = len(self.row["task"])
        for name, column in (*self.row.items(), *self.step.items()):
            if len(column) != size:
                raise ValueError(f"every column needs a value per row: {name!r} has {len(column)}, rows are {size}")
        for name, column in self.step.items():
            if column.shape[1] != self.step["kind"].shape[1]:
                raise ValueError(
                    f"step column {name!r} has {column.shape[1]} steps, the batch has {self.step['kind'].shape[1]}"
                )

    # -- sizes and universal columns -----------------------------------------------------------------------
    def __len__(self) -> int:
        return len(self.row["task"])

    @property
    def steps(self) -> int:
        return self.step["kind"].shape[1]

    @cached_property
    def own(self) -> Bool[Tensor, "B T"]:
        return self.step["kind"] == StepKind.OWN

    @cached_property
    def valid(self) -> Bool[Tensor, "B T"]:
        return self.step["kind"] != StepKind.PAD

    @cached_property
    def trained(self) -> Bool[Tensor, "B T"]:
        return self.step["train"] & self.own

    @property
    def done(self) -> Bool[Tensor, " B"]:
        return self.row["finish"] != Finish.RUNNING

    @cached_property
    def heat(self) -> float | None:
        """The temperature that all rows share; None where they differ (or there are none)."""
        column = self.row["temperature"]
        first = float(column[0]) if len(column) else None
        return first if first is not None and bool((column == first).all()) else None

    @property
    def lengths(self) -> Int[Tensor, " B"]:
        """Own steps of every row; tool and hint steps are not the policy's length."""
        return self.own.sum(1)

    @property
    def device(self) -> torch.device:
        return self.row["task"].device

    # -- new columns ---------------------------------------------------------------------------------------
    def with_rows(self, columns: Mapping[str, Tensor]) -> Batch:
        return self._knowing(replace(self, row={**self.row, **columns}), columns)

    def with_steps(self, columns: Mapping[str, Tensor]) -> Batch:
        return self._knowing(replace(self, step={**self.step, **columns}), columns)

    def with_scores(self, scores: Mapping[str, Scores]) -> Batch:
        return self._knowing(replace(self, scores={**self.scores, **scores}), ())

    def _knowing(self, other: Batch, changed: Collection[str]) -> Batch:
        """The other batch with what was computed of this one, as far as the changed columns leave it as it was."""
        for name, columns in _COMPUTED.items():
            if name in vars(self) and not any(column in changed for column in columns):
                vars(other)[name] = vars(self)[name]
        return other

    # -- contexts: what a row is conditioned on; named, opaque --------------------------------------------
    def context(self, name: str | None = None) -> Tensor:
        return self.row[PROMPT if name is None else f"{PROMPT}:{name}"]

    def with_context(self, prompt: Tensor, name: str | None = None) -> Batch:
        return self.with_rows({PROMPT if name is None else f"{PROMPT}:{name}": prompt})

    def again(self, name: str | None = None) -> Tasks:
        """The same tasks in the same groups, asked under a context."""
        return Tasks(self.row["task"], {"group": self.row["group"], PROMPT: self.context(name)})

    # -- selecting -----------------------------------------------------------------------------------------
    def __getitem__(self, rows: Any) -> Batch:
        """Rows by a boolean mask (B,), indices or a slice; structure is in ids, so any subset is valid."""
        if isinstance(rows, slice) and rows == slice(None):
            return self
        listed = rows if isinstance(rows, Tensor) and rows.dtype == torch.int64 and rows.dim() == 1 else None

        def take(column: Tensor) -> Tensor:
            # The same, but faster on small columns.
            return column[rows] if listed is None else column.index_select(0, listed)

        return Batch(
            {name: take(column) for name, column in self.row.items()},
            {name: take(column) for name, column in self.step.items()},
            {name: scores[rows] for name, scores in self.scores.items()},
        )

    def following(self, name: str) -> Tensor:
        """(B, T, ...) the state after each step; what stands at padding is arbitrary."""
        column, last = self.step[name], self.row[name].unsqueeze(1)
        shifted = torch.cat([column[:, 1:], last], 1)
        ends = self._last.view(len(self), self.steps, *(1,) * (column.dim() - 2))
        return torch.where(ends, last, shifted)

    @property
    def _last(self) -> Bool[Tensor, "B T"]:
        """True at the last step of every row that is not padding."""
        remaining = self.valid.flip(1).cumsum(1).flip(1)
        return self.valid & (remaining == 1)

    def flat(self) -> Batch:
        """Every own step as a row of one step, in row order: (state, step, reward, state that follows). A row goes on
        (`RUNNING`) unless it is its row's last own step. Scores come along."""
        row, step = self.own.nonzero(as_tuple=True)
        taken = {name: column[row, step][:, None] for name, column in self.step.items()}
        rows = {
            name: (self.following(name)[row, step] if name in self.step else column[row])
            for name, column in self.row.items()
        }
        remaining = self.own.flip(1).cumsum(1).flip(1)[row, step]
        rows["finish"] = torch.where(remaining == 1, rows["finish"], int(Finish.RUNNING))
        index = (row[:, None], step[:, None])
        return Batch(rows, taken, {name: scores[index] for name, scores in self.scores.items()})

    def cut(self, steps: int) -> Batch:
        """The first `steps` steps of every row; scores are dropped."""
        return Batch(self.row, {name: column[:, :steps] for name, column in self.step.items()})

    def ids(self, *names: str) -> Int[Tensor, " B"]:
        """One id per distinct combination of row columns."""
        columns = torch.stack([self.row[name].long() for name in names], 1)
        return columns.unique(dim=0, return_inverse=True)[1]

    def to(self, device: torch.device | str) -> Batch:
        if self.scores:
            raise ValueError("a scored batch does not move between devices; move it before scoring")
        return Batch(
            {name: column.to(device) for name, column in self.row.items()},
            {name: column.to(device) for name, column in self.step.items()},
        )

    def append(self, columns: Mapping[str, Tensor]) -> Batch:
        """More steps, (B, n, ...) per column; columns not given are filled with zeros. Scores are dropped."""
        unknown = [name for name in columns if name not in self.step]
        if unknown:
            raise ValueError(f"append needs existing step columns; {unknown} are not among {sorted(self.step)}")
        count = next(iter(columns.values())).shape[1]
        step = {}
        for name, old in self.step.items():
            new = columns.get(name)
            if new is None:
                new = old.new_zeros((len(self), count, *old.shape[2:]))
            step[name] = torch.cat([old, new.to(old.dtype)], 1)
        return Batch(self.row, step)

    def behind(self, columns: Mapping[str, Tensor], live: Bool[Tensor, "B n"]) -> Batch:
        """Live entries of (B, n, ...) columns right behind each row's own steps; columns not given, and what is not
        live, are 0. Scores are dropped. Live entries of a row come first, side by side."""
        if bool((live[:, 1:] & ~live[:, :-1]).any()):
            raise ValueError("live steps of a row come first, side by side; here a step follows one that was not taken")
        length = self.valid.sum(1)
        if bool((length == self.steps)[live.any(1)].all()):
            # All rows that go on are equally long: the new columns stand behind the old ones.
            widest = int(live.sum(1).max()) if len(self) else 0
            taken = live[:, :widest]
            return self.append({name: _where(taken, column[:, :widest]) for name, column in columns.items()})
        width = max(self.steps, int((length + live.sum(1)).max()))
        row, offset = live.nonzero(as_tuple=True)
        place = length[row] + offset
        step = {}
        for name, old in self.step.items():
            step[name] = old.new_zeros((len(self), width, *old.shape[2:]))
            step[name][:, : self.steps] = old
            if name in columns:
                step[name][row, place] = columns[name][live].to(old.dtype)
        return Batch(self.row, step)

    def rewound(self, steps: Int[Tensor, " B"]) -> Batch:
        """The first `steps` steps of every row (all of a row that has fewer), still running and in the state they
        led to; scores are dropped. For worlds whose whole state is in the batch."""
        keep = (torch.arange(self.steps, device=self.device) < steps[:, None]) & self.valid
        length = keep.sum(1)
        width = int(length.max()) if len(self) else 0
        shorter = (length < self.valid.sum(1)).nonzero()[:, 0]
        cut, row = {}, dict(self.row)
        for name, column in self.step.items():
            cut[name] = _where(keep[:, :width], column[:, :width])
            if name in row:
                row[name] = row[name].index_copy(0, shorter, column[shorter, length[shorter]].to(row[name].dtype))
        row["finish"] = torch.full_like(row["finish"], int(Finish.RUNNING))
        return Batch(row, cut)


def empty_batch(tasks: Tasks, own_steps: Mapping[str, Tensor] | None = None, temperature: float = 1.0) -> Batch:
    """Rows of T = 0 steps. `own_steps`: the world's or policy's step columns, as (B, 0, ...) tensors."""
    count, device = len(tasks), tasks.id.device

    def none(dtype: torch.dtype) -> Tensor:
        return torch.zeros(count, 0, dtype=dtype, device=device)

    row = {
        "task": tasks.id,
        "group": torch.arange(count, device=device),
        "source": torch.full((count,), int(Source.POLICY), device=device),
        "finish": torch.full((count,), int(Finish.RUNNING), device=device),
        "scored": torch.ones(count, dtype=torch.bool, device=device),
        "temperature": torch.full((count,), temperature, device=device),
        **tasks.row,
    }
    step = {
        "kind": none(torch.uint8),
        "train": none(torch.bool),
        "behaviour": none(torch.get_default_dtype()),
        "reward": none(torch.get_default_dtype()),
        "turn": none(torch.int64),
        "version": none(torch.int64),
        **(own_steps or {}),
    }
    return Batch(row, step)


def _where(mask: Tensor, column: Tensor) -> Tensor:
    """Column (B, T, ...) where mask (B, T), 0 elsewhere."""
    zero = torch.zeros((), dtype=column.dtype, device=column.device)
    return torch.where(mask.view(*mask.shape, *(1,) * (column.dim() - 2)), column, zero)


def _widen(column: Tensor, width: int, *, left: bool, fill: int) -> Tensor:
    """(B, W, ...) -> (B, width, ...), padded on one side."""
    missing = width - column.shape[1]
    if missing == 0:
        return column
    pad = column.new_full((len(column), missing, *column.shape[2:]), fill)
    return torch.cat([pad, column] if left else [column, pad], 1)


def concatenate(batches: Sequence[Batch]) -> Batch:
    """Rows of several batches. Steps are padded on the right, contexts on the left; a column that only some
    batches have is an error, because a made-up value would be trained on (that nothing was cut off is known)."""
    parts = [batch for batch in batches if len(batch)]
    if not parts:
        raise ValueError("concatenate needs at least one row")
    if any(KEPT in part.row for part in parts):
        parts = [Batch(*recording(part.row, part.step)) for part in parts]
    for part in parts:
        strange = (set(part.row) ^ set(parts[0].row)) | (set(part.step) ^ set(parts[0].step))
        if strange:
            raise ValueError(f"batches to concatenate need the same columns; only some have {sorted(strange)}")
    steps = max(part.steps for part in parts)
    row = {}
    for name in parts[0].row:
        columns = [part.row[name] for part in parts]
        if name.startswith(PROMPT) or name == KEPT:
            width = max(column.shape[1] for column in columns)
            columns = [_widen(column, width, left=name != KEPT, fill=NO_TOKEN) for column in columns]
        row[name] = torch.cat(columns)
    step = {
        name: torch.cat([_widen(part.step[name], steps, left=False, fill=0) for part in parts])
        for name in parts[0].step
    }
    return Batch(row, step)


@dataclass(frozen=True)
class Round:
    """What one round of the loop did. `judged` (before credit) is what pools, replay and history keep."""

    judged: Batch
    credited: Batch
    kept: Batch
    metrics: Mapping[str, float]
