"""Unreliable demonstrators: recorded answers that are right only now and then, for policy initialization, and pairs of
them that a judge compared."""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from policyopt.worlds.tasks import Entry, SourceError, nearest, pair

Mistake = Callable[[str, random.Random], str]


def swap_first_two(answer: str, rng: random.Random) -> str:
    """The first two characters change places: a mistake that looks almost right."""
    return answer[1::-1] + answer[2:]


def flip_operator(answer: str, rng: random.Random) -> str:
    """One + becomes - or the other way round."""
    places = [index for index, character in enumerate(answer) if character in "+-"]
    if not places:
        return answer
    place = rng.choice(places)
    return answer[:place] + {"+": "-", "-": "+"}[answer[place]] + answer[place + 1 :]


def near_number(answer: str, rng: random.Random) -> str:
    """12 -> 10: a whole number that is off by one to three, never below 0."""
    number = int(answer)
    return str(rng.choice([n for n in range(number - 3, number + 4) if n >= 0 and n != number]))


def swap_two(answer: str, rng: random.Random) -> str:
    """Two neighbours change places."""
    if len(answer) < 2:
        return answer
    place = rng.randrange(len(answer) - 1)
    return answer[:place] + answer[place : place + 2][::-1] + answer[place + 2 :]


def drop_one(answer: str, rng: random.Random) -> str:
    """A character is missing."""
    place = rng.randrange(len(answer)) if answer else 0
    return answer[:place] + answer[place + 1 :]


def repeat_one(answer: str, rng: random.Random) -> str:
    """A character stands there twice."""
    place = rng.randrange(len(answer)) if answer else 0
    return answer[: place + 1] + answer[place:]


MISTAKES: dict[str, Mistake] = {
    "swap_first_two": swap_first_two,
    "flip_operator": flip_operator,
    "near_number": near_number,
    "swap_two": swap_two,
    "drop_one": drop_one,
    "repeat_one": repeat_one,
}


@dataclass(frozen=True)
class Demonstrator:
    """Gives a task's answer with probability `reliability`, else with a mistake, one of `mistakes` alike; after each
    mistake another one follows with probability `again`."""

    reliability: float = 1.0
    mistakes: tuple[str, ...] = ("swap_first_two",)
    again: float = 0.0

    def __post_init__(self) -> None:
        for mistake in self.mistakes:
            if mistake not in MISTAKES:
                raise SourceError(f"unknown mistake {mistake!r}; {nearest(mistake, MISTAKES)}")
        if not self.mistakes or not 0 <= self.again < 1:
            raise SourceError(f"need a mistake and again in 0..1 (less than 1), got {self.mistakes} and {self.again}")

    def answer(self, entry: Entry, rng: random.Random) -> str:
        found = entry.answer
        if rng.random() < self.reliability:
            return found
        while True:
            # No draw where there is no choice.
            mistake = self.mistakes[0] if len(self.mistakes) == 1 else rng.choice(self.mistakes)
            found = MISTAKES[mistake](found, rng)
            if not self.again or rng.random() >= self.again:
                return found


def _answerable(entries: Sequence[Entry]) -> None:
    for index, entry in enumerate(entries):
        if not entry.answer:
            raise SourceError(f"task {index} has no answer to demonstrate; demonstrations need tasks with answers")


def demonstrate(entries: Sequence[Entry], by: Demonstrator, seed: int) -> list[Entry]:
    """Every entry with a demonstration, a function of the seed and the entry's position. SourceError: an entry without
    an answer."""
    _answerable(entries)
    rngs = (random.Random(f"{seed}:demonstration:{index}") for index in range(len(entries)))
    return [replace(entry, demonstration=by.answer(entry, rng)) for entry, rng in zip(entries, rngs, strict=True)]


TRIES = 50  # pairs of answers that a task may need until one of them is better


def compare(
    entries: Sequence[Entry],
    by: Demonstrator,
    judge: Callable[[list[str], list[int]], Sequence[float | None]],
    temperature: float,
    seed: int,
) -> list[Entry]:
    """Every entry with two demonstrations of unequal worth as a preference pair, labelled as Bradley and Terry (1952)
    say: the first is chosen with probability sigma((s - s') / temperature) of the judge's scores, and the better one
    always at temperature 0. A function of the seed and the entry's position.

    SourceError: an entry without an answer, or whose demonstrations are all equally good.
    """
    _answerable(entries)
    rngs = [random.Random(f"{seed}:pair:{index}") for index in range(len(entries))]
    found: dict[int, Entry] = {}
    for _ in range(TRIES):
        left = [index for index in range(len(entries)) if index not in found]
        if not left:
            break
        texts = [by.answer(entries[index], rngs[index]) for index in left for _ in range(2)]
        scores = judge(texts, [index for index in left for _ in range(2)])
        for place, index in enumerate(left):
            both, worth = texts[2 * place : 2 * place + 2], scores[2 * place : 2 * place + 2]
            if worth[0] is not None and worth[1] is not None and worth[0] != worth[1]:
                first = _preferred(worth[0] - worth[1], temperature, rngs[index])
                found[index] = replace(entries[index], candidates=pair(both[not first], both[first]))
    if len(found) < len(entries):
        missing = next(index for index in range(len(entries)) if index not in found)
        raise SourceError(
            f"task {missing} ({entries[missing].answer!r}): {TRIES} pairs of demonstrations were equally good, so none "
            "can be preferred; lower demonstrations.reliability or take other mistakes"
        )
    return [found[index] for index in range(len(entries))]


def _preferred(gap: float, temperature: float, rng: random.Random) -> bool:
    if temperature == 0:
        return gap > 0
    return rng.random() < 1 / (1 + math.exp(min(700.0, max(-700.0, -gap / temperature))))
