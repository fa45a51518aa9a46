"""What a verifiable task is: the record every source yields and every verifier reads.

Nothing here needs tensors, so that grading workers start without importing them.
"""

from __future__ import annotations

import difflib
from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar

Message = dict[str, Any]


class SourceError(ValueError):
    """Task data or the description of a task source is not usable; the message says where and why."""


class VerifierError(ValueError):
    """A verifier is unknown, misconfigured or was given an entry it cannot judge."""


@dataclass(frozen=True)
class Entry:
    """One task.

    Exactly one of ``prompt`` (plain text) and ``messages`` (a conversation) is given. ``answer`` is what a
    verifier compares with ("" where the data has none). ``chosen`` and ``rejected`` are the two assistant
    texts of preference data; ``demonstration`` is an assistant text to imitate.
    """

    prompt: str | None
    messages: tuple[Message, ...] | None
    answer: str = ""
    metadata: Mapping[str, Any] = field(default_factory=dict)
    chosen: str | None = None
    rejected: str | None = None
    demonstration: str | None = None

    def __post_init__(self) -> None:
        if (self.prompt is None) == (self.messages is None):
            given = "both" if self.prompt is not None else "neither"
            raise SourceError(f"an entry has exactly one of prompt and messages, got {given}; give one")
        if self.messages is not None and not self.messages:
            raise SourceError("an entry's messages are empty; give at least one message")
        if (self.chosen is None) != (self.rejected is None):
            raise SourceError("preference data has both chosen and rejected, got one; give the other")


def nearest(name: str, known: Iterable[str]) -> str:
    """A phrase for error messages: the closest known name, or all names when none is close."""
    names = sorted(known)
    close = difflib.get_close_matches(name, names, n=1, cutoff=0.5)
    if close:
        return f"did you mean {close[0]!r}?"
    return f"known: {', '.join(names)}"


class Verifier(ABC):
    """A picklable judge of one text. ``trusted`` promises that it can neither hang nor evaluate, on any
    entry."""

    trusted: ClassVar[bool]

    @abstractmethod
    def __call__(self, text: str, entry: Entry) -> float:
        """The score of ``text``; raises when the entry cannot be judged."""

    def inline(self, entry: Entry) -> bool:
        """Whether this entry may be judged in the caller's process."""
        del entry
        return self.trusted

    def prepare(self, entries: Iterable[Entry]) -> None:
        """Load what judging such entries needs, so that the first judgement is not charged for it."""
        del entries
