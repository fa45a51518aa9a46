"""PR-LSVI: `reduces_to` of specification 147."""

import math
from dataclasses import replace

import pytest
import torch

from asked import resumed
from policyopt.compose import CompositionError, Copy, Program, Stage
from policyopt.engines.plain import generate
from policyopt.evaluation.experiments.planning import Compared
from policyopt.methods import load
from policyopt.options import override
from policyopt.policies.tabular import Table
from policyopt.run import Run
from policyopt.train import rounds
from policyopt.update.optimistic import nothing_counted
from policyopt.update.planned import (
    COMPARED,
    RandomisedPlan,
    disagreement,
    features,
    logistic_fit,
)
from policyopt.worlds.oracles import finite_values
from policyopt.worlds.tables import TabularMDP, unrolled
from support import close, context, method, numbers

pytestmark = pytest.mark.usefixtures("float64")
HORIZON = 3


def process():
    move = numbers(3, 2, 3, seed=1).softmax(-1)
    paid = numbers(3, 2, seed=2).abs()
    return unrolled(TabularMDP(move, paid, torch.tensor([1.0, 0.0, 0.0]), 1.0, HORIZON))


def run_of(count=6, seed=0, **changes):
    mdp = process()
    made = override(load("pr_lsvi"), {"update.horizon": HORIZON, "update.states": 3, "selection.count": 2, **changes})
    run = Run({"policy": Table(torch.zeros(mdp.states, 2))}, Compared(mdp, 4.0), generate, seed)
    return run, list(rounds(run, Program((Stage(made, count),))))


def test_the_fit_is_the_penalised_likelihood() -> None:
    won = numbers(40, 4, seed=3)
    theta = logistic_fit(won, 0.7)
    slope = 0.7 * theta - (won * torch.sigmoid(-won @ theta)[:, None]).sum(0)
    close(slope, torch.zeros(4), 1e-8)
    close(logistic_fit(won[:0], 0.7), torch.zeros(4))


def test_the_rule_of_asking_is_the_expected_disagreement_of_two_draws() -> None:
    root = numbers(3, 3, seed=4)
    covariance = torch.eye(3) + root @ root.T
    apart = numbers(2, 3, seed=5)
    spread = torch.linalg.cholesky(torch.linalg.inv(covariance))
    draws = 0.8 * numbers(2, 200_000, 3, seed=6) @ spread.T
    sampled = ((draws[0] - draws[1]) @ apart.T).abs().mean(0)
    close(disagreement(apart, covariance, 0.8), sampled, 0.01)
    close(disagreement(apart[:1], torch.eye(3), 1.0), 2 / math.sqrt(math.pi) * apart[:1].norm().view(1))


def test_features_count_choices_of_the_process_at_all_times() -> None:
    _, done = run_of(1)
    rows = done[0].judged
    found = features(rows, 3, 2)
    assert found.sum(1).tolist() == [HORIZON] * 4
    expected = torch.zeros(4, 6)
    for b in range(4):
        for t in range(HORIZON):
            expected[b, int(rows.step["_state"][b, t]) % 3 * 2 + int(rows.step["_step"][b, t])] += 1
    close(found, expected)


def planned(part, rewards):
    """The plan on counts of the true process, with a fit that is given."""
    mdp = process()
    counts = nothing_counted(mdp.states, 2)
    counts["visits"] = torch.full((mdp.states, 2), 1e10)
    counts["reached"] = counts["visits"][..., None] * mdp.transition * (~mdp.ends).double()
    counts["at"] = torch.arange(mdp.states) // 3
    ctx = context(method(), {"policy": Table(torch.zeros(mdp.states, 2))})
    spread = torch.eye(6) / 1e-9
    probe = type("Probe", (RandomisedPlan,), {"asked": lambda self, *a: (rewards[None] * 0, spread)})
    return probe(horizon=part.horizon, states=3, reward_noise=0.0, value_noise=0.0, largest=1e3), ctx, counts, mdp


def test_without_noise_it_is_certainty_equivalent_planning(monkeypatch) -> None:
    theta = numbers(6, seed=8).abs()
    part, ctx, counts, mdp = planned(RandomisedPlan(horizon=HORIZON), theta)
    monkeypatch.setattr("policyopt.update.planned.logistic_fit", lambda won, ridge: theta)
    base = TabularMDP(mdp.transition[:3, :, 3:6], theta.view(3, 2), torch.eye(3)[0], 1.0, HORIZON)
    close(part.plan(ctx, None, counts)[:9].view(3, 3, 2), finite_values(base)[1], 1e-6)


def test_what_follows_is_worth_no_more_than_the_steps_that_are_left(monkeypatch) -> None:
    """Q - phi theta lies in 0..(H - h) largest, h from 1: nothing follows the last step, whatever the noise."""
    theta = numbers(6, seed=8).abs()
    part, ctx, counts, _ = planned(RandomisedPlan(horizon=HORIZON), theta)
    monkeypatch.setattr("policyopt.update.planned.logistic_fit", lambda won, ridge: theta)
    counts["visits"] = counts["visits"] * 1e-10
    noisy = replace(part, value_noise=50.0, largest=0.5)
    over = noisy.plan(ctx, None, counts)[:9].view(3, 3, 2) - theta.view(3, 2)
    assert (float(over[0].max()), float(over[1].max())) == pytest.approx((1.0, 0.5))
    close(over[2], torch.zeros(3, 2))
    assert float(over.min()) >= -1e-12


def test_labels_are_asked_by_what_was_known_before_them() -> None:
    """In the first round lambda I alone: pairs that disagree by just more than `ask` there are asked for, all."""
    won = run_of(1, **{"update.ask": 0.0, "selection.count": 8})[0].cells[COMPARED.name]["won"]
    least = float(disagreement(won, torch.eye(won.shape[1]), 1.0).min())
    again = run_of(1, **{"update.ask": 0.999 * least, "selection.count": 8})[0].cells[COMPARED.name]["won"]
    assert len(won) == len(again) > 1


def test_without_noise_nothing_is_asked_unless_everything_is() -> None:
    for ask, count in ((1e-9, 0), (-1.0, 12)):
        run, done = run_of(6, **{"update.reward_noise": 0.0, "update.value_noise": 0.0, "update.ask": ask})
        assert sum(one.metrics["asked"] for one in done) == count
        assert len(run.cells[COMPARED.name]["won"]) == count
    run, _ = run_of(6, **{"update.ask": math.inf})
    assert len(run.cells[COMPARED.name]["won"]) == 0


def test_fewer_labels_are_asked_as_the_rewards_become_known() -> None:
    few = run_of(8, **{"update.ask": 1.0})[0]
    many = run_of(8, **{"update.ask": 0.0})[0]
    assert 0 < len(few.cells[COMPARED.name]["won"]) < len(many.cells[COMPARED.name]["won"])


def test_the_comparator_is_the_policy_of_the_episode_before() -> None:
    assert load("pr_lsvi").models["previous"] == Copy()
    before = []
    mdp = process()
    made = override(load("pr_lsvi"), {"update.horizon": HORIZON, "update.states": 3})
    run = Run({"policy": Table(torch.zeros(mdp.states, 2))}, Compared(mdp, 4.0), generate, 0)
    for _ in rounds(run, Program((Stage(made, 4),))):
        if before:
            assert torch.equal(run.models["previous"].logits, before[-1])
        before.append(run.models["policy"].logits.detach().clone())


def test_it_goes_on_bitwise_after_a_restart() -> None:
    mdp = process()
    changes = {"update.horizon": HORIZON, "update.states": 3}
    resumed(load("pr_lsvi"), Compared(mdp, 4.0), lambda: Table(torch.zeros(mdp.states, 2)), changes=changes)
    with pytest.raises(CompositionError, match="noises"):
        RandomisedPlan(reward_noise=-1.0)
