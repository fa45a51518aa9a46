"""Preference data as a user names it, a file, a folder or a recipe, for its statistics."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from policyopt.evaluation.preference_data import Asked, Length, Measure, measures
from policyopt.policies.tokenizer import load_tokenizer
from policyopt.recipe.base import RecipeError
from policyopt.recipe.language.sections import LanguageRecipe
from policyopt.recipe.language.tasks import held_out_entries, training_entries
from policyopt.recipe.schema import load_recipe
from policyopt.worlds.prompts import encode_answers
from policyopt.worlds.sources import folder_entries, jsonl_entries
from policyopt.worlds.tasks import Entry


@dataclass(frozen=True)
class Named:
    """What was named on the command line. source, held_out: JSONL files or folders of `datasets`; source may be a
    recipe, which then says the rest. model: the folder whose tokenizer counts lengths."""

    source: str
    held_out: str | None = None
    split: str | None = None
    columns: Mapping[str, str] = field(default_factory=dict)
    model: str | None = None
    limit: int | None = None


def measured(named: Named) -> list[Measure]:
    """The measures of a set. RecipeError: a recipe of another kind, or options beside a recipe that says them."""
    if Path(named.source).suffix not in (".yaml", ".yml"):
        held_out = () if named.held_out is None else _entries(named.held_out, None, named.columns)
        entries = _entries(named.source, named.split, named.columns)
        if named.model is None:
            return _measures(entries, Asked(len, "characters", named.limit, held_out), named.source)
        return _measures(entries, Asked(_tokens(named.model, entries), "tokens", named.limit, held_out), named.source)
    given = {"--held-out": named.held_out, "--split": named.split, "--columns": named.columns, "--model": named.model}
    idle = [name for name, value in given.items() if value]
    if idle:
        raise RecipeError(f"{idle} have no effect beside a recipe, which says them; remove them")
    recipe = load_recipe(named.source)
    if not isinstance(recipe, LanguageRecipe):
        raise RecipeError(f"{named.source} trains a {recipe.kind} policy; statistics are of preferences between texts")
    held_out = held_out_entries(recipe.tasks, recipe.evaluation)
    entries = training_entries(recipe.tasks, held_out, recipe.seed)
    length = _bytes if recipe.policy.model is None else _tokens(recipe.policy.model, entries)
    return _measures(entries, Asked(length, "tokens", named.limit or recipe.tasks.limit, held_out), named.source)


def _measures(entries: list[Entry], asked: Asked, source: str) -> list[Measure]:
    if not any(entry.candidates for entry in entries):
        raise RecipeError(
            f"{source} holds no preferences: no record has 'chosen' and 'rejected', 'completions' with ranks or "
            "scores, or 'completion' with 'label'"
        )
    return measures(entries, asked)


def _entries(source: str, split: str | None, columns: Mapping[str, str]) -> list[Entry]:
    if Path(source).is_dir():
        return folder_entries(source, split, columns)
    if split is not None:
        raise RecipeError(f"{source!r} is no folder, so it has no split {split!r}; leave it out")
    return jsonl_entries(source, columns)


def _tokens(model: str, entries: Sequence[Entry]) -> Length:
    texts = list({candidate.text for entry in entries for candidate in entry.candidates})
    lengths = map(len, encode_answers(texts, load_tokenizer(model)))
    return dict(zip(texts, lengths, strict=True)).__getitem__


def _bytes(text: str) -> int:
    """Tokens of a tokenizer of single characters."""
    return len(text.encode())
