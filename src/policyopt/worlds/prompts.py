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
    plain = iter(encode_prompts([str(entry.prompt) for entry in entries if entry.messages is None], tokenizer))
    return [next(plain) if entry.messages is None else _conversation(entry, tokenizer) for entry in entries]


def _conversation(entry: Entry, tokenizer: Any) -> list[int]:
    conversation = [dict(message) for message in entry.messages or ()]
    ids = tokenizer.apply_chat_template(conversation, add_generation_prompt=True, tokenize=True, return_dict=False)
    return list(ids)


def encode_prompts(texts: Sequence[str], tokenizer: Any) -> list[list[int]]:
    """Ids of texts to be continued: with one BOS if the tokenizer uses one, and never with an EOS behind it."""
    if not texts:
        return []
    bos, eos = tokenizer.bos_token, tokenizer.eos_token_id
    plain = encode_answers(texts, tokenizer)
    if not tokenizer.num_special_tokens_to_add():
        return plain
    encoded = zip(texts, _encode(texts, tokenizer, special=True), plain, strict=True)
    prompts = []
    for text, ids, bare in encoded:
        if bos is not None and text.startswith(bos):
            prompts.append(bare)
        # Some tokenizers end every text with EOS; a prompt is not at its end.
        elif ids and ids[-1] == eos and bare[-1:] != ids[-1:]:
            prompts.append(ids[:-1])
        else:
            prompts.append(ids)
    return prompts


def encode_answers(texts: Sequence[str], tokenizer: Any) -> list[list[int]]:
    """Ids of the texts alone; the world adds the EOS."""
    return _encode(texts, tokenizer, special=False)


def _encode(texts: Sequence[str], tokenizer: Any, *, special: bool) -> list[list[int]]:
    if not texts:
        return []
    return tokenizer(list(texts), add_special_tokens=special, return_attention_mask=False).input_ids


def token_world(
    entries: Sequence[Entry], tokenizer: Any, limit: int, judge: Judge | None = None, positions: int | None = None
) -> TokenWorld:
    """The world of some entries. Demonstrations or preference pairs are kept if every entry has them; both sides
    of a pair continue the same prompt tokens."""
    demonstrations = encode_answers([e.demonstration for e in entries if e.demonstration is not None], tokenizer)
    chosen = encode_answers([e.chosen for e in entries if e.chosen is not None], tokenizer)
    rejected = encode_answers([e.rejected for e in entries if e.rejected is not None], tokenizer)
    pairs = [Pair(*sides) for sides in zip(chosen, rejected, strict=True)]
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
