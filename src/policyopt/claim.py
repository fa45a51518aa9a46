"""What a method claims, as data: an experiment, its arms and the criterion, fixed before anything is run.

`policyopt verify KEY` reads the record from the method's own module (attribute `claim`) and computes the verdict.
Nothing here runs anything.
"""

from __future__ import annotations

import dataclasses
import math
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

MINIMUM_SEEDS = 5


class ClaimError(ValueError):
    """A claim that can not be tested as it is written."""


@dataclass(frozen=True)
class Arm:
    """One side of the comparison: a method (key or key:variant; "" is the claim's own) with overrides.

    overrides: options by path (see `policyopt.options`), or whole fields of `Method` ({"after": ()}).
    given: keyword arguments of the experiment that only this arm gets (who writes the rows, for instance).
    """

    method: str
    overrides: Mapping[str, Any] = field(default_factory=dict)
    given: Mapping[str, Any] = field(default_factory=dict)
    label: str = ""

    @property
    def name(self) -> str:
        return self.label or self.method or "the method"


@dataclass(frozen=True)
class Tuning:
    """The same search for both arms: every value of one option on `seeds` runs of their own, never those of the
    verdict. An arm keeps the value with the highest mean score (`Outcome.score`), the first among equals."""

    option: str
    candidates: tuple[float, ...]
    seeds: int = 2

    def __post_init__(self) -> None:
        if len(self.candidates) < 2 or self.seeds < 1:
            raise ClaimError(f"tuning needs two or more candidates and a seed, got {self.candidates}, {self.seeds}")


@dataclass(frozen=True)
class Claim:
    """statement: one sentence that can be false. source: where it is claimed (section, equation, specification).

    experiment: name of a function in `policyopt.evaluation.experiments`, or the function itself.
    observable: what `Outcome.value` is, with its unit. smallest_effect: the least difference treated - baseline, in
    that unit and in the claimed direction, that counts. threshold: a level that the treated arm must also reach.
    rounds: of the loop, for both arms. budget: "rows" (both arms use the same number of rows on every seed, which is
    checked) or "cost" (the observable is itself what reaching a fixed level costs, so budgets differ).
    scope: what the experiment does not cover, for the card.
    """

    statement: str
    source: str
    experiment: str | Callable[..., Any]
    observable: str
    higher_is_better: bool
    smallest_effect: float
    treated: Arm
    baseline: Arm
    rounds: int
    tuning: Tuning | None = None
    seeds: int = MINIMUM_SEEDS
    threshold: float | None = None
    scope: str = ""
    budget: str = "rows"

    def __post_init__(self) -> None:
        if self.seeds < MINIMUM_SEEDS:
            raise ClaimError(f"a claim needs at least {MINIMUM_SEEDS} seeds, got {self.seeds}")
        if not 0 < self.smallest_effect < math.inf:
            raise ClaimError(f"smallest_effect must be finite and above 0, got {self.smallest_effect}")
        if self.budget not in ("rows", "cost"):
            raise ClaimError(f"budget is 'rows' or 'cost', not {self.budget!r}")
        if self.rounds < 1:
            raise ClaimError(f"a claim needs at least 1 round, got {self.rounds}")
        if self.treated.name == self.baseline.name:
            raise ClaimError(f"the arms need different names, both are {self.treated.name!r}; give Arm(label=...)")

    @property
    def experiment_name(self) -> str:
        return self.experiment if isinstance(self.experiment, str) else self.experiment.__name__

    def criterion(self) -> dict[str, Any]:
        """Everything the verdict depends on, as JSON data: kept with the result, so that a result of another
        criterion is recognised."""

        def arm(side: Arm) -> dict[str, Any]:
            return {
                "label": side.name,
                "method": side.method,
                "overrides": {key: _plain(value) for key, value in side.overrides.items()},
                "given": {key: _plain(value) for key, value in side.given.items()},
            }

        tuning = self.tuning
        return {
            "statement": self.statement,
            "source": self.source,
            "experiment": self.experiment_name,
            "observable": self.observable,
            "direction": "higher" if self.higher_is_better else "lower",
            "smallest_effect": self.smallest_effect,
            "threshold": self.threshold,
            "treated": arm(self.treated),
            "baseline": arm(self.baseline),
            "rounds": self.rounds,
            "seeds": self.seeds,
            "tuning": tuning and {"option": tuning.option, "candidates": [*tuning.candidates], "seeds": tuning.seeds},
            "scope": self.scope,
            **({} if self.budget == "rows" else {"budget": self.budget}),
        }


@dataclass(frozen=True)
class Study:
    """A comparison of several arms as data (`policyopt study KEY`): what a paper measured, at laptop scale.

    question: what the arms answer. arms: those whose labels begin alike up to a colon ("far peak: ...") are compared
    with each other. experiment, observable, smallest_effect, rounds, seeds: as in a `Claim`; smaller differences than
    that one are told, but as too small to count.
    """

    question: str
    experiment: str | Callable[..., Any]
    observable: str
    higher_is_better: bool
    smallest_effect: float
    arms: tuple[Arm, ...]
    rounds: int
    seeds: int = MINIMUM_SEEDS

    def __post_init__(self) -> None:
        names = [arm.name for arm in self.arms]
        if len(names) < 2 or len(set(names)) < len(names):
            raise ClaimError(f"a study needs two arms or more with different names, got {names}")
        if self.seeds < 2 or self.rounds < 1 or not 0 < self.smallest_effect < math.inf:
            raise ClaimError(
                f"a study needs 2 seeds, 1 round and an effect above 0, got {self.seeds}, {self.rounds} and "
                f"{self.smallest_effect}"
            )

    def groups(self) -> dict[str, tuple[Arm, ...]]:
        """Arms that are compared, by what their labels begin with ("" without a colon)."""
        found: dict[str, tuple[Arm, ...]] = {}
        for arm in self.arms:
            begin, colon, _ = arm.name.partition(":")
            name = begin if colon else ""
            found[name] = (*found.get(name, ()), arm)
        return found


def _plain(value: Any) -> Any:
    """JSON data; a part is its name with the options that differ from their defaults, so that an option which a part
    gains later changes no criterion. Without the addresses of functions, which no two processes share."""
    if isinstance(value, (str, int, float, bool, type(None))):
        return value
    return re.sub(r" at 0x[0-9a-f]+", "", _said(value))


def _said(value: Any) -> str:
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        changed = [
            f"{option.name}={_said(getattr(value, option.name))}"
            for option in dataclasses.fields(value)
            if option.repr and getattr(value, option.name) != default_of(option)
        ]
        return f"{type(value).__qualname__}({', '.join(changed)})"
    if isinstance(value, dict):
        return "{" + ", ".join(f"{key!r}: {_said(item)}" for key, item in value.items()) + "}"
    if isinstance(value, (tuple, list)):
        inner = ", ".join(map(_said, value))
        return f"({inner}{',' if len(value) == 1 else ''})" if isinstance(value, tuple) else f"[{inner}]"
    return repr(value)


def default_of(option: dataclasses.Field[Any]) -> Any:
    """An option's default; `dataclasses.MISSING` if it has none."""
    if option.default_factory is not dataclasses.MISSING:
        return option.default_factory()
    return option.default
