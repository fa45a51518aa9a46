"""A question that is often right about the answer, and an input that always is; a policy that reads both."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from policyopt.evaluation.experiments._common import choice_scores
from policyopt.types import PROMPT, Batch, Categorical, Scores, Tasks
from policyopt.worlds.sequences import SequenceWorld


@dataclass(frozen=True)
class Cues(SequenceWorld):
    """One answer of `choices`; the prompt of a row is (question, input): 10 tasks an answer, in 7 of which the question
    says the same as the input. Only the input may be masked."""

    def start(self, tasks: Tasks) -> Batch:
        return super().start(tasks).with_rows({PROMPT: self.cues(tasks.id)})

    def cues(self, task: Tensor) -> Tensor:
        """(N, 2)."""
        right, kind = task // 10, task % 10
        off = 1 + (kind - 7).clamp(min=0) % (self.choices - 1)
        return torch.stack([torch.where(kind < 7, right, (right + off) % self.choices), right], 1)

    def maskable(self, batch: Batch) -> Tensor:
        return torch.tensor([False, True]).expand(len(batch), 2)


def cues(choices: int) -> Cues:
    return Cues(10 * choices, choices, 1, lambda strings, task: (strings[:, 0] == task // 10).float())


class TwoStreams(nn.Module):
    """Preferences W_question[q] + W_input[c]; the last row of W_input is read when the input is masked. The question
    is believed from the start."""

    kind = "tabular"

    def __init__(self, choices: int, belief: float):
        super().__init__()
        self.question = nn.Parameter(belief * torch.eye(choices))
        self.input = nn.Parameter(torch.zeros(choices + 1, choices))

    def of(self, prompt: Tensor) -> Tensor:
        return self.question[prompt[:, 0]] + self.input[prompt[:, 1]]

    def next(self, batch: Batch) -> Categorical:
        return Categorical.of(self.of(batch.context()))

    def score(self, batch: Batch, context: str | None = None, *, full: bool = False) -> Scores:
        logits = self.of(batch.context(context))[:, None].expand(-1, batch.steps, -1)
        return choice_scores(logits, batch, full=full)
