"""What a verifiable task is: the record every source yields and every verifier reads.

Nothing here needs tensors, so that grading workers start without importing them.
"""

from __future__ import annotations

import difflib
from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar, Protocol

Message = dict[str, Any]


class SourceError(ValueError):
    """Task data or the description of a task source is not usable; the message says where and why."""


class VerifierError(ValueError):
    """A verifier is unknown, misconfigured or was given an entry it cannot judge."""


@dataclass(frozen=True)
class Candidate:
    """A recorded answer that is compared with the others of its entry, or judged by itself.

    ``rank``: 0 for the best one; of an answer that is judged by itself 0 is good, 1 bad. ``numbers``: what the data
    says of it by name, such as ``label``, how good it is. ``start``: where it begins (a text or messages), if that is
    not where the entry's prompt ends: a segment of its own. ``marks``: numbers of its parts by name, each (begin, end,
    number) of characters, in order; what is in no part has the number 1.
    """

    text: str
    rank: int
    numbers: Mapping[str, float] = field(default_factory=dict)
    start: str | tuple[Message, ...] | None = None
    # Not shown: noise in labels is a function of what is.
    marks: Mapping[str, tuple[tuple[int, int, float], ...]] = field(default_factory=dict, repr=False)

    @property
    def worth(self) -> float:
        """Larger for a better one of the same entry; equal where the data says that they are equally good."""
        return self.numbers.get("label", -float(self.rank))


def pair(chosen: str, rejected: str) -> tuple[Candidate, Candidate]:
    """Two answers, the first one preferred."""
    return Candidate(chosen, 0), Candidate(rejected, 1)


@dataclass(frozen=True)
class Entry:
    """One task.

    Exactly one of ``prompt`` (plain text) and ``messages`` (a conversation) is given. ``answer`` is what a
    verifier compares with ("" where the data has none). ``candidates`` are the answers of preference data, the
    best first, or a single one with its label; ``demonstration`` is an assistant text to imitate.
    """

    prompt: str | None
    messages: tuple[Message, ...] | None
    answer: str = ""
    metadata: Mapping[str, Any] = field(default_factory=dict)
    demonstration: str | None = None
    candidates: tuple[Candidate, ...] = ()

    def __post_init__(self) -> None:
        if (self.prompt is None) == (self.messages is None):
            given = "both" if self.prompt is not None else "neither"
            raise SourceError(f"an entry has exactly one of prompt and messages, got {given}; give one")
        if self.messages is not None and not self.messages:
            raise SourceError("an entry's messages are empty; give at least one message")
        if len(self.candidates) == 1 and "label" not in self.candidates[0].numbers:
            raise SourceError("an answer that is compared with no other one needs a label; give it, or another answer")

    @classmethod
    def asking(cls, question: str | tuple[Message, ...], answer: str = "", **recorded: Any) -> Entry:
        """An entry from a plain text or a conversation."""
        if isinstance(question, str):
            return cls(question, None, answer, **recorded)
        return cls(None, question, answer, **recorded)

    @property
    def key(self) -> str:
        """Equal for entries that ask the same."""
        return self.prompt if self.prompt is not None else repr(self.messages)


def nearest(name: str, known: Iterable[str]) -> str:
    """A phrase for error messages: the closest known name, or all names when none is close."""
    names = sorted(known)
    close = difflib.get_close_matches(name, names, n=1, cutoff=0.5)
    if close:
        return f"did you mean {close[0]!r}?"
    return f"known: {', '.join(names)}"


Judged = tuple[float | None, str | None, float]
"""A score, or None and the fault; and the seconds it took."""


class Bench(Protocol):
    """Processes that judge texts, each in one of its own."""

    def grade(self, jobs: Sequence[tuple[str, Entry]]) -> list[Judged]: ...

    def close(self) -> None: ...


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

    def bench(self, seconds: float, workers: int) -> Bench | None:
        """For a verifier that runs programs: its own processes, at most `workers` at a time, which spend at most
        `seconds` on a text. None: `__call__` judges."""
        del seconds, workers
        return None

    def prepare(self, entries: Iterable[Entry]) -> None:
        """Load what judging such entries needs, so that the first judgement is not charged for it."""
        del entries
