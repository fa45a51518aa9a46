"""Reward functions in TRL's convention: ``f(completions, **columns)`` or ``f(prompts, completions, **columns)``, lists
of one item per answer in, a list of numbers out, None for an answer that the function does not apply to.

A function is called once per answer, with lists of one item, so that a deadline, a refusal or an exception is that
answer's alone. One that compares the answers of a batch with each other has nothing to compare here.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from typing import Any

from policyopt.worlds.tasks import Entry, VerifierError

COMPLETIONS, PROMPTS = "completions", "prompts"


def in_lists(function: Callable[..., Any]) -> bool:
    """Whether a function is a reward function of lists: it has a parameter ``completions``."""
    try:
        return COMPLETIONS in inspect.signature(function).parameters
    except ValueError:  # some builtins have no signature
        return False


def reward_of(name: str, function: Callable[..., Any], options: Mapping[str, Any], text: str, entry: Entry) -> float:
    """What the function says of one answer. VerifierError: it wants a column that the task does not have, does not
    return a list of one item, or does not apply (None)."""
    given = {**arguments(text, entry), **options}
    parameters = inspect.signature(function).parameters.values()
    if all(parameter.kind is not parameter.VAR_KEYWORD for parameter in parameters):
        taken = {parameter.name for parameter in parameters}
        given = {column: value for column, value in given.items() if column in taken or column in options}
    missing = [
        one.name
        for one in parameters
        if one.kind in (one.POSITIONAL_OR_KEYWORD, one.KEYWORD_ONLY)
        and one.default is one.empty
        and one.name not in given
    ]
    if missing:
        raise VerifierError(
            f"reward function {name!r} takes the columns {missing}, the task has {sorted(columns_of(entry))}; add them "
            "to the data, or give them as verifier_options"
        )
    found = function(**given)
    # numpy arrays and tensors become lists.
    found = found.tolist() if hasattr(found, "tolist") else found
    if not isinstance(found, list | tuple) or len(found) != 1:
        said = f"{len(found)} items" if isinstance(found, list | tuple) else type(found).__name__
        raise VerifierError(
            f"reward function {name!r} returns a list of one number for every answer (here: 1), got {said}; a verifier "
            "of one answer has the parameters (text, entry)"
        )
    if found[0] is None:
        raise VerifierError(f"reward function {name!r} does not apply to this answer (it returned None)")
    return found[0]


def arguments(text: str, entry: Entry) -> dict[str, list[Any]]:
    """Prompts, completions and columns of one answer; in a conversation both are lists of messages."""
    if entry.messages is None:
        prompt, completion = entry.prompt, text
    else:
        prompt = [dict(message) for message in entry.messages]
        completion = [{"role": "assistant", "content": text}]
    columns = {column: [value] for column, value in columns_of(entry).items()}
    return {**columns, PROMPTS: [prompt], COMPLETIONS: [completion]}


def columns_of(entry: Entry) -> dict[str, Any]:
    """What the data says of a task beside its prompt, by name."""
    texts = {"answer": entry.answer or None, "demonstration": entry.demonstration}
    return {**entry.metadata, **{name: text for name, text in texts.items() if text is not None}}
