"""Every loss of the library on one ragged batch, with what the loops say of its value and gradient.

A case says how to compose the loss into a term, and an independent function that gives the unreduced values and the
derivatives by the policy's table. Contract tests run over all cases, so a new loss adds one entry here.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

import loops
from policyopt.compose import Loss, Role, Term, chosen_rows, trained_rows, trained_steps
from policyopt.constraint.divergence import Entropy, ExactKL, K1Loss, K2Loss, K3Loss, KLToReference
from policyopt.objective.preference import PairLogistic
from policyopt.objective.supervised import (
    FullReverseKL,
    GeneralisedJensenShannon,
    NegativeLogLikelihood,
    SampledReverseKL,
)
from policyopt.objective.surrogates import (
    ClippedSurrogate,
    GeometricSequenceSurrogate,
    PolicyGradient,
    ProductSequenceSurrogate,
)
from policyopt.objective.value import SquaredValueError
from policyopt.run import StageContext
from policyopt.types import Batch
from policyopt.update.averaging import RowMean, SequenceMean, SequenceSum, TokenMean
from support import FULL_ROLES, ROLES, Grid, context, grids, method, ragged

Tables = dict[str, Tensor]
Reference = Callable[[Batch, Tables], tuple[list[Any], Tensor]]
"""(batch, tables by model) -> values (in the loss's shape, as lists) and the derivative by the trained table of
sum w value for the weights w that are given as the last argument."""


@dataclass(frozen=True)
class Case:
    """A loss, its unit (step, row, pair or group: a value per row that depends on its whole group), whether it needs
    whole distributions, and its reference."""

    loss: Loss
    reference: Callable[..., tuple[Tensor, Tensor]]
    unit: str = "step"
    full: bool = False
    trains: str = "policy"

    def term(self, average: Any = None, weight: float = 0.7, name: str = "one") -> Term:
        mask = {"step": trained_steps, "row": trained_rows, "group": trained_rows, "pair": chosen_rows}[self.unit]
        average = average or (SequenceMean() if self.unit == "step" else RowMean())
        couples = (self.unit,) if self.coupled else ()
        return Term(name, self.loss, average, mask, weight, self.trains, couples)

    @property
    def coupled(self) -> bool:
        """Rows of a pair, or of a group, must stay together."""
        return self.unit in ("pair", "group")

    @property
    def roles(self) -> dict[str, Role]:
        return dict(FULL_ROLES if self.full else ROLES)

    def context(self, average: Any = None, models: dict[str, Grid] | None = None) -> StageContext:
        made = method(self.term(average), roles=self.roles)
        return context(made, models or grids(self.full))


def _table(tables: Tables, model: str) -> list:
    return tables[model].tolist()


def by_step(formula: Callable[..., tuple[float, float]], models: str, *columns: str) -> Callable:
    """The reference of a step loss: formula(log-probabilities of `models`, columns) on every trained step."""

    def reference(batch: Batch, tables: Tables) -> tuple[Tensor, Tensor]:
        value = torch.zeros(len(batch), batch.steps, dtype=torch.float64)
        slope = torch.zeros_like(value)
        seen = [_table(tables, model) for model in models.split()]
        given = [batch.step[column].tolist() for column in columns]
        for b, t in batch.trained.nonzero().tolist():
            inputs = [table[b][t] for table in seen] + [column[b][t] for column in given]
            value[b, t], slope[b, t] = formula(*inputs)
        return value, slope

    return reference


def by_distribution(formula: Callable[..., tuple[float, list[float]]], other: str | None) -> Callable:
    """The reference of a loss of whole distributions: derivatives by the policy's logits."""

    def reference(batch: Batch, tables: Tables) -> tuple[Tensor, Tensor]:
        value = torch.zeros(len(batch), batch.steps, dtype=torch.float64)
        slope = torch.zeros(len(batch), batch.steps, tables["policy"].shape[-1], dtype=torch.float64)
        for b, t in batch.trained.nonzero().tolist():
            inputs = [tables[m][b, t].softmax(-1).tolist() for m in ("policy", other) if m]
            value[b, t], gradient = formula(*inputs)
            slope[b, t] = torch.tensor(gradient, dtype=torch.float64)
        return value, slope

    return reference


def by_row(low: float, high: float, *, geometric: bool) -> Callable:
    def reference(batch: Batch, tables: Tables) -> tuple[Tensor, Tensor]:
        value = torch.zeros(len(batch), dtype=torch.float64)
        slope = torch.zeros(len(batch), batch.steps, dtype=torch.float64)
        for b in range(len(batch)):
            steps = [t for t in range(batch.steps) if batch.trained[b, t]]
            if not steps:
                continue
            policy, old = ([_table(tables, m)[b][t] for t in steps] for m in ("policy", "old"))
            a = sum(batch.step["advantage"][b, t].item() for t in steps) / len(steps)
            value[b], slopes = loops.sequence_surrogate(policy, old, a, low, high, geometric=geometric)
            slope[b, steps] = torch.tensor(slopes, dtype=torch.float64)
        return value, slope

    return reference


def by_pair(beta: float, smoothing: float) -> Callable:
    def reference(batch: Batch, tables: Tables) -> tuple[Tensor, Tensor]:
        value = torch.zeros(len(batch), dtype=torch.float64)
        slope = torch.zeros(len(batch), batch.steps, dtype=torch.float64)
        policy, frozen = _table(tables, "policy"), _table(tables, "reference")
        pairs, ranks = batch.row["pair"].tolist(), batch.row["rank"].tolist()
        for w in [b for b, rank in enumerate(ranks) if rank == 0]:
            (l,) = [b for b in range(len(batch)) if pairs[b] == pairs[w] and ranks[b] == 1]  # noqa: E741
            steps = {b: [t for t in range(batch.steps) if batch.trained[b, t]] for b in (w, l)}
            rho = {b: sum(policy[b][t] - frozen[b][t] for t in steps[b]) for b in (w, l)}
            value[w], by_delta = loops.pair_loss(rho[w] - rho[l], beta, smoothing)
            slope[w, steps[w]] = by_delta
            slope[l, steps[l]] = -by_delta
        return value, slope

    return reference


def by_value(clip: float | None) -> Callable:
    def reference(batch: Batch, tables: Tables) -> tuple[Tensor, Tensor]:
        value = torch.zeros(len(batch), batch.steps, dtype=torch.float64)
        slope = torch.zeros_like(value)
        for b, t in batch.trained.nonzero().tolist():
            target, old = batch.step["return"][b, t].item(), batch.step["value"][b, t].item()
            value[b, t], slope[b, t] = loops.value_error(tables["critic"][b, t].item(), target, old, clip)
        return value, slope

    return reference


CASES: dict[str, Case] = {
    "policy_gradient": Case(PolicyGradient(), by_step(loops.policy_gradient, "policy", "advantage")),
    "clipped": Case(
        ClippedSurrogate(0.2, 0.28),
        by_step(lambda l, o, a: loops.clipped(l, o, a, 0.2, 0.28), "policy old", "advantage"),  # noqa: E741
    ),
    "dual_clipped": Case(
        ClippedSurrogate(0.2, 0.28, dual_clip=1.4),
        by_step(lambda l, o, a: loops.clipped(l, o, a, 0.2, 0.28, 1.4), "policy old", "advantage"),  # noqa: E741
    ),
    "geometric": Case(GeometricSequenceSurrogate(0.03, 0.04), by_row(0.03, 0.04, geometric=True), unit="row"),
    "product": Case(ProductSequenceSurrogate(0.9, 1.5), by_row(0.9, 1.5, geometric=False), unit="row"),
    "pair_logistic": Case(PairLogistic(0.3, 0.1), by_pair(0.3, 0.1), unit="pair"),
    "likelihood": Case(NegativeLogLikelihood(), by_step(lambda l: (-l, -1.0), "policy")),  # noqa: E741
    "sampled_reverse_kl": Case(SampledReverseKL(), by_step(loops.sampled_reverse_kl, "policy old teacher")),
    "full_reverse_kl": Case(FullReverseKL(), by_distribution(loops.kl, "teacher"), full=True),
    "jensen_shannon": Case(
        GeneralisedJensenShannon(0.3),
        by_distribution(lambda p, t: loops.jensen_shannon(p, t, 0.3), "teacher"),
        full=True,
    ),
    "exact_kl": Case(ExactKL(), by_distribution(loops.kl, "reference"), full=True),
    "entropy": Case(Entropy(), by_distribution(loops.entropy, None), full=True),
    "kl": Case(KLToReference(), by_step(loops.kl_term, "policy old reference")),
    "k1": Case(K1Loss(), by_step(loops.k1_term, "policy reference")),
    "k2": Case(K2Loss(), by_step(loops.k2_term, "policy reference")),
    "k3": Case(K3Loss(), by_step(loops.k3_term, "policy reference")),
    "value": Case(SquaredValueError(), by_value(None), trains="critic"),
    "clipped_value": Case(SquaredValueError(clip=0.4), by_value(0.4), trains="critic"),
}

# Losses of one subject may keep their cases in a file of their own: tests/cases_SUBJECT.py with `CASES`.
for _path in sorted(Path(__file__).parent.glob("cases_*.py")):
    CASES |= import_module(_path.stem).CASES

AVERAGES: dict[str, tuple[Any, Callable]] = {
    "token_mean": (TokenMean(), loops.token_mean),
    "sequence_mean": (SequenceMean(), loops.sequence_mean),
    "sequence_sum": (SequenceSum(9.0), loops.sequence_sum(9.0)),
}


def averages(case: Case) -> dict[str, tuple[Any, Callable]]:
    """The averagings that fit a case's unit."""
    return AVERAGES if case.unit == "step" else {"row_mean": (RowMean(), loops.row_mean)}


def tables(models: dict[str, Grid]) -> Tables:
    """The numbers behind models: values of the critic, logits or log-probabilities of the others."""
    found = {}
    for name, model in models.items():
        kinds = ("values",) if name == "critic" else ("logits", "logp")
        found[name] = next(getattr(model, kind).detach() for kind in kinds if hasattr(model, kind))
    return found


def expected(case: Case, batch: Batch, models: dict[str, Grid], weights: Callable) -> tuple[Tensor, Tensor]:
    """Loss and gradient by the loops, with the case's term weight 0.7; the gradient has the table's shape."""
    seen = tables(models)
    value, slope = case.reference(batch, seen)
    mask = {
        "step": lambda: batch.trained.tolist(),
        "row": lambda: batch.trained.any(1).tolist(),
        "group": lambda: batch.trained.any(1).tolist(),
        "pair": lambda: (batch.row["rank"] == 0).tolist(),
    }[case.unit]()
    scale = 0.7 * torch.tensor(weights(mask), dtype=torch.float64)
    loss = (scale * value).sum()
    if case.unit == "pair":  # the pair's weight is that of its chosen row
        by_pair_id = {p: s for p, r, s in zip(*_pair_columns(batch), scale.tolist(), strict=True) if r == 0}
        scale = torch.tensor([by_pair_id[p] for p in batch.row["pair"].tolist()], dtype=torch.float64)
    while scale.dim() < slope.dim():
        scale = scale[..., None]
    gradient = torch.zeros_like(seen[case.trains])
    gradient[: len(batch), : batch.steps] = scale * slope
    return loss, gradient


def _pair_columns(batch: Batch) -> tuple[list[int], list[int]]:
    return batch.row["pair"].tolist(), batch.row["rank"].tolist()


def rich(seed: int = 0) -> Batch:
    """The batch of the contract tests: lengths 1, 2, 7, 13 with tool, hint and untrained steps."""
    return ragged(seed=seed)
