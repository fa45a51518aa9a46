"""From one record of a file or a saved data set (a mapping) to an :class:`Entry`, with errors that name the
field.

Accepted records (the conventions of TRL's data sets):

* ``{prompt | messages, answer}``: a verifiable task; ``prompt`` may be a string or a list of messages.
* ``{prompt, chosen, rejected}``: a preference pair. ``chosen`` and ``rejected`` are strings or lists of
  messages whose last one is the assistant's answer. Without ``prompt`` both must be whole conversations that
  agree in all but the last message (the implicit prompt).
* ``{prompt | messages, demonstration | completion}``: a demonstration, same two forms.

Every other field goes to ``metadata``.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from policyopt.worlds.tasks import Entry, Message, SourceError

_FIELDS = frozenset({"prompt", "messages", "answer", "chosen", "rejected", "demonstration", "completion", "metadata"})


def entry_from_record(record: object) -> Entry:
    """The entry a record describes; SourceError names the field that is missing or of the wrong type."""
    if not isinstance(record, Mapping):
        raise SourceError(f"a record is an object with named fields, got {_kind(record)}")
    # A saved data set has every column in every row; an absent value is None there.
    given = {key: value for key, value in record.items() if value is not None}
    prompt, messages = _question(given)
    metadata = _metadata(given)
    if "chosen" in given or "rejected" in given:
        return _preference(given, prompt, messages, metadata)
    if prompt is None and messages is None:
        raise SourceError(f"a record needs 'prompt' or 'messages', got fields {sorted(given)}")
    demonstration = _demonstration(given)
    if "answer" not in given and demonstration is None:
        raise SourceError(
            "a record needs 'answer' (to verify), 'chosen' and 'rejected' (a preference) or 'demonstration'; "
            f"got fields {sorted(given)}"
        )
    answer = _text(given, "answer") if "answer" in given else ""
    return Entry(prompt, messages, answer, metadata, demonstration=demonstration)


def _question(given: Mapping[str, Any]) -> tuple[str | None, tuple[Message, ...] | None]:
    """The record's prompt and messages, of which at most one is not None."""
    if "prompt" in given and "messages" in given:
        raise SourceError("a record has either 'prompt' or 'messages', got both; remove one")
    if "messages" in given:
        return None, _messages(given["messages"], "messages")
    if "prompt" not in given:
        return None, None
    if isinstance(given["prompt"], list):
        return None, _messages(given["prompt"], "prompt")
    return _text(given, "prompt"), None


def _preference(
    given: Mapping[str, Any],
    prompt: str | None,
    messages: tuple[Message, ...] | None,
    metadata: dict[str, Any],
) -> Entry:
    """A preference pair, with its prompt given or implied by the conversations' common beginning."""
    for name in ("chosen", "rejected"):
        if name not in given:
            raise SourceError(f"a preference needs both 'chosen' and 'rejected'; {name!r} is missing")
    before_chosen, chosen = _completion(given, "chosen")
    before_rejected, rejected = _completion(given, "rejected")
    explicit = prompt is not None or messages is not None
    if not explicit and not (before_chosen and before_rejected):
        raise SourceError(
            "a preference without 'prompt' needs 'chosen' and 'rejected' as whole conversations (lists of "
            "messages, question first); the common beginning of two strings is no safe prompt: add 'prompt'"
        )
    if before_chosen != before_rejected:
        raise SourceError(
            "'chosen' and 'rejected' must agree in every message but the last, they differ in "
            f"message {_first_difference(before_chosen, before_rejected)}"
        )
    if explicit and before_chosen:
        # Some data sets give the prompt and repeat it at the head of both conversations.
        if before_chosen != (messages or ({"role": "user", "content": prompt},)):
            raise SourceError("'chosen' starts with messages that are not the record's 'prompt'; remove them")
        before_chosen = ()
    if not explicit:
        messages = before_chosen
    answer = _text(given, "answer") if "answer" in given else ""
    return Entry(prompt, messages, answer, metadata, chosen=chosen, rejected=rejected)


def _demonstration(given: Mapping[str, Any]) -> str | None:
    names = [name for name in ("demonstration", "completion") if name in given]
    if not names:
        return None
    if len(names) == 2:
        raise SourceError("a record has either 'demonstration' or 'completion', got both; remove one")
    before, text = _completion(given, names[0])
    if before:
        raise SourceError(f"{names[0]!r} must hold one assistant message, got {len(before) + 1} messages")
    return text


def _completion(given: Mapping[str, Any], name: str) -> tuple[tuple[Message, ...], str]:
    """A completion field as (messages before the answer, the assistant's text)."""
    value = given[name]
    if isinstance(value, str):
        return (), value
    if not isinstance(value, list):
        raise SourceError(f"field {name!r} must be a string or a list of messages, got {_kind(value)}")
    *before, last = _messages(value, name)
    if last["role"] != "assistant":
        raise SourceError(f"the last message of {name!r} must be the assistant's, got role {last['role']!r}")
    if not isinstance(last.get("content"), str):
        raise SourceError(f"the last message of {name!r} needs text as its 'content'")
    return tuple(before), last["content"]


def _messages(value: object, name: str) -> tuple[Message, ...]:
    if not isinstance(value, list) or not value:
        raise SourceError(f"field {name!r} must be a non-empty list of messages, got {_kind(value)}")
    for position, message in enumerate(value):
        if not isinstance(message, Mapping) or not isinstance(message.get("role"), str):
            raise SourceError(f"message {position} of {name!r} must be an object with a string 'role'")
        # A turn that only calls tools has no text.
        if not isinstance(message.get("content"), str) and not message.get("tool_calls"):
            raise SourceError(
                f"message {position} of {name!r} must have a string 'content', got {_kind(message.get('content'))}"
            )
    return tuple(dict(message) for message in value)


def _metadata(given: Mapping[str, Any]) -> dict[str, Any]:
    inner = given.get("metadata", {})
    if not isinstance(inner, Mapping):
        raise SourceError(f"field 'metadata' must be an object, got {_kind(inner)}")
    outer = {key: value for key, value in given.items() if key not in _FIELDS}
    twice = sorted(outer.keys() & inner.keys())
    if twice:
        raise SourceError(f"fields {twice} stand both in the record and in its 'metadata'; keep one of each")
    return {**inner, **outer}


def _text(given: Mapping[str, Any], name: str) -> str:
    if not isinstance(given[name], str):
        raise SourceError(f"field {name!r} must be a string, got {_kind(given[name])}; write it in quotes")
    return given[name]


def _first_difference(one: tuple[Message, ...], other: tuple[Message, ...]) -> int:
    for position, (left, right) in enumerate(zip(one, other, strict=False)):
        if left != right:
            return position
    return min(len(one), len(other))


def _kind(value: object) -> str:
    return f"{type(value).__name__} {value!r}"[:80]
