"""Knobs of credit that entropies modulate."""

import dataclasses
from typing import Any

import torch
from test_dead_knobs import Knob
from torch import Tensor

import cases
from policyopt.credit import entropies
from policyopt.credit.tokens import StepStandardised
from policyopt.objective.clipping import ClipByEntropy
from policyopt.objective.heterogeneous import HeterogeneousSurrogate
from policyopt.policies.heated import Heated
from policyopt.types import Round
from policyopt.update.heating import UpdateHeat
from support import context, full_step, grids, method, numbers, ragged, rewarded


def credited(part: Any) -> Tensor:
    batch = ragged().with_steps(
        {"turn": (torch.arange(13) // 3).expand(4, -1), "entropy": numbers(4, 13, seed=9).abs()}
    )
    found = part(context(method(), grids(full=True)), batch)
    return torch.cat([found.step[name].flatten() for name in part.writes])


def lost(part: Any) -> Tensor:
    case = dataclasses.replace(cases.CASES["heterogeneous"], loss=part)
    found, gradient = full_step(case.context(), cases.rich())
    return torch.cat([found[None], gradient.flatten()])


def ranged(part: Any) -> Tensor:
    return part(ragged().with_steps({"entropy_score": numbers(4, 13, seed=9)}))


def rewarded_rows(part: Any) -> Tensor:
    """Advantages of a group with a short row that is far off."""
    batch = rewarded(ragged((1, 2, 7, 13)), [9.0, 1.0, 0.0, 0.0])
    batch = batch.with_rows({"group": torch.zeros(4, dtype=torch.int64)})
    return part(context(method(), grids()), batch).step["advantage"].flatten()


def heating(part: Any) -> Tensor:
    batch = ragged().with_steps({"entropy": numbers(4, 13, seed=9).abs()})
    ctx = context(method(), {**grids(), "heated": Heated(grids()["policy"], 0.1)})
    part(ctx, Round(batch, batch, batch, {}))
    return ctx.models["heated"].scale.clone()


KNOBS = (
    Knob(entropies.EntropyScores(), credited, {"quantile": 0.2}),
    Knob(StepStandardised(), rewarded_rows, {"epsilon": 0.5, "bound": 1.0}),
    Knob(ClipByEntropy(), ranged, {"base": 0.1, "amount": 0.5}),
    Knob(UpdateHeat(), heating, {"quantile": 0.2}),
    Knob(
        HeterogeneousSurrogate(score="value"),
        lost,
        {"clip_low": 0.05, "clip_high": 0.05, "dual_clip": 1.1, "amount": 0.2},
    ),
    Knob(
        entropies.EntropyModulated(),
        credited,
        {"sharpness": 2.0, "foresight": 2.0, "bonus": 0.5, "epsilon": 0.5},
    ),
    Knob(entropies.StepEntropies(), credited, {"role": "reference"}),
)
