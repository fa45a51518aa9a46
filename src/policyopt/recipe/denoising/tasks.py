"""From a recipe's tasks to samples, rewards and worlds of denoising chains."""

from __future__ import annotations

import difflib
import importlib
import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from policyopt.evaluation.samples import Data
from policyopt.ops.random import generator
from policyopt.recipe.base import RecipeError
from policyopt.recipe.denoising.policies import Decode, Made
from policyopt.recipe.denoising.sections import TasksSection
from policyopt.worlds import drawings
from policyopt.worlds.denoising import DenoisingWorld, Reward, Trainable

DATA_SEED = 20_000_003  # of the recorded samples: they are a data set, the same in every run
POINTS: Mapping[str, tuple[Callable[..., tuple[Tensor, Tensor]], int]] = {
    "eight_gaussians": (drawings.eight_gaussians, 8),
    "two_moons": (drawings.two_moons, 2),
    "checkerboard": (drawings.checkerboard, 8),
}


def near_mode(target: int = 0, sharpness: float = 1.0) -> Reward:
    """exp(-sharpness * squared distance to a centre of the eight Gaussians)."""
    return drawings.near_mode(target, drawings.ring_centres(), sharpness)


def on_mode(target: int = 0, within: float = 0.5) -> Reward:
    """1 within a distance of a centre of the eight Gaussians."""
    return drawings.on_mode(target, drawings.ring_centres(), within)


def right_of(x: float = 0.0) -> Reward:
    """1 for points right of a line."""
    return lambda points, task: (points[:, 0] > x).to(points.dtype)


POINT_REWARDS = {"near_mode": near_mode, "on_mode": on_mode, "right_of": right_of}
IMAGE_REWARDS: Mapping[str, tuple[Callable[..., Tensor], float]] = {
    "compressible": (drawings.compressed_size, -1.0),
    "incompressible": (drawings.compressed_size, 1.0),
    "jpeg_small": (drawings.jpeg_size, -1.0),
    "jpeg_large": (drawings.jpeg_size, 1.0),
    "colour_share": (drawings.colour_share, 1.0),
    "symmetry": (drawings.symmetry, 1.0),
    "blobs": (drawings.blobs, 1.0),
}


@dataclass(frozen=True)
class Source:
    """Recorded samples (N, D) of a shape, and the mode (N,) of each."""

    samples: Tensor
    mode: Tensor
    modes: int
    shape: tuple[int, ...]

    def data(self) -> Data | None:
        """What fresh samples are compared with; for images nearness in pixels says little."""
        return Data.of(self.samples, self.mode, self.modes) if len(self.shape) == 1 else None


def source(section: TasksSection) -> Source | None:
    """The recorded samples of some tasks; None for the prompts of a pipeline."""
    if section.pipeline is not None:
        return None
    rng = generator(DATA_SEED, section.points or section.images)
    if section.points is not None:
        draw, modes = POINTS[section.points]
        samples, mode = draw(section.size, rng)
        if section.points == "checkerboard":
            mode = mode.unique(return_inverse=True)[1]
        return Source(samples, mode, modes, (2,))
    images, mode = drawings.draw_shapes(section.size, section.side, rng, section.channels)
    return Source(images.flatten(1), mode, len(drawings.SHAPES), tuple(images.shape[1:]))


def prompts(section: TasksSection, found: Source | None) -> Tensor | None:
    """The conditions of the tasks: ids (N,), vectors (N, ...), or None where samples are made from nothing."""
    if found is not None:
        return torch.arange(found.modes) if section.conditioned else None
    if isinstance(section.pipeline, int):
        return torch.arange(section.pipeline) if section.pipeline > 1 else None
    try:
        return torch.from_numpy(np.load(str(section.pipeline), allow_pickle=False))
    except (OSError, ValueError, TypeError, EOFError) as error:
        raise RecipeError(
            f"tasks.pipeline={section.pipeline!r} can not be read: {error}; give a number of classes, or a .npy file "
            "of embedded prompts (N, L, C)"
        ) from error


def make_world(section: TasksSection, found: Source | None, made: Made, device: Any) -> DenoisingWorld:
    """One task per prompt: a condition, or the only one."""
    given = prompts(section, found)
    size = 1 if given is None else len(given)
    conditions = None if given is None else given.to(device)
    policy = made.policy
    return DenoisingWorld(
        policy.chain.std,
        policy.dims,
        size,
        reward(section, made.decode),
        conditions,
        trainable=Trainable(prior=made.learned_prior),
    )


def recorded(world: DenoisingWorld, found: Source | None) -> DenoisingWorld | None:
    """The same world with one task per recorded sample."""
    if found is None:
        return None
    given = None if world.conditions is None else found.mode.to(world.conditions.device)
    return replace(world, size=len(found.samples), conditions=given, samples=found.samples)


def reward(section: TasksSection, decode: Decode) -> Reward | None:
    """Of latents; rewards of images see the images that they decode to."""
    name, options = section.reward, section.reward_options
    if name is None:
        return None
    known: Mapping[str, Any] = POINT_REWARDS if section.points is not None else IMAGE_REWARDS
    if ":" in name:
        given = _imported(name)
        return lambda latents, task: given(decode(latents), task, **options)
    if name not in known:
        near = difflib.get_close_matches(name, known, 1)
        hint = f"did you mean {near[0]!r}? " if near else ""
        raise RecipeError(f"unknown reward {name!r}; {hint}there are {sorted(known)}, or give module:function")
    if section.points is not None:
        _check(known[name], name, options, skip=0)
        return known[name](**options)
    measure, sign = known[name]
    _check(measure, name, options, skip=1)
    return lambda latents, task: sign * measure(decode(latents), **options)


def _check(function: Callable[..., Any], name: str, options: Mapping[str, Any], skip: int) -> None:
    taken = list(inspect.signature(function).parameters)[skip:]
    unknown = sorted(set(options) - set(taken))
    needed = [p.name for p in list(inspect.signature(function).parameters.values())[skip:] if p.default is p.empty]
    missing = sorted(set(needed) - set(options))
    if unknown or missing:
        wrong = f"has no option {unknown}" if unknown else f"needs {missing}"
        raise RecipeError(f"tasks.reward_options: {name} {wrong}; it has {taken}")


def _imported(name: str) -> Callable[..., Tensor]:
    module, _, function = name.partition(":")
    try:
        return getattr(importlib.import_module(module), function)
    except (ImportError, AttributeError) as error:
        raise RecipeError(f"tasks.reward={name!r} cannot be imported: {error}; write module:function") from error
