"""Losses of pairs and lists: numbers worked by hand, loops, what some are of others, edges."""

import math
from dataclasses import replace

import pytest
import torch

import loops_pairs as by_hand
from policyopt.compose import CompositionError
from policyopt.distributions import Categorical
from policyopt.objective.listwise import (
    LabelledList,
    ListImitation,
    PairsOfDistances,
    PairsOfStated,
    RankedList,
    lambda_weights,
    top_steps,
)
from policyopt.objective.pairwise import PairPreference, RowPreference, chosen_steps
from policyopt.objective.preference import PairLogistic
from policyopt.ops.links import preferred, tilted
from policyopt.ops.pairs import list_rows
from policyopt.seen import SeenBatch
from policyopt.update.averaging import SequenceSum
from ranked_rows import BEST_FIRST, Actor, every, lists, step
from references_lists import REFERENCES
from support import close, context, grids, method, numbers, ragged, with_row

pytestmark = pytest.mark.usefixtures("float64")


def by_loops(loss, **given):
    """Mean over lists and its gradient."""
    batch, models = lists(), grids()
    policy, frozen = models["policy"].logp.detach(), models["reference"].logp.detach()
    value, gradient = 0.0, torch.zeros_like(policy)
    stated = {k: getattr(loss, k) for k in ("beta", "mean", "discount", "divergence")}
    for rows in BEST_FIRST.values():
        said = []
        for b in rows:
            steps = batch.trained[b].nonzero()[:, 0].tolist()
            gaps = [float(policy[b, t] - (frozen[b, t] if loss.anchor else 0.0)) for t in steps]
            said.append((steps, *by_hand.said(gaps, [1.0] * len(gaps), **stated)))
        label = [float(batch.row["label"][b]) for b in rows]
        one, slopes = REFERENCES[type(loss)]([s for _, s, _ in said], label, rows, **given)
        value += one / len(BEST_FIRST)
        for b, slope, (steps, _, inner) in zip(rows, slopes, said, strict=True):
            for t, x in zip(steps, inner, strict=True):
                gradient[b, t] += slope * x / len(BEST_FIRST)
    return value, gradient


VARIANTS = [
    (PairsOfStated(gain=True), {"gain": True}),
    (PairsOfStated(beta=0.7, link="hinge", rejected=0.6), {"kind": "hinge", "rejected": 0.6}),
    (PairsOfStated(beta=2.0, averaged=True, mean=True), {"averaged": True}),
    (PairsOfStated(anchor=None, beta=0.3, discount=0.9, link="squared"), {"kind": "squared"}),
    (RankedList(anchor=None, mean=True, beta=1.0), {}),
    (RankedList(gaps=False, beta=0.5), {"gaps": False}),
    (LabelledList(beta=0.5), {}),
    (LabelledList(targets="pointwise", beta=0.5, divergence="jensen_shannon"), {"kind": "pointwise"}),
]


@pytest.mark.parametrize(("loss", "given"), VARIANTS, ids=[str(n) for n in range(len(VARIANTS))])
def test_lists_equal_the_loops(loss, given) -> None:
    value, gradient = step(loss)
    close(value, by_loops(loss, **given)[0])
    close(gradient, by_loops(loss, **given)[1])
    again, same = step(loss, micro_rows=2)
    close(again, value)
    close(same, gradient)


def test_soft_labels_of_lists_equal_the_loops() -> None:
    strength = torch.full((8, 4), 0.5, dtype=torch.float64)
    for rows in BEST_FIRST.values():
        for i in range(len(rows)):
            for j in range(i + 1, len(rows)):
                strength[rows[i], j] = 0.55 + 0.1 * i + 0.03 * j
    loss = PairsOfStated(soft=True, beta=0.4)
    value, gradient = step(loss, lists().with_rows({"strength": strength}))
    expected, slopes = 0.0, torch.zeros_like(gradient)
    for rows in BEST_FIRST.values():
        table = strength[rows].tolist()
        one, slope = by_loops_of(loss, rows, table)
        expected += one / 2
        slopes += slope / 2
    close(value, expected)
    close(gradient, slopes)


def by_loops_of(loss, rows, strength):
    batch, models = lists(), grids()
    gap = (models["policy"].logp - models["reference"].logp).detach()
    steps = [batch.trained[b].nonzero()[:, 0] for b in rows]
    s = [loss.beta * float(gap[b, t].sum()) for b, t in zip(rows, steps, strict=True)]
    one, slopes = by_hand.pairs_of_list(s, [0.0] * len(s), rows, strength=strength)
    gradient = torch.zeros_like(gap)
    for b, t, slope in zip(rows, steps, slopes, strict=True):
        gradient[b, t] = loss.beta * slope
    return one, gradient


def test_list_rows_are_by_id_and_rank_and_leave_out_what_is_alone() -> None:
    assert list_rows(lists()).tolist() == [[1, 5, 3, -1], [2, 6, 0, 4]]
    without = with_row(lists(), rank=[2, 0, 0, -1, 3, -1, 1, 0])
    assert list_rows(without).tolist() == [[2, 6, 0, 4]]
    nothing = with_row(lists(), rank=[-1] * 8)
    for loss in (PairsOfStated(), RankedList(), LabelledList()):
        value, gradient = step(loss, nothing)
        close(value, 0.0)
        close(gradient, torch.zeros_like(gradient))


def test_imitation_of_the_best_row_counts_by_the_others_squared() -> None:
    batch, models = lists(), grids()
    value, gradient = step(ListImitation(), batch, models, top_steps, SequenceSum())
    expected, slopes = 0.0, torch.zeros_like(gradient)
    for rows in BEST_FIRST.values():
        steps = batch.trained[rows[0]].nonzero()[:, 0]
        values, slope = REFERENCES[ListImitation](models["policy"].logp[rows[0], steps].tolist(), len(rows))
        expected += sum(values) / 2
        slopes[rows[0], steps] = slope / 2
    close(value, expected)
    close(gradient, slopes)


def test_distances_equal_the_loops_and_have_no_gradient_where_they_are_0() -> None:
    would, did = numbers(8, 13, 2, seed=5), numbers(8, 13, 2, seed=6)
    did[2, 1] = would[2, 1]
    batch, loss = lists().with_steps({"_action": did}), PairsOfDistances(rejected=0.5, averaged=True, temperature=0.3)
    models = {**grids(), "policy": Actor(values=would)}
    value, gradient = step(loss, batch, models)
    expected, slopes = 0.0, torch.zeros_like(would)
    for rows in BEST_FIRST.values():
        steps = [batch.trained[b].nonzero()[:, 0].tolist() for b in rows]
        far = [
            [math.dist(would[b, t].tolist(), did[b, t].tolist()) for t in ts] for b, ts in zip(rows, steps, strict=True)
        ]
        s = [-sum(d) / len(d) / 2 / 0.3 for d in far]
        label = [float(batch.row["label"][b]) for b in rows]
        one, by_score = REFERENCES[PairsOfDistances](s, label, rows, rejected=0.5, averaged=True)
        expected += one / 2
        for b, ts, ds, slope in zip(rows, steps, far, by_score, strict=True):
            for t, d in zip(ts, ds, strict=True):
                if d:
                    slopes[b, t] = -slope / 2 / len(ts) / 2 / 0.3 * (would[b, t] - did[b, t]) / d
    close(value, expected)
    close(gradient, slopes)
    with pytest.raises(CompositionError, match="numbers"):
        step(loss, batch, {**grids(), "policy": Choices(values=would)})


class Choices(Actor):
    def at(self, batch, *, following=False):
        return Categorical.of(torch.zeros(len(batch), batch.steps, 2))


# -- what some are of others ------------------------------------------------------------------------------------
def pairwise(loss, batch=None):
    return step(loss, ragged() if batch is None else batch, mask=pair_tops)


def pair_tops(seen, batch):
    return batch.row["rank"] == 0


def test_the_plain_pair_loss_is_dpo_and_conservative_dpo() -> None:
    for wrong in (0.0, 0.2):
        for found, expected in zip(
            pairwise(PairPreference(0.3, wrong=wrong)), pairwise(PairLogistic(0.3, wrong)), strict=True
        ):
            close(found, expected)


def test_lists_of_two_are_pairs() -> None:
    batch = ragged().with_rows({"label": 1.0 - ragged().row["rank"].double()})
    for loss in (PairsOfStated(beta=0.3), RankedList(beta=0.3, gaps=False)):
        for found, expected in zip(pairwise(loss, batch), pairwise(PairLogistic(0.3)), strict=True):
            close(found, expected)


def test_links_by_hand() -> None:
    z = torch.tensor([0.0, 2.0, -1.0])
    close(preferred(z, "hinge"), [1.0, 0.0, 2.0])
    close(preferred(z, "squared"), [0.25, 2.25, 2.25])
    close(preferred(z, "exponential"), (-z).exp())
    close(preferred(z, "logistic", 0.25, unbiased=True)[0], math.log(2))
    close(preferred(torch.tensor(math.log(4.0)), "exo", 0.2), 0.0)
    close(preferred(torch.tensor(0.0), "exo", 0.2), 0.5 * math.log(0.25 / 0.16))
    close(preferred(torch.tensor(0.0), "discovered"), 0.5 * math.log(2) + 0.5)
    # IPO with beta = tau = 0.1 and Delta = 2: (2 - 5)^2.
    close(preferred(torch.tensor(0.2), "squared") / 0.1**2, 9.0)


def test_divergences_agree_at_the_anchor_in_slope() -> None:
    for divergence, slope in (("reverse_kl", 1.0), ("forward_kl", 1.0), ("jensen_shannon", 0.5)):
        rho = torch.zeros(1, requires_grad=True)
        close(torch.autograd.grad(tilted(rho, divergence).sum(), rho)[0], [slope])


def test_gain_weights_are_of_a_permutation_at_ties() -> None:
    """At policy = reference all scores are equal and no weight of different labels is 0; K = 2: |1/log 2 - 1/log 3|."""
    models = grids()
    models["reference"] = models["policy"]
    loss = PairsOfStated(gain=True)
    rows = loss.lists(seen_of(models), lists())
    weights = lambda_weights(rows)
    different = rows.there[:, :, None] & rows.there[:, None, :] & (rows.label[:, :, None] != rows.label[:, None, :])
    assert bool((weights[different] > 0).all())
    two = ragged().with_rows({"label": 1.0 - ragged().row["rank"].double()})
    constant = 1 / math.log(2) - 1 / math.log(3)
    for found, expected in zip(pairwise(loss, two), pairwise(PairLogistic(0.1)), strict=True):
        close(found, constant * expected)


def seen_of(models):
    return SeenBatch(context(method(), models), lists())


def test_single_rows_by_hand() -> None:
    """Two good and two other rows at the anchor: s = 0, so every loss is softplus(+-point)."""
    models = grids()
    models["reference"] = models["policy"]
    batch = ragged().with_rows({"label": torch.tensor([1.0, 0.0, 1.0, 0.0])})
    value, _ = step(RowPreference(point=math.log(3)), batch, models, every)
    close(value, (math.log(4) + math.log(4 / 3)) / 2)
    value, _ = step(RowPreference(link="kto", good=2.0), batch, models, every)
    close(value, (2 * 0.5 + 0.5) / 2)


def test_weights_of_one_and_no_point_are_neutral() -> None:
    batch = ragged().with_steps({"severity": torch.ones(4, 13, dtype=torch.float64)})
    for found, expected in zip(
        pairwise(PairPreference(by="severity"), batch), pairwise(PairPreference(), batch), strict=True
    ):
        close(found, expected)


def test_chosen_steps_are_trained_steps_of_rank_0() -> None:
    batch = ragged()
    mask = chosen_steps(None, batch)
    assert bool((mask == (batch.trained & (batch.row["rank"] == 0)[:, None])).all())


@pytest.mark.parametrize(
    "given",
    [
        {"beta": 0.0},
        {"wrong": 0.5},
        {"link": "exo"},
        {"link": "nca", "target": 1.0},
        {"divergence": "forward_kl", "mean": True},
        {"link": "unknown"},
        {"discount": 0.0},
    ],
)
def test_what_does_not_fit_is_refused(given) -> None:
    with pytest.raises(CompositionError):
        PairPreference(**given)
    with pytest.raises(CompositionError):
        replace(RowPreference(), link="hinge")
    with pytest.raises(CompositionError):
        LabelledList(targets="unknown")  # pyright: ignore[reportArgumentType]
