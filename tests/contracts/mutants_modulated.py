"""Planted bugs of credit that entropies modulate."""

import torch
from mutants import Patch, mutant

from policyopt.credit.entropies import EntropyModulated, followed


@mutant("test_empg::test_two_turns_by_hand", "test_empg::test_weights_have_mean_one_over_turns")
def statistics_count_steps_instead_of_turns(patch: Patch) -> None:
    call = EntropyModulated.__call__

    def wrong(self, ctx, batch):
        steps = torch.arange(batch.steps).expand(len(batch), -1)
        return call(self, ctx, batch.with_steps({"turn": steps}))

    patch.method(EntropyModulated, "__call__", wrong)


@mutant("test_empg::test_the_bonus_looks_at_the_next_turn_of_the_same_row")
def bonus_reaches_into_the_next_row(patch: Patch) -> None:
    patch.function(followed, lambda turns: torch.ones_like(turns.row, dtype=torch.bool))
