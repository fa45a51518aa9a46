"""Planted bugs of losses of pairs and lists."""

import dataclasses

import torch
from mutants import LOOPS, Patch, mutant

from policyopt.objective import listwise, pairwise
from policyopt.ops import links


@mutant(LOOPS)
def rejected_side_in_full(patch: Patch) -> None:
    """The bias of the rejected side is left out."""
    call = pairwise.PairPreference.__call__

    def wrong(self, seen, batch):
        return call(dataclasses.replace(self, rejected=1.0), seen, batch)

    patch.method(pairwise.PairPreference, "__call__", wrong)


@mutant("test_rdpo::test_the_mean_over_flips_is_the_clean_loss", LOOPS)
def robust_loss_without_its_scale(patch: Patch) -> None:
    preferred = links.preferred

    def wrong(z, link, wrong=0.0, *, unbiased=False):
        return preferred(z, link, wrong, unbiased=unbiased) * (1 - 2 * wrong if unbiased else 1)

    patch.function(preferred, wrong)


@mutant(
    "test_pair_and_list_losses::test_gain_weights_are_of_a_permutation_at_ties",
    "test_lipo_lambda::test_competition_ranks_would_never_begin",
)
def competition_ranks(patch: Patch) -> None:
    """Equal scores share a place."""

    def wrong(lists):
        score = torch.where(lists.there, lists.said.detach(), -torch.inf)
        return 1 + (score[:, None, :] > score[:, :, None]).sum(2)

    patch.function(listwise.places_by_score, wrong)


@mutant("test_pair_and_list_losses::test_distances_equal_the_loops_and_have_no_gradient_where_they_are_0")
def distance_with_an_infinite_slope(patch: Patch) -> None:
    def wrong(self, seen, batch):
        apart = torch.linalg.vector_norm(seen.at("policy").mode() - seen.taken(), dim=-1)
        return -(apart * batch.trained).sum(1) / batch.steps / (self.span * self.temperature)

    patch.method(listwise.PairsOfDistances, "said", wrong)


@mutant("test_pair_and_list_losses::test_list_rows_are_by_id_and_rank_and_leave_out_what_is_alone")
def lists_in_row_order(patch: Patch) -> None:
    rows = listwise.list_rows
    patch.function(rows, lambda batch: rows(batch).sort(dim=1).values)
