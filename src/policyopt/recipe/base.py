"""What every recipe says, whatever its policy; and what is said of a wrong one."""

from __future__ import annotations

import difflib
import typing
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, ClassVar, Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from policyopt.compose import CompositionError
from policyopt.recipe.elsewhere import NAMES
from policyopt.runtime.trackers import TrackerName
from policyopt.wording import rule, whole


class RecipeError(CompositionError):
    """A recipe that can not be run as it is written."""


NAME = r"^[A-Za-z0-9][A-Za-z0-9_.-]*$"


class Section(BaseModel):
    """Part of a recipe: its fields are all there is."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    @model_validator(mode="before")
    @classmethod
    def _whole_numbers(cls, data: Any) -> Any:
        """Where a whole number stands, 1e9 is one."""
        if not isinstance(data, dict):
            return data
        numbers = {name for name, field in cls.model_fields.items() if field.annotation in (int, int | None)}
        return {name: whole(value) if name in numbers else value for name, value in data.items()}


class HeldOutSection(Section):
    """What evaluations of every kind may say: besides before and after, `every` so many rounds of the run; the model of
    the highest value so far of one measure is then kept in the run's folder `best`."""

    every: int | None = Field(default=None, ge=1)  # rounds; None: not along the way
    keep_best: str | None = None  # a measure of the evaluation; None: no model but the last is kept

    @model_validator(mode="after")
    def _best_of_some(self) -> HeldOutSection:
        if self.every is None and self.keep_best is not None:
            raise ValueError(
                f"evaluation.keep_best={self.keep_best!r} chooses among evaluations along the way; give "
                "evaluation.every, a number of rounds"
            )
        return self


UNITS = ("tokens", "samples", "seconds")


class BudgetSection(Section):
    """What a stage may use up, in one of the units that `policyopt.recipe.budget` counts. Schedules end with it."""

    tokens: int | None = Field(default=None, ge=1)
    samples: int | None = Field(default=None, ge=1)
    seconds: float | None = Field(default=None, gt=0)
    evaluations: int = Field(default=1, ge=1)  # at equal shares of the budget, the last one at its end

    @model_validator(mode="after")
    def _one_unit(self) -> BudgetSection:
        exactly_one(self, "budget", UNITS)
        return self

    @property
    def unit(self) -> str:
        return exactly_one(self, "budget", UNITS)

    @property
    def amount(self) -> float:
        return getattr(self, self.unit)


class StageSection(Section):
    """A method for some rounds. `options` are those of `policyopt methods show METHOD`; `options_for` are more of them,
    by method, for recipes in which methods are exchanged; `tasks` change the tasks. The last stage can have a
    budget: it then ends with that, after at most `steps` rounds.

    A stage with a name keeps the policy that it ends with; another can `start_from` it instead of from the stage before
    itself, so that several methods continue one policy, and the run's report compares them.
    """

    method: str
    steps: int = Field(ge=0)
    budget: BudgetSection | None = None
    name: str | None = Field(default=None, pattern=NAME)
    start_from: str | None = None
    options: dict[str, Any] = {}
    options_for: dict[str, dict[str, Any]] = {}
    tasks: dict[str, Any] = {}


class SamplesSection(Section):
    """What samples.jsonl holds for `policyopt view`: rows of some rounds, with a table of their steps."""

    rows: int = Field(default=8, ge=0)  # of a round; 0: none
    steps: int = Field(default=256, ge=1)  # of a row
    every: int | None = Field(default=None, ge=1)  # rounds; None: so that about 50 rounds of the run are recorded


class InvariantsSection(Section):
    """What is watched while the run trains; see `policyopt.runtime.invariants.Rules`."""

    policy: Literal["stop", "warn"] = "stop"
    every: int = Field(default=10, ge=1)
    staleness: int | None = Field(default=None, ge=0)
    alarms: bool = True


class RuntimeSection(Section):
    """Where and when a run samples and trains; `runtime=ray` alone says `on`.

    staleness: rounds by which sampling runs ahead of training (`policyopt.runtime.ahead`); 0: not at all. trainers:
    processes that train together (`policyopt.runtime.sharding`). deadline: seconds that a round of samples, or another
    process, is waited for.

    on: "ray" has others do some of the work (`policyopt.runtime.cluster`): samplers generate, graders run verifiers (0:
    this machine does), scorers hold models that are given (0: the trainer does). cpus, gpus: of a sampler or scorer.
    address: of a cluster that is there, "auto" or "ray://HOST:10001"; None starts one on this machine.
    """

    on: Literal["local", "ray"] = "local"
    samplers: int = Field(default=1, ge=1)
    graders: int = Field(default=0, ge=0)
    scorers: int = Field(default=0, ge=0)
    cpus: float = Field(default=1, gt=0)
    gpus: float = Field(default=0, ge=0)
    address: str | None = None
    staleness: int = Field(default=0, ge=0)
    trainers: int = Field(default=1, ge=1)
    deadline: float = Field(default=3600.0, gt=0)

    @model_validator(mode="after")
    def _alone(self) -> RuntimeSection:
        if self.on == "local":
            idle = changed(self, "samplers", "graders", "scorers", "cpus", "gpus", "address")
            without_effect("runtime", idle, "runtime.on=local")
        return self

    @model_validator(mode="after")
    def _in_step(self) -> RuntimeSection:
        if self.trainers > 1 and self.staleness:
            raise ValueError(
                f"runtime.trainers={self.trainers} processes sample and train in step, so they can not sample "
                f"{self.staleness} rounds ahead; use runtime.staleness=0 or runtime.trainers=1"
            )
        return self


class Recipe(Section):
    """A whole run. Every kind of policy has its own sections `policy`, `tasks` and `evaluation`.

    kind: its folder here. runs: the kind's name in `About.policies`, if that is another. marks: keys by section that
    its recipes have. opens: a file that the folder of a model holds if no other kind opens it. files: where its
    recipes name files and folders; see `policyopt.recipe.places`.
    """

    kind: ClassVar[str]
    runs: ClassVar[str] = ""
    opens: ClassVar[str] = ""
    marks: ClassVar[Mapping[str, tuple[str, ...]]] = {}
    files: ClassVar[tuple[str, ...]] = ("policy.model", "models.*")

    name: str = Field(pattern=NAME)
    policy: Any
    tasks: Any
    stages: tuple[StageSection, ...] = Field(min_length=1)
    evaluation: Any = None
    models: dict[str, str] = {}  # further models by role, for example teacher: FOLDER
    seed: int = Field(default=0, ge=0)
    checkpoint_every: int = Field(default=50, ge=1)
    samples: SamplesSection = SamplesSection()
    trackers: tuple[TrackerName, ...] = ()  # of the metrics, besides the run's own files and TensorBoard
    invariants: InvariantsSection = InvariantsSection()
    runtime: RuntimeSection = Field(default_factory=RuntimeSection)
    folder: str | None = None  # None: runs/NAME

    @model_validator(mode="after")
    def _branches(self) -> Recipe:
        before: list[str] = []
        for index, stage in enumerate(self.stages):
            if stage.name in before:
                raise ValueError(f"two stages are named {stage.name!r}; give them different names")
            if stage.start_from is not None and stage.start_from not in before:
                raise ValueError(
                    f"stages.{index}.start_from={stage.start_from!r} is no earlier stage with a name and at least one "
                    f"round; there are {before}"
                )
            before += [stage.name] if stage.name is not None and stage.steps else []
        return self

    @model_validator(mode="after")
    def _budget_last(self) -> Recipe:
        early = [index for index, stage in enumerate(self.stages[:-1]) if stage.budget is not None]
        if early:
            raise ValueError(f"stages.{early[0]}.budget: only the last stage can have one; give its rounds as steps")
        return self

    @property
    def supplied(self) -> set[str]:
        """Names of the models that the user supplies."""
        return set(self.models)

    def yaml(self) -> str:
        """The resolved recipe: every default written out."""
        return yaml.safe_dump(self.model_dump(mode="json"), sort_keys=False, allow_unicode=True)


def exactly_one(section: Section, place: str, names: Sequence[str]) -> str:
    """The one of some fields that is given. ValueError: none or several."""
    given = [name for name in names if getattr(section, name) is not None]
    if len(given) != 1:
        wanted = [f"{place}.{name}" for name in names]
        raise ValueError(f"give exactly one of {', '.join(wanted[:-1])} and {wanted[-1]}, got {given}")
    return given[0]


def changed(section: Section, *names: str) -> dict[str, bool]:
    """Whether fields differ from their defaults, which a resolved recipe has written out."""
    fields = type(section).model_fields
    return {name: getattr(section, name) != fields[name].get_default(call_default_factory=True) for name in names}


def without_effect(place: str, idle: Mapping[str, Any], beside: str) -> None:
    """ValueError for fields that are set (`idle`: by name) and change nothing beside another one."""
    found = [f"{place}.{name}" for name, unused in idle.items() if unused]
    if found:
        raise ValueError(f"{found} have no effect with {beside}; remove them")


# -- mistakes ------------------------------------------------------------------------------------------------------
def problems(
    error: ValidationError,
    section: type[Section],
    place: Sequence[str] = (),
    also: Mapping[str, Sequence[str]] | None = None,
) -> str:
    """All that is wrong in a section that stands at `place` in the recipe. also: more right keys, by section."""
    found = error.errors()
    # A list whose items are wrong is short of them as well, which says nothing more.
    items = {problem["loc"][:1] for problem in found if len(problem["loc"]) > 1}
    found = [problem for problem in found if problem["type"] != "too_short" or problem["loc"] not in items]
    return "; ".join(_problem(problem, section, place, also or {}) for problem in found)


def _problem(
    problem: Mapping[str, Any], section: type[Section], place: Sequence[str], also: Mapping[str, Sequence[str]]
) -> str:
    """One line for one mistake, with the nearest right key where a key is wrong."""
    loc = problem["loc"]
    name = ".".join(map(str, (*place, *loc)))
    if problem["type"] == "value_error":  # our own, which says what it saw
        return f"{name or 'recipe'}: {problem['msg'].removeprefix('Value error, ')}"
    if problem["type"] == "tuple_type":
        return f"{name} takes a list, such as [{problem['input']}], got {problem['input']!r:.80}"
    if problem["type"] in ("model_type", "model_attributes_type"):
        keys = list(_section(section, loc).model_fields)
        return f"{name or 'recipe'} is a section with the keys {keys}, got {problem['input']!r:.80}"
    if problem["type"] == "missing":
        where = ".".join(map(str, (*place, *loc[:-1])))
        return (
            f"{name} is missing, {where or 'the recipe'} needs it and has {sorted(map(str, problem['input']))}; add it"
        )
    if problem["type"] != "extra_forbidden":
        return f"{name or 'recipe'} {rule(problem)}, got {problem['input']!r:.80}"
    where = ".".join(map(str, (*place, *loc[:-1])))
    known = list(_section(section, loc[:-1]).model_fields)
    known += [key for key in also.get(where, ()) if key not in known]
    elsewhere = NAMES.get(str(loc[-1]))
    near = [elsewhere] if elsewhere else difflib.get_close_matches(str(loc[-1]), known, 1, cutoff=0.5)
    hint = f"did you mean {near[0]!r}? " if near else ""
    return f"unknown key {name!r}; {hint}{where or 'the recipe'} has {known}"


def _section(recipe: type[Section], place: Sequence[Any]) -> type[Section]:
    """The section at a place of a recipe; list positions are passed over."""
    found = recipe
    for name in place:
        if name in found.model_fields:
            found = next(_sections(found.model_fields[name].annotation), found)
    return found


def _sections(annotation: Any) -> Iterator[type[Section]]:
    """Sections in a field's type, such as `Section | None` or `tuple[Section, ...]`."""
    if isinstance(annotation, type) and issubclass(annotation, Section):
        yield annotation
    for inner in typing.get_args(annotation):
        yield from _sections(inner)
