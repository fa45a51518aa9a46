"""Planted bugs of preferences between contexts and orders, of searched siblings and of planned tables."""

from dataclasses import replace

import torch
from mutants import LOOPS, Patch, mutant

from policyopt.objective import contrasted, ordered
from policyopt.sampling import siblings
from policyopt.update import planned


@mutant(LOOPS)
def other_context_against_the_wrong_reference(patch: Patch) -> None:
    """The reference is asked under the row's own context twice."""
    margin = contrasted.ContextPreference.margin

    def wrong(self, seen, batch):
        return margin(replace(self, other_anchor=self.anchor), seen, batch)

    patch.method(contrasted.ContextPreference, "margin", wrong)


@mutant("test_pair_variants::test_aot_orders_margins_and_log_ratios_apart")
def margins_pair_by_pair(patch: Patch) -> None:
    """AOT without the orders is DPO."""

    def wrong(self, seen, batch):
        level, chosen = self.margins(seen, batch, "reference")
        return batch.with_rows({ordered.LEVEL: ordered.at_rows(level, chosen, len(batch))})

    patch.method(ordered.SortedMargins, "plan", wrong)


@mutant("test_mcts_dpo::test_a_label_is_believed_as_far_as_its_winner_was_visited")
def doubt_of_the_visits_turned_round(patch: Patch) -> None:
    doubt = siblings.doubt
    patch.function(doubt, lambda won, lost: doubt(lost, won))


@mutant("test_mcts_dpo::test_selection_is_puct")
def bonus_without_the_prior(patch: Patch) -> None:
    def wrong(place, exploration):
        return place.q + exploration * place.parent.visits**0.5 / (1 + place.visits)

    patch.function(siblings.puct, wrong)


@mutant("test_dcppo::test_exact_choice_probabilities_give_the_exact_rewards")
def rewards_without_what_follows(patch: Patch) -> None:
    def wrong(self, counts):
        values = planned.choice_values(counts, self.discount, self.known, self.horizon)
        return counts["visits"] * values / (counts["visits"] + self.ridge)

    patch.method(planned.PessimisticChoices, "rewards", wrong)


@mutant("test_pr_lsvi::test_the_rule_of_asking_is_the_expected_disagreement_of_two_draws")
def disagreement_of_one_draw(patch: Patch) -> None:
    """E |theta . d| instead of E |(theta - theta') . d|."""
    right = planned.disagreement
    patch.function(right, lambda apart, covariance, noise: right(apart, covariance, noise) / torch.tensor(2.0).sqrt())
