"""What is compared, as data: arms, seeds, budget, tuning; and the recipe of every run that it takes."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import Field, ValidationError, model_validator

from policyopt.recipe.base import NAME, BudgetSection, Recipe, RecipeError, Section, problems
from policyopt.recipe.schema import make_recipe

TUNING_SEED = 1_000_000
"""Tuning runs use seeds from here on, so that no seed of the comparison was ever looked at."""

MOST_ROUNDS = 10**6  # of a run; the budget ends it long before


class ArmSection(Section):
    """One side of a comparison. options: beside those of the recipe's last stage. without: options of that stage which
    this arm's method does not have, or must not be given."""

    method: str = ""  # "": the arm's name
    options: dict[str, Any] = Field(default={})
    without: tuple[str, ...] = ()


class TuneSection(Section):
    """The same search for every arm: all values of one option, on seeds of their own; the best mean is kept."""

    option: str
    values: tuple[float | int | str, ...] = Field(min_length=2)
    seeds: int = Field(default=2, ge=1)


class Plan(Section):
    """A comparison. recipe: a resolved one; its last stage is what the arms exchange, earlier stages are trained once
    a seed and shared. measure: of the evaluation, "" for the first of `MEASURES` that the recipe has."""

    name: str = Field(pattern=NAME)
    recipe: dict[str, Any]
    arms: dict[str, ArmSection]
    seeds: int = Field(default=5, ge=2)
    budget: BudgetSection
    measure: str = ""
    lower_is_better: bool = False
    baseline: str | None = None
    tune: TuneSection | None = None

    @model_validator(mode="after")
    def _whole(self) -> Plan:
        if len(self.arms) < 2:
            raise ValueError(f"a comparison needs two arms or more, got {list(self.arms)}")
        if self.baseline is not None and self.baseline not in self.arms:
            raise ValueError(f"baseline {self.baseline!r} is not among the arms {list(self.arms)}")
        if self.recipe.get("evaluation") is None:
            raise ValueError("a comparison needs held-out tasks; give the recipe an evaluation")
        return self

    def to_json(self) -> str:
        return json.dumps(self.model_dump(mode="json"), indent=1, allow_nan=False) + "\n"

    @classmethod
    def read(cls, path: Path) -> Plan:
        try:
            return cls.model_validate_json(path.read_text(encoding="utf-8"))
        except ValidationError as error:
            raise RecipeError(f"{path}: {problems(error, cls)}") from error
        except (OSError, UnicodeDecodeError) as error:
            raise RecipeError(f"{path} can not be read: {error}") from error

    def difference(self, other: Plan) -> list[str]:
        """In what two plans differ, beside arms and seeds that only one of them has: runs are independent of each
        other, so a comparison can be given more of them."""
        one, two = self.model_dump(), other.model_dump()
        differ = [key for key in one if key not in ("arms", "seeds", "name", "baseline") and one[key] != two[key]]
        shared = self.arms.keys() & other.arms.keys()
        return differ + [f"arms.{arm}" for arm in sorted(shared) if self.arms[arm] != other.arms[arm]]

    # -- recipes of runs -----------------------------------------------------------------------------------
    def of_arm(self, arm: str, seed: int, value: Any = None) -> Recipe:
        """The recipe of one run, with the tuned option set to a value."""
        data, section = _copy(self.recipe), self.arms[arm]
        last = data["stages"][-1]
        options = {key: given for key, given in last["options"].items() if key not in section.without}
        options |= section.options
        if value is not None and self.tune is not None:
            options[self.tune.option] = value
        last |= {"method": section.method or arm, "steps": MOST_ROUNDS, "options": options}
        # Tuning looks at the end alone.
        evaluations = 1 if seed >= TUNING_SEED else self.budget.evaluations
        last["budget"] = self.budget.model_copy(update={"evaluations": evaluations}).model_dump(mode="json")
        try:
            return make_recipe({**data, "seed": seed})
        except RecipeError as error:
            raise RecipeError(f"arm {arm}: {error}") from error

    def of_base(self, seed: int) -> Recipe | None:
        """The recipe of what all arms share before they part; None: nothing."""
        data = _copy(self.recipe)
        data["stages"] = data["stages"][:-1]
        if not any(stage["steps"] for stage in data["stages"]):
            return None
        return make_recipe({**data, "seed": seed})


def _copy(data: Mapping[str, Any]) -> dict[str, Any]:
    return json.loads(json.dumps(data))


@dataclass(frozen=True)
class Job:
    """A run: its recipe, its folder, and the folder of the run it goes on from."""

    label: str
    arm: str  # "": shared by all
    seed: int
    recipe: Recipe
    folder: Path
    base: Path | None = None


def bases(plan: Plan, folder: Path) -> list[Job]:
    """What the arms share, for every seed."""
    tuned = range(TUNING_SEED, TUNING_SEED + plan.tune.seeds) if plan.tune else ()
    recipes = [(seed, plan.of_base(seed)) for seed in (*tuned, *range(plan.seeds))]
    return [
        Job(f"shared, seed {seed}", "", seed, recipe, folder / "shared" / f"seed-{seed}")
        for seed, recipe in recipes
        if recipe is not None
    ]


def tuning(plan: Plan, folder: Path) -> Iterator[tuple[str, Any, Job]]:
    """(arm, value, run) of every tuning run."""
    for arm in plan.arms:
        for value in plan.tune.values if plan.tune else ():
            for seed in range(TUNING_SEED, TUNING_SEED + plan.tune.seeds):  # type: ignore[union-attr]
                where = folder / "tuning" / file_name(arm) / file_name(str(value)) / f"seed-{seed}"
                recipe = plan.of_arm(arm, seed, value)
                yield arm, value, Job(f"tuning {arm}, {value}", arm, seed, recipe, where, _base(plan, folder, seed))


def runs(plan: Plan, folder: Path, chosen: Mapping[str, Any]) -> list[Job]:
    """The runs of the comparison; chosen: the tuned value by arm. All arms of a seed come before the next seed, so that
    a comparison that is stopped has whole seeds."""
    return [
        Job(
            f"{arm}, seed {seed}",
            arm,
            seed,
            plan.of_arm(arm, seed, chosen.get(arm)),
            folder / "runs" / file_name(arm) / f"seed-{seed}",
            _base(plan, folder, seed),
        )
        for seed in range(plan.seeds)
        for arm in plan.arms
    ]


def _base(plan: Plan, folder: Path, seed: int) -> Path | None:
    return None if plan.of_base(seed) is None else folder / "shared" / f"seed-{seed}"


def file_name(text: str) -> str:
    """As a folder is called on any system."""
    return re.sub(r"[^A-Za-z0-9_.-]", "_", text)
