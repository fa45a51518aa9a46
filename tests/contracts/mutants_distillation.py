"""Planted bugs of single-row preferences and of divergences to a teacher (traps 41 and 42)."""

import torch
from mutants import DISTILLATION, Patch, mutant

from policyopt.objective.pairwise import RowPreference
from policyopt.objective.supervised import FullReverseKL, SampledReverseKL
from policyopt.types import Categorical

POINT = f"{DISTILLATION}::test_trap_41_no_row_is_compared_with_itself_by_chance"


@mutant(POINT, traps=(41,))
def point_of_the_next_row(patch: Patch) -> None:
    """KTO's estimate from rows shifted by one: in steps of one row it is the row itself."""

    def wrong(self, seen, batch):
        point = self.said(seen, batch).detach().roll(1).clamp(min=0)
        return batch.with_rows({"_point": point})

    patch.method(RowPreference, "plan", wrong)


@mutant(POINT, traps=(41,))
def point_below_zero(patch: Patch) -> None:
    def wrong(self, seen, batch):
        return batch.with_rows({"_point": self.said(seen, batch).detach().mean().expand(len(batch)).clone()})

    patch.method(RowPreference, "plan", wrong)


@mutant(POINT, traps=(41,))
def point_with_a_gradient(patch: Patch) -> None:
    call = RowPreference.__call__

    def wrong(self, seen, batch):
        said = self.said(seen, batch)
        moving = batch.row["_point"] + (said - said.detach()).mean() * (batch.row["_point"] > 0)
        return call(self, seen, batch.with_rows({"_point": moving}))

    patch.method(RowPreference, "__call__", wrong)


def best_two(logp: torch.Tensor) -> torch.Tensor:
    return logp >= logp.topk(2).values[..., -1:]


@mutant(f"{DISTILLATION}::test_trap_42_divergences_are_of_the_whole_vocabulary", traps=(42,))
def only_the_best_choices_count(patch: Patch) -> None:
    def wrong(self, other):
        inside = best_two(self.logp)
        return torch.where(inside, self.logp.exp() * (self.logp - other.logp), 0.0).sum(-1)

    patch.method(Categorical, "kl", wrong)


@mutant(f"{DISTILLATION}::test_trap_42_the_sampled_form_has_the_gradient_of_the_whole_one", traps=(42,))
def every_step_is_paid_the_divergence(patch: Patch) -> None:
    """A reward that does not depend on the step that was taken."""
    whole = FullReverseKL.__call__

    def wrong(self, seen, batch):
        return (seen["policy"].logp - seen["old"].logp).exp() * whole(FullReverseKL(), seen, batch).detach()

    patch.method(SampledReverseKL, "__call__", wrong)
