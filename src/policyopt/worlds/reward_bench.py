"""Files of the form of RewardBench: prompts with right and wrong completions, in named subsets.

One object a line. `chosen` and `rejected` are texts, lists of texts (RewardBench 2: several wrong completions) or
conversations that end with the assistant's message; `prompt` is a text or a conversation, and may be left out where
conversations hold it. `subset`, `id`, `chosen_model`, `rejected_model` and `answer`, a reference answer, are kept;
other fields are passed over.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from policyopt.worlds import fields
from policyopt.worlds.sources import collected, json_lines
from policyopt.worlds.tasks import Message, SourceError

NO_SUBSET = "all"


@dataclass(frozen=True)
class Item:
    """One question of the benchmark: a reward model is right if every chosen completion is above all rejected ones."""

    prompt: str | tuple[Message, ...]
    chosen: tuple[str, ...]
    rejected: tuple[str, ...]
    subset: str = NO_SUBSET
    id: str = ""
    chosen_model: str = ""
    rejected_model: str = ""
    answer: str = ""  # the reference answer, for models that read it

    def __post_init__(self) -> None:
        if not self.chosen or not self.rejected:
            raise SourceError(
                f"an item has at least one chosen and one rejected completion, got {len(self.chosen)} and "
                f"{len(self.rejected)}"
            )

    @property
    def completions(self) -> tuple[str, ...]:
        """The chosen ones first."""
        return (*self.chosen, *self.rejected)

    @property
    def question(self) -> str:
        """The prompt as one text, for judges that read texts."""
        if isinstance(self.prompt, str):
            return self.prompt
        return "\n\n".join(f"{message['role']}: {message.get('content') or ''}" for message in self.prompt)


def read_items(path: str | Path) -> list[Item]:
    """The items of a JSONL file. SourceError: names the line and what is wrong with it."""
    return collected(json_lines(path, "benchmark file"), item_of, Path(path), "items")


def item_of(record: object) -> Item:
    if not isinstance(record, Mapping):
        raise SourceError(f"a record is an object with named fields, got {fields.kind(record)}")
    given = {name: value for name, value in record.items() if value is not None}
    for name in ("chosen", "rejected"):
        if name not in given:
            raise SourceError(f"a record needs 'prompt', 'chosen' and 'rejected'; {name!r} is missing")
    sides = {name: _completions(given[name], name) for name in ("chosen", "rejected")}
    before: list[tuple[Message, ...]] = []
    for messages, _ in (*sides["chosen"], *sides["rejected"]):
        before += [messages] if messages and messages not in before else []
    prompt = _prompt(given, before)
    texts = {name: tuple(text for _, text in side) for name, side in sides.items()}
    told = {name: str(given[name]) for name in ("subset", "id", "chosen_model", "rejected_model") if name in given}
    if "answer" in given:
        told["answer"] = fields.text(given, "answer")
    return Item(prompt, texts["chosen"], texts["rejected"], **told)


def _completions(value: Any, name: str) -> list[tuple[tuple[Message, ...], str]]:
    """(messages before, text) of one completion, or of several."""
    several = isinstance(value, list) and not (value and all(isinstance(each, Mapping) for each in value))
    return [fields.completion(each, name) for each in (value if several else [value])]


def _prompt(given: Mapping[str, Any], before: Sequence[tuple[Message, ...]]) -> str | tuple[Message, ...]:
    said = given.get("prompt")
    if isinstance(said, list):
        said = fields.messages(said, "prompt")
    elif said is not None:
        said = fields.text(given, "prompt")
    whole = ({"role": "user", "content": said},) if isinstance(said, str) else said
    strange = [messages for messages in before if whole is not None and messages != whole]
    if strange or (said is None and len(before) != 1):
        raise SourceError(
            "completions must continue the record's one prompt: give 'prompt', or conversations that agree in every "
            f"message but the last; got {len(before)} different beginnings"
        )
    return before[0] if said is None else said


def write_items(items: Iterable[Item], path: str | Path) -> None:
    """A file that `read_items` reads as the same items."""
    lines = (json.dumps(record_of(item), ensure_ascii=False) for item in items)
    Path(path).write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")


def record_of(item: Item) -> dict[str, Any]:
    """Single completions are texts, as in the first RewardBench; several are lists."""

    def side(texts: Sequence[str]) -> str | list[str]:
        return texts[0] if len(texts) == 1 else list(texts)

    prompt = item.prompt if isinstance(item.prompt, str) else [dict(message) for message in item.prompt]
    record = {"prompt": prompt, "chosen": side(item.chosen), "rejected": side(item.rejected), "subset": item.subset}
    told = {"id": item.id, "chosen_model": item.chosen_model, "rejected_model": item.rejected_model}
    told["answer"] = item.answer
    return {**record, **{name: value for name, value in told.items() if value}}
