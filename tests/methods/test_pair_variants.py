"""Losses on pairs that are known by name: numbers worked by hand at known log-ratios, and what TRL computes."""

import math

import pytest
import torch

from enumeration import first_step
from policyopt.methods import load
from policyopt.objective.ordered import log_odds
from policyopt.options import override
from policyopt.seen import SeenBatch
from support import close, context, grid, grids, ragged, with_row

pytestmark = pytest.mark.usefixtures("float64")

W, L = 0.8, -0.6
"""Log-ratios of the chosen and the rejected row, spread over rows of two steps: 0.4 and -0.3 a step."""


def logistic(z):
    return math.log1p(math.exp(-z))


def sigmoid(z):
    return 1 / (1 + math.exp(-z))


def loss_of(key, **given):
    batch, models = ragged((2, 2, 2, 2)), grids()
    with torch.no_grad():
        models["policy"].logp.copy_(models["reference"].logp)
        models["policy"].logp[:2] += W / 2
        models["policy"].logp[2:] += L / 2
    made = override(load(f"dpo:{key}"), given)
    return first_step(made, models, batch).round.metrics["loss/preference"]


def shares(z, wrong):
    p = sigmoid(z)
    return p * math.log(p / (1 - wrong)) + (1 - p) * math.log((1 - p) / wrong)


@pytest.mark.parametrize(
    ("key", "beta", "expected"),
    [
        ("ipo", 0.1, (W - L - 1 / (2 * 0.1)) ** 2),
        ("ipo_mean", 0.5, (W / 2 - L / 2 - 1 / (2 * 0.5)) ** 2),
        ("slic", 0.5, 1 - 0.5 * (W - L)),
        ("cdpo", 0.5, 0.9 * logistic(0.5 * (W - L)) + 0.1 * logistic(-0.5 * (W - L))),
        ("exo", 0.5, shares(0.5 * (W - L), 1e-3)),
        ("nca", 0.5, logistic(0.5 * W) + 0.5 * logistic(-0.5 * W) + 0.5 * logistic(-0.5 * L)),
        ("apo_zero", 0.5, 1 - sigmoid(0.5 * W) + sigmoid(0.5 * L)),
        ("apo_down", 0.5, sigmoid(0.5 * W) + 1 - sigmoid(0.5 * (W - L))),
        ("sppo_hard", 0.5, (W - 1) ** 2 + (L + 1) ** 2),
        ("bco", 0.5, (logistic(0.5 * (W - 0.1)) + logistic(-0.5 * (L - 0.1))) / 2),
        ("lndpo", 0.5, logistic(0.5 * (W / 2 - L / 2))),
        # Both pairs are alike but for the reference's own margins, which AOT takes in order and not pair by pair.
        ("aot", 0.5, logistic(0.5 * (W - L))),
        ("aot_unpaired", 0.5, logistic(0.5 * (W - L))),
        ("kto", 0.5, (1 - sigmoid(0.5 * (W - 0.1)) + 1 - sigmoid(-0.5 * (L - 0.1))) / 2),
    ],
)
def test_values_by_hand(key, beta, expected) -> None:
    close(loss_of(key, **{"objective.beta": beta}), expected)


@pytest.mark.parametrize("key", ["kto", "bco", "aot_unpaired"])
def test_rows_on_no_side_are_neither_good_nor_bad(key) -> None:
    """Rows of a group that made no part of its pair: rank -1."""
    batch, more = ragged((2, 4, 3, 5)), ragged((2, 4, 3, 5, 6, 1))
    columns = {name: torch.cat([batch.row[name], torch.tensor([8, 9])]) for name in ("pair",)}
    more = more.with_rows({**columns, "rank": torch.cat([batch.row["rank"], torch.tensor([-1, -1])])})
    made = override(load(f"dpo:{key}"), {"objective.beta": 2.0})
    plain, found = (first_step(made, grids(), rows) for rows in (batch, more))
    assert float(plain.gradient.abs().max()) > 1e-3
    close(found.gradient, plain.gradient)
    close(found.round.metrics["loss/preference"], plain.round.metrics["loss/preference"])


def test_discopop_by_hand() -> None:
    z = 0.05 * (W - L)
    share = sigmoid(z / 0.05)
    close(loss_of("discopop"), logistic(z) * (1 - share) + math.exp(-z) * share)


def test_f_divergence_by_hand() -> None:
    def tilt(rho):
        return math.log(2) - math.log1p(math.exp(-rho))

    close(loss_of("fdpo", **{"objective.beta": 0.5}), logistic(0.5 * (tilt(W) - tilt(L))))
    forward = 0.5 * (math.exp(-L) - math.exp(-W))
    close(loss_of("fdpo_forward_kl", **{"objective.beta": 0.5}), logistic(forward))


def test_simpo_and_cpo_need_no_reference() -> None:
    """Means (SimPO, beta 2, gamma 1) and sums (CPO) of the policy's own log-probabilities."""
    batch = ragged((2, 2, 4, 4))
    logp = grid(0).logp.detach()[:4, :4]
    total = torch.where(batch.trained, logp, 0.0).sum(1)
    mean = total / batch.trained.sum(1)
    for key, margin in (("simpo", 2 * (mean[:2] - mean[2:]) - 1), ("cpo", 0.1 * (total[:2] - total[2:]))):
        done = first_step(load(f"dpo:{key}"), {"policy": grid(0)}, batch)
        close(done.round.metrics["loss/preference"], torch.nn.functional.softplus(-margin).mean())
        assert set(done.run.models) == {"policy"}
    assert done.round.metrics["loss/imitation"] > 0


def test_orpo_by_hand() -> None:
    """-log sigma(log odds ratio) of means per step, times 0.1, beside the likelihood of chosen steps."""
    batch = ragged((2, 2, 4, 4))
    logp = grid(0).logp.detach()[:4, :4]
    p = (torch.where(batch.trained, logp, 0.0).sum(1) / batch.trained.sum(1)).exp()
    odds = p / (1 - p)
    done = first_step(load("dpo:orpo"), {"policy": grid(0)}, batch)
    close(done.round.metrics["loss/preference"], 0.1 * torch.log1p(odds[2:] / odds[:2]).mean())
    close(done.round.metrics["loss/imitation"], -logp[:2, :2].mean())
    assert set(done.run.models) == {"policy"}


def test_odds_have_a_gradient_where_a_row_is_certain() -> None:
    found = log_odds(torch.tensor([0.0, -1e-9, -700.0]))
    assert bool(torch.isfinite(found).all())
    close(log_odds(torch.tensor([0.25]).log()), [math.log(1 / 3)])


def test_aot_orders_margins_and_log_ratios_apart() -> None:
    """Two pairs whose margins cross: 0.9 and 0.1 against the reference's 0.2 and 0.5; sorted, 0.1 meets 0.2."""
    batch, models = ragged((1, 1, 1, 1)), grids()
    with torch.no_grad():
        models["policy"].logp[:4, 0] = torch.tensor([-1.0, -1.0, -1.9, -1.1])
        models["reference"].logp[:4, 0] = torch.tensor([-1.0, -1.0, -1.2, -1.5])
    given = {"objective.beta": 1.0}
    done = first_step(override(load("dpo:aot"), given), models, batch)
    close(done.round.metrics["loss/preference"], (logistic(0.1 - 0.2) + logistic(0.9 - 0.5)) / 2)
    with torch.no_grad():  # log-ratios: good -0.3 and 0.7, others 0.4 and -0.6
        models["policy"].logp[:4, 0] = torch.tensor([-1.3, -0.3, -0.8, -2.1])
    done = first_step(override(load("dpo:aot_unpaired"), given), models, batch)
    close(done.round.metrics["loss/preference"], (logistic(-0.3 + 0.6) + logistic(0.7 - 0.4)) / 2)


def test_rows_of_no_pair_are_on_neither_side() -> None:
    batch, models = ragged((2, 2, 2, 2)), grids()
    part = load("dpo:aot_unpaired").objective[0].loss
    seen = SeenBatch(context(load("dpo:aot_unpaired"), models), batch)
    whole = part.plan(seen, batch).row
    less = part.plan(seen, with_row(batch, rank=[0, -1, 1, -1])).row
    assert less["_value"][[1, 3]].tolist() == less["_slope"][[1, 3]].tolist() == [0.0, 0.0]
    assert float(less["_slope"][0]) == -float(less["_slope"][2]) < 0
    assert float(whole["_slope"][1]) < 0 < float(whole["_slope"][3])


@pytest.mark.parametrize(
    "key", ["orpo", "aot", "aot_unpaired", "lndpo", "cdpo", "slic", "ipo", "apo_zero", "nca", "exo", "bco", "kto"]
)
def test_every_one_raises_the_chosen_above_the_rejected(key) -> None:
    """At the reference the gradient of the chosen row is below that of the rejected one, step by step."""
    batch = ragged((2, 2, 2, 2))
    found = first_step(load(f"dpo:{key}"), {"policy": grid(0)}, batch).gradient[:4, :2]
    assert bool((found[:2] < found[2:]).all())
