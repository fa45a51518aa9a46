"""Demonstrators who make mistakes, pairs of what they say, and how similar texts are."""

import math
import random

import pytest

from policyopt.worlds.demonstrations import MISTAKES, Demonstrator, compare, demonstrate
from policyopt.worlds.tasks import Entry, SourceError
from policyopt.worlds.verifiers import edit_distance, verifier

SIMILARITY = verifier("similarity")


def entries(count=400, answer="stream"):
    return [Entry(f"say {n}", None, answer) for n in range(count)]


def by_similarity(texts, ids):
    return [SIMILARITY(text, Entry("", None, "stream")) for text in texts]


@pytest.mark.parametrize(
    ("one", "other", "steps"),
    [("", "", 0), ("abc", "abc", 0), ("kitten", "sitting", 3), ("ab", "ba", 2), ("", "xyz", 3)],
)
def test_edit_distances_are_those_of_hand(one, other, steps):
    assert edit_distance(one, other) == edit_distance(other, one) == steps


def test_similarity_counts_what_need_not_be_changed():
    assert SIMILARITY(" kitten ", Entry("", None, "sitting")) == pytest.approx(1 - 3 / 7)
    assert SIMILARITY("", Entry("", None, "")) == 1.0
    assert SIMILARITY("", Entry("", None, "ab")) == 0.0
    # Bounded time: a hostile answer is cut.
    assert SIMILARITY("a" * 10**6, Entry("", None, "a" * 10**6)) == 1.0


@pytest.mark.parametrize("name", ["swap_two", "drop_one", "repeat_one"])
def test_mistakes_are_one_edit_or_a_swap_and_never_fail(name):
    for seed, answer in enumerate(["", "a", "ab", "stream"] * 5):
        found = MISTAKES[name](answer, random.Random(seed))
        assert edit_distance(found, answer) <= 2
        assert sorted(found) == sorted(answer) if name == "swap_two" else abs(len(found) - len(answer)) <= 1


def test_demonstrators_are_right_as_often_as_said_and_add_mistakes_geometrically():
    by = Demonstrator(0.25, ("drop_one",), again=0.5)
    said = [entry.demonstration for entry in demonstrate(entries(4000), by, 3)]
    missing = [6 - len(text or "") for text in said]
    for count, share in ((0, 0.25), (1, 0.375), (2, 0.1875)):
        assert missing.count(count) / 4000 == pytest.approx(share, abs=0.025)
    assert said == [entry.demonstration for entry in demonstrate(entries(4000), by, 3)]
    with pytest.raises(SourceError, match="did you mean 'drop_one'"):
        Demonstrator(1.0, ("dropone",))


def test_pairs_prefer_the_better_answer_or_as_bradley_and_terry_say():
    by = Demonstrator(0.0, ("repeat_one",), again=0.5)
    for temperature in (0.0, 0.2):
        gaps = []
        for entry in compare(entries(1500), by, by_similarity, temperature, 7):
            best, other = (candidate.text for candidate in entry.candidates)
            gaps.append(by_similarity([best], [0])[0] - by_similarity([other], [0])[0])
        assert 0 not in gaps
        if temperature == 0:
            assert min(gaps) > 0
        else:
            sizes = [abs(gap) for gap in gaps]
            expected = sum(1 / (1 + math.exp(-size / temperature)) for size in sizes) / len(sizes)
            assert sum(gap > 0 for gap in gaps) / len(gaps) == pytest.approx(expected, abs=0.03)


def test_pairs_that_no_judge_can_tell_apart_are_refused():
    with pytest.raises(SourceError, match="equally good"):
        compare(entries(3), Demonstrator(1.0), by_similarity, 0.0, 0)
    with pytest.raises(SourceError, match="equally good"):
        compare(entries(3), Demonstrator(0.5, ("drop_one",)), lambda texts, ids: [None] * len(texts), 0.0, 0)
