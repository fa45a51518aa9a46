"""Advantages of single steps: from statistics over steps, and from what models say of the steps taken."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from policyopt.compose import CompositionError, Context, Part, Seen, named_by
from policyopt.credit.groups import standardised
from policyopt.ops.groups import group_range
from policyopt.ops.masked import select, whiten
from policyopt.ops.pieces import Pieces, pieces
from policyopt.ops.sequences import spread, total_reward
from policyopt.seen import SeenBatch, graded, rewinding
from policyopt.types import Batch


@dataclass(frozen=True)
class StepStandardised(Part):
    """GRPO's advantage with mean and population deviation over all steps of the group, so that a row counts by its
    length and sum_b |o_b| A_b = 0 in every group (HAPO, arXiv 2509.16591 v2, eq. 9): what an average over steps needs.

    bound: a group with an advantage of at least this size gets GRPO's instead (std over rows, n - 1); None: never.
    """

    epsilon: float = 1e-6
    bound: float | None = 5.0

    formula = "A_b = (R_b - mu) / (sd + epsilon), mu and sd over R repeated |o| times"
    writes = ("advantage",)

    def __post_init__(self) -> None:
        if self.epsilon < 0 or (self.bound is not None and self.bound <= 0):
            raise CompositionError(f"need epsilon >= 0 and a bound above 0 or none, got {self.epsilon}, {self.bound}")

    def __call__(self, ctx: Context, batch: Batch) -> Batch:
        reward, scored, group = total_reward(batch), batch.row["scored"], batch.row["group"]
        length = torch.where(scored, batch.lengths, 0).to(reward)
        inverse = group.unique(return_inverse=True)[1]

        def mean(x: Tensor) -> Tensor:
            """Of rows (B,) in their group, each as often as it has steps."""
            sums = [x.new_zeros(int(inverse.max()) + 1).index_add(0, inverse, y) for y in (length * x, length)]
            return (sums[0] / sums[1].clamp(min=1))[inverse]

        known = torch.where(scored, reward, 0.0)
        centred = known - mean(known)
        deviation = mean(centred**2).sqrt()
        usable = scored & (group_range(reward, group, scored) > 0) & (deviation > 0)
        advantage = torch.where(usable, centred / (deviation + self.epsilon), 0.0)
        if self.bound is not None:
            largest = torch.zeros_like(advantage).scatter_reduce(0, inverse, advantage.abs(), "amax")[inverse]
            advantage = torch.where(
                largest >= self.bound, standardised(reward, group, scored, self.epsilon, 1), advantage
            )
        return batch.with_steps({"advantage": spread(batch, advantage)})


def said_of_steps(ctx: Context, batch: Batch, model: str) -> Tensor:
    """(B, T) what a value model says of the state that each own step leads to; 0 elsewhere, no gradient."""
    with torch.no_grad():
        return select(batch.own, SeenBatch(ctx, batch).value(model, following=True))


@dataclass(frozen=True)
class ByTokenModel(Part):
    """Advantages on the steps that a token model blames or praises (OREAL, arXiv 2502.06781): those above 0 times
    max(2 sigma(w) - 1, 0), those below 0 times max(1 - 2 sigma(w), 0), w the model's logit of the step.

    running: w is the mean of the logits of the row's steps so far, as in the released code.
    """

    critic: str = "tokens"
    running: bool = False

    formula = "A_bt *= [sign(A_bt) (2 sigma(w(s_b,t+1)) - 1)]+"
    reads = ("advantage",)
    writes = ("advantage", "praise")
    critics = named_by("critic")

    def __call__(self, ctx: Context, batch: Batch) -> Batch:
        said = said_of_steps(ctx, batch, self.critic)
        if self.running:
            said = select(batch.own, said.cumsum(1) / batch.own.cumsum(1).clamp(min=1))
        praise = torch.tanh(said / 2)  # 2 sigma(w) - 1
        advantage = select(batch.own, batch.step["advantage"])
        weight = (advantage.sign() * praise).clamp(min=0)
        return batch.with_steps({"advantage": advantage * weight, "praise": praise})


@dataclass(frozen=True)
class FrozenValues(Part):
    """A model's value of each step is its advantage, whitened over the round (DVPO, arXiv 2502.16944)."""

    critic: str = "guide"
    whitened: bool = True

    formula = "A_bt = whiten(w(s_b,t+1))"
    writes = ("advantage",)
    critics = named_by("critic")

    def __call__(self, ctx: Context, batch: Batch) -> Batch:
        said, scored = said_of_steps(ctx, batch, self.critic), batch.own & batch.row["scored"][:, None]
        advantage = whiten(said, scored, ctx.total) if self.whitened else said
        return batch.with_steps({"advantage": select(scored, advantage)})


def labelled_steps(seen: Seen, batch: Batch) -> Tensor:
    """A mask: trained steps that `PrefixLabels` labelled."""
    return batch.trained & batch.step["labelled"]


@dataclass(frozen=True)
class PrefixLabels(Part):
    """Step column `label` at the last step of every turn (a line of a program): 1 up to the last prefix from which any
    of `count` completions reaches a grade of at least `right`, -1 behind it; `labelled` says where there is one.

    The prefix is found by binary search, as if a prefix of a good one were always good; the empty one counts as good,
    a right row as good to its end (arXiv 2410.17621, section 3.1). The world rewinds rows and grades completions.
    """

    count: int = 8
    right: float = 1.0
    temperature: float = 1.0

    needs = "a world that can go back to a prefix"
    formula = "y_k = 1 if k <= the last good turn else -1"
    writes = ("label", "labelled")

    def __post_init__(self) -> None:
        if self.count < 1 or self.temperature <= 0:
            raise CompositionError(f"need count >= 1 and temperature > 0, got {self.count} and {self.temperature}")

    def __call__(self, ctx: Context, batch: Batch) -> Batch:
        turns = pieces(batch, "turn")
        size = torch.bincount(turns.row, minlength=len(batch))
        good, bad = torch.zeros_like(size), size + 1  # the last turn known to be good, the first known to be bad
        won = total_reward(batch) >= self.right
        good = torch.where(won, size, good)
        bad = torch.where(won, bad, size)  # the whole row is known
        while bool((bad - good > 1).any()):
            asked_rows = (bad - good > 1).nonzero()[:, 0]
            middle = (good + bad)[asked_rows] // 2
            fine = self._completes(ctx, batch, turns, asked_rows, middle)
            good[asked_rows] = torch.where(fine, middle, good[asked_rows])
            bad[asked_rows] = torch.where(fine, bad[asked_rows], middle)
        label = torch.where(turns.place < good[turns.row], 1.0, -1.0).to(batch.step["reward"].dtype)
        placed_labels = turns.on_last(label, batch.step["reward"])
        return batch.with_steps({"label": placed_labels, "labelled": placed_labels != 0})

    def _completes(self, ctx: Context, batch: Batch, turns: Pieces, rows: Tensor, turn: Tensor) -> Tensor:
        """Whether any completion of the first `turn` (m,) turns of rows (m,) is right."""
        first = torch.searchsorted(turns.row, rows)
        steps = turns.last[first + turn - 1] + 1
        many = rows.repeat_interleave(self.count)
        cut = rewinding(ctx.world)(bare(batch)[many], steps.repeat_interleave(self.count))
        grade = graded(ctx, ctx.extend(cut, temperature=self.temperature))
        return (grade.view(len(rows), self.count) >= self.right).any(1)


def bare(batch: Batch) -> Batch:
    """Without scores."""
    return Batch(batch.row, batch.step)
