"""Wrong labels on purpose, for studies of how robust a method is: preferences and single labels that are turned round
with a known probability.

What is drawn is a function of the seed and of the record itself, not of its place in a file, and a higher rate turns
round the same records and more: methods and rates are compared on common random numbers.
"""

from __future__ import annotations

import math
import random
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace

from policyopt.worlds.preference_records import GOOD, LABEL, STRENGTH
from policyopt.worlds.tasks import Candidate, Entry, SourceError

FLIPPED = "flipped"
"""The number of an answer that says whether its label was turned round, 1 or 0; a row column like the others."""


@dataclass(frozen=True)
class LabelNoise:
    """The probability that a label is wrong: `flip`, unless something more special is said.

    longer, shorter: of pairs whose better answer is the longer one, or not (in characters): annotators with a taste for
    length. good, bad: of single answers with a good label, or a bad one. temperature: sigma(-gap / temperature), as of
    an annotator who feels the gap and chooses as Bradley and Terry (1952) say; the gap is the pair's strength, or the
    difference of the labels. In a ranked list neighbours change places, from the best answer on.
    """

    flip: float = 0.0
    longer: float | None = None
    shorter: float | None = None
    good: float | None = None
    bad: float | None = None
    temperature: float | None = None

    def __post_init__(self) -> None:
        rates = {name: getattr(self, name) for name in ("flip", "longer", "shorter", "good", "bad")}
        for name, rate in rates.items():
            if rate is not None and not 0 <= rate <= 1:
                raise SourceError(f"the probability {name!r} of a wrong label is in 0..1, not {rate}")
        if self.temperature is not None and not self.temperature > 0:
            raise SourceError(f"a temperature of labels is above 0, not {self.temperature}; leave it out for none")
        if self.temperature is not None and any(rates.values()):
            raise SourceError("labels are wrong at given rates or by a temperature, not both; leave one of them out")

    def of_pair(self, better: Candidate, worse: Candidate) -> float:
        """The probability that two answers change places."""
        if self.temperature is not None:
            return 1 / (1 + math.exp(min(700.0, _gap(better, worse) / self.temperature)))
        rate = self.longer if len(better.text) > len(worse.text) else self.shorter
        return self.flip if rate is None else rate

    def of_label(self, answer: Candidate) -> float:
        """The probability that the label of a single answer becomes its opposite."""
        if self.temperature is not None:
            raise SourceError("a single answer has no gap to another one, so noise has no temperature; give rates")
        rate = self.bad if answer.rank else self.good
        return self.flip if rate is None else rate


def _gap(better: Candidate, worse: Candidate) -> float:
    if STRENGTH in better.numbers:
        return abs(better.numbers[STRENGTH])
    if LABEL in better.numbers and LABEL in worse.numbers:
        return abs(better.numbers[LABEL] - worse.numbers[LABEL])
    raise SourceError(
        "noise by a temperature needs to know how much better an answer is: data with scores, 'strength' or 'margin', "
        "or tasks.columns.strength=FIELD"
    )


def noisy(entries: Sequence[Entry], noise: LabelNoise, seed: int) -> list[Entry]:
    """The entries with wrong labels; every answer says in the number `flipped` whether its own is one. SourceError: an
    entry without preferences, or a number that the noise needs is missing."""
    seen: Counter[str] = Counter()
    found = []
    for entry in entries:
        if not entry.candidates:
            raise SourceError("wrong labels are of preference data; this data has none")
        content = repr((entry.key, entry.candidates))
        rng = random.Random(f"{seed}:label:{seen[content]}:{content}")
        seen[content] += 1
        several = len(entry.candidates) > 1
        changed = _reordered(entry.candidates, noise, rng) if several else _relabelled(entry.candidates[0], noise, rng)
        found.append(replace(entry, candidates=changed))
    return found


def _reordered(candidates: Sequence[Candidate], noise: LabelNoise, rng: random.Random) -> tuple[Candidate, ...]:
    """Answers change places; what belongs to a place, its rank and label, stays there."""
    order = list(candidates)
    for place in range(len(order) - 1):
        luck = rng.random()
        if luck < noise.of_pair(order[place], order[place + 1]):
            order[place], order[place + 1] = order[place + 1], order[place]
    return tuple(_placed(answer, there) for answer, there in zip(order, candidates, strict=True))


def _placed(answer: Candidate, there: Candidate) -> Candidate:
    label = {LABEL: there.numbers[LABEL]} if LABEL in there.numbers else {}
    moved = {FLIPPED: float(answer.rank != there.rank)}
    return replace(answer, rank=there.rank, numbers={**answer.numbers, **label, **moved})


def _relabelled(answer: Candidate, noise: LabelNoise, rng: random.Random) -> tuple[Candidate]:
    label = answer.numbers[LABEL]
    if not 0 <= label <= 1:
        raise SourceError(f"only labels in 0..1 have an opposite, and an answer has {label:g}; scale them")
    wrong = rng.random() < noise.of_label(answer)
    label = 1 - label if wrong else label
    return (replace(answer, rank=int(label <= GOOD), numbers={**answer.numbers, LABEL: label, FLIPPED: float(wrong)}),)
