"""T-PPO: `reduces_to` of specification 10, each identity a test."""

import itertools
from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from policyopt.compose import Program, Stage
from policyopt.credit.critics import HeldAdvantage
from policyopt.credit.returns import GeneralisedAdvantage, ReturnToGo
from policyopt.engines.plain import generate
from policyopt.methods import load
from policyopt.options import override
from policyopt.policies.tabular import Table
from policyopt.run import Run
from policyopt.sampling.windows import POOL, Windows
from policyopt.train import rounds
from policyopt.types import Finish
from policyopt.worlds.sequences import SequenceWorld
from support import close, context, grids, method, numbers, ragged, with_row

pytestmark = pytest.mark.usefixtures("float64")

RUNNING = int(Finish.RUNNING)


def credit(part, batch):
    return part(context(method(), grids()), batch).step


def paid(batch):
    return batch.with_steps({"reward": torch.where(batch.valid, batch.step["reward"], 0.0)})


@settings(max_examples=15)
@given(st.integers(0, 20), st.floats(0, 1), st.floats(0, 1))
def test_on_rows_that_have_ended_it_is_generalised_advantage(seed: int, gamma: float, lam: float) -> None:
    batch = paid(ragged(seed=seed))
    found = credit(HeldAdvantage(gamma, lam), batch)
    assert torch.equal(found["advantage"], credit(GeneralisedAdvantage(gamma, lam, whitened=False), batch)["advantage"])
    close(found["return"], credit(ReturnToGo(gamma), batch)["return"])


def test_a_row_that_goes_on_is_worth_its_last_state() -> None:
    """gamma = lam = 1 without rewards: A_t = V(s_l-1) - V(s_t), 0 on the last step."""
    batch = with_row(paid(ragged((3, 5), tools=False)), finish=[RUNNING, RUNNING])
    batch = batch.with_steps({"reward": torch.zeros(2, 5)})
    found = credit(HeldAdvantage(1.0, 1.0), batch)["advantage"]
    values = grids()["critic"].values.detach()
    for b, length in enumerate((3, 5)):
        close(found[b, :length], values[b, length - 1] - values[b, :length])
        assert abs(float(found[b, length - 1])) < 1e-12


def test_a_hard_limit_is_an_end() -> None:
    batch = with_row(paid(ragged((3,), tools=False)), finish=[int(Finish.TRUNCATED)])
    found = credit(HeldAdvantage(1.0, 1.0), batch)["advantage"]
    values = grids()["critic"].values.detach()
    close(found[0, 2], batch.step["reward"][0, 2] - values[0, 2])


def world() -> SequenceWorld:
    """Up to 7 symbols, 0 ends."""
    return SequenceWorld(3, 3, 7, lambda strings, task: (strings == task[:, None]).double().sum(1) / 7, end=0)


def runs(steps: int, count: int, **changes):
    given_ = {"selection.count": 6, "sampling.steps": steps, "update.minibatches": 1, "update.epochs": 1}
    rates = {"update.optimizers.policy.learning_rate": 0.05, "update.optimizers.critic.learning_rate": 0.05}
    made = override(load("t_ppo"), {**given_, **rates, **changes})
    run = Run({"policy": Table(numbers(21, 3, seed=1))}, world(), generate)
    return made, run, list(rounds(run, Program((Stage(made, count),))))


def test_a_window_as_long_as_any_row_is_ppo_with_monte_carlo_values() -> None:
    made, run, done = runs(7, 3)
    assert all(bool(d.judged.done.all()) and bool(d.judged.step["fresh"].eq(d.judged.own).all()) for d in done)
    ppo = replace(made, sampling=replace(load("ppo").sampling, size=1))
    terms = tuple(replace(term, mask=load("ppo").objective[0].mask) for term in made.objective)
    other = Run({"policy": Table(numbers(21, 3, seed=1))}, world(), generate)
    list(rounds(other, Program((Stage(replace(ppo, objective=terms), 3),))))
    for name in ("policy", "critic"):
        for mine, theirs in zip(run.models[name].parameters(), other.models[name].parameters(), strict=True):
            close(mine, theirs, 0.0)


def test_rows_go_on_where_they_stopped_with_the_log_probabilities_they_had() -> None:
    _, run, done = runs(2, 6)
    groups: dict[int, list] = {}
    for d in done:
        assert len(d.judged) == 6
        assert int(d.judged.step["fresh"].sum(1).max()) <= 2
        for b, group in enumerate(d.judged.row["group"].tolist()):
            own = d.judged.own[b]
            groups.setdefault(group, []).append(
                (d.judged.step["_step"][b][own].tolist(), d.judged.step["behaviour"][b][own], d.judged, b)
            )
    assert max(map(len, groups.values())) > 1
    for history in groups.values():
        for (before, logp, judged, b), (after, later, _, _) in itertools.pairwise(history):
            assert int(judged.row["finish"][b]) == RUNNING
            assert after[: len(before)] == before
            assert len(after) > len(before)
            close(later[: len(before)], logp, 0.0)
    assert sum(map(len, run.cells[POOL.name])) == int((~done[-1].judged.done).sum())


def test_unfinished_rows_are_paid_nothing_and_train_no_critic() -> None:
    _, _, done = runs(2, 1)
    judged = done[0].judged
    open_rows = ~judged.done
    assert 0 < int(open_rows.sum()) < 6
    close(judged.step["reward"][open_rows], torch.zeros(int(open_rows.sum()), judged.steps))
    ended = judged.step["reward"][~open_rows].sum(1).mean()
    assert done[0].metrics["reward_finished"] == pytest.approx(float(ended))
    assert done[0].metrics["reward"] == pytest.approx(float(ended) * float((~open_rows).double().mean()))
    made, run, _ = runs(1, 1)  # the end symbol may come at once, in some rows
    first = runs(1, 1)[2][0].judged
    critic = run.models["critic"].values.detach()
    trained = set(first.step["_state"][first.done][first.own[first.done]].tolist())
    assert {int(s) for s in critic.nonzero()[:, 0]} <= trained
    assert made.sampling == Windows(1)


class Reluctant(SequenceWorld):
    """It can not grade what has not ended."""

    def grade(self, batch):
        return torch.where(batch.done, super().grade(batch), torch.nan)


def test_a_grader_that_says_nothing_of_half_a_row_takes_no_step_of_it_away() -> None:
    """Neither now nor when the row has ended."""
    made = override(load("t_ppo"), {"selection.count": 6, "sampling.steps": 2, "update.minibatches": 1})
    found = []
    for kind in (SequenceWorld, Reluctant):
        given_ = kind(3, 3, 7, lambda strings, task: (strings == task[:, None]).double().sum(1) / 7, end=0)
        run = Run({"policy": Table(numbers(21, 3, seed=1))}, given_, generate)
        found.append(list(rounds(run, Program((Stage(made, 4),)))))
    for plain, reluctant in zip(*found, strict=True):
        assert bool((~plain.judged.done).any())
        for name in ("train", "fresh", "reward"):
            close(reluctant.judged.step[name].double(), plain.judged.step[name].double())
        close(reluctant.credited.step["advantage"], plain.credited.step["advantage"])


def test_only_the_steps_of_the_window_train_the_policy() -> None:
    _, _, done = runs(3, 4)
    for d in done[1:]:
        own = int(d.kept.trained.sum())
        fresh = int((d.kept.trained & d.kept.step["fresh"]).sum())
        assert 0 < fresh < own
