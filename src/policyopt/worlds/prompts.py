"""From entries (text) to a `TokenWorld` (tokens): the one place where special tokens are added."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from string import Formatter
from typing import Any, Literal

import torch
from jinja2 import TemplateError

from policyopt.worlds.compared import Ranked
from policyopt.worlds.once import warn_once
from policyopt.worlds.tasks import Candidate, Entry
from policyopt.worlds.tokens import Judge, Judgments, TokenWorld, WorldError


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


Meaning = Literal["number", "solution", "tokens"]


@dataclass(frozen=True)
class Instruction:
    """Words for one thing that a task may be told.

    template: over {prompt} and {value}; in a conversation it rewrites the last message. What the value is: a number
    (of `texts`, if there are some: the text of that index); "solution": a share 0..1 of the recorded demonstration, or
    of the answer, from its beginning; "tokens": a text.
    """

    template: str
    value: Meaning = "number"
    texts: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        fields = {field for _, field, _, _ in Formatter().parse(self.template) if field is not None}
        if fields != {"prompt", "value"}:
            raise WorldError(
                f"a template of an instruction holds {{prompt}} and {{value}} and no other field, not {self.template!r}"
            )
        if self.texts and self.value != "number":
            raise WorldError(f"texts are chosen by a number; remove them, or value={self.value!r}")


class EntryPrompter:
    """Implements `tokens.Prompter`: prompts of entries with what they are told."""

    def __init__(self, entries: Sequence[Entry], tokenizer: Any, instructions: Mapping[str, Instruction]):
        self._entries, self._tokenizer, self._instructions = entries, tokenizer, instructions

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(self._instructions)

    def __call__(self, task: int, told: Mapping[str, float | list[int]]) -> list[int]:
        entry = self._entries[task]
        for name, value in told.items():
            words = self._words(self._instructions[name], value, self._entries[task])
            if words:
                entry = _rewritten(entry, self._instructions[name].template, words)
        (prompt,) = render_prompts([entry], self._tokenizer)
        return prompt

    def _words(self, instruction: Instruction, value: float | list[int], entry: Entry) -> str:
        if isinstance(value, list):
            return self._tokenizer.decode(value, skip_special_tokens=True)
        if math.isnan(value):
            return ""
        if instruction.value == "solution":
            solution = entry.answer if entry.demonstration is None else entry.demonstration
            return solution[: round(value * len(solution))]
        if instruction.texts:
            return instruction.texts[int(value)]
        return f"{value:g}"


def _rewritten(entry: Entry, template: str, words: str) -> Entry:
    if entry.messages is None:
        return replace(entry, prompt=template.format(prompt=entry.prompt, value=words))
    *before, last = entry.messages
    content = template.format(prompt=last["content"], value=words)
    return replace(entry, messages=(*before, {**last, "content": content}))


def _tell_of_alike(entries: Sequence[Entry], prompts: Sequence[list[int]], tokenizer: Any) -> None:
    """Conversations of different messages that the chat template writes in the same tokens: it ignores what they
    say."""
    first: dict[tuple[int, ...], str] = {}
    chats = [(entry, prompt) for entry, prompt in zip(entries, prompts, strict=True) if entry.messages is not None]
    alike = [prompt for entry, prompt in chats if first.setdefault(tuple(prompt), entry.key) != entry.key]
    if alike:
        warn_once(
            f"the tokenizer's chat template ignores messages: {len(alike)} of {len(chats)} conversations are written "
            f"like one of other messages, such as {tokenizer.decode(alike[0])[-120:]!r}; mend the template, or use the "
            "tokenizer that belongs to the model"
        )


def _conversation(entry: Entry, tokenizer: Any) -> list[int]:
    return _written([dict(message) for message in entry.messages or ()], tokenizer, asked=True)


def _written(conversation: Sequence[Mapping[str, Any]], tokenizer: Any, *, asked: bool = False) -> list[int]:
    """What the chat template writes, as tokens. asked: up to where the assistant begins. WorldError: it
    refuses the conversation, or is broken."""
    try:
        return list(
            tokenizer.apply_chat_template(
                [*conversation], add_generation_prompt=asked, tokenize=True, return_dict=False
            )
        )
    # Templates come with models: what they do is anybody's, and jinja2 lets through what Python raises.
    except (TemplateError, TypeError, ValueError, LookupError, AttributeError, ArithmeticError) as error:
        roles = [message.get("role") for message in conversation]
        raise WorldError(
            f"the tokenizer's chat template can not write a conversation with the roles {roles}: "
            f"{type(error).__name__}: {error}; give messages in the roles and order that the template takes, or mend "
            "the template"
        ) from error


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


def recorded_answers(
    entries: Sequence[Entry], prompts: Sequence[list[int]], texts: Sequence[str], tokenizer: Any
) -> list[list[int]]:
    """Ids of recorded answers behind their prompts, EOS included where the answer is a turn of a conversation.

    A turn is what the chat template writes behind the prompt, its end token included: exactly what the policy will
    have to write. WorldError: the template does not keep the prompt in front of an answer, or ends turns otherwise
    than the policy does, so that no token could be said to be the assistant's.
    """
    plain = iter(encode_answers([t for e, t in zip(entries, texts, strict=True) if e.messages is None], tokenizer))
    return [
        next(plain) if entry.messages is None else _turn(entry, prompt, text, tokenizer)
        for entry, prompt, text in zip(entries, prompts, texts, strict=True)
    ]


def _turn(entry: Entry, prompt: list[int], text: str, tokenizer: Any) -> list[int]:
    conversation = [*(dict(message) for message in entry.messages or ()), {"role": "assistant", "content": text}]
    written, end = _behind(prompt, conversation, tokenizer), tokenizer.eos_token_id
    if end not in written:
        raise WorldError(
            f"the chat template ends an answer with {tokenizer.decode(written)[-20:]!r}, not with the EOS token "
            f"{tokenizer.eos_token!r}, which ends the policy's answers; set policy.eos_token to the token that ends a "
            "turn"
        )
    return written[: len(written) - written[::-1].index(end)]


def _behind(begun: list[int], conversation: Sequence[Mapping[str, Any]], tokenizer: Any) -> list[int]:
    """What the chat template writes behind tokens with which the conversation begins."""
    whole = _written(conversation, tokenizer)
    if whole[: len(begun)] != begun:
        raise WorldError(
            "the chat template writes a prompt otherwise once an answer stands behind it, so the answer's tokens can "
            f"not be told apart: {tokenizer.decode(begun)!r} is not how {tokenizer.decode(whole)!r} begins; mend the "
            "template"
        )
    return whole[len(begun) :]


def conversation_tokens(
    messages: Sequence[Mapping[str, Any]], reply: Mapping[str, Any], tokenizer: Any
) -> tuple[list[int], list[int]]:
    """Tokens of a conversation, and those of one more message behind it."""
    begun = _written(messages, tokenizer)
    return begun, _behind(begun, [*messages, reply], tokenizer)


def encode_answers(texts: Sequence[str], tokenizer: Any) -> list[list[int]]:
    """Ids of the texts alone; the world adds the EOS."""
    return _encode(texts, tokenizer, special=False)


def _encode(texts: Sequence[str], tokenizer: Any, *, special: bool) -> list[list[int]]:
    if not texts:
        return []
    return tokenizer(list(texts), add_special_tokens=special, return_attention_mask=False).input_ids


def ranked_answers(entries: Sequence[Entry], prompts: Sequence[list[int]], tokenizer: Any) -> list[Ranked]:
    """The candidates of every entry as tokens behind the entry's prompt, which is tokenized once for all of them; empty
    if there are none. WorldError: only some entries have candidates, only some of those several, or a number."""
    everything = [(entry, candidate) for entry in entries for candidate in entry.candidates]
    _all_or_none("a preference pair, a ranked list or a label", sum(map(bool, _counts(entries))), len(entries))
    if not everything:
        return []
    _all_or_none("answers to compare, not a single one,", sum(count > 1 for count in _counts(entries)), len(entries))
    for what, word in (("numbers", "number"), ("marks", "number of parts")):
        for name in sorted({name for _, candidate in everything for name in getattr(candidate, what)}):
            having = sum(all(name in getattr(candidate, what) for candidate in entry.candidates) for entry in entries)
            _all_or_none(f"the {word} {name!r} of each answer", having, len(entries))
    begun = [_begun(entry, candidate) for entry, candidate in everything]
    own = iter(render_prompts([start for start in begun if start is not None], tokenizer))
    shared = [prompt for prompt, entry in zip(prompts, entries, strict=True) for _ in entry.candidates]
    starts = [prompt if start is None else next(own) for prompt, start in zip(shared, begun, strict=True)]
    asked = [entry if start is None else start for (entry, _), start in zip(everything, begun, strict=True)]
    answers = recorded_answers(asked, starts, [candidate.text for _, candidate in everything], tokenizer)
    found, place = [], 0
    for entry in entries:
        here, candidates = slice(place, place + len(entry.candidates)), entry.candidates
        numbers = {name: [candidate.numbers[name] for candidate in candidates] for name in candidates[0].numbers}
        apart = any(start is not None for start in begun[here])
        pairs = list(zip(candidates, answers[here], strict=True))
        marks = {
            name: [token_numbers(one.text, tokens, one.marks[name], tokenizer) for one, tokens in pairs]
            for name in candidates[0].marks
        }
        own = starts[here] if apart else None
        found.append(Ranked(answers[here], [c.rank for c in candidates], numbers, own, marks))
        place = here.stop
    return found


def token_numbers(
    text: str, tokens: Sequence[int], marks: Sequence[tuple[int, int, float]], tokenizer: Any
) -> list[float]:
    """The number of every token of an answer: the largest of the marked parts that it touches, 1 where it touches none.
    WorldError: the tokenizer does not say where its tokens stand, or a chat template writes the text in other ones."""
    if not getattr(tokenizer, "is_fast", False):
        raise WorldError("numbers of parts of answers need a tokenizer that knows where tokens stand (a fast one)")
    found = tokenizer(text, add_special_tokens=False, return_offsets_mapping=True)
    ids, places = list(found.input_ids), found.offset_mapping
    first = next((n for n in range(len(tokens) - len(ids) + 1) if list(tokens[n : n + len(ids)]) == ids), None)
    if first is None:
        raise WorldError(
            "an answer with numbers of its parts is written in other tokens behind its prompt than alone: "
            f"{text[:60]!r}; use plain prompts, or a chat template that ends the turn's beginning with a line break"
        )
    numbers = [1.0] * len(tokens)
    for n, (begin, end) in enumerate(places):
        touched = [value for left, right, value in marks if left < end and begin < right]
        numbers[first + n] = max(touched, default=1.0)
    return numbers


def judgments(entries: Sequence[Entry]) -> Judgments | None:
    """If every entry says which comparison it judges, and in which order."""
    if not all({"comparison", "swapped"} <= entry.metadata.keys() for entry in entries):
        return None
    numbers: dict[str, int] = {}
    ids = [numbers.setdefault(repr(entry.metadata["comparison"]), len(numbers)) for entry in entries]
    return Judgments(torch.tensor(ids), torch.tensor([bool(entry.metadata["swapped"]) for entry in entries]))


def _counts(entries: Sequence[Entry]) -> list[int]:
    return [len(entry.candidates) for entry in entries]


def _begun(entry: Entry, candidate: Candidate) -> Entry | None:
    """What a segment of its own begins with."""
    if candidate.start is None:
        return None
    return Entry.asking(candidate.start, entry.answer)


def _all_or_none(what: str, having: int, size: int) -> None:
    if 0 < having < size:
        raise WorldError(f"either every entry has {what} or none has; {having} of {size} have")


def token_world(
    entries: Sequence[Entry],
    tokenizer: Any,
    limit: int,
    judge: Judge | None = None,
    positions: int | None = None,
    instructions: Mapping[str, Instruction] | None = None,
) -> TokenWorld:
    """The world of some entries. Demonstrations or preferences are kept if every entry has them; where there are
    preferences and no demonstrations, the best answers are demonstrations. instructions: words for what tasks may
    additionally be told."""
    prompts = render_prompts(entries, tokenizer)
    _tell_of_alike(entries, prompts, tokenizer)
    shown = [entry.demonstration for entry in entries if entry.demonstration is not None]
    _all_or_none("a demonstration", len(shown), len(entries))
    demonstrations = recorded_answers(entries, prompts, shown, tokenizer) if shown else []
    ranked = ranked_answers(entries, prompts, tokenizer)
    if not demonstrations and all(len(one) > 1 for one in ranked):
        demonstrations = [one.answers[0] for one in ranked]
    return TokenWorld(
        prompts=prompts,
        eos=tokenizer.eos_token_id,
        limit=limit,
        decode=partial(tokenizer.decode, skip_special_tokens=True),
        judge=judge,
        decode_raw=partial(tokenizer.decode, skip_special_tokens=False),
        recorded_answers=demonstrations or None,
        pairs=ranked or None,
        judgments=judgments(entries),
        positions=positions,
        prompter=EntryPrompter(entries, tokenizer, instructions) if instructions else None,
    )
