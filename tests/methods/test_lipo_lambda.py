"""LiPO: `reduces_to` of specification 120."""

import math

import pytest
import torch

from enumeration import first_step
from policyopt.methods import load
from policyopt.objective import listwise
from ranked_rows import lists
from support import close, grid, grids, ragged

pytestmark = pytest.mark.usefixtures("float64")

CONSTANT = 1 / math.log(2) - 1 / math.log(3)


def two():
    return ragged().with_rows({"label": 1.0 - ragged().row["rank"].double()})


def test_of_two_rows_it_is_dpo_times_a_constant() -> None:
    """Also at the reference, where all scores are equal."""
    dpo = load("dpo")
    for models in (grids, lambda: {"policy": grid(0)}):
        found = first_step(load("lipo_lambda"), models(), two()).gradient
        close(found, CONSTANT * first_step(dpo, models(), two()).gradient)


def test_with_all_pairs_alike_two_rows_are_dpo() -> None:
    dpo = first_step(load("dpo"), grids(), two()).gradient
    close(first_step(load("lipo_lambda:lipo_pairs"), grids(), two()).gradient, dpo)
    close(first_step(load("lipo_lambda:lipo_mle"), grids(), two()).gradient, dpo)


def test_competition_ranks_would_never_begin() -> None:
    """At the reference every score is 0; the places are a permutation, so no pair of unequal labels weighs 0."""
    batch = lists()
    score = listwise.Lists(
        torch.tensor([[2, 0, 5]]),
        torch.tensor([[True] * 3]),
        torch.zeros(1, 3),
        torch.tensor([[1.0, 0.5, 0.0]]),
    )
    assert listwise.places_by_score(score).tolist() == [[2, 1, 3]]
    assert float(listwise.lambda_weights(score)[0, 0, 2]) > 0
    moved = first_step(load("lipo_lambda"), {"policy": grid(0)}, batch).gradient
    assert float(moved.abs().max()) > 0


def test_weights_by_hand() -> None:
    """Scores 0.3, 0.9 (places 2, 1), labels 1, 0: |2 - 1| |1/log 3 - 1/log 2|."""
    score = listwise.Lists(
        torch.tensor([[0, 1]]),
        torch.tensor([[True] * 2]),
        torch.tensor([[0.3, 0.9]]),
        torch.tensor([[1.0, 0.0]]),
    )
    close(listwise.lambda_weights(score)[0, 0, 1], CONSTANT)


def test_equal_labels_teach_nothing() -> None:
    batch = lists().with_rows({"label": torch.full((8,), 0.4)})
    found = first_step(load("lipo_lambda"), grids(), batch).gradient
    close(found, torch.zeros_like(found))


def test_pointwise_and_softmax_by_hand_at_the_reference() -> None:
    batch = lists()
    for key, value in (("lipo_pointwise", 3.5 * math.log(2)), ("lipo_softmax", (math.log(4) + math.log(3)) / 2)):
        done = first_step(load(f"lipo_lambda:{key}"), {"policy": grid(0)}, batch)
        close(done.round.metrics["loss/preference"], value)
