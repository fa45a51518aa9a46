"""Learning from rewards on strings: baselines, scales, rare success, noisy ratios, bounded updates."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import torch

from policyopt.compose import Chain, Method, Part
from policyopt.evaluation.experiments._common import Outcome, fit, probabilities, random_table, uniform_table
from policyopt.evaluation.experiments._common import numbers as stream
from policyopt.evaluation.experiments._worlds import (
    Wrapped,
    all_right,
    share_right,
    strings_with_target,
    target_probability,
)
from policyopt.ops.random import generator
from policyopt.run import Run
from policyopt.types import Batch, Round, Scores
from policyopt.worlds.sequences import SequenceWorld


def offset_rewards(method: Method, seed: int, rounds: int, offset: float = 5.0) -> Outcome:
    """6 tasks, strings of 3 of 4 symbols; reward = share of right symbols + a constant that teaches nothing.

    value: expected share of right symbols after training, exact.
    """
    target = strings_with_target(6, 4, 3, stream(seed, "offset rewards"))
    right = share_right(target)
    world = SequenceWorld(6, 4, 3, lambda strings, task: right(strings, task) + offset)

    def share(run: Run, done: Round) -> float:
        return float(target_probability(probabilities(run), target).mean())

    done = fit(method, world, {"policy": uniform_table(world.states, 4)}, rounds, seed, share)
    return done.outcome("expected share of right symbols")


def mixed_scales(method: Method, seed: int, rounds: int) -> Outcome:
    """8 tasks whose rewards are the share of right symbols times a scale from 0.1 to 10 (geometric), so that one
    baseline and one step size serve none of them well.

    value: expected share of right symbols after training, mean over tasks, exact.
    """
    target = strings_with_target(8, 4, 3, stream(seed, "mixed scales"))
    scale, right = torch.logspace(-1, 1, 8), share_right(target)
    world = SequenceWorld(8, 4, 3, lambda strings, task: scale[task] * right(strings, task))

    def share(run: Run, done: Round) -> float:
        return float(target_probability(probabilities(run), target).mean())

    done = fit(method, world, {"policy": uniform_table(world.states, 4)}, rounds, seed, share)
    by_task = target_probability(done.table, target).mean(1)
    notes = {
        "share right on the task of the smallest scale": float(by_task[0]),
        "share right on the task of the largest scale": float(by_task[-1]),
    }
    return done.outcome("expected share of right symbols", notes)


def rare_success(method: Method, seed: int, rounds: int) -> Outcome:
    """4 tasks, strings of 4 of 6 symbols, reward 1 only for the whole target: 1 in 1296 at the start. A recording of
    the target with one symbol in five wrong is there for methods that read it.

    value: probability that a string is entirely right, mean over tasks, exact.
    """
    rng = stream(seed, "rare success")
    target = strings_with_target(4, 6, 4, rng)
    # 64 recordings a task: recorded task k demonstrates task k mod 4.
    shown = target.repeat(64, 1)
    slip = torch.rand(shown.shape, generator=rng) < 0.2
    shown = torch.where(slip, torch.randint(6, shown.shape, generator=rng), shown)
    world = Demonstrated(SequenceWorld(4, 6, 4, all_right(target), recordings=shown))

    def success(run: Run, done: Round) -> float:
        return float(target_probability(probabilities(run), target).prod(1).mean())

    done = fit(method, world, {"policy": uniform_table(16, 6)}, rounds, seed, success)
    demonstrated = float((shown == target.repeat(64, 1)).all(1).float().mean())
    return done.outcome("probability of a right string", {"share of right strings among the recordings": demonstrated})


@dataclass(frozen=True)
class Demonstrated(Wrapped):
    """More recordings than tasks: task ids count recordings, and are taken modulo the number of tasks."""

    @property
    def size(self) -> int:
        assert self.inner.recordings is not None
        return len(self.inner.recordings)

    def _folded(self, tasks: Any) -> Any:
        return replace(tasks, id=tasks.id % self.inner.size)

    def start(self, tasks: Any) -> Batch:
        return self.inner.start(self._folded(tasks))

    def recorded(self, tasks: Any) -> Batch:
        assert self.inner.recordings is not None
        return self.inner.complete(self._folded(tasks), self.inner.recordings[tasks.id])


@dataclass(frozen=True)
class NoisyOld(Part):
    """Log-probabilities of the old policy with normal noise on every step, as from a sampler whose numbers differ
    from the trainer's."""

    deviation: float
    seed: int

    def __call__(self, ctx: Any, batch: Batch) -> Batch:
        noise = torch.randn(batch.step["behaviour"].shape, generator=generator(self.seed, "jitter", ctx.step))
        return batch.with_scores({"old": Scores(batch.step["behaviour"] + self.deviation * noise)})


def jittered_ratios(method: Method, seed: int, rounds: int, deviation: float = 0.3, length: int = 64) -> Outcome:
    """One task, strings of `length` of 4 symbols, reward = share of right symbols, rows used for several updates,
    noise of standard deviation `deviation` on the old log-probabilities.

    value: mean probability of the target's symbols after training, exact.
    """
    target = strings_with_target(1, 4, length, stream(seed, "jittered ratios"))
    world = SequenceWorld(1, 4, length, share_right(target))
    noisy = replace(method, credit=Chain((method.credit, NoisyOld(deviation, seed))))

    def share(run: Run, done: Round) -> float:
        return float(target_probability(probabilities(run), target).mean())

    clipped: list[float] = []

    def watch(run: Run, done: Round) -> float:
        clipped.append(done.metrics["policy/clipped"])
        return share(run, done)

    done = fit(noisy, world, {"policy": uniform_table(length, 4)}, rounds, seed, watch)
    return done.outcome("probability of the target's symbols", {"share of units clipped": sum(clipped) / len(clipped)})


def largest_change(method: Method, seed: int, rounds: int) -> Outcome:
    """4 tasks, strings of 4 of 6 symbols, reward = share of right symbols, several epochs on every batch.

    value: largest KL(policy before || after) of a round, mean over states, in nats, exact.
    score: expected share of right symbols after training.
    """
    target = strings_with_target(4, 6, 4, stream(seed, "largest change"))
    world = SequenceWorld(4, 6, 4, share_right(target))
    start = random_table(world.states, 6, 0.5, seed, "policy")
    before = start.logits.detach().log_softmax(-1).double()
    shares = []

    def change(run: Run, done: Round) -> float:
        nonlocal before
        now = run.models["policy"].logits.detach().log_softmax(-1).double()  # type: ignore[union-attr]
        kl = float((before.exp() * (before - now)).sum(1).mean())
        before = now
        shares.append(float(target_probability(now.exp(), target).mean()))
        return kl

    done = fit(method, world, {"policy": start}, rounds, seed, change)
    notes = {"expected share of right symbols after training": shares[-1]}
    return done.outcome("KL of a round's change", notes, value=max(done.watched), score=shares[-1])
