"""From entries (text) to a `TokenWorld` (tokens): the one place where special tokens are added."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any

from policyopt.worlds.tasks import Entry
from policyopt.worlds.tokens import Judge, Pair, TokenWorld, WorldError


def render_prompts(entries: Sequence[Entry], tokenizer: Any) -> list[list[int]]:
    """Token ids of every entry's prompt, each tokenized once.

    A conversation goes through the tokenizer's chat template, which writes its own special tokens, up to where the
    assistant begins. Plain text gets the special tokens that the tokenizer puts in front, exactly once.
    WorldError: a conversation, but the tokenizer has no chat template.
    """
    chats = [entry for entry in entries if entry.messages is not None]
    if chats and tokenizer.chat_template is None:
        raise WorldError(
            f"{len(chats)} of {len(entries)} tasks are conversations, but the tokenizer has no chat template; use an "
            "instruction model's tokenizer, or tasks with a plain 'prompt'"
        )
    return [_prompt(entry, tokenizer) for entry in entries]


def _prompt(entry: Entry, tokenizer: Any) -> list[int]:
    if entry.messages is None:
        return encode_prompt(str(entry.prompt), tokenizer)
    conversation = [dict(message) for message in entry.messages]
    ids = tokenizer.apply_chat_template(conversation, add_generation_prompt=True, tokenize=True, return_dict=False)
    return list(ids)


def encode_prompt(text: str, tokenizer: Any) -> list[int]:
    """Ids of a text to be continued: with one BOS if the tokenizer uses one, and never with an EOS behind it."""
    bos = tokenizer.bos_token
    if bos is not None and text.startswith(bos):
        return encode_answer(text, tokenizer)
    ids, bare = list(tokenizer(text).input_ids), encode_answer(text, tokenizer)
    # Some tokenizers end every text with EOS; a prompt is not at its end.
    if ids and ids[-1] == tokenizer.eos_token_id and bare[-1:] != ids[-1:]:
        ids.pop()
    return ids


def encode_answer(text: str, tokenizer: Any) -> list[int]:
    """Ids of the text alone; the world adds the EOS."""
    return list(tokenizer(text, add_special_tokens=False).input_ids)


def token_world(
    entries: Sequence[Entry], tokenizer: Any, limit: int, judge: Judge | None = None, positions: int | None = None
) -> TokenWorld:
    """The world of some entries. Demonstrations or preference pairs are kept if every entry has them; both sides
    of a pair continue the same prompt tokens."""
    demonstrations = [encode_answer(e.demonstration, tokenizer) for e in entries if e.demonstration is not None]
    pairs = [
        Pair(encode_answer(e.chosen, tokenizer), encode_answer(e.rejected, tokenizer))
        for e in entries
        if e.chosen is not None and e.rejected is not None
    ]
    for name, found in (("a demonstration", demonstrations), ("a preference pair", pairs)):
        if 0 < len(found) < len(entries):
            raise WorldError(f"either every entry has {name} or none has; {len(found)} of {len(entries)} have")
    return TokenWorld(
        prompts=render_prompts(entries, tokenizer),
        eos=tokenizer.eos_token_id,
        limit=limit,
        decode=partial(tokenizer.decode, skip_special_tokens=True),
        judge=judge,
        decode_raw=partial(tokenizer.decode, skip_special_tokens=False),
        recorded_answers=demonstrations or None,
        pairs=pairs or None,
        positions=positions,
    )
