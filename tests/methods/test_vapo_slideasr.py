"""VAPO for SlideASR: `reduces_to` of specification 12."""

import pytest
import torch

import loops
from enumeration import first_step
from policyopt.methods import load
from policyopt.ops.metrics import error_rate, recall
from policyopt.ops.sequences import total_reward
from policyopt.options import override
from said import Said
from support import close, grids, ragged

pytestmark = pytest.mark.usefixtures("float64")

HEADS = {
    "format": [1.0, 0.0, 1.0, 1.0],
    "slide": [0.25, 1.0, 0.0, 0.5],
    "transcript": [0.0, 0.5, 0.75, 1.0],
    "entities": [1.0, 2 / 3, 0.0, 0.4],
}
GROUPS = [7, 3, 7, 3]


def stepped(made, grade=None):
    return first_step(made, grids(), ragged(), Said(heads=HEADS, grade=grade or [0.0] * 4))


def test_rewards_and_advantages_by_hand() -> None:
    done = stepped(load("vapo_slideasr"))
    expected = [sum(one) for one in zip(*HEADS.values(), strict=True)]
    close(total_reward(done.round.judged), expected)
    close(done.advantage, loops.standardised(expected, GROUPS, [True] * 4))


def test_without_slide_and_entities_it_is_grpo_with_format_and_transcription() -> None:
    found = stepped(override(load("vapo_slideasr"), {"reward.weights.slide": 0.0, "reward.weights.entities": 0.0}))
    grades = [a + b for a, b in zip(HEADS["format"], HEADS["transcript"], strict=True)]
    close(found.gradient, stepped(override(load("grpo"), {"constraint.kl.weight": 0.01}), grades).gradient)
    assert float(found.gradient.abs().max()) > 1e-2


def test_the_numerator_is_the_sum_of_centred_components() -> None:
    done = stepped(load("vapo_slideasr"))
    total = torch.tensor([sum(one) for one in zip(*HEADS.values(), strict=True)])
    for rows in ([0, 2], [1, 3]):
        parts = sum(torch.tensor(head)[rows] - torch.tensor(head)[rows].mean() for head in HEADS.values())
        close(done.advantage[rows], parts / (total[rows].std() + 1e-6), 1e-6)


def test_error_rates_by_hand() -> None:
    assert error_rate("kitten", "sitting") == 3 / 7
    assert error_rate(["a", "b"], ["a", "x", "b"]) == 1 / 3
    assert error_rate("abc", "") == 3.0
    assert error_rate("", "") == 0.0
    assert error_rate("aaaa", "b") == 4.0


def test_entities_are_what_was_both_read_and_written() -> None:
    """Three entities are on the slide and in the speech: 1 is in both blocks, 2 was only read, 3 only written. What was
    on the slide alone (9) neither helps nor harms, unlike in F1."""
    read, written, shared = {1, 2, 9}, {1, 3, 9}, {1, 2, 3}
    assert recall(read & written, shared) == 1 / 3
    assert recall({1, 2, 3, 9}, shared) == 1.0
    assert recall(set(), shared) == 0.0
    assert recall({9}, set()) == 1.0
