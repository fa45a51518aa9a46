"""What a kind of policy brings to a recipe. `policyopt.recipe.KIND.kind` is imported when a recipe asks for it."""

from __future__ import annotations

import importlib
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar, Protocol

import torch
from numpy.typing import NDArray
from torch import nn

from policyopt.compose import Method
from policyopt.recipe.base import Recipe, RecipeError
from policyopt.types import Batch

EVALUATION_SEED = 7_000_001  # of what is sampled to evaluate, the same in every run


@dataclass(frozen=True)
class Evaluation:
    """What was measured of a policy.

    over: on how much, such as "20 held-out episodes". measured: as in summary.json, each measure beside its interval
    NAME_interval. answers: prompt, sampled answer, score (None: not scored) of a few. remark: what a reader must know.
    """

    over: str
    measured: Mapping[str, Any]
    answers: tuple[tuple[str, str, float | None], ...] = ()
    remark: str = ""


class Subject(ABC):
    """What a recipe trains, with all it needs: made before the run's folder, so that what is wrong is found first."""

    models: Mapping[str, nn.Module]  # "policy", and those the user supplies
    worlds: Sequence[Any]  # one per distinct section of tasks, in their order
    engine: Any
    draw: Callable[[Any], None] | None = None  # adds to the plot of a run what only this kind can show
    film: Callable[[], Mapping[str, Any]] | None = None  # held-out episodes step by step, for `policyopt view`

    @property
    def policy(self) -> Any:
        return self.models["policy"]

    @abstractmethod
    def check(self, method: Method, world: Any) -> None:
        """RecipeError: the tasks lack what the method learns from."""

    def view(self, method: Method, world: Any) -> tuple[str, Any]:
        """The world of a section of tasks as the method sees it, and what tells it from the others of the section."""
        return "", world

    def adapt(self, method: Method) -> Method:
        """The method with what this policy adds to every one."""
        return method

    @abstractmethod
    def measure(self) -> Evaluation | None:
        """Equal for equal weights, whatever happened before. None: there is nothing to measure on."""

    @property
    @abstractmethod
    def measured(self) -> Sequence[str]:
        """The measures that `measure` has; none where there is nothing to measure on."""

    @abstractmethod
    def save(self, folder: Path) -> None:
        """A folder that `policy.model` opens."""

    def judged(self, policy: Any, rewards: Mapping[str, Any], start: Any) -> tuple[Mapping[str, NDArray], str]:
        """By what policies of one run are compared: numbers per held-out task by name (see `evaluation.rewarded`), and
        on how much they were measured; "" if this kind has nothing to compare them by."""
        return {}, ""

    def judged_rewards(self, rewards: Mapping[str, Any]) -> dict[str, Any]:
        """How good reward models are on held-out preferences, by name, as JSON data."""
        return {}

    def save_reward(self, model: Any, folder: Path) -> None:
        """A folder that a recipe's `models` opens."""
        raise RecipeError(f"reward models of {type(self.policy).__name__} policies have no folders of their own")

    @abstractmethod
    def shown(self, rows: Batch, steps: int, world: Any) -> Sequence[Mapping[str, Any]]:
        """What only this kind can say of a few rows (their first steps), for people: one JSON object each."""


class RecordedSubject(Subject):
    """Methods that act are given the world of a section of tasks; those that learn from data, what was recorded there.

    data: of each world; None: nothing. lacking: how a refusal goes on that begins with "learns from recorded". pairs:
    classes of data that hold pairs; want: how to get some.
    """

    data: Sequence[Any]
    lacking: ClassVar[str]
    pairs: ClassVar[tuple[type, ...]] = ()
    want: ClassVar[str] = ""

    def data_of(self, world: Any) -> Any:
        return next(data for one, data in zip(self.worlds, self.data, strict=True) if one is world)

    def view(self, method: Method, world: Any) -> tuple[str, Any]:
        return (", recorded", self.data_of(world)) if method.sampling.data else ("", world)

    def check(self, method: Method, world: Any) -> None:
        asked, data = method.sampling.data, self.data_of(world)
        if asked == "pairs" and not isinstance(data, self.pairs):
            raise RecipeError(
                f"method {method.key!r} learns from recorded pairs, which these tasks do not have{self.want}"
            )
        if asked and data is None:
            raise RecipeError(f"method {method.key!r} learns from recorded {self.lacking}")


@dataclass(frozen=True)
class Asked:
    """What the user asked of an evaluation without training; None: the kind's default."""

    task: str
    count: int | None = None  # held-out tasks, episodes or samples
    samples: int | None = None  # of every task
    changes: Mapping[str, Any] = field(default_factory=dict)  # to the tasks


class Kind(Protocol):
    """One per kind of policy."""

    recipe: type[Recipe]

    def build(self, recipe: Any, methods: Sequence[Method], tasks: Sequence[Any], opened: ExitStack) -> Subject:
        """tasks: the distinct sections of the stages. What must be closed is given to `opened`."""
        ...

    def evaluate(self, model: str, recipe: Any | None, asked: Asked) -> Evaluation:
        """A saved model on the tasks of a recipe, or (None) on those that `asked.task` names."""
        ...

    def owns(self, model: str) -> bool:
        """Whether a model folder holds a policy of this kind."""
        ...


def kind_of(recipe: Recipe) -> Kind:
    return load_kind(recipe.kind)


def load_kind(name: str) -> Kind:
    return importlib.import_module(f"{__package__}.{name}.kind").KIND


def choose_device(name: str) -> torch.device:
    """The named device, or the best one that is there."""
    if name != "auto":
        try:
            torch.empty(0, device=name)
        except (RuntimeError, AssertionError) as error:
            raise RecipeError(f"policy.device={name!r} can not be used: {error}; use auto or cpu") from error
        return torch.device(name)
    if torch.cuda.is_available():
        return torch.device("cuda")
    return torch.device("mps" if torch.backends.mps.is_available() else "cpu")
