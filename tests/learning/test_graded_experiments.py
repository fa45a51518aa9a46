"""Observables of the experiments with graded rewards are what they are called: values of policies that do not learn."""

import math

import pytest
import torch

from policyopt.evaluation.experiments import experiments
from policyopt.evaluation.experiments._common import numbers as stream
from policyopt.methods import load
from policyopt.options import override


def still(key, changes=None):
    """A method whose learning rate is 0: the policy stays what it was."""
    method = load(key)
    rates = {f"update.optimizers.{name}.learning_rate": 0.0 for name in method.update.optimizers}
    return override(method, rates | {"selection.count": 4} | (changes or {}))


def value(name, key, seed=3, rounds=1, changes=None, **given):
    return experiments()[name](still(key, changes), seed, rounds, **given)


def test_probabilities_of_uniform_policies() -> None:
    assert value("right_or_wrong_choice", "redit").value == pytest.approx(1 / 32, rel=1e-5)
    assert value("judged_chain", "spectral_po").value == pytest.approx(4**-6, rel=1e-5)
    assert value("judged_chain", "spectral_po", choices=10).value == pytest.approx(1e-6, rel=1e-4)
    four = math.factorial(4) * (2 / 12) ** 4
    assert value("keyed_derivation", "stepgrpo_r1vl").value == pytest.approx(four / 12, rel=1e-4)
    assert value("work_to_a_level", "cppo").score == pytest.approx(1 / 4, rel=1e-5)
    chances = ((0.8 + 2 * 0.3) / 3 + (0.4 + 2 * 0.7) / 3) / 2
    assert value("optional_construction", "gcpo_geometryzero").value == pytest.approx(chances / 3, rel=1e-4)


def test_counts_of_a_uniform_policy() -> None:
    """Every number 0 to 200 with probability 1/202, no number with 1/202."""
    count = torch.randint(20, 201, (64,), generator=stream(5, "noisy counts")).double()
    error = ((torch.arange(201) - count[:, None]).abs().sum(1) + count) / 202
    assert value("noisy_counts", "fgrpr_crowdvlm", 5).value == pytest.approx(float(error.mean()), rel=1e-4)


def test_success_of_chains_that_end_at_random() -> None:
    """A chain has n steps with probability 2^-(n + 1); its steps are right with 0.98 e^(-j / 10)."""
    quality = [0.98 * math.exp(-0.1 * j) for j in range(1, 21)]
    expected = sum(2.0 ** -(min(n, 20) + (n < 20)) * math.prod(quality[:n]) for n in range(4, 21))
    outcome = value("fading_steps", "pspo_wrs")
    assert outcome.value == pytest.approx(expected, rel=1e-4)
    assert outcome.notes["expected number of steps after training"] == pytest.approx(1.0, rel=1e-4)


def test_answers_of_a_policy_that_knows_the_format_only() -> None:
    """Four unlikely symbols among twenty at the frames, sixteen at the answers."""
    frame = 1 / (16 + 4 * math.exp(-4.0))
    answer = 1 / (4 + 16 * math.exp(-4.0))
    outcome = value("salient_frames", "egovlm")
    assert outcome.value == pytest.approx(answer, rel=1e-4)
    assert outcome.notes["probability that both salient frames are named"] == pytest.approx(2 * frame**2, rel=1e-4)


def test_rare_words_before_training() -> None:
    """One of 24 words with a logit 3 above the others, which is never the right one."""
    expected = 1 / (23 + math.exp(3.0))
    assert value("two_channels", "vapo_slideasr").value == pytest.approx(expected, rel=0.1)


def test_loops_of_a_policy_by_simulation() -> None:
    """The share of looping rows before training is that of the first round's policy, and does not change without
    learning."""
    outcome = value("looping_rows", "campo_miromind", changes={"sampling.size": 2, "sampling.most_draws": 1})
    assert outcome.value == pytest.approx(outcome.notes["share of looping rows before training"], abs=0.1)
    # A row loops to its end if it starts with the stuck symbol (1/3) and never leaves it (0.9^15); rarely otherwise.
    assert 0.9**15 / 3 < outcome.value < 0.4


def test_swarms_read_as_many_rows_as_isolated_nodes_write() -> None:
    shared = value("shared_experience", "sapo_swarm", rounds=2, nodes=3)
    alone = value(
        "shared_experience", "sapo_swarm", rounds=2, nodes=3, changes={"selection.count": 8, "sampling.external": 0}
    )
    assert shared.rows == alone.rows == 3 * 2 * 64
    known = (math.exp(3.0) / (math.exp(3.0) + 5)) ** 3
    expected = (known + 2 * 6**-3) / 3
    assert shared.value == pytest.approx(expected, rel=1e-4)
    assert alone.value == pytest.approx(expected, rel=1e-4)


def test_a_level_that_is_never_reached_costs_all_the_work() -> None:
    outcome = value("work_to_a_level", "cppo", rounds=3, changes={"sampling.size": 8, "selection.keep": 0.25})
    assert outcome.value == 3 * 2 * 4 * 2  # rounds, epochs, groups, rows of each
    steps = value("work_to_a_level", "cppo", rounds=2, changes={"sampling.size": 8}, unit="steps")
    assert steps.value == 2 * 2 * 4 * 4 * 6
