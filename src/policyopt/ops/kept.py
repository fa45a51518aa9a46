"""The record of what truncated sampling left (`truncation`): writing it while rows are sampled, reading it to score."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from policyopt.truncation import CUT, KEPT, SPAN, Truncation, left_of, recording
from policyopt.types import Batch, Categorical


def truncated(batch: Batch, how: Truncation) -> Batch:
    """Rows whose further steps are to be sampled so."""
    row, step = recording(batch.row, batch.step)
    return Batch({**row, CUT: how.of_rows(batch.row["task"])}, step)


def as_written(batch: Batch) -> Batch:
    """The same rows as if they had been sampled at temperature 1 with nothing cut off: for models that say by their
    log-probabilities what a row is worth, however it was sampled."""
    heat = batch.row.get("temperature")
    plain = heat is None or bool((heat == 1).all())
    if plain and SPAN not in batch.step:
        return batch
    row = {name: column for name, column in batch.row.items() if name not in (CUT, KEPT)}
    step = {name: column for name, column in batch.step.items() if name != SPAN}
    return Batch(row if heat is None else {**row, "temperature": torch.ones_like(heat)}, step)


@dataclass(frozen=True)
class Kept:
    """What was kept at each of n steps: count (n,), 0 where nothing was cut off. choice (k,): of all steps, one after
    another; of (k,): the step that each belongs to."""

    count: Int[Tensor, " n"]
    choice: Int[Tensor, " k"]
    of: Int[Tensor, " k"]

    @staticmethod
    def where(left: Bool[Tensor, "n V"]) -> Kept:
        """left: the choices that are left."""
        count = left.sum(1)
        count = torch.where(count == left.shape[1], 0, count)
        of, choice = (left & (count > 0)[:, None]).nonzero(as_tuple=True)
        return Kept(count, choice, of)

    @staticmethod
    def joined(parts: list[Kept]) -> Kept:
        """Of the steps of several records."""
        first = torch.tensor([0, *(len(part.count) for part in parts)]).cumsum(0).tolist()
        of = [part.of + start for part, start in zip(parts, first, strict=False)]
        return Kept(
            torch.cat([part.count for part in parts]), torch.cat([part.choice for part in parts]), torch.cat(of)
        )

    def __len__(self) -> int:
        return len(self.count)

    def __getitem__(self, steps: Bool[Tensor, " n"]) -> Kept:
        """Of some steps."""
        inside = steps[self.of]
        return Kept(self.count[steps], self.choice[inside], (steps.cumsum(0) - 1)[self.of[inside]])

    def split(self, size: int) -> list[Kept]:
        """Of `size` steps each, in order."""
        ends = self.count.cumsum(0)[size - 1 :: size].tolist()
        ends += [len(self.choice)] * (-(-len(self) // size) - len(ends))
        counts, choices = self.count.split(size), self.choice.tensor_split(ends[:-1])
        of = self.of.tensor_split(ends[:-1])
        return [
            Kept(count, choice, of - size * number)
            for number, (count, choice, of) in enumerate(zip(counts, choices, of, strict=True))
        ]

    def left(self, choices: int) -> Bool[Tensor, "n V"]:
        """As a mask over all choices."""
        found = (self.count == 0)[:, None].repeat(1, choices)
        found[self.of, self.choice] = True
        return found


def kept_of(batch: Batch, steps: Bool[Tensor, "B T"]) -> Kept | None:
    """What was kept at some steps, in order of rows, then of time; None if nothing was cut off at any."""
    if SPAN not in batch.step:
        return None
    row = steps.nonzero()[:, 0]
    begin, count = batch.step[SPAN][steps].unbind(1)
    if not bool(count.any()):
        return None
    of = torch.arange(len(count), device=count.device).repeat_interleave(count)
    place = torch.arange(len(of), device=count.device) - (count.cumsum(0) - count)[of]
    return Kept(count, batch.row[KEPT][row[of], begin[of] + place].long(), of)


def remembered(batch: Batch, row: Int[Tensor, " n"], step: Int[Tensor, " n"], kept: Kept) -> Batch:
    """The batch with what was kept at steps (row, step), which have no record yet; steps of a row in order of time."""
    order = row.argsort(stable=True)
    place = torch.empty_like(order)
    place[order] = torch.arange(len(order), device=order.device)
    count, owner = kept.count[order], row[order]
    used = batch.step[SPAN].sum(2).amax(1) if batch.steps else torch.zeros_like(batch.row["task"])
    added = torch.zeros_like(used).index_add(0, owner, count)
    # How much the steps of the same row before it take.
    begin = used[owner] + (count.cumsum(0) - count) - (added.cumsum(0) - added)[owner]
    width = int((used + added).max()) if len(batch) else 0
    old = batch.row[KEPT]
    wider = old.new_full((len(batch), max(width, old.shape[1])), -1)
    wider[:, : old.shape[1]] = old
    within = torch.arange(len(kept.of), device=order.device) - (kept.count.cumsum(0) - kept.count)[kept.of]
    wider[row[kept.of], begin[place[kept.of]] + within] = kept.choice.to(old.dtype)
    span = batch.step[SPAN].clone()
    span[owner, step[order]] = torch.stack([torch.where(count > 0, begin, 0), count], 1)
    return batch.with_rows({KEPT: wider}).with_steps({SPAN: span})


def within(dist: Categorical, batch: Batch) -> Categorical:
    """Distributions (B, T) over what was kept at each step, renormalised; the rest has log-probability minus
    infinity."""
    kept = kept_of(batch, batch.valid)
    if kept is None:
        return dist
    gone = torch.zeros_like(dist.logp, dtype=torch.bool)
    gone[batch.valid] = ~kept.left(dist.logp.shape[-1])
    return Categorical(dist.logp.masked_fill(gone, -torch.inf).log_softmax(-1))


def left_over(dist: Categorical, cut: Float[Tensor, "R 3"]) -> tuple[Categorical, Kept]:
    """What truncation leaves of tempered distributions (R, V), renormalised."""
    left = left_of(dist.logp, torch.ones_like(cut[:, 0]), cut)
    kept = Kept.where(left)
    renormalised = dist.logp.masked_fill(~left, -torch.inf).log_softmax(-1)
    return Categorical(torch.where((kept.count > 0)[:, None], renormalised, dist.logp)), kept
