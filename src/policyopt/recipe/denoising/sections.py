"""What a recipe for a diffusion or flow model may say."""

from __future__ import annotations

from typing import Any, ClassVar, Literal

from pydantic import Field, model_validator

from policyopt.recipe.base import HeldOutSection, Recipe, Section, changed, exactly_one, without_effect


class ChainSection(Section):
    """How samples are drawn: see `ChainSpec`. Of a saved policy, what is given replaces its own."""

    path: Literal["flow", "diffusion"] = "flow"
    steps: int = Field(default=16, ge=1)
    eta: float = Field(default=0.7, ge=0)  # noise of every step; 0 is deterministic and can not be scored
    shift: float = Field(default=1.0, gt=0)  # of a flow's levels
    times: int = Field(default=100, ge=1)  # training times of a diffusion model
    density: Literal["averaged", "summed"] = "averaged"  # of a step, over dimensions
    guidance: float = Field(default=1.0, ge=0)  # scale; 1: none

    @model_validator(mode="after")
    def _used(self) -> ChainSection:
        idle = changed(self, "times" if self.path == "flow" else "shift")
        without_effect("policy.chain", idle, f"path={self.path}")
        return self


class NewDenoiser(Section):
    """A denoiser made from nothing, for the samples of the tasks."""

    body: Literal["auto", "mlp", "unet", "transformer"] = "auto"  # auto: mlp for points, unet for images
    width: int = Field(default=64, ge=8)
    depth: int = Field(default=3, ge=1)  # of mlp and transformer


class LoraOptions(Section):
    """Train low-rank adapters of a diffusers model instead of all weights."""

    rank: int = Field(default=8, ge=1)
    alpha: int = Field(default=8, gt=0)
    target_modules: tuple[str, ...] = ("to_q", "to_k", "to_v", "to_out.0", "conv1", "conv2")


class PolicySection(Section):
    """The policy: a folder that a run or diffusers saved, or a new one."""

    model: str | None = None
    denoising: NewDenoiser | None = None
    chain: ChainSection = ChainSection()
    trains: Literal["network", "prior"] = "network"  # prior: the initial noise alone, behind a frozen network
    lora: LoraOptions | None = None  # of a diffusers model
    unconditional: int | None = None  # of a diffusers model: the class that means "no class"
    device: str = "auto"

    @model_validator(mode="after")
    def _one_source(self) -> PolicySection:
        exactly_one(self, "policy", ("model", "denoising"))
        if self.denoising is not None:
            without_effect("policy", changed(self, "lora", "unconditional"), "policy.denoising")
        return self


class TasksSection(Section):
    """Recorded samples drawn by code, or the prompts of a diffusers model; and what fresh samples are paid for."""

    points: Literal["eight_gaussians", "two_moons", "checkerboard"] | None = None
    images: Literal["shapes"] | None = None
    pipeline: int | str | None = None  # of a diffusers model: how many classes (1: none), or a file of embedded prompts
    side: int = Field(default=8, ge=4)  # of images, in pixels
    channels: int = Field(default=3, ge=1)
    conditioned: bool = False  # on the mode of the points, or the first shape of an image
    size: int = Field(default=4096, ge=16)  # recorded samples
    reward: str | None = None  # a name, or module:function of (points (B, D) or images (B, C, H, W), task ids (B,))
    reward_options: dict[str, Any] = Field(default={})

    @model_validator(mode="after")
    def _one_source(self) -> TasksSection:
        given = exactly_one(self, "tasks", ("points", "images", "pipeline"))
        unused = {"points": ("side", "channels"), "images": (), "pipeline": ("side", "channels", "conditioned", "size")}
        without_effect("tasks", changed(self, *unused[given]), f"tasks.{given}")
        if self.reward is None:
            without_effect("tasks", changed(self, "reward_options"), "no tasks.reward")
        if self.side % 2:
            raise ValueError(f"tasks.side must be even, got {self.side}: networks halve images")
        return self


class EvaluationSection(HeldOutSection):
    """Fresh samples: reward, variety and likeness to the data, before the last stage and after it."""

    samples: int = Field(default=1000, ge=2)


class DenoisingRecipe(Recipe):
    """A whole run of a denoiser."""

    kind: ClassVar[str] = "denoising"
    files: ClassVar = (*Recipe.files, "tasks.pipeline")
    marks: ClassVar = {"tasks": ("points", "images", "pipeline"), "policy": ("denoising",)}

    policy: PolicySection
    tasks: TasksSection
    evaluation: EvaluationSection | None = EvaluationSection()
