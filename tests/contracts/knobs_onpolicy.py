"""Knobs of the parts of on-policy methods."""

import dataclasses
from typing import Any

import torch
from test_dead_knobs import Knob, optimised
from torch import Tensor

import cases
from policyopt.compose import Role, Term
from policyopt.constraint.divergence import ExactKL
from policyopt.constraint.mirror import InverseAnnealed
from policyopt.credit.running import MOMENTS, RunningStandardised
from policyopt.objective.decoupled import DecoupledSurrogate, RatioSurrogate
from policyopt.objective.dropout import SurrogateDropout
from policyopt.objective.value import SquaredValueError
from policyopt.seen import SeenBatch, collect_roles
from policyopt.types import Round
from policyopt.update.averages import CorrectedAverage
from policyopt.update.averaging import TokenMean
from policyopt.update.gradient import GradientSteps
from policyopt.update.optimizers import SGD, RMSprop
from policyopt.update.stopping import ApproximateKL
from policyopt.update.trust_region import TrustRegion
from support import context, full_step, grids, method, ragged


def loss(part: Any) -> Tensor:
    case = dataclasses.replace(cases.CASES["ratio"], loss=part)
    found, gradient = full_step(case.context(), cases.rich())
    return torch.cat([found[None], gradient.flatten()])


def said(part: Any) -> Tensor:
    """What a function of a scored batch says."""
    ctx = context(method(), grids())
    return torch.as_tensor(part(SeenBatch(ctx, cases.rich()), cases.rich())).double()


def standardised(part: Any) -> Tensor:
    ctx = context(method(), grids())
    rows = part(ctx, ragged(seed=1))
    part.after(ctx, Round(rows, rows, rows, {}))
    now = part(ctx, ragged(seed=2)).step["advantage"].flatten()
    return torch.cat([now, torch.tensor([ctx[MOMENTS]["count"]])])


def averaged(part: Any) -> Tensor:
    ctx = context(method(), grids())
    for _ in range(2):
        part(ctx)
    return ctx.models["old"].logp.detach().clone()


def stepped(part: Any) -> Tensor:
    """Policy, critic, updates and calls of the policy after a step whose full length is too long."""
    roles = {"policy": Role(grad=True, full=True), "old": Role(when="collected", full=True)}
    terms = (
        Term("policy", RatioSurrogate(), TokenMean()),
        Term("trust", ExactKL("old", "policy"), TokenMean(), limit=300.0),
    )
    if part.then is not None:
        terms += (Term("value", SquaredValueError(), TokenMean(), trains="critic"),)
    ctx = context(method(*terms, update=part, roles=roles), grids(full=True))
    part(ctx, collect_roles(ctx, cases.rich()))
    policy, critic = ctx.models["policy"], ctx.models["critic"]
    counts = torch.tensor([float(ctx.updates), float(policy.calls)])
    return torch.cat([policy.logits.detach().flatten(), critic.values.detach().flatten(), counts])


KNOBS = (
    Knob(RatioSurrogate(), loss, {"cap": 1.1}),
    Knob(DecoupledSurrogate(proximal="old"), loss, {"clip_low": 0.05, "clip_high": 0.05, "cap": 1.1}),
    Knob(SurrogateDropout(), loss, {"clip_low": 0.05, "clip_high": 0.05, "share": 0.5}),
    Knob(InverseAnnealed(), said, {"scale": 0.5}),
    Knob(ApproximateKL(10.0), said, {"limit": 1e-4}),
    Knob(RunningStandardised(), standardised, {"decay": 0.5, "epsilon": 0.1}),
    Knob(CorrectedAverage("old"), averaged, {"decay": 0.5}),
    Knob(RMSprop(), optimised, {"learning_rate": 0.2, "decay": 0.5, "epsilon": 0.1}),
    Knob(
        TrustRegion(share=0.5),
        stepped,
        {
            "iterations": 1,
            "damping": 1.0,
            "backtracks": 1,
            "shrink": 0.9,
            "share": 0.95,
            "micro_rows": 1,
            "then": GradientSteps({"critic": SGD(0.1)}),
        },
    ),
)
