"""Labels that are wrong on purpose: rates, who is turned round, and what stays the same."""

import math
import random
from dataclasses import replace
from statistics import mean

import pytest

from policyopt.worlds.label_noise import LabelNoise, noisy
from policyopt.worlds.records import entry_from_record
from policyopt.worlds.tasks import SourceError

SIDES = ("a long answer", "short")
PAIRS = [
    entry_from_record({"prompt": f"q{n}", "chosen": SIDES[n % 2], "rejected": SIDES[1 - n % 2], "strength": n % 4})
    for n in range(4000)
]
SINGLE = [entry_from_record({"prompt": f"q{n}", "completion": "x", "label": n % 2 == 0}) for n in range(4000)]


def flipped(entries):
    return [entry.candidates[0].numbers["flipped"] for entry in entries]


def near(share, rate, count):
    """Within four standard deviations of a binomial share."""
    assert abs(share - rate) <= 4 * math.sqrt(rate * (1 - rate) / count) + 1e-12, (share, rate)


def test_pairs_change_places_at_the_rate():
    found = noisy(PAIRS, LabelNoise(flip=0.3), seed=1)
    near(mean(flipped(found)), 0.3, 4000)
    for before, after in zip(PAIRS, found, strict=True):
        (better, worse), turned = before.candidates, bool(after.candidates[0].numbers["flipped"])
        assert [c.text for c in after.candidates] == [c.text for c in ((worse, better) if turned else (better, worse))]
        assert [c.rank for c in after.candidates] == [0, 1]
        assert {c.numbers["strength"] for c in after.candidates} == {better.numbers["strength"]}
    assert noisy(PAIRS, LabelNoise(), 1) != PAIRS  # they say that they are as they were
    assert sum(flipped(noisy(PAIRS, LabelNoise(), 1))) == 0
    assert mean(flipped(noisy(PAIRS, LabelNoise(flip=1.0), 1))) == 1


def test_what_is_wrong_depends_on_the_record_and_the_seed_alone():
    found = dict(zip((e.key for e in PAIRS), flipped(noisy(PAIRS, LabelNoise(flip=0.3), 1)), strict=True))
    mixed = random.Random(0).sample(PAIRS, 1000)
    assert [found[e.key] for e in mixed] == flipped(noisy(mixed, LabelNoise(flip=0.3), 1))
    assert flipped(noisy(PAIRS, LabelNoise(flip=0.3), 2)) != list(found.values())
    more = flipped(noisy(PAIRS, LabelNoise(flip=0.4), 1))
    assert all(now >= was for now, was in zip(more, found.values(), strict=True))
    # Equal records are drawn for one by one.
    near(mean(flipped(noisy(PAIRS[:1] * 2000, LabelNoise(flip=0.5), 1))), 0.5, 2000)


def test_noise_by_length():
    found = noisy(PAIRS, LabelNoise(flip=0.9, longer=0.0, shorter=0.4), 1)
    was_longer = [len(e.candidates[0].text) > len(e.candidates[1].text) for e in PAIRS]
    turned = flipped(found)
    assert sum(t for t, longer in zip(turned, was_longer, strict=True) if longer) == 0
    near(mean(t for t, longer in zip(turned, was_longer, strict=True) if not longer), 0.4, 2000)


def test_noise_by_strength_is_that_of_bradley_and_terry():
    found = noisy(PAIRS, LabelNoise(temperature=2.0), 1)
    for strength in range(4):
        turned = flipped(found[strength::4])
        near(mean(turned), 1 / (1 + math.exp(strength / 2)), 1000)
    scored = entry_from_record({"prompt": "a", "chosen": "x", "rejected": "y", "score_chosen": 5, "score_rejected": 2})
    assert LabelNoise(temperature=3.0).of_pair(*scored.candidates) == pytest.approx(1 / (1 + math.e))
    assert LabelNoise(temperature=1e-9).of_pair(*scored.candidates) < 1e-300
    bare = entry_from_record({"prompt": "a", "chosen": "x", "rejected": "y"})
    with pytest.raises(SourceError, match=r"how much better an answer is.*tasks.columns.strength"):
        noisy([bare], LabelNoise(temperature=1.0), 1)


def test_asymmetric_noise_of_single_labels():
    found = noisy(SINGLE, LabelNoise(flip=0.1, good=0.4), 1)
    near(mean(flipped(found[::2])), 0.4, 2000)
    near(mean(flipped(found[1::2])), 0.1, 2000)
    for before, after in zip(SINGLE, found, strict=True):
        (was,), (now,) = before.candidates, after.candidates
        assert now.numbers["label"] == (1 - was.numbers["label"] if now.numbers["flipped"] else was.numbers["label"])
        assert now.rank == int(now.numbers["label"] <= 0.5)
    graded = entry_from_record({"prompt": "a", "completion": "x", "label": 7})
    with pytest.raises(SourceError, match=r"only labels in 0..1 have an opposite, and an answer has 7"):
        noisy([graded], LabelNoise(flip=0.1), 1)
    with pytest.raises(SourceError, match="has no gap"):
        noisy(SINGLE[:1], LabelNoise(temperature=1.0), 1)


def test_neighbours_of_a_list_change_places():
    ranked = entry_from_record({"prompt": "a", "completions": ["x", "y", "z"], "scores": [3, 2, 1]})
    (always,) = noisy([ranked], LabelNoise(flip=1.0), 1)
    assert [(c.text, c.rank, c.numbers["label"], c.numbers["flipped"]) for c in always.candidates] == [
        ("y", 0, 3, 1), ("z", 1, 2, 1), ("x", 2, 1, 1)
    ]  # fmt: skip
    many = [replace(ranked, prompt=str(n)) for n in range(4000)]
    first = [e.candidates[0].text for e in noisy(many, LabelNoise(flip=0.25), 1)]
    near(first.count("y") / 4000, 0.25, 4000)
    assert "z" not in first


def test_wrong_rates_are_refused():
    with pytest.raises(SourceError, match=r"'shorter' of a wrong label is in 0..1, not 1.5"):
        LabelNoise(shorter=1.5)
    with pytest.raises(SourceError, match="above 0, not 0"):
        LabelNoise(temperature=0.0)
    with pytest.raises(SourceError, match="not both"):
        LabelNoise(flip=0.1, temperature=1.0)
    with pytest.raises(SourceError, match="this data has none"):
        noisy([entry_from_record({"prompt": "a", "answer": "b"})], LabelNoise(flip=0.1), 1)
