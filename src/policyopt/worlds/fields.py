"""Fields of a record by their type, with errors that name the field, what it holds and what it should hold."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from policyopt.worlds.tasks import Message, SourceError

MOST = 1e30  # the largest number that is taken for one


def text(given: Mapping[str, Any], name: str) -> str:
    if not isinstance(given[name], str):
        raise SourceError(f"field {name!r} must be a string, got {kind(given[name])}; write it in quotes")
    return given[name]


def completion(value: object, name: str) -> tuple[tuple[Message, ...], str]:
    """An answer as (messages before it, the assistant's text)."""
    if isinstance(value, str):
        return (), value
    if not isinstance(value, list):
        raise SourceError(f"field {name!r} must be a string or a list of messages, got {kind(value)}")
    *before, last = messages(value, name)
    if last["role"] != "assistant":
        raise SourceError(f"the last message of {name!r} must be the assistant's, got role {last['role']!r}")
    if not isinstance(last.get("content"), str):
        raise SourceError(f"the last message of {name!r} needs text as its 'content'")
    return tuple(before), last["content"]


def messages(value: object, name: str) -> tuple[Message, ...]:
    if not isinstance(value, list) or not value:
        raise SourceError(f"field {name!r} must be a non-empty list of messages, got {kind(value)}")
    for position, message in enumerate(value):
        if not isinstance(message, Mapping) or not isinstance(message.get("role"), str):
            raise SourceError(f"message {position} of {name!r} must be an object with a string 'role'")
        # A turn that only calls tools has no text.
        if not isinstance(message.get("content"), str) and not message.get("tool_calls"):
            raise SourceError(
                f"message {position} of {name!r} must have a string 'content', got {kind(message.get('content'))}"
            )
    return tuple(dict(message) for message in value)


def number(value: object, name: str) -> float:
    """A finite number; true is 1 and false is 0."""
    if not isinstance(value, int | float) or not -MOST <= value <= MOST:  # nan is not within
        raise SourceError(f"field {name!r} must hold finite numbers, got {kind(value)}")
    return float(value)


def numbers(value: object, name: str, count: int) -> list[float]:
    """As many numbers as there are answers."""
    if not isinstance(value, list) or len(value) != count:
        raise SourceError(f"field {name!r} must be a list of one number per answer, of {count}, got {kind(value)}")
    return [number(one, name) for one in value]


def kind(value: object) -> str:
    return f"{type(value).__name__} {value!r}"[:80]
