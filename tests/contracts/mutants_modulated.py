"""Planted bugs of credit that entropies modulate."""

import torch
from mutants import Patch, mutant

from policyopt.credit.entropies import EntropyModulated, followed
from policyopt.credit.groups import GroupStandardised
from policyopt.credit.tokens import StepStandardised
from policyopt.ops.entropies import EntropyScale


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


@mutant("test_hapo::test_scores_of_entropies_by_hand", "test_hapo::test_the_sampler_is_hotter_where_it_is_unsure")
def low_entropies_change_their_sign(patch: Patch) -> None:
    """As the release of HAPO does."""

    def wrong(self, entropy):
        score = (entropy.clamp(min=1e-8).log() - self.quantile) / self.spread
        return torch.where(score > 0, score / self.most, score / self.least)

    patch.method(EntropyScale, "score", wrong)


@mutant("test_hapo::test_advantages_of_all_steps_of_a_group_add_up_to_zero")
def rows_weigh_the_same_in_step_statistics(patch: Patch) -> None:
    call = StepStandardised.__call__

    def wrong(self, ctx, batch):
        out = GroupStandardised(self.epsilon, 0)(ctx, batch)
        return call(self, ctx, batch) if self.bound == 5.0 else out

    patch.method(StepStandardised, "__call__", wrong)
