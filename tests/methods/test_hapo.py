"""HAPO: `reduces_to` of specification 143, each identity a test."""

import math
from dataclasses import replace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from enumeration import Grades, first_step
from policyopt.compose import Program, Stage, Term
from policyopt.credit.groups import GroupStandardised
from policyopt.credit.tokens import StepStandardised
from policyopt.engines.plain import generate
from policyopt.methods import load
from policyopt.objective.clipping import ClipByEntropy
from policyopt.objective.heterogeneous import HeterogeneousSurrogate
from policyopt.objective.surrogates import ClippedSurrogate
from policyopt.ops.entropies import EntropyScale
from policyopt.options import override
from policyopt.policies.heated import Heated
from policyopt.policies.tabular import Table
from policyopt.run import Run
from policyopt.train import rounds
from policyopt.types import Categorical
from policyopt.update.averaging import TokenMean
from policyopt.worlds.sequences import SequenceWorld
from support import close, context, full_step, grids, method, numbers, ragged, rewarded

pytestmark = pytest.mark.usefixtures("float64")

GRADES = [0.5, 2.0, -1.0, 4.0]


def test_without_amounts_and_with_equal_lengths_it_is_grpo_with_a_mean_over_steps() -> None:
    """tau = a = b = 0; population deviation."""
    made = override(
        load("hapo"),
        {"objective.policy.loss.amount": 0.0, "objective.clip_low.amount": 0.0, "objective.clip_high.amount": 0.0},
    )
    made = replace(made, sampling=load("grpo").sampling, models={}, after=())
    batch = ragged((3, 3, 3, 3), tools=False)
    found = first_step(made, grids(full=True), batch, Grades(GRADES))
    grpo = replace(
        load("grpo"),
        constraint=(),
        credit=GroupStandardised(ddof=0),
        objective=(Term("policy", ClippedSurrogate(0.2, 0.2, dual_clip=10.0), TokenMean()),),
    )
    assert float(found.gradient.abs().max()) > 1e-3
    close(found.gradient, first_step(grpo, grids(full=True), batch, Grades(GRADES)).gradient, 1e-6)


@given(st.integers(0, 50))
def test_advantages_of_all_steps_of_a_group_add_up_to_zero(seed: int) -> None:
    batch = rewarded(ragged(seed=seed), numbers(4, seed=seed))
    found = StepStandardised(bound=None)(context(method(), grids()), batch)
    total = torch.zeros(8).index_add(0, batch.row["group"], found.step["advantage"].sum(1))
    close(total, torch.zeros(8), 1e-9)
    plain = GroupStandardised()(context(method(), grids()), batch).step["advantage"]
    rows = torch.zeros(8).index_add(0, batch.row["group"], (plain * batch.own).sum(1) / batch.lengths)
    close(rows, torch.zeros(8), 1e-9)


def test_step_statistics_by_hand_and_the_fallback() -> None:
    """Rewards 1 (3 steps) and 0 (1 step): mean 3/4, deviation sqrt(3)/4."""
    batch = rewarded(ragged((3, 1), tools=False), [1.0, 0.0]).with_rows({"group": torch.zeros(2, dtype=torch.int64)})
    part = StepStandardised(epsilon=0.0)
    close(part(context(method(), grids()), batch).step["advantage"][:, 0], [1 / math.sqrt(3), -math.sqrt(3)])
    low = StepStandardised(epsilon=0.0, bound=1.7)(context(method(), grids()), batch).step["advantage"][:, 0]
    close(low, [1 / math.sqrt(2), -1 / math.sqrt(2)])


def test_scores_of_entropies_by_hand() -> None:
    """log H = 0, 1, 2, 3, 4 at quantile 1/2: (-2, -1, 0, 1, 2) / 2, low ones stay negative."""
    entropy = torch.arange(5.0).exp()
    scale = EntropyScale.of(entropy, 0.5)
    close(scale.score(entropy), [-1.0, -0.5, 0.0, 0.5, 1.0])
    assert scale.least < 0 < scale.most
    # Nearest rank, halves to even: place 0.625 * 4 = 2.5 is 2.
    close(EntropyScale.of(entropy, 0.625).quantile, 2.0)
    close(EntropyScale.of(torch.tensor([0.7]), 0.8).score(torch.tensor([0.7])), [0.0])


def test_clip_ranges_widen_below_for_sure_steps_and_above_for_unsure_ones() -> None:
    batch = ragged((4,), tools=False).with_steps({"entropy_score": torch.tensor([[-1.0, -0.5, 0.0, 1.0]])})
    close(ClipByEntropy(0.2, 1.0, "low")(batch), [[0.4, 0.3, 0.2, 0.2]])
    close(ClipByEntropy(0.2, 0.5, "high")(batch), [[0.2, 0.2, 0.2, 0.3]])


def test_redistribution_by_hand() -> None:
    """Unsure steps count more outside the middle, sure ones less inside it."""
    models = grids()
    score = torch.tensor([[0.5, 0.5, -0.5, -0.5]])
    batch = ragged((4,), tools=False).with_steps({"value": score, "advantage": torch.ones(1, 4)})
    with torch.no_grad():
        change = torch.tensor([0.15, 0.05, 0.05, -0.15]).log1p()
        models["old"].logp[0, :4] = models["policy"].logp[0, :4] - change
    part = HeterogeneousSurrogate(score="value")
    loss, slope = full_step(context(method(Term("a", part, TokenMean())), models), batch)
    expected = [1.15 * 1.5, 1.05, 1.05 * 0.5, 0.85]
    close(loss, -sum(expected) / 4)
    close(slope[0, :4], [-x / 4 for x in expected])


def test_the_sampler_is_hotter_where_it_is_unsure() -> None:
    """Temperatures 1 + tau h on the last round's scale; the same as the policy before there is one."""
    table = Table(torch.tensor([[0.0, 0.0, 0.0], [9.0, 0.0, 0.0]]))
    world = SequenceWorld(2, 3, 1, lambda strings, task: strings[:, 0].double())
    batch = world.start(world.tasks(torch.tensor([0, 1])))
    heated = Heated(table, 0.5)
    close(heated.next(batch).logp, table.next(batch).logp)
    entropy = table.next(batch).entropy().detach()
    heated.scale.copy_(torch.tensor(EntropyScale(-1.0, 1.0, 2.0, -8.0).numbers()))
    temperature = [1 + 0.5 * (math.log(float(entropy[0])) + 1) / 2, 1 + 0.5 * (math.log(float(entropy[1])) + 1) / 8]
    assert temperature[1] < 1 < temperature[0]
    close(heated.next(batch).logp, Categorical.of(table.logits, torch.tensor(temperature)[:, None]).logp)
    assert not list(heated.parameters())


def test_the_scale_reaches_the_next_round() -> None:
    made = override(load("hapo"), {"selection.count": 2, "sampling.size": 4, "update.learning_rate": 0.1})
    world = SequenceWorld(2, 3, 3, lambda strings, task: (strings == 0).double().mean(1))
    run = Run({"policy": Table(numbers(6, 3, seed=2))}, world, generate)
    first = next(rounds(run, Program((Stage(made, 2),))))
    rows = first.credited
    scale = EntropyScale.of(rows.step["entropy"][rows.own], 0.8)
    close(run.models["heated"].scale, scale.numbers())
    assert "scale" in "".join(run.state()["models"]["heated"])
