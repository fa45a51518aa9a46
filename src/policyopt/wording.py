"""What is wrong with a value that a user wrote, in the words of what they wrote: the rule and the remedy."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

_POWER = re.compile(r"[+-]?\d+(\.\d*)?e[+-]?\d+", re.IGNORECASE)
_MOST_ZEROS = 18  # up to which a power of ten is read as a whole number, that of 64 bit

_WHOLE, _NUMBER, _TEXT, _TRUTH = "a whole number (an integer)", "a number", "a text", "true or false"
_KINDS = {
    "int_parsing": _WHOLE,
    "int_type": _WHOLE,
    "int_from_float": _WHOLE,
    "float_parsing": _NUMBER,
    "float_type": _NUMBER,
    "finite_number": "a finite number",
    "bool_parsing": _TRUTH,
    "bool_type": _TRUTH,
    "string_type": _TEXT,
    "dict_type": "a mapping with keys, such as {key: value}",
    "list_type": "a list, such as [value]",
    "tuple_type": "a list, such as [value]",
}
_BOUNDS = {
    "greater_than_equal": ("ge", "at least"),
    "greater_than": ("gt", "above"),
    "less_than_equal": ("le", "at most"),
    "less_than": ("lt", "below"),
}


def whole(text: Any) -> Any:
    """A text like 1e9 or 2.5e3 as the whole number that it says, anything else as it is: YAML reads a power of ten as a
    number only with a point and a sign."""
    if not isinstance(text, str) or not _POWER.fullmatch(text):
        return text
    digits, _, power = text.lower().partition("e")
    before, _, after = digits.partition(".")
    zeros = int(power[:4]) - len(after.rstrip("0"))
    if not 0 <= zeros <= _MOST_ZEROS or len(text) > 2 * _MOST_ZEROS:
        return text
    return int(before + after.rstrip("0")) * 10**zeros


def items(count: int) -> str:
    return f"{count} item" if count == 1 else f"{count} items"


def rule(problem: Mapping[str, Any]) -> str:
    """What one of pydantic's errors asks for, without the value seen, such as "must be at least 1"."""
    kind, seen, said = problem["type"], problem.get("input"), problem.get("ctx", {})
    if kind in _KINDS:
        power = isinstance(seen, str) and _POWER.fullmatch(seen) and _KINDS[kind] == _WHOLE
        hint = "; a large one is written 1000000000 or 1.0e+9 (YAML reads 1e9 as a text)" if power else ""
        return f"takes {_KINDS[kind]}{hint}"
    if kind in _BOUNDS:
        name, words = _BOUNDS[kind]
        return f"must be {words} {said[name]}"
    if kind == "too_short":
        return f"needs at least {items(said['min_length'])} and has {said['actual_length']}; add what is missing"
    if kind == "too_long":
        return f"takes at most {items(said['max_length'])} and has {said['actual_length']}; remove the others"
    if kind == "literal_error":
        return f"is one of {said['expected']}"
    if kind == "string_pattern_mismatch":
        return f"must match {said['pattern']}"
    return f"is not right: {problem['msg'].removeprefix('Value error, ')}"
