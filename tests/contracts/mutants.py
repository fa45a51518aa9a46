"""Wrong versions of the library, one per mistake that other libraries shipped. `test_mutations` plants each and
demands that the named test fails.

A mutant is a function that plants a bug through `Patch`; its decorator names the traps it belongs to and the tests
that must reject it ("module::test").
"""

from __future__ import annotations

import dataclasses
import sys
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytest
import torch

NORMALISATION, RATIOS = "test_traps_normalisation", "test_traps_ratios"
SEQUENCES, RUN, KNOBS = "test_traps_sequences", "test_traps_run", "test_dead_knobs"
GROUPS, DIVERGENCE, RETURNS = "test_traps_groups", "test_traps_divergence", "test_traps_returns"
CONTROL_POLICIES, CONTROL_WORLDS = "test_traps_control_policies", "test_traps_control_worlds"
DENOISING, DISTILLATION = "test_traps_denoising", "test_traps_distillation"
TRAP_MODULES = (
    *(DENOISING, DISTILLATION),
    *(NORMALISATION, GROUPS, RATIOS, DIVERGENCE, SEQUENCES, RETURNS, RUN, KNOBS),
    *(CONTROL_POLICIES, CONTROL_WORLDS, "test_transitions", "test_sac", "test_td3", "test_dqn"),
)
LOOPS = "test_losses::test_all_losses_equal_the_loops"


@dataclass(frozen=True)
class Patch:
    """Plants replacements that last for one test."""

    monkeypatch: pytest.MonkeyPatch

    def function(self, original: Callable, wrong: Callable) -> None:
        """Replace a function in every module that has imported it."""
        names = ("policyopt", "test_", "support", "cases", "enumeration")
        found = False
        for name, module in list(sys.modules.items()):
            if not name.startswith(names):
                continue
            for attribute, value in list(vars(module).items()):
                if value is original:
                    self.monkeypatch.setattr(module, attribute, wrong)
                    found = True
        assert found, f"{original} is used nowhere"

    def method(self, owner: type, name: str, wrong: Any) -> None:
        self.monkeypatch.setattr(owner, name, wrong)


@dataclass(frozen=True)
class Mutant:
    name: str
    traps: tuple[int, ...]
    rejected_by: tuple[str, ...]
    plant: Callable[[Patch], None]


MUTANTS: list[Mutant] = []


def mutant(*rejected_by: str, traps: tuple[int, ...] = ()) -> Callable:
    def register(plant: Callable[[Patch], None]) -> Callable[[Patch], None]:
        MUTANTS.append(Mutant(plant.__name__, traps, rejected_by, plant))
        return plant

    return register


def replaced(part: Any, **options: Any) -> Any:
    return dataclasses.replace(part, **options)


def counted(mask: torch.Tensor) -> torch.Tensor:
    return mask.double()
