"""Diffusion policies: denoisers of actions, cloned from recorded episodes and tuned in their environment."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from policyopt.compose import Method, frozen
from policyopt.engines.plain import generate
from policyopt.evaluation.returns import Returns, spread_interval
from policyopt.ops.random import derive, generator, new_keys
from policyopt.policies.denoising import Denoiser
from policyopt.policies.diffusion_policy import (
    FOLDER,
    DiffusionPolicySpec,
    load_diffusion_policy,
    save_diffusion_policy,
)
from policyopt.policies.spaces import Box, actions_of, observations_of
from policyopt.recipe.base import RecipeError
from policyopt.recipe.control.kind import SHOWN_NUMBERS, asked_episodes, check_data, make_world, recording
from policyopt.recipe.control.sections import EvaluationSection
from policyopt.recipe.diffusion.sections import DiffusionRecipe, NewDiffusion, TasksSection
from policyopt.recipe.kinds import EVALUATION_SEED, Asked, Evaluation, RecordedSubject, choose_device
from policyopt.report.rollouts import rounded
from policyopt.types import Batch
from policyopt.worlds.denoising import DenoisingWorld
from policyopt.worlds.gymnasium import EnvironmentWorld
from policyopt.worlds.recordings import Recording
from policyopt.worlds.segments import ComparedSegments
from policyopt.worlds.two_clocks import TwoClockWorld


@dataclass
class DiffusionSubject(RecordedSubject):
    """A diffusion policy, its environments and the recorded chunks of actions."""

    models: Mapping[str, nn.Module]
    spec: DiffusionPolicySpec
    worlds: Sequence[TwoClockWorld]
    data: Sequence[DenoisingWorld | None]  # of each world
    engine: Any
    held_out: TwoClockWorld
    evaluation: EvaluationSection | None

    lacking = (
        "episodes, but the tasks are an environment alone; give tasks.minari or tasks.recorded, or use a method that "
        "acts, such as dppo"
    )

    def measure(self) -> Evaluation | None:
        if self.evaluation is None:
            return None
        return measured(self.policy, self.held_out, self.evaluation.episodes)

    @property
    def measured(self) -> Sequence[str]:
        return () if self.evaluation is None else ("return_greedy", "return_sampled")

    def save(self, folder: Path) -> None:
        save_diffusion_policy(self.policy, self.spec, folder)

    def shown(self, rows: Batch, steps: int, world: Any) -> Sequence[Mapping[str, Any]]:
        """What was seen at every denoising step, and the chunk of actions that its latent stands for; of a recorded
        chunk, those actions."""
        emit, found = self.spec.emit(), []
        for row, valid in enumerate(rows.valid):
            at = valid.nonzero()[:, 0][:steps]
            said = {}
            if "_obs" in rows.step:
                said["observations"] = rounded(rows.step["_obs"][row, at].flatten(1)[:, :SHOWN_NUMBERS])
            chunk = rows.step["_next"][row, at].cpu().unflatten(1, (self.spec.chunk, -1))
            found.append({**said, "actions": rounded(emit(chunk).flatten(1))})
        return found


def measured(policy: Denoiser, world: TwoClockWorld, count: int) -> Evaluation:
    """Return on held-out episodes, sampled and of the chains without noise. Equal arguments give equal numbers."""
    found = {}
    for name, heat in (("greedy", 0.0), ("sampled", 1.0)):
        keys = torch.cat([new_keys(1, generator(EVALUATION_SEED, "evaluation", row)) for row in range(count)])
        rows = world.start(world.tasks(torch.arange(count)))
        rows = rows.with_rows({"temperature": torch.full((count,), heat)})
        rows = generate(policy, world, rows, keys, heat, 0)
        lengths = float(rows.row["episode_length"].double().mean())
        found |= {name: spread_interval(rows.row["episode_return"].numpy()), f"{name}_length": lengths}
    return Evaluation(f"{world.inner.name}: {count} held-out episodes", Returns(**found, episodes=count).summary())


class DiffusionKind:
    """See `Kind`."""

    recipe = DiffusionRecipe

    def build(
        self, recipe: DiffusionRecipe, methods: Sequence[Method], tasks: Sequence[TasksSection], opened: ExitStack
    ) -> DiffusionSubject:
        check_data(tasks, methods)
        inner = [make_world(section, derive(recipe.seed, "tasks")) for section in tasks]
        held_out = make_world(recipe.tasks, EVALUATION_SEED)
        data = [episodes_of(section) for section in tasks]
        if recipe.policy.model is not None:
            policy, spec = load_diffusion_policy(recipe.policy.model, recipe.policy.last)
        else:
            assert recipe.policy.diffusion is not None
            spec = new_spec(recipe.policy.diffusion, held_out, next((d for d in data if d is not None), None))
            policy = spec.make(derive(recipe.seed, "policy"))
        device = choose_device(recipe.policy.device)
        models = {name: frozen(load_diffusion_policy(path)[0]).to(device) for name, path in recipe.models.items()}
        return DiffusionSubject(
            {"policy": policy.to(device), **models},
            spec,
            [two_clocks(world, spec) for world in inner],
            [None if one is None else chunks(one, spec) for one in data],
            generate,
            two_clocks(held_out, spec),
            recipe.evaluation,
        )

    def evaluate(self, model: str, recipe: DiffusionRecipe | None, asked: Asked) -> Evaluation:
        section, episodes = asked_episodes(recipe, asked)
        policy, spec = load_diffusion_policy(model)
        world = two_clocks(make_world(section, EVALUATION_SEED), spec)
        return measured(policy, world, episodes)

    def owns(self, model: str) -> bool:
        return FOLDER.holds(model)


KIND = DiffusionKind()


def new_spec(new: NewDiffusion, world: EnvironmentWorld, data: Recording | None) -> DiffusionPolicySpec:
    """For an environment; observations are standardised by the recorded ones, if there are any."""
    seen, actions = observations_of(world.observation_space), actions_of(world.action_space)
    if seen.choices or seen.image or not isinstance(actions, Box) or not actions.bounded or len(actions.shape) != 1:
        raise RecipeError(
            f"a diffusion policy needs observations of numbers and a vector of bounded actions; {world.name} shows "
            f"{seen} and takes {actions}. Use policy.control"
        )
    centre = spread = ()
    if data is not None:
        flat = data.observations.flatten(1).double()
        centre, spread = tuple(flat.mean(0).tolist()), tuple(flat.std(0).clamp(min=1e-3).tolist())
    return DiffusionPolicySpec(seen.shape, actions.low, actions.high, **new.model_dump(), centre=centre, spread=spread)


def episodes_of(section: TasksSection) -> Recording | None:
    """The recorded episodes of some tasks."""
    found = recording(section)
    if isinstance(found, ComparedSegments):
        raise RecipeError("tasks.segments has no effect for diffusion policies; give tasks.minari or tasks.recorded")
    return found


def two_clocks(world: EnvironmentWorld, spec: DiffusionPolicySpec) -> TwoClockWorld:
    """The environment as the policy acts in it."""
    seen, done = observations_of(world.observation_space), actions_of(world.action_space)
    if (seen.shape, done) != (spec.observations, spec.actions):
        raise RecipeError(
            f"the policy sees {spec.observations} and does {spec.actions}; {world.name} shows {seen} and takes {done}. "
            "Use the environment it was made for, or a new policy (policy.diffusion)"
        )
    world.emit = spec.emit()
    return TwoClockWorld(world, spec.chain().std, spec.dims, spec.chunk, spec.trainable)


def chunks(data: Recording, spec: DiffusionPolicySpec) -> DenoisingWorld:
    """Every run of `chunk` recorded actions, given the observation before it."""
    ends = zip(data.first.tolist(), (data.first + data.lengths).tolist(), strict=True)
    starts = [torch.arange(first, max(first, end - spec.chunk + 1)) for first, end in ends]
    at = torch.cat(starts)
    if not len(at):
        raise RecipeError(
            f"no recorded episode is as long as a sample of {spec.chunk} actions; lower policy.diffusion.chunk"
        )
    samples: Tensor = spec.receive(data.actions.flatten(1))[at[:, None] + torch.arange(spec.chunk)].flatten(1)
    return DenoisingWorld(
        spec.chain().std, spec.dims, len(at), None, data.observations[at + data.of[at]], samples, condition="_obs"
    )
