"""From one record of a file or a saved data set (a mapping) to an :class:`Entry`, with errors that name the
field.

Accepted records (the conventions of TRL's data sets):

* ``{prompt | messages, answer}``: a verifiable task; ``prompt`` may be a string or a list of messages.
* ``{prompt | messages, tests}``: a task whose answers are programs (see ``unit_tests``).
* ``{prompt | messages, demonstration | completion}``: a demonstration, a string or a list of messages whose last one
  is the assistant's answer.
* Preferences: pairs, ranked lists, answers with a label (see ``preference_records``).

Every other field goes to ``metadata``. A data set that calls its texts otherwise says so by columns.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from policyopt.worlds import fields
from policyopt.worlds.preference_records import FIELDS, LABEL, Columns, Question, candidates_of, compares
from policyopt.worlds.tasks import Entry, Message, SourceError

TEXTS = frozenset({"prompt", "messages", "answer", "demonstration", "completion", "chosen", "rejected", "tests"})
"""Fields that columns may name otherwise."""

_ALIKE = {
    "prompt": ("question", "problem", "instruction", "query", "input", "text"),
    "answer": ("solution", "ground_truth", "target", "final_answer", "output", "response"),
}
_FIELDS = FIELDS | {"prompt", "messages", "answer", "demonstration", "completion", "metadata"}


def entry_from_record(record: object, columns: Columns | None = None) -> Entry:
    """The entry a record describes; SourceError names the field that is missing or of the wrong type. columns: the
    fields that hold texts called otherwise, and numbers of preference data, by the name they have here."""
    if not isinstance(record, Mapping):
        raise SourceError(f"a record is an object with named fields, got {fields.kind(record)}")
    # A saved data set has every column in every row; an absent value is None there.
    given = {key: value for key, value in record.items() if value is not None}
    given, columns = _renamed(given, columns or {})
    metadata = _metadata(given)
    answer = fields.text(given, "answer") if "answer" in given else ""
    if compares(given, columns):
        question, candidates = candidates_of(given, _question(given), columns)
        return Entry.asking(_known(question, given), answer, metadata=metadata, candidates=candidates)
    if columns:
        raise SourceError(
            f"columns name numbers of preference data, and the record compares nothing; got fields {sorted(given)}"
        )
    if "prompt" in given and "messages" in given:
        raise SourceError("a record has either 'prompt' or 'messages', got both; remove one")
    question = _known(_question(given), given)
    demonstration = _demonstration(given)
    if not {"answer", "tests"} & given.keys() and demonstration is None:
        raise SourceError(
            "a record needs 'answer' or 'tests' (to verify), 'chosen' and 'rejected' (a preference) or "
            f"'demonstration'; got fields {sorted(given)}{_remedy('answer', given)}"
        )
    return Entry.asking(question, answer, metadata=metadata, demonstration=demonstration)


def _renamed(given: Mapping[str, Any], columns: Columns) -> tuple[dict[str, Any], dict[str, str]]:
    """The record with its texts under their names here, and the columns that name numbers. An answer keeps its own name
    as well: reward functions ask for it."""
    texts = {name: field for name, field in columns.items() if name in TEXTS}
    for name, field in texts.items():
        if field not in given:
            raise SourceError(f"columns say that {name!r} is the field {field!r}; got fields {sorted(given)}")
    moved = {field for name, field in texts.items() if name != "answer" or field in _FIELDS | TEXTS | {LABEL}}
    rest = {field: value for field, value in given.items() if field not in moved}
    numbers = {name: field for name, field in columns.items() if name not in TEXTS}
    return {**rest, **{name: given[field] for name, field in texts.items()}}, numbers


def _remedy(name: str, given: Mapping[str, Any]) -> str:
    """Which field may be meant."""
    near = next((field for field in _ALIKE[name] if field in given), "FIELD")
    return f"; rename a field, or say which one it is: tasks.columns={{{name}: {near}}}"


def _known(question: Question, given: Mapping[str, Any]) -> str | tuple[Message, ...]:
    if question is None:
        raise SourceError(
            f"a record needs 'prompt' or 'messages', got fields {sorted(given)}{_remedy('prompt', given)}"
        )
    return question


def _question(given: Mapping[str, Any]) -> Question:
    """The prompt, which stands for the messages too where a preference has both."""
    if "prompt" not in given:
        return fields.messages(given["messages"], "messages") if "messages" in given else None
    if isinstance(given["prompt"], list):
        return fields.messages(given["prompt"], "prompt")
    return fields.text(given, "prompt")


def _demonstration(given: Mapping[str, Any]) -> str | None:
    names = [name for name in ("demonstration", "completion") if name in given]
    if not names:
        return None
    if len(names) == 2:
        raise SourceError("a record has either 'demonstration' or 'completion', got both; remove one")
    before, text = fields.completion(given[names[0]], names[0])
    if before:
        raise SourceError(f"{names[0]!r} must hold one assistant message, got {len(before) + 1} messages")
    return text


def _metadata(given: Mapping[str, Any]) -> dict[str, Any]:
    inner = given.get("metadata", {})
    if not isinstance(inner, Mapping):
        raise SourceError(f"field 'metadata' must be an object, got {fields.kind(inner)}")
    outer = {key: value for key, value in given.items() if key not in _FIELDS}
    twice = sorted(outer.keys() & inner.keys())
    if twice:
        raise SourceError(f"fields {twice} stand both in the record and in its 'metadata'; keep one of each")
    return {**inner, **outer}
