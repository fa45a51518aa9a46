"""PIPO: `reduces_to` of specification 241, each identity a test."""

import math
from dataclasses import replace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from policyopt.compose import Program, Stage
from policyopt.engines.plain import generate
from policyopt.methods import load
from policyopt.objective.surrogates import ClippedSurrogate
from policyopt.policies.tabular import Table
from policyopt.run import Run
from policyopt.runtime.checkpoint import load as read
from policyopt.runtime.checkpoint import save
from policyopt.train import rounds
from policyopt.update.gradient import GradientSteps
from policyopt.update.improving import PREVIOUS, REWARDS, PolicyImprovement, attributed, improvement
from policyopt.update.optimizers import SGD
from policyopt.worlds.sequences import bandit
from support import close, numbers, per_row, ragged

pytestmark = pytest.mark.usefixtures("float64")

WORTH = torch.tensor([[0.0, 1.0, 0.3, 0.8], [1.0, 0.2, 0.0, 0.5]])


def runs(update, count: int, seed: int = 0):
    made = replace(load("grpo"), constraint=(), update=update)
    made = replace(made, selection=replace(made.selection, count=2), roles={"old": made.roles["old"]}, models={})
    run = Run({"policy": Table(numbers(2, 4, seed=1))}, bandit(WORTH), generate, seed)
    return run, list(rounds(run, Program((Stage(made, count),))))


BASE = GradientSteps({"policy": SGD(1.0)}, clip_norm=None)


def test_before_there_is_a_past_or_without_a_signal_it_is_the_base() -> None:
    plain, _ = runs(BASE, 6)
    for part in (
        PolicyImprovement(BASE, past=6),
        PolicyImprovement(BASE, past=2, threshold=math.inf),
        PolicyImprovement(BASE, past=2, negative=0.0, gate=1e-300, bound=1e-300),
    ):
        run, _ = runs(part, 6)
        close(run.models["policy"].logits, plain.models["policy"].logits, 1e-12)
    other, _ = runs(PolicyImprovement(BASE, past=2), 6)
    assert float((other.models["policy"].logits - plain.models["policy"].logits).detach().abs().max()) > 1e-3


def test_the_signal_by_hand() -> None:
    """Past 1, 3: mean 2, deviation sqrt(2) (n - 1: the paper's) or 1 (n: the release's)."""
    assert improvement(2.5, [1.0, 3.0]) == pytest.approx(0.5 / math.sqrt(2))
    assert improvement(2.5, [1.0, 3.0], ddof=0) == 0.5
    assert improvement(9.0, [1.0, 3.0], ddof=0) == 5.0
    assert improvement(-9.0, [1.0, 3.0], 0.5, ddof=0) == -0.5
    assert improvement(2.5, [2.0, 2.0]) == improvement(2.5, [2.0]) == 0.5
    assert PolicyImprovement(BASE, past=2).signal(2.5, [1.0, 3.0]) == pytest.approx(0.5 / math.sqrt(2))
    part = PolicyImprovement(BASE, past=2, negative=0.1, threshold=0.3, ddof=0)
    assert part.signal(2.5, [1.0, 3.0]) == 0.5
    assert part.signal(1.5, [1.0, 3.0]) == -0.05
    assert part.signal(2.2, [1.0, 3.0]) == 0.0
    assert part.signal(2.5, [1.0]) == 0.0
    assert replace(part, gate=0.4).signal(2.5, [1.0, 3.0]) == 0.4


@given(st.integers(0, 40))
def test_attributions_of_a_group_add_up_to_its_size(seed: int) -> None:
    batch = per_row(ragged(seed=seed), numbers(4, seed=seed))
    found = attributed(batch, 1.0, 1e9).step["advantage"][:, 0].abs()
    total = torch.zeros(8).index_add(0, batch.row["group"], found)
    close(total[[3, 7]], [2.0, 2.0], 1e-4)


def test_attributions_are_clipped_and_left_alone_where_they_are_not_normalised() -> None:
    batch = per_row(ragged((1, 1), tools=False), [3.0, -1.0])
    batch = batch.with_rows({"group": torch.zeros(2, dtype=torch.int64)})
    close(attributed(batch, 2.0, 2.5).step["advantage"][:, 0], [2.5, -1.0], 1e-5)
    close(attributed(batch, -2.0, 10.0, normalised=False).step["advantage"][:, 0], [-6.0, 2.0])


def test_one_step_on_the_last_rows_with_the_policy_that_took_them() -> None:
    """A second round by hand: r against the first policy, advantage phi(xi) a, plain gradient steps."""
    part = PolicyImprovement(BASE, past=1, negative=0.5)
    run, done = runs(part, 2)
    first, second = done
    table = Table(numbers(2, 4, seed=1))

    def step(rows, old, advantage):
        table.logits.grad = None
        ratio = (table.score(rows).logp - old).exp()
        loss = -torch.minimum(ratio * advantage, ratio.clamp(0.8, 1.2) * advantage).mean()
        loss.backward()
        with torch.no_grad():
            table.logits -= table.logits.grad

    a, b = first.kept, second.kept
    step(a, a.scores["old"].logp, a.step["advantage"])
    gain = improvement(float(b.step["reward"].mean()), [float(a.step["reward"].mean())])
    gain = gain if gain >= 0 else 0.5 * gain
    assert abs(gain) > 1e-3
    step(a, a.scores["old"].logp, attributed(a, gain, 10.0).step["advantage"])
    step(b, b.scores["old"].logp, b.step["advantage"])
    close(run.models["policy"].logits, table.logits, 1e-10)
    assert load("pipo").objective[0].loss == ClippedSurrogate(0.2, 0.2)


def test_what_it_remembers_is_state_of_the_run(tmp_path) -> None:
    run, done = runs(PolicyImprovement(BASE, past=2), 4)
    assert len(run.cells[REWARDS.name]) == 2
    (held,) = run.cells[PREVIOUS.name]
    close(held.step["advantage"], done[3].kept.step["advantage"], 0.0)
    save({"cells": run.cells}, tmp_path / "cells")
    (again,) = read(tmp_path / "cells")["cells"][PREVIOUS.name]
    close(again.scores["old"].logp, held.scores["old"].logp, 0.0)
