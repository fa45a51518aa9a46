"""Preferences for answers that the policy would not give by itself."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from policyopt.compose import Method, Program, Stage
from policyopt.evaluation.experiments._common import CountingEngine, Outcome, probabilities
from policyopt.evaluation.experiments._common import numbers as stream
from policyopt.evaluation.experiments._worlds import Wrapped
from policyopt.methods import load
from policyopt.options import override
from policyopt.policies.tabular import Table
from policyopt.run import Run
from policyopt.train import rounds as train_rounds
from policyopt.types import Batch, Tasks
from policyopt.worlds.sequences import SequenceWorld


@dataclass(frozen=True)
class ExpertPairs(Wrapped):
    """Recorded pairs, each of an answer of an expert and one of the policy's own; `recorded` gives the expert's answers
    to a pair's context, both of them. All steps weigh the same."""

    experts: Tensor

    @property
    def size(self) -> int:
        return len(self.inner.pairs)

    def recorded_pairs(self, tasks: Tasks) -> Batch:
        rows = self.inner.recorded_pairs(tasks)
        return rows.with_steps({"severity": torch.ones_like(rows.step["reward"])})

    def recorded(self, tasks: Tasks) -> Batch:
        both = tasks.repeat(2)
        context = self.inner.pair_tasks[both.id]
        return self.inner.complete(Tasks(context, both.row), self.experts.repeat(len(tasks))[:, None])


def unlikely_experts(
    method: Method, seed: int, rounds: int, first: str = "", rate: float = 0.1, own: int = 20, gap: float = 1.0
) -> Outcome:
    """8 contexts; the reference gives 20 answers of its own with normal logits and 2 of an expert with probability
    1e-6 each. 40,000 pairs of one of each, the expert's preferred with probability sigma(gap). first: a method for the
    first half of the rounds, at learning rate `rate`.

    value: probability of the expert's answers, mean over contexts, exact.
    """
    rng, count = stream(seed, "unlikely experts"), 40_000
    logits = torch.randn(8, own, generator=rng).log_softmax(1)
    start = torch.cat([logits, torch.full((8, 2), 1e-6).log()], 1)
    context = torch.arange(count) % 8
    expert = own + (torch.arange(count) // 8) % 2
    other = torch.multinomial(logits.exp()[context], 1, generator=rng)[:, 0]
    right = torch.rand(count, generator=rng) < torch.tensor(gap).sigmoid()
    pairs = torch.where(right[:, None], torch.stack([expert, other], 1), torch.stack([other, expert], 1))
    inner = SequenceWorld(8, own + 2, 1, lambda s, t: torch.zeros(len(t)), pairs=pairs[..., None], pair_tasks=context)
    world = ExpertPairs(inner, torch.tensor([own, own + 1]))
    run: Any = Run({"policy": Table(start)}, world, CountingEngine(), seed)
    half = rounds // 2 if first else 0
    changes = {"update.learning_rate": rate, "update.clip_norm": None, "selection.count": method.selection.count}
    stages = (Stage(override(load(first), changes), half),) if first else ()
    watched, used = [], 0
    for done in train_rounds(run, Program((*stages, Stage(method, rounds - half)))):
        used += len(done.judged)
        watched.append(float(probabilities(run)[:, own:].sum(1).mean()))
    notes = {"probability of the expert's answers half way": watched[rounds // 2 - 1]}
    label = "probability of the expert's answers"
    return Outcome(watched[-1], watched[-1], used, tuple(watched), label, notes)
