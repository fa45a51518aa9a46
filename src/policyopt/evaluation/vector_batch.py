"""What a part is given when it runs on a conformance case: a batch and a context made of the case's inputs.

Nothing is made up: a column or score that the case does not give is an error at the moment a part reads it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor

from policyopt.compose import Cell, Role
from policyopt.evaluation.vector_inputs import OPTIONAL, Inputs, NotOnVectorsError, VectorError, input_of
from policyopt.ops.sequences import on_last, spread
from policyopt.run import Meter
from policyopt.types import Batch, Categorical, Finish, Scores, Source, StepKind

PLAIN_COLUMNS = ("reward", "behaviour", "advantage", "return", "value", "turn", "version")
"""Step columns that a case gives as they are."""


class Watched(dict[str, Tensor]):
    """Columns that report every direct read; copying them is no read."""

    notice: Callable[[str], None] | None = None

    def __getitem__(self, name: str) -> Tensor:
        if self.notice is not None:
            self.notice(name)
        return super().__getitem__(name)


class Said(Scores):
    """What a role says, as far as the case tells; reading what it does not tell is an error."""

    def __init__(self, inputs: Inputs, role: str):
        prefix = "" if role == "policy" else f"{role}_"
        object.__setattr__(self, "_inputs", inputs)
        object.__setattr__(self, "_names", (f"{prefix}logprobs", f"{prefix}logits"))

    _inputs: Inputs
    _names: tuple[str, str]
    exact = True

    @property
    def logp(self) -> Tensor:  # pyright: ignore[reportIncompatibleVariableOverride]
        name, logits = self._names
        if name not in self._inputs.given and logits in self._inputs.given:
            steps = self._inputs.use("steps", f" to read log-probabilities from {logits!r}")
            return self.dist.log_prob(steps)
        return self._inputs.use(name)

    @property
    def dist(self) -> Categorical:  # pyright: ignore[reportIncompatibleVariableOverride]
        logits = self._inputs.use(self._names[1], " (the whole distribution)")
        # Unknown logits stay unknown, but the softmax of a masked nan must not carry it into the gradient.
        known = ~logits.isnan()
        normalised = Categorical.of(torch.where(known, logits, 0.0)).logp
        return Categorical(torch.where(known, normalised, float("nan")))

    @property
    def entropy(self) -> Tensor:  # pyright: ignore[reportIncompatibleVariableOverride]
        return self.dist.entropy()

    def detach(self) -> Said:
        return self  # a role without gradient is read under no_grad, and only one role has any

    def __getitem__(self, rows: Any) -> Scores:
        raise NotOnVectorsError("it slices scores")


class _Model:
    """Stands for a model: its scores and values are those of the case."""

    def __init__(self, inputs: Inputs, name: str):
        self._inputs, self._name = inputs, name

    def score(self, batch: Batch, context: str | None, *, full: bool) -> Scores:
        if context is not None:
            raise NotOnVectorsError(f"it reads the named context {context!r}")
        return Said(self._inputs, self._name)

    def value(self, batch: Batch) -> Tensor:
        own = f"{self._name}_values"
        values = self._inputs.use(own if own in self._inputs.given else "values")
        if values.shape[1] == batch.steps + 1:
            return values
        return torch.cat([values, values.new_full((len(batch), 1), float("nan"))], 1)

    def match(self, batch: Batch) -> Any:
        raise NotOnVectorsError("it noises finished samples again")


class _Roles(dict[str, Role]):
    """Every role is declared; only the policy's has a gradient."""

    def __contains__(self, role: object) -> bool:
        return True

    def __missing__(self, role: str) -> Role:
        return Role(role, grad=role == "policy")


class _Models(dict[str, Any]):
    def __init__(self, inputs: Inputs):
        super().__init__()
        self._inputs = inputs

    def __missing__(self, name: str) -> _Model:
        return _Model(self._inputs, name)


class _World:
    """Knows the grades of a case and nothing else."""

    def __init__(self, inputs: Inputs):
        self._inputs = inputs

    def grade(self, batch: Batch) -> Tensor:
        return self._inputs.use("grades")

    def __getattr__(self, name: str) -> Any:
        raise NotOnVectorsError(f"it needs a world that can {name!r}")


class VectorContext:
    """Implements what `compose.Context` offers without a run: scores, grades, cells and one rank."""

    step = stage_step = drawn = updates = seed = 0
    stage_total = 1
    trainers = None

    def __init__(self, inputs: Inputs):
        self._inputs = inputs
        self.models = _Models(inputs)
        self.stage: Any = SimpleNamespace(roles=_Roles())
        self.meter = Meter()
        self.world = _World(inputs)

    def rng(self, purpose: str) -> torch.Generator:
        raise NotOnVectorsError(f"it draws random numbers ({purpose})")

    def extend(self, batch: Batch, model: str = "policy", temperature: float = 1.0, steps: int | None = None) -> Batch:
        raise NotOnVectorsError("it generates steps")

    def stream(self, state: Any, horizon: int, count: int, exploration: float = 0.0) -> Batch:
        raise NotOnVectorsError("it generates steps")

    def total(self, x: Tensor) -> Tensor:
        return x

    def __getitem__(self, cell: Cell) -> Any:
        self._inputs.used["cells"] = None
        value, given = cell.initial(), self._inputs.cells.get(cell.name)
        return value if given is None else {**value, **given} if isinstance(value, dict) else given

    def __setitem__(self, cell: Cell, value: Any) -> None:
        raise NotOnVectorsError(f"it writes the cell {cell.name!r}")


def batch_of(inputs: Inputs, reads: Iterable[str]) -> Batch:
    """The rows of a case. A column that the case does not give raises `MissingInputError` when a part reads it."""
    rows, steps = inputs.rows, inputs.steps
    row, step = _structure(inputs)
    batch = Batch(row, step)
    unknown = torch.full((rows, steps), float("nan"), dtype=torch.float64)
    for name in dict.fromkeys((*PLAIN_COLUMNS, *reads)):
        given = inputs.get(input_of(name))
        if name in row or (name in step and name not in PLAIN_COLUMNS):
            continue
        if given is None:
            step[name] = torch.zeros_like(unknown) if name == "reward" else unknown
        elif given.dim() == 1 and name in ("reward", "advantage", "return"):
            step[name] = (on_last if name == "reward" else spread)(batch, given)
        else:
            (row if given.dim() == 1 else step)[name] = given
    watched_row, watched_step = Watched(row), Watched(step)
    watched = Batch(watched_row, watched_step)
    for columns in (watched_row, watched_step):
        columns.notice = lambda name: _notice(inputs, name)
    return watched


def _notice(inputs: Inputs, column: str) -> None:
    """A part reads a column: the case must give it, or it must have a default."""
    name = input_of(column)
    graded = name == "rewards" and "grades" in inputs.given
    if name in OPTIONAL or graded:
        inputs.used[name] = None
    elif name != "task" and not name.startswith("_"):  # both also serve the batch itself
        inputs.use(name)


def _structure(inputs: Inputs) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """Row and step columns that say who took which step: kind, train, group, pairs, finish, scored."""
    rows, steps = inputs.rows, inputs.steps
    every = torch.ones(rows, dtype=torch.bool)
    scored, truncated, mask = inputs.get("scored"), inputs.get("truncated"), inputs.get("mask")
    scored = every if scored is None else scored
    own, valid = _own_steps(inputs)
    if mask is not None and mask.dim() > 1 and (mask & ~own).any():
        raise VectorError("the mask holds steps beyond the lengths")
    train = (mask if mask is not None and mask.dim() > 1 else own) & scored[:, None]
    group, finish = inputs.get("group"), torch.full((rows,), int(Finish.STOPPED))
    row = {
        "task": torch.arange(rows) if group is None else group,
        "group": torch.arange(rows) if group is None else group,
        "source": torch.full((rows,), int(Source.POLICY)),
        "finish": finish if truncated is None else finish.masked_fill(truncated, int(Finish.TRUNCATED)),
        "scored": scored,
        "temperature": torch.ones(rows, dtype=torch.float64),
        "_row": torch.arange(rows),
        **_pair_columns(inputs),
    }
    kind = torch.full((rows, steps), int(StepKind.PAD)).masked_fill(valid, int(StepKind.TOOL))
    row |= {name: given for name in ("source", "temperature") if (given := inputs.get(name)) is not None}
    return row, {"kind": kind.masked_fill(own, int(StepKind.OWN)), "train": train}


def _own_steps(inputs: Inputs) -> tuple[Tensor, Tensor]:
    """(B, T) the policy's own steps, and those that are not padding."""
    lengths, mask = inputs.get("lengths"), inputs.get("mask")
    if lengths is not None:
        own = torch.arange(inputs.steps) < lengths[:, None]
        return own, own
    if mask is not None and mask.dim() > 1:
        return mask, mask.flip(1).long().cumsum(1).flip(1) > 0
    own = torch.ones(inputs.rows, inputs.steps, dtype=torch.bool)
    return own, own


def _pair_columns(inputs: Inputs) -> dict[str, Tensor]:
    pair = torch.full((inputs.rows,), -1)
    rank = pair.clone()
    pairs = inputs.get("pairs")
    for number, sides in enumerate([] if pairs is None else pairs.tolist()):
        for side, place in enumerate(sides):
            if not 0 <= place < inputs.rows or rank[place] >= 0:
                raise VectorError(f"pair {sides} names row {place}, which is not there or is in two pairs")
            pair[place], rank[place] = number, side
    return {"pair": pair, "rank": rank}
