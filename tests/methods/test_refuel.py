"""REFUEL: `reduces_to` of specification 101."""

import pytest
import torch

from enumeration import Grades, first_step
from policyopt.compose import CompositionError
from policyopt.engines.plain import generate
from policyopt.evaluation.experiments.segments import Dialogue
from policyopt.methods import load
from policyopt.methods.refuel import relative_future
from policyopt.policies.tabular import Table
from policyopt.sampling.forks import ForkedTurns
from policyopt.train import _draw, _judge
from policyopt.worlds.sequences import SequenceWorld
from support import close, context, full_step, grid, grids, method, numbers, ragged, rewarded

pytestmark = pytest.mark.usefixtures("float64")

WORTH = [0.3, -0.4, 1.1, 0.2]  # groups: rows 0 and 2, rows 1 and 3


def gaps(batch, models):
    change = models["policy"].logp - models["old"].logp
    return torch.where(batch.trained, change[:4, :13], 0.0).sum(1)


@pytest.mark.parametrize("eta", [1.0, 2.0])
def test_it_is_the_squared_difference_of_the_paper(eta) -> None:
    batch, models = rewarded(ragged(), WORTH), grids()
    value, gradient = full_step(context(method(relative_future(eta)), models), batch)
    d = gaps(batch, models)
    loss = sum((d[i] - d[j] - eta * (WORTH[i] - WORTH[j])) ** 2 for i, j in ((0, 2), (1, 3))) / 2
    close(value, loss.detach())
    close(gradient, torch.autograd.grad(loss, models["policy"].logp)[0])


def test_at_the_anchor_it_is_four_times_leave_one_out_reinforce() -> None:
    """Gradient -2 eta (R - R') (grad log pi(y) - grad log pi(y')), per pair."""
    batch = ragged()
    found = first_step(load("refuel"), {"policy": grid(0)}, batch, Grades(WORTH)).gradient
    better = torch.tensor([WORTH[0] - WORTH[2], WORTH[1] - WORTH[3]]).repeat(2)
    slope = -2 * better * torch.tensor([1.0, 1.0, -1.0, -1.0]) / 2
    close(found[:4, :13], torch.where(batch.trained, slope[:, None], 0.0))


def test_a_constant_in_both_rewards_changes_nothing() -> None:
    def moved(shift):
        worth = [x + shift for x in WORTH]
        return first_step(load("refuel"), {"policy": grid(0)}, ragged(), Grades(worth)).gradient

    close(moved(0.0), moved(7.0))


def world(limit=3):
    chance = torch.full((2, 3, 2), 0.5)
    return Dialogue(SequenceWorld(50, 3, limit, lambda pair, task: pair[:, 1].double()), chance)


def forks(part, limit=3):
    models = {"policy": Table(numbers(2 * limit, 3)), "first": Table(numbers(2 * limit, 3, seed=1))}
    ctx = context(method(sampling=part), models, world(limit), generate)
    return part(ctx, _draw(ctx), _judge(ctx))


def test_forks_share_what_comes_before_their_turn_and_train_that_turn_alone() -> None:
    batch = forks(ForkedTurns())
    assert batch.trained.sum(1).tolist() == [1] * len(batch)
    turn = batch.trained.long().argmax(1)
    assert set(turn.tolist()) == {0, 1, 2}
    for one in batch.row["group"].unique():
        first, second = (batch.row["group"] == one).nonzero()[:, 0].tolist()
        at = int(turn[first])
        assert at == int(turn[second])
        for name in ("_step", "_state"):
            upto = at if name == "_step" else at + 1
            assert batch.step[name][first, :upto].tolist() == batch.step[name][second, :upto].tolist()
    assert bool(batch.done.all())


def test_futures_are_independent() -> None:
    """The user answers the forks of a row differently, about as often as at random."""
    batch = forks(ForkedTurns())
    early = batch.trained[:, 0]
    state = batch.step["_state"][early, 1].view(-1, 2)
    assert 0.2 < float((state[:, 0] != state[:, 1]).double().mean()) < 0.9


def test_the_last_turn_and_one_turn_rows() -> None:
    assert bool(forks(ForkedTurns(turn="last", by="first")).trained[:, 2].all())
    assert bool(forks(ForkedTurns(), limit=1).trained[:, 0].all())  # one turn: REBEL's pairs
    with pytest.raises(CompositionError):
        ForkedTurns(turn="first")  # pyright: ignore[reportArgumentType]
