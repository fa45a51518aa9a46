"""Planted bugs of ensembles of reward models, of demonstrators' pairs and of studies."""

import torch
from mutants import Patch, mutant

from policyopt.evaluation.experiments import _aligned
from policyopt.reward import reward_models
from policyopt.worlds import demonstrations, tables, verifiers


@mutant("test_reward_ensembles::test_combinations_are_those_of_hand")
def spreads_that_divide_by_one_less(patch: Patch) -> None:
    def wrong(worths, how="mean", pessimism=1.0):
        if how == "minimum":
            return worths.min(0).values
        spread = {"mean": 0.0, "lower": worths.std(0), "variance": worths.var(0)}[how]
        return worths.mean(0) - pessimism * spread

    patch.function(reward_models.combined, wrong)


@mutant("test_reward_ensembles::test_a_row_that_one_model_says_nothing_of_is_unscored")
def silence_that_counts_as_nothing(patch: Patch) -> None:
    call = reward_models.ModelReward.__call__

    def wrong(self, ctx, batch):
        done = call(self, ctx, batch)
        return done.with_rows({"scored": batch.row["scored"]})

    patch.method(reward_models.ModelReward, "__call__", wrong)


@mutant("test_demonstrators::test_pairs_prefer_the_better_answer_or_as_bradley_and_terry_say")
def labels_whose_noise_does_not_grow_with_closeness(patch: Patch) -> None:
    found = demonstrations._preferred
    patch.function(found, lambda gap, temperature, rng: found((gap > 0) - 0.5, temperature, rng))


@mutant("test_demonstrators::test_similarity_counts_what_need_not_be_changed")
def similarity_by_the_shorter_text(patch: Patch) -> None:
    def wrong(self, text, entry):
        said, wanted = text.strip(), entry.answer.strip()
        return 1 - verifiers.edit_distance(said, wanted) / max(1, min(len(said), len(wanted)))

    patch.method(verifiers.Similarity, "__call__", wrong)


@mutant("test_studies::test_win_rates_and_divergences_are_those_of_hand")
def win_rates_of_the_other(patch: Patch) -> None:
    found = _aligned.win_rate
    patch.function(found, lambda table, other, gold: found(other, table, gold))


@mutant("test_studies::test_a_demonstration_that_is_drawn_twice_is_one_demonstration")
def demonstrations_anew_for_every_draw(patch: Patch) -> None:
    def wrong(self, tasks):
        return self.write(torch.arange(len(tasks.id))).with_rows(tasks.row)

    patch.method(tables.RecordedEpisodes, "recorded", wrong)


@mutant("test_studies::test_a_bradley_terry_model_is_fitted_where_its_loss_is_flat")
def weights_that_stop_early(patch: Patch) -> None:
    found = _aligned.fitted
    patch.function(found, lambda better, worse, ridge=1e-2: 0.9 * found(better, worse, ridge))
