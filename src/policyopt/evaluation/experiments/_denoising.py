"""Base models for experiments on denoising chains: a rectified flow on eight Gaussians, trained by the library."""

from __future__ import annotations

import copy
import functools
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from policyopt.compose import Program, Stage
from policyopt.engines.plain import generate
from policyopt.evaluation.experiments._common import CountingEngine, numbers
from policyopt.methods.flow_matching import flow_matching
from policyopt.objective.matching import DenoisingRegression
from policyopt.ops.random import new_keys
from policyopt.policies.chains import NoiseChain, flow
from policyopt.policies.denoisers import VectorDenoiser
from policyopt.policies.denoising import Denoiser
from policyopt.run import Run
from policyopt.train import rounds
from policyopt.types import Batch
from policyopt.update.gradient import GradientSteps
from policyopt.update.optimizers import AdamW, Linear
from policyopt.worlds.denoising import DenoisingWorld
from policyopt.worlds.drawings import eight_gaussians, nearest_mode, ring_centres

CENTRES = ring_centres()
LOSS = DenoisingRegression(points=1)


@functools.lru_cache(maxsize=16)
def _base_flow(seed: int) -> VectorDenoiser:
    """Velocity network of a rectified flow on 8 Gaussians (radius 2, std 0.15); about 4 s on one core."""
    samples, _ = eight_gaussians(4096, numbers(seed, "eight gaussians"))
    chain = flow(16, eta=0.0)
    policy = Denoiser(VectorDenoiser(2, width=64, seed=seed), chain)
    run = Run({"policy": policy}, DenoisingWorld(chain.std, 2, len(samples), samples=samples), CountingEngine(), seed)
    steps = GradientSteps({"policy": AdamW(learning_rate=0.01, schedule=Linear())})
    method = replace(flow_matching, update=steps, objective=(replace(flow_matching.objective[0], loss=LOSS),))
    for _ in rounds(run, Program((Stage(method, 1500),))):
        pass
    return policy.network


def eight_gaussians_flow(seed: int, chain: NoiseChain) -> Denoiser:
    """A copy of the base model of a seed, sampled by a chain (a flow: the network predicts the velocity)."""
    return Denoiser(copy.deepcopy(_base_flow(seed)), chain)


def sampled(policy: Any, count: int, seed: int, world: Any = None) -> Batch:
    """`count` finished chains of a policy, of the world's tasks in turn."""
    world = DenoisingWorld(policy.chain.std, policy.dims, 1) if world is None else world
    ids = torch.arange(count) % world.size
    return generate(policy, world, world.start(world.tasks(ids)), new_keys(count, numbers(seed, "samples")), 1.0, 0)


def share_of_modes(points: Tensor) -> Tensor:
    """(8,) share of points nearest to each centre."""
    return nearest_mode(points, CENTRES)[0].bincount(minlength=8) / len(points)


def off_ring(points: Tensor) -> float:
    """Mean distance to the nearest centre; 0.19 for the data."""
    return float(nearest_mode(points, CENTRES)[1].mean())
