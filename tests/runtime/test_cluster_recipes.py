"""Recipes in a local Ray: scorers hold the models that are given, trainers are actors; no number changes."""

from __future__ import annotations

import io
import json
import os
import signal
import threading
import time
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import tiny
import torch
from peers import RAY_WARNINGS, is_lost

from policyopt.cli.several import several
from policyopt.policies.checkpoint import load_language
from policyopt.policies.reward_checkpoint import save_reward
from policyopt.policies.tokenizer import load_tokenizer
from policyopt.recipe.base import RecipeError
from policyopt.recipe.build import build
from policyopt.recipe.cluster import given_away, scorer
from policyopt.recipe.schema import make_recipe
from policyopt.recipe.trainers import Asked
from policyopt.recipe.training import train
from policyopt.runtime.cluster import ClusterError, Crew, Needs
from policyopt.runtime.launch import StoppedError
from policyopt.runtime.placed import launch_placed
from policyopt.runtime.ranks import RankError, Ranks
from policyopt.runtime.spread import SpreadPreference
from policyopt.types import Batch

ray = pytest.importorskip("ray")

pytestmark = RAY_WARNINGS


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folders of a policy, a reference and a reward model, and tasks."""
    path = tmp_path_factory.mktemp("cluster")
    tiny.folder(path / "policy", "qwen2", 0)
    tiny.folder(path / "reference", "qwen2", 1)
    judge = load_language(str(path / "policy")).make_reward(torch.Generator().manual_seed(5))
    save_reward(judge, path / "judge", load_tokenizer(str(path / "policy")))
    tiny.jsonl(path / "tasks.jsonl", tiny.sums())
    return path


def recipe(place: Path, **changes: Any) -> dict[str, Any]:
    options = {"selection.count": 16, "sampling.size": 4, "update.learning_rate": 1.0e-3}
    options["reward"] = {"part": "model_reward", "models": ["judge"]}
    return {
        "name": "scored",
        "policy": {"model": str(place / "policy"), "device": "cpu"},
        "models": {"reference": str(place / "reference"), "judge": str(place / "judge")},
        "tasks": {"jsonl": str(place / "tasks.jsonl"), "verifier": "numeric", "limit": 8},
        "stages": [{"method": "grpo", "steps": 3, "options": options}],
        "checkpoint_every": 2,
        "evaluation": None,
        **changes,
    }


def left(run: Path) -> tuple[list[Any], bytes]:
    """Metrics of every round and the model of a finished run."""
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    return lines, (run / "model" / "model.safetensors").read_bytes()


def together(place: Path, name: str, **runtime: Any) -> tuple[list[Any], bytes]:
    asked = make_recipe(recipe(place, folder=str(place / name), runtime=runtime))
    several(Asked(2, recipe=asked.yaml()), asked.runtime)
    return left(place / name)


@pytest.mark.slow
def test_scorers_hold_reference_and_reward_model_of_a_recipe(cluster: None, place: Path) -> None:
    for name, runtime in (("plain", {}), ("scorers", {"on": "ray", "scorers": 2})):
        list(train(recipe(place, folder=str(place / name), runtime=runtime)))
    assert left(place / "scorers") == left(place / "plain")


@pytest.mark.slow
def test_a_scorer_holds_the_teacher_of_a_recipe(cluster: None, place: Path) -> None:
    stage = {"method": "opd:opd_sampled", "steps": 3, "options": {"selection.count": 16}}
    for name, runtime in (("taught", {}), ("taught apart", {"on": "ray", "scorers": 1})):
        asked = {"folder": str(place / name), "models": {"teacher": str(place / "reference")}, "stages": [stage]}
        list(train(recipe(place, runtime=runtime, **asked)))
    assert left(place / "taught apart") == left(place / "taught")


@pytest.mark.slow
def test_trainers_are_actors_that_train_as_two_processes_do(cluster: None, place: Path) -> None:
    actors = together(place, "actors", on="ray", trainers=2, samplers=2, scorers=1)
    assert actors == together(place, "processes", trainers=2)


def test_scorers_without_a_model_to_hold_are_refused(place: Path) -> None:
    """One that the policy is distilled from in whole distributions stays with the trainer."""
    stage = {"method": "opd", "steps": 1, "options": {}}
    asked = recipe(place, models={"teacher": str(place / "reference")}, stages=[stage])
    with (
        build(make_recipe(asked, ["runtime=ray", "runtime.scorers=1"])) as built,
        pytest.raises(RecipeError, match=r"runtime.scorers=1 have nothing to hold: of models \['teacher'\]"),
    ):
        given_away(built)


@pytest.mark.slow
def test_preferences_of_scorers_are_those_of_the_model(cluster: None, place: Path) -> None:
    model = load_language(str(place / "policy")).make_preference(torch.Generator().manual_seed(7), 4)
    save_reward(model, place / "preference", load_tokenizer(str(place / "policy")))
    asked = make_recipe(recipe(place, models={"judge": str(place / "preference")}))
    with build(asked) as built:
        world = built.run.worlds["world"]
        rows: Batch = built.run.engine(
            built.policy, world, world.start(world.tasks(torch.arange(16))), torch.arange(16), 1.0, 0
        )
    first, second = torch.randint(16, (2, 80), generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        right = model.compare(rows, first, second)
    crew = Crew("scorer", 2, partial(scorer, asked.yaml(), ["judge"], 1), Needs(1), 300.0)
    try:
        there = SpreadPreference("judge", crew)
        assert (there.compare(rows, first, second) - right).abs().max() <= 1e-6
        assert not len(there.compare(rows, first[:0], second[:0]))
    finally:
        crew.close()


# -- trainers that are lost ------------------------------------------------------------------------------------------
def speaks(ranks: Ranks) -> None:
    print(f"rank {ranks.rank} speaks")
    if ranks.gather(ranks.rank) == [0, 1] and ranks.rank:
        raise ValueError("a reason")


def waits(ranks: Ranks) -> None:
    """Until rank 0 is interrupted."""
    if ranks.rank:
        ranks.gather(None)
        return
    told: list[int] = []
    signal.signal(signal.SIGINT, lambda number, frame: told.append(number))
    print("waiting", flush=True)
    while not told:
        time.sleep(0.05)
    ranks.gather(None)
    raise SystemExit(7)


@pytest.mark.slow
def test_trap_47_a_trainer_that_dies_or_freezes_is_named_with_its_phase(
    cluster: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(RankError, match=r"rank 1 was lost \(\w+: .*\) in gradients of round 3"):
        launch_placed(2, is_lost, (int(signal.SIGKILL),), 60.0, Needs(1))
    monkeypatch.setattr("policyopt.runtime.placed.FROZEN", 5.0)
    with pytest.raises(RankError, match=r"rank 1 has given no sign of life for 5 s in gradients of round 3"):
        launch_placed(2, is_lost, (int(signal.SIGSTOP),), 120.0, Needs(1))


@pytest.mark.slow
def test_what_rank_0_says_and_what_fails_is_told(cluster: None, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(RankError, match=r"rank 1 failed in .*(?s:.*)ValueError: a reason"):
        launch_placed(2, speaks, (), 60.0, Needs(1))
    assert capsys.readouterr().out == "rank 0 speaks\n"


@pytest.mark.slow
def test_ctrl_c_reaches_rank_0(cluster: None, monkeypatch: pytest.MonkeyPatch) -> None:
    shown = io.StringIO()
    monkeypatch.setattr("sys.stdout", shown)

    def press() -> None:
        while "waiting" not in shown.getvalue():
            time.sleep(0.05)
        os.kill(os.getpid(), signal.SIGINT)

    thread = threading.Thread(target=press)
    thread.start()
    with pytest.raises(StoppedError) as stopped:
        launch_placed(2, waits, (), 60.0, Needs(1))
    thread.join()
    assert stopped.value.code == 7


@pytest.mark.slow
def test_trainers_without_room_are_told(cluster: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("policyopt.runtime.placed.READY", 0.3)
    with pytest.raises(ClusterError, match=r"phase start: 2 trainers found no room.*'CPU': 64.*runtime.trainers"):
        launch_placed(2, speaks, (), 60.0, Needs(64))
