"""Two processes never work in one folder, and a dead one does not keep the next one out."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from policyopt.recipe.comparison import asked
from policyopt.recipe.comparison.compare import compare
from policyopt.recipe.schema import make_recipe
from policyopt.recipe.training import Training
from policyopt.runtime import lock
from policyopt.runtime.folder import RunFolder
from policyopt.runtime.lock import InUseError, alone

HOLD = """
import sys
from pathlib import Path
from policyopt.runtime.lock import alone
with alone(Path(sys.argv[1])):
    print("held", flush=True)
    sys.stdin.read()
"""


@pytest.fixture(autouse=True)
def _soon(monkeypatch):
    monkeypatch.setattr(lock, "LETTING_GO", 0.05)


def holder(folder):
    process = subprocess.Popen(
        [sys.executable, "-c", HOLD, str(folder)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert process.stdout.readline() == "held\n"
    return process


def test_the_holder_is_named_and_killing_it_lets_the_next_one_in(tmp_path):
    process = holder(tmp_path)
    try:
        os.kill(process.pid, signal.SIGSTOP)  # a frozen one still holds it
        with pytest.raises(InUseError, match=rf"in use by process {process.pid} on host \S+ since 20.* UTC \(-c"):
            alone(tmp_path).__enter__()
        process.kill()
        process.wait(10)
        assert (tmp_path / lock.HOLDER).is_file(), "a killed process leaves its word behind"
        with alone(tmp_path):
            assert str(os.getpid()) in (tmp_path / lock.HOLDER).read_text()
        assert not (tmp_path / lock.HOLDER).exists()
    finally:
        process.kill()
        process.communicate()


def test_a_damaged_word_about_the_holder_does_not_open_the_lock(tmp_path):
    for word in ("", "[]", "{}", "\0"):
        with alone(tmp_path):
            (tmp_path / lock.HOLDER).write_text(word)
            with pytest.raises(InUseError, match="in use by another process; "):
                alone(tmp_path).__enter__()


def test_a_folder_that_can_not_be_written_is_refused(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(InUseError, match="can not be locked, so nothing"):
        alone(tmp_path / "file").__enter__()


def poles(folder):
    data = {
        "name": "poles",
        "policy": {"control": {"hidden": [4]}},
        "tasks": {"gymnasium": "CartPole-v1", "limit": 12},
        "stages": [{"method": "reinforce", "steps": 2, "options": {"selection.count": 1}}],
        "evaluation": {"episodes": 2},
        "samples": {"rows": 0},
        "folder": str(folder),
    }
    return make_recipe(data)


def test_a_run_that_trains_can_not_be_resumed_beside_itself(tmp_path, command):
    with Training.start(poles(tmp_path / "run")) as training:
        next(training.rounds())
        called = command("resume", tmp_path / "run")
        assert called.code == 2
        assert f"in use by process {os.getpid()}" in called.err
        assert "Traceback" not in called.err
    assert command("resume", tmp_path / "run").code == 0


def test_of_runs_started_in_one_empty_folder_one_gets_it(tmp_path, monkeypatch):
    (tmp_path / "run").mkdir()
    looked = Path.iterdir

    def race(path):  # both have looked before either has written
        found = list(looked(path))
        if path == tmp_path / "run":
            monkeypatch.setattr(Path, "iterdir", looked)
            RunFolder.create(path, "first", "")
        return iter(found)

    monkeypatch.setattr(Path, "iterdir", race)
    assert RunFolder.create(tmp_path / "run", "second", "").path.name == "run-2"
    assert (tmp_path / "run" / "recipe.yaml").read_text() == "first"


def test_a_comparison_is_made_by_one_process(tmp_path):
    recipe = poles(None)
    budget = asked.read_budget("samples=4", 1)
    plan = asked.make_plan(recipe, arms=asked.read_arms("grpo,rloo"), seeds=2, budget=budget)
    (tmp_path / "compared").mkdir()
    with alone(tmp_path / "compared"), pytest.raises(InUseError, match="compared is in use by process"):
        compare(plan, tmp_path / "compared", None)
    assert not (tmp_path / "compared" / "plan.json").exists()
