"""OSP: `reduces_to` of specification 215."""

import math
from dataclasses import replace

import pytest
import torch

from enumeration import first_step
from policyopt.feedback.lists import RankedRows, SoftTournament
from policyopt.methods import load
from policyopt.objective.pairwise import PairPreference
from policyopt.policies.tabular import Table
from policyopt.types import Batch
from policyopt.worlds.sequences import SequenceWorld
from support import close, context, grids, method, ragged, rewarded, with_row

pytestmark = pytest.mark.usefixtures("float64")


class Judge:
    """Prefers row `_row` i to j with sigma(worth_i - worth_j), and a little more whatever comes first."""

    def __init__(self, worth, first=0.0):
        self.worth, self.first = torch.tensor(worth), first

    def prefer(self, one: Batch, two: Batch):
        return torch.sigmoid(self.worth[one.row["_row"]] - self.worth[two.row["_row"]]) * (1 - self.first) + self.first


WORTH = [0.2, -1.0, 1.3, 0.4]


def judged(judge, part=None):
    batch = with_row(ragged(), group=[5, 5, 5, 5])
    return (part or SoftTournament())(context(method(), grids(), judge), batch)


def test_strengths_are_means_over_both_orders_and_ranks_by_wins() -> None:
    done = judged(Judge(WORTH, first=0.2))
    assert done.row["rank"].tolist() == [2, 3, 0, 1]
    order = [2, 3, 0, 1]
    for i in range(4):
        for k, j in enumerate(order):
            there = 0.8 / (1 + math.exp(WORTH[j] - WORTH[i])) + 0.2
            back = 0.8 / (1 + math.exp(WORTH[i] - WORTH[j])) + 0.2
            close(done.row["strength"][i, k], 0.5 * (there + 1 - back))


def test_with_certain_strengths_it_is_dpo_over_pairs() -> None:
    """Two rows: p = 1 of the better; the whole method against online DPO's gradient."""
    batch, models = with_row(ragged(), group=[0, 1, 0, 1]), grids()
    found = first_step(load("osp"), models, batch, Judge([90.0, 90.0, -90.0, -90.0])).gradient
    close(found, first_step(load("dpo"), grids(), batch).gradient)


def test_a_constant_strength_is_conservative_dpo() -> None:
    batch = with_row(ragged(), group=[0, 1, 0, 1])
    logit = math.log(0.8 / 0.2)
    found = first_step(load("osp"), grids(), batch, Judge([logit, logit, 0.0, 0.0])).gradient
    made = load("rdpo")
    term = made.objective[0]
    smooth = replace(made, objective=(replace(term, loss=PairPreference(0.1, wrong=0.2)),))
    close(found, first_step(smooth, grids(), batch).gradient)


def test_the_minimum_is_the_reference_tilted_by_the_rewards() -> None:
    """p = sigma(r_i - r_j): no gradient at pi_ref exp(r / beta) / Z, whatever was sampled."""
    reward = torch.tensor([[0.3, -0.5, 0.9]])

    def compare(first, second, task):
        return torch.sigmoid(reward[task, first[:, 0]] - reward[task, second[:, 0]])

    world = SequenceWorld(1, 3, 1, lambda s, t: torch.zeros(len(t)), compare=compare)
    rows = world.complete(world.tasks(torch.zeros(3, dtype=torch.int64)), torch.arange(3)[:, None])
    rows = rows.with_rows({"group": torch.zeros(3, dtype=torch.int64)})
    start = torch.tensor([[0.1, 0.7, -0.2]])
    models = {"policy": Table(start + reward / 0.1), "reference": Table(start)}
    close(first_step(load("osp"), models, rows, world).gradient, torch.zeros(1, 3))


def test_hard_strengths_are_0_1_and_one_half_at_ties() -> None:
    done = judged(Judge([0.3, 0.3, 1.0, -1.0]), SoftTournament(hard=True))
    assert done.row["strength"][0].tolist() == [0.0, 0.5, 0.5, 1.0]


def test_lists_by_reward_have_rewards_as_labels() -> None:
    batch = rewarded(with_row(ragged(), group=[1, 0, 1, 0]), [0.1, 0.5, 0.9, 0.5])
    done = RankedRows()(None, batch)
    assert done.row["rank"].tolist() == [1, 0, 0, 1]
    assert done.row["label"].tolist() == [0.1, 0.5, 0.9, 0.5]
    assert RankedRows(whole=True)(None, batch).row["rank"].tolist() == [3, 1, 0, 2]
