"""StepSearch: `reduces_to` of specification 108, each identity a test."""

from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from enumeration import Grades, first_step
from policyopt.compose import Chain, CompositionError, Program, Stage
from policyopt.engines.plain import generate
from policyopt.evaluation.experiments.searching import ANSWER, TwoHops
from policyopt.methods import load
from policyopt.ops.searches import Searches, asked_share, information_gain, repeated
from policyopt.options import override
from policyopt.policies.tabular import Table
from policyopt.reward.parts import ReferencePenalty, Verified
from policyopt.reward.search import SearchReward
from policyopt.run import Run
from policyopt.train import rounds
from policyopt.types import StepKind
from support import close, context, grids, method, numbers, ragged, rewarded

pytestmark = pytest.mark.usefixtures("float64")

NAN = float("nan")


@given(st.integers(0, 60), st.integers(1, 4), st.integers(1, 6))
def test_gains_add_up_to_the_best_similarities(seed: int, gold: int, searches: int) -> None:
    similar = torch.rand(3, searches, gold, generator=torch.Generator().manual_seed(seed))
    similar[1, searches // 2] = NAN  # a step without a search
    gain = information_gain(similar)
    best = similar.nan_to_num(0.0).amax(1).mean(1)
    if searches > 1:
        close(gain.sum(1), best)
    assert float(gain.min()) >= 0
    assert float(gain.sum(1).max()) <= 1 + 1e-12


def test_repeating_a_search_costs_one() -> None:
    documents = torch.tensor([[[3, 5], [3, 5], [-1, -1], [5, 7]]])
    close(repeated(documents), [[0.0, 1.0, 0.0, 0.5]])
    similar = torch.tensor([[[0.8, 0.1], [0.8, 0.1], [NAN, NAN], [0.2, 0.5]]])
    gain = information_gain(similar)
    close(gain, [[0.45, 0.0, 0.0, 0.2]])
    close((gain - repeated(documents))[0, 1], -1.0)


def test_a_duplicate_inside_a_search_counts_in_the_released_form() -> None:
    documents = torch.tensor([[[4, 4, 2], [2, -1, -1]]])
    close(repeated(documents), [[0.0, 1.0]])
    close(repeated(documents, within=True), [[1 / 3, 1.0]])


def test_repetitions_stand_where_the_searches_are_in_rows_of_any_length() -> None:
    """Few searches among many steps: what is compared grows with the searches, not with the steps."""
    documents = torch.full((3, 30_000, 2), -1)
    documents[0, [7, 20_000, 29_999]] = torch.tensor([[1, 2], [2, 3], [3, 1]])
    documents[2, [0, 5]] = torch.tensor([[4, -1], [4, 4]])
    found = repeated(documents)
    assert found[0, [7, 20_000, 29_999]].tolist() == [0.0, 0.5, 1.0]
    assert found[2, [0, 5]].tolist() == [0.0, 1.0]
    assert float(found.sum()) == 2.5
    close(repeated(documents[1:2]), torch.zeros(1, 30_000))


def test_every_query_counts_for_one_group_and_every_group_its_best_query() -> None:
    """Queries: (0.9, 0.8) and (0.3, 0.2) go to the first group; the third to the second; a third group is not there."""
    keywords = torch.tensor([[[0.9, 0.8, NAN], [0.3, 0.2, NAN], [0.1, 0.4, NAN]]])
    close(asked_share(keywords), [(0.9 + 0.4) / 2])
    close(asked_share(keywords[:, :2]), [0.45])
    close(asked_share(torch.full((2, 3, 2), NAN)), [0.0, 0.0])


class World(Grades):
    """Searches on the steps 0 and 2 of every row."""

    def searches(self, batch):
        similar = torch.full((len(batch), batch.steps, 1), NAN)
        documents = torch.full((len(batch), batch.steps, 1), -1)
        for t, value in ((0, 0.25), (2, 1.0)):
            if t < batch.steps:
                similar[:, t], documents[:, t] = value, 7
        return Searches(documents, similar, similar)


def test_rewards_stand_at_the_searches_and_on_the_last_step() -> None:
    batch = rewarded(ragged((5, 1), tools=False), [0.0, 0.0])
    ctx = context(method(), grids(), World([1.0, 0.0]))
    found = SearchReward(0.6, 0.5)(ctx, Verified()(ctx, batch)).step["reward"]
    close(found, [[0.15, 0.0, 0.6 * (0.75 - 1.0), 0.0, 1.5], [0.15 + 0.125, 0.0, 0.0, 0.0, 0.0]])


def test_without_weights_it_is_ppo_with_the_answers_reward() -> None:
    made = override(load("stepsearch"), {"reward.search_reward.step": 0.0, "reward.search_reward.keywords": 0.0})
    plain = replace(load("stepsearch"), reward=Chain((Verified(), ReferencePenalty(0.001))))
    batch = rewarded(ragged(), [0.0] * 4)
    found = first_step(made, grids(), batch, World([1.0, 0.0, -1.0, 0.5])).gradient
    assert float(found.abs().max()) > 1e-3
    close(found, first_step(plain, grids(), batch, Grades([1.0, 0.0, -1.0, 0.5])).gradient)


def test_steps_of_the_search_engine_are_skipped() -> None:
    """Advantages, ratios and lengths are of own steps; the world writes a step after every search."""
    made = override(load("stepsearch"), {"selection.count": 16, "update.minibatches": 1})
    run = Run({"policy": Table(numbers(18, 5))}, TwoHops(), generate)
    (done,) = rounds(run, Program((Stage(made, 1),)))
    rows = done.credited
    tool = rows.step["kind"] == int(StepKind.TOOL)
    assert bool(tool.any())
    close(rows.step["advantage"][tool], torch.zeros(int(tool.sum())))
    assert not bool((rows.trained & tool).any())
    searched = rows.own & (rows.step["_step"] != ANSWER)
    assert int(tool.sum()) == int(searched.sum())
    assert int(rows.lengths.max()) <= 5
    closed = rows.valid & ~rows.own & ~tool
    assert not bool(closed.any())


def test_a_world_without_searches_is_refused() -> None:
    with pytest.raises(CompositionError, match="searches"):
        SearchReward()(context(method(), grids(), SimpleNamespace()), rewarded(ragged(), [0.0] * 4))
    with pytest.raises(CompositionError, match="negative"):
        SearchReward(step=-1.0)
