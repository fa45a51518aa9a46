"""Regression of denoisers on recorded samples: how few steps their samples need."""

from __future__ import annotations

import torch
from torch import Tensor

from policyopt.compose import Method, Program, Stage
from policyopt.evaluation.experiments._common import CountingEngine, Outcome, numbers
from policyopt.evaluation.experiments._denoising import off_ring, sampled
from policyopt.policies.chains import NoiseChain, diffusion, flow
from policyopt.policies.denoisers import VectorDenoiser
from policyopt.policies.denoising import Denoiser
from policyopt.policies.paths import linear_betas
from policyopt.run import Run
from policyopt.train import rounds as train_rounds
from policyopt.worlds.denoising import DenoisingWorld
from policyopt.worlds.drawings import eight_gaussians

FEW, MANY, COUNT = 4, 50, 2000


def _chain(path: str, steps: int) -> NoiseChain:
    """Deterministic sampling along straight lines, or along a diffusion's path."""
    return flow(steps, eta=0.0) if path == "straight" else diffusion(steps, eta=0.0, betas=linear_betas(1000))


def _energy_distance(x: Tensor, y: Tensor) -> float:
    """2 E|X - Y| - E|X - X'| - E|Y - Y'|, without the zeros of a point's distance to itself."""

    def within(z: Tensor) -> Tensor:
        return torch.cdist(z, z).sum() / (len(z) * (len(z) - 1))

    return float(2 * torch.cdist(x, y).mean() - within(x) - within(y))


def few_steps(method: Method, seed: int, rounds: int, path: str = "straight") -> Outcome:
    """A perceptron regressed on 8 Gaussians along a path, then sampled deterministically.

    value: energy distance of 2000 samples of 4 steps to fresh data. score: minus that of samples of 50 steps.
    """
    samples, _ = eight_gaussians(4096, numbers(seed, "samples"))
    fresh, _ = eight_gaussians(COUNT, numbers(seed, "fresh samples"))
    chain = _chain(path, MANY)
    network = VectorDenoiser(2, width=64, time_scale=1.0 if path == "straight" else 1000.0, seed=seed)
    policy, engine = Denoiser(network, chain), CountingEngine()
    run = Run({"policy": policy}, DenoisingWorld(chain.std, 2, len(samples), samples=samples), engine, seed)
    curve, rows = [], 0
    for done in train_rounds(run, Program((Stage(method, rounds),))):
        curve.append(done.metrics["loss/matching"])
        rows += len(done.judged)
    with torch.no_grad():
        many = sampled(policy, COUNT, seed).row["_latent"]
        few = sampled(Denoiser(network, _chain(path, FEW)), COUNT, seed).row["_latent"]
    return Outcome(
        value=_energy_distance(few, fresh),
        score=-_energy_distance(many, fresh),
        rows=rows,
        curve=tuple(curve),
        curve_label="regression error",
        notes={
            "energy distance of samples of 50 steps": _energy_distance(many, fresh),
            "mean distance to the nearest centre, 4 steps (data: 0.19)": off_ring(few),
            "mean distance to the nearest centre, 50 steps": off_ring(many),
        },
    )
