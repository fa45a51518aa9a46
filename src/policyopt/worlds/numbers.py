"""Verifiers of numbers: the last one that a text names against the answer."""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from dataclasses import dataclass
from decimal import Decimal, InvalidOperation
from typing import ClassVar, TypeVar

from policyopt.worlds.tasks import Entry, Verifier, VerifierError

Number = TypeVar("Number", Decimal, float)

UNREADABLE = 1e6
"""The relative error of a text without a number; as in `ops.metrics`, which grading workers can not import."""


# A minus counts as a sign unless something it could be subtracted from stands directly before it.
_NUMBER = re.compile(
    r"(?:(?<![\w.)\]])[-+])?"
    r"(?:[0-9]{1,3}(?:,[0-9]{3})+(?![0-9])|[0-9]+)(?:\.[0-9]+)?(?:[eE][-+]?[0-9]{1,4})?",
    re.ASCII,
)


_DIGITS, _PARTS = "0123456789", "0123456789,.eE+-"
_LONGEST_NUMBER = 10_000


def last_number(text: str) -> Decimal | None:
    """None without one. Only the end of a longer run of digits, signs and points than ``_LONGEST_NUMBER`` is read, so
    that a text of any length takes no time."""
    end = 1 + max(text.rfind(digit) for digit in _DIGITS)
    if end == 0:
        return None
    first = max(0, end - _LONGEST_NUMBER)
    # What stands before the run is no part of a number.
    start = first + len(text[first:end].rstrip(_PARTS))
    found = _NUMBER.findall(text, start, end)
    return Decimal(found[-1].replace(",", ""))


def _answer(name: str, entry: Entry, read: Callable[[str], Number]) -> Number:
    try:
        return read(entry.answer.strip().replace(",", ""))
    except (InvalidOperation, ValueError) as error:
        raise VerifierError(
            f"{name} needs a number as the entry's answer, got {entry.answer!r}; use another verifier"
        ) from error


@dataclass(frozen=True)
class Numeric(Verifier):
    """1 iff the text's last number equals the answer: |a − b| ≤ ``relative_tolerance`` · max(|a|, |b|).

    Numbers may have thousands separators, a fraction and an exponent. With tolerance 0 decimals are
    compared exactly.
    """

    relative_tolerance: float = 0.0
    trusted: ClassVar[bool] = True

    def __post_init__(self) -> None:
        if not 0 <= self.relative_tolerance < 1:
            raise VerifierError(f"relative_tolerance must lie in [0, 1), got {self.relative_tolerance}")

    def __call__(self, text: str, entry: Entry) -> float:
        wanted = _answer("numeric", entry, Decimal)
        last = last_number(text)
        if last is None:
            return 0.0
        if last == wanted:
            return 1.0
        close = math.isclose(float(last), float(wanted), rel_tol=self.relative_tolerance, abs_tol=0.0)
        return float(self.relative_tolerance > 0 and math.isfinite(float(last)) and close)


@dataclass(frozen=True)
class RelativeError(Verifier):
    """|y − ŷ| / |y| of the text's last number ŷ and the answer y, for rewards that grow as it shrinks; ``UNREADABLE``
    without a number, and for any other number where the answer is 0."""

    trusted: ClassVar[bool] = True

    def __call__(self, text: str, entry: Entry) -> float:
        wanted = _answer("relative_error", entry, float)
        said = last_number(text)
        if said is None or (wanted == 0 and said != 0):
            return UNREADABLE
        return 0.0 if float(said) == wanted else min(abs(float(said) - wanted) / abs(wanted), UNREADABLE)
