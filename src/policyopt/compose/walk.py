"""What a method, or a part of one, is made of."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import fields, is_dataclass
from typing import Any

from policyopt.compose.parts import Part


def walk(value: Any) -> Iterator[Any]:
    """A value and everything inside it, outermost first: options of dataclasses, keys and items of collections."""
    yield value
    if isinstance(value, Mapping):
        inner = [*value.keys(), *value.values()]
    elif isinstance(value, list | tuple | set | frozenset):
        inner = list(value)
    elif is_dataclass(value) and not isinstance(value, type):
        inner = [getattr(value, option.name) for option in fields(value)]
    else:
        inner = []
    for one in inner:
        yield from walk(one)


def parts_of(value: Any) -> Iterator[Part]:
    """Every part that a value is made of."""
    return (one for one in walk(value) if isinstance(one, Part))


def names_of(value: Any) -> Iterator[str]:
    """Every string among the options of a value: models, columns, cells."""
    return (one for one in walk(value) if isinstance(one, str))
