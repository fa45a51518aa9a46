"""PPO-max: `reduces_to` of specification 33, each identity a test."""

import math
from dataclasses import replace
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from enumeration import Grades, first_step
from policyopt.compose import Chain, Program, Stage, Term
from policyopt.credit.returns import GeneralisedAdvantage
from policyopt.engines.plain import generate
from policyopt.methods import load
from policyopt.objective.supervised import NegativeLogLikelihood
from policyopt.objective.value import SquaredValueError
from policyopt.ops.sequences import last_own
from policyopt.options import override
from policyopt.policies.tabular import Table
from policyopt.reward.dense import SCORES, RunningScore, merged
from policyopt.reward.parts import ReferencePenalty, Verified
from policyopt.run import Run
from policyopt.train import rounds
from policyopt.types import Batch, Round
from policyopt.update.apart import Rehearsal, update_apart
from policyopt.update.averaging import TokenMean
from policyopt.update.gradient import GradientSteps
from policyopt.update.optimizers import SGD
from policyopt.worlds.sequences import SequenceWorld
from support import close, context, full_step, grids, method, numbers, ragged, rewarded, with_row

pytestmark = pytest.mark.usefixtures("float64")

GRADES = [0.5, 2.0, -1.0, 4.0]


def bare():
    """Everything of its own off."""
    made = load("ppo_max")
    terms = tuple(replace(t, loss=SquaredValueError()) if t.name == "value" else t for t in made.objective)
    score = RunningScore(centred=False, scaled=False, bound=None)
    reward = Chain((Verified(), score, ReferencePenalty(0.0)))
    credit = Chain((GeneralisedAdvantage(1.0, 0.95, whitened=False),))
    return replace(made, reward=reward, credit=credit, objective=terms)


def unpaid():
    return rewarded(ragged(), [0.0] * 4)


def test_with_everything_off_it_is_ppo() -> None:
    ppo = replace(load("ppo"), constraint=(), credit=GeneralisedAdvantage(1.0, 0.95, whitened=False))
    for model, table in (("policy", "logp"), ("critic", "values")):
        found = first_step(bare(), grids(), unpaid(), Grades(GRADES), model=model, table=table).gradient
        assert float(found.abs().max()) > 1e-3
        close(found, first_step(ppo, grids(), unpaid(), Grades(GRADES), model=model, table=table).gradient)


def test_an_infinite_value_clip_is_the_plain_error() -> None:
    batch, models = ragged(), grids()
    made = method(Term("v", SquaredValueError(clip=1e9), TokenMean(), trains="critic"))
    plain = method(Term("v", SquaredValueError(), TokenMean(), trains="critic"))
    found, slope = full_step(context(made, models), batch, model="critic")
    expected, expected_slope = full_step(context(plain, grids()), batch, model="critic")
    close(found, expected)
    close(slope, expected_slope)


def test_scores_by_hand_over_two_rounds() -> None:
    """2 and 4, then 6: mean 4, std 2."""
    ctx, part = context(method(), grids()), RunningScore(bound=0.9)
    first = part(ctx, rewarded(ragged((2, 1)), [2.0, 4.0]))
    close(first.step["reward"].sum(1), [-1 / math.sqrt(2), 1 / math.sqrt(2)])
    part.after(ctx, Round(first, first, first, {}))
    second = part(ctx, rewarded(ragged((3,)), [6.0]))
    close(second.step["reward"], [[0.0, 0.0, 0.9]])
    close(second.row["score"], [6.0])
    assert ctx[SCORES]["count"] == 2.0


@pytest.mark.parametrize("score", [0.1, 0.7, -2.3])
def test_equal_scores_have_no_spread(score: float) -> None:
    """The rounded mean of 37 equal scores must not make a deviation of 1 of them, nor 10 of a score."""
    batch = rewarded(ragged((1,) * 37), [score] * 37)
    for centred, expected in ((True, 0.0), (False, score)):
        found = RunningScore(centred=centred)(context(method(), grids()), batch)
        close(found.step["reward"], torch.full((37, 1), expected))


@given(st.lists(st.floats(-100, 100), min_size=2, max_size=12), st.integers(1, 11))
def test_merged_moments_are_those_of_all_numbers(values: list[float], cut: int) -> None:
    every = torch.tensor(values, dtype=torch.float64)
    found = merged(merged(merged({"count": 0.0, "mean": 0.0, "squares": 0.0}, every[:cut]), every[cut:]), every[:0])
    assert found["count"] == len(values)
    assert found["mean"] == pytest.approx(float(every.mean()), abs=1e-9)
    assert found["squares"] == pytest.approx(float(((every - every.mean()) ** 2).sum()), abs=1e-6)


def test_reward_is_a_charge_a_step_and_the_score_on_the_last() -> None:
    batch, models = with_row(unpaid(), scored=[True] * 4), grids()
    done = first_step(load("ppo_max"), models, batch, Grades(GRADES)).round.judged
    reference = grids()["reference"].logp.detach()[:4, :13]
    grades = torch.tensor(GRADES)
    score = (grades - grades.mean()) / grades.std()
    expected = -0.02 * (batch.step["behaviour"] - reference) + torch.where(last_own(batch), score[:, None], 0.0)
    close(done.step["reward"][batch.own], expected[batch.own])


def test_returns_are_of_raw_advantages_and_advantages_are_clipped_after_whitening() -> None:
    done = first_step(load("ppo_max"), grids(), unpaid(), Grades(GRADES)).round
    raw = GeneralisedAdvantage(1.0, 0.95)(context(method(), grids()), done.judged)
    close(done.credited.step["return"], raw.step["return"])
    close(done.credited.step["advantage"], raw.step["advantage"].clamp(-0.5, 0.5))
    assert float(raw.step["advantage"].abs().max()) > 0.5


def world() -> SequenceWorld:
    shown = torch.tensor([[0, 1], [1, 1]])
    return SequenceWorld(2, 3, 2, lambda strings, task: strings.double().sum(1), recordings=shown)


def test_the_critic_is_warmed_up_in_a_stage_of_its_own() -> None:
    """The policy does not move; the critic that the next stage finds is the trained one."""
    changes = {"selection.count": 4, "update.minibatches": 1}
    warm = override(load("ppo_max:ppo_max_critic"), {**changes, "update.learning_rate": 0.1})
    main = override(load("ppo_max"), changes)
    run = Run({"policy": Table(numbers(4, 3))}, world(), generate)
    done = rounds(run, Program((Stage(warm, 2), Stage(main, 1))))
    next(done), next(done)
    close(run.models["policy"].logits, numbers(4, 3), 0.0)
    trained = run.models["critic"].values.detach().clone()
    assert float(trained.abs().max()) > 0.01
    next(done)
    close(run.models["critic"].values, trained, 1e-4)


def test_recorded_rows_are_rehearsed_before_a_round() -> None:
    """One plain step on the likelihood of both recordings, by hand."""
    term = Term("recorded", NegativeLogLikelihood(), TokenMean())
    ctx = context(method(term), {"policy": Table(torch.zeros(4, 3))}, world())
    Rehearsal((term,), GradientSteps({"policy": SGD(3.0)}, clip_norm=None), count=2)(ctx)
    # Every position's likelihood has weight 1/4: slope (onehot - 1/3) / 4.
    expected = [[0.5, -0.25, -0.25], [-0.25, 0.5, -0.25], [-0.25, 0.5, -0.25], [-0.25, 0.5, -0.25]]
    close(ctx.models["policy"].logits, expected)
    with pytest.raises(ValueError, match="critic"):
        update_apart(ctx, ragged(), [replace(term, trains="critic")], GradientSteps({"policy": SGD(1.0)}))
    mixed = load("ppo_max:ppo_max_mixed")
    assert mixed.before[0].count == 32


def test_every_recording_is_rehearsed_once_an_epoch() -> None:
    """Rounds draw 5 of 6 tasks and rehearse 2: three rounds rehearse all 6, not the first of what the rounds draw."""
    shown, rehearsed = torch.tensor([[n // 2, n % 2] for n in range(6)]), []

    class Spy(GradientSteps):
        def __call__(self, ctx: Any, batch: Batch) -> None:
            rehearsed.extend(batch.row["task"].tolist())

    inner = SequenceWorld(6, 3, 2, lambda strings, task: strings.double().sum(1), recordings=shown)
    made = override(load("ppo_max"), {"selection.count": 5, "update.minibatches": 1})
    made = replace(made, before=(Rehearsal((), Spy(), count=2),))
    list(rounds(Run({"policy": Table(numbers(13, 3))}, inner, generate), Program((Stage(made, 3),))))
    assert sorted(rehearsed) == list(range(6))
