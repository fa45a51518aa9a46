"""PF-PPO: `reduces_to` of specification 118, each identity a test."""

import math
from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from enumeration import Grades, first_step
from policyopt.compose import CompositionError
from policyopt.methods import load
from policyopt.selection.ranked import RankFiltered, explained, rank_weights
from policyopt.selection.tasks import EveryRow
from support import close, context, grids, method, numbers, ragged, rewarded, with_row

pytestmark = pytest.mark.usefixtures("float64")

REWARDS = [0.5, 0.9, -2.0, 0.9, 1.5, 0.1]
GROUP = (3, 8, 3, 8, 3, 8)


def six(**columns):
    return rewarded(with_row(ragged((1, 2, 3, 2, 1, 4), tools=False), group=GROUP, **columns), REWARDS)


def weights(rule, scored=(1,) * 6):
    return rank_weights(torch.tensor(REWARDS), torch.tensor(GROUP), torch.tensor(scored).bool(), rule)


def test_weights_by_hand() -> None:
    """Group 3: rows 0, 2, 4; group 8: rows 1, 3 (equal and best) and 5."""
    close(weights("best"), [0, 1, 0, 0, 1, 0])
    close(weights("best_worst"), [0, 1, 1, 0, 1, 1])
    close(weights("best_random"), [0.1, 0.4, 0.1, 0.1, 0.4, 0.1])
    close(weights("power"), [x * x for x in REWARDS])
    close(weights("all"), [1] * 6)
    close(weights("best_worst", (1, 0, 1, 1, 0, 1)), [1, 0, 1, 1, 0, 1])


def kept(part, batch, seed=0):
    return part(context(method(), grids(), seed=seed), batch).row["_row"].tolist()


def test_kept_sets_are_the_rows_with_a_weight() -> None:
    assert kept(RankFiltered("best_worst", resampled=False), six()) == [1, 2, 4, 5]
    assert kept(RankFiltered("best", resampled=False), six()) == [1, 4]
    assert kept(RankFiltered("all", resampled=False), six()) == list(range(6))
    found = {tuple(kept(RankFiltered("best_random", resampled=False), six(), seed)) for seed in range(25)}
    assert found == {tuple(sorted((1, 4, a, b))) for a in (0, 2) for b in (3, 5)}


def test_draws_follow_the_weights_over_the_whole_round() -> None:
    many = six()[torch.arange(6).repeat(400)]
    many = many.with_rows({"group": many.row["group"] + 100 * torch.arange(400).repeat_interleave(6)})
    for rule in ("best_random", "power", "best_worst"):
        drawn = torch.tensor(kept(RankFiltered(rule), many))
        assert len(drawn) == 400 * int((weights(rule) > 0).sum())
        share = torch.bincount(drawn, minlength=6) / len(drawn)
        close(share, weights(rule) / weights(rule).sum(), 0.03)


def test_uniform_weights_kept_are_ppo() -> None:
    batch = six()
    made = replace(load("pf_ppo"), update=load("ppo").update)
    plain = replace(made, selection=replace(made.selection, rows=EveryRow()))
    every = replace(made, selection=replace(made.selection, rows=RankFiltered("all", resampled=False)))
    ours, theirs = (first_step(m, grids(), batch, Grades(REWARDS)).gradient for m in (every, plain))
    close(ours, theirs)
    assert float(ours.abs().max()) > 1e-3


def test_groups_of_two_with_best_and_worst_are_all_rows() -> None:
    batch = with_row(six(), group=(1, 2, 3, 1, 2, 3))
    assert kept(RankFiltered("best_worst", resampled=False), batch) == list(range(6))


def test_advantages_are_those_of_all_rows() -> None:
    """Credit comes before the filter: statistics are of the whole round."""
    done = first_step(load("pf_ppo"), grids(), six(), Grades(REWARDS)).round
    assert len(done.credited) == 6
    assert len(done.kept) == 4
    rows = done.kept.row["_row"]
    close(done.kept.step["advantage"], done.credited.step["advantage"][rows])


@settings(max_examples=10)
@given(st.integers(0, 200))
def test_r_squared_against_the_least_squares_line(seed: int) -> None:
    x, y, w = numbers(9, seed=seed), numbers(9, seed=seed + 1), numbers(9, seed=seed + 2).exp()
    mean = [float((w * v).sum() / w.sum()) for v in (x, y)]
    slope = sum(float(c) * (float(a) - mean[0]) * (float(b) - mean[1]) for a, b, c in zip(x, y, w, strict=True))
    slope /= sum(float(c) * (float(a) - mean[0]) ** 2 for a, c in zip(x, w, strict=True))
    residual = sum(
        float(c) * (float(b) - mean[1] - slope * (float(a) - mean[0])) ** 2 for a, b, c in zip(x, y, w, strict=True)
    )
    whole = sum(float(c) * (float(b) - mean[1]) ** 2 for b, c in zip(y, w, strict=True))
    assert explained(x, y, w) == pytest.approx(1 - residual / whole, abs=1e-10)
    assert explained(x, y, 3 * w) == pytest.approx(explained(x, y, w))


def test_extremes_explain_more_where_the_middle_is_noisy_and_less_where_noise_is_wide() -> None:
    rng = torch.Generator().manual_seed(0)
    score = 4 * torch.rand(400 * 8, generator=rng) - 2
    group = torch.arange(400).repeat_interleave(8)
    known = torch.ones(len(group), dtype=torch.bool)
    found = {}
    for width, noise in ((1.2, 0.9), (math.inf, 1.5)):
        reward = score + noise * torch.exp(-((score / width) ** 2)) * torch.randn(len(group), generator=rng)
        for rule in ("all", "best_worst", "best_random", "best"):
            found[rule] = explained(reward, score, rank_weights(reward, group, known, rule))
        assert width != 1.2 or found["best"] < 0.35
        if width == 1.2:
            assert found["best_worst"] > found["best_random"] + 0.02
            assert found["best_worst"] > found["all"] + 0.03


def test_refusals_and_rounds_without_a_scored_row() -> None:
    with pytest.raises(CompositionError, match="power"):
        RankFiltered("power", resampled=False)
    assert kept(RankFiltered(), six(scored=(0,) * 6)) == []
