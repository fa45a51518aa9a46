"""N rounds straight equal k rounds, a restart from disk and N - k rounds, bit for bit, for every method."""

import errno
import os
import re
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import resume_cases as cases
import torch
from torch import Tensor

from policyopt.compose import Copy, Critic, Program, Stage
from policyopt.run import Run
from policyopt.runtime import atomic
from policyopt.runtime.atomic import DiskFullError
from policyopt.runtime.checkpoint import load, save
from policyopt.runtime.interrupt import Interrupt
from policyopt.runtime.journal import read
from policyopt.runtime.session import Hooks, Session
from policyopt.train import rounds
from policyopt.update.gradient import GradientSteps, NonFiniteGradientError

State = Mapping[str, Any]


def same(a: Any, b: Any) -> bool:
    """Equal in type, structure and every bit (0.0 is not -0.0, nan is nan)."""
    if type(a) is not type(b):
        return False
    if isinstance(a, Tensor):
        bits = [x.contiguous().flatten().view(torch.uint8) for x in (a, b)]
        return a.dtype == b.dtype and a.shape == b.shape and torch.equal(*bits)
    if isinstance(a, Mapping):
        return set(a) == set(b) and all(same(a[key], b[key]) for key in a)
    if isinstance(a, (list, tuple)):
        return len(a) == len(b) and all(same(x, y) for x, y in zip(a, b, strict=True))
    return repr(a) == repr(b)


class Straight:
    """A run without a stop: its state before every round, on disk, and its metrics as text."""

    def __init__(self, key: str, base: Path, seed: int = 3):
        self.program, self.base = cases.program(key), base
        run = cases.new_run(key, seed)
        base.mkdir()
        self.metrics = []
        for done in rounds(run, self.program):
            self.metrics.append(repr(dict(done.metrics)))
            save(run.state(), base / f"{run.step}.ckpt")
        self.state = load(base / f"{run.step}.ckpt")

    def at(self, step: int) -> dict[str, Any]:
        return load(self.base / f"{step}.ckpt")


_runs: dict[str, Straight] = {}


@pytest.fixture(scope="module")
def straight(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Straight]:
    base = tmp_path_factory.mktemp("straight")

    def find(key: str) -> Straight:
        if key not in _runs:
            _runs[key] = Straight(key, base / key.replace(":", "-"))
        return _runs[key]

    return find


def go_on(key: str, state: State, program: Program) -> tuple[State, list[str]]:
    """A new run that loads the state and trains to the end."""
    run = cases.new_run(key)
    run.load_state(state, program)
    metrics = [repr(dict(done.metrics)) for done in rounds(run, program)]
    return run.state(), metrics


# -- trap 48, in this process: every method, every round -------------------------------------------------------
@pytest.mark.parametrize("key", cases.METHODS)
def test_trap_48_reload_before_any_round_changes_nothing(key: str, straight: Callable[[str], Straight]) -> None:
    whole = straight(key)
    assert len(whole.metrics) == cases.ROUNDS
    assert len(set(whole.metrics)) == cases.ROUNDS, "rounds that repeat could hide a restart"
    for step in range(1, cases.ROUNDS):
        state, metrics = go_on(key, whole.at(step), whole.program)
        assert metrics == whole.metrics[step:], f"metrics differ after a restart before round {step}"
        assert same(state, whole.state), f"states differ after a restart before round {step}"


def _forget(name: str, value: Any) -> Callable[[dict[str, Any]], None]:
    return lambda state: state.update({name: value})


def _forget_moments(state: dict[str, Any]) -> None:
    for optimizer in state["optimizers"].values():
        for moments in optimizer["state"].values():
            moments["exp_avg_sq"].zero_()


def _forget_count(state: dict[str, Any]) -> None:
    for optimizer in state["optimizers"].values():
        for moments in optimizer["state"].values():
            moments["step"].zero_()


def _forget_critic(state: dict[str, Any]) -> None:
    state["models"]["critic"]["values"].zero_()


MUTANTS = {
    "optimizers": ("grpo", _forget("optimizers", {})),
    "second moments": ("grpo", _forget_moments),
    "optimizer's count": ("grpo", _forget_count),
    "cells": ("reinforce", _forget("cells", {})),
    "drawn": ("sft", _forget("drawn", 0)),
    "stage_start": ("rloo", _forget("stage_start", 0)),
    "updates": ("gspo", _forget("updates", 0)),
    "built models": ("grpo", _forget("built", [])),
    "critic": ("ppo", _forget_critic),
    "step": ("opd", _forget("step", 5)),
}


@pytest.mark.parametrize("name", MUTANTS)
def test_trap_48_the_comparison_sees_forgotten_state(name: str, straight: Callable[[str], Straight]) -> None:
    key, forget = MUTANTS[name]
    whole, step = straight(key), 7
    state = whole.at(step)
    forget(state)
    end, metrics = go_on(key, state, whole.program)
    assert metrics != whole.metrics[step:] or not same(end, whole.state)


@pytest.mark.parametrize("name", ["optimizers", "cells", "drawn", "stage_start", "built", "models", "updates"])
def test_missing_state_is_an_error(name: str, straight: Callable[[str], Straight]) -> None:
    state = straight("reinforce").at(6)
    del state[name]
    with pytest.raises((KeyError, ValueError)):
        go_on("reinforce", state, straight("reinforce").program)


def test_a_name_is_rebuilt_as_its_last_stage_made_it(tmp_path: Path) -> None:
    """Two stages may use one name for different kinds of models: weights must find the kind they came from."""
    grpo, ppo = (stage.method for key in ("grpo", "ppo") for stage in cases.program(key).stages[1:])
    first = replace(grpo, models={**grpo.models, "critic": Copy()})
    program = Program((Stage(first, 2), Stage(replace(ppo, models={**ppo.models, "critic": Critic()}), 4)))
    runs = [cases.new_run("ppo"), cases.new_run("ppo")]
    going = rounds(runs[0], program)
    for _ in range(4):
        next(going)
    save(runs[0].state(), tmp_path / "4.ckpt")
    runs[1].load_state(load(tmp_path / "4.ckpt"), program)
    for run in runs:
        assert len(list(rounds(run, program) if run is runs[1] else going)) == 2
    assert same(runs[0].state(), runs[1].state())


# -- trap 46: the seed decides everything ----------------------------------------------------------------------
@pytest.mark.parametrize("key", ["grpo", "ppo", "opd", "dpo:dpo_online"])
def test_seeds(key: str, straight: Callable[[str], Straight], tmp_path: Path) -> None:
    again, other = Straight(key, tmp_path / "again"), Straight(key, tmp_path / "other", seed=4)
    assert again.metrics == straight(key).metrics
    assert same(again.state, straight(key).state)
    assert all(a != b for a, b in zip(other.metrics, straight(key).metrics, strict=True))
    weights = [run.state["models"]["policy"]["logits"] for run in (other, again)]
    assert not torch.equal(*weights)


# -- trap 48, for real: processes killed, runs resumed from their folders --------------------------------------
PLACES = {"mid-epoch": (2, "between"), "stage end": (4, "saving"), "in a round": (7, "inside")}


@pytest.fixture(scope="module")
def killed(tmp_path_factory: pytest.TempPathFactory) -> Mapping[str, Path]:
    """All methods trained side by side in a process that dies; one process, and one folder of runs, per place."""
    script = str(Path(cases.__file__))
    bases = {place: tmp_path_factory.mktemp("killed") for place in PLACES}
    dying = {
        place: subprocess.Popen(
            [sys.executable, "-W", "error", script, str(bases[place]), str(count), where],
            env={**os.environ, "OMP_NUM_THREADS": "1"},
            stderr=subprocess.PIPE,
            text=True,
        )
        for place, (count, where) in PLACES.items()
    }
    for place, process in dying.items():
        errors = process.communicate(timeout=120)[1]
        assert process.returncode == (-9 if os.name == "posix" else 9), f"{place}: {errors}"
    return bases


@pytest.fixture(scope="module")
def unbroken(tmp_path_factory: pytest.TempPathFactory) -> Mapping[str, Session]:
    """A session of every method that nothing stopped."""
    base = tmp_path_factory.mktemp("unbroken")
    sessions = {key: cases.session(base, key) for key in cases.METHODS}
    for one in sessions.values():
        assert len(list(one.rounds())) == cases.ROUNDS
    return sessions


@pytest.mark.parametrize("place", PLACES)
def test_trap_48_kill_9_and_resume(place: str, killed: Mapping[str, Path], unbroken: Mapping[str, Session]) -> None:
    base, (died, where) = killed[place], PLACES[place]
    half_written = list(base.glob("*/checkpoints/.*.tmp"))
    assert bool(half_written) == (where == "saving")
    for key, whole in unbroken.items():
        assert len(read(cases.folder(base, key).metrics)) >= died, "the process died too early"
        resumed = cases.session(base, key)
        assert resumed.resume() == {2: 0, 4: 4, 7: 6}[died], key
        for _ in resumed.rounds():
            pass
        assert resumed.finished
        assert same(resumed.run.state(), whole.run.state()), key
        assert _files(resumed) == _files(whole), key
        assert [line["step"] for line in read(resumed.folder.timing)] == list(range(cases.ROUNDS))
        assert same(resumed.store.latest(), whole.store.latest())
        left = sorted(path.name for path in resumed.folder.checkpoints.iterdir())
        assert left == ["round-00000009.ckpt", "round-00000011.ckpt"], key


# -- the session -----------------------------------------------------------------------------------------------
def _files(one: Session) -> tuple[bytes, bytes]:
    return one.folder.metrics.read_bytes(), one.folder.samples.read_bytes()


@pytest.fixture
def whole(unbroken: Mapping[str, Session]) -> Session:
    return unbroken["ppo"]


def test_metrics_hold_no_clock(whole: Session) -> None:
    records = read(whole.folder.metrics)
    assert [record["step"] for record in records] == list(range(cases.ROUNDS))
    assert [record["stage"] for record in records] == [0] * cases.FIRST + [1] * cases.SECOND
    assert not {"seconds", "steps_per_second"} & {name for record in records for name in record}
    assert all(record["seconds"] > 0 < record["steps_per_second"] for record in read(whole.folder.timing))


def test_a_finished_run_has_nothing_left(whole: Session) -> None:
    files = _files(whole)
    again = Session(cases.new_run("ppo"), cases.program("ppo"), whole.folder)
    assert list(again.rounds()) == []
    assert again.finished
    assert not again.interrupted
    assert same(again.run.state(), whole.run.state())
    assert _files(whole) == files


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupt_lets_the_round_end(number: int, whole: Session, tmp_path: Path) -> None:
    first = cases.session(tmp_path, "ppo", every=100)
    for _ in first.rounds():
        if first.run.step == 6:
            signal.raise_signal(number)
    assert first.interrupted
    assert first.run.step == 6
    assert first.store.steps()[-1] == 6
    second = cases.session(tmp_path, "ppo", every=100)
    assert len(list(second.rounds())) == cases.ROUNDS - 6
    assert not second.interrupted
    assert same(second.run.state(), whole.run.state())
    assert _files(second) == _files(whole)


def test_the_second_interrupt_stops_at_once_and_handlers_return() -> None:
    received: list[int] = []
    numbers = (signal.SIGINT, signal.SIGTERM)
    before = [signal.signal(number, lambda number, frame: received.append(number)) for number in numbers]
    try:
        with Interrupt() as stop:
            assert not stop.requested
            signal.raise_signal(signal.SIGINT)
            assert stop.requested
            with pytest.raises(KeyboardInterrupt):
                signal.raise_signal(signal.SIGTERM)
        for number in numbers:
            signal.raise_signal(number)
    finally:
        for number, handler in zip(numbers, before, strict=True):
            signal.signal(number, handler)
    assert received == list(numbers), "the program's own handlers are back"


def test_interrupts_in_another_thread_change_nothing() -> None:
    seen = []

    def enter() -> None:
        with Interrupt() as stop:
            seen.append((stop.requested, signal.getsignal(signal.SIGINT)))

    before = signal.getsignal(signal.SIGINT)
    thread = threading.Thread(target=enter)
    thread.start()
    thread.join()
    assert seen == [(False, before)]


def test_a_failed_round_loses_nothing(whole: Session, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The round fails after its first optimiser steps have moved the policy: the state before it is what is saved."""
    first, moved = cases.session(tmp_path, "ppo", every=100), []
    differentiate = GradientSteps.differentiate

    def fail(self: GradientSteps, ctx: Any, batch: Any, model: str) -> None:
        if ctx.step == 7 and model == "critic":
            moved.append(first.run.models["policy"].state_dict()["logits"].clone())
            raise NonFiniteGradientError("the gradient of 'critic' is nan")
        differentiate(self, ctx, batch, model)

    with monkeypatch.context() as patch:
        patch.setattr(GradientSteps, "differentiate", fail)
        with pytest.raises(NonFiniteGradientError) as caught:
            list(first.rounds())
    assert "policyopt resume" in caught.value.__notes__[0]
    found = first.store.latest()
    assert found is not None
    assert found[0] == found[1]["step"] == 7
    assert not torch.equal(found[1]["models"]["policy"]["logits"], moved[0]), "the test needs a half-done round"
    second = cases.session(tmp_path, "ppo")
    assert second.resume() == 7
    assert len(list(second.rounds())) == cases.ROUNDS - 7
    assert same(second.run.state(), whole.run.state())
    assert _files(second) == _files(whole)


def test_a_full_disk_loses_only_rounds_that_run_again(
    whole: Session, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(file: Any) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    first = cases.session(tmp_path, "ppo")
    going = first.rounds()
    for _ in range(5):
        next(going)
    with monkeypatch.context() as patch:
        patch.setattr(atomic, "flush_to_disk", refuse)
        with pytest.raises(
            DiskFullError, match=rf"round 6 .*intact.*policyopt resume {re.escape(str(first.folder.path))}"
        ):
            list(going)
    second = cases.session(tmp_path, "ppo")
    assert second.resume() == 4
    assert len(list(second.rounds())) == cases.ROUNDS - 4
    assert same(second.run.state(), whole.run.state())
    assert _files(second) == _files(whole)


def test_stage_hooks_run_once_across_restarts(whole: Session, tmp_path: Path) -> None:
    called: list[int] = []

    def hook(index: int, run: Run) -> Mapping[str, Any]:
        called.append(index)
        # A hook that draws must not shift the training's own draws, whether or not it is called again.
        run.rng("sample/policy")
        run.rng("minibatches")
        return {"entropy": float(index), "at": run.step}

    def one() -> Session:
        hooks = Hooks(stage_start=hook, samples=cases.samples)
        return Session(cases.new_run("ppo"), cases.program("ppo"), cases.folder(tmp_path, "ppo"), 3, hooks=hooks)

    # Before any checkpoint, at the stage's end, within the stage, to the end.
    for stop in (2, 4, 5, cases.ROUNDS):
        current = one()
        for _ in current.rounds():
            if current.run.step == stop:
                break
    assert called == [0, 1]
    assert current.folder.once("stage-0", dict) == {"at": 0, "entropy": 0.0}
    assert current.folder.once("stage-1", dict) == {"at": cases.FIRST, "entropy": 1.0}
    list(one().rounds())
    assert called == [0, 1]
    assert _files(current) == _files(whole)


def test_hooks_that_draw_do_not_shift_the_training(whole: Session, tmp_path: Path) -> None:
    def hook(index: int, run: Run) -> Mapping[str, Any]:
        return {"first": [run.rng(purpose).initial_seed() for purpose in ("sample/policy", "minibatches")]}

    plain = cases.session(tmp_path, "ppo")
    hooked = Session(plain.run, plain.program, plain.folder, 100, hooks=Hooks(hook, cases.samples))
    assert len(list(hooked.rounds())) == cases.ROUNDS
    assert _files(hooked) == _files(whole)


def test_a_hook_that_was_stopped_is_called_again(tmp_path: Path) -> None:
    def fail(index: int, run: Run) -> Mapping[str, Any]:
        raise TimeoutError

    base = cases.session(tmp_path, "sft")
    with pytest.raises(TimeoutError):
        list(Session(base.run, base.program, base.folder, hooks=Hooks(fail)).rounds())
    hooks = Hooks(lambda index, run: {"index": index})
    list(Session(cases.new_run("sft"), base.program, base.folder, hooks=hooks).rounds())
    assert base.folder.once("stage-0", dict) == {"index": 0}


def test_another_seed_is_not_resumed(tmp_path: Path) -> None:
    list(cases.session(tmp_path, "sft").rounds())
    with pytest.raises(ValueError, match="seed 3"):
        cases.session(tmp_path, "sft", seed=4).resume()
