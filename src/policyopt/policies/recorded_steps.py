"""A diffusion model of the steps that control policies take."""

from __future__ import annotations

import math

import torch

from policyopt.compose import CompositionError
from policyopt.policies.chains import diffusion
from policyopt.policies.denoisers import Conditions, VectorDenoiser
from policyopt.policies.denoising import Denoiser
from policyopt.policies.paths import linear_betas
from policyopt.policies.spaces import Actions, Box, Observations

_TIMES = 1000


def denoiser_of_steps(observations: Observations, actions: Actions, rng: torch.Generator) -> Denoiser:
    """A perceptron that predicts the noise in raw steps, told the observation (column `_obs`) as it is; DDPM's path of
    1000 times, which is the variance-preserving process with beta from 0.1 to 20."""
    if not isinstance(actions, Box):
        raise CompositionError(f"a diffusion model is of steps that are numbers (a box), not of {actions}")
    if observations.image or observations.choices:
        raise CompositionError(f"a diffusion model of steps is told vectors of numbers, not {observations}")
    seed = int(torch.randint(2**62, (), generator=rng))
    given = Conditions(features=math.prod(observations.shape))
    network = VectorDenoiser(actions.size, given, width=64, time_scale=float(_TIMES), seed=seed)
    return Denoiser(network, diffusion(15, betas=linear_betas(_TIMES)), condition="_obs")
