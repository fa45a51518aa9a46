"""Preference models: probabilities of both orders, cycles, folders, and the parts that ask them."""

import json
from dataclasses import replace
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from test_reward_models import states, written
from transformers import AutoModelForSequenceClassification

from policyopt.compose import CompositionError, PreferenceModel, RewardModel, Term, chosen_rows
from policyopt.feedback.duels import Duels
from policyopt.feedback.judged import JudgedPairs
from policyopt.feedback.lists import SoftTournament
from policyopt.objective.reward_models import PairOdds
from policyopt.ops.comparisons import skew
from policyopt.policies.checkpoint import CheckpointError, new_language
from policyopt.policies.classifiers import LanguagePreference, UnsupportedModelError
from policyopt.policies.reward_checkpoint import load_reward, save_reward, template_of
from policyopt.policies.tabular import Table, TablePreference
from policyopt.reward.wins import WinRate
from policyopt.seen import SeenBatch
from policyopt.types import REFERENCE_ANSWER, Batch, StepKind
from policyopt.update.averaging import RowMean
from references_reward_models import REFERENCES, Compared, training
from support import close, context, full_step, grids, method, numbers, ragged, widened, with_row

pytestmark = pytest.mark.usefixtures("float64")


# -- the form ----------------------------------------------------------------------------------------------------------
def test_the_form_by_hand() -> None:
    v, w = torch.tensor([1.0, 2.0, 0.5, -1.0]), torch.tensor([3.0, 5.0, 2.0, 4.0])
    close(skew(v, w), (1 * 5 - 2 * 3) + (0.5 * 4 - -1 * 2))


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 10_000))
def test_both_orders_add_up_to_one_and_representations_of_scores_are_bradley_and_terry(seed: int) -> None:
    v, w = numbers(5, 6, seed=seed), numbers(5, 6, seed=seed + 1)
    close(skew(v, w).sigmoid() + skew(w, v).sigmoid(), torch.ones(5))
    close(skew(v, v).sigmoid(), torch.full((5,), 0.5))
    one = torch.ones(5)
    close(skew(torch.stack([v[:, 0], one], 1), torch.stack([w[:, 0], one], 1)), v[:, 0] - w[:, 0])


def test_a_circle_of_three_has_a_representation() -> None:
    turn = torch.arange(3.0) * 2 * torch.pi / 3
    v = torch.stack([turn.cos(), turn.sin()], 1)
    ahead = skew(v[:, None], v[None]) > 0.1
    assert ahead.tolist() == [[False, True, False], [False, False, True], [True, False, False]]


# -- the loss ----------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("smoothing", [0.0, 0.2])
@pytest.mark.parametrize("micro_rows", [None, 2])
def test_the_loss_equals_the_loop(smoothing: float, micro_rows: int | None) -> None:
    batch, free = ragged(), Compared(numbers(4, 4, seed=3))  # pairs (0, 2) and (1, 3)
    loss = PairOdds("reward", smoothing)
    term = Term("r", loss, RowMean(), chosen_rows, trains="reward", couples=("pair",))
    ctx = context(training(batch, term), {**grids(), "reward": free})
    value, slope = full_step(ctx, batch, micro_rows, "reward")
    said = free.numbers.detach()
    expected, by_number = 0.0, torch.zeros(4, 4)
    for chosen, rejected in ((0, 2), (1, 3)):
        one, by_odds = REFERENCES[PairOdds](float(said[chosen, rejected] - said[rejected, chosen]), smoothing)
        expected += one / 2
        by_number[chosen, rejected], by_number[rejected, chosen] = by_odds / 2, -by_odds / 2
    close(value, expected)
    close(slope, by_number)
    watched = loss.watch(SeenBatch(ctx, batch), batch)
    assert watched["accuracy"].tolist() == [float(said[0, 2] > said[2, 0]), float(said[1, 3] > said[3, 1]), 0, 0]


# -- models ------------------------------------------------------------------------------------------------------------
def test_a_table_sums_representations_of_own_steps_and_equals_a_loop() -> None:
    batch, model = states(), TablePreference(numbers(7, 5, 4, seed=9))
    rows = []
    for b in range(4):
        own = [t for t in range(batch.steps) if int(batch.step["kind"][b, t]) == StepKind.OWN]
        each = [model.values.detach()[batch.step["_state"][b, t], batch.step["_step"][b, t]] for t in own]
        rows.append(torch.stack(each).sum(0))
    first, second = torch.tensor([0, 1, 3]), torch.tensor([1, 3, 0])
    expected = [float(skew(rows[a], rows[b])) for a, b in zip(first.tolist(), second.tolist(), strict=True)]
    close(model.compare(batch, first, second), expected)
    close(model.compare(widened(batch, 3), first, second), expected)


def test_a_language_model_reads_every_row_once_and_is_the_form_of_their_last_tokens() -> None:
    policy = new_language(9, hidden_size=16, layers=1, heads=2, seed=1, dtype=torch.float64)
    model = policy.make_preference(torch.Generator().manual_seed(0), 4)
    batch, read = written(), []
    model.model.base_model.register_forward_hook(
        lambda module, given, out: read.append(out.last_hidden_state.shape[:2].numel())
    )
    first, second = torch.tensor([0, 0, 1, 2]), torch.tensor([1, 2, 0, 2])
    found = model.compare(batch, first, second)
    said, tokens_in_all = [], 0
    for b, length in enumerate((1, 3, 2)):
        prompt = [int(t) for t in batch.context()[b] if t >= 0]
        tokens = torch.tensor([prompt + batch.step["_token"][b, :length].tolist()])
        tokens_in_all += tokens.numel()
        said.append(model.model(input_ids=tokens).logits[0].detach())
    assert read[0] <= tokens_in_all, "a row that is in several pairs is read once"
    close(found, [float(skew(said[a], said[b])) for a, b in zip(first.tolist(), second.tolist(), strict=True)], 1e-10)
    close(found[0], -found[2], 1e-12)
    assert found[0].grad_fn is not None


def test_folders_say_that_they_compare_and_open_as_classifiers(tmp_path: Any) -> None:
    policy = new_language(9, hidden_size=16, layers=1, heads=2, seed=1)
    model = policy.make_preference(torch.Generator().manual_seed(0), 6)
    save_reward(model, tmp_path / "preference")
    theirs: Any = AutoModelForSequenceClassification.from_pretrained(tmp_path / "preference")
    assert theirs.config.num_labels == 6
    again = load_reward(tmp_path / "preference")
    assert isinstance(again, LanguagePreference)
    sides = torch.tensor([0, 1]), torch.tensor([1, 2])
    close(again.compare(written(), *sides), model.compare(written(), *sides), 1e-6)
    config = tmp_path / "preference" / "config.json"
    config.write_text(json.dumps({k: v for k, v in json.loads(config.read_text()).items() if k != "policyopt"}))
    with pytest.raises(CheckpointError, match="one label; this classifier has 6"):
        load_reward(tmp_path / "preference")
    model.labels = 5
    model.model.config.num_labels = 5
    with pytest.raises(UnsupportedModelError, match="even number of labels; this classifier has 5"):
        LanguagePreference(model.model)
    with pytest.raises(CompositionError, match="even dimension, not 3"):
        PreferenceModel(dimension=3)


def test_models_are_made_by_policies_that_can() -> None:
    run = context(method(), {"policy": Table(numbers(7, 5))}).run
    made: Any = PreferenceModel(dimension=2).build(run, "preference")
    assert made.values.shape == (7, 5, 2)
    with pytest.raises(CompositionError, match="which TableReward can not"):
        RewardModel(context=REFERENCE_ANSWER).build(run, "reward")
    with pytest.raises(CompositionError, match="compares rows, which Grid policies do not offer"):
        PreferenceModel().build(context(method(), grids()).run, "preference")


# -- reference answers -------------------------------------------------------------------------------------------------
def conditioned() -> tuple[Any, Any]:
    """Two reward models of the same weights, of which the second reads reference answers."""
    run = context(method(), {"policy": new_language(9, hidden_size=16, layers=1, heads=2, seed=1)}).run
    plain: Any = RewardModel().build(run, "reward")
    model: Any = RewardModel(context=REFERENCE_ANSWER).build(run, "reward")
    model.load_state_dict(plain.state_dict())
    return plain, model


def beside_answers() -> Batch:
    return written().with_context(torch.tensor([[-1, 6], [5, 5], [1, 2]]), REFERENCE_ANSWER)


def test_a_conditioned_model_reads_rows_under_the_other_context() -> None:
    (plain, model), batch = conditioned(), beside_answers()
    close(model.worth(batch), plain.worth(batch.with_context(batch.context(REFERENCE_ANSWER))), 1e-6)
    assert float((model.worth(batch) - plain.worth(batch)).detach().abs().max()) > 1e-3
    with pytest.raises(CompositionError, match="'reference answer', which these rows do not have"):
        model.worth(written())


def test_folders_keep_the_words_in_which_answers_are_read(tmp_path: Any) -> None:
    (plain, model), batch = conditioned(), beside_answers()
    with pytest.raises(CheckpointError, match="the template that it reads by"):
        save_reward(model, tmp_path / "reward")
    save_reward(model, tmp_path / "reward", template="{prompt} {answer}")
    again: Any = load_reward(tmp_path / "reward")
    assert (again.context, template_of(again)) == (REFERENCE_ANSWER, "{prompt} {answer}")
    close(again.worth(batch), model.worth(batch), 1e-6)
    save_reward(plain, tmp_path / "plain")
    assert load_reward(tmp_path / "plain").context is None


# -- parts that ask ----------------------------------------------------------------------------------------------------
def asking(part: Any, model: Any):
    """The part on two groups of two and one row that is not scored."""
    batch = with_row(ragged((2, 2, 2, 2, 2)), group=(1, 1, 2, 2, 2), scored=(True, True, True, True, False))
    batch = batch.with_rows({"_row": torch.arange(5)})
    return part(context(method(), {"policy": torch.nn.Identity(), "judge": model}), batch)


class Silent(torch.nn.Module):
    """A judge without an answer."""

    def prefers(self, first: Any, second: Any) -> torch.Tensor:
        return torch.full((len(first),), torch.nan)


def test_win_rates_duels_and_tournaments_are_those_of_the_model() -> None:
    model = Compared(numbers(5, 5, seed=2))
    said = (model.numbers - model.numbers.T).detach()
    rate = asking(WinRate(judge="judge"), model).step["reward"].sum(1)
    close(rate[:4], [float(said[a, b].sigmoid()) for a, b in ((0, 1), (1, 0), (2, 3), (3, 2))])
    expected = [0, 1] if said[0, 1] > 0 else [1, 0]
    expected += [0, 1] if said[2, 3] > 0 else [1, 0]
    duels = asking(Duels(drawn=False, judge="judge"), model)
    assert duels.row["rank"].tolist() == [*expected, -1]
    assert asking(JudgedPairs(margin=0.0), model).row["rank"].tolist() == [*expected, -1]
    table = asking(SoftTournament(judge="judge"), model)
    assert table.row["rank"].tolist() == [*expected, -1]
    close(table.row["label"][0], (0.5 + said[0, 1].sigmoid()) / 2)


def test_a_judge_that_does_not_answer_leaves_a_tie_and_another_model_is_refused() -> None:
    close(asking(WinRate(judge="judge"), Silent()).step["reward"].sum(1)[:4], [0.5] * 4)
    assert asking(JudgedPairs(), Silent()).row["rank"].tolist() == [-1] * 5
    with pytest.raises(CompositionError, match="can not say which of two rows is better; train one"):
        asking(Duels(judge="judge"), torch.nn.Identity())
    assert Duels().critics == ()
    assert replace(Duels(), judge="judge").critics == ("judge",)
