"""From what the user writes to the sections of a plan."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from pydantic import ValidationError, field_validator

from policyopt.methods import load
from policyopt.options import override
from policyopt.plain import PlainError, from_yaml
from policyopt.recipe.base import UNITS, BudgetSection, Recipe, RecipeError, Section, problems
from policyopt.recipe.comparison.plan import ArmSection, Plan, TuneSection


def read_arms(text: str) -> dict[str, ArmSection]:
    """Arms from "a,b,c" (methods as they are), or from a YAML file with a mapping `arms`."""
    if Path(text).suffix not in (".yaml", ".yml"):
        names = [name.strip() for name in text.split(",") if name.strip()]
        if len(set(names)) < len(names):
            raise RecipeError(f"--methods names {names}; the same method with other options needs a file of arms")
        return {name: ArmSection() for name in names}
    if not Path(text).is_file():
        raise RecipeError(f"there is no file of arms {text!r}")
    try:
        return _Arms.model_validate(from_yaml(Path(text).read_bytes())).arms
    except PlainError as error:
        raise RecipeError(f"{text} is {error}") from error
    except ValidationError as error:
        raise RecipeError(f"{text}: {problems(error, _Arms)}") from error


class _Arms(Section):
    """A file of arms; an arm without a section is its method as it is."""

    arms: dict[str, ArmSection]

    @field_validator("arms", mode="before")
    @classmethod
    def _filled(cls, arms: Any) -> Any:
        return {name: {} if arm is None else arm for name, arm in arms.items()} if isinstance(arms, dict) else arms


def read_budget(text: str, evaluations: int) -> BudgetSection:
    """From "samples=5000"."""
    unit, equals, amount = text.partition("=")
    if unit not in UNITS or not equals:
        raise RecipeError(f"a budget is {', '.join(f'{u}=N' for u in UNITS[:-1])} or {UNITS[-1]}=N, not {text!r}")
    try:
        number = float(amount.replace("_", ""))
        return BudgetSection.model_validate({unit: number, "evaluations": evaluations})
    except ValueError as error:
        raise RecipeError(f"--budget: {unit} can not be {amount!r}; give a number above 0") from error


def own_budget(recipe: Recipe, evaluations: int) -> BudgetSection:
    """What the recipe's own method uses in its last stage, where that can be told without running it."""
    last = recipe.stages[-1]
    if last.budget is not None:
        return last.budget.model_copy(update={"evaluations": evaluations})
    method = load(last.method)
    made = override(method, {**last.options_for.get(last.method, {}), **last.options})
    horizon, streams = (getattr(made.sampling, name, None) for name in ("horizon", "count"))
    if isinstance(horizon, int) and isinstance(streams, int) and last.steps:
        return BudgetSection(tokens=last.steps * horizon * streams, evaluations=evaluations)
    count, size = getattr(made.selection, "count", None), getattr(made.sampling, "size", None)
    if isinstance(count, int) and isinstance(size, int) and last.steps:
        return BudgetSection(samples=last.steps * count * size, evaluations=evaluations)
    raise RecipeError(
        f"how much {last.steps} rounds of {last.method!r} use up is not known before they run; give --budget tokens=N, "
        "samples=N or seconds=N"
    )


def read_tuning(text: str, seeds: int) -> TuneSection:
    """From "update.learning_rate=1e-3,3e-3"."""
    option, _, values = text.partition("=")
    try:
        found: Sequence[Any] = [from_yaml(value) for value in values.split(",")]
    except PlainError as error:
        raise RecipeError(f"--tune: {values!r} is {error}") from error
    # YAML 1.1 reads 1e-3 as text; options read numbers from text themselves.
    try:
        return TuneSection(option=option, values=tuple(found), seeds=seeds)
    except ValidationError as error:
        raise RecipeError(f"--tune: {problems(error, TuneSection)}; write KEY=VALUE,VALUE") from error


def make_plan(recipe: Recipe, **given: Any) -> Plan:
    """A checked plan; errors say what the user gave."""
    data = recipe.model_dump(mode="json")
    try:
        return Plan(name=recipe.name, recipe={**data, "folder": None}, **given)
    except ValidationError as error:
        raise RecipeError(problems(error, Plan)) from error
