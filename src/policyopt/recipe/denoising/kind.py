"""Diffusion and flow models: networks and chains, worlds of samples, rewards of fresh samples."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import nn

from policyopt.compose import Method, Nothing, frozen
from policyopt.engines.plain import generate
from policyopt.evaluation.samples import Data, fresh, grid
from policyopt.ops.random import derive
from policyopt.policies.denoising import Denoiser
from policyopt.policies.denoising_checkpoint import SPEC, ChainSpec, DenoiserSpec, load_denoiser, save_denoiser
from policyopt.recipe.base import RecipeError
from policyopt.recipe.denoising.sections import DenoisingRecipe, EvaluationSection, PolicySection, TasksSection
from policyopt.recipe.denoising.tasks import Source, colours, make_world, recorded, source
from policyopt.recipe.kinds import EVALUATION_SEED, Asked, Evaluation, Subject, choose_device
from policyopt.types import Round
from policyopt.worlds.denoising import DenoisingWorld

SHOWN_POINTS = 16  # of a round, in samples.jsonl
DRAWN = 1000  # samples in the plot of a run


@dataclass
class DenoisingSubject(Subject):
    """A denoiser, what it was made of, its worlds and the data that its samples are compared with."""

    models: Mapping[str, nn.Module]
    worlds: Sequence[DenoisingWorld]
    recorded: Sequence[DenoisingWorld]
    engine: Any
    spec: DenoiserSpec
    held_out: DenoisingWorld
    found: Source
    evaluation: EvaluationSection | None

    def check(self, method: Method, world: DenoisingWorld) -> None:
        if not isinstance(method.reward, Nothing) and world.reward is None:
            raise RecipeError(f"method {method.key!r} needs rewards, but the tasks have none; set tasks.reward")
        if type(method.sampling).__name__ == "RecordedPairs":
            raise RecipeError(f"method {method.key!r} learns from recorded pairs, which these tasks do not have")

    def view(self, method: Method, world: DenoisingWorld) -> tuple[str, DenoisingWorld]:
        """Methods that sample are given prompts; those that regress, the recorded samples."""
        if type(method.sampling).__name__ != "Recorded":
            return "", world
        return ", recorded", self.recorded[next(i for i, one in enumerate(self.worlds) if one is world)]

    def measure(self) -> Evaluation | None:
        if self.evaluation is None:
            return None
        return measured(self.policy, self.held_out, self.engine, self.evaluation.samples, self.found.data())

    def save(self, folder: Path) -> None:
        save_denoiser(self.policy, self.spec, folder)

    def shown(self, done: Round, world: DenoisingWorld) -> Iterable[Mapping[str, Any]]:
        """A few samples as numbers, an image as bytes."""
        points = len(self.spec.shape) == 1
        rows = done.judged[: SHOWN_POINTS if points else 1]
        samples = rows.row["_latent"].double().cpu()
        shown = samples.numpy().round(3) if points else ((samples.clamp(-1, 1) + 1) * 127.5).round().long().numpy()
        return [{"samples": shown.tolist(), "reward": rows.step["reward"].sum(1).tolist()}]

    def draw(self, figure: Any) -> None:
        """Fresh samples beside the data."""
        samples = fresh(self.policy, self.held_out, self.engine, EVALUATION_SEED, DRAWN).samples
        axis = figure.subplots()
        if len(self.spec.shape) == 1:
            data = self.found.samples[:DRAWN]
            axis.scatter(*data[:, :2].T.tolist(), s=2, color="lightgrey", label="data")
            axis.scatter(*samples[:, :2].T.tolist(), s=2, label="samples")
            axis.legend(fontsize=8)
            axis.set_aspect("equal")
        else:
            axis.imshow(grid(colours(samples[:16], self.spec.shape)).numpy(), interpolation="nearest")
            axis.axis("off")
        axis.set_title("fresh samples")


def measured(policy: Denoiser, world: DenoisingWorld, engine: Any, count: int, data: Data | None) -> Evaluation:
    """Reward of fresh samples, and what they keep of the data's variety."""
    found = fresh(policy, world, engine, EVALUATION_SEED, count, data)
    return Evaluation(f"{count} fresh samples", found.summary())


class DenoisingKind:
    """See `Kind`."""

    recipe = DenoisingRecipe

    def build(
        self, recipe: DenoisingRecipe, methods: Sequence[Method], tasks: Sequence[TasksSection], opened: ExitStack
    ) -> DenoisingSubject:
        device = choose_device(recipe.policy.device)
        found = source(recipe.tasks)
        policy, spec = make_policy(recipe.policy, recipe.tasks, found, recipe.seed)
        models = {"policy": policy.to(device)}
        models |= {name: frozen(load_denoiser(path)[0]).to(device) for name, path in recipe.models.items()}
        worlds = [world_of(section, spec, policy, device) for section in tasks]
        data = [recorded(world, source(section)) for section, world in zip(tasks, worlds, strict=True)]
        held_out = world_of(recipe.tasks, spec, policy, device)
        if recipe.evaluation is not None and held_out.reward is None and found.data() is None:
            raise RecipeError("nothing can be measured of images without a reward; set tasks.reward or evaluation=null")
        return DenoisingSubject(models, worlds, data, generate, spec, held_out, found, recipe.evaluation)

    def evaluate(self, model: str, recipe: DenoisingRecipe | None, asked: Asked) -> Evaluation:
        if asked.samples is not None or asked.changes:
            raise RecipeError("--samples, --limit and --prompt have no effect here; give --tasks, a number of samples")
        if recipe is None:
            raise RecipeError(f"a denoising policy is evaluated on a recipe's tasks; give a recipe, not {asked.task!r}")
        given = recipe.policy.chain.model_dump(exclude_unset=True)
        policy, spec = load_denoiser(model, **given)
        found = source(recipe.tasks)
        world = world_of(recipe.tasks, spec, policy, "cpu")
        count = asked.count or (recipe.evaluation or EvaluationSection()).samples
        return measured(policy, world, generate, count, found.data())

    def owns(self, model: str) -> bool:
        return (Path(model) / SPEC).is_file()


KIND = DenoisingKind()


def make_policy(section: PolicySection, tasks: TasksSection, found: Source, seed: int) -> tuple[Denoiser, DenoiserSpec]:
    """The policy, and what it is made of."""
    given = section.chain.model_dump(exclude_unset=True)
    if section.model is not None:
        return load_denoiser(section.model, **given)
    new = section.denoising
    assert new is not None
    body = ("mlp" if len(found.shape) == 1 else "unet") if new.body == "auto" else new.body
    classes = found.modes if tasks.conditioned else 0
    spec = DenoiserSpec(found.shape, body, new.width, new.depth, classes, ChainSpec(**given))
    try:
        return spec.make(derive(seed, "policy")), spec
    except ValueError as error:
        raise RecipeError(f"policy.denoising: {error}") from error


def world_of(section: TasksSection, spec: DenoiserSpec, policy: Denoiser, device: Any) -> DenoisingWorld:
    """RecipeError: the policy makes other samples than the tasks have."""
    found = source(section)
    classes = found.modes if section.conditioned else 0
    if (found.shape, classes) != (spec.shape, spec.classes):
        raise RecipeError(
            f"the policy makes samples of shape {spec.shape} from {spec.classes} conditions; these tasks have shape "
            f"{found.shape} and {classes}. Use the tasks it was made for, or a new policy (policy.denoising)"
        )
    return make_world(section, found, policy.chain, device)
