"""Sampling ahead of training: the fixed schedule of weights, bit for bit, and what can not be sampled ahead."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import resume_cases as cases
import torch
from test_resume import same

from policyopt.compose import RECORDED, Cell, Part, Program, Stage
from policyopt.methods import load
from policyopt.run import Past, Run, StageContext
from policyopt.runtime.ahead import Ahead, AheadError, SamplingLateError, check_ahead, corrected, weighs
from policyopt.runtime.checkpoint import load as load_state
from policyopt.runtime.checkpoint import save
from policyopt.runtime.invariants import Rules
from policyopt.runtime.session import Hooks, Session
from policyopt.runtime.watch import Watch
from policyopt.sampling.samplers import DynamicSampling
from policyopt.train import rounds, sample
from policyopt.types import Batch


def program(key: str) -> Program:
    first, second = cases.program(key).stages
    method = corrected(second.method)
    if key == "dapo":  # so few attempts are often equal: rounds draw different numbers of tasks
        method = replace(method, sampling=DynamicSampling(size=2))
    return Program((first, replace(second, method=method)))


def lagged(run: Run, program: Program, staleness: int) -> Iterator[dict[str, float]]:
    """The same schedule without threads: before every round of the method its rows are sampled by weights that were
    written down `staleness` rounds ago."""
    weights: dict[int, tuple[dict[str, Any], int]] = {}

    def sampled(ctx: StageContext) -> Batch:
        stage = program.at(run.step)
        if stage.method.sampling.data:
            return sample(ctx)
        policy = run.models["policy"]
        weights[run.step] = ({name: value.clone() for name, value in policy.state_dict().items()}, run.updates)
        before = max(stage.start, run.step - staleness)
        now = run.updates
        policy.load_state_dict(weights[before][0])
        run.updates = weights[before][1]
        judged = sample(ctx)
        policy.load_state_dict(weights[run.step][0])
        run.updates = now
        ctx.meter.add("staleness", run.step - before, 1)
        return judged

    for done in rounds(run, program, Watch(), sampled):
        yield dict(done.metrics)


@pytest.mark.parametrize(("key", "staleness"), [("grpo", 1), ("ppo", 3), ("dapo", 2)])
def test_rows_are_those_of_the_policy_so_many_rounds_ago(key: str, staleness: int) -> None:
    straight, run = cases.new_run(key), cases.new_run(key)
    expected = list(lagged(straight, program(key), staleness))
    with Ahead(run, program(key), staleness) as ahead:
        found = [dict(done.metrics) for done in rounds(run, program(key), Watch(), ahead)]
    assert same(found, expected)
    run.past = {}
    assert same(run.state(), straight.state())
    assert key != "dapo" or run.drawn > cases.COUNT * cases.SECOND
    assert [round_["staleness"] for round_ in found[cases.FIRST :]] == [min(n, staleness) for n in range(cases.SECOND)]


def test_goes_on_bitwise_after_a_restart(tmp_path: Path) -> None:
    made, staleness = program("ppo"), 2
    straight = cases.new_run("ppo")
    with Ahead(straight, made, staleness) as ahead:
        metrics = []
        for done in rounds(straight, made, Watch(), ahead):
            metrics.append(dict(done.metrics))
            save(straight.state(), tmp_path / f"{straight.step}.ckpt")
    for step in (cases.FIRST, cases.FIRST + 1, cases.FIRST + 4):
        run = cases.new_run("ppo")
        run.load_state(load_state(tmp_path / f"{step}.ckpt"), made)
        with Ahead(run, made, staleness) as ahead:
            found = [dict(done.metrics) for done in rounds(run, made, Watch(), ahead)]
        assert same(found, metrics[step:])
        assert same(run.state(), straight.state())


def test_a_session_in_a_folder_goes_on_bitwise(tmp_path: Path) -> None:
    def session(name: str) -> tuple[Session, Ahead]:
        run, made = cases.new_run("grpo"), program("grpo")
        found = Session(run, made, cases.folder(tmp_path, name), 3, hooks=Hooks(samples=cases.samples))
        found.sampled = ahead = Ahead(run, made, 2)
        return found, ahead

    straight, first = session("straight")
    with first:
        list(straight.rounds())
    stopped, second = session("stopped")
    with second:
        going = stopped.rounds()
        for _ in range(8):
            next(going)
        going.close()
    resumed, third = session("stopped")
    with third:
        list(resumed.rounds())
    assert same(resumed.run.state(), straight.run.state())
    assert resumed.folder.metrics.read_text() == straight.folder.metrics.read_text()


def test_training_and_sampling_move_at_the_same_time() -> None:
    """Round n + 1 is sampled while round n is trained: its sampler waits for the trainer's sign, and gets it."""
    run, made = cases.new_run("grpo"), program("grpo")
    trained, waited = threading.Event(), []
    engine = run.engine

    def waiting(*args: Any, **options: Any) -> Batch:
        if threading.current_thread() is not threading.main_thread() and run.step == cases.FIRST and trained_once:
            waited.append(trained.wait(10))
        trained_once.append(True)
        return engine(*args, **options)

    trained_once: list[bool] = []
    run.engine = waiting
    with Ahead(run, made, 1) as ahead:
        going = rounds(run, made, Watch(), ahead)
        for _ in range(cases.FIRST + 1):
            next(going)
        trained.set()  # after the update of the method's first round
        next(going)
    assert waited == [True]


def test_versions_are_checked() -> None:
    run, made = cases.new_run("ppo"), program("ppo")
    with Ahead(run, made, 2) as ahead:
        done = list(rounds(run, made, Watch(Rules()), ahead))[-1]
    version = done.kept.step["version"][done.kept.trained]
    per_round = 4  # two epochs of two minibatches
    assert version.unique().tolist() == [run.updates - 3 * per_round]
    stale = cases.new_run("ppo")
    with Ahead(stale, made, 2) as ahead, pytest.raises(ArithmeticError, match="staleness is bounded"):
        list(rounds(stale, made, Watch(Rules(staleness=per_round)), ahead))


class Failing:
    def __init__(self, run: Run, error: Exception, after: int):
        self.engine, self.error, self.left = run.engine, error, after

    def __call__(self, *args: Any, **options: Any) -> Batch:
        self.left -= 1
        if self.left < 0:
            raise self.error
        return self.engine(*args, **options)


def test_what_a_sampler_raises_ends_the_run() -> None:
    run, made = cases.new_run("grpo"), program("grpo")
    run.engine = Failing(run, ValueError("no more"), 3)
    with Ahead(run, made, 2) as ahead, pytest.raises(ValueError, match="no more"):
        list(rounds(run, made, Watch(), ahead))
    assert run.step == cases.FIRST + 3


def test_a_round_that_is_not_there_in_time_is_named() -> None:
    run, made = cases.new_run("grpo"), program("grpo")
    go_on = threading.Event()

    def stuck(*args: Any, **options: Any) -> Batch:
        assert go_on.wait(10)
        raise ValueError

    run.engine = stuck
    with Ahead(run, made, 1, deadline=0.05) as ahead:
        with pytest.raises(SamplingLateError, match=f"phase sampling: the rows of round {cases.FIRST}.*0.05 s"):
            list(rounds(run, made, Watch(), ahead))
        go_on.set()


# -- methods -----------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("key", ["vade", "veripo"])
def test_methods_that_learn_for_the_next_round_are_refused(key: str) -> None:
    with pytest.raises(AheadError, match=f"{key}.*runtime.staleness=0"):
        check_ahead(load(key))


COUNT = Cell("count", lambda: 0)


class Reads(Part):
    def __call__(self, ctx: Any, draw: Any, judge: Any) -> Batch:
        assert ctx[COUNT] == 0
        raise AssertionError


class Writes(Reads):
    def __call__(self, ctx: Any, draw: Any, judge: Any) -> Batch:
        ctx[COUNT] = 1
        raise AssertionError


class Asks(Reads):
    def __call__(self, ctx: Any, draw: Any, judge: Any) -> Batch:
        assert ctx.models["reference"] is not None  # a frozen copy: nothing changes it
        return ctx.extend(ctx.world.start(draw()), "critic")


@pytest.mark.parametrize(("part", "said"), [(Reads(), "reads the state"), (Writes(), "writes the"), (Asks(), "critic")])
def test_what_sampling_may_not_touch(part: Part, said: str) -> None:
    run = cases.new_run("ppo")
    made = Program((Stage(replace(cases.program("ppo").stages[1].method, sampling=part), 2),))
    with Ahead(run, made, 1) as ahead, pytest.raises(AheadError, match=said):
        list(rounds(run, made, Watch(), ahead))


def test_the_old_policy_is_the_one_that_sampled() -> None:
    grpo = load("grpo")
    assert corrected(grpo).roles == {**grpo.roles, "old": RECORDED}
    assert weighs(corrected(grpo))
    for key in ("repo_replay", "dpo"):
        assert corrected(load(key)) is load(key)
    assert not weighs(load("dpo"))
    decoupled = load("ppo_ewma")
    assert corrected(decoupled) is decoupled
    assert weighs(decoupled)


def test_past_weights_are_state() -> None:
    run = cases.new_run("grpo")
    run.past = {0: Past({"weight": torch.ones(2)}, 5)}
    other = cases.new_run("grpo")
    other.load_state(run.state(), program("grpo"))
    assert other.past[0].updates == 5
    assert torch.equal(other.past[0].weights["weight"], torch.ones(2))
    assert "past" not in cases.new_run("grpo").state()
