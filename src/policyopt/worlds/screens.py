"""Strict grammars that model text must match before it may reach a scorer that evaluates it.

Each predicate reads the text with its own parser and evaluates nothing. What passes contains no name that
could be called, no attribute access and no number that grows without bound. Whatever still costs time (a
slow simplification, say) is bounded by the grading worker's deadline and memory limit.
"""

from __future__ import annotations

import re

_LONGEST = 4096
_DEEPEST = 32
_LARGEST_EXPONENT = 100

_NUMBER = re.compile(r"[0-9]{1,12}", re.ASCII)
_DECIMAL = re.compile(r"[0-9]{1,12}(?:\.[0-9]{1,12})?", re.ASCII)
_NAME = re.compile(r"[A-Za-z]+", re.ASCII)
_EXPONENT = re.compile(r"-?[0-9]{1,3}|\( *-?[0-9]{1,3} *(?:/ *[0-9]{1,3} *)?\)", re.ASCII)
_QUOTED = re.compile(r"'[A-Za-z0-9_ .-]*'|\"[A-Za-z0-9_ .-]*\"", re.ASCII)
_INTEGER = re.compile(r"-?[0-9]{1,12}", re.ASCII)

FUNCTIONS = frozenset({"sin", "cos", "tan", "asin", "acos", "atan", "exp", "log", "ln", "sqrt", "sinh", "cosh", "tanh"})
CONSTANTS = frozenset({"pi"})


class _Refused(Exception):
    """The text leaves the grammar; internal to this module."""


class _Reader:
    """A position in a text, with spaces skipped before every token and a bound on nesting."""

    def __init__(self, text: str) -> None:
        if len(text) > _LONGEST:
            raise _Refused
        self.text = text
        self.at = 0
        self.depth = 0

    def take(self, token: str) -> bool:
        self._skip()
        found = self.text.startswith(token, self.at)
        self.at += len(token) * found
        return found

    def match(self, pattern: re.Pattern[str]) -> str | None:
        self._skip()
        found = pattern.match(self.text, self.at)
        if found is None:
            return None
        self.at = found.end()
        return found.group()

    def require(self, token: str) -> None:
        if not self.take(token):
            raise _Refused

    def deeper(self) -> None:
        self.depth += 1
        if self.depth > _DEEPEST:
            raise _Refused

    def finish(self) -> None:
        self._skip()
        if self.at != len(self.text):
            raise _Refused

    def _skip(self) -> None:
        while self.text.startswith(" ", self.at):
            self.at += 1


class _Formula:
    """expression := signed (operator signed)*;  signed := [+-]? operand power?;  operand := number | (
    expression ) ..."""

    def __init__(self, reader: _Reader, *, algebra: bool) -> None:
        self.reader = reader
        self.algebra = algebra

    def expression(self) -> None:
        self.reader.deeper()
        self._signed()
        while self._operator():
            self._signed()
        self.reader.depth -= 1

    def _operator(self) -> bool:
        return any(self.reader.take(token) for token in "+-*/")

    def _signed(self) -> None:
        if not self.reader.take("-"):
            self.reader.take("+")
        self._operand()
        # Never a tower: one power, with a small literal exponent.
        if self.algebra and self.reader.take("**"):
            self._exponent()

    def _exponent(self) -> None:
        found = self.reader.match(_EXPONENT)
        if found is None or any(int(digits) > _LARGEST_EXPONENT for digits in re.findall(r"[0-9]+", found)):
            raise _Refused

    def _operand(self) -> None:
        if self.reader.take("("):
            self.expression()
            self.reader.require(")")
        elif self.reader.match(_DECIMAL if self.algebra else _NUMBER) is None:
            self._named()
        elif self.reader.text[self.reader.at : self.reader.at + 1].isalnum():
            # "12e5", "0x1" and numbers longer than the bound would otherwise split in two.
            raise _Refused

    def _named(self) -> None:
        """A one-letter variable, a known constant, or a known function applied to an expression."""
        name = self.reader.match(_NAME) if self.algebra else None
        if name is None:
            raise _Refused
        if name in FUNCTIONS:
            self.reader.require("(")
            self.expression()
            self.reader.require(")")
        elif len(name) > 1 and name not in CONSTANTS:
            raise _Refused


def is_arithmetic(text: str) -> bool:
    """Digits, ``+ - * / ( )`` and spaces only: integers up to 12 digits, no power, bounded length and
    nesting."""
    return _formula(text, algebra=False)


def is_algebra(text: str) -> bool:
    """Arithmetic with one-letter variables, ``pi``, ``FUNCTIONS``, decimals and literal powers up to 100."""
    return _formula(text, algebra=True)


def _formula(text: str, *, algebra: bool) -> bool:
    try:
        reader = _Reader(text)
        _Formula(reader, algebra=algebra).expression()
        reader.finish()
    except _Refused:
        return False
    return True


def is_plain_list(text: str) -> bool:
    """A bracketed, possibly nested list or tuple of integers up to 12 digits and simple quoted words."""
    try:
        reader = _Reader(text)
        _sequence(reader)
        reader.finish()
    except _Refused:
        return False
    return True


def _sequence(reader: _Reader) -> None:
    reader.deeper()
    closing = "]" if reader.take("[") else ")"
    if closing == ")":
        reader.require("(")
    while not reader.take(closing):
        if reader.text.startswith(("[", "("), reader.at):
            _sequence(reader)
        elif reader.match(_INTEGER) is None and reader.match(_QUOTED) is None:
            raise _Refused
        if not reader.take(","):
            reader.require(closing)
            break
    reader.depth -= 1
