"""PRO: `reduces_to` of specification 134."""

import math

import pytest
import torch

from enumeration import first_step
from policyopt.methods import load
from policyopt.objective.listwise import Lists, RankedList
from policyopt.options import override
from ranked_rows import lists
from support import close, grid, grids, ragged

pytestmark = pytest.mark.usefixtures("float64")

RANKING = override(load("pro"), {"objective.imitation.weight": 0.0})


def of_scores(said, label, *, gaps=True):
    said, label = torch.tensor([said], requires_grad=True), torch.tensor([label])
    rows = torch.arange(said.shape[1])[None]
    value = RankedList(1.0, None, gaps=gaps).of_lists(Lists(rows, rows >= 0, said, label), lists())
    (slope,) = torch.autograd.grad(value.sum(), said)
    return value[0], slope[0]


def test_two_rows_without_gaps_are_a_logistic_loss_of_means() -> None:
    batch, models = ragged().with_rows({"label": 1.0 - ragged().row["rank"].double()}), grids()
    made = override(RANKING, {"objective.ranking.gaps": False})
    done = first_step(made, models, batch)
    logp = grids()["policy"].logp.detach()[:4, :13]
    mean = torch.where(batch.trained, logp, 0.0).sum(1) / batch.trained.sum(1)
    close(done.round.metrics["loss/ranking"], torch.nn.functional.softplus(mean[2:] - mean[:2]).mean())


def test_plackett_luce_by_hand() -> None:
    value, _ = of_scores([0.0, 0.0, 0.0], [1.0, 0.5, 0.0], gaps=False)
    close(value, math.log(3) + math.log(2))


def test_temperatures_by_hand() -> None:
    """Labels 1, 0.5, 0 and scores -1, -2, -3: T_0 = (1, 0.5, 1), T_1 = (0.5, 0.5)."""
    value, _ = of_scores([-1.0, -2.0, -3.0], [1.0, 0.5, 0.0])
    first = math.log(math.exp(-1) + math.exp(-1) + math.exp(-3)) + 1
    second = math.log(math.exp(-1) + math.exp(-1.5)) + 1
    close(value, first + second)


def test_a_near_tie_is_pushed_by_its_gap_times_its_share() -> None:
    """Scores 0, so that shares are equal: gap 0.05 pushes 20 times less than gap 1."""
    _, near = of_scores([0.0, 0.0], [1.0, 0.95])
    _, far = of_scores([0.0, 0.0], [1.0, 0.0])
    close(20 * near, far)


def test_a_tie_at_the_bottom_is_a_constant() -> None:
    value, slope = of_scores([0.3, -0.2], [0.7, 0.7])
    close(value, math.log(2))
    close(slope, [0.0, 0.0])


def test_the_supervised_term_is_of_the_best_row_by_the_list_size() -> None:
    added = first_step(load("pro"), grids(), lists()).gradient - first_step(RANKING, grids(), lists()).gradient
    expected = torch.zeros_like(added)
    for row, size in ((1, 3), (2, 4)):
        expected[row, :13] = torch.where(lists().trained[row], -0.05 * (size - 1) ** 2 / 2, 0.0)
    close(added, expected)


def test_it_needs_no_reference() -> None:
    done = first_step(load("pro"), {"policy": grid(0)}, lists())
    assert set(done.run.models) == {"policy"}
