"""CPPO: `reduces_to` of specification 97."""

from dataclasses import replace

import pytest
import torch

import loops
from enumeration import Grades, first_step
from policyopt.methods import load
from policyopt.options import override
from policyopt.selection.pruning import whole
from policyopt.types import Scores
from support import close, grids, ragged

pytestmark = pytest.mark.usefixtures("float64")

GRADES = [0.0, 1.0, 1.0, 0.0, 0.0, 0.0, 0.5, 0.4]
GROUPS = [0, 1, 0, 1, 0, 1, 0, 1]
LENGTHS = (2, 3, 4, 2, 3, 4, 2, 3)


def stepped(made, grades=GRADES):
    batch = ragged(LENGTHS, tools=False).with_rows({"group": torch.tensor(GROUPS)})
    models = grids()
    batch = batch.with_scores({"old": Scores(models["old"].logp.detach()[:8, :4])})
    return first_step(made, models, batch, Grades(grades))


def without_kl(made):
    return replace(made, constraint=())


def test_without_pruning_it_is_grpo() -> None:
    found = stepped(override(load("cppo"), {"selection.keep": 1.0}))
    close(found.gradient, stepped(load("grpo")).gradient)
    assert float(found.gradient.abs().max()) > 1e-2


def test_advantages_come_from_the_whole_group_and_the_largest_stay() -> None:
    done = stepped(load("cppo"))
    advantage = loops.standardised(GRADES, GROUPS, [True] * 8)
    close(done.advantage, advantage)
    expected = []
    for group in (0, 1):
        rows = [b for b in range(8) if GROUPS[b] == group]
        expected += sorted(rows, key=lambda b: -abs(advantage[b]))[:2]
    assert done.round.kept.row["_row"].tolist() == sorted(expected)
    left = [b for b in range(8) if b not in expected]
    assert float(done.gradient[left].abs().max()) == 0.0


def test_pruning_rows_of_no_advantage_changes_the_gradient_by_its_normaliser() -> None:
    """Half of the rows have advantage 0."""
    grades = [1.0, 1.0, 0.5, 0.5, 0.0, 0.0, 0.5, 0.5]
    pruned, every = stepped(without_kl(load("cppo")), grades), stepped(without_kl(load("grpo")), grades)
    assert pruned.round.kept.row["_row"].tolist() == [0, 1, 4, 5]
    close(pruned.gradient, 2 * every.gradient)


def test_the_number_kept_is_guarded_against_rounding() -> None:
    assert [whole(1 - p, g) for g, p in ((10, 0.9), (20, 0.8), (16, 0.9375), (16, 0.99), (8, 0.5))] == [1, 4, 1, 1, 4]


def test_smallest_and_random_are_the_controls() -> None:
    untied = [0.1, 0.2, 0.9, 0.25, 0.3, 0.9, 0.4, 0.0]
    smallest = stepped(override(load("cppo"), {"selection.pick": "smallest"}), untied).round.kept.row["_row"].tolist()
    largest = stepped(load("cppo"), untied).round.kept.row["_row"].tolist()
    assert sorted(smallest + largest) == list(range(8))
    drawn = stepped(override(load("cppo"), {"selection.pick": "random"})).round.kept
    assert drawn.row["group"].unique(return_counts=True)[1].tolist() == [2, 2]


def test_more_tasks_fill_the_room() -> None:
    made = load("cppo")
    assert made.selection.count * made.selection.rows.keep == load("grpo").selection.count
