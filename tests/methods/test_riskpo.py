"""RiskPO: `reduces_to` of specification 39, each identity a test."""

from dataclasses import replace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from enumeration import Grades, first_step
from policyopt.compose import CompositionError
from policyopt.credit.risk import QUANTILES, RiskAdvantage, mixed_value_at_risk
from policyopt.methods import load
from policyopt.types import Round
from support import close, context, grid, grids, method, numbers, ragged, rewarded, with_row

pytestmark = pytest.mark.usefixtures("float64")

GROUPS = [5, 2, 9] * 4
REWARDS = [1.0, 0.0, 0.5, 0.0, 1.0, 0.25, 1.0, 1.0, 0.75, 0.0, 0.0, 1.0]


def twelve(rewards=REWARDS):
    return rewarded(with_row(ragged((1, 2, 3, 4, 5, 2, 3, 1, 2, 6, 1, 2), tools=False), group=GROUPS), rewards)


def advantage(part, batch, held=None):
    ctx = context(method(), grids())
    if held:
        ctx[QUANTILES] = held
    return part(ctx, batch).step["advantage"][:, 0]


def test_without_tail_and_between_the_extremes_it_is_the_mean_objective() -> None:
    """w = 0, no natural baseline, lo = min S, hi = max S: (S - min S) / (beta - alpha)."""
    score = torch.tensor([0.0, 1.0, 2.5, 4.0])
    found = mixed_value_at_risk(score, 0.0, 4.0, 0.2, 0.8, 0.0, natural=False)
    close(found, score / 0.6)


def test_quantities_are_the_risk_measures_of_a_sample() -> None:
    """E[[S - lo]+ - [S - hi]+] = (beta - alpha) RVaR - (1 - alpha) lo + (1 - beta) hi and -E[[lo - S]+] / alpha =
    CVaR - lo, on the midpoints of the quantile function of a normal score."""
    u = (torch.arange(200000) + 0.5) / 200000
    score = torch.special.ndtri(u)
    alpha, beta = 0.2, 0.8
    low, high = float(torch.special.ndtri(torch.tensor(alpha))), float(torch.special.ndtri(torch.tensor(beta)))
    middle = mixed_value_at_risk(score, low, high, alpha, beta, 0.0, natural=False).mean() * (beta - alpha)
    between = score[(u >= alpha) & (u <= beta)].mean()
    close(middle, (beta - alpha) * between - (1 - alpha) * low + (1 - beta) * high, 1e-4)
    tail = mixed_value_at_risk(score, low, high, alpha, beta, 1e9, natural=False).mean()
    close(tail, score[u <= alpha].mean() - low, 1e-4)


def test_shares_of_a_paper_add_up_to_it() -> None:
    """sharing "share"; attempts k of the groups 2, 5, 9 are rows 3 k + 1, 3 k, 3 k + 2."""
    batch, held = twelve(), [0.8, 2.1]
    whole = advantage(RiskAdvantage(3, sharing="uniform"), batch, held)
    shared = advantage(RiskAdvantage(3, sharing="share"), batch, held)
    for k in range(4):
        close(shared[3 * k : 3 * k + 3].sum(), whole[3 * k], 1e-9)
        close(whole[3 * k : 3 * k + 3], whole[3 * k].expand(3))


@given(st.integers(0, 30))
def test_the_safe_form_has_the_sign_of_the_row_and_is_never_larger_than_its_paper(seed: int) -> None:
    rewards = (torch.rand(12, generator=torch.Generator().manual_seed(seed)) < 0.5).double()
    batch, held = twelve(rewards), [1.0, 2.0]
    whole = advantage(RiskAdvantage(3, sharing="uniform"), batch, held)
    safe = advantage(RiskAdvantage(3, sharing="absolute_share"), batch, held)
    ids = torch.tensor(GROUPS)
    ahead = torch.stack([rewards[b] - rewards[ids == ids[b]].mean() for b in range(12)])
    assert bool((safe * ahead >= 0).all())
    assert bool((safe.abs() <= whole.abs() + 1e-12).all())


def test_the_first_round_takes_its_own_quantiles_and_later_ones_are_tracked() -> None:
    """Papers of bundles of three: S = 1.5, 1.25, 2.75, 1.0."""
    part, ctx = RiskAdvantage(3, 0.25, 0.75, rate=0.1), context(method(), grids())
    rows = part(ctx, twelve())
    score = torch.tensor([1.0, 1.25, 1.5, 2.75])
    close(rows.row["paper_score"].unique(), score)
    assert not ctx[QUANTILES]
    part.after(ctx, Round(rows, rows, rows, {}))
    first = torch.quantile(score, torch.tensor([0.25, 0.75]))
    close(torch.tensor(ctx[QUANTILES]), first)
    part.after(ctx, Round(rows, rows, rows, {}))
    # Below 1.1875 lies one paper of four, below 1.8125 three: both are where they belong.
    close(torch.tensor(ctx[QUANTILES]), first)
    ctx[QUANTILES] = [1.1, 5.0]
    part.after(ctx, Round(rows, rows, rows, {}))
    close(torch.tensor(ctx[QUANTILES]), [1.1, 5.0 + 0.1 * (0.75 - 1.0)])


def test_a_tail_moves_weight_to_the_worst_papers() -> None:
    """The share of |A| that the worst fifth of the papers gets, against the mean objective."""
    score = 5 + numbers(1000, seed=1)
    low, high = (float(torch.quantile(score, level)) for level in (0.2, 0.8))
    worst = score <= low
    mixed = mixed_value_at_risk(score, low, high, 0.2, 0.8, 1.5, natural=True)
    plain = score - score.mean()
    share = [float(a.abs()[worst].sum() / a.abs().sum()) for a in (mixed, plain)]
    assert share[0] > share[1] + 0.05


def test_the_method_is_the_clipped_surrogate_on_these_advantages() -> None:
    made, batch = load("riskpo"), with_row(ragged((1, 2, 7, 13)), group=(1, 1, 2, 2))
    done = first_step(made, {"policy": grid(0)}, batch, Grades([1.0, 0.0, 1.0, 1.0]))
    plain = replace(made, credit=RiskAdvantage(sharing="uniform"))
    other = first_step(plain, {"policy": grid(0)}, batch, Grades([1.0, 0.0, 1.0, 1.0]))
    tokens = batch.trained.sum()
    close(done.gradient[:4, :13], torch.where(batch.trained, -done.advantage[:, None] / tokens, 0.0))
    # Group 1 has deviation sqrt(1/2); group 2 has none and divides by 1.
    close(done.advantage * torch.tensor([0.5**0.5 + 1e-6] * 2 + [1 + 1e-6] * 2), other.advantage)


def test_nothing_scored_and_options_out_of_range() -> None:
    batch = with_row(twelve(), scored=[0] * 12)
    close(advantage(RiskAdvantage(), batch), torch.zeros(12))
    for options in ({"size": 0}, {"alpha": 0.8}, {"tail": -1.0}, {"rate": 0.0}, {"sharing": "half"}):
        with pytest.raises(CompositionError):
            RiskAdvantage(**options)
