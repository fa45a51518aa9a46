"""Traps whose cause lies in a policy, on a small real policy of every kind: language, control, denoising, tables.

15 temperature, 18 randomness while scoring, 38 the reference, 46 streams of random numbers.
"""

from __future__ import annotations

import copy
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

import one_core
from one_core import KINDS, kind
from policyopt.compose import Copy, Program, Role, Stage, Term
from policyopt.constraint.divergence import KLToReference
from policyopt.credit.groups import GroupCentred
from policyopt.engines.plain import generate
from policyopt.objective.surrogates import ClippedSurrogate
from policyopt.ops.random import new_keys
from policyopt.reward.parts import Verified
from policyopt.run import Run
from policyopt.sampling.samplers import Group
from policyopt.selection.tasks import Selection
from policyopt.train import rounds
from policyopt.types import Batch
from policyopt.update.averaging import TokenMean
from policyopt.update.gradient import GradientSteps
from policyopt.update.optimizers import AdamW
from support import close, method

pytestmark = pytest.mark.usefixtures("float64")


def sampled(name: str, temperature: float = 1.0, seed: int = 5, rows: Tensor | None = None) -> Batch:
    """Two attempts at each of four tasks, or some of these rows in other company."""
    of = kind(name)
    batch = of.world.start(of.world.tasks(torch.arange(8) % of.world.size // 2))
    keys = new_keys(8, torch.Generator().manual_seed(seed))
    batch = batch.with_rows({"temperature": torch.full((8,), temperature)})
    if rows is not None:
        batch, keys = batch[rows], keys[rows]
    with torch.no_grad():
        return generate(of.models["policy"], of.world, batch, keys, temperature, 0)


@pytest.mark.parametrize("name", KINDS)
def test_trap_15_a_row_is_scored_at_the_temperature_it_was_sampled_at(name: str) -> None:
    """At 0.6 the first ratio is 1; scored at 1 it is not; values know nothing of it."""
    of: Any = kind(name)
    rows = sampled(name, 0.6)
    policy, critic = of.models["policy"], of.models["critic"]
    warm = rows.with_rows({"temperature": torch.ones(8)})
    with torch.no_grad():
        change = (policy.score(rows).logp - rows.step["behaviour"])[rows.trained]
        close(change.exp(), torch.ones_like(change), 1e-10)
        other = (policy.score(warm).logp - rows.step["behaviour"])[rows.trained]
        assert float(other.abs().max()) > 1e-2
        assert torch.equal(critic.value(rows), critic.value(warm))


@pytest.mark.parametrize("name", KINDS)
def test_trap_18_nothing_is_random_while_scoring(name: str) -> None:
    of: Any = kind(name)
    rows = of.rows
    for model in ("policy", "critic"):
        twin = copy.deepcopy(of.models[model]).train()
        ask = twin.value if model == "critic" else lambda batch, twin=twin: twin.score(batch).logp
        with torch.no_grad():
            first, again = ask(rows), ask(rows)
        assert torch.equal(first.nan_to_num(7.0), again.nan_to_num(7.0)), model


def compared() -> Any:
    """GRPO's loss beside a divergence from a frozen copy."""
    terms = (
        Term("policy", ClippedSurrogate(), TokenMean()),
        Term("kl", KLToReference(), TokenMean(), weight=0.1),
    )
    made = method(
        *terms,
        roles={"old": Role(when="collected"), "reference": Role("reference", when="collected")},
        reward=Verified(),
        credit=GroupCentred(),
        selection=Selection(count=4),
        update=GradientSteps({"policy": AdamW(0.05)}, epochs=2),
    )
    return replace(made, sampling=Group(2), models={"reference": Copy()})


@pytest.mark.parametrize("name", KINDS)
def test_trap_38_the_reference_of_every_kind_is_bitwise_unchanged(name: str) -> None:
    """Five rounds of two updates: no weight and no buffer of the reference moves, nor what it says; the policy does."""
    of = kind(name)
    policy: Any = copy.deepcopy(of.models["policy"])
    world, first = one_core.recorded(of), copy.deepcopy(policy)
    run = Run({"policy": policy}, world, generate, 3)
    for done in rounds(run, Program((Stage(compared(), 5),))):
        reference: Any = run.models["reference"]
        assert not {id(p) for p in reference.parameters()} & {id(p) for p in policy.parameters()}
        for key, value in reference.state_dict().items():
            assert torch.equal(value, first.state_dict()[key]), key
        with torch.no_grad():
            said, held = reference.score(done.kept).logp, first.score(done.kept).logp
        assert torch.equal(said[done.kept.trained], held[done.kept.trained])
    assert run.updates == 10
    moved = [float((p - q).detach().abs().max()) for p, q in zip(policy.parameters(), first.parameters(), strict=True)]
    assert max(moved) > 1e-3


@pytest.mark.parametrize("name", KINDS)
def test_trap_46_rows_of_every_kind_follow_from_their_keys(name: str) -> None:
    """Attempts at one task differ, the same keys give the same rows, and neighbours change nothing."""
    rows, again, other = sampled(name), sampled(name), sampled(name, seed=6)
    some = torch.tensor([5, 2, 3])
    part = sampled(name, rows=some)
    taken = one_core_steps(name)
    assert torch.equal(rows.step[taken], again.step[taken])
    assert rows.step[taken].shape != other.step[taken].shape or not torch.equal(rows.step[taken], other.step[taken])
    for place, row in enumerate(some.tolist()):
        length = int(rows.lengths[row])
        assert int(part.lengths[place]) == length
        close(part.step[taken][place, :length], rows.step[taken][row, :length], 1e-12)
    apart = [tuple(rows.step[taken][row].flatten().tolist()) for row in (0, 1)]
    assert int(rows.row["task"][0]) == int(rows.row["task"][1])
    assert apart[0] != apart[1]


def one_core_steps(name: str) -> str:
    """The column of what was taken."""
    return {"language": "_token", "control": "_action", "denoising": "_next", "tabular": "_step"}[name]
