"""What every experiment shares: the record it returns and a run of the real loop that counts what it used."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from policyopt.compose import Method, Program, Stage
from policyopt.engines.plain import generate
from policyopt.ops.random import generator
from policyopt.policies.tabular import Table
from policyopt.run import Run
from policyopt.train import rounds as train_rounds
from policyopt.types import Batch, Categorical, Round, Scores, Source


@dataclass(frozen=True)
class Outcome:
    """One run of one arm.

    value: the claim's observable. score: what tuning maximises (the same meaning for both arms). rows: rows
    generated or read, the budget. curve: a quantity per round for the plot, `curve_label` says which.
    notes: secondary numbers for the card; the verdict does not read them.
    """

    value: float
    score: float
    rows: int
    curve: tuple[float, ...] = ()
    curve_label: str = ""
    notes: Mapping[str, float] = field(default_factory=dict)


class CountingEngine:
    """The reference engine, counting the rows it generates (a row that goes on counts again) and the steps taken: also
    those that a sampler threw away."""

    def __init__(self) -> None:
        self.rows = self.steps = 0

    def __call__(self, policy: Any, world: Any, batch: Batch, *given: Any, **options: Any) -> Batch:
        self.rows += len(batch)
        done = generate(policy, world, batch, *given, **options)
        self.steps += int(done.lengths.sum() - batch.lengths.sum())
        return done


@dataclass(frozen=True)
class Fit:
    """A finished run: the policy's table, rows used, what `watch` returned after every round."""

    run: Run
    rows: int
    watched: tuple[float, ...]

    @property
    def table(self) -> Tensor:
        """(S, V) probabilities of the policy."""
        return probabilities(self.run)

    def outcome(
        self,
        label: str,
        notes: Mapping[str, float] | None = None,
        *,
        value: float | None = None,
        score: float | None = None,
    ) -> Outcome:
        """With what was watched as the curve. value: None is what was watched last; score: None is the value."""
        value = self.watched[-1] if value is None else value
        return Outcome(value, value if score is None else score, self.rows, self.watched, label, notes or {})


def probabilities(run: Run) -> Tensor:
    policy: Any = run.models["policy"]
    return policy.logits.detach().softmax(-1)


def total_variation(table: Tensor, other: Tensor) -> float:
    """Of the rows (S, V) of two tables, mean over rows."""
    return float(0.5 * (table - other).abs().sum(1).mean())


def choice_scores(logits: Tensor, batch: Batch, *, full: bool) -> Scores:
    """Of the steps taken, by logits (B, T, V) at the rows' temperatures."""
    dist = Categorical.of(logits, batch.row["temperature"][:, None, None])
    return Scores(dist.log_prob(batch.step["_step"]), dist.entropy(), dist if full else None)


def fit(
    method: Method,
    world: Any,
    models: Mapping[str, nn.Module],
    rounds: int,
    seed: int,
    watch: Callable[[Run, Round], float],
) -> Fit:
    """Run `rounds` rounds of the real loop."""
    engine = CountingEngine()
    run = Run(models, world, engine, seed)
    watched, recorded = [], 0
    for done in train_rounds(run, Program((Stage(method, rounds),))):
        recorded += int((done.judged.row["source"] == Source.DATASET).sum())
        watched.append(watch(run, done))
    return Fit(run, engine.rows + recorded, tuple(watched))


def uniform_table(states: int, choices: int) -> Table:
    return Table(torch.zeros(states, choices))


def random_table(states: int, choices: int, scale: float, seed: int, purpose: str) -> Table:
    """Normal logits of standard deviation `scale`."""
    return Table(scale * torch.randn(states, choices, generator=generator(seed, purpose)))


def numbers(seed: int, purpose: str) -> torch.Generator:
    """The stream of an experiment: a function of its seed and what it is for."""
    return generator("experiment", seed, purpose)
