"""Planted bugs of trees of rows."""

import torch
from mutants import Patch, mutant, replaced

from policyopt.credit import anytime
from policyopt.credit.trees import EdgesOnce, NestedGroups, NodeDifference, Whitened
from policyopt.ops import trees
from policyopt.reward import sets
from policyopt.reward.sets import SetWorth
from policyopt.sampling import prefixes, search
from policyopt.sampling.anytime import Anytime
from policyopt.sampling.prefixes import PrefixGroup
from policyopt.sampling.trees import ProbedGroup

TREES, SPO, TREEPO = "test_trees", "test_spo_segment", "test_treepo"


@mutant(f"{TREES}::test_values_of_a_sampled_tree_are_those_of_the_loops")
def leaves_weigh_alike(patch: Patch) -> None:
    """The mean over all leaves below instead of over children."""

    def wrong(self, worth, known):
        total = worth.new_zeros(len(self.parent)).index_add(0, self.leaf[known], worth[known])
        count = worth.new_zeros(len(self.parent)).index_add(0, self.leaf[known], torch.ones_like(worth[known]))
        for depth in range(int(self.depth.max()), 0, -1):
            here = self.depth == depth
            total = total.index_add(0, self.parent[here], total[here])
            count = count.index_add(0, self.parent[here], count[here])
        return total / count.clamp(min=1), count > 0

    patch.method(trees.Tree, "values", wrong)


@mutant(f"{TREES}::test_shared_segments_are_trained_once")
def edges_trained_in_every_row(patch: Patch) -> None:
    patch.method(EdgesOnce, "__call__", lambda self, ctx, batch: batch)


@mutant(f"{TREES}::test_probes_telescope_for_any_cuts_and_any_number")
def values_after_are_the_rows_reward(patch: Patch) -> None:
    call = ProbedGroup.__call__

    def wrong(self, ctx, draw, judge):
        rows = call(self, ctx, draw, judge)
        reward = rows.step["reward"].sum(1, keepdim=True).expand(-1, rows.steps)
        return rows.with_steps({"value_after": reward.clone()})

    patch.method(ProbedGroup, "__call__", wrong)


@mutant(f"{TREEPO}::test_nested_groups_by_hand")
def groups_weigh_alike(patch: Patch) -> None:
    call = NestedGroups.__call__
    patch.method(
        NestedGroups, "__call__", lambda self, ctx, batch: call(replaced(self, weighting="simple"), ctx, batch)
    )


@mutant(f"{TREEPO}::test_whitening_counts_a_leaf_once_per_token_and_moves_zeros")
def whitened_over_rows(patch: Patch) -> None:
    def wrong(self, ctx, batch):
        rows = batch.step["advantage"][:, :1]
        return batch.with_steps({"advantage": ((rows - rows.mean()) / rows.std()).expand(-1, batch.steps)})

    patch.method(Whitened, "__call__", wrong)


@mutant(f"{SPO}::test_one_segment_is_the_centred_reward_and_scaled_it_is_grpo")
def siblings_deviation_of_a_sample(patch: Patch) -> None:
    call = NodeDifference.__call__

    def wrong(self, ctx, batch):
        found = call(self, ctx, batch)
        return found.with_steps({"advantage": found.step["advantage"] * (0.9 if self.scaled else 1.0)})

    patch.method(NodeDifference, "__call__", wrong)


@mutant("test_brpo::test_thoughts_are_credited_as_the_loops_say")
def earlier_scores_weigh_alike(patch: Patch) -> None:
    right = anytime.budget_relative

    def wrong(score, prior, group, baseline="both"):
        found = right(score, prior, group, baseline)
        return found if baseline in ("group", "none") else found + 1e-3 * score

    patch.function(right, wrong)


@mutant("test_brpo::test_prefixes_are_shared_and_only_what_is_new_is_trained")
def answers_train_their_thoughts(patch: Patch) -> None:
    call = Anytime.__call__

    def wrong(self, ctx, draw, judge):
        rows = call(self, ctx, draw, judge)
        return rows.with_steps({"train": rows.own})

    patch.method(Anytime, "__call__", wrong)


@mutant("test_sgrpo::test_sets_are_worth_what_the_loops_say")
def sets_of_other_groups_compared(patch: Patch) -> None:
    better = SetWorth.better

    def wrong(group, ids, worth, scored):
        return better(torch.zeros_like(group), ids, worth, scored)

    patch.method(SetWorth, "better", staticmethod(wrong))


@mutant("test_sgrpo::test_redistribution_keeps_the_mean_of_a_set")
def shares_without_mean_one(patch: Patch) -> None:
    right = sets.shares
    patch.function(right, lambda *args: tuple(2 * one for one in right(*args)))


@mutant("test_rest_rl::test_prefixes_are_of_the_first_best_row_and_leave_their_steps_untrained")
def prefixes_are_trained(patch: Patch) -> None:
    call = PrefixGroup.__call__

    def wrong(self, ctx, draw, judge):
        rows = call(self, ctx, draw, judge)
        return rows.with_steps({"train": rows.own})

    patch.method(PrefixGroup, "__call__", wrong)


@mutant("test_rest_rl::test_beginnings_are_drawn_with_decaying_weights")
def late_beginnings_more_often(patch: Patch) -> None:
    right = prefixes.beginnings
    patch.function(right, lambda lines, count, decay, rng: 1 + lines - right(lines, count, decay, rng))


@mutant("test_line_search::test_visits_and_totals_are_those_of_the_nodes_below")
def only_the_leaf_is_counted(patch: Patch) -> None:
    def wrong(self, total, visits):
        self.total, self.visits = self.total + total, self.visits + visits

    patch.method(search.Node, "backed_up", wrong)


@mutant("test_line_search::test_targets_are_the_values_of_prefixes_at_the_step_that_leaves_them")
def targets_a_step_too_early(patch: Patch) -> None:
    target = search.LineSearch.target

    def wrong(self, node):
        row = target(self, node)
        return row.with_steps({name: row.step[name].roll(-1, 1) for name in ("train", "return")})

    patch.method(search.LineSearch, "target", wrong)
