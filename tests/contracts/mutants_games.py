"""Planted bugs of comparisons of rows, of losses of games, of rows kept by rank and of rows that begin in others."""

import torch
from mutants import Patch, mutant, replaced

from policyopt import seen
from policyopt.feedback import duels
from policyopt.objective import games
from policyopt.policies import blended
from policyopt.reward import wins
from policyopt.sampling import forms, opponents, resets
from policyopt.selection import ranked

NASH, SPO, INPO, DNO = "test_nash_md", "test_spo", "test_inpo", "test_dno"


@mutant(f"{SPO}::test_two_rows_duel_and_a_row_alone_has_one_half", f"{SPO}::test_gradient_against_a_loop")
def comparisons_the_other_way_round(patch: Patch) -> None:
    real = wins.WinRate.chance
    patch.method(wins.WinRate, "chance", lambda self, ctx, batch, first, second: real(self, ctx, batch, second, first))


@mutant(f"{SPO}::test_of_a_transitive_rater_it_is_the_rank")
def a_row_that_meets_itself(patch: Patch) -> None:
    """Self-comparisons of 1/2 are counted in."""
    real = wins.win_rates

    def wrong(chance, row, size, *, without=0.5):
        count = torch.bincount(row, minlength=size)
        rate = real(chance, row, size, without=without)
        return (rate * count + 0.5) / (count + 1)

    patch.method(wins, "win_rates", wrong)


@mutant(f"{NASH}::test_opponents_are_of_the_mixture_and_leave_when_judged")
def opponents_that_stay(patch: Patch) -> None:
    real = opponents.marked
    patch.method(opponents, "marked", lambda batch, *, opponent: real(batch, opponent=False))


@mutant(f"{NASH}::test_mixtures_by_hand")
def mixtures_of_probabilities(patch: Patch) -> None:
    """Arithmetic, not geometric."""
    real = blended.geometric

    def wrong(first, second, share):
        if not hasattr(first, "logp") or not hasattr(second, "logp"):
            return real(first, second, share)
        return blended.Categorical(((1 - share) * first.logp.exp() + share * second.logp.exp()).log())

    patch.function(real, wrong)


@mutant(f"{INPO}::test_without_tau_it_is_ipo_to_the_last_policy")
def references_that_are_swapped(patch: Patch) -> None:
    real = games.MirrorPreference.error

    def error(self, seen, batch):
        return real(replaced(self, tau=self.eta - self.tau), seen, batch)

    patch.method(games.MirrorPreference, "error", error)


@mutant(f"{INPO}::test_duels_pair_every_row_once_and_draw_the_winner")
def winners_without_chance(patch: Patch) -> None:
    real = duels.Duels.__call__
    patch.method(duels.Duels, "__call__", lambda self, *given: real(replaced(self, drawn=False), *given))


@mutant(f"{DNO}::test_the_label_does_not_depend_on_which_row_is_first")
def labels_that_are_always_sure(patch: Patch) -> None:
    patch.method(games, "reward_gap", lambda batch: torch.full((int((batch.row["rank"] == 0).sum()),), 50.0))


@mutant(f"{DNO}::test_pairs_by_rank_with_a_teacher")
def teachers_that_lose(patch: Patch) -> None:
    real = duels.RankedPairs.__call__
    patch.method(duels.RankedPairs, "__call__", lambda self, *given: real(replaced(self, own_losers=False), *given))


@mutant("test_pairwise_rl::test_a_judge_is_asked_in_both_orders")
def a_judge_asked_once(patch: Patch) -> None:
    real = wins.judged_chance

    def wrong(ctx, judge, first, second):
        return wins.verdict(ctx, judge, first, second)

    patch.function(real, wrong)


@mutant("test_pairwise_rl::test_a_judge_that_would_rather_say_something_else_is_asked_for_its_two_verdicts")
def one_verdict_without_the_other(patch: Patch) -> None:
    """The probability of the verdict among everything that the judge might say."""

    def wrong(ctx, judge, first, second, own=None):
        rows = ctx.world.verdicts(first, second, own)[0]
        return ctx.models[judge].score(rows, None, full=False).logp.sum(1).exp().detach()

    patch.function(seen.verdict, wrong)


@mutant("test_eis_grpo::test_all_forms_are_in_the_group_of_the_draw")
def a_group_for_every_form(patch: Patch) -> None:
    real = forms.attempt

    def apart(ctx, tasks, size, temperature):
        return real(ctx, tasks.with_rows({"group": torch.arange(len(tasks))}), size, temperature)

    patch.method(forms, "attempt", apart)


@mutant("test_pf_ppo::test_weights_by_hand")
def every_best_row(patch: Patch) -> None:
    """Ties of the best all count."""
    real = ranked.rank_weights

    def wrong(reward, ids, scored, rule):
        found = real(reward, ids, scored, rule)
        for one in ids.unique():
            rows = (ids == one) & scored
            if rule == "best" and bool(rows.any()):
                found[rows & (reward == reward[rows].max())] = 1.0
        return found

    patch.function(real, wrong)


@mutant("test_dr_po::test_resets_begin_as_the_data_and_are_not_trained")
def forced_steps_that_are_trained(patch: Patch) -> None:
    real = resets.ResetGroup.__call__

    def call(self, ctx, draw, judge):
        rows = real(self, ctx, draw, judge)
        return rows.with_steps({"train": rows.valid, "kind": torch.where(rows.valid, 1, 0).to(rows.step["kind"].dtype)})

    patch.method(resets.ResetGroup, "__call__", call)


@mutant("test_dr_po::test_lengths_of_prefixes_are_uniform_and_leave_a_step")
def prefixes_that_are_short(patch: Patch) -> None:
    """Short ones only."""
    real = resets.torch.rand

    def wide(*shape, **given):
        found = real(*shape, **given)
        return torch.stack([found[0], found[1] * 0.5]) if shape[0] == 2 else found

    patch.method(resets.torch, "rand", wide)
