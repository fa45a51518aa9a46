"""D3S: `reduces_to` of specification 140."""

import math
from dataclasses import replace

import pytest
import torch

import loops
from enumeration import Fixed, Grades, first_step
from policyopt.compose import Chain, Program, Stage
from policyopt.methods import load
from policyopt.run import Run
from policyopt.selection.pruning import LargestSteps, MostVaried, most_varied
from policyopt.selection.tasks import EveryRow
from policyopt.train import rounds
from policyopt.types import Categorical
from support import close, logit_grid, ragged

pytestmark = pytest.mark.usefixtures("float64")

GRADES = [0.0, 1.0, 1.0, 0.0, 0.0, 0.0, 0.5, 0.4]
GROUPS = [0, 1, 0, 1, 0, 1, 0, 1]
LENGTHS = (2, 3, 4, 2, 3, 4, 2, 3)


def rows():
    return ragged(LENGTHS, tools=False).with_rows({"group": torch.tensor(GROUPS)})


def with_rows(part):
    made = load("d3s")
    return replace(made, selection=replace(made.selection, rows=part))


def stepped(made):
    return first_step(made, {"policy": logit_grid(0)}, rows(), Grades(GRADES))


def test_with_all_rows_and_steps_it_is_the_base() -> None:
    found = stepped(with_rows(Chain((MostVaried(1.0), LargestSteps(1.0)))))
    close(found.gradient, stepped(with_rows(EveryRow())).gradient)
    assert float(found.gradient.abs().max()) > 1e-2


def test_kept_rows_and_steps_and_their_weight_by_hand() -> None:
    done = stepped(with_rows(Chain((MostVaried(0.5), LargestSteps(0.4)))))
    advantage = loops.standardised(GRADES, GROUPS, [True] * 8)
    best = sorted(range(8), key=lambda b: -advantage[b])
    spread = {}
    for k in range(5):
        kept = best[:k] + best[8 - (4 - k) :]
        mean = sum(advantage[b] for b in kept) / 4
        spread[tuple(sorted(kept))] = sum((advantage[b] - mean) ** 2 for b in kept)
    chosen = max(spread, key=lambda key: spread[key])
    assert done.round.kept.row["_row"].tolist() == list(chosen)
    entropy = Categorical.of(logit_grid(0).logits.detach()).entropy()
    places = [(b, t) for b in chosen for t in range(LENGTHS[b])]
    kept = sorted(places, key=lambda p: -abs(advantage[p[0]]) * float(entropy[p]))[: math.ceil(0.4 * len(places))]
    assert {(chosen[b], t) for b, t in done.round.kept.trained.nonzero().tolist()} == set(kept)
    b, t = kept[0]
    p = logit_grid(0).logits.detach()[b, t].softmax(-1)
    slope = torch.nn.functional.one_hot(rows().step["_step"][b, t], 5) - p
    close(done.gradient[b, t], -advantage[b] * slope / len(kept))


def test_right_and_wrong_rows_of_one_group_are_kept_in_halves() -> None:
    for right in (3, 4, 6):
        values = torch.tensor([1.0] * right + [-1.0] * (9 - right))
        for count in (4, 5):
            kept = values[most_varied(values, count)]
            if min(right, 9 - right) >= (count + 1) // 2:
                assert abs(int((kept > 0).sum()) - int((kept < 0).sum())) == count % 2


def test_shares_rise_over_the_rounds() -> None:
    made = replace(load("d3s"), sampling=Fixed(rows()))
    run = Run({"policy": logit_grid(0)}, Grades(GRADES), None)
    found = [(len(d.kept), int(d.kept.trained.sum())) for d in rounds(run, Program((Stage(made, 5),)))]
    assert [kept for kept, _ in found] == [math.floor(8 * s + 1e-9) for s in (0.25, 0.375, 0.5, 0.625, 0.75)]
    for (_, steps), share, done in zip(found, (0.2, 0.3, 0.4, 0.5, 0.6), found, strict=True):
        assert steps <= math.ceil(share * 4 * done[0])
    assert found[0][1] < found[-1][1]


def test_a_round_without_scored_rows_trains_nothing() -> None:
    done = first_step(load("d3s"), {"policy": logit_grid(0)}, rows(), Grades([float("nan")] * 8))
    assert len(done.round.kept) == 0
    assert float(done.gradient.abs().max()) == 0.0
