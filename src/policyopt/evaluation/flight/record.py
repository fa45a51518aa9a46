"""What a flight check collects (`Flight`), what a check says of it (`Finding`), and the list of checks.

A check is a pure function of a `Leg` (one stage of a recipe) or of the whole `Flight`. To add one, write the function
with `@stage_check(name)` or `@recipe_check(name)`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from functools import partial
from typing import Any, TypeVar

from jaxtyping import Bool, Float
from torch import Tensor

from policyopt.types import Batch


class Verdict(StrEnum):
    OK = "ok"
    WARN = "warn"
    FAULT = "fault"
    SKIPPED = "not applicable"


@dataclass(frozen=True)
class Said:
    """What one check says: the measured value in words and as numbers, and what to do about it."""

    verdict: Verdict
    value: str
    remedy: str = ""
    measured: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class Finding:
    """What a check says of a stage (None: of the whole recipe)."""

    check: str
    stage: int | None
    said: Said


def fine(value: str, **measured: float) -> Said:
    return Said(Verdict.OK, value, "", measured)


def skipped(reason: str) -> Said:
    return Said(Verdict.SKIPPED, reason)


def graded(
    value: str,
    remedy: str,
    *,
    fault: bool,
    warn: bool = False,
    measured: Mapping[str, float] | None = None,
    **more: float,
) -> Said:
    """A fault, a warning or neither; the remedy is said only where one is needed."""
    verdict = Verdict.FAULT if fault else Verdict.WARN if warn else Verdict.OK
    return Said(verdict, value, "" if verdict is Verdict.OK else remedy, {**(measured or {}), **more})


# -- what is collected -------------------------------------------------------------------------------------------------
@dataclass(frozen=True)
class Probe:
    """Rows that the engine sampled from the policy, beside what plain scoring passes say of them.

    own: steps of the policy. reported: the engine's log-probabilities. plain, again: of two plain passes under the
    temperature that the rows declare. uniform: for steps chosen among finitely many, how far up in the distribution's
    mass each choice lies (choices in the order of their probability); uniform on 0..1 if it was sampled from there.
    repeated: the same keys gave the same rows and the same rewards. tolerance: of a mean difference between passes, for
    the policy's precision.
    """

    own: Bool[Tensor, "B T"]
    reported: Float[Tensor, "B T"]
    plain: Float[Tensor, "B T"]
    again: Float[Tensor, "B T"]
    entropy: Float[Tensor, "B T"] | None
    uniform: Float[Tensor, " N"] | None
    temperature: float
    repeated: bool
    tolerance: float


@dataclass(frozen=True)
class Grading:
    """The same rows graded twice. first, second: (B,) or (B, T), nan where there is no score. seconds: a row's own
    grading time, or the mean where rows are graded at once. wall: seconds of all rows together. deadline: seconds that
    a row may take, if there is a limit."""

    first: Tensor
    second: Tensor
    seconds: tuple[float, ...]
    wall: float
    faults: Mapping[str, int] = field(default_factory=dict)
    deadline: float | None = None


@dataclass(frozen=True)
class Start:
    """The first update of a round, before it: log-probabilities (B, T) with gradient, and those in the denominator
    (None: the method has no ratio). reference: by role, those of the models that the policy is held to; copies: the
    roles whose model is a copy of the policy as it is now."""

    new: Float[Tensor, "B T"]
    counted: Bool[Tensor, "B T"]
    old: Float[Tensor, "B T"] | None
    tolerance: float
    reference: Mapping[str, Tensor] = field(default_factory=dict)
    copies: tuple[str, ...] = ()


@dataclass(frozen=True)
class Gradient:
    """The gradient of one model in the first update of a round: its norm, and what its `pieces` equal parts of the rows
    say of it, each scaled to the whole: their norms, and their scalar products with the whole (none for models too
    large to hold several gradients)."""

    model: str
    rows: int
    norm: float
    pieces: tuple[float, ...]
    products: tuple[float, ...]
    clip_norm: float | None


@dataclass(frozen=True)
class Cost:
    """Of a stage. Seconds of one round by phase; own steps of one round; rows of one round. update: None if it was not
    timed."""

    rounds: int
    gather: float
    update: float | None
    steps: float
    rows: float

    @property
    def seconds(self) -> float:
        return self.rounds * (self.gather + (self.update or 0.0))


@dataclass(frozen=True)
class Leg:
    """One stage, as it begins.

    later: an earlier stage trains its policy first, so what this policy does now says nothing of what it will do.
    obstacle: why no batch was gathered ("" if some were). judged: whole batches, with rewards; answers: their texts.
    dropping: modules whose dropout is on. set_: options that the recipe sets; idle: those of them that change nothing.
    """

    index: int
    method: str
    kind: str
    later: bool = False
    samples: bool = True  # the policy writes the rows; else they are recorded
    rewarded: bool = True
    obstacle: str = ""
    probe: Probe | None = None
    grading: Grading | None = None
    judged: tuple[Batch, ...] = ()
    answers: tuple[str, ...] = ()
    starts: tuple[Start, ...] = ()
    gradients: tuple[Gradient, ...] = ()
    dropping: tuple[str, ...] = ()
    tried: tuple[str, ...] = ()
    idle: tuple[str, ...] = ()
    cost: Cost | None = None


@dataclass(frozen=True)
class Ends:
    """How answers end. world: the token that ends one here; tokenizer: its end token; unlearnable: the model's
    embedding of it gets no gradient (a padding index); vocabulary: the model's size; turn: the token that the chat
    template ends a turn with, if any."""

    world: int
    tokenizer: int | None
    pad: int | None
    unlearnable: bool
    vocabulary: int
    turn: int | None = None


@dataclass(frozen=True)
class Drift:
    """Conversations of several turns through the chat template: by the kind of reply, whether the tokens of a turn stay
    what they were once more turns follow. read_again: the share of sampled answers that give other tokens when their
    text is tokenised again."""

    kept: Mapping[str, bool]
    read_again: float


@dataclass(frozen=True)
class Forecast:
    """Of the whole recipe. evaluation: seconds of all evaluations; memory, available: bytes."""

    evaluation: float
    memory: int | None
    available: int | None


@dataclass(frozen=True)
class Flight:
    """A recipe in the air: everything the checks look at. training, held_out: what tells tasks apart, as text."""

    recipe: str
    kind: str
    legs: tuple[Leg, ...]
    training: tuple[str, ...] = ()
    held_out: tuple[str, ...] = ()
    ends: Ends | None = None
    drift: Drift | None = None
    forecast: Forecast | None = None
    seconds: float = 0.0


# -- the list of checks ------------------------------------------------------------------------------------------------
@dataclass(frozen=True)
class Check:
    name: str
    asks: Callable[..., Said]
    of_stage: bool


CHECKS: list[Check] = []

StageCheck = Callable[[Leg, Flight], Said]
RecipeCheck = Callable[[Flight], Said]
Asks = TypeVar("Asks", StageCheck, RecipeCheck)


def _register(name: str, asks: Asks, *, of_stage: bool) -> Asks:
    CHECKS.append(Check(name, asks, of_stage))
    return asks


def stage_check(name: str) -> Callable[[StageCheck], StageCheck]:
    """Register a check of every stage."""
    return partial(_register, name, of_stage=True)


def recipe_check(name: str) -> Callable[[RecipeCheck], RecipeCheck]:
    """Register a check of the recipe as a whole."""
    return partial(_register, name, of_stage=False)


def findings(flight: Flight) -> list[Finding]:
    """What every check says: stage by stage, then of the recipe as a whole."""
    found: list[Finding] = []
    for leg in flight.legs:
        found += [Finding(check.name, leg.index, check.asks(leg, flight)) for check in CHECKS if check.of_stage]
    found += [Finding(check.name, None, check.asks(flight)) for check in CHECKS if not check.of_stage]
    return found


def as_json(flight: Flight) -> dict[str, Any]:
    """For machines."""
    found = findings(flight)
    return {
        "recipe": flight.recipe,
        "kind": flight.kind,
        "seconds": round(flight.seconds, 2),
        "stages": [{"stage": leg.index, "method": leg.method, "later": leg.later} for leg in flight.legs],
        "faults": sum(one.said.verdict is Verdict.FAULT for one in found),
        "findings": [
            {
                "check": one.check,
                "stage": one.stage,
                "verdict": str(one.said.verdict),
                "value": one.said.value,
                "remedy": one.said.remedy,
                "measured": dict(one.said.measured),
            }
            for one in found
        ],
    }
