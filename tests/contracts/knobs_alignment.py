"""Knobs of preferences between contexts and of matched orders."""

import dataclasses
from typing import Any

import torch
from test_dead_knobs import Knob
from torch import Tensor

import cases
from policyopt.objective.contrasted import ContextPreference
from support import full_step


def loss(key: str) -> Any:
    def found(part: Any) -> Tensor:
        case = dataclasses.replace(cases.CASES[key], loss=part)
        value, gradient = full_step(case.context(), cases.rich())
        return torch.cat([value[None], gradient.flatten()])

    return found


KNOBS = (Knob(ContextPreference(0.3, other="old", other_anchor="teacher"), loss("contexts"), {"beta": 0.6}),)
