"""Self-reference feedback: `reduces_to` of specification 245, each identity a test."""

import math
from typing import Any

import pytest
import torch

from asked import asking, sampled
from policyopt.compose import CompositionError, Program, Stage, Term, chosen_rows
from policyopt.engines.plain import generate
from policyopt.feedback.annotator import AnnotatedPairs, strength_of
from policyopt.methods import load
from policyopt.objective.reward_models import PairRanking
from policyopt.options import override
from policyopt.policies.tabular import Table, TableReward
from policyopt.run import Run
from policyopt.sampling.samplers import Group
from policyopt.train import rounds
from policyopt.update.averaging import RowMean
from policyopt.worlds.sequences import SequenceWorld
from references_reward_models import REFERENCES, said, training
from support import close, context, full_step, grids, ragged, rewarded

pytestmark = pytest.mark.usefixtures("float64")


class Scripted(SequenceWorld):
    """Prefers the larger symbol with the given log-odds, and what it reads first with `taste`; remembers its calls."""

    def annotate(self, first: Any, second: Any, own: Any, rng: Any) -> torch.Tensor:
        calls.append((first.step["_step"][:, 0].tolist(), None if own is None else own.step["_step"][:, 0].tolist()))
        gap = first.step["_step"][:, 0] - second.step["_step"][:, 0]
        return torch.sigmoid(SHARP[0] * gap.double() + TASTE[0])


calls: list[Any] = []
SHARP, TASTE = [50.0], [0.0]


def world() -> Scripted:
    calls.clear()
    return Scripted(4, 3, 1, lambda s, t: torch.zeros(len(t)))


def annotated(part: AnnotatedPairs, sharp: float = 50.0, taste: float = 0.0, size: int = 2) -> Any:
    SHARP[0], TASTE[0] = sharp, taste
    made = world()
    ctx = asking(Group(size), made, Table(torch.zeros(4, 3)), feedback=part)
    ctx.run.models["annotator"] = Table(torch.tensor([0.0, 0.0, 99.0]).expand(4, -1))
    return sampled(ctx)


def test_a_sure_annotator_ranks_pairs_and_ties_of_alternating_orders_make_none() -> None:
    rows = annotated(AnnotatedPairs(votes=2), taste=300.0)
    assert (rows.row["rank"] == -1).all()  # always the one read first: the votes cancel
    rows = annotated(AnnotatedPairs(votes=2), sharp=80.0)
    symbols = rows.step["_step"][:, 0].view(4, 2)
    for pair, ranks in zip(symbols.tolist(), rows.row["rank"].view(4, 2).tolist(), strict=True):
        if pair[0] != pair[1]:
            assert ranks == ([0, 1] if pair[0] > pair[1] else [1, 0])
    first, second = calls[0][0], calls[1][0]
    assert first == symbols[:, 0].tolist()
    assert second == symbols[:, 1].tolist()  # the second vote reads the other one first


def test_the_annotator_has_an_answer_of_its_own_unless_told_not_to() -> None:
    annotated(AnnotatedPairs(votes=1))
    assert calls[0][1] == [2, 2, 2, 2]
    annotated(AnnotatedPairs(votes=1, reference=False))
    assert calls[0][1] is None


def test_strength_is_the_log_odds_of_the_mean_probability() -> None:
    rows = annotated(AnnotatedPairs(votes=1, scale=0.5), sharp=1.5)
    symbols = rows.step["_step"][:, 0].view(4, 2)
    for group in range(4):
        gap = int(symbols[group, 0] - symbols[group, 1])
        held = rows.row["strength"].view(4, 2)[group]
        close(held.max(), 0.5 * abs(1.5 * gap), atol=1e-6)
        assert float(held.min()) == 0.0
    odds = [0.0, math.log(9), math.log(9), math.log((1 - 1e-6) / 1e-6)]
    close(strength_of(torch.tensor([0.5, 0.9, 0.1, 1.0]), 2.0), [2 * x for x in odds], atol=1e-6)


def test_the_mean_is_of_one_row_in_whichever_order_it_was_read() -> None:
    """q = (sigma(gap + taste) + 1 - sigma(-gap + taste)) / 2: the taste cancels where the gap is 0, and nearly else."""
    odds = lambda q: abs(math.log(q / (1 - q)))  # noqa: E731
    sigma = lambda z: 1 / (1 + math.exp(-z))  # noqa: E731
    rows = annotated(AnnotatedPairs(votes=2), sharp=3.0, taste=0.5)
    symbols, ranks = rows.step["_step"][:, 0].view(4, 2), rows.row["rank"].view(4, 2)
    decided = [group for group in range(4) if int(ranks[group].max()) == 1]
    assert any(symbols[group, 0] != symbols[group, 1] for group in decided)
    for group in decided:
        gap = 3.0 * int(symbols[group, 0] - symbols[group, 1])
        q = (sigma(gap + 0.5) + 1 - sigma(-gap + 0.5)) / 2
        close(rows.row["strength"].view(4, 2)[group].max(), odds(q), atol=1e-6)


def test_votes_are_counted_where_random_numbers_are_whatever_the_device_of_rows() -> None:
    class Elsewhere:
        """Numbers of another device: they can be carried over, and nothing else."""

        def __init__(self, held: torch.Tensor):
            self.held = held

        def double(self) -> "Elsewhere":
            return Elsewhere(self.held.double())

        def cpu(self) -> torch.Tensor:
            return self.held

    def annotate(first: Any, second: Any, own: Any, rng: Any) -> Any:
        return Elsewhere(torch.full((len(first),), 0.75))

    sides, rng = torch.tensor([[0, 1], [2, 3]]), torch.Generator().manual_seed(0)
    ahead, share = AnnotatedPairs(votes=3).polled(annotate, ragged(), sides, None, rng)
    assert ahead.abs().tolist() <= [3, 3]
    close(share, torch.full((2,), (0.75 + 0.25 + 0.75) / 3))


def test_two_votes_of_opposite_orders_are_the_filter_of_swap_consistency() -> None:
    """A pair is kept if and only if both orders say the same."""
    for taste, kept in ((1.0, True), (200.0, False)):
        rows = annotated(AnnotatedPairs(votes=2), sharp=60.0, taste=taste)
        symbols, ranks = rows.step["_step"][:, 0].view(4, 2), rows.row["rank"].view(4, 2)
        differ = symbols[:, 0] != symbols[:, 1]
        assert bool(differ.any())
        assert (ranks[differ] >= 0).all() if kept else (ranks[differ] == -1).all()


def test_a_row_that_is_not_scored_or_alone_is_in_no_pair() -> None:
    rows = annotated(AnnotatedPairs(votes=1), size=1)
    assert (rows.row["rank"] == -1).all()
    rows = annotated(AnnotatedPairs(votes=1), size=3)
    assert ((rows.row["rank"].view(4, 3) >= 0).sum(1) == 2).all()
    assert (rows.row["rank"].view(4, 3)[:, 2] == -1).all()
    with pytest.raises(CompositionError, match="a vote"):
        AnnotatedPairs(votes=0)


def test_the_loss_has_the_strength_as_margin_and_without_it_is_bradley_terry() -> None:
    worth = (0.7, -0.4, -1.1, 0.3)
    for strengths in ([0.0] * 4, [0.8, 0.3, 0.0, 0.0]):
        batch = rewarded(ragged(), [0.0] * 4).with_rows({"strength": torch.tensor(strengths), "gap": torch.zeros(4)})
        columns = batch.with_rows({"gap": batch.row["strength"]})
        term = Term("r", PairRanking(margin="gap"), RowMean(), chosen_rows, trains="reward", couples=("pair",))
        ctx = context(training(columns, term), {**grids(), "reward": said(*worth)})
        value, _ = full_step(ctx, columns, None, "reward")
        expected = [REFERENCES[PairRanking](worth[c], worth[r], margin=strengths[c])[0] for c, r in ((0, 2), (1, 3))]
        close(value, sum(expected) / 2)
    (own,) = load("self_ref_feedback").objective
    assert own.loss == PairRanking(margin="strength")


def test_the_reward_model_learns_what_the_annotator_prefers() -> None:
    SHARP[0], TASTE[0] = 3.0, 0.0
    options = {"selection.count": 4, "update.learning_rate": 0.2, "feedback.scale": 0.1}
    made = override(load("self_ref_feedback"), options)
    judge = TableReward(torch.zeros(4, 3))
    run = Run({"policy": Table(torch.zeros(4, 3)), "reward": judge}, world(), generate, 0)
    list(rounds(run, Program((Stage(made, 12),))))
    mean = judge.values.detach().mean(0)
    assert float(mean[0]) < float(mean[1]) < float(mean[2])
