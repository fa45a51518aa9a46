"""Judges of texts as models of a run: chat models behind an API that score answers or say which of two is better.

They have no parameters; parts read them like other reward models (`worth`) and preference models (`prefers`), and nan
says that there is no answer.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from policyopt.policies.endpoint import Endpoint, JudgeError, Peer
from policyopt.types import NO_TOKEN, Batch, Finish
from policyopt.worlds.numbers import last_number
from policyopt.worlds.sources import fill

Decode = Callable[[list[int]], str]

SCORE = (
    "How good is this answer to the question, from {lowest} (useless) to {highest} (perfect)?\n\n"
    "Question: {prompt}\nAnswer: {answer}\n\nReply with one number and nothing else."
)
PAIR = (
    "Which of two answers to the question is better?\n\nQuestion: {prompt}\n\nAnswer A: {first}\n\n"
    "Answer B: {second}\n\nReply with A or B and nothing else."
)


class _Judge(nn.Module):
    """A peer and the reader of what batches say."""

    def __init__(self, peer: Peer, decode: Decode):
        super().__init__()
        self.peer, self.decode = peer, decode

    def __deepcopy__(self, memo: Any) -> _Judge:
        return self  # nothing in it is trained, and what it remembers is worth sharing

    def texts(self, batch: Batch) -> list[tuple[str, str]]:
        """Prompt and answer of every row, without special tokens."""
        prompts = [self.decode([token for token in row if token != NO_TOKEN]) for row in batch.context().tolist()]
        tokens, stopped = batch.step["_token"], (batch.row["finish"] == Finish.STOPPED).tolist()
        answers = [tokens[row][own].tolist() for row, own in enumerate(batch.own)]
        # The token that ended an answer is none of its text.
        said = [self.decode(one[:-1] if ended else one) for one, ended in zip(answers, stopped, strict=True)]
        return list(zip(prompts, said, strict=True))


class ScoringJudge(_Judge):
    """Scores answers on a scale; a row is worth (score - lowest) / (highest - lowest), in 0..1."""

    def __init__(self, peer: Peer, decode: Decode, template: str = SCORE, lowest: float = 1.0, highest: float = 10.0):
        super().__init__(peer, decode)
        if not lowest < highest:
            raise JudgeError(f"a judge's scale goes from a lower to a higher number, got {lowest:g} to {highest:g}")
        self.template, self.lowest, self.highest = template, lowest, highest
        self.question("", "")  # a wrong template is known before the first question

    def question(self, prompt: str, answer: str) -> list[dict[str, str]]:
        scale = {"lowest": f"{self.lowest:g}", "highest": f"{self.highest:g}"}
        return [{"role": "user", "content": fill(self.template, {"prompt": prompt, "answer": answer, **scale})}]

    def read(self, reply: str) -> float | None:
        """The reply's last number; one that is off the scale says nothing."""
        number = last_number(reply[:_LONGEST])
        if number is None or not self.lowest <= float(number) <= self.highest:
            return None
        return (float(number) - self.lowest) / (self.highest - self.lowest)

    def worth(self, batch: Batch, context: str | None = None) -> Tensor:
        """(B,) in 0..1; nan where the judge did not answer."""
        return _column(self.scores(self.texts(batch)), batch)

    def scores(self, texts: Sequence[tuple[str, str]]) -> list[float | None]:
        """Of prompts and answers, in 0..1; None where the judge did not answer."""
        return self.peer.ask([self.question(prompt, answer) for prompt, answer in texts], self.read)


class PairJudge(_Judge):
    """Says which of two answers is better, and is asked in both orders: 1 or 0 where both say the same, 1/2 where it
    prefers a place and not an answer (or says that they are equally good)."""

    def __init__(self, peer: Peer, decode: Decode, template: str = PAIR):
        super().__init__(peer, decode)
        self.template = template
        self.question("", "", "")

    def question(self, prompt: str, first: str, second: str) -> list[dict[str, str]]:
        content = fill(self.template, {"prompt": prompt, "first": first, "second": second})
        return [{"role": "user", "content": content}]

    def prefers(self, first: Batch, second: Batch) -> Tensor:
        """(n,) how far each first row is preferred to the second one of the same task; nan where one order has no
        answer."""
        sides = zip(self.texts(first), self.texts(second), strict=True)
        return _column(self.chances([(prompt, one, other) for (prompt, one), (_, other) in sides]), first)

    def chances(self, pairs: Sequence[tuple[str, str, str]]) -> list[float | None]:
        """How far the first of two answers to a prompt is preferred; None where one order has no answer."""
        plain = [self.question(*pair) for pair in pairs]
        turned = [self.question(prompt, other, one) for prompt, one, other in pairs]
        said = self.peer.ask([*plain, *turned], verdict)
        both = zip(said[: len(pairs)], said[len(pairs) :], strict=True)
        return [None if one is None or other is None else (one + 1 - other) / 2 for one, other in both]


_LONGEST = 10_000  # characters of a reply that are read
_VERDICT = re.compile(r"(?<![A-Za-z0-9])(A|B|TIE)(?![A-Za-z0-9])")


def verdict(reply: str) -> float | None:
    """1 for A, 0 for B, 1/2 for a tie; None where the reply names none of them, or several."""
    found = set(_VERDICT.findall(reply[:_LONGEST]))
    return {"A": 1.0, "B": 0.0, "TIE": 0.5}[found.pop()] if len(found) == 1 else None


def _column(answers: Sequence[float | None], batch: Batch) -> Tensor:
    values = [math.nan if answer is None else answer for answer in answers]
    return torch.tensor(values, dtype=torch.get_default_dtype(), device=batch.device)


def judge(name: str, endpoint: Endpoint, decode: Decode, kind: str, **options: Any) -> ScoringJudge | PairJudge:
    """A judge of a kind: "score" or "pair"."""
    return (ScoringJudge if kind == "score" else PairJudge)(Peer(name, endpoint), decode, **options)
