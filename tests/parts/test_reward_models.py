"""Reward models of rows: what they say, how they are trained, saved and read."""

import math
from typing import Any

import pytest
import torch
from transformers import AutoModelForSequenceClassification

from policyopt.compose import CompositionError, RewardModel, Term, chosen_rows, trained_rows
from policyopt.engines.plain import generate
from policyopt.objective.preference import pair_logistic
from policyopt.objective.reward_models import ListRanking, PairHinge, PairRanking, RowCrossEntropy
from policyopt.policies.checkpoint import CheckpointError, Lora, new_language, save_language, with_lora
from policyopt.policies.language import LanguageReward
from policyopt.policies.linear import Linear
from policyopt.policies.reward_checkpoint import load_reward, save_reward
from policyopt.policies.tabular import Table, TableReward
from policyopt.reward.reward_models import ModelReward
from policyopt.run import Run
from policyopt.seen import SeenBatch
from policyopt.types import Batch, StepKind
from policyopt.update.averaging import RowMean
from policyopt.worlds.sequences import SequenceWorld
from references_reward_models import REFERENCES, said, training
from support import close, context, full_step, grids, numbers, ragged, rewarded, widened, with_row

pytestmark = pytest.mark.usefixtures("float64")
WORTH = (0.7, -0.4, -1.1, 0.3)


def with_rewards(loss: Any, batch: Batch, worth: tuple[float, ...] = WORTH, micro_rows: int | None = None):
    """The loss by a model of free numbers as a mean over rows or pairs, and its slope by them."""
    mask = trained_rows if isinstance(loss, RowCrossEntropy) else chosen_rows
    couples = () if isinstance(loss, RowCrossEntropy) else ("pair",)
    if isinstance(loss, ListRanking):
        mask = lambda seen, batch: batch.row["rank"] == 0  # noqa: E731
    term = Term("r", loss, RowMean(), mask, trains="reward", couples=couples)
    made = training(batch, term)
    ctx = context(made, {**grids(), "reward": said(*worth)})
    return full_step(ctx, batch, micro_rows, "reward")


@pytest.mark.parametrize(
    ("loss", "options"),
    [
        (PairRanking(), {}),
        (PairRanking(label_smoothing=0.2, centred=0.3), {"smoothing": 0.2, "centred": 0.3}),
        (PairHinge(), {"margin": 1.0}),
        (PairHinge(margin=2.5), {"margin": 2.5}),
    ],
)
@pytest.mark.parametrize("micro_rows", [None, 2])
def test_losses_of_pairs_equal_the_loops(loss: Any, options: dict[str, float], micro_rows: int | None) -> None:
    batch = ragged()  # pairs (0, 2) and (1, 3)
    value, slope = with_rewards(loss, batch, micro_rows=micro_rows)
    expected, by_row, formula = 0.0, [0.0] * 4, REFERENCES[type(loss)]
    for chosen, rejected in ((0, 2), (1, 3)):
        one, slopes = formula(WORTH[chosen], WORTH[rejected], **options)
        expected += one / 2
        by_row[chosen], by_row[rejected] = slopes[0] / 2, slopes[1] / 2
    close(value, expected)
    close(slope, by_row)


def test_a_margin_of_the_pair_is_read_on_its_chosen_row() -> None:
    batch = ragged().with_rows({"gap": torch.tensor([0.5, 0.0, 9.0, 9.0])})
    value, slope = with_rewards(PairRanking(margin="gap"), batch)
    formula = REFERENCES[PairRanking]
    one, other = formula(0.7, -1.1, margin=0.5), formula(-0.4, 0.3)
    close(value, (one[0] + other[0]) / 2)
    close(slope, [one[1][0] / 2, other[1][0] / 2, one[1][1] / 2, other[1][1] / 2])


def test_lists_equal_the_loops_and_of_two_rows_are_pairs() -> None:
    batch = with_row(ragged(), pair=[5, 5, 5, 5], rank=[2, 0, 1, 3])
    ordered = [WORTH[1], WORTH[2], WORTH[0], WORTH[3]]
    for loss in (ListRanking(), ListRanking(first=True)):
        value, slope = with_rewards(loss, batch)
        one, slopes = REFERENCES[ListRanking](ordered, first=loss.first)
        close(value, one)
        close(slope, [slopes[2], slopes[0], slopes[1], slopes[3]])
    for one, other in zip(with_rewards(ListRanking(), ragged()), with_rewards(PairRanking(), ragged()), strict=True):
        close(one, other)
    aside = with_row(ragged(), pair=[5, 5, 5, 5], rank=[0, -1, 1, -1])
    close(with_rewards(ListRanking(), aside)[0], REFERENCES[PairRanking](WORTH[0], WORTH[2])[0])
    with pytest.raises(ValueError, match="once each"):
        with_rewards(ListRanking(), with_row(ragged(), pair=[5, 5, 5, 5], rank=[0, 1, 1, 3]))


def test_labels_equal_the_loops_and_may_be_rewards() -> None:
    labels = (1.0, 0.0, 0.25, 1.0)
    found = [REFERENCES[RowCrossEntropy](x, y) for x, y in zip(WORTH, labels, strict=True)]
    column = ragged().with_rows({"label": torch.tensor(labels)})
    for loss, batch in ((RowCrossEntropy(), column), (RowCrossEntropy(label=None), rewarded(ragged(), labels))):
        value, slope = with_rewards(loss, batch)
        close(value, sum(v for v, _ in found) / 4)
        close(slope, [s / 4 for _, s in found])


def test_at_equal_rewards_a_pair_costs_log_two_and_wins_half() -> None:
    batch = ragged()
    value, slope = with_rewards(PairRanking(), batch, (0.3,) * 4)
    close(value, math.log(2))
    close(slope, [-0.25, -0.25, 0.25, 0.25])
    ctx = context(training(ragged()), {**grids(), "reward": said(*(0.3,) * 4)})
    close(PairRanking().watch(SeenBatch(ctx, batch), batch)["accuracy"], [0.5, 0.5, 0.0, 0.0])


def states() -> Batch:
    return ragged().with_steps({"_state": torch.arange(13).expand(4, -1) % 7})


def test_a_table_sums_own_steps_only_and_equals_a_loop() -> None:
    batch = states()
    model = TableReward(numbers(7, 5, seed=9))
    expected = [
        sum(
            float(model.values.detach()[batch.step["_state"][b, t], batch.step["_step"][b, t]])
            for t in range(batch.steps)
            if int(batch.step["kind"][b, t]) == StepKind.OWN
        )
        for b in range(4)
    ]
    close(model.worth(batch), expected)
    close(model.worth(widened(batch, 3)), expected)


def test_one_hot_features_are_a_table() -> None:
    batch = states()
    weights = numbers(7, 5, seed=2)
    one = Linear(torch.eye(7), weights).make_reward(torch.Generator().manual_seed(3))
    other = Table(weights).make_reward(torch.Generator().manual_seed(3))
    close(one.worth(batch), other.worth(batch))
    assert float(other.values.detach().abs().max()) < 0.1
    thrice = Linear(3 * torch.eye(7), weights).make_reward(torch.Generator().manual_seed(3))
    close(thrice.worth(batch), 3 * other.worth(batch))


def test_preferences_leave_the_true_rewards_alone_and_move_others() -> None:
    """The gradient over all pairs of a world, both ways as often as they would be preferred."""
    hidden = numbers(2, 3, seed=4)
    strings = torch.cartesian_prod(torch.arange(3), torch.arange(3))
    world = SequenceWorld(1, 3, 2, lambda s, task: hidden[torch.arange(2), s].sum(1))
    rows = world.complete(world.tasks(torch.zeros(9, dtype=torch.int64)), strings)
    truth = world.grade(rows)
    first, second = torch.triu_indices(9, 9, 1).unbind(0)
    share = torch.sigmoid(truth[first] - truth[second])
    order = torch.cat([torch.stack([first, second], 1), torch.stack([second, first], 1)])
    pairs = rows[order.flatten()].with_rows(
        {"pair": torch.arange(len(order)).repeat_interleave(2), "rank": torch.tensor([0, 1]).repeat(len(order))}
    )
    weight = torch.cat([share, 1 - share]).repeat_interleave(2)
    term = Term("r", PairRanking(), RowMean(), chosen_rows, lambda seen, batch: weight, "reward", ("pair",))
    model = TableReward(hidden)
    ctx = context(training(pairs, term), {"policy": Table(torch.zeros(2, 3)), "reward": model}, world, generate)
    close(model.worth(rows), truth)
    close(full_step(ctx, pairs, model="reward")[1], torch.zeros(2, 3))
    with torch.no_grad():
        model.values.mul_(1.5)
    assert float(full_step(ctx, pairs, model="reward")[1].abs().max()) > 1e-2


def test_model_reward_adds_to_the_last_own_step_without_gradient() -> None:
    batch = rewarded(ragged(), [1.0, 2.0, 3.0, 4.0])
    models = {**grids(), "reward": said(*WORTH), "second": said(1.0, 1.0, 1.0, 1.0)}
    ctx = context(training(batch, models=("reward", "second")), models)
    found = ModelReward(("reward", "second"), weight=0.5)(ctx, batch).step["reward"]
    assert not found.requires_grad
    for b, (length, x) in enumerate(zip((1, 2, 7, 13), WORTH, strict=True)):
        close(found[b, length - 1] - batch.step["reward"][b, length - 1], 0.5 * (x + 1) / 2)
    close(found.sum(), batch.step["reward"].sum() + 0.5 * sum((x + 1) / 2 for x in WORTH))
    squashed = ModelReward(probability=True)(ctx, batch).step["reward"] - batch.step["reward"]
    close(squashed.sum(1), torch.tensor(WORTH).sigmoid())
    with pytest.raises(CompositionError, match="at least one"):
        ModelReward(())


def test_policies_without_one_are_refused() -> None:
    run = Run(grids(), None, generate)
    with pytest.raises(CompositionError, match=r"Grid policies do not offer.*worth\(batch\)"):
        RewardModel().build(run, "reward")
    ctx = context(training(ragged()), {**grids(), "reward": grids()["policy"]})
    with pytest.raises(CompositionError, match="rewards of whole rows"):
        SeenBatch(ctx, ragged()).worth("reward")
    with pytest.raises(CompositionError, match="label_smoothing"):
        PairRanking(label_smoothing=0.5)
    with pytest.raises(CompositionError, match="margin"):
        PairHinge(margin=0.0)


# -- language ----------------------------------------------------------------------------------------------------------
def written(lengths: tuple[int, ...] = (1, 3, 2)) -> Batch:
    """Rows of tokens below 9 behind prompts of 1 to 3 tokens, padded on the left with -1."""
    batch = ragged(lengths, tools=False)
    prompt = torch.tensor([[-1, -1, 4], [-1, 2, 7], [3, 1, 8]])[: len(lengths)]
    token = torch.arange(batch.steps * len(lengths)).view(len(lengths), -1) % 9
    return batch.with_steps({"_token": token}).with_context(prompt)


@pytest.mark.parametrize("model_type", ["llama", "qwen2", "gpt_neox"])
def test_a_language_reward_is_the_score_of_the_last_token(model_type: str) -> None:
    policy = new_language(9, model_type, hidden_size=16, layers=1, heads=2, seed=1, dtype=torch.float64)
    model = policy.make_reward(torch.Generator().manual_seed(0))
    batch = written()
    expected = []
    for b, length in enumerate((1, 3, 2)):
        prompt = [int(t) for t in batch.context()[b] if t >= 0]
        tokens = torch.tensor([prompt + batch.step["_token"][b, :length].tolist()])
        # Asked for alone, so no padding: theirs scores the last token.
        expected.append(float(model.model(input_ids=tokens).logits[0, 0].detach()))
    close(model.worth(batch), expected, atol=1e-10)
    with torch.no_grad():
        model.score_rows = 2
        close(model.worth(batch), expected, atol=1e-10)
    assert len(set(expected)) == 3
    assert all(p.requires_grad for p in model.parameters())
    for ours, theirs in zip(model.model.base_model.parameters(), policy.backbone.parameters(), strict=True):
        assert torch.equal(ours, theirs)
        assert ours is not theirs


def test_a_saved_reward_opens_as_a_sequence_classifier(tmp_path: Any) -> None:
    policy = new_language(9, hidden_size=16, layers=1, heads=2, seed=1)
    model = policy.make_reward(torch.Generator().manual_seed(0))
    save_reward(model, tmp_path / "reward")
    theirs: Any = AutoModelForSequenceClassification.from_pretrained(tmp_path / "reward")
    assert theirs.config.num_labels == 1
    again = load_reward(tmp_path / "reward")
    batch = written()
    close(again.worth(batch), model.worth(batch), atol=1e-6)
    close(theirs(input_ids=torch.tensor([[4, 0]])).logits[0, 0], model.worth(batch)[0], atol=1e-6)
    save_language(policy, tmp_path / "policy")
    with pytest.raises(CheckpointError, match="no head of rewards"):
        load_reward(tmp_path / "policy")
    with pytest.raises(CheckpointError, match="there is no model folder"):
        load_reward(tmp_path / "nothing")


def test_the_padding_token_is_written_down_unless_it_is_the_end(tmp_path: Any) -> None:
    class Tokenizer:
        def __init__(self, pad: int | None):
            self.pad_token_id, self.eos_token_id = pad, 2

        def save_pretrained(self, folder: Any) -> None:
            pass

    model = new_language(9, hidden_size=16, layers=1, heads=2).make_reward(torch.Generator())
    for pad, kept in ((5, 5), (2, None), (None, None)):
        save_reward(model, tmp_path, Tokenizer(pad))
        theirs: Any = AutoModelForSequenceClassification.from_pretrained(tmp_path)
        assert theirs.config.pad_token_id == kept


def test_adapters_are_merged_and_another_head_is_refused() -> None:
    policy = with_lora(new_language(9, hidden_size=16, layers=1, heads=2, seed=1, dtype=torch.float64), Lora(rank=2))
    with torch.no_grad():
        for name, parameter in policy.named_parameters():
            if "lora_B" in name:
                parameter.fill_(0.1)
    model = policy.make_reward(torch.Generator().manual_seed(0))
    assert not any("lora" in name for name, _ in model.named_parameters())
    tokens = torch.tensor([[4, 0]])
    ours = model.model.base_model(input_ids=tokens).last_hidden_state
    close(ours, policy.backbone(input_ids=tokens).last_hidden_state, atol=1e-10)
    model.model.config.num_labels = 3
    with pytest.raises(ValueError, match="one label"):
        LanguageReward(model.model)


def test_a_language_reward_learns_a_preference() -> None:
    policy = new_language(9, hidden_size=16, layers=1, heads=2, seed=1, dtype=torch.float64)
    batch = with_row(written((2, 2)), pair=[0, 0], rank=[1, 0])
    term = Term("r", PairRanking(), RowMean(), chosen_rows, trains="reward", couples=("pair",))
    made = training(batch, term, rate=0.3, epochs=10)
    ctx = context(made, {"policy": policy}, None, generate)
    model: Any = RewardModel().build(ctx.run, "reward")
    ctx.run.models["reward"] = model
    before = model.worth(batch).detach()
    made.update(ctx, batch)
    after = model.worth(batch).detach()
    assert float(after[1] - after[0]) > float(before[1] - before[0]) + 0.5
    close(pair_logistic(after[1] - after[0], 1.0), -torch.sigmoid(after[1] - after[0]).log())
