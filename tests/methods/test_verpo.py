"""VeRPO: `reduces_to` of specification 246, each identity a test."""

import math
from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from policyopt.compose import CompositionError
from policyopt.credit.groups import GroupCentred
from policyopt.methods import load
from policyopt.reward.weighted_tests import WeightedTests, weights_of_tests
from references_turns import turn_numbers, weighted_tests, weights
from support import close, context, grids, method, ragged, with_row

pytestmark = pytest.mark.usefixtures("float64")

TURNS = torch.tensor([0, 0, 1, 1, 1, 2, 2, 3, 3, 3, 4, 4, 5])


def judged(part, passed, batch):
    world = SimpleNamespace(checks=lambda _: passed)
    return part(context(method(), grids(), world), batch)


def rows(group=(1, 1, 1, 2)):
    return with_row(ragged(), group=group).with_steps({"turn": TURNS.expand(4, -1)})


@settings(max_examples=12)
@given(st.integers(0, 60), st.sampled_from([(2.0, 0.1), (0.0, 0.0), (1.0, None), (3.0, 0.5)]))
def test_turns_are_worth_what_the_loops_say(seed: int, options: tuple) -> None:
    slope, width = options
    batch = rows()
    passed = (torch.rand(4, 13, 5, generator=torch.Generator().manual_seed(seed)) > 0.4).double()
    found = judged(WeightedTests(slope, width, 0.01, 0.9), passed, batch)
    where = [(b, s) for b in range(4) for s in turn_numbers(TURNS.tolist(), batch.own[b].tolist())]
    given_ = [passed[b, s[-1]].tolist() for b, s in where]
    worth = weighted_tests(given_, [int(batch.row["group"][b]) for b, _ in where], slope, width, 0.01)
    expected, whole = torch.zeros(4, 13), torch.zeros(4, 13)
    for value, (b, steps) in zip(worth, where, strict=True):
        expected[b, steps[-1]] = value
    for b in range(4):
        mine = [s for r, s in where if r == b]
        if all(p == 1.0 for p in passed[b, mine[-1][-1]].tolist()):
            whole[b, mine[-1][-1]] = 0.9 ** len(mine)
    close(found.step["reward:turn"], expected)
    close(found.step["reward"], whole)


def test_distinct_rates_and_no_slope_count_the_passed_tests() -> None:
    close(weights_of_tests(torch.tensor([0.1, 0.5, 0.9]), 0.0, 0.0, 0.25), [1 / 1.25] * 3)


def test_tests_passed_alike_share_their_weight() -> None:
    close(weights_of_tests(torch.full((4,), 0.3), 2.0, 0.1, 0.5), [math.exp(-0.6) / 4.5] * 4)
    close(weights_of_tests(torch.tensor([0.3, 0.3, 0.8]), 2.0, 0.0, 0.0), weights([0.3, 0.3, 0.8], 2.0, 0.0, 0.0))
    narrow = weights_of_tests(torch.tensor([0.3, 0.3, 0.8]), 2.0, 1e-6, 0.0)
    close(narrow, weights_of_tests(torch.tensor([0.3, 0.3, 0.8]), 2.0, 0.0, 0.0))


def test_without_the_dense_level_it_is_the_centred_outcome() -> None:
    """b = 0, gamma = 1: GRPO without deviation on "all tests pass"."""
    made = load("verpo")
    passed = (torch.rand(4, 3, generator=torch.Generator().manual_seed(1)) > 0.3).double()
    batch = judged(replace(made.reward, gamma=1.0), passed, with_row(ragged(), group=[1, 1, 1, 1]))
    outcome = passed.all(1).double()
    assert 0 < float(outcome.sum()) < 4
    close(batch.step["reward"].sum(1), outcome)
    levels = made.credit.parts[:-1]
    found = batch
    for part in levels:
        found = part(context(method(), grids()), found)
    close(found.step["advantage:episode"], GroupCentred()(None, batch).step["advantage"])


def test_a_row_of_which_no_test_is_known_has_passed_none() -> None:
    passed = torch.tensor([[1.0, float("nan")], [float("nan")] * 2, [1.0, 1.0], [0.0, 1.0]])
    batch = judged(WeightedTests(gamma=1.0), passed, with_row(ragged(), group=[1, 1, 1, 1]))
    close(batch.step["reward"].sum(1), [1.0, 0.0, 1.0, 0.0])


def test_partial_success_never_replaces_the_outcome() -> None:
    """Two rows of one turn and three tests, passed by (both, one, none): w = e^(-2 rho), N = 1 but for width."""
    made = replace(load("verpo").reward, width=None, delta=0.0)
    batch = with_row(ragged((2, 2), tools=False), group=[1, 1])
    passed = torch.tensor([[1.0, 1.0, 0.0], [1.0, 0.0, 0.0]])
    found = judged(made, passed, batch)
    close(found.step["reward:turn"].sum(1), [math.exp(-2) + math.exp(-1), math.exp(-2)])
    close(found.step["reward"], torch.zeros(2, 2))
    credited = load("verpo").credit(context(method(), grids()), found)
    close(credited.step["advantage"][:, 0], [0.25 * math.exp(-1), -0.25 * math.exp(-1)])


def test_a_test_that_a_task_does_not_have_is_not_failed() -> None:
    batch = with_row(ragged((2, 2), tools=False), group=[1, 2])
    nan = float("nan")
    found = judged(WeightedTests(gamma=1.0), torch.tensor([[1.0, nan], [1.0, 0.0]]), batch)
    close(found.step["reward"].sum(1), [1.0, 0.0])
    assert bool(found.step["reward:turn"].isfinite().all())


def test_turns_are_compared_with_all_turns_of_the_group_or_those_of_their_number() -> None:
    part = load("verpo").credit.parts[1]
    batch = with_row(ragged((2, 1), tools=False), group=[1, 1]).with_steps({"turn": torch.tensor([[0, 1], [0, 0]])})
    batch = batch.with_steps({"reward:turn": torch.tensor([[1.0, 4.0], [2.0, 99.0]])})
    ctx = context(method(), grids())
    every = part(ctx, batch).step["advantage:turn"]
    close(every[batch.own], [1 - 7 / 3, 4 - 7 / 3, 2 - 7 / 3])
    close(replace(part, among="place")(ctx, batch).step["advantage:turn"][batch.own], [-0.5, 0.0, 0.5])


def test_refusals() -> None:
    for broken in ({"slope": -1.0}, {"width": -0.1}, {"gamma": 0.0}):
        with pytest.raises(CompositionError):
            WeightedTests(**broken)
    with pytest.raises(CompositionError, match="checks"):
        WeightedTests()(context(method(), grids(), SimpleNamespace()), rows())
