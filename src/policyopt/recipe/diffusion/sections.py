"""What a recipe for a diffusion policy may say."""

from __future__ import annotations

from typing import ClassVar

from pydantic import Field, model_validator

from policyopt.policies.diffusion_policy import FOLDER
from policyopt.recipe.base import Recipe, Section, changed, exactly_one, without_effect
from policyopt.recipe.control.sections import ControlRecipe, EvaluationSection
from policyopt.recipe.control.sections import TasksSection as Environment


class NewDiffusion(Section):
    """A network made from nothing, for the environment's observations and actions; see `DiffusionPolicySpec`."""

    chunk: int = Field(default=1, ge=1)  # actions of a sample, executed one after another
    steps: int = Field(default=10, ge=1)  # of the chain
    width: int = Field(default=128, ge=8)
    depth: int = Field(default=3, ge=1)
    least_std: float = Field(default=0.1, gt=0)


class PolicySection(Section):
    """The policy: a folder that a run saved, or a new one."""

    model: str | None = None
    diffusion: NewDiffusion | None = None
    last: int | None = Field(default=None, ge=1)  # of a saved one: train these steps, the others run a frozen copy
    device: str = "cpu"

    @model_validator(mode="after")
    def _one_source(self) -> PolicySection:
        if exactly_one(self, "policy", ("model", "diffusion")) == "diffusion":
            without_effect("policy", changed(self, "last"), "policy.diffusion, which has nothing to freeze")
        return self


class TasksSection(Environment):
    """An environment, and the recorded episodes that a new policy is cloned from."""

    @model_validator(mode="after")
    def _used(self) -> TasksSection:
        idle = changed(self, "unit", "processes")
        without_effect("tasks", idle, "a diffusion policy: it learns chunks of actions and acts in whole episodes")
        return self


class DiffusionRecipe(Recipe):
    """A whole run of a diffusion policy."""

    kind: ClassVar[str] = "diffusion"
    files: ClassVar = ControlRecipe.files
    runs: ClassVar[str] = "denoising"
    opens: ClassVar[str] = FOLDER.spec
    marks: ClassVar = {"tasks": ("gymnasium", "minari", "recorded"), "policy": ("diffusion",)}

    policy: PolicySection
    tasks: TasksSection
    evaluation: EvaluationSection | None = EvaluationSection()
