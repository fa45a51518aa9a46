"""Diffusion policies for control: a denoiser of action chunks, conditioned on observations; as data and in a folder.

The chain's conventions are DPPO's (arXiv 2409.00588, appendix C): a least std in every step, densities clamped and
averaged over entries, noise and clean samples clipped.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from policyopt.policies.chains import NoiseChain, diffusion
from policyopt.policies.denoisers import Conditions, VectorDenoiser, partly_frozen
from policyopt.policies.denoising import Denoiser
from policyopt.policies.folders import BROKEN, Folder
from policyopt.policies.spaces import Box
from policyopt.policies.transitions import ClampedAverage
from policyopt.worlds.denoising import Trainable
from policyopt.worlds.two_clocks import within


class DiffusionPolicyFolderError(ValueError):
    """A folder that can not be opened as a diffusion policy; says what is wrong with it and the remedy."""


FOLDER = Folder("diffusion_policy", "diffusion policy", 1, DiffusionPolicyFolderError)


@dataclass(frozen=True)
class DiffusionPolicySpec:
    """A diffusion policy as pure data.

    observations: the shape of one; centre, spread: they are read as (x - centre) / spread, empty: as they are. low,
    high: bounds of one action; a sample is `chunk` actions as numbers in -1..1, executed one after another. steps: of
    the chain; least_std: of each. last: only the last so many are trained, the others run a frozen copy of the network;
    None: all are.
    """

    observations: tuple[int, ...]
    low: tuple[float, ...]
    high: tuple[float, ...]
    chunk: int = 1
    steps: int = 10
    width: int = 128
    depth: int = 3
    least_std: float = 0.1
    centre: tuple[float, ...] = ()
    spread: tuple[float, ...] = ()
    last: int | None = None

    @property
    def actions(self) -> Box:
        return Box((len(self.low),), self.low, self.high)

    @property
    def dims(self) -> int:
        return self.chunk * len(self.low)

    @property
    def trainable(self) -> Trainable:
        return Trainable(last=self.last)

    def chain(self) -> NoiseChain:
        return diffusion(self.steps, density=ClampedAverage(), min_std=self.least_std, noise_clip=3.0, clip_clean=1.0)

    def make(self, seed: int = 0) -> Denoiser:
        """A policy of random weights, a function of the seed alone."""
        seen = Conditions(features=math.prod(self.observations), centre=self.centre, spread=self.spread)
        network = VectorDenoiser(self.dims, seen, self.width, self.depth, time_scale=self.steps, seed=seed)
        return self.around(network)

    def around(self, network: VectorDenoiser) -> Denoiser:
        """The policy of a network, of which steps before the last ones keep a frozen copy."""
        chain = self.chain()
        parted = network if self.last is None else partly_frozen(network, chain.levels.time, self.last)
        return Denoiser(parted, chain, condition="_obs")

    def emit(self) -> Callable[[Tensor], Tensor]:
        """From samples to what the environment takes."""
        return within(torch.tensor(self.low), torch.tensor(self.high))

    def receive(self, action: Tensor) -> Tensor:
        """Actions (..., A) as numbers in -1..1; those beyond the bounds are clipped."""
        low, high = action.new_tensor(self.low), action.new_tensor(self.high)
        return (2 * (action - low) / (high - low) - 1).clamp(-1, 1)


def save_diffusion_policy(policy: Denoiser, spec: DiffusionPolicySpec, folder: str | Path) -> None:
    """Write the policy that `spec` made; the folder is made. Both files are whole or as they were."""
    FOLDER.write(folder, dataclasses.asdict(spec), policy)


def load_diffusion_policy(folder: str | Path, last: int | None = None) -> tuple[Denoiser, DiffusionPolicySpec]:
    """The policy of a folder. last: train the last so many steps and keep a frozen copy of the network for the others;
    not for a policy that was trained so already."""
    try:
        content, weights = FOLDER.read(folder)
        fields: dict[str, Any] = {k: tuple(v) if isinstance(v, list) else v for k, v in content.items()}
        spec = DiffusionPolicySpec(**fields)
        policy = spec.make()
        policy.load_state_dict(weights)
        if last is not None and last != spec.last:
            if spec.last is not None:
                raise ValueError(f"its last {spec.last} steps were trained; it can not train the last {last}")
            spec = dataclasses.replace(spec, last=last)
            policy = spec.around(policy.network)
    except DiffusionPolicyFolderError:
        raise
    except BROKEN as error:
        raise FOLDER.refusal(folder, error) from error
    return policy, spec
