"""From the preference fields of one record to candidates: answers with ranks and numbers.

Accepted beside `prompt` (or `messages`), each answer a string or a list of messages that ends with the assistant's:

* `{chosen, rejected}`: a pair. Without a prompt it is what both have in common at their beginning: all messages but the
  last, or, of two strings, the words.
* `{prompt_chosen, chosen, prompt_rejected, rejected}`: two segments that start differently.
* `{completions, ranks | scores}`: a ranked list; smaller ranks, larger scores are better.
* `{completion, label}`: one answer by itself, good (true, above 1/2) or bad, or graded.

Numbers: see `read_numbers`; numbers of parts of an answer: see `read_marks`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from policyopt.worlds import fields
from policyopt.worlds.tasks import Candidate, Message, SourceError, nearest

FIELDS = frozenset({"chosen", "rejected", "prompt_chosen", "prompt_rejected", "completions"})
LABEL, STRENGTH = "label", "strength"
GOOD = 0.5  # a label above it is that of a good answer

Question = str | tuple[Message, ...] | None
SIDES = ("chosen", "rejected")
Columns = Mapping[str, str]
"""Names of numbers, and the fields that hold them."""


def compares(given: Mapping[str, Any], columns: Columns) -> bool:
    """Whether a record has preference fields."""
    return bool(FIELDS & given.keys()) or ("completion" in given and columns.get(LABEL, LABEL) in given)


def candidates_of(
    given: Mapping[str, Any], question: Question, columns: Columns
) -> tuple[Question, tuple[Candidate, ...]]:
    """The record's question, which its answers may imply, and its answers, the best first."""
    if "completions" in given:
        return question, _list(given, columns)
    if "completion" in given:
        return question, _alone(given, columns)
    for name in ("chosen", "rejected"):
        if name not in given:
            raise SourceError(f"a preference needs both 'chosen' and 'rejected'; {name!r} is missing")
    if "prompt_chosen" in given or "prompt_rejected" in given:
        return _segments(given, question, columns)
    marked = marked_columns(given, columns)
    question, texts = _pair(given, question)
    numbers = read_numbers(given, {name: field for name, field in columns.items() if name not in marked}, SIDES)
    first, second = _ranked(texts, range(2), numbers)
    marks = [read_marks(given, marked, text, side) for text, side in zip(texts, SIDES, strict=True)]
    return question, (replace(first, marks=marks[0]), replace(second, marks=marks[1]))


# -- pairs -------------------------------------------------------------------------------------------------------------
def _pair(given: Mapping[str, Any], question: Question) -> tuple[Question, list[str]]:
    """The question and the two answers behind it."""
    sides = [given["chosen"], given["rejected"]]
    if question is None and all(isinstance(side, str) for side in sides):
        cut = shared_words(*sides)
        return sides[0][:cut], [side[cut:] for side in sides]
    (before, chosen), (other, rejected) = (fields.completion(given[name], name) for name in ("chosen", "rejected"))
    if before != other:
        raise SourceError(
            "'chosen' and 'rejected' must agree in every message but the last, they differ in message "
            f"{_first_difference(before, other)}; segments that start differently are given as 'prompt_chosen' and "
            "'prompt_rejected'"
        )
    if question is None:
        if not before:
            raise SourceError(
                "a preference without 'prompt' needs 'chosen' and 'rejected' as two whole texts or two whole "
                "conversations (lists of messages, question first); add 'prompt'"
            )
        return before, [chosen, rejected]
    if not before:
        return question, [chosen, rejected]
    # Some data sets give the prompt and repeat it at the head of both conversations.
    if question not in (before, before[-1].get("content")):
        raise SourceError("'chosen' starts with messages that are not the record's 'prompt'; remove them")
    return before, [chosen, rejected]


def shared_words(chosen: str, rejected: str) -> int:
    """The length of the prompt that two whole texts imply: their common beginning, up to where the words begin in which
    they differ; a blank in front of those belongs to the answers."""
    if chosen == rejected:
        raise SourceError(
            "'chosen' and 'rejected' are the same text, so their prompt can not be told from their answer; add "
            "'prompt' or remove the record"
        )
    pairs = enumerate(zip(chosen, rejected, strict=False))
    cut = next((place for place, (one, other) in pairs if one != other), min(len(chosen), len(rejected)))
    while cut and not chosen[cut - 1].isspace():
        cut -= 1
    if chosen[cut - 1 : cut] == " ":
        cut -= 1
    if not chosen[:cut].strip():
        raise SourceError(
            f"'chosen' and 'rejected' begin with no word in common ({chosen[:20]!r} and {rejected[:20]!r}), so they "
            "imply no prompt; add 'prompt'"
        )
    return cut


def _segments(given: Mapping[str, Any], question: Question, columns: Columns) -> tuple[Question, tuple[Candidate, ...]]:
    if question is not None:
        raise SourceError("segments have 'prompt_chosen' and 'prompt_rejected' in place of 'prompt'; remove it")
    starts, texts = [], []
    for side in ("chosen", "rejected"):
        name = f"prompt_{side}"
        if name not in given:
            raise SourceError(f"segments that start differently need both prompts; {name!r} is missing")
        start = given[name]
        starts.append(fields.messages(start, name) if isinstance(start, list) else fields.text(given, name))
        before, text = fields.completion(given[side], side)
        if before:
            raise SourceError(f"a segment's {side!r} holds one assistant message, got {len(before) + 1} messages")
        texts.append(text)
    numbers = read_numbers(given, columns, ("chosen", "rejected"))
    first, second = _ranked(texts, range(2), numbers)
    return starts[0], (first, replace(second, start=starts[1]))


def _first_difference(one: tuple[Message, ...], other: tuple[Message, ...]) -> int:
    for position, (left, right) in enumerate(zip(one, other, strict=False)):
        if left != right:
            return position
    return min(len(one), len(other))


# -- lists and single answers ------------------------------------------------------------------------------------------
def _list(given: Mapping[str, Any], columns: Columns) -> tuple[Candidate, ...]:
    answers = given["completions"]
    if not isinstance(answers, list) or len(answers) < 2:
        raise SourceError(f"field 'completions' must be a list of two answers or more, got {fields.kind(answers)}")
    texts = []
    for place, answer in enumerate(answers):
        before, text = fields.completion(answer, f"completions[{place}]")
        if before:
            raise SourceError(f"completions[{place}] must hold one assistant message, got {len(before) + 1} messages")
        texts.append(text)
    numbers = read_numbers(given, columns, tuple(map(str, range(len(texts)))))
    if "ranks" in given:
        ranks = fields.numbers(given["ranks"], "ranks", len(texts))
        numbers.setdefault(LABEL, _even(ranks))
    elif LABEL in numbers:
        ranks = [-label for label in numbers[LABEL]]
    else:
        steps = " ('labels' beside 'completions' are those of the steps of one answer)" if "labels" in given else ""
        raise SourceError(f"'completions' need 'ranks' (smaller is better) or 'scores' (larger is better){steps}")
    return _ranked(texts, ranks, numbers)


def _even(ranks: Sequence[float]) -> list[float]:
    """Labels from ranks: from 1, the best, down to 0 in even steps; equal ranks, equal labels."""
    places = sorted(set(ranks))
    last = len(places) - 1
    return [1 - places.index(rank) / last if last else GOOD for rank in ranks]


def _alone(given: Mapping[str, Any], columns: Columns) -> tuple[Candidate, ...]:
    before, text = fields.completion(given["completion"], "completion")
    if before:
        raise SourceError(f"'completion' must hold one assistant message, got {len(before) + 1} messages")
    said = {name: given[field] for name, field in {LABEL: LABEL, **columns}.items() if field in given}
    numbers = {name: fields.number(value, columns.get(name, name)) for name, value in said.items()}
    missing = sorted(columns.keys() - numbers.keys())
    if missing:
        raise SourceError(f"the record has no field {columns[missing[0]]!r}; {nearest(columns[missing[0]], given)}")
    return (Candidate(text, int(numbers[LABEL] <= GOOD), numbers),)


def _ranked(
    texts: Sequence[str], ranks: Sequence[float], numbers: Mapping[str, Sequence[float]]
) -> tuple[Candidate, ...]:
    """Best first; of equal ranks the one that the record has first."""
    order = sorted(range(len(texts)), key=lambda place: ranks[place])
    return tuple(
        Candidate(texts[place], rank, {name: said[place] for name, said in numbers.items()})
        for rank, place in enumerate(order)
    )


# -- numbers -----------------------------------------------------------------------------------------------------------
def read_numbers(given: Mapping[str, Any], columns: Columns, sides: tuple[str, ...]) -> dict[str, list[float]]:
    """What a record says in numbers of its answers, by name. sides: "chosen" and "rejected", or the places of a list.

    A field X is written `X_chosen` and `X_rejected`, `chosen_X` and `rejected_X`, as a list of one number per answer
    (`X` or `Xs`), or as one number of them all. Unless `columns` says otherwise, `label` is read from the field
    score, and `strength` from strength or margin, where they are there.
    """
    found = {}
    # Fields of these names that hold words are something else.
    known = {name: value for name, value in given.items() if not isinstance(value, str | Mapping)}
    for name, names in {LABEL: ("score",), STRENGTH: ("strength", "margin")}.items():
        said = (_said(known, field, sides) for field in names if name not in columns)
        values = next((value for value in said if value is not None), None)
        if isinstance(values, float) and name == LABEL:
            values = None  # of both answers together: says nothing of either
        if values is not None:
            found[name] = values
    for name, field in columns.items():
        values = _said(given, field, sides)
        if values is None:
            raise SourceError(f"the record has no numbers {field!r} ({_forms(field, sides)}); {nearest(field, given)}")
        if isinstance(values, float) and name == LABEL:
            raise SourceError(f"{field!r} is one number for all answers; a label is a number of each of them")
        found[name] = values
    return {name: values if isinstance(values, list) else [values] * len(sides) for name, values in found.items()}


def _said(given: Mapping[str, Any], field: str, sides: tuple[str, ...]) -> list[float] | float | None:
    """Numbers of every answer, one number of them together, or None."""
    if sides == ("chosen", "rejected"):
        for names in ([f"{field}_{side}" for side in sides], [f"{side}_{field}" for side in sides]):
            if all(name in given for name in names):
                return [fields.number(given[name], name) for name in names]
    for name in (field, f"{field}s"):
        if isinstance(given.get(name), list):
            return fields.numbers(given[name], name, len(sides))
    return fields.number(given[field], field) if field in given else None


def marked_columns(given: Mapping[str, Any], columns: Columns) -> Columns:
    """The columns whose fields hold numbers of parts of both answers."""
    return {
        name: field
        for name, field in columns.items()
        if all(isinstance(given.get(f"{field}_{side}"), list) for side in SIDES)
    }


def read_marks(
    given: Mapping[str, Any], columns: Columns, text: str, side: str
) -> dict[str, tuple[tuple[int, int, float], ...]]:
    """Numbers of parts of one answer, by name: the field X is written `X_chosen` and `X_rejected`, each a list of
    [begin, end, number], characters of the answer in order that do not overlap."""
    found = {}
    for name, field in columns.items():
        where, marks, last = f"{field}_{side}", [], 0
        for mark in given[where]:
            if not isinstance(mark, list) or len(mark) != 3 or not all(type(place) is int for place in mark[:2]):
                raise SourceError(
                    f"{where!r} holds [begin, end, number] of parts of the answer, got {fields.kind(mark)}"
                )
            begin, end, value = mark
            if not last <= begin < end <= len(text):
                raise SourceError(
                    f"parts in {where!r} follow each other within the answer's {len(text)} characters; [{begin}, "
                    f"{end}] does not lie between {last} and {len(text)}"
                )
            marks.append((begin, end, fields.number(value, where)))
            last = end
        found[name] = tuple(marks)
    return found


def _forms(field: str, sides: tuple[str, ...]) -> str:
    if sides == ("chosen", "rejected"):
        return f"'{field}_chosen' and '{field}_rejected', 'chosen_{field}' and 'rejected_{field}', or '{field}'"
    return f"'{field}' or '{field}s', a list of one number per answer"
