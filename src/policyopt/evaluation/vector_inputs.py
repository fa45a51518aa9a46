"""The inputs of a conformance case: plain JSON lists become checked tensors.

Names of inputs (everything in float64; null is nan and may stand where a mask is 0):

    logprobs, ROLE_logprobs     (B, T)     of the steps taken; ROLE is old, reference, teacher, behaviour ...
    logits, ROLE_logits         (B, T, V)  whole distributions; `steps` (B, T) says which choice was taken
    values                      (B, T) or (B, T + 1): before each step and, if a row is truncated, after the last one
                                           (CRITIC_values where a part reads several critics)
    mask                        (B, T)     1 on trained steps; zeros before a row's last 1 are steps of others
                                           (tools), zeros after it padding. Without it every step is trained
    lengths                     (B,)       own steps of a row, from the left; a mask then only says which are trained
    rewards, advantages, returns           (B, T), or (B,): on the last own step (rewards) or on every own step
    old_values                  (B, T)     the critic's values when the rows were collected
    group, pairs                (B,) ids; [[chosen row, rejected row], ...]
    scored, truncated           (B,)       1 unless a grader failed; 1 if a limit ended the row. Default 1 and 0
    grades                      (B,)       what the world's grader says; null: it failed. Rewards then start at 0
    source, temperature; turn, version     (B,); (B, T): as in the records of `policyopt.types`
    losses                      (B, T) or (B,): unreduced losses, for averages
    cells                       {name: {...}}: state of the run, over its initial value
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import torch
from torch import Tensor


class VectorError(ValueError):
    """A case that can not be run. Says what is wrong with it and, for a name, the nearest right one."""


class MissingInputError(VectorError):
    """A part asked for an input that the case does not give."""


class NotOnVectorsError(VectorError):
    """A part needs something that no case can give: a world, random numbers, generation."""


COLUMN_INPUTS = {
    "kind": "mask",
    "train": "mask",
    "reward": "rewards",
    "advantage": "advantages",
    "return": "returns",
    "value": "old_values",
    "behaviour": "behaviour_logprobs",
    "finish": "truncated",
    "pair": "pairs",
    "rank": "pairs",
}
"""Columns of a batch that the schema calls by another name; all others keep theirs."""


def input_of(column: str) -> str:
    """The input that a column comes from."""
    return COLUMN_INPUTS.get(column, column)


OPTIONAL = ("mask", "lengths", "scored", "truncated", "cells")
INTEGER = ("steps", "group", "pairs", "lengths")
TRUTH = ("mask", "scored", "truncated")
SHARED = ("steps", "mask", "lengths", "group", "pairs", "scored", "truncated", "grades", "losses", "cells")
SHARED += (
    "source",
    "temperature",
    "turn",
    "version",
    "rewards",
    "advantages",
    "returns",
    "old_values",
    "values",
    "logprobs",
    "logits",
)
ROLES = ("old", "reference", "teacher", "behaviour")
ROW_KEYS = ("group", "lengths", "scored", "truncated", "grades", "source", "temperature")


def nearest(kind: str, name: object, known: Iterable[str]) -> str:
    """The message for an unknown name."""
    names = sorted(known)
    near = difflib.get_close_matches(str(name), names, 1, cutoff=0.5)
    hint = f"did you mean {near[0]!r}?" if near else f"there are {', '.join(names)}"
    return f"unknown {kind} {name!r}; {hint}"


def known_inputs(part: Any) -> tuple[str, ...]:
    """Every input name that a case of this part may give."""
    roles = dict.fromkeys((*ROLES, *(role for role in getattr(part, "roles", ()) if role != "policy")))
    by_role = [f"{role}_{what}" for role in roles for what in ("logprobs", "logits")]
    columns = [input_of(name) for name in getattr(part, "reads", ())]
    critics = [f"{critic}_values" for critic in getattr(part, "critics", ())]
    critics = critics if len(critics) > 1 else []
    return tuple(dict.fromkeys((*SHARED, *by_role, *columns, *critics)))


def _numbers(name: str, value: Any) -> Iterator[Any]:
    if isinstance(value, list):
        for item in value:
            yield from _numbers(name, item)
    elif value is None or isinstance(value, bool | int | float):
        yield value
    else:
        raise VectorError(f"{name} holds {value!r}; it must be a number, null or lists of them")


def _filled(value: Any) -> Any:
    return [_filled(item) for item in value] if isinstance(value, list) else float("nan") if value is None else value


def tensor(name: str, value: Any) -> Tensor:
    """Nested lists as a tensor: float64, int64 for ids, bool for masks; null becomes nan."""
    numbers = list(_numbers(name, value))
    try:
        raw = torch.tensor(_filled(value), dtype=torch.float64)
    except ValueError as error:
        raise VectorError(
            f"the rows of {name} differ in length; pad them with null and give a mask ({error})"
        ) from None
    if name in TRUTH:
        if not ((raw == 0) | (raw == 1)).all():
            raise VectorError(f"{name} must hold 0 and 1 only")
        return raw.bool()
    whole = bool(numbers) and all(isinstance(n, int) and not isinstance(n, bool) for n in numbers)
    if name in INTEGER and numbers and not whole:
        raise VectorError(f"{name} must hold whole numbers only")
    floats = (*(i for i in SHARED if i not in INTEGER), *COLUMN_INPUTS.values())
    if name in INTEGER or (whole and name not in floats and not name.endswith(("_logprobs", "_logits", "_values"))):
        return raw.long()
    return raw


class Inputs:
    """Checked inputs by name. Remembers in `used` what a part asked for."""

    def __init__(self, raw: Mapping[str, Any], part: Any):
        known = known_inputs(part)
        for name in raw:
            if name not in known:
                raise VectorError(nearest("input", name, known))
        self.cells: Mapping[str, Any] = raw.get("cells", {})
        self.given = {name: tensor(name, value) for name, value in raw.items() if name != "cells"}
        for name in self.given:
            if name in ("logprobs", "logits") or (name.endswith("values") and name != "old_values"):
                self.given[name].requires_grad_(True)
        self.used: dict[str, None] = {}
        self.rows, self.steps = self._sizes()

    def use(self, name: str, purpose: str = "") -> Tensor:
        """An input that the part can not do without."""
        self.used[name] = None
        if name not in self.given:
            raise MissingInputError(f"the part needs the input {name!r}{purpose}; the case gives {sorted(self.given)}")
        return self.given[name]

    def get(self, name: str) -> Tensor | None:
        return self.given.get(name)

    def _sizes(self) -> tuple[int, int]:
        rows: dict[str, int] = {}
        steps: dict[str, int] = {}
        for name, value in self.given.items():
            if name == "pairs":
                if value.numel() and (value.dim() != 2 or value.shape[1] != 2):
                    raise VectorError("pairs must be a list of [chosen row, rejected row]")
                continue
            if value.dim() == 0 or (name in ROW_KEYS and value.dim() != 1):
                raise VectorError(f"{name} must be a list with a value per row, it has {value.dim()} dimensions")
            rows[name] = len(value)
            if value.dim() > 1 and not name.endswith("values"):
                steps[name] = value.shape[1]
        if not rows:
            raise VectorError("the case gives no input with rows")
        width = _agreed("rows", rows)
        if "lengths" in self.given and not steps:
            return width, int(self.given["lengths"].max())
        values = [v.shape[1] for n, v in self.given.items() if n.endswith("values") and v.dim() > 1]
        return width, _agreed("steps", steps) if steps else min(values, default=1)


def _agreed(what: str, sizes: Mapping[str, int]) -> int:
    if len(set(sizes.values())) > 1:
        raise VectorError(f"inputs disagree about the number of {what}: {dict(sizes)}")
    return next(iter(sizes.values()))
