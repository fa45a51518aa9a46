"""Running a part on the inputs of a conformance case. The outputs are computed when asked for, by name:

per_step        a loss before averaging, (B, T) or (B,); only counted steps or rows are compared
loss            the loss after `reduction`
grad_NAME       gradient of that loss (of the plain sum, without a reduction) to the input logprobs, logits, values
advantages, returns, rewards, COLUMN    columns that a part writes; a (B,) list compares what every row has in all
scored, pairs   row flags; preference pairs in order of their ids
kept            numbers of the rows that a row rule keeps
weights         of an average over the mask, or of a coefficient
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from policyopt.compose import Averaging, Loss, Part, chosen_rows, trained_rows, trained_steps
from policyopt.evaluation.parts import AVERAGE, LOSS, find, make, refusal, signature
from policyopt.evaluation.vector_batch import VectorContext, batch_of
from policyopt.evaluation.vector_inputs import Inputs, NotOnVectorsError, VectorError, input_of, nearest
from policyopt.ops.masked import select
from policyopt.ops.pairs import pair_rows
from policyopt.seen import SeenBatch
from policyopt.types import Batch


@dataclass(frozen=True)
class Outputs:
    """What can be asked for by name. own (B, T): the policy's own steps of the rows that came out."""

    by_name: Mapping[str, Callable[[], Tensor]]
    own: Tensor

    def get(self, name: str, dimensions: int) -> Tensor:
        """An output, as one number per row if (B,) is asked of (B, T)."""
        if name not in self.by_name:
            raise VectorError(nearest("output", name, self.by_name))
        value = self.by_name[name]().detach()
        return _per_row(name, value, self.own) if dimensions == 1 and value.shape == self.own.shape else value


Reduction = tuple[str, Mapping[str, Any]] | None
"""Name of an averaging part and its options; ("sum", {}) adds up; None does not reduce."""


def outputs(axis: str, name: str, options: Mapping[str, Any], raw: Mapping[str, Any], reduction: Reduction) -> Outputs:
    """What a part makes of a case."""
    found = find(axis, name)
    why = refusal(found)
    if why:
        raise NotOnVectorsError(f"{axis} part {name!r} can not run on a case: {why}")
    part = make(found, dict(options))
    inputs = Inputs(raw, part)
    ctx = VectorContext(inputs)
    if signature(found) == AVERAGE:
        return _average(part, inputs, ctx)
    batch = batch_of(inputs, getattr(part, "reads", ()))
    if signature(found) != LOSS:
        return _rows(part, ctx, batch)
    seen = SeenBatch(ctx, batch)
    if not isinstance(part, Loss):
        return Outputs({"weights": lambda: part(seen, batch)}, batch.own)
    return _loss(part, ctx, batch, inputs, reduction)


def averaging(reduction: str, options: Mapping[str, Any]) -> Averaging:
    """The average of that name."""
    part = make(find("update", reduction), dict(options))
    if not isinstance(part, Averaging):
        raise VectorError(f"reduction {reduction!r} is no average")
    return part


def _loss(part: Loss, ctx: VectorContext, batch: Batch, inputs: Inputs, reduction: Reduction) -> Outputs:
    with torch.no_grad():
        full = part.plan(SeenBatch(ctx, batch), batch)
    seen = SeenBatch(ctx, full)
    value = part(seen, full)
    counts = trained_steps if value.dim() > 1 else chosen_rows if "rank" in part.reads else trained_rows
    mask = counts(seen, full)

    def reduced(*, needed: bool) -> Tensor:
        if reduction is None and needed:
            raise VectorError("a case that expects a loss needs a reduction, for example 'token_mean'")
        if reduction is None or reduction[0] == "sum":
            return select(mask, value).sum()
        return total(averaging(*reduction), mask, value, full, ctx)

    def gradient(name: str) -> Tensor:
        # Inputs that the loss does not depend on have the gradient 0.
        loss, leaf = reduced(needed=False), inputs.given[name]
        if not loss.requires_grad:
            return torch.zeros_like(leaf)
        return torch.autograd.grad(loss, leaf, allow_unused=True, retain_graph=True, materialize_grads=True)[0]

    leaves = [name for name, given in inputs.given.items() if given.requires_grad]
    by_name = {
        "per_step": lambda: select(mask, value),
        "loss": lambda: reduced(needed=True),
        **{f"grad_{name}": lambda name=name: gradient(name) for name in leaves},
    }
    return Outputs(by_name, batch.own)


def total(average: Averaging, mask: Tensor, value: Tensor, batch: Batch, ctx: VectorContext) -> Tensor:
    """The loss of an optimiser step from its unreduced values: a masked nan leaves no trace."""
    weights = weights_of(average, mask, batch, ctx)
    return (weights * select(weights != 0, value)).sum()


def weights_of(average: Averaging, mask: Tensor, batch: Batch, ctx: VectorContext) -> Tensor:
    try:
        return average(mask, batch, ctx.total)
    except IndexError as error:
        if mask.dim() > 1:
            raise
        name = type(average).__name__
        raise VectorError(f"{name} averages over a row's steps, but there is one value per row; use 'mean'") from error


def _average(part: Averaging, inputs: Inputs, ctx: VectorContext) -> Outputs:
    mask, losses = inputs.use("mask"), inputs.get("losses")
    batch = batch_of(inputs, part.reads)
    by_name = {"weights": lambda: weights_of(part, mask, batch, ctx)}
    if losses is None:
        return Outputs(by_name, batch.own)
    if losses.shape != mask.shape:
        raise VectorError(f"losses have the shape {tuple(losses.shape)}, their mask {tuple(mask.shape)}")
    return Outputs({**by_name, "loss": lambda: total(part, mask, losses, batch, ctx)}, batch.own)


def _rows(part: Any, ctx: VectorContext, batch: Batch) -> Outputs:
    out = part(ctx, batch)
    if not isinstance(out, Batch):
        raise NotOnVectorsError(f"{type(part).__name__} returns no batch")
    shown: dict[str, Callable[[], Tensor]] = {
        "kept": lambda: out.row["_row"],
        "rewards": lambda: select(out.valid, out.step["reward"]),
        "scored": lambda: out.row["scored"],
    }
    written: Sequence[str] = part.writes if isinstance(part, Part) else ()
    if "rank" in written:
        shown["pairs"] = lambda: pair_rows(out)
    for name in (name for name in written if name not in ("pair", "rank")):
        columns = out.step if name in out.step else out.row
        shown[input_of(name)] = lambda name=name, columns=columns: columns[name]
    return Outputs(shown, out.own)


def _per_row(name: str, value: Tensor, own: Tensor) -> Tensor:
    """A (B, T) output as one number per row: a sum for rewards, the one value of all own steps for others."""
    if name == "rewards":
        return value.sum(1)
    first = torch.where(own.any(1), value.gather(1, own.long().argmax(1, keepdim=True))[:, 0], 0.0)
    if not torch.equal(select(own, value), select(own, first[:, None].expand_as(value))):
        raise VectorError(f"{name} differ within a row; expect a list per row instead of one number")
    return first
