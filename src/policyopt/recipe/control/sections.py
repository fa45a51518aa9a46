"""What a recipe for an agent may say."""

from __future__ import annotations

from typing import Any, ClassVar, Literal

from pydantic import Field, model_validator

from policyopt.recipe.base import HeldOutSection, Recipe, Section, changed, exactly_one, without_effect


class Critic(Section):
    """The network of critics, where it is not the policy's."""

    hidden: tuple[int, ...] = (64, 64)
    activation: str = "tanh"
    layer_norm: bool = False


class NewAgent(Section):
    """A network made from nothing, for the environment's observations and actions."""

    body: str = Field(default="auto", pattern="^(auto|mlp|cnn|small_cnn)$")  # auto: mlp, or cnn for images
    hidden: tuple[int, ...] | None = None  # of an mlp; None: what the head is published with
    activation: str | None = None
    layer_norm: bool = False
    memory: int | None = Field(default=None, ge=1)  # size of a recurrent unit behind the body
    head: str = "auto"  # auto: categorical for choices, gaussian for numbers
    head_options: dict[str, Any] = Field(default={})
    critic: Critic | None = None  # None: like the policy
    normalise: bool = False  # observations, by their running mean and deviation

    @model_validator(mode="after")
    def _used(self) -> NewAgent:
        if self.body in ("cnn", "small_cnn"):
            idle = changed(self, "hidden", "activation", "layer_norm")
            without_effect("policy.control", idle, f"policy.control.body={self.body}")
        if self.head == "auto":
            without_effect("policy.control", changed(self, "head_options"), "head=auto")
        return self


class PolicySection(Section):
    """The policy: a folder that a run saved, or a new one."""

    model: str | None = None
    control: NewAgent | None = None
    dtype: str = Field(default="float32", pattern="^(float32|float64)$")
    device: str = "cpu"  # small networks and environments: a GPU is slower

    @model_validator(mode="after")
    def _one_source(self) -> PolicySection:
        exactly_one(self, "policy", ("model", "control"))
        return self


class RecordedSection(Section):
    """Episodes recorded by a policy before the run begins."""

    policy: str | None = None  # folder of a saved policy; None: an untrained one
    episodes: int = Field(default=100, ge=1)
    reliability: float = Field(default=1.0, ge=0, le=1)  # share of the episodes that are its; the rest is untrained
    greedy: bool = False  # the most likely actions

    @model_validator(mode="after")
    def _used(self) -> RecordedSection:
        if self.policy is None:
            without_effect("tasks.recorded", changed(self, "reliability"), "an untrained policy")
        return self


class TasksSection(Section):
    """An environment, by its Gymnasium id, and recorded data for methods that learn from them."""

    gymnasium: str
    options: dict[str, Any] = Field(default={})  # of the environment itself
    limit: int | None = Field(default=None, ge=1)  # steps of an episode; None: the environment's own
    frame_stack: int = Field(default=1, ge=1)  # the last so many observations as one
    atari: bool | dict[str, Any] = False  # the usual preprocessing of Atari games, or options of it
    reward_clip: tuple[float, float] | None = None  # of the rewards that are trained on, not of those reported
    processes: bool = False  # streams step in a process each
    minari: str | None = None  # a Minari data set: its folder, or the id of an installed one
    recorded: RecordedSection | None = None
    segments: str | None = None  # a JSONL file of compared segments, for methods of preferences
    unit: Literal["transition", "episode"] = "transition"  # of recorded data: what a task is

    @model_validator(mode="after")
    def _one_source(self) -> TasksSection:
        if sum(data is not None for data in (self.minari, self.recorded, self.segments)) > 1:
            raise ValueError("give one of tasks.minari, tasks.recorded and tasks.segments")
        if self.minari is None and self.recorded is None:
            alone = "an environment alone" if self.segments is None else "tasks.segments"
            without_effect("tasks", changed(self, "unit"), alone)
        return self


class EvaluationSection(HeldOutSection):
    """Held-out episodes: return of the most likely actions and of sampled ones, before the last stage and after it."""

    episodes: int = Field(default=20, ge=2)
    film: int = Field(default=0, ge=0)  # of them, kept step by step after training, with frames if the task renders


class ControlRecipe(Recipe):
    """A whole run of an agent."""

    kind: ClassVar[str] = "control"
    files: ClassVar = (*Recipe.files, "tasks.minari", "tasks.recorded.policy", "tasks.segments")
    marks: ClassVar = {"tasks": ("gymnasium", "minari", "recorded", "segments"), "policy": ("control",)}

    policy: PolicySection
    tasks: TasksSection
    evaluation: EvaluationSection | None = EvaluationSection()
