"""Runs go on from any working folder, find what their recipe names, and know when what lies there has changed."""

import json
import os
import shutil
import sys

import pytest
import tiny

from policyopt.compose import Stage
from policyopt.methods import load
from policyopt.recipe import places
from policyopt.recipe.base import RecipeError
from policyopt.recipe.control.sections import ControlRecipe
from policyopt.recipe.schema import load_recipe, make_recipe
from policyopt.recipe.stamps import ChangedObjectiveError, Stamps, surroundings
from policyopt.recipe.training import Training
from policyopt.runtime import digest as digests
from policyopt.runtime.digest import digest
from policyopt.runtime.folder import RunFolder

VERIFIER = "def score(text, entry):\n    return len(text) % 2\n"


@pytest.fixture
def here(tmp_path, monkeypatch):
    """A working folder with a recipe r.yaml whose paths are all relative."""
    here = tmp_path / "project"
    (here / "data").mkdir(parents=True)
    tiny.jsonl(here / "data" / "sums.jsonl", tiny.sums())
    tiny.jsonl(here / "data" / "held.jsonl", tiny.sums(9))
    (here / "beside_the_recipe.py").write_text(VERIFIER)
    monkeypatch.setattr(sys, "path", [*sys.path, str(here)])  # as the command line does
    monkeypatch.chdir(here)
    tiny.recipe(
        here / "r.yaml",
        {"new": {"hidden_size": 16, "layers": 1, "heads": 2, "positions": 64}},
        {"jsonl": "data/sums.jsonl", "verifier": "beside_the_recipe:score"},
        stages=[tiny.stage("grpo", 4)],
        checkpoint_every=2,
        evaluation={"tasks": 4, "samples": 8, "jsonl": "data/held.jsonl"},
        folder="runs/one",
    )
    return here


@pytest.fixture
def project(here):
    """That folder, in which a run of four rounds was stopped after three, with a checkpoint after two."""
    with Training.start(load_recipe("r.yaml")) as training:
        rounds = training.rounds()
        for _ in range(3):
            next(rounds)
        rounds.close()
    return here


def leave(monkeypatch, tmp_path):
    """Into a folder with tasks and a verifier of the same names, which are others."""
    there = tmp_path / "elsewhere"
    (there / "data").mkdir(parents=True)
    tiny.jsonl(there / "data" / "sums.jsonl", tiny.sums(5))
    (there / "beside_the_recipe.py").write_text("raise RuntimeError('the wrong module')\n")
    monkeypatch.chdir(there)
    kept = [entry for entry in sys.path if entry != str(tmp_path / "project")]
    monkeypatch.setattr(sys, "path", [*kept, str(there)])
    sys.modules.pop("beside_the_recipe", None)
    return there


def test_a_run_goes_on_from_another_folder_as_if_it_had_not_stopped(project, tmp_path, monkeypatch, command):
    with Training.start(load_recipe("r.yaml", ["folder=runs/straight"])) as training:
        list(training.rounds())
    leave(monkeypatch, tmp_path)
    gone_on = command("resume", "../project/runs/one")
    assert gone_on.code == 0, gone_on.err
    one, straight = project / "runs" / "one", project / "runs" / "straight"
    assert (one / "metrics.jsonl").read_bytes() == (straight / "metrics.jsonl").read_bytes()
    assert json.loads((one / "objective.json").read_text())["changed"] == []
    assert "data/sums.jsonl" in (one / "recipe.yaml").read_text()  # as it was given
    assert str(project) not in (one / "recipe.yaml").read_text()


def test_a_project_that_has_moved_goes_on(project, tmp_path, monkeypatch):
    leave(monkeypatch, tmp_path)
    moved = tmp_path / "moved"
    shutil.move(project, moved)
    with Training.resume(moved / "runs" / "one") as training:
        assert len(list(training.rounds())) == 2
        assert training.built.recipe.tasks.jsonl == str(moved / "data" / "sums.jsonl")
        changed = json.loads((training.folder.path / "objective.json").read_text())["changed"]
    assert changed == []


def test_a_file_that_is_gone_is_named_and_can_be_given_elsewhere(project, tmp_path):
    run, new = project / "runs" / "one", tmp_path / "new.jsonl"
    (project / "data" / "sums.jsonl").rename(new)
    with pytest.raises(RecipeError) as error:
        Training.resume(run)
    assert f"tasks.jsonl: {project / 'data' / 'sums.jsonl'}" in str(error.value)
    assert f"edit tasks.jsonl in {run / 'recipe.yaml'}" in str(error.value)
    recipe = (run / "recipe.yaml").read_text()
    (run / "recipe.yaml").write_text(recipe.replace("data/sums.jsonl", str(new)))
    with Training.resume(run) as training:  # the same content is the same recipe
        assert len(list(training.rounds())) == 2


def test_an_edited_file_is_told_and_taken_on_request(project, command):
    file, run = project / "data" / "sums.jsonl", project / "runs" / "one"
    before = digest(file)
    kept = json.loads((run / "objective.json").read_text())["files"]
    assert kept == {"tasks.jsonl": before, "evaluation.jsonl": digest("data/held.jsonl")}
    file.write_bytes(file.read_bytes().replace(b"What is 3 + 3", b"What is 3 + 4"))  # of the same size
    refused = command("resume", run)
    assert refused.code == 2
    assert f"tasks.jsonl: {before} -> {digest(file)}" in refused.err
    assert "--accept-objective" in refused.err
    with Training.resume(run, accept=True) as training:
        assert len(list(training.rounds())) == 2
    (changed,) = json.loads((run / "objective.json").read_text())["changed"]
    assert (changed["slot"], changed["before"]) == ("tasks.jsonl", before)


def test_checkpoints_of_earlier_versions_go_on_by_their_paths(here):
    recipe = load_recipe("r.yaml")
    stamps = Stamps((), RunFolder(here), recipe)
    stamps.hooks["restored"](2, {"stages": [], "recipe": surroundings(recipe)})
    shutil.copy("data/sums.jsonl", "data/again.jsonl")
    other = Stamps((), RunFolder(here), load_recipe("r.yaml", ["tasks.jsonl=data/again.jsonl"]))
    with pytest.raises(ChangedObjectiveError, match=r"tasks.jsonl: data/sums.jsonl -> data/again.jsonl"):
        other.hooks["restored"](2, {"stages": [], "recipe": surroundings(recipe)})
    other.hooks["restored"](2, stamps.hooks["stamp"])


def test_tasks_of_single_stages_count_until_they_are_over(here):
    given = ["stages.0.tasks.jsonl=data/held.jsonl"]
    stages = (Stage(load("grpo"), 2, 0), Stage(load("grpo"), 2, 2))
    kept = Stamps(stages, RunFolder(here), load_recipe("r.yaml", given)).hooks["stamp"]
    tiny.jsonl(here / "data" / "held.jsonl", tiny.sums(8))
    now = Stamps(stages, RunFolder(here), load_recipe("r.yaml", [*given, "evaluation=null"]))
    with pytest.raises(ChangedObjectiveError, match=r"stages.0.tasks.jsonl: \d+ bytes"):
        now.hooks["restored"](1, kept)
    with pytest.raises(ChangedObjectiveError) as error:
        now.hooks["restored"](2, kept)
    assert "stages.0" not in str(error.value)


def test_paths_of_every_kind_are_found_and_ids_stay(tmp_path):
    run = tmp_path / "runs" / "one"
    folder = RunFolder.create(run, "", "")
    (tmp_path / "set").mkdir()
    folder.started_in.write_text(json.dumps({"folder": str(tmp_path), "from_run": "../.."}))
    stage = {"method": "mine.py:variant", "options_for": {"mine.py": {}, "grpo": {}}, "tasks": {"minari": "set"}}
    data = {
        "policy": {"model": "hub:one/two"},
        "models": {"teacher": "old/model", "critic": "/abs"},
        "tasks": {"minari": "D4RL/door/human-v2", "recorded": {"policy": "p"}, "segments": "s.jsonl"},
        "stages": [stage, {"method": "grpo"}],
    }
    before = list(sys.path)
    try:
        places.anchor(data, folder.recipe, [ControlRecipe])
    finally:
        sys.path[:] = before
    at = str(tmp_path)
    assert data["policy"] == {"model": "hub:one/two"}
    assert data["models"] == {"teacher": f"{at}/old/model", "critic": "/abs"}
    assert data["tasks"] == {
        "minari": "D4RL/door/human-v2",
        "recorded": {"policy": f"{at}/p"},
        "segments": f"{at}/s.jsonl",
    }
    assert data["stages"][0] == {
        "method": f"{at}/mine.py:variant",
        "options_for": {f"{at}/mine.py": {}, "grpo": {}},
        "tasks": {"minari": f"{at}/set"},
    }
    assert data["stages"][1] == {"method": "grpo"}


@pytest.mark.parametrize("said", ["{", "[]", '{"folder": 3, "from_run": "."}'])
def test_a_damaged_note_of_the_folder_is_an_error(said, tmp_path):
    folder = RunFolder.create(tmp_path / "run", "name: x", "")
    folder.started_in.write_text(said)
    with pytest.raises(RecipeError, match=r"started_in.json does not say"):
        load_recipe(folder.recipe)


def test_judges_caches_are_found_and_do_not_count(here):
    judge = {"url": "http://localhost:9", "model": "m", "cache": "said.jsonl"}
    made = make_recipe(
        {
            "name": "x",
            "policy": {"model": "data"},
            "tasks": {"jsonl": "data/sums.jsonl"},
            "judges": {"one": judge},
            "stages": [{"method": "grpo", "steps": 1}],
        }
    )
    other = made.model_copy(update={"judges": {"one": made.judges["one"].model_copy(update={"cache": "/else"})}})
    held = places.contents(made)
    assert set(held) == {"policy.model", "tasks.jsonl"}
    assert surroundings(made, held) == surroundings(other, held)
    assert surroundings(made) != surroundings(other)


# -- digests -----------------------------------------------------------------------------------------------------------
def test_digests_tell_contents_names_and_sizes_apart(tmp_path):
    one, two = tmp_path / "one", tmp_path / "two"
    for folder in (one, two):
        (folder / "inner").mkdir(parents=True)
        (folder / "inner" / "a").write_bytes(b"abc")
        (folder / "b").write_bytes(b"")
    assert digest(one) == digest(two)
    assert digest(one).startswith("3 bytes, blake2b ")
    (two / ".hidden").write_bytes(b"x")
    (two / "cache-12.arrow").write_bytes(b"x")
    assert digest(one) == digest(two)
    (two / "b").rename(two / "c")
    assert digest(one) != digest(two)
    (two / "c").rename(two / "b")
    (two / "inner" / "a").write_bytes(b"abd")
    assert digest(one) != digest(two)
    assert digest(one / "inner" / "a") != digest(two / "inner" / "a")


def test_large_files_are_read_in_part(tmp_path, monkeypatch):
    monkeypatch.setattr(digests, "WHOLE", 64 * 4)
    content = bytearray(os.urandom(64 * 100))
    file = tmp_path / "large"

    def of(position=None):
        changed = bytearray(content)
        if position is not None:
            changed[position] ^= 1
        file.write_bytes(changed)
        return digest(file)

    whole = of()
    assert whole == of()
    assert whole != of(0)  # a sample begins here
    assert whole != of(len(content) - 1)
    assert whole == of(50)  # between the samples of 4 bytes, about 101 apart
    content += b"x"
    assert of() != whole


def test_of_many_files_names_and_sizes_count(tmp_path, monkeypatch):
    monkeypatch.setattr(digests, "READ", 5)
    for n in range(20):
        (tmp_path / f"{n:02d}").write_bytes(b"abc")
    before = digest(tmp_path)
    (tmp_path / "00").write_bytes(b"abd")
    assert digest(tmp_path) != before
    (tmp_path / "00").write_bytes(b"abc")
    (tmp_path / "01").write_bytes(b"abd")  # every fourth is read
    assert digest(tmp_path) == before
    (tmp_path / "01").write_bytes(b"abcd")
    assert digest(tmp_path) != before
