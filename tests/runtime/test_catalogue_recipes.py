"""Recipes of applied papers at laptop scale: they build and train, with the rewards that they name."""

import json
from pathlib import Path

import pytest
import tiny

RECIPES = Path(__file__).parents[2] / "recipes" / "catalogue"

SMALL = [
    "policy.new.hidden_size=16", "policy.new.layers=1", "policy.new.heads=2", "policy.new.intermediate_size=32",
    "tasks.size=300", "stages.0.steps=2", "stages.1.steps=2", "stages.0.selection.count=4", "selection.count=3",
    "sampling.size=3", "evaluation.tasks=12", "evaluation.samples=8", "policy.device=cpu",
]  # fmt: skip
GRADED = {
    "fgrpr_crowdvlm": {"reward:error", "reward:format"},
    "stepgrpo_r1vl": {"reward:accuracy", "reward:validity", "checks_passed"},
    "campo_miromind": {"looping"},
    "egovlm": {"reward:accuracy", "reward:format", "reward:frames"},
    "vapo_slideasr": {"reward:format", "reward:slide", "reward:transcript", "reward:entities"},
    "datarus_r1": {"reward:tags", "reward:steps", "reward:whole"},
    "voicegrpo": {"loss/snapshot"},
    "var_grpo": {"reward"},
}
FILES = ("egovlm", "vapo_slideasr")  # of the repository's folder


@pytest.mark.parametrize("name", GRADED)
def test_recipes_of_graded_rewards_build_and_train(name, command, tmp_path, monkeypatch):
    monkeypatch.chdir(RECIPES.parents[1])
    more = ["stages.2.steps=2"] if name == "campo_miromind" else []
    small = [change for change in SMALL if name not in FILES or not change.startswith("tasks.size")]
    called = command("train", RECIPES / f"{name}.yaml", *small, *more, "--folder", tmp_path / "run")
    assert called.code == 0, called.err
    lines = tiny.lines(tmp_path / "run" / "metrics.jsonl")
    assert len(lines) == 4 + len(more) * 2
    assert GRADED[name] <= lines[-1].keys()
    assert "after" in json.loads((tmp_path / "run" / "summary.json").read_text())
