"""Trap 48 for every published method: a round, a checkpoint on disk, a new run that loads it and another round equal
two rounds straight, bit for bit, in state and in metrics. (Over every round, and through processes that are killed:
test_resume.py; with streams of environments: test_gymnasium.py; through several processes: test_sharding.py.)"""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

import one_core
from contracts.test_one_core import small
from one_core import kind
from policyopt.compose import Given, Method, Program, Stage
from policyopt.engines.plain import generate
from policyopt.methods import keys, load
from policyopt.run import Run
from policyopt.runtime import checkpoint
from policyopt.sampling.streams import Stream
from policyopt.train import rounds

pytestmark = pytest.mark.usefixtures("float64")

CHEAPEST = ("tabular", "control", "denoising", "language")
ELSEWHERE = {
    "crm": "its epochs sort whole minibatches, which four rows do not fill",
    "oppo": "its codes need a policy with a place for them",
    "self_ref_feedback": "it asks about answers in words, which these tasks do not have",
}


def suited(made: Method) -> str:
    """The cheapest kind of policy that a method runs on here; empty: none."""
    able = [name for name in CHEAPEST if name in made.about.policies]
    return "denoising" if made.key == "refuel" else "".join(able[:1])


def left_out(key: str) -> str:
    """Why a method is not resumed here; empty if it is."""
    made = load(key)
    if isinstance(made.sampling, Stream):
        return "streams: test_gymnasium.py"
    return ELSEWHERE.get(key, "" if suited(made) else f"tasks of its own: test_{key}.py")


def begun(made: Method, name: str) -> Run:
    of = kind(name)
    models = {"policy": copy.deepcopy(of.models["policy"])}
    models |= {n: copy.deepcopy(of.models["teacher"]) for n, spec in made.models.items() if isinstance(spec, Given)}
    world = one_core.recorded(of)
    return Run(models, world, generate, 1, worlds={made.world: world})


def parts(value: Any, place: str = "") -> dict[str, Any]:
    """What a state holds, by place: tensors, and other values as text."""
    if isinstance(value, Tensor):
        return {place: value}
    held: Any = value.__dict__ if hasattr(value, "__dataclass_fields__") else value
    if isinstance(held, (list, tuple)):
        held = dict(enumerate(held))
    if not hasattr(held, "items"):
        return {place: repr(held)}
    return {k: v for name, item in held.items() for k, v in parts(item, f"{place}/{name}").items()}


def alike(one: Any, other: Any) -> bool:
    if not isinstance(one, Tensor) or not isinstance(other, Tensor):
        return one == other
    bits = [x.contiguous().flatten().view(torch.uint8) for x in (one, other)]
    return one.dtype == other.dtype and one.shape == other.shape and torch.equal(*bits)


@pytest.mark.parametrize("key", keys())
def test_trap_48_every_method_goes_on_as_if_it_had_not_stopped(key: str, tmp_path: Path) -> None:
    if left_out(key):
        pytest.skip(left_out(key))
    made = load(key)
    name, program = suited(made), Program((Stage(small(made), 2),))
    straight, told = begun(made, name), []
    for done in rounds(straight, program):
        told.append(repr(dict(done.metrics)))
        if straight.step == 1:
            checkpoint.save(straight.state(), tmp_path / "1.ckpt")
    again = begun(made, name)
    again.load_state(checkpoint.load(tmp_path / "1.ckpt"), program)
    assert [repr(dict(done.metrics)) for done in rounds(again, program)] == told[1:]
    right, found = parts(straight.state()), parts(again.state())
    assert right.keys() == found.keys()
    assert not [place for place in right if not alike(right[place], found[place])]
