"""Agents that search before they answer."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from policyopt.compose import Method
from policyopt.evaluation.experiments._common import Outcome, fit, probabilities, uniform_table
from policyopt.ops.searches import Searches
from policyopt.run import Run
from policyopt.types import Batch, Finish, Round, StepKind, Tasks, empty_batch

ANSWER = 4


@dataclass(frozen=True)
class TwoHops:
    """Questions whose answer is two links away. Choice 0 searches the question's entity, 1 the entity found last, 2 and
    3 something else, 4 answers; at most `limit` of them. A search is followed by a step of the search engine.

    State: searches so far * 3 + links found. Document 0 is about the question's entity, 1 about the one between.
    """

    limit: int = 5
    size: int = 1

    @property
    def states(self) -> int:
        return (self.limit + 1) * 3

    def tasks(self, ids: Tensor) -> Tasks:
        return Tasks(ids)

    def start(self, tasks: Tasks) -> Batch:
        none = torch.zeros(len(tasks), 0, dtype=torch.int64)
        batch = empty_batch(tasks, {"_state": none, "_step": none})
        return batch.with_rows({"_state": torch.zeros_like(tasks.id)})

    def append(self, batch: Batch, step: Tensor, logp: Tensor, live: Tensor, version: int) -> Batch:
        state, answered = batch.row["_state"], step == ANSWER
        found = state % 3
        after = torch.where(step == 0, found.clamp(min=1), torch.where((step == 1) & (found > 0), 2, found))
        reached = torch.where(live, (state // 3 + 1) * 3 + after, state)
        two = torch.stack([live, live & ~answered], 1)
        kinds = torch.tensor([int(StepKind.OWN), int(StepKind.TOOL)], dtype=torch.uint8)
        none = torch.zeros_like(logp)
        added = batch.behind(
            {
                "kind": kinds.expand(len(batch), 2),
                "train": torch.tensor([True, False]).expand(len(batch), 2),
                "behaviour": torch.stack([logp, none], 1),
                "version": torch.full((len(batch), 2), version),
                "_state": torch.stack([state, reached], 1),
                "_step": torch.stack([step, torch.zeros_like(step)], 1),
            },
            two,
        )
        finish = batch.row["finish"].masked_fill(live & answered, int(Finish.STOPPED))
        finish = finish.masked_fill(live & ~answered & (added.lengths >= self.limit), int(Finish.TRUNCATED))
        return added.with_rows({"finish": finish, "_state": reached})

    def grade(self, batch: Batch) -> Tensor:
        """1 for an answer with both links found, 0 without, -1 for no answer."""
        answered = (batch.own & (batch.step["_step"] == ANSWER)).any(1)
        return torch.where(answered, (batch.row["_state"] % 3 == 2).float(), -1.0)

    def searches(self, batch: Batch) -> Searches:
        step, found = batch.step["_step"], batch.step["_state"] % 3
        made = batch.own & (step != ANSWER)
        # The entity found last is unknown before anything is found: document 4 is about nothing.
        document = torch.where((step == 1) & (found == 0), 4, step)
        match = torch.nn.functional.one_hot(document.clamp(max=4), 5)[..., :2].float()
        told = torch.where(made[..., None], match, float("nan"))
        return Searches(torch.where(made, document, -1)[..., None], told, told)


def two_hops(method: Method, seed: int, rounds: int) -> Outcome:
    """Two-hop questions, at most 5 searches and answers a row. See `TwoHops`.

    value: share of repeated documents among what searches return, mean over the last ten rounds.
    score: probability of a right answer, mean over rounds, exact.
    """
    world = TwoHops()
    twice: list[float] = []

    def right(run: Run, done: Round) -> float:
        twice.append(done.metrics.get("search_repeated", 0.0))
        table = probabilities(run)
        here, chance = torch.tensor([1.0, 0.0, 0.0]), 0.0
        for made in range(world.limit):
            p = table[made * 3 : made * 3 + 3]
            chance += float(here[2] * p[2, ANSWER])
            stay = p[:, 2] + p[:, 3]
            none = here[0] * (p[0, 1] + stay[0])
            one = here[0] * p[0, 0] + here[1] * (p[1, 0] + stay[1])
            both = here[1] * p[1, 1] + here[2] * (p[2, 0] + p[2, 1] + stay[2])
            here = torch.stack([none, one, both])
        return chance

    done = fit(method, world, {"policy": uniform_table(world.states, 5)}, rounds, seed, right)
    score, value = sum(done.watched) / len(done.watched), sum(twice[-10:]) / len(twice[-10:])
    notes = {
        "probability of a right answer, mean over rounds": score,
        "probability of a right answer after training": done.watched[-1],
    }
    return done.outcome("probability of a right answer", notes, value=value, score=score)
