"""What a recipe may say. Unknown keys, wrong types and options without effect are errors that name the remedy."""

from __future__ import annotations

import copy
import difflib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from policyopt.compose import CompositionError
from policyopt.options import ROOTS

GENERATED = 10_000  # tasks of a generator, if the recipe does not say


class RecipeError(CompositionError):
    """A recipe that can not be run as it is written."""


class Section(BaseModel):
    """Part of a recipe: its fields are all there is."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class NewModel(Section):
    """A decoder made from nothing, of an architecture that transformers knows."""

    model_type: str = "qwen2"
    hidden_size: int = Field(default=128, ge=1)
    layers: int = Field(default=3, ge=1)
    heads: int = Field(default=4, ge=1)
    intermediate_size: int | None = None  # None: 4 * hidden_size
    positions: int = Field(default=512, ge=8)
    alphabet: str | None = None  # of its character tokenizer; None: the characters of the tasks

    @model_validator(mode="after")
    def _whole_heads(self) -> NewModel:
        if self.hidden_size % (2 * self.heads):
            raise ValueError(
                f"hidden_size must be a multiple of 2 * heads = {2 * self.heads} (positions turn pairs of numbers of a "
                f"head), got {self.hidden_size}"
            )
        return self


class LoraOptions(Section):
    """Train low-rank adapters instead of all weights."""

    rank: int = Field(default=16, ge=1)
    alpha: int = Field(default=32, gt=0)
    target_modules: str | tuple[str, ...] = "all-linear"


class PolicySection(Section):
    """The policy: a model folder (or hub:owner/name), or a new one."""

    model: str | None = None
    new: NewModel | None = None
    lora: LoraOptions | None = None
    dtype: str = Field(default="float32", pattern="^(float32|float64|bfloat16)$")
    eos_token: str | None = None
    device: str = "auto"  # auto: CUDA, then Apple, then CPU
    engine: str = "auto"

    @model_validator(mode="after")
    def _one_source(self) -> PolicySection:
        if (self.model is None) == (self.new is None):
            raise ValueError("give exactly one of policy.model (a model folder) and policy.new (a model from nothing)")
        if self.new is not None and self.eos_token is not None:
            raise ValueError("policy.eos_token has no effect on a new model; remove it")
        return self


class Demonstrations(Section):
    """Recorded answers for supervised stages: right with probability `reliability`, else spoilt by `mistake`."""

    reliability: float = Field(default=1.0, ge=0, le=1)
    mistake: str = "swap_first_two"


class TasksSection(Section):
    """Where tasks come from: one of reasoning_gym, jsonl and folder."""

    reasoning_gym: str | tuple[dict[str, Any], ...] | None = None
    jsonl: str | None = None
    folder: str | None = None
    split: str | None = None  # of a folder with several
    options: dict[str, Any] = {}  # of the reasoning-gym generator
    prompt: str | None = None  # template over {question} and metadata fields
    size: int = Field(default=GENERATED, ge=1)  # generated tasks
    limit: int = Field(default=256, ge=1)  # own tokens of an answer at most
    verifier: str | None = None  # None: reasoning_gym for its tasks, else no reward
    verifier_options: dict[str, Any] = {}
    deadline: float = Field(default=5.0, gt=0)  # seconds a verifier may take for one answer
    demonstrations: Demonstrations | None = None

    @model_validator(mode="after")
    def _one_source(self) -> TasksSection:
        given = [name for name in ("reasoning_gym", "jsonl", "folder") if getattr(self, name) is not None]
        if len(given) != 1:
            raise ValueError(f"give exactly one of tasks.reasoning_gym, tasks.jsonl and tasks.folder, got {given}")
        idle = {
            "options": self.options and given != ["reasoning_gym"],
            "prompt": self.prompt is not None and given != ["reasoning_gym"],
            "demonstrations": self.demonstrations is not None and given != ["reasoning_gym"],
            # A resolved recipe has the default written out.
            "size": self.size != GENERATED and given != ["reasoning_gym"],
            "split": self.split is not None and given != ["folder"],
            "verifier_options": self.verifier_options and self.verifier is None and given != ["reasoning_gym"],
        }
        without_effect = [f"tasks.{name}" for name, unused in idle.items() if unused]
        if without_effect:
            raise ValueError(f"{without_effect} have no effect with tasks.{given[0]}; remove them")
        return self


class EvaluationSection(Section):
    """Held-out tasks: greedy accuracy and pass@k, before the last stage and after it."""

    tasks: int = Field(default=500, ge=1)
    samples: int = Field(default=16, ge=1)
    temperature: float = Field(default=1.0, gt=0)
    success: float = 1.0  # an answer is right if its score is at least this
    jsonl: str | None = None  # held-out tasks of their own; None: split off the training tasks

    @model_validator(mode="after")
    def _enough_samples(self) -> EvaluationSection:
        if self.samples < 8:
            raise ValueError(f"evaluation.samples must be at least 8 for pass@8, not {self.samples}")
        return self


class StageSection(Section):
    """A method for some rounds. `options` are those of `policyopt methods show METHOD`; `options_for` are more of them,
    by method, for recipes in which methods are exchanged; `tasks` change the tasks."""

    method: str
    steps: int = Field(ge=0)
    options: dict[str, Any] = {}
    options_for: dict[str, dict[str, Any]] = {}
    tasks: dict[str, Any] = {}


class Recipe(Section):
    """A whole run."""

    name: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]*$")
    policy: PolicySection
    tasks: TasksSection
    stages: tuple[StageSection, ...] = Field(min_length=1)
    evaluation: EvaluationSection | None = EvaluationSection()
    models: dict[str, str] = {}  # further models by role, for example teacher: FOLDER
    seed: int = Field(default=0, ge=0)
    checkpoint_every: int = Field(default=50, ge=1)
    folder: str | None = None  # None: runs/NAME

    def yaml(self) -> str:
        """The resolved recipe: every default written out."""
        return yaml.safe_dump(self.model_dump(mode="json"), sort_keys=False, allow_unicode=True)


def load_recipe(path: str | Path, changes: Sequence[str] = ()) -> Recipe:
    """A recipe from a YAML file with `key=value` changes applied."""
    source = Path(path)
    if not source.is_file():
        raise RecipeError(f"there is no recipe {str(source)!r}; give the path of a YAML file")
    try:
        data = yaml.safe_load(source.read_text(encoding="utf-8"))
    except UnicodeDecodeError as error:
        raise RecipeError(f"{source} is not UTF-8 text: {error}") from error
    except yaml.YAMLError as error:
        raise RecipeError(f"{source} is not valid YAML: {error}") from error
    if not isinstance(data, dict):
        raise RecipeError(f"{source} must be a mapping with keys like {list(Recipe.model_fields)}")
    return make_recipe(data, changes)


def make_recipe(data: Mapping[str, Any], changes: Sequence[str] = ()) -> Recipe:
    """A checked recipe with `key=value` changes applied; the error says every problem at once."""
    data = copy.deepcopy(dict(data))
    for change in changes:
        apply_change(data, change)
    try:
        return Recipe.model_validate(data)
    except ValidationError as error:
        raise RecipeError(problems(error)) from error


def problems(error: ValidationError, place: Sequence[str] = ()) -> str:
    """All that is wrong in a section, which stands at `place` in the recipe."""
    return "; ".join(_problem({**problem, "loc": (*place, *problem["loc"])}) for problem in error.errors())


def apply_change(data: dict[str, Any], change: str) -> None:
    """Set `key=value` in a recipe's data. `method=` and options of a method (`objective.clip_high=0.3`) go to the
    last stage; `stages.0.steps=5` counts stages from 0; everything else is a path of the recipe."""
    key, equals, text = change.partition("=")
    if not equals or not key:
        raise RecipeError(f"changes are written key=value, got {change!r}")
    try:
        value = yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise RecipeError(f"the value of {change!r} is not valid YAML: {error}") from error
    stages, names = _stages(data), key.split(".")
    if names[0] in ROOTS:
        _set_option(stages[-1], key, value)
    elif key in ("method", "steps"):
        stages[-1][key] = value
    elif names[0] == "stages" and len(names) > 2 and names[1].isdigit() and names[2] in ROOTS:
        _set_option(_stage(stages, names[1], key), ".".join(names[2:]), value)
    elif names[0] == "stages" and len(names) > 2 and names[1].isdigit():
        _put(_stage(stages, names[1], key), names[2:], value, key)
    else:
        _put(data, names, value, key)
        _give_way(data, names, value)


def _give_way(data: Mapping[str, Any], names: Sequence[str], value: Any) -> None:
    """A model given in a change takes the place of the recipe's new one, and the other way round."""
    other = {"model": "new", "new": "model"}.get(names[1]) if names[0] == "policy" and len(names) > 1 else None
    if other is not None and value is not None:
        data["policy"].pop(other, None)


def _stages(data: Mapping[str, Any]) -> list[dict[str, Any]]:
    stages = data.get("stages") or [{}]
    if not isinstance(stages, list) or not all(isinstance(stage, dict) for stage in stages):
        raise RecipeError(f"stages must be a list of {{method, steps, options}}, got {stages!r:.80}")
    return stages


def _set_option(stage: dict[str, Any], key: str, value: Any) -> None:
    stage["options"] = {**(stage.get("options") or {}), key: value}


def _stage(stages: list[dict[str, Any]], number: str, key: str) -> dict[str, Any]:
    if int(number) >= len(stages):
        raise RecipeError(f"{key}: the recipe has {len(stages)} stages, counted from 0")
    return stages[int(number)]


def _put(data: dict[str, Any], names: Sequence[str], value: Any, key: str) -> None:
    for name in names[:-1]:
        if data.get(name) is None:
            data[name] = {}
        data = data[name]
        if not isinstance(data, dict):
            raise RecipeError(f"{key}: {name} is not a section of the recipe")
    data[names[-1]] = value


def _problem(problem: Mapping[str, Any]) -> str:
    """One line for one mistake, with the nearest right key where a key is wrong."""
    place = ".".join(str(part) for part in problem["loc"])
    if problem["type"] == "value_error":  # our own, which says what it saw
        return f"{place or 'recipe'}: {problem['msg'].removeprefix('Value error, ')}"
    if problem["type"] != "extra_forbidden":
        return f"{place or 'recipe'}: {problem['msg']}, got {problem['input']!r:.80}"
    section = _section(problem["loc"][:-1])
    known = list(section.model_fields)
    near = difflib.get_close_matches(str(problem["loc"][-1]), known, 1, cutoff=0.5)
    hint = f"did you mean {near[0]!r}? " if near else ""
    where = ".".join(str(part) for part in problem["loc"][:-1]) or "the recipe"
    return f"unknown key {place!r}; {hint}{where} has {known}"


_SECTIONS: dict[str, type[Section]] = {
    "policy": PolicySection,
    "new": NewModel,
    "lora": LoraOptions,
    "tasks": TasksSection,
    "demonstrations": Demonstrations,
    "evaluation": EvaluationSection,
    "stages": StageSection,
}


def _section(place: Sequence[Any]) -> type[Section]:
    named = [part for part in place if part in _SECTIONS]
    return _SECTIONS[named[-1]] if named else Recipe
