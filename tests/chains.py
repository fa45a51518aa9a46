"""What tests of denoising methods share: a small float64 chain, one round of a method, gradients by hand."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from policyopt.compose import Method, Program, Stage
from policyopt.engines.plain import generate
from policyopt.ops.random import new_keys
from policyopt.policies.chains import NoiseChain, flow
from policyopt.policies.denoisers import Conditions, VectorDenoiser
from policyopt.policies.denoising import Denoiser
from policyopt.run import Run
from policyopt.train import rounds
from policyopt.types import Batch, Round
from policyopt.update.gradient import GradientSteps
from policyopt.update.optimizers import SGD
from policyopt.worlds.denoising import DenoisingWorld

DIMS, TASKS = 3, 4


def denoiser(chain: NoiseChain | None = None, seed: int = 0, classes: int = TASKS, **options: Any) -> Denoiser:
    """A small network in three dimensions, conditioned on the task."""
    network = VectorDenoiser(DIMS, Conditions(classes=classes), width=8, depth=2, seed=seed).double()
    return Denoiser(network, flow(5, 0.7) if chain is None else chain, **options).double()


def worth(points: Tensor, task: Tensor) -> Tensor:
    """A smooth reward that differs by task."""
    return points[:, 0] - 0.3 * points[:, 1] ** 2 + 0.5 * task


def world(policy: Denoiser, reward: Callable[..., Any] = worth, size: int = TASKS, **options: Any) -> DenoisingWorld:
    return DenoisingWorld(policy.chain.std, DIMS, size, reward, torch.arange(size) % TASKS, **options)


def drawn(policy: Denoiser, count: int = 6, seed: int = 3) -> Batch:
    """Finished chains of the tasks in turn."""
    place = world(policy)
    keys = new_keys(count, torch.Generator().manual_seed(seed))
    return generate(policy, place, place.start(place.tasks(torch.arange(count) % TASKS)), keys, 1.0, 0)


@dataclass(frozen=True)
class Step:
    """One round of a method with one plain gradient step: minus the change of the parameters, flattened."""

    gradient: Tensor
    round: Round
    policy: Denoiser


def flat(parameters: Any) -> Tensor:
    return torch.cat([p.detach().flatten() for p in parameters])


def one_step(made: Method, policy: Denoiser, place: Any, seed: int = 0, **models: Any) -> Step:
    """The first round of a method; its update is one step of gradient descent of rate 1."""
    update = GradientSteps({name: SGD(1.0) for name in made.update.optimizers}, clip_norm=None)
    run = Run({"policy": policy, **models}, place, generate, seed)
    before = flat(policy.parameters())
    done = next(rounds(run, Program((Stage(replace(made, update=update), 1),))))
    return Step(before - flat(policy.parameters()), done, policy)


def gradient_of(value: Tensor, policy: Denoiser) -> Tensor:
    parts = torch.autograd.grad(value, list(policy.parameters()), allow_unused=True, materialize_grads=True)
    return torch.cat([part.flatten() for part in parts])


def logp_by_hand(policy: Denoiser, batch: Batch) -> list[list[Tensor]]:
    """log N(next; mean, std) of every trained step of every row, averaged over dimensions, written out from the SDE
    of a rectified flow: mean = z + d v - eta^2 / 2 score d, std = eta sqrt(-d), score = -(z - (1 - s) xhat0) / s^2."""
    solver: Any = policy.chain.solver
    steps, eta = policy.chain.steps, solver.eta
    found = []
    for b in range(len(batch)):
        row = []
        for t in batch.trained[b].nonzero()[:, 0].tolist():
            k = int(batch.step["_clock"][b, t]) - 1
            s, after = 1 - k / steps, 1 - (k + 1) / steps
            z, reached = batch.step["_latent"][b, t], batch.step["_next"][b, t]
            v = policy.network(z[None], torch.tensor([s]), batch.row["_condition"][b : b + 1])[0]
            score = -(z - (1 - s) * (z - s * v)) / s**2
            d = after - s
            mean, std = z + d * v - 0.5 * eta**2 * score * d, eta * (-d) ** 0.5
            entries = -0.5 * ((reached - mean) / std) ** 2 - torch.tensor(std * (2 * torch.pi) ** 0.5).log()
            row.append(entries.mean())
        found.append(row)
    return found
