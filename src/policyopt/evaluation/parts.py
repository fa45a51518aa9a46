"""Every part of the axes, found by walking their packages: nothing is registered, a new part is simply there."""

from __future__ import annotations

import dataclasses
import functools
import inspect
import json
import math
import re
from collections.abc import Mapping, Sequence
from typing import Any

from policyopt.claim import default_of
from policyopt.compose import AXES
from policyopt.evaluation.vector_batch import VectorContext, batch_of
from policyopt.evaluation.vector_inputs import (
    OPTIONAL,
    Inputs,
    NotOnVectorsError,
    VectorError,
    input_of,
    known_inputs,
    nearest,
)
from policyopt.options import part_classes, snake
from policyopt.seen import SeenBatch

LOSS, ROWS, AVERAGE = ("seen", "batch"), ("ctx", "batch"), ("mask", "batch", "total")
"""How a part is called (the names of its arguments), where that makes its output a function of a case."""

NOT_ON_VECTORS = {
    ("ctx", "draw", "judge"): "a sampler generates rows, which no case can fix",
    ("ctx", "count"): "a task order draws tasks of a world",
    ("ctx",): "a hook moves models before a round",
    ("ctx", "done"): "a hook writes the state of a run after a round",
    ("batch",): "a coefficient, which the part that reads it has cases for",
    (): "it is not called on a batch",
}
NEEDS_MORE = "it asks models for more than log-probabilities and values, which is all that vectors carry"
MOVES_MODELS = "it moves models and returns nothing"

ALIASES = {
    "selection": {"all": "every_row", "dynamic": "informative_groups", "mask_truncated": "finished_rows"},
    "sampling": {"dapo": "dynamic_sampling"},
    "reward": {"overlong": "overlong_penalty", "soft_overlong": "overlong_penalty", "kl_reward": "reference_penalty"},
    "feedback": {"best_worst": "best_versus_worst"},
    "credit": {
        "grpo": "group_standardised",
        "dr_grpo": "group_centred",
        "rloo": "leave_one_out",
        "reinforce": "return_to_go",
        "gae": "generalised_advantage",
    },
    "objective": {
        "reinforce": "policy_gradient",
        "clipped": "clipped_surrogate",
        "ppo": "clipped_surrogate",
        "ppo_clip": "clipped_surrogate",
        "grpo": "clipped_surrogate",
        "gspo": "geometric_sequence_surrogate",
        "rloo": "product_sequence_surrogate",
        "tis": "truncated_importance",
        "dpo": "pair_logistic",
        "nll": "negative_log_likelihood",
        "sft": "negative_log_likelihood",
        "reverse_kl": "full_reverse_kl",
        "gkd": "generalised_jensen_shannon",
        "jsd": "generalised_jensen_shannon",
        "opd": "sampled_reverse_kl",
        "value": "squared_value_error",
    },
    "constraint": {"kl": "kl_to_reference", "k1": "k1_loss", "k2": "k2_loss", "k3": "k3_loss", "full_kl": "exact_kl"},
    "update": {
        "dapo": "token_mean",
        "grpo": "sequence_mean",
        "dr_grpo": "sequence_sum",
        "mean": "row_mean",
        "adamw": "adam_w",
    },
}
"""Common names of parts. They only say what is meant in a file of cases; messages use the part's own name."""


@dataclasses.dataclass(frozen=True)
class Option:
    """A field of a part. default: as JSON says it (a part as text); it means nothing if the option is required."""

    name: str
    type: str
    default: Any
    required: bool

    def __str__(self) -> str:
        return f"{self.name}: {self.type}" + ("" if self.required else f" = {self.default!r}")


@dataclasses.dataclass(frozen=True)
class PartInfo:
    """A part as a reader meets it. inputs: what a conformance case must give it; optional_inputs: what it reads if
    given. refused: why it can not run on a case; empty if it can."""

    axis: str
    name: str
    aliases: tuple[str, ...]
    options: tuple[Option, ...]
    inputs: tuple[str, ...]
    optional_inputs: tuple[str, ...]
    about: str
    formula: str
    refused: str


def signature(part: type) -> tuple[str, ...]:
    """Names of the arguments that a part is called with."""
    call = inspect.getattr_static(part, "__call__", None)
    return tuple(inspect.signature(call).parameters)[1:] if inspect.isfunction(call) else ()


def find(axis: str, name: str) -> type:
    """The class of a part, by its own name or a common one."""
    if axis not in AXES:
        raise VectorError(nearest("axis", axis, AXES))
    known = part_classes(axis)
    target = ALIASES.get(axis, {}).get(name, name)
    if target not in known:
        raise VectorError(nearest(f"part of {axis}", name, (*known, *ALIASES.get(axis, {}))))
    return known[target]


def options(part: type) -> tuple[Option, ...]:
    shown = []
    for field in dataclasses.fields(part):
        default = default_of(field)
        required = default is dataclasses.MISSING
        kind = field.type if isinstance(field.type, str) else field.type.__name__
        # A function of the batch can not be written in JSON; the number can.
        kind = "float" if kind == "PerStep" else kind
        shown.append(Option(field.name, kind, None if required else _plain(default), required))
    return tuple(shown)


def _plain(value: Any) -> Any:
    """As JSON says it; a part as text."""
    if isinstance(value, (tuple, list)):
        return [_plain(item) for item in value]
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    return value if isinstance(value, (int, float, str, type(None))) else repr(value)


def make(part: type, given: dict[str, Any]) -> Any:
    """A part with options from JSON: lists become tuples, "inf" a number where the option is one."""
    known = {option.name: option for option in options(part)}
    values = {}
    for name, value in given.items():
        if name not in known:
            raise VectorError(nearest(f"option of {snake(part.__name__)}", name, known))
        if value in ("inf", "-inf") and "float" in known[name].type:
            value = float(value)
        values[name] = tuple(value) if isinstance(value, list) else value
    missing = [o.name for o in known.values() if o.required and o.name not in values]
    if missing:
        raise VectorError(f"{snake(part.__name__)} needs the options {missing}")
    return part(**values)


def refusal(part: type) -> str:
    """Why a part can not run on a case; empty if it can."""
    called = signature(part)
    if getattr(part, "needs", ""):
        return NEEDS_MORE
    if called == ROWS and inspect.signature(part.__call__).return_annotation in ("None", None):
        return MOVES_MODELS
    if called in (LOSS, ROWS, AVERAGE):
        return ""
    return NOT_ON_VECTORS.get(called, f"it is called with {called}, which no case can give")


def probe(part: Any) -> Inputs:
    """Inputs of every kind for two groups of two rows. A column that the part reads has a value per step, unless the
    part asks it of rows."""
    of_rows: set[str] = set()
    while True:
        inputs = _of_every_kind(part, of_rows)
        asked = _column_of_rows(part, inputs)
        if asked is None or asked in of_rows:
            return _of_every_kind(part, of_rows)
        of_rows.add(asked)


def _column_of_rows(part: Any, inputs: Inputs) -> str | None:
    """A column that the part looks for among those of rows and does not find."""
    reads = getattr(part, "reads", ())
    try:
        _run(part, inputs)
    except KeyError as error:
        return error.args[0] if error.args[0] in reads else None
    except VectorError:
        return None  # what it can not run on is found again, and told, by whoever runs it
    return None


def _run(part: Any, inputs: Inputs) -> None:
    ctx = VectorContext(inputs)
    batch = batch_of(inputs, getattr(part, "reads", ()))
    part(SeenBatch(ctx, batch) if signature(type(part)) == LOSS else ctx, batch)


def _of_every_kind(part: Any, of_rows: set[str]) -> Inputs:
    grid = [[-0.5, -0.7, -0.2], [-0.4, -0.9, -1.1], [-0.3, -0.6, -0.8], [-1.2, -0.1, -0.5]]
    rows, special = [1.0, 0.0, 0.5, 2.0], {"group": [0, 0, 1, 1], "pairs": [[0, 1], [3, 2]], "steps": [[0, 1, 0]] * 4}
    special |= {"mask": [[1, 1, 1], [1, 1, 0], [1, 0, 0], [1, 1, 1]], "grades": rows, "rewards": rows}
    special |= {"scored": [1] * 4, "truncated": [0, 0, 1, 0]}
    raw: dict[str, Any] = {}
    for name in known_inputs(part):
        if name.endswith("logits"):
            raw[name] = [[[x, -x] for x in row] for row in grid]
        elif name not in ("lengths", "cells", "losses"):
            raw[name] = special.get(name, grid)
    raw |= dict.fromkeys(("source", "temperature", *of_rows), rows)
    return Inputs(raw, part)


def _reads(part: type) -> tuple[tuple[str, ...], str]:
    """Input names that a part with default options reads, found by running it, or why it can not run."""
    if signature(part) == AVERAGE:
        return ("mask",), ""
    if any(option.required for option in options(part)):
        return (), ""
    made: Any = part()
    inputs = probe(made)
    try:
        _run(made, inputs)
    except NotOnVectorsError as error:
        return (), str(error)
    declared = [input_of(name) for name in getattr(made, "reads", ())]
    return tuple(dict.fromkeys((*inputs.used, *declared))), ""


def first_sentence(text: str) -> str:
    """The first sentence of a docstring, on one line; "Dr. GRPO" and "eq. 8" end none."""
    paragraph = " ".join(text.split("\n\n")[0].split())
    return re.split(r"(?<!\bDr\.)(?<=[.])\s(?=[A-Z`])", paragraph)[0]


def _formula(part: type) -> str:
    """The equation as the class says it; one that depends on options, with their defaults."""
    found = getattr(part, "formula", "")
    if not isinstance(found, property):
        return found
    return "" if any(option.required for option in options(part)) else part().formula


def describe(axis: str, part: type) -> PartInfo:
    name = snake(part.__name__)
    refused = refusal(part)
    inputs, needs = ((), refused) if refused else _reads(part)
    optional = (*OPTIONAL, "rewards") if "grades" in inputs else OPTIONAL
    return PartInfo(
        axis,
        name,
        tuple(sorted(alias for alias, target in ALIASES.get(axis, {}).items() if target == name)),
        options(part),
        tuple(i for i in inputs if i not in optional),
        tuple(i for i in inputs if i in optional),
        first_sentence(inspect.getdoc(part) or ""),
        _formula(part),
        needs,
    )


@functools.cache
def _all() -> tuple[PartInfo, ...]:
    return tuple(describe(axis, part) for axis in AXES for part in part_classes(axis).values())


def list_parts() -> list[PartInfo]:
    """Every part of every axis, in the order of the axes."""
    return list(_all())


def to_json(items: Sequence[Any]) -> str:
    """Parts or results as JSON. An infinite difference becomes null, which JSON can say."""

    def finite(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        return {k: None if isinstance(v, float) and not math.isfinite(v) else v for k, v in pairs}

    return json.dumps([dataclasses.asdict(item, dict_factory=finite) for item in items], indent=2, allow_nan=False)
