"""iGRPO: `reduces_to` of specification 225, the best draft, and who is trained under what."""

from dataclasses import replace

import pytest
import torch

from asked import asking, same_rows, sampled
from enumeration import first_step
from policyopt.compose import CompositionError
from policyopt.evaluation.experiments._told import ToldStrings, told_strings
from policyopt.evaluation.experiments._worlds import share_right
from policyopt.methods import load
from policyopt.ops.sequences import total_reward
from policyopt.policies.linear import Linear
from policyopt.sampling.samplers import Group
from policyopt.sampling.told import RefinedGroup
from policyopt.train import _draw, _judge
from policyopt.types import NO_TOKEN, Batch
from policyopt.worlds.sequences import SequenceWorld
from support import close, numbers

pytestmark = pytest.mark.usefixtures("float64")

TARGET = torch.tensor([[0, 1, 2], [2, 2, 0], [1, 0, 1]])


def digits(power: float = 1.0) -> ToldStrings:
    right = share_right(TARGET)
    return ToldStrings(SequenceWorld(3, 3, 3, lambda s, t: right(s, t).double() ** power), "draft", 3)


def policy() -> Linear:
    return told_strings(numbers(9, 3, seed=1), 2.0 * torch.eye(3))


def refined(part: RefinedGroup, power: float = 1.0) -> Batch:
    return sampled(asking(part, digits(power), policy(), 3))


def test_without_drafts_it_is_grpo() -> None:
    same_rows(refined(RefinedGroup(size=5, drafts=0)), sampled(asking(Group(5), digits(), policy(), 3)))


def test_the_best_draft_is_told_and_only_refinements_remain() -> None:
    part, ctx = RefinedGroup(size=2, drafts=6), asking(RefinedGroup(), digits(), policy(), 3)
    seen: list[Batch] = []

    def judge(batch: Batch) -> Batch:
        seen.append(_judge(ctx)(batch))
        return seen[-1]

    rows = part(ctx, _draw(ctx), judge)
    drafts, refinements = seen
    same_rows(rows, refinements)
    assert (len(drafts), len(rows)) == (18, 6)
    for group in rows.row["group"].unique():
        told = rows.row["draft"][rows.row["group"] == group]
        mine = drafts[drafts.row["group"] == group]
        best = mine.step["_step"][total_reward(mine).argmax()]
        assert told.tolist() == [best.tolist()] * 2
    assert set((drafts.step["_state"] % 4).flatten().tolist()) == {0}  # drafts are told nothing


def test_any_increasing_transform_of_the_reward_gives_the_same_draft() -> None:
    part = RefinedGroup(size=2, drafts=6)
    one, other = refined(part), refined(part, power=3.0)
    assert torch.equal(one.row["draft"], other.row["draft"])
    assert torch.equal(one.step["_step"], other.step["_step"])
    assert not torch.equal(one.step["reward"], other.step["reward"])


def test_a_random_draft_is_the_first() -> None:
    part, ctx = RefinedGroup(size=1, drafts=5, best=False), asking(RefinedGroup(), digits(), policy(), 3)
    seen: list[Batch] = []
    rows = part(ctx, _draw(ctx), lambda batch: seen.append(_judge(ctx)(batch)) or seen[-1])
    assert torch.equal(rows.row["draft"], seen[0].step["_step"][::5])


def test_probabilities_are_those_under_the_draft() -> None:
    """What the draft adds is in behaviour and score alike, and both learn."""
    rows, table = refined(RefinedGroup(size=3, drafts=3)), policy().weights.detach()
    own, added = table[:9], table[9:]
    for b in range(len(rows)):
        for t in range(3):
            logits = own[int(rows.row["task"][b]) * 3 + t] + added[int(rows.row["draft"][b, t])]
            close(rows.step["behaviour"][b, t], logits.log_softmax(0)[rows.step["_step"][b, t]])
    made = replace(load("igrpo"), constraint=(), roles={"old": load("igrpo").roles["old"]}, models={})
    moved = first_step(made, {"policy": policy()}, rows, digits()).gradient
    assert float(moved[:9].abs().max()) > 1e-3
    assert float(moved[9:].abs().max()) > 1e-3


def test_gradient_against_a_loop() -> None:
    rows = refined(RefinedGroup(size=4, drafts=2))
    made = replace(load("igrpo"), constraint=(), roles={"old": load("igrpo").roles["old"]}, models={})
    found = first_step(made, {"policy": policy()}, rows, digits()).gradient
    expected, reward = torch.zeros_like(found), total_reward(rows)
    weights = policy().weights.detach()
    for b in range(len(rows)):
        mine = reward[rows.row["group"] == rows.row["group"][b]]
        if float(mine.max()) == float(mine.min()):
            continue
        advantage = (reward[b] - mine.mean()) / (mine.std() + 1e-6)
        for t in range(3):
            place, draft = int(rows.row["task"][b]) * 3 + t, 9 + int(rows.row["draft"][b, t])
            p = (weights[place] + weights[draft]).softmax(0)
            slope = -advantage * (torch.eye(3)[rows.step["_step"][b, t]] - p) / 3 / len(rows)
            expected[place] += slope
            expected[draft] += slope
    close(found, expected, 1e-9)


def test_what_a_draft_needs() -> None:
    with pytest.raises(CompositionError, match="'draft'"):
        sampled(asking(RefinedGroup()))
    with pytest.raises(CompositionError, match="drafts must be"):
        RefinedGroup(drafts=-1)
    assert refined(RefinedGroup(size=1, drafts=0)).row["draft"].tolist() == [[NO_TOKEN]] * 3
