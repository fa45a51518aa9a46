"""Knobs of parts for denoising chains: centred ratios, branches, samples, regression."""

from typing import Any

import torch
from test_dead_knobs import Knob
from torch import Tensor

import cases
from policyopt.compose import Role, Term
from policyopt.engines.plain import generate
from policyopt.objective.centred import CentredSurrogate
from policyopt.objective.matching import DenoisingRegression
from policyopt.policies.chains import flow
from policyopt.policies.denoisers import Conditions, VectorDenoiser
from policyopt.policies.denoising import Denoiser
from policyopt.sampling.branches import Branched, Samples
from policyopt.seen import SeenBatch
from policyopt.types import Batch
from policyopt.update.averaging import TokenMean
from policyopt.worlds.denoising import DenoisingWorld
from support import FULL_ROLES, context, full_step, grids, method


def centred(part: Any) -> Tensor:
    """Value and gradient at policies whose ratios lie on both sides of the range."""
    roles = {**FULL_ROLES, "old": Role("old", full=True)}
    ctx = context(method(Term("a", part, TokenMean()), roles=roles), grids(full=True))
    loss, gradient = full_step(ctx, cases.rich())
    return torch.cat([loss[None], gradient.flatten()])


def of_chains() -> Any:
    policy = Denoiser(VectorDenoiser(2, Conditions(classes=2), width=8), flow(4, eta=0.5))
    world = DenoisingWorld(policy.chain.std, 2, 2, conditions=torch.arange(2), samples=torch.eye(2))
    twin = Denoiser(VectorDenoiser(2, Conditions(classes=2), width=8, seed=1), flow(4, eta=0.5))
    return context(method(), {"policy": policy, "old": twin}, world, generate)


def sampled(part: Any) -> Tensor:
    """The latents drawn and the rows' stems."""
    ctx = of_chains()
    found: Batch = part(ctx, lambda: ctx.world.tasks(torch.arange(2)), lambda rows: rows)
    return torch.cat([found.step["_next"].flatten(), found.trained.double().flatten()])


def regressed(part: Any) -> Tensor:
    ctx = of_chains()
    rows = ctx.world.recorded(ctx.world.tasks(torch.arange(2)))
    planned = part.plan(SeenBatch(ctx, rows), rows)
    return part(SeenBatch(ctx, planned), planned).detach()


KNOBS = (
    Knob(CentredSurrogate(), centred, {"clip_low": 0.05, "clip_high": 0.05, "scale": 0.5}),
    Knob(Branched(1, 2), sampled, {"stem": 2, "size": 3, "temperature": 0.5}),
    Knob(Samples(2), sampled, {"size": 3, "temperature": 0.5}),
    Knob(DenoisingRegression(), regressed, {"points": 2, "dropped": 0.9}),
)
