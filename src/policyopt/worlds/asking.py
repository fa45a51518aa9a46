"""What worlds of text can be asked about answers, beyond a score: which of two is better, what a user would say next,
a wrong copy, and what becomes of a solution that is criticised. The words are the user's; models answer.

Templates stand for the task's prompt, in a conversation for its last message.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from string import Formatter
from typing import Any

import torch
from torch import Tensor

from policyopt.types import NO_TOKEN, PROMPT, Batch, Tasks
from policyopt.worlds.demonstrations import MISTAKES
from policyopt.worlds.prompts import conversation_tokens, encode_answers, recorded_answers, render_prompts
from policyopt.worlds.tasks import Entry, nearest
from policyopt.worlds.tokens import TokenWorld, WorldError
from policyopt.worlds.verdicts import last_said

Prefer = Callable[[Sequence[str], Sequence[str], Sequence[int]], Sequence[float | None]]
"""First answers, second answers and their tasks -> the probability that each first one is better; None: unknown."""


def check_template(what: str, template: str, fields: set[str]) -> None:
    found = {name for _, name, _, _ in Formatter().parse(template) if name is not None}
    if found != fields:
        raise WorldError(f"the template of {what} holds the fields {sorted(fields)} and no other, not {template!r}")


@dataclass(frozen=True)
class JudgePrompt:
    """How a judge is asked which of two answers is better. template: over {prompt}, {first} and {second}. aided: the
    same with {own}, an answer that the judge gave itself. words: what it says if the first one is, or the second."""

    template: str
    aided: str | None = None
    words: tuple[str, str] = ("A", "B")

    def __post_init__(self) -> None:
        check_template("a judge", self.template, {"prompt", "first", "second"})
        if self.aided is not None:
            check_template("a judge with an answer of its own", self.aided, {"prompt", "first", "second", "own"})
        if not all(self.words) or self.words[0] == self.words[1]:
            raise WorldError(f"a judge's two verdicts are different words, not {self.words}")


@dataclass(frozen=True)
class FollowUps:
    """What pleased and displeased users say next. between: what stands in front of it behind a plain text; in a
    conversation the chat template writes a message of the user."""

    pleased: tuple[str, ...]
    displeased: tuple[str, ...]
    between: str = "\n"

    def __post_init__(self) -> None:
        if not self.pleased or not self.displeased or not all((*self.pleased, *self.displeased)):
            raise WorldError("follow-ups need a text of pleased users and one of displeased ones, none of them empty")


@dataclass(frozen=True)
class Critiques:
    """Tasks are solutions to be judged, and criticised ones are solved again. refine: the solver's prompt, a template
    over {prompt} (of the problem), {solution} and {critique}. words: the verdicts on right and on wrong solutions.
    problems: the entries whose solutions (one each) the tasks show. grade: scores of new solutions and their
    problems."""

    refine: str
    words: tuple[str, str]
    problems: Sequence[Entry]
    solutions: Sequence[str]
    grade: Callable[[list[str], list[int]], Sequence[float | None]]
    right: float = 0.5

    def __post_init__(self) -> None:
        check_template("a refinement", self.refine, {"prompt", "solution", "critique"})


@dataclass(frozen=True)
class Asking:
    """What the world of some entries can be asked; what is None it can not. corrupt: a mistake by name."""

    entries: Sequence[Entry]
    tokenizer: Any
    prefer: Prefer | None = None
    judge: JudgePrompt | None = None
    follow_ups: FollowUps | None = None
    corrupt: str | None = None
    critique: Critiques | None = None

    def __post_init__(self) -> None:
        if self.corrupt is not None and self.corrupt not in MISTAKES:
            raise WorldError(f"unknown mistake {self.corrupt!r}; {nearest(self.corrupt, MISTAKES)}")

    # -- two answers -------------------------------------------------------------------------------------------------
    def preferred(self, world: TokenWorld, first: Batch, second: Batch) -> Tensor:
        """(B,) the probability that each first row is better; 1/2 where that is not known."""
        said = _given(self.prefer, "prefer")(world.texts(first), world.texts(second), first.row["task"].tolist())
        values = [0.5 if chance is None else float(chance) for chance in said]
        return torch.tensor(values, dtype=torch.get_default_dtype(), device=first.device)

    def verdicts(self, world: TokenWorld, first: Batch, second: Batch, own: Batch | None = None) -> tuple[Batch, Batch]:
        """Rows that say "the first is better" behind the judge's prompt of every two answers, and rows that say "the
        second is"; both hold the same prompt."""
        judge = _given(self.judge, "judge")
        template = judge.template if own is None else judge.aided
        if template is None:
            raise WorldError("a judge that gives an answer of its own reads it; give tasks.ask.judge.aided")
        values = [{"first": a, "second": b} for a, b in zip(world.texts(first), world.texts(second), strict=True)]
        if own is not None:
            values = [{**said, "own": text} for said, text in zip(values, world.texts(own), strict=True)]
        ids = first.row["task"].tolist()
        asked = [rewritten(self.entries[task], template, said) for task, said in zip(ids, values, strict=True)]
        prompts = render_prompts(asked, self.tokenizer)
        one, other = (recorded_answers(asked, prompts, [word] * len(asked), self.tokenizer) for word in judge.words)
        tasks = _told(world, first, prompts, max(map(len, (*one, *other)), default=0) + 1)
        return world.complete(tasks, one), world.complete(tasks, other)

    # -- what follows ------------------------------------------------------------------------------------------------
    def followed(self, world: TokenWorld, batch: Batch) -> tuple[Batch, Tensor, Tensor]:
        """A row for every follow-up to every row, whose trained steps are the follow-up without what ends it; the row
        it is about (R,); and whether it is one of pleased users (R,)."""
        said = _given(self.follow_ups, "follow_ups")
        texts = (*said.pleased, *said.displeased)
        of = torch.arange(len(batch), device=batch.device).repeat_interleave(len(texts))
        contexts, replies = [], []
        for row, answer, tokens in zip(range(len(batch)), world.texts(batch), world.answers(batch), strict=True):
            entry = self.entries[int(batch.row["task"][row])]
            prompt = [token for token in batch.context()[row].tolist() if token != NO_TOKEN]
            for text in texts:
                before, after = self._reply(entry, prompt, answer, tokens, text, said.between, world.eos)
                contexts.append(before)
                replies.append(after)
        room = max(map(len, replies), default=0) + 1
        rows = world.complete(_told(world, batch[of], contexts, room), replies)
        last = rows.own & (rows.own.flip(1).cumsum(1).flip(1) == 1)
        rows = rows.with_steps({"train": rows.trained & ~last})
        return rows, of, (torch.arange(len(of), device=of.device) % len(texts)) < len(said.pleased)

    def _reply(
        self, entry: Entry, prompt: list[int], answer: str, tokens: list[int], text: str, between: str, eos: int
    ) -> tuple[list[int], list[int]]:
        if entry.messages is None:
            written = tokens[:-1] if tokens[-1:] == [eos] else tokens
            return prompt + written, encode_answers([between + text], self.tokenizer)[0]
        turn = {"role": "assistant", "content": answer}
        return conversation_tokens([*entry.messages, turn], {"role": "user", "content": text}, self.tokenizer)

    # -- wrong copies --------------------------------------------------------------------------------------------------
    def corrupted(self, world: TokenWorld, rows: Batch, rng: torch.Generator) -> Batch:
        """Rows whose answer is spoilt by a mistake where it stands last in the text; the rest stays."""
        spoil, texts = MISTAKES[_given(self.corrupt, "corrupt")], []
        entries = [self.entries[task] for task in rows.row["task"].tolist()]
        for text, entry in zip(world.texts(rows), entries, strict=True):
            luck = random.Random(int(torch.randint(2**62, (), generator=rng)))
            before, found, after = text.rpartition(entry.answer) if entry.answer else ("", "", "")
            texts.append(before + spoil(found, luck) + after if found else spoil(text, luck))
        prompts = [[token for token in row if token != NO_TOKEN] for row in rows.context().tolist()]
        answers = recorded_answers(entries, prompts, texts, self.tokenizer)
        return world.complete(Tasks(rows.row["task"], rows.row), answers)

    # -- criticised solutions ------------------------------------------------------------------------------------------
    def judged_wrong(self, world: TokenWorld, batch: Batch) -> Tensor:
        """(B,) whether the last verdict of a critique is that on wrong solutions."""
        words = _given(self.critique, "critique").words
        said = [last_said(text, words) == words[1] for text in world.texts(batch)]
        return torch.tensor(said, dtype=torch.bool, device=batch.device)

    def refine(self, world: TokenWorld, batch: Batch) -> Batch:
        """Rows that are about to solve each critique's problem again, having read solution and critique."""
        held = _given(self.critique, "critique")
        ids = batch.row["task"].tolist()
        asked = [
            rewritten(held.problems[task], held.refine, {"solution": held.solutions[task], "critique": critique})
            for task, critique in zip(ids, world.texts(batch), strict=True)
        ]
        return world.start(_told(world, batch, render_prompts(asked, self.tokenizer), world.limit))

    def refined(self, world: TokenWorld, rows: Batch) -> Tensor:
        """(B,) 1 for a new solution that is right, else 0."""
        held = _given(self.critique, "critique")
        scores = held.grade(world.texts(rows), rows.row["task"].tolist())
        said = [float(score is not None and score > held.right) for score in scores]
        return torch.tensor(said, dtype=torch.get_default_dtype(), device=rows.device)


def rewritten(entry: Entry, template: str, values: Mapping[str, str]) -> Entry:
    """The entry with a template in place of its prompt, or of its last message."""
    if entry.messages is None:
        return replace(entry, prompt=template.format(prompt=entry.prompt, **values))
    *before, last = entry.messages
    content = template.format(prompt=last["content"], **values)
    return replace(entry, messages=(*before, {**last, "content": content}))


def _given(what: Any, name: str) -> Any:
    if what is None:
        raise WorldError(f"these tasks have no words for that; in a recipe: tasks.ask.{name}")
    return what


def _told(world: TokenWorld, rows: Batch, prompts: Sequence[list[int]], room: int) -> Tasks:
    """The rows' tasks in their groups, under other prompts. WorldError: one leaves no room for as many tokens."""
    longest = max(map(len, prompts), default=0)
    if world.positions is not None and longest + room > world.positions:
        raise WorldError(
            f"a prompt about an answer has {longest} tokens, which leaves no room for {room} more in the model's "
            f"{world.positions} positions: shorten the template, lower the limit or use a model with more positions"
        )
    padded = [[NO_TOKEN] * (longest - len(prompt)) + prompt for prompt in prompts]
    context = torch.tensor(padded, dtype=torch.int64, device=rows.device).view(len(prompts), longest)
    return Tasks(rows.row["task"], {"group": rows.row["group"], PROMPT: context})
