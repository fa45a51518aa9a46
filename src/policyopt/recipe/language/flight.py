"""What the flight check asks of language recipes: graders, ends of answers, chat templates, prompts."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from jinja2 import TemplateError

from policyopt.evaluation.flight import Leg
from policyopt.evaluation.flight.grading import affordable, grade_world
from policyopt.evaluation.flight.record import Drift, Ends, Grading
from policyopt.recipe.language.kind import LanguageSubject
from policyopt.recipe.language.tasks import Judging
from policyopt.types import Batch
from policyopt.worlds.tokens import TokenWorld

QUESTION, NEXT = "What is 2 + 2?", "And 3 + 3?"
REPLIES: Mapping[str, str] = {
    "plain": "It is 4.",
    "white space around": "\n It is 4. \n",
    "thoughts": "<think>\n2 + 2 is 4.\n</think>\n\nIt is 4.",
}
"""What an assistant may say, by what is special about it."""


def grade_texts(world: Any, rows: Batch) -> Grading | None:
    """By the recipe's verifier, with the time and the fault of every answer."""
    if not isinstance(world, TokenWorld) or not isinstance(world.judge, Judging):
        return None if not isinstance(world, TokenWorld) or world.judge is None else grade_world(world, rows)
    grader = world.judge.grader

    def grade(part: Batch) -> list[Any]:
        return grader.grade(world.texts(part), part.row["task"].tolist())

    rows = affordable(grade, rows)
    began = time.perf_counter()
    first = grade(rows)
    wall = time.perf_counter() - began
    scores = [
        torch.tensor([float("nan") if g.score is None else g.score for g in each]) for each in (first, grade(rows))
    ]
    return Grading(
        scores[0].double(),
        scores[1].double(),
        tuple(one.seconds for one in first),
        wall,
        Counter(one.fault for one in first if one.fault is not None),
        grader.limits.deadline,
    )


def ends_of(subject: LanguageSubject) -> Ends:
    tokenizer, policy, eos = subject.tokenizer, subject.policy, subject.worlds[0].eos
    return Ends(
        world=eos,
        tokenizer=tokenizer.eos_token_id,
        pad=tokenizer.pad_token_id,
        unlearnable=policy.causal.get_input_embeddings().padding_idx == eos,
        vocabulary=policy.vocabulary,
        turn=_turn_end(tokenizer, eos) if _conversations(subject) else None,
    )


def _conversations(subject: LanguageSubject) -> bool:
    """Whether the tasks are conversations, which only a chat template writes: special tokens beside the first."""
    tokenizer = subject.tokenizer
    special = _special(tokenizer) - {tokenizer.bos_token_id, tokenizer.unk_token_id}
    return tokenizer.chat_template is not None and bool(special & set(subject.worlds[0].prompts[0]))


def _special(tokenizer: Any) -> set[int]:
    """All special tokens, also those without a role."""
    return {index for index, token in tokenizer.added_tokens_decoder.items() if token.special}


def _turn_end(tokenizer: Any, eos: int) -> int | None:
    """The last special token that the template writes behind an answer; EOS if that is among them."""
    asked = _ids(tokenizer, [("user", QUESTION)], answer=True)
    behind = _ids(tokenizer, [("user", QUESTION), ("assistant", REPLIES["plain"])])[len(asked) :]
    special = [token for token in behind if token in _special(tokenizer)]
    return eos if eos in special else special[-1] if special else None


def _ids(tokenizer: Any, turns: Sequence[tuple[str, str]], *, answer: bool = False) -> list[int]:
    said = [{"role": role, "content": text} for role, text in turns]
    return list(tokenizer.apply_chat_template(said, add_generation_prompt=answer, tokenize=True, return_dict=False))


def drift_of(subject: LanguageSubject, legs: Sequence[Leg]) -> Drift | None:
    """None: the tasks are no conversations."""
    if not _conversations(subject):
        return None
    kept = {name: keeps_turn(subject.tokenizer, reply) for name, reply in REPLIES.items()}
    return Drift(kept, read_again(subject, [batch for leg in legs if leg.samples for batch in leg.judged]))


def keeps_turn(tokenizer: Any, reply: str) -> bool:
    """Whether prompt, reply and EOS, as the policy wrote them, are how the conversation begins once the user has
    spoken again. A template that refuses such a conversation does not keep it."""
    try:
        asked = _ids(tokenizer, [("user", QUESTION)], answer=True)
        later = _ids(tokenizer, [("user", QUESTION), ("assistant", reply), ("user", NEXT)], answer=True)
    except TemplateError:
        return False
    written = [*asked, *tokenizer(reply, add_special_tokens=False).input_ids, tokenizer.eos_token_id]
    return later[: len(written)] == written


def read_again(subject: LanguageSubject, batches: Sequence[Batch]) -> float:
    """The share of answers whose raw text has other tokens than it was written with."""
    world, differ, count = subject.worlds[0], 0, 0
    if world.decode_raw is None:
        return 0.0
    for batch in batches:
        for tokens in world.answers(batch):
            again = subject.tokenizer(world.decode_raw(tokens), add_special_tokens=False).input_ids
            differ, count = differ + (again != tokens), count + 1
    return differ / count if count else 0.0


def prompts_of(subject: LanguageSubject) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Texts of training and of held-out prompts."""
    decode = subject.tokenizer.batch_decode
    training = {text for world in subject.worlds for text in decode(list(world.prompts), skip_special_tokens=True)}
    held_out = [] if subject.held_out is None else decode(list(subject.held_out.prompts), skip_special_tokens=True)
    return tuple(training), tuple(held_out)
