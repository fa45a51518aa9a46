"""Planted bugs of credit from critics."""

import torch
from mutants import Patch, mutant

from policyopt.credit.critics import DecomposedAdvantage


@mutant("test_poad::test_token_deltas_of_an_action_add_up_to_the_actions", "test_poad::test_two_turns_by_hand")
def time_passes_inside_an_action(patch: Patch) -> None:
    patch.method(DecomposedAdvantage, "discount", lambda self, batch: torch.full_like(batch.step["reward"], self.gamma))
