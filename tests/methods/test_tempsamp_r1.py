"""TempSamp-R1: `reduces_to` of specification 158, each identity a test."""

import math
from dataclasses import replace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from enumeration import Grades, first_step
from policyopt.compose import Chain, CompositionError
from policyopt.credit.given import OfOwnRows
from policyopt.credit.groups import GroupStandardised
from policyopt.methods import load
from policyopt.ops.sequences import total_reward
from policyopt.reward.parts import Verified
from policyopt.reward.shaped import AsymmetricShaping, CappedGiven
from policyopt.types import Source
from support import close, context, grid, grids, method, ragged, rewarded, with_row

pytestmark = pytest.mark.usefixtures("float64")

GRADES = [0.1, 0.4, 0.0, 0.85, 0.3, 0.7, 1.0, 1.0]


def eight(source):
    batch = ragged((1, 2, 7, 13, 3, 5, 4, 2))
    return with_row(batch, group=(1, 2) * 4, source=source)


def test_without_injection_and_shaping_it_is_grpo() -> None:
    made = replace(load("tempsamp_r1"), reward=Verified())
    grpo = replace(load("grpo"), constraint=(), credit=made.credit)
    found = first_step(made, {"policy": grid(0)}, eight([0] * 8), Grades(GRADES)).gradient
    expected = first_step(grpo, {"policy": grid(0)}, eight([0] * 8), Grades(GRADES)).gradient
    assert float(expected.abs().max()) > 1e-2
    close(found, expected)


def test_the_ground_truth_is_one_more_row_of_the_group() -> None:
    """Mean, deviation and loss are over own rows and the injected one; at the old policy its ratio is 1 too."""
    batch = eight([0] * 6 + [int(Source.DATASET)] * 2)
    done = first_step(load("tempsamp_r1"), {"policy": grid(0)}, batch, Grades(GRADES))
    shaped = AsymmetricShaping().shaped(torch.tensor(GRADES))
    for rows in ([0, 2, 4, 6], [1, 3, 5, 7]):
        f = shaped[rows]
        close(done.advantage[rows], (f - f.mean()) / (f.std() + 1e-4))
    count = batch.trained.sum(1)
    expected = torch.where(batch.trained, -(done.advantage / count)[:, None] / 8, 0.0)
    close(done.gradient[:8, :13], expected)


def test_the_shaping_is_continuous_with_the_stated_slopes() -> None:
    part = AsymmetricShaping()
    close(part.shaped(torch.tensor([0.8])), [0.8])
    near = part.shaped(torch.tensor([0.8 - 1e-7, 0.8 + 1e-7]))
    close((0.8 - near[0]) / 1e-7, 1 / (math.e - 1), 1e-5)
    close((near[1] - 0.8) / 1e-7, 0.01, 1e-5)
    close(part.shaped(torch.tensor([1.0, 0.0])), [0.8 + 0.01 * math.log(1.2), 0.8 - (math.exp(0.8) - 1) / (math.e - 1)])


@given(st.floats(0, 1), st.floats(0, 1), st.floats(0.2, 3.0))
def test_the_shaping_keeps_the_order(a: float, b: float, alpha: float) -> None:
    low, high = AsymmetricShaping(alpha=alpha).shaped(torch.tensor([min(a, b), max(a, b)])).tolist()
    assert low <= high


def test_unscored_rows_and_rewards_along_the_way() -> None:
    """The sum is shaped, on the last own step; a row whose grade is unknown stays as it is."""
    batch = rewarded(with_row(ragged((1, 2, 3)), scored=(1, 1, 0)), [0.2, 0.9, 0.4])
    found = AsymmetricShaping()(None, batch).step["reward"]
    shaped = AsymmetricShaping().shaped(torch.tensor([0.2, 0.9]))
    close(found[0, 0], shaped[0])
    close(found[1], torch.stack([torch.tensor(0.9), shaped[1] - 0.9, torch.tensor(0.0)]))
    close(found[2], [0.4, 0.0, 0.0])


def test_shaping_spreads_own_rows_beside_a_perfect_one() -> None:
    """One row of 1.0 beside small ones: shaped, more own rows are above the mean."""
    batch = eight([0] * 6 + [int(Source.DATASET)] * 2)
    plain = replace(load("tempsamp_r1"), reward=Chain((Verified(),)))
    grades = [0.6, 0.0, 0.55, 0.5, 0.1, 0.1, 1.0, 1.0]
    above = []
    for made in (load("tempsamp_r1"), plain):
        done = first_step(made, {"policy": grid(0)}, batch, Grades(grades))
        above.append(int((done.advantage[:6] > 0).sum()))
    assert above[0] > above[1]
    with pytest.raises(CompositionError):
        AsymmetricShaping(alpha=0.0)


def test_variants_of_the_paper_bound_what_the_ground_truth_counts() -> None:
    """Its reward is capped, or its advantage is 1.2 times the best own one of its group."""
    batch = rewarded(with_row(eight([0] * 6 + [int(Source.DATASET)] * 2)), GRADES)
    capped = CappedGiven(0.6)(None, batch).step["reward"]
    close(total_reward(batch.with_steps({"reward": capped})), [*GRADES[:6], 0.6, 0.6])
    credited = OfOwnRows(GroupStandardised(), best=1.2)(context(method(), grids()), batch).step["advantage"][:, 0]
    own = GroupStandardised()(context(method(), grids()), batch[torch.arange(6)]).step["advantage"][:, 0]
    close(credited[:6], own)
    close(credited[6:], 1.2 * torch.stack([own[[0, 2, 4]].max(), own[[1, 3, 5]].max()]))
