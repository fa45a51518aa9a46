"""Learning from preferences and from teachers, against known optima."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from policyopt.compose import Context, Method, Part
from policyopt.evaluation.experiments._common import Outcome, fit, probabilities, random_table, total_variation
from policyopt.evaluation.experiments._common import numbers as stream
from policyopt.evaluation.experiments._worlds import Automaton, BoundedTable, labelled_answers, unpaid
from policyopt.policies.tabular import Table
from policyopt.run import Run
from policyopt.sampling.samplers import Draw, Judge, attempt
from policyopt.types import Batch, Round
from policyopt.worlds.sequences import SequenceWorld


def preference_bandit(method: Method, seed: int, rounds: int, beta: float = 0.5, pairs: int = 50_000) -> Outcome:
    """4 contexts, 10 answers with normal rewards, pairs drawn from the reference policy, labels by Bradley-Terry.

    value: total-variation distance of the policy to pi_ref exp(r / beta) / Z, mean over contexts, exact.
    """
    contexts, answers = 4, 10
    rng = stream(seed, "preference bandit")
    reward = torch.randn(contexts, answers, generator=rng)
    reference = random_table(contexts, answers, 0.5, seed, "policy")
    p = reference.logits.detach().softmax(-1)
    world = labelled_answers(p, reward, pairs, rng, reward=lambda s, t: reward[t, s[:, 0]])
    optimum = (p.log() + reward / beta).softmax(-1)

    def distance(run: Run, done: Round) -> float:
        return total_variation(probabilities(run), optimum)

    done = fit(method, world, {"policy": reference}, rounds, seed, distance)
    expected = float((done.table * reward).sum(1).mean())
    notes = {
        "expected reward": expected,
        "expected reward of the optimum": float((optimum * reward).sum(1).mean()),
        "distance of the reference": total_variation(p, optimum),
    }
    return done.outcome("total-variation distance to the optimum", notes, score=-done.watched[-1])


class TeacherWrites(Part):
    """A group of one whose row the teacher writes."""

    def __call__(self, ctx: Context, draw: Draw, judge: Judge) -> Batch:
        return judge(attempt(ctx, draw(), 1, 1.0, "teacher"))


def exposure(method: Method, seed: int, rounds: int, author: str = "student") -> Outcome:
    """A walk on 21 places for 20 steps from the middle. The teacher is sharp and steers back to the middle from
    everywhere, so it hardly ever leaves it. The student can not be as sharp (logits within -1.5 ... 1.5), strays, and
    starts with random habits. author: who writes the rows the student learns on.

    value: KL(student || teacher) per step at the states that the student itself visits, nats, exact.
    """
    places, steps, middle = 21, 20, 10
    place = torch.arange(places)
    teacher_logits = torch.stack([(place > middle) * 5.0, (place == middle) * 5.0, (place < middle) * 5.0], 1)
    inner = SequenceWorld(1, 3, steps, unpaid)

    def move(state: Tensor, symbol: Tensor) -> Tensor:
        return (state + symbol - 1).clamp(0, places - 1)

    world = Automaton(inner, places, lambda task: torch.full_like(task, middle), move)
    student = BoundedTable(random_table(places, 3, 1.5, seed, "policy").logits.detach(), 1.5)
    models = {"policy": student, "teacher": Table(teacher_logits)}
    guide = teacher_logits.log_softmax(-1)

    def by_step(table: Tensor) -> Tensor:
        """(steps,) KL(student || teacher) at the student's own distribution over places."""
        here = torch.zeros(places)
        here[middle] = 1.0
        error = (table * (table.clamp(min=1e-12).log() - guide)).sum(1)
        moved = torch.stack([move(place, torch.full_like(place, symbol)) for symbol in range(3)], 1)
        found = []
        for _ in range(steps):
            found.append((here * error).sum())
            here = torch.zeros(places).index_add(0, moved.flatten(), (here[:, None] * table).flatten())
        return torch.stack(found)

    def own_error(run: Run, done: Round) -> float:
        return float(by_step(probabilities(run)).mean())

    taught = replace(method, sampling=TeacherWrites()) if author == "teacher" else method
    done = fit(taught, world, models, rounds, seed, own_error)
    errors = by_step(done.table)
    notes = {"error at the first step": float(errors[0]), "error at the last step": float(errors[-1])}
    return done.outcome("KL to the teacher at the student's own states", notes, score=-done.watched[-1])
