"""PSPO*: `reduces_to` of specification 98."""

import math

import pytest
import torch

from enumeration import first_step
from policyopt.compose import CompositionError
from policyopt.methods import load
from policyopt.ops.sequences import total_reward
from policyopt.options import override
from policyopt.reward.steps import ShapedChain
from said import Said
from support import close, context, grids, method, ragged

pytestmark = pytest.mark.usefixtures("float64")

SCORES = torch.tensor([0.9, 0.5, 0.7, 1.0, 1.0, 1.0, 0.8, 0.95, 0.6, 0.9, 0.85, 0.99, 0.75])
JUDGED = SCORES.expand(4, -1)


def mean(b: int) -> tuple[float, int]:
    """Geometric mean and number of the scores of a row's own steps."""
    own = [float(SCORES[t]) for t in ragged().own[b].nonzero()[:, 0].tolist()]
    return math.prod(own) ** (1 / len(own)), len(own)


def stepped(made, judged=JUDGED):
    old = grids()["old"].logp.detach()[:4, :13]
    return first_step(made, grids(), ragged(), Said(judge_steps=judged, grade=[0.0] * 4), old=old)


def test_without_a_factor_it_is_ppo_on_the_geometric_mean() -> None:
    found = stepped(override(load("pspo_wrs"), {"reward.factor": "flat"}))
    grades = [0.0, *(mean(b)[0] for b in (1, 2, 3))]  # a chain of one step gets nothing
    close(total_reward(found.round.judged), grades)
    old = grids()["old"].logp.detach()[:4, :13]
    ppo = first_step(load("ppo"), grids(), ragged(), Said(grade=grades), old=old)
    close(found.gradient, ppo.gradient)
    assert float(found.gradient.abs().max()) > 1e-2


def test_short_chains_grow_with_every_step() -> None:
    m, n = mean(1)
    done = stepped(load("pspo_wrs"))
    close(total_reward(done.round.judged)[1], m**2 * math.exp(0.5 * n))
    assert n == 2
    assert float(total_reward(done.round.judged)[0]) == 0.0


def test_the_reward_does_not_depend_on_the_order_of_the_scores() -> None:
    own = ragged().own[3].nonzero()[:, 0]
    turned = JUDGED.clone()
    turned[3, own] = JUDGED[3, own].flip(0)
    one, other = stepped(load("pspo_wrs")), stepped(load("pspo_wrs"), turned)
    close(total_reward(one.round.judged), total_reward(other.round.judged))


@pytest.mark.parametrize(("m", "first", "last"), [(0.1, 0.074, 0.015), (0.5, 1.85, 3.1), (0.95, 6.7, 33.0)])
def test_long_chains_decay_stay_or_grow(m, first, last) -> None:
    """The specification's numbers of R from 4 to 20 steps."""
    n = torch.tensor([4.0, 20.0])
    quality = torch.full((2,), m)
    worth = (quality * ShapedChain().weight(quality, n)).tolist()
    assert worth == pytest.approx([first, last], rel=0.03)


def test_jumps_of_the_released_factor() -> None:
    """At 20 steps R jumps by a factor 4.9 at m = 0.2 and 1.47 at m = 0.88433."""
    n = torch.full((4,), 20.0)
    m = torch.tensor([0.2 - 1e-9, 0.2, 0.88433, 0.88433 + 1e-9])
    worth = m * ShapedChain().weight(m, n)
    assert float(worth[1] / worth[0]) == pytest.approx(4.9, rel=0.02)
    assert float(worth[3] / worth[2]) == pytest.approx(1.47, rel=0.02)


def test_a_cap_bounds_long_chains_and_best_lengths_are_the_computed_ones() -> None:
    m, n = torch.full((40,), 0.95), torch.arange(1.0, 41.0)
    ctx = context(method(), grids(), Said(judge_steps=torch.full((2, 30), 0.95)))
    rows = ragged((6, 30), tools=False)
    found = total_reward(ShapedChain(most=10)(ctx, rows))
    close(found[1], 0.95 * float(ShapedChain().weight(m[:1], n[9:10])))
    for fall, best in ((0.03, 20), (0.05, 10), (0.1, 4), (0.4, 4)):
        quality = [math.prod(0.98 * math.exp(-fall * j) for j in range(k)) ** (1 / k) for k in range(1, 21)]
        worth = torch.tensor(quality) * ShapedChain().weight(torch.tensor(quality), torch.arange(1.0, 21.0))
        worth[0] = 0.0
        assert int(worth.argmax()) + 1 == best, fall
    with pytest.raises(CompositionError, match="at least 2"):
        ShapedChain(most=1)
