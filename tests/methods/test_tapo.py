"""TAPO: `reduces_to` of specification 73, matching by complexity, what a pattern adds."""

from dataclasses import replace

import pytest
import torch

from asked import asking, same_rows, sampled
from enumeration import first_step
from policyopt.compose import CompositionError
from policyopt.evaluation.experiments._told import PatternedStrings, ToldStrings, told_strings
from policyopt.evaluation.experiments._worlds import share_right
from policyopt.methods import load
from policyopt.ops.sequences import total_reward
from policyopt.policies.linear import Linear
from policyopt.sampling.samplers import Group
from policyopt.sampling.told import MatchingPattern, ToldGroup
from policyopt.types import Batch
from policyopt.worlds.sequences import SequenceWorld
from support import close, numbers

pytestmark = pytest.mark.usefixtures("float64")

TARGET = torch.tensor([[0, 1], [2, 2], [1, 0]])


def strings(complexities: list[float] | None = None) -> ToldStrings:
    right = share_right(TARGET)
    inner = SequenceWorld(3, 3, 2, lambda s, t: right(s, t).double())
    if complexities is None:
        return ToldStrings(inner, "pattern", 2)
    return PatternedStrings(inner, "pattern", 2, torch.tensor(complexities))


def policy() -> Linear:
    return told_strings(numbers(6, 3, seed=1), numbers(2, 2, 3, seed=2))


def told(patterns: tuple[float, ...], complexities: list[float] | None, size: int = 4) -> Batch:
    part = ToldGroup(size=size, name="pattern", words=MatchingPattern(patterns))
    return sampled(asking(part, strings(complexities), policy(), 3))


def test_an_empty_library_is_grpo() -> None:
    rows = told((), None)
    same_rows(rows, sampled(asking(Group(4), strings(), policy(), 3)))
    assert bool(rows.row["pattern"].isnan().all())
    assert load("tapo").sampling.words == MatchingPattern(())


def test_the_nearest_pattern_is_told() -> None:
    rows = told((1.0, 4.0), [0.0, 2.4, 9.0])
    for task, pattern in ((0, 0.0), (1, 0.0), (2, 1.0)):
        assert rows.row["pattern"][rows.row["task"] == task].tolist() == [pattern] * 4


def test_complexities_of_tasks_may_be_given() -> None:
    """In place of a world's own."""
    part = ToldGroup(size=1, name="pattern", words=MatchingPattern((1.0, 4.0), (9.0, 0.0, 2.4)))
    rows = sampled(asking(part, strings(), policy(), 3))
    assert rows.row["pattern"][rows.row["task"].argsort()].tolist() == [1.0, 0.0, 0.0]


def test_ties_are_broken_for_every_attempt() -> None:
    rows = told((1.0, 3.0, 9.0), [2.0, 2.0, 2.0], size=100)
    found = rows.row["pattern"].long().bincount(minlength=3).tolist()
    assert found[2] == 0
    assert 110 < found[0] < 190


def test_probabilities_are_those_under_the_pattern() -> None:
    rows, table = told((1.0, 4.0), [0.0, 2.4, 9.0]), policy().weights.detach()
    for b in range(len(rows)):
        for t in range(2):
            logits = table[int(rows.row["task"][b]) * 2 + t] + table[6 + int(rows.row["pattern"][b]) * 2 + t]
            close(rows.step["behaviour"][b, t], logits.log_softmax(0)[rows.step["_step"][b, t]])


def test_gradient_against_a_loop() -> None:
    rows = told((1.0, 4.0), [0.0, 2.4, 9.0])
    made = replace(load("tapo"), constraint=(), roles={"old": load("tapo").roles["old"]}, models={})
    found = first_step(made, {"policy": policy()}, rows, strings()).gradient
    expected, reward, table = torch.zeros_like(found), total_reward(rows), policy().weights.detach()
    for b in range(len(rows)):
        mine = reward[rows.row["group"] == rows.row["group"][b]]
        if float(mine.max()) == float(mine.min()):
            continue
        advantage = (reward[b] - mine.mean()) / (mine.std() + 1e-6)
        for t in range(2):
            places = [int(rows.row["task"][b]) * 2 + t, 6 + int(rows.row["pattern"][b]) * 2 + t]
            p = table[places].sum(0).softmax(0)
            expected[places] += -advantage * (torch.eye(3)[rows.step["_step"][b, t]] - p) / 2 / len(rows)
    assert float(expected.abs().max()) > 1e-3
    close(found, expected, 1e-9)


def test_what_patterns_need() -> None:
    with pytest.raises(CompositionError, match="complexity"):
        told((1.0,), None)
    part = ToldGroup(size=2, name="pattern", words=MatchingPattern())
    with pytest.raises(CompositionError, match="'pattern'"):
        sampled(asking(part))
