"""Trap 25: no dead knobs. Every numeric or None-able option of every part, found by walking the axes' packages,
changes what the part does. A new part or option without an entry here fails the suite."""

import dataclasses
import importlib
import inspect
import math
import pkgutil
import types
import typing
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import cases
import policyopt
from policyopt.compose import Role, Term, trained_rows
from policyopt.constraint import divergence
from policyopt.credit import groups, returns
from policyopt.engines.plain import generate
from policyopt.objective import preference, supervised, surrogates, value
from policyopt.policies.tabular import Table
from policyopt.reward import parts
from policyopt.sampling import samplers
from policyopt.seen import SeenBatch, collect_roles
from policyopt.selection import tasks
from policyopt.train import _draw, _judge
from policyopt.types import Batch, Finish, Round
from policyopt.update import averaging, following, gradient, micro_batches, optimizers
from policyopt.worlds.sequences import SequenceWorld
from support import (
    Grid,
    context,
    full_step,
    grid,
    grids,
    method,
    numbers,
    ragged,
    rewarded,
    with_row,
)

pytestmark = pytest.mark.usefixtures("float64")

AXES = ("selection", "sampling", "reward", "feedback", "credit", "objective", "constraint", "update")
RECORDS = {gradient.Planned, micro_batches.Passes}  # dataclasses of these packages that are no parts


def parts_of_the_library() -> set[type]:
    """Concrete option records of every axis."""
    found = set()
    for axis in AXES:
        package = importlib.import_module(f"{policyopt.__name__}.{axis}")
        for info in pkgutil.iter_modules(package.__path__):
            module = importlib.import_module(f"{package.__name__}.{info.name}")
            for _, part in inspect.getmembers(module, inspect.isclass):
                here = part.__module__ == module.__name__
                if here and dataclasses.is_dataclass(part) and not inspect.isabstract(part):
                    found.add(part)
    return found - RECORDS


def knobs_of(part: type) -> set[str]:
    """Names of its options that are numbers or may be None."""
    hints = typing.get_type_hints(part)
    names = set()
    for option in dataclasses.fields(part):
        hint = hints[option.name]
        union = isinstance(hint, types.UnionType) or typing.get_origin(hint) is typing.Union
        kinds = set(typing.get_args(hint)) if union else {hint}
        if kinds & {int, float, type(None)} or hint == tuple[float, float]:
            names.add(option.name)
    return names


# -- what a part does, as numbers -------------------------------------------------------------------------------
def loss(part: Any) -> Tensor:
    """Value and gradient of a loss on the rich batch."""
    key = {
        preference.PairLogistic: "pair_logistic",
        surrogates.GeometricSequenceSurrogate: "geometric",
        surrogates.ProductSequenceSurrogate: "product",
        value.SquaredValueError: "value",
        supervised.GeneralisedJensenShannon: "jensen_shannon",
        surrogates.ClippedSurrogate: "clipped",
    }[type(part)]
    case = dataclasses.replace(cases.CASES[key], loss=part)
    found, gradient_ = full_step(case.context(), cases.rich(), model=case.trains)
    return torch.cat([found[None], gradient_.flatten()])


def weight(part: Any) -> Tensor:
    ctx = context(method(), grids())
    return part(SeenBatch(ctx, cases.rich()), cases.rich())


def credit(part: Any) -> Tensor:
    batch = with_row(ragged(), finish=[1, 1, 1, int(Finish.TRUNCATED)])
    found = part(context(method(), grids()), batch)
    return torch.cat([found.step[name].flatten() for name in part.writes])


def reward(part: Any) -> Tensor:
    class World:
        def grade(self, batch: Batch) -> Tensor:
            return torch.arange(len(batch)).double()

    batch = with_row(ragged(), finish=[1, 1, 1, int(Finish.TRUNCATED)])
    return part(context(method(), grids(), World()), batch).step["reward"]


def kept(part: Any) -> Tensor:
    batch = rewarded(ragged((2, 2, 2, 2)), [0.0, 0.0, 0.5, 5.0])
    return part(None, batch).row["_row"]


def solved(strings: Tensor, task: Tensor) -> Tensor:
    return (strings[:, 0] == task).double()


def world() -> SequenceWorld:
    """Twelve tasks, of which the policy below always solves all but two."""
    return SequenceWorld(12, 12, 1, solved)


def context_of_world(part: Any = None) -> Any:
    table = torch.eye(12) * 200.0
    table[[4, 9]] = numbers(2, 12)
    return context(method(sampling=part), {"policy": Table(table)}, world(), generate)


def sampled(part: Any) -> Tensor:
    """How many tasks were drawn, and the sampler's log-probabilities."""
    ctx = context_of_world(part)
    count = 12 if isinstance(part, samplers.Group) else 2
    ctx.stage = dataclasses.replace(ctx.stage, reward=parts.Verified(), selection=tasks.Selection(count))
    found = part(ctx, _draw(ctx), _judge(ctx))
    return torch.cat([torch.tensor([float(ctx.run.drawn)]), found.step["behaviour"].flatten()])


def drawn(part: Any) -> Tensor:
    return part.draw(context_of_world(), None).id.double()


def averaged(part: Any) -> Tensor:
    batch = ragged()
    return part(batch.trained, batch, lambda x: x)


def factors(part: Any) -> Tensor:
    return torch.tensor([part.factor(step, 10) for step in range(12)])


def optimised(part: Any) -> Tensor:
    """A parameter after four steps of a changing gradient."""
    parameter = nn.Parameter(torch.tensor([1.0, -2.0]))
    optimizer = part.make([parameter])
    for step in range(4):
        optimizer.param_groups[0]["lr"] = part.at(step, 10)
        parameter.grad = torch.tensor([1.0 + step, -0.001])
        optimizer.step()
    return parameter.detach()


def updated(part: Any) -> Tensor:
    """Parameters and updates after a call, and how often the policy was asked."""
    part = dataclasses.replace(part, optimizers={"policy": optimizers.SGD(0.1)})
    term = Term("a", surrogates.GeometricSequenceSurrogate(0.5, 0.5), averaging.RowMean(), trained_rows)
    ctx = context(method(term, update=part, roles={"old": Role(when="collected")}), grids())
    policy, batch = ctx.models["policy"], collect_roles(ctx, cases.rich())
    policy.calls = 0
    part(ctx, batch)
    counts = torch.tensor([float(ctx.updates), float(policy.calls)])
    return torch.cat([policy.logp.detach().flatten(), counts])


def followed(part: Any) -> Tensor:
    ctx = context(method(), grids())
    ctx.run.step = 4
    part(ctx, Round(cases.rich(), cases.rich(), cases.rich(), {}))
    return ctx.models["old"].logp.detach().clone()


def baseline(part: Any) -> Tensor:
    ctx = context(method(), {"policy": grid(0)})
    for shift in (0.0, 1.0):
        rows = cases.rich()
        rows = rows.with_steps({"return": rows.step["return"] + shift})
        part(ctx, Round(rows, rows, rows, {}))
    return torch.tensor([ctx[returns.BASELINE]["mean"]])


@dataclass(frozen=True)
class Knob:
    """A part, another value for each of its options, and how to see the difference. `also`: other options that
    must be set for it to matter."""

    part: Any
    see: Callable[[Any], Tensor]
    other: dict[str, Any]


KNOBS: tuple[Knob, ...] = (
    Knob(surrogates.ClippedSurrogate(), loss, {"clip_low": 0.05, "clip_high": 0.05, "dual_clip": 1.05}),
    Knob(surrogates.GeometricSequenceSurrogate(), loss, {"clip_low": 0.9, "clip_high": 0.9}),
    Knob(surrogates.ProductSequenceSurrogate(), loss, {"clip_low": 0.9, "clip_high": 2.0}),
    Knob(surrogates.TruncatedImportance(), weight, {"cap": 0.9}),
    Knob(preference.PairLogistic(), loss, {"beta": 0.2, "label_smoothing": 0.1}),
    Knob(supervised.GeneralisedJensenShannon(), loss, {"beta": 0.4}),
    Knob(value.SquaredValueError(), loss, {"clip": 0.3}),
    Knob(groups.GroupStandardised(), credit, {"epsilon": 0.1, "ddof": 0, "bound": 0.5}),
    Knob(returns.ReturnToGo(), credit, {"gamma": 0.9}),
    Knob(returns.UpdateBaseline(), baseline, {"decay": 0.5}),
    Knob(returns.GeneralisedAdvantage(), credit, {"gamma": 0.9, "lam": 0.5}),
    Knob(parts.Verified(), reward, {"truncated": -1.0}),
    Knob(parts.OverlongPenalty(12, 6), reward, {"limit": 11, "buffer": 5}),
    Knob(parts.ReferencePenalty(), reward, {"beta": 0.5}),
    Knob(tasks.InformativeGroups(), kept, {"tolerance": 1.0}),
    Knob(tasks.Selection(), drawn, {"count": 3}),
    Knob(samplers.Group(), sampled, {"size": 3, "temperature": 0.5}),
    Knob(samplers.DynamicSampling(), sampled, {"size": 3, "temperature": 0.5, "most_draws": 1}),
    Knob(averaging.SequenceSum(), averaged, {"constant": 3.0}),
    Knob(optimizers.Constant(), factors, {"warmup": 3}),
    Knob(optimizers.Linear(), factors, {"warmup": 3, "final": 0.5}),
    Knob(optimizers.Cosine(), factors, {"warmup": 3, "final": 0.5}),
    Knob(
        optimizers.AdamW(0.1),
        optimised,
        {"learning_rate": 0.2, "betas": (0.5, 0.9), "weight_decay": 0.5, "epsilon": 0.1},
    ),
    Knob(optimizers.SGD(), optimised, {"learning_rate": 0.2, "momentum": 0.5}),
    Knob(
        gradient.GradientSteps(clip_norm=1e3),
        updated,
        {"epochs": 2, "minibatches": 2, "micro_rows": 1, "micro_tokens": 9, "trust_sampler": 1e9, "clip_norm": 1e-3},
    ),
    Knob(following.Average("old", decay=0.9), followed, {"decay": 0.5, "every": 2}),
    Knob(following.Refresh("old"), followed, {"every": 2}),
)

# Parts of one subject may keep their knobs in a file of their own: tests/contracts/knobs_SUBJECT.py with `KNOBS`.
for _path in sorted(Path(__file__).parent.glob("knobs_*.py")):
    KNOBS += importlib.import_module(_path.stem).KNOBS


def test_trap_25_every_option_of_every_part_has_a_knob_here() -> None:
    listed = {type(knob.part): set(knob.other) for knob in KNOBS}
    for part in parts_of_the_library():
        missing = knobs_of(part) - listed.get(part, set())
        assert not missing, f"{part.__name__}: add {sorted(missing)} to KNOBS here or in knobs_*.py"


def test_parts_are_frozen() -> None:
    """A part holds no state: its options can not be changed once it is made."""
    for part in parts_of_the_library():
        assert part.__dataclass_params__.frozen, part.__name__


def test_trap_25_no_knob_is_dead() -> None:
    for knob in KNOBS:
        before = knob.see(knob.part)
        for name, other in knob.other.items():
            assert getattr(knob.part, name) != other
            after = knob.see(dataclasses.replace(knob.part, **{name: other}))
            same = before.shape == after.shape and bool(torch.equal(before, after))
            assert not same, f"{type(knob.part).__name__}.{name} changes nothing"


def test_trap_25_memory_knobs_change_memory_only() -> None:
    """micro_rows changes how often the policy is asked, not one number of the result."""
    plain = updated(gradient.GradientSteps(clip_norm=None))
    small = updated(gradient.GradientSteps(clip_norm=None, micro_rows=1))
    assert plain[-1] == 1
    assert small[-1] == 4
    assert float((plain[:-1] - small[:-1]).abs().max()) < 1e-14
    assert not torch.equal(plain[:-2], Grid(logp=grids()["policy"].logp.detach()).logp.detach().flatten())


def test_roles_of_exact_kl_are_knobs_too() -> None:
    """Names of roles, critics and models are read."""
    batch = cases.rich()
    case = cases.CASES["exact_kl"]
    turned = dataclasses.replace(case, loss=divergence.ExactKL("reference", "policy"))
    assert float((full_step(case.context(), batch)[0] - full_step(turned.context(), batch)[0]).abs()) > 1e-3
    models = {**grids(), "other": grid(40)}
    ctx = context(method(), models)
    first = returns.GeneralisedAdvantage()(ctx, batch).step["advantage"]
    second = returns.GeneralisedAdvantage(critic="other")(ctx, batch).step["advantage"]
    assert not torch.equal(first, second)
    assert math.isfinite(float(first.sum() + second.sum()))
    raw = returns.GeneralisedAdvantage(whitened=False)(ctx, batch).step["advantage"]
    assert not torch.equal(first, raw)
