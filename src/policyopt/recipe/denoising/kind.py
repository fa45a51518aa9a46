"""Diffusion and flow models: networks and chains, worlds of samples, rewards of fresh samples."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from policyopt.compose import Method, Nothing, frozen
from policyopt.engines.plain import generate
from policyopt.evaluation.samples import colours, fresh, grid
from policyopt.ops.random import derive
from policyopt.policies.denoising import Denoiser
from policyopt.policies.denoising_checkpoint import FOLDER
from policyopt.recipe.base import RecipeError
from policyopt.recipe.denoising.policies import Made, is_pipeline, new_policy, open_policy
from policyopt.recipe.denoising.sections import DenoisingRecipe, EvaluationSection, PolicySection, TasksSection
from policyopt.recipe.denoising.tasks import Source, make_world, prompts, recorded, source
from policyopt.recipe.kinds import EVALUATION_SEED, Asked, Evaluation, RecordedSubject, choose_device
from policyopt.report.pictures import picture
from policyopt.report.rollouts import rounded
from policyopt.types import Batch
from policyopt.worlds.denoising import DenoisingWorld
from policyopt.worlds.drawings import as_bytes

SHOWN_NUMBERS, SHOWN_IMAGES = 8, 9  # of a point, and of a chain
DRAWN_POINTS, DRAWN_IMAGES = 1000, 16  # samples in the plot of a run


@dataclass
class DenoisingSubject(RecordedSubject):
    """A denoiser, its worlds and the data that its samples are compared with."""

    models: Mapping[str, nn.Module]
    worlds: Sequence[DenoisingWorld]
    data: Sequence[DenoisingWorld | None]  # of each world
    engine: Any
    made: Made
    held_out: DenoisingWorld
    found: Source | None
    evaluation: EvaluationSection | None

    lacking = "samples, but tasks.pipeline has none; use tasks.images"

    def check(self, method: Method, world: DenoisingWorld) -> None:
        if not isinstance(method.reward, Nothing) and world.reward is None:
            raise RecipeError(f"method {method.key!r} needs rewards, but the tasks have none; set tasks.reward")
        super().check(method, world)

    def measure(self) -> Evaluation | None:
        if self.evaluation is None:
            return None
        return measured(self.policy, self.held_out, self.engine, self.evaluation.samples, self.found)

    @property
    def measured(self) -> Sequence[str]:
        if self.evaluation is None:
            return ()
        data = self.found is not None and self.found.data() is not None
        return (*(() if self.held_out.reward is None else ("reward",)), *(("modes", "near_data") if data else ()))

    def save(self, folder: Path) -> None:
        self.made.save(folder)

    def shown(self, rows: Batch, steps: int, world: DenoisingWorld) -> Sequence[Mapping[str, Any]]:
        """Where every step led to: points as numbers, or a few images along the chain."""
        latents = rows.following("_latent")
        return [self._chain(latents[row, valid.nonzero()[:, 0][:steps]]) for row, valid in enumerate(rows.valid)]

    def _chain(self, latents: Tensor) -> Mapping[str, Any]:
        """(T, D) the latents after each step."""
        if len(self.made.shape) == 1:
            return {"points": rounded(self.made.decode(latents)[:, :SHOWN_NUMBERS])}
        at = torch.linspace(0, len(latents) - 1, min(SHOWN_IMAGES, len(latents))).round().long()
        images = as_bytes(colours(self.made.decode(latents[at.to(latents.device)]).cpu()))
        shown = [picture(image) for image in images.permute(0, 2, 3, 1).numpy()]
        return {"images": [list(pair) for pair in zip(at.tolist(), shown, strict=True)]}

    def draw(self, figure: Any) -> None:
        """Fresh samples beside the data."""
        points = len(self.made.shape) == 1
        count = DRAWN_POINTS if points else DRAWN_IMAGES
        samples = fresh(self.policy, self.held_out, self.engine, EVALUATION_SEED, count).samples
        axis = figure.subplots()
        if points:
            assert self.found is not None
            axis.scatter(*self.found.samples[:count, :2].T.tolist(), s=2, color="lightgrey", label="data")
            axis.scatter(*samples[:, :2].T.tolist(), s=2, label="samples")
            axis.legend(fontsize=8)
            axis.set_aspect("equal")
        else:
            device = next(self.policy.parameters()).device
            axis.imshow(grid(colours(self.made.decode(samples.to(device)).cpu())).numpy(), interpolation="nearest")
            axis.axis("off")
        axis.set_title("fresh samples")


def measured(policy: Denoiser, world: DenoisingWorld, engine: Any, count: int, found: Source | None) -> Evaluation:
    """Reward of fresh samples, and what they keep of the data's variety."""
    data = None if found is None else found.data()
    result = fresh(policy, world, engine, EVALUATION_SEED, count, data)
    return Evaluation(f"{count} fresh samples", result.summary())


class DenoisingKind:
    """See `Kind`."""

    recipe = DenoisingRecipe

    def build(
        self, recipe: DenoisingRecipe, methods: Sequence[Method], tasks: Sequence[TasksSection], opened: ExitStack
    ) -> DenoisingSubject:
        device = choose_device(recipe.policy.device)
        found = source(recipe.tasks)
        made = make_policy(recipe.policy, recipe.tasks, found, recipe.seed)
        models: dict[str, nn.Module] = {"policy": made.policy.to(device)}
        for name, path in recipe.models.items():
            given = recipe.policy.model_copy(update={"model": path, "denoising": None, "lora": None})
            models[name] = frozen(open_policy(given, 0).policy).to(device)
        worlds = [world_of(section, made, device) for section in tasks]
        data = [recorded(world, source(section)) for section, world in zip(tasks, worlds, strict=True)]
        held_out = world_of(recipe.tasks, made, device)
        if recipe.evaluation is not None and held_out.reward is None and (found is None or found.data() is None):
            raise RecipeError("nothing can be measured of images without a reward; set tasks.reward or evaluation=null")
        return DenoisingSubject(models, worlds, data, generate, made, held_out, found, recipe.evaluation)

    def evaluate(self, model: str, recipe: DenoisingRecipe | None, asked: Asked) -> Evaluation:
        if asked.samples is not None or asked.changes:
            raise RecipeError("--samples, --limit and --prompt have no effect here; give --tasks, a number of samples")
        if recipe is None:
            raise RecipeError(f"a denoising policy is evaluated on a recipe's tasks; give a recipe, not {asked.task!r}")
        changes = {"model": model, "denoising": None, "lora": None}
        made = open_policy(recipe.policy.model_copy(update=changes), recipe.seed)
        world = world_of(recipe.tasks, made, "cpu")
        count = asked.count or (recipe.evaluation or EvaluationSection()).samples
        return measured(made.policy, world, generate, count, source(recipe.tasks))

    def owns(self, model: str) -> bool:
        return FOLDER.holds(model) or is_pipeline(model)


KIND = DenoisingKind()


def make_policy(section: PolicySection, tasks: TasksSection, found: Source | None, seed: int) -> Made:
    """The policy of a recipe."""
    seed = derive(seed, "policy")
    if section.denoising is None:
        return open_policy(section, seed)
    if section.trains != "network":
        raise RecipeError("policy.trains=prior needs a trained network; give its folder as policy.model")
    if found is None:
        raise RecipeError("tasks.pipeline is for a diffusers folder (policy.model); give tasks.points or tasks.images")
    return new_policy(section.denoising, section.chain, found.shape, found.modes if tasks.conditioned else 0, seed)


def world_of(section: TasksSection, made: Made, device: Any) -> DenoisingWorld:
    """RecipeError: the policy makes other samples than the tasks have, or from other conditions."""
    found = source(section)
    if found is not None and found.shape != made.shape:
        raise RecipeError(
            f"the policy makes samples of shape {made.shape}; these tasks have shape {found.shape}. Use the tasks it "
            "was made for, or a new policy (policy.denoising)"
        )
    given, known = prompts(section, found), made.conditions
    vectors = given is not None and given.is_floating_point()
    classes = 0 if given is None or vectors else len(given)
    fits = classes <= known.classes if made.piped else classes == known.classes
    if not fits or vectors != bool(known.features) or (given is None) != (not (known.classes or known.features)):
        raise RecipeError(
            f"the policy is conditioned on {known}; these tasks give {classes} classes"
            + (" and embedded prompts" if vectors else "")
            + "; set tasks.conditioned or tasks.pipeline to what it was made for"
        )
    return make_world(section, found, made, device)
