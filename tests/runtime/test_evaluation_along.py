"""Evaluation while a run trains: it changes nothing, is neither lost nor repeated, and the best model is kept."""

import io
import json
import random
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import tiny
import torch
from rich.console import Console

from policyopt.recipe.along import Best, untouched
from policyopt.recipe.base import RecipeError
from policyopt.recipe.schema import make_recipe
from policyopt.recipe.training import Training
from policyopt.runtime.folder import RunFolder, RunFolderError
from policyopt.runtime.progress import Lines

PPO = {
    "sampling": {"part": "stream", "horizon": 20, "count": 2},
    "update.minibatches": 2,
    "update.unit": "step",
    "update.policy.learning_rate": 0.003,
}
GRPO = {"selection.count": 3, "sampling.size": 4, "constraint.kl.weight": 0, "update.learning_rate": 0.001}


def words(path):
    tasks = {"jsonl": str(tiny.jsonl(path / "tasks.jsonl", tiny.sums())), "verifier": "rules:length", "limit": 4}
    new = {"hidden_size": 16, "layers": 1, "heads": 2, "positions": 64}
    return {
        "policy": {"new": new, "device": "cpu"},
        "tasks": tasks,
        "stages": [tiny.stage("grpo", 5)],
        "evaluation": {"tasks": 4, "samples": 8},
    }, ["greedy", "reward", "pass_at_1", "pass_at_8"]


def poles(path):
    return {
        "policy": {"control": {"hidden": [8], "normalise": True}},
        "tasks": {"gymnasium": "CartPole-v1", "limit": 30},
        "stages": [{"method": "ppo", "steps": 5, "options": PPO}],
        "evaluation": {"episodes": 3},
    }, ["return_greedy", "return_sampled"]


def points(path):
    return {
        "policy": {"denoising": {"width": 16, "depth": 2}, "chain": {"steps": 4}, "device": "cpu"},
        "tasks": {"points": "eight_gaussians", "size": 64, "reward": "near_mode", "reward_options": {"target": 2}},
        "stages": [{"method": "grpo", "steps": 5, "options": GRPO}],
        "evaluation": {"samples": 20},
    }, ["reward", "modes", "near_data"]


KINDS = {"language": words, "control": poles, "denoising": points}


def recipe(kind, path, name="run", every=None, best=None, **changes):
    data, _ = KINDS[kind](path)
    said = {"every": every, "keep_best": best}
    data["evaluation"] |= {key: value for key, value in said.items() if value is not None}
    return make_recipe({"name": "r", "seed": 3, "checkpoint_every": 3, "folder": str(path / name), **data, **changes})


def trained(asked):
    """The run's state at its end, and its folder."""
    with Training.start(asked) as training:
        list(training.rounds())
        training.finish()
        return training.built.run.state(), training.folder


def same(one, other):
    if isinstance(one, torch.Tensor):
        return one.dtype == other.dtype and torch.equal(one, other)
    if isinstance(one, dict):
        return one.keys() == other.keys() and all(same(one[key], other[key]) for key in one)
    if isinstance(one, (list, tuple)):
        return len(one) == len(other) and all(map(same, one, other))
    return repr(one) == repr(other)


def contents(folder):
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.mark.parametrize("kind", KINDS)
def test_a_run_is_bitwise_the_same_with_and_without(kind, tmp_path):
    plain, alone = trained(recipe(kind, tmp_path, "plain"))
    state, along = trained(recipe(kind, tmp_path, "along", every=2))
    assert same(state, plain)
    assert contents(along.model) == contents(alone.model)
    assert along.samples.read_bytes() == alone.samples.read_bytes()
    names = {f"eval/{name}" for name in KINDS[kind](tmp_path)[1]}
    lines = tiny.lines(along.metrics)
    assert [set(line) & names for line in lines] == [set(), names, set(), names, set()]
    without = [{key: value for key, value in line.items() if not key.startswith("eval/")} for line in lines]
    assert without == tiny.lines(alone.metrics)
    found, before = json.loads(along.summary.read_text()), json.loads(alone.summary.read_text())
    assert all(found[when] == before[when] for when in ("before", "after"))
    assert set(lines[0]) | names == set(lines[1])


@pytest.mark.parametrize("kind", KINDS)
def test_a_killed_run_loses_no_evaluation_and_makes_none_twice(kind, tmp_path):
    names = KINDS[kind](tmp_path)[1]
    best = names[-1]
    _, straight = trained(recipe(kind, tmp_path, "straight", every=1, best=best))
    with Training.start(recipe(kind, tmp_path, "killed", every=1, best=best)) as training:
        going = training.rounds()
        for _ in range(4):  # all are evaluated; the checkpoint is of three
            next(going)
        going.close()
    killed = training.folder
    assert list(training.built.subject.measured) == names
    assert len(tiny.lines(killed.metrics)) == 4
    assert killed.store().steps()[-1] == 3
    with Training.resume(killed.path) as training:
        list(training.rounds())
        training.finish()
    assert killed.metrics.read_bytes() == straight.metrics.read_bytes()
    assert contents(killed.best) == contents(straight.best)
    assert not list(killed.path.glob(".best*"))
    values = [line[f"eval/{best}"] for line in tiny.lines(straight.metrics)]
    kept = json.loads(straight.summary.read_text())["best"]
    assert kept == {"measure": best, "round": values.index(max(values)) + 1, "value": max(values)}
    assert json.loads((straight.best / "evaluation.json").read_text()) == kept
    assert json.loads(killed.summary.read_text())["best"] == kept
    after = json.loads(straight.summary.read_text())["after"]
    assert values[-1] == after[best]


def test_the_best_folder_is_the_model_that_had_the_value(tmp_path):
    _, run = trained(recipe("control", tmp_path, every=1, best="return_sampled"))
    kept = json.loads(run.summary.read_text())["best"]
    data = {"policy": {"model": str(run.best)}, "name": "again", "folder": str(tmp_path / "again"), "seed": 3}
    given, _ = poles(tmp_path)
    with Training.start(make_recipe({**given, **data})) as training:
        assert training.built.subject.measure().measured["return_sampled"] == kept["value"]


@pytest.mark.parametrize(
    ("kind", "evaluation", "said"),
    [
        ("control", {"every": 2, "keep_best": "pass_at_1"}, r"'pass_at_1' is not measured.*'return_sampled'\]"),
        (
            "language",
            {"every": 2, "keep_best": "pass_at_4"},
            r"there are \['greedy', 'reward', 'pass_at_1'",
        ),
        ("control", {"keep_best": "return_sampled"}, "give evaluation.every"),
        ("control", {"every": 0}, "evaluation.every"),
    ],
)
def test_what_can_not_be_done_is_refused_before_the_run_has_a_folder(kind, evaluation, said, tmp_path):
    data, _ = KINDS[kind](tmp_path)
    data["evaluation"] = {**data["evaluation"], **evaluation}
    with pytest.raises(RecipeError, match=said):
        Training.start(make_recipe({"name": "r", "folder": str(tmp_path / "run"), **data}))
    assert not (tmp_path / "run").exists()


# -- the folder of the best ------------------------------------------------------------------------------------------
class Saved:
    """A model that is a number."""

    def __init__(self, path):
        (path / "run").mkdir()
        self.run, self.model = RunFolder(path / "run"), 0

    def best(self, measure="m"):
        return Best(self.run, measure, self.save)

    def save(self, folder: Path):
        folder.mkdir()
        (folder / "model").write_text(str(self.model))

    def offer(self, best, rounds, value):
        self.model = rounds
        best.offer(rounds, {"eval/m": value})

    @property
    def kept(self):
        return int((self.run.best / "model").read_text())


def test_the_best_takes_its_place_with_a_checkpoint_of_its_round(tmp_path):
    saved = Saved(tmp_path)
    best = saved.best()
    best.settle(0)
    for rounds, value in ((1, 0.5), (2, 0.5), (3, 0.2)):
        saved.offer(best, rounds, value)
    assert not saved.run.best.exists()
    best.settle(3)
    assert saved.kept == 1
    saved.offer(best, 4, 0.7)
    assert saved.kept == 1
    again = saved.best()  # killed: the checkpoint is of round 3
    again.settle(3)
    assert (saved.kept, again.kept) == (1, {"round": 1, "measure": "m", "value": 0.5})
    saved.offer(again, 4, 0.6)
    later = saved.best()  # killed behind the checkpoint of round 4, before the model took its place
    later.settle(4)
    assert (saved.kept, later.kept and later.kept["value"]) == (4, 0.6)
    assert saved.best("other").kept is None
    assert not list(saved.run.path.glob(".best*"))


@pytest.mark.parametrize(("rounds", "kept"), [(4, 4), (3, 1)])
def test_a_kill_while_one_best_takes_the_place_of_another(rounds, kept, tmp_path):
    saved = Saved(tmp_path)
    best = saved.best()
    saved.offer(best, 1, 0.5)
    best.settle(3)
    saved.offer(best, 4, 0.7)
    shutil.move(saved.run.best, saved.run.path / ".best-old")
    saved.best().settle(rounds)
    assert saved.kept == kept


def test_a_model_that_can_not_be_saved_leaves_the_one_before_it(tmp_path):
    saved = Saved(tmp_path)
    best = saved.best()
    saved.offer(best, 1, 0.5)
    best.settle(1)

    def full(folder):
        raise OSError(28, "No space left on device")

    broken = Best(saved.run, "m", full)
    broken.settle(1)
    with pytest.raises(RunFolderError, match="policyopt resume"):
        broken.offer(2, {"eval/m": 0.9})
    broken.settle(2)
    assert saved.kept == 1


# -- no trace --------------------------------------------------------------------------------------------------------
def test_global_random_numbers_go_on_as_before():
    def draws():
        return torch.rand(2).tolist(), np.random.rand(2).tolist(), random.random()

    with untouched():
        expected = draws()
    with untouched():
        draws(), draws()
    assert draws() == expected


def test_what_evaluating_draws_from_global_random_numbers_is_not_missed_by_training(tmp_path, monkeypatch):
    with Training.start(recipe("control", tmp_path, every=1)) as training:
        drawn, subject = [], training.built.subject
        measure = subject.measure

        def drawing():
            drawn.append((random.random(), float(np.random.rand()), float(torch.rand(()))))
            return measure()

        rounds = training.rounds()
        next(rounds)
        monkeypatch.setattr(subject, "measure", drawing)
        # The next round's evaluation sees what a run without it would see behind the round.
        evaluated, states = training.session.hooks.evaluated, []
        assert evaluated is not None

        def watched(done):
            states.append((random.getstate(), np.random.get_state()[1].tolist(), torch.get_rng_state().tolist()))
            found = evaluated(done)
            states.append((random.getstate(), np.random.get_state()[1].tolist(), torch.get_rng_state().tolist()))
            return found

        training.session.hooks = replace(training.session.hooks, evaluated=watched)
        assert "eval/return_sampled" in next(rounds).metrics
        rounds.close()
    assert len(drawn) == 1
    assert states[0] == states[1]


def test_the_last_evaluation_stays_in_the_line_of_progress():
    told = io.StringIO()
    shown = Lines(Console(file=told), seconds=0)
    shown.begin(0, 2)
    timing = {"steps_per_second": 1.0}
    shown.round("1/1 ppo", {"return": 1.0, "eval/return_sampled": 12.5}, timing)
    shown.round("1/1 ppo", {"return": 2.0}, timing)
    first, second = told.getvalue().splitlines()
    assert "held-out 12.5" in first
    assert "return 2" in second
    assert "held-out 12.5" in second
