"""Knobs of updates from rankings."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch
from test_dead_knobs import Knob
from torch import Tensor

from policyopt.compose import Program, Stage
from policyopt.engines.plain import generate
from policyopt.methods import load
from policyopt.options import override
from policyopt.policies.tabular import Table
from policyopt.run import Run
from policyopt.sampling.perturbed import Perturbed
from policyopt.train import rounds
from policyopt.update.ranked import RankedStep
from policyopt.worlds.sequences import SequenceWorld


def trained(part: Any) -> Tensor:
    """The policy after six rounds, and how many rows were judged in the last."""
    axis = "update" if isinstance(part, RankedStep) else "sampling"
    made = override(load("zo_ranksgd"), {"selection.count": 2, "sampling.candidates": 5, "update.points": 2})
    world = SequenceWorld(2, 3, 3, lambda s, task: (s == torch.tensor([2, 0, 1])).double().mean(1))
    run = Run({"policy": Table(torch.arange(18.0).view(6, 3) % 5 / 2)}, world, generate, 3)
    *_, last = rounds(run, Program((Stage(replace(made, **{axis: part}), 6),)))
    policy: Any = run.models["policy"]
    return torch.cat([policy.logits.detach().flatten(), torch.tensor([float(len(last.judged))])])


KNOBS = (
    Knob(Perturbed(5), trained, {"candidates": 4, "scale": 3.0, "size": 2, "temperature": 0.3}),
    Knob(RankedStep(points=4), trained, {"rate": 0.7, "best": 1, "points": 0, "factor": 0.8}),
)
