"""Unreliable demonstrators: recorded answers that are right only now and then, for policy initialization."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import replace

from policyopt.worlds.tasks import Entry, SourceError, nearest

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


MISTAKES: dict[str, Mistake] = {
    "swap_first_two": swap_first_two,
    "flip_operator": flip_operator,
    "near_number": near_number,
}


def demonstrate(entries: Sequence[Entry], reliability: float, mistake: str, seed: int) -> list[Entry]:
    """Every entry with a demonstration: its answer with probability `reliability`, else the answer with a mistake.

    A function of the seed and the entry's position. SourceError: unknown mistake, or an entry without an answer.
    """
    if mistake not in MISTAKES:
        raise SourceError(f"unknown mistake {mistake!r}; {nearest(mistake, MISTAKES)}")
    shown = []
    for index, entry in enumerate(entries):
        if not entry.answer:
            raise SourceError(f"task {index} has no answer to demonstrate; demonstrations need tasks with answers")
        rng = random.Random(f"{seed}:demonstration:{index}")
        right = rng.random() < reliability
        shown.append(replace(entry, demonstration=entry.answer if right else MISTAKES[mistake](entry.answer, rng)))
    return shown
