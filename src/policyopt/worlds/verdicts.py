"""Verdicts in text: which of a few words was said last. No tensors here: grading workers import it."""

from __future__ import annotations

import re
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from policyopt.worlds.tasks import Entry, Verifier, VerifierError

_LONGEST = 1_000_000  # characters


def last_said(text: str, words: Sequence[str]) -> str | None:
    """The one of some words that stands last in a text, whole and whatever its case; None if it has none of them. Of a
    text longer than ``_LONGEST`` the end is read."""
    pattern = "|".join(rf"(?<!\w){re.escape(word)}(?!\w)" for word in words)
    last = deque(re.finditer(pattern, text[-_LONGEST:], re.IGNORECASE), maxlen=1)
    return next((word for word in words if last and word.casefold() == last[0].group().casefold()), None)


@dataclass(frozen=True)
class Verdict(Verifier):
    """1 iff the entry's answer is the one of `words` that the text says last."""

    words: tuple[str, ...] = ("A", "B")
    trusted: ClassVar[bool] = True

    def __post_init__(self) -> None:
        folded = [word.casefold() for word in self.words]
        if len(self.words) < 2 or not all(folded) or len(set(folded)) < len(folded):
            raise VerifierError(f"verdicts are two different words or more, not {self.words}")

    def __call__(self, text: str, entry: Entry) -> float:
        return float(last_said(text, self.words) == entry.answer)
