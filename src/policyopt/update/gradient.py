"""Gradient steps: the loss of one optimiser step, minibatches that keep coupled rows together, the update."""

from __future__ import annotations

import contextlib
import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import torch
from torch import Tensor

from policyopt.compose import CompositionError, Part, Term
from policyopt.ops.masked import select
from policyopt.seen import SeenBatch
from policyopt.types import Batch
from policyopt.update.masters import Summed
from policyopt.update.micro_batches import Passes, split
from policyopt.update.optimizers import Optimizer


class NonFiniteGradientError(ArithmeticError):
    """A loss or gradient is nan or infinite: the step is refused and the model left as it was."""


def couples_of(terms: Sequence[Term]) -> tuple[str, ...]:
    return tuple(sorted({column for term in terms for column in term.couples}))


@dataclass(frozen=True)
class Planned:
    """A term with what was computed over the whole optimiser step: the batch it planned, its mask and weights."""

    term: Term
    batch: Batch
    mask: Tensor
    weights: Tensor


def plan(ctx: Any, batch: Batch, terms: Sequence[Term]) -> list[Planned]:
    """Phase 1, without gradient, over the whole optimiser step: statistics, masks, scales."""
    planned = []
    with torch.no_grad():
        seen = SeenBatch(ctx, batch)
        for term in terms:
            full = term.loss.plan(seen, batch)
            view = seen.having(full)
            mask = term.mask(view, full).bool()
            weight = term.weight(view, full) if callable(term.weight) else term.weight
            # Selected: what a weight function says of uncounted units is arbitrary.
            weights = term.average(mask, full, ctx.total) * weight
            weights = select(mask, weights)
            planned.append(Planned(term, full, mask, weights))
    return planned


def losses(ctx: Any, batch: Batch, terms: Sequence[Term], micro_rows: int | None = None) -> Iterator[Tensor]:
    """The loss of one optimiser step, as one scalar per micro-batch; values and gradients add up."""
    return planned_losses(ctx, batch, plan(ctx, batch, terms), Passes(micro_rows))


def planned_losses(
    ctx: Any, batch: Batch, planned: Sequence[Planned], passes: Passes | int | None = None
) -> Iterator[Tensor]:
    """The same for terms that are planned already: every evaluation then has the same masks, scales and noise. passes:
    how they are divided, or at most how many rows a pass has."""
    passes = passes if isinstance(passes, Passes) else Passes(passes)
    for rows, moving in passes.of(batch, planned, couples_of([item.term for item in planned])):
        with contextlib.nullcontext() if moving else torch.no_grad():
            loss = _micro_loss(ctx, batch, rows, planned)
        yield loss


def _micro_loss(ctx: Any, batch: Batch, rows: Tensor | slice, planned: Sequence[Planned]) -> Tensor:
    part = batch[rows]
    view = SeenBatch(ctx, part)
    loss: Tensor = torch.zeros((), device=part.device)
    for item in planned:
        full = part if item.batch is batch else item.batch[rows]
        seen = view.having(full)
        value = item.term.loss(seen, full)
        weights, mask = item.weights[rows], item.mask[rows]
        if value.shape != weights.shape:
            raise CompositionError(
                f"term {item.term.name!r}: its loss has shape {tuple(value.shape)} but its mask "
                f"{tuple(weights.shape)}; a step loss needs a step mask and a row loss a row mask"
            )
        # Selected, not multiplied: a masked nan must leave no trace in value or gradient.
        counted = (weights * select(weights != 0, value)).sum()
        loss = loss + counted
        with torch.no_grad():
            ctx.meter.add(f"loss/{item.term.name}", counted.detach(), 0)
            for name, watched in item.term.loss.watch(seen, full).items():
                values, some = watched if isinstance(watched, tuple) else (watched, mask)
                counts = mask & some
                ctx.meter.add(f"{item.term.name}/{name}", select(counts, values.detach()).sum(), counts.sum())
    return loss


def total_norm(gradients: Sequence[Tensor]) -> float:
    """Euclidean norm of all gradients together."""
    if not gradients:
        return 0.0
    return float(torch.linalg.vector_norm(torch.stack([torch.linalg.vector_norm(g) for g in gradients])))


@dataclass(frozen=True)
class Gradients(Part, ABC):
    """One update after another: of each model in the order of `optimizers`, by its own terms and parameters only.

    micro_rows: rows per forward pass (memory only: the result is the same). clip_norm: bound on the gradient's
    Euclidean norm: of each model's, or (clip_over "all") of all of them together, which are then taken at the same
    weights, as if one optimiser trained policy and critic. every: a model's step is taken at every n-th update only
    (delayed policies). after_step: called with the run's context after every update (averages of weights). stop: (seen,
    batch) -> bool before an update; if it holds, the rest of the round's updates is left out.
    execution: "recorded" replays the operations of the first update (the same numbers, less overhead: it pays for small
    models); "compiled" has torch compile them (numbers differ by rounding; needs a C++ compiler, takes some seconds).
    """

    optimizers: Mapping[str, Optimizer] = field(default_factory=dict)
    micro_rows: int | None = None
    clip_norm: float | None = 1.0
    clip_over: Literal["model", "all"] = "model"
    every: Mapping[str, int] = field(default_factory=dict)
    after_step: tuple[Callable[..., None], ...] = ()
    stop: Any = None
    execution: Literal["eager", "recorded", "compiled"] = "eager"

    honours_limits = False

    def __post_init__(self) -> None:
        for name in self._counts:
            value = getattr(self, name)
            if value is not None and value < 1:
                raise CompositionError(f"{name} must be at least 1, not {value}")
        if self.clip_norm is not None and self.clip_norm <= 0:
            raise CompositionError(f"clip_norm must be above 0, not {self.clip_norm}; None turns it off")
        strange = sorted(set(self.every) - set(self.optimizers))
        if strange or min(self.every.values(), default=1) < 1:
            raise CompositionError(
                f"every gives a period of at least 1 for models that are trained, {sorted(self.optimizers)}; "
                f"got {dict(self.every)}"
            )

    @property
    def _counts(self) -> tuple[str, ...]:
        return ("micro_rows",)

    @property
    def passes(self) -> Passes:
        """How the rows of an update are divided."""
        return Passes(self.micro_rows)

    @abstractmethod
    def batches(self, ctx: Any, batch: Batch) -> Iterable[tuple[Batch, Tensor | None]]:
        """What each update is computed on: rows of a batch by number, None for all."""

    def __call__(self, ctx: Any, batch: Batch) -> None:
        for whole, rows in self.batches(ctx, batch):
            if self.stop is not None:
                part = whole if rows is None else whole[rows]
                if self.stop(SeenBatch(ctx, part), part):
                    return
            self.update(ctx, whole, rows)

    def update(self, ctx: Any, batch: Batch, rows: Tensor | None = None) -> None:
        """One step of every model whose turn it is."""
        turn = [model for model in self.optimizers if not (ctx.updates + 1) % self.every.get(model, 1)]
        part = None
        for models in [turn] if self.clip_over == "all" else [[model] for model in turn]:
            for model in models:
                # Several processes take a part of the rows each, which is other work at every step.
                if self.execution != "eager" and ctx.trainers is None:
                    self.replay(ctx, batch, rows, model)
                    continue
                if part is None:
                    part = batch if rows is None else batch[rows]
                self.differentiate(ctx, part, model)
            self.apply(ctx, models)
        ctx.count_update()
        for hook in self.after_step:
            hook(ctx)

    def differentiate(self, ctx: Any, batch: Batch, model: str) -> None:
        """Give a model's parameters the gradients of its terms."""
        parameters = self._parameters(ctx, model)
        for parameter in parameters:
            parameter.grad = None
        planned = plan(ctx, batch, terms_of(ctx, model))
        if ctx.trainers is not None:
            if self.passes.tokens is not None:
                raise CompositionError("several processes divide rows, not tokens; set micro_rows, not micro_tokens")
            ctx.trainers.backward(ctx, batch, planned, self.micro_rows, parameters)
            return
        summed = Summed(parameters)
        for loss in planned_losses(ctx, batch, planned, self.passes):
            if loss.requires_grad:
                loss.backward(inputs=parameters)
                summed.add()
        summed.give()

    def replay(self, ctx: Any, batch: Batch, rows: Tensor | None, model: str) -> None:
        """The same, by the operations that the first such step recorded."""
        if self.passes.rows is not None or self.passes.tokens is not None:
            raise CompositionError(
                f"execution={self.execution!r} takes a minibatch at once; set micro_rows and micro_tokens to none"
            )
        terms, parameters = terms_of(ctx, model), self._parameters(ctx, model)

        def loss(recorded: Any, part: Batch) -> Tensor:
            return sum(losses(recorded, part, terms), torch.zeros(()))

        recordings = ctx.recordings(model)
        gradients = recordings.gradients(ctx, loss, parameters, batch, rows, compiled=self.execution == "compiled")
        for parameter, gradient in zip(parameters, gradients, strict=True):
            parameter.grad = gradient

    def apply(self, ctx: Any, models: Sequence[str]) -> None:
        """Move models by the gradients that their parameters hold, within the bound on the norm of all of them."""
        norms = {model: self._norm(ctx, model) for model in models}
        norm = math.hypot(*norms.values())  # of one model: its own, to the bit
        for model in models:
            parameters = self._parameters(ctx, model)
            if self.clip_norm is not None and norm > self.clip_norm:
                for parameter in parameters:
                    if parameter.grad is not None:
                        parameter.grad.mul_(self.clip_norm / (norm + 1e-6))
            for term in terms_of(ctx, model):
                ctx.meter.add(f"loss/{term.name}", 0.0, 1)
            ctx.meter.add(f"gradient_norm/{model}", norms[model], 1)
            optimizer, spec = self._optimizer(ctx, model), self.optimizers[model]
            for group in optimizer.param_groups:
                group["lr"] = spec.at(ctx.stage_step, ctx.stage_total)
            optimizer.step()
            for parameter in parameters:
                parameter.grad = None
        if ctx.trainers is not None:
            ctx.trainers.moved(ctx, models)

    def _norm(self, ctx: Any, model: str) -> float:
        gradients = [p.grad for p in self._parameters(ctx, model) if p.grad is not None]
        norm = total_norm(gradients) if ctx.trainers is None else ctx.trainers.norm(gradients)
        if not math.isfinite(norm):
            raise NonFiniteGradientError(
                f"the gradient of {model!r} is {norm} in round {ctx.step} (terms "
                f"{[term.name for term in terms_of(ctx, model)]}); the model was left as it was. Lower the learning "
                "rate or look at the rewards of this round"
            )
        return norm

    def _optimizer(self, ctx: Any, model: str) -> torch.optim.Optimizer:
        return ctx.optimizer(model, self.optimizers[model])

    def _parameters(self, ctx: Any, model: str) -> list[torch.nn.Parameter]:
        return parameters_of(self._optimizer(ctx, model))


def terms_of(ctx: Any, model: str) -> list[Term]:
    return [term for term in ctx.stage.terms if term.trains == model]


def single_steps(batch: Batch) -> Batch:
    """The trained steps as rows of one step."""
    flat = batch.flat()
    return flat[flat.trained[:, 0]]


def parameters_of(optimizer: torch.optim.Optimizer) -> list[torch.nn.Parameter]:
    return [parameter for group in optimizer.param_groups for parameter in group["params"]]


@dataclass(frozen=True)
class GradientSteps(Gradients):
    """epochs x minibatches of the round's rows, or (unit "step") of their trained steps: a minibatch then mixes steps
    of different rows, which suits losses and averages that do not look along a row.

    micro_tokens: tokens per forward pass, in place of micro_rows. skip_idle: rows of text that no term can learn from
    (advantages of exactly 0, say) are scored without gradient. Both leave the result as it is.
    trust_sampler: `old` log-probabilities are those that the sampler reported, if a sample of the rows scores within
    this of them (metric `sampler_mismatch`), else they are scored.
    """

    epochs: int = 1
    minibatches: int = 1
    unit: Literal["row", "step"] = "row"
    micro_tokens: int | None = None
    skip_idle: bool = True
    trust_sampler: float | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.micro_rows is not None and self.micro_tokens is not None:
            raise CompositionError("give micro_rows or micro_tokens, not both: each bounds what a pass reads")
        if self.trust_sampler is not None and self.trust_sampler < 0:
            raise CompositionError(f"trust_sampler is a bound on a difference, at least 0, not {self.trust_sampler}")

    @property
    def passes(self) -> Passes:
        return Passes(self.micro_rows, self.micro_tokens, self.skip_idle)

    @property
    def _counts(self) -> tuple[str, ...]:
        return ("micro_rows", "micro_tokens", "epochs", "minibatches")

    def batches(self, ctx: Any, batch: Batch) -> Iterator[tuple[Batch, Tensor | None]]:
        couples = couples_of(ctx.stage.terms)
        if self.unit == "step":
            batch = single_steps(batch)
        for _ in range(self.epochs):
            shuffle = ctx.rng("minibatches") if self.minibatches > 1 else None
            for rows in split(batch, self.minibatches, couples, shuffle):
                yield batch, None if self.minibatches == 1 else rows
