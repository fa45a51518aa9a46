"""Environments that raise: named, with their method and their error; the run goes on once they are mended."""

import importlib
import sys
import traceback

import gymnasium
import pytest
import torch
from test_control_recipes import GRPO, PPO, files, recipe

from policyopt.engines.control import ControlEngine
from policyopt.ops.streams import first_state
from policyopt.policies.bodies import MLP
from policyopt.policies.control import new_actor
from policyopt.recipe.schema import load_recipe
from policyopt.recipe.training import Training
from policyopt.worlds.environments import Blaming, EnvironmentFailedError, UnsuitableEnvironmentError
from policyopt.worlds.gymnasium import EnvironmentWorld

RAISING = """
import gymnasium, numpy as np, pathlib

MENDED = pathlib.Path(__file__).with_name("mended")

class Raising(gymnasium.Env):
    "Raises at the 20th step, or at the reset, of the episode with the number `of`."
    observation_space, action_space = gymnasium.spaces.Box(-1, 1, (2,)), gymnasium.spaces.Discrete(2)
    def __init__(self, method="step", of=2): self.method, self.of, self.begun = method, of, 0
    def fail(self, method, due):
        if due and method == self.method and self.begun == self.of and not MENDED.exists():
            raise KeyError("a joint")
    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.time, self.begun = 0, self.begun + 1
        self.fail("reset", True)
        return np.zeros(2, np.float32), {}
    def step(self, action):
        self.time += 1
        self.fail("step", self.time == 20)
        return np.full(2, action, np.float32), float(action), self.time > 27, False, {}

gymnasium.register("Raising-v0", lambda **options: Raising(**options))
gymnasium.register("Unready-v0", lambda **_: Raising("reset"))
"""
GONE_WRONG = "the environment raising_worlds:Raising-v0 failed: its {} raised KeyError: 'a joint' ("


@pytest.fixture
def raising(tmp_path, monkeypatch):
    (tmp_path / "raising_worlds.py").write_text(RAISING)
    monkeypatch.syspath_prepend(tmp_path)
    for name in ("Raising-v0", "Unready-v0"):
        gymnasium.registry.pop(name, None)
    monkeypatch.delitem(sys.modules, "raising_worlds", raising=False)
    return "raising_worlds:Raising-v0"


@pytest.mark.filterwarnings("ignore:.*ERROR.*:UserWarning")  # Gymnasium tells the traceback of a worker
@pytest.mark.parametrize(
    ("method", "options", "processes", "fails"),
    [("ppo", PPO, False, "step"), ("grpo", GRPO, False, "reset"), ("ppo", PPO, True, "step")],
    ids=["streams", "episodes", "processes"],
)
def test_a_run_ends_with_the_error_and_goes_on_when_it_is_mended(
    method, options, processes, fails, raising, tmp_path, command
):
    # Workers begin with a reset of their own.
    given = {"method": fails, "of": 3 if processes else 2}
    tasks = {"gymnasium": raising, "limit": 30, "options": given, "processes": processes}
    stages = [{"method": method, "steps": 3, "options": options}]
    made = recipe(tmp_path, tasks=tasks, stages=stages, evaluation=None)
    ended = command("train", made)
    assert ended.code == 2, ended.out
    assert GONE_WRONG.format(fails) in ended.err
    where = "in a worker process" if processes else f"{tmp_path / 'raising_worlds.py'}, line 12"
    assert f"({where}). Mend the environment" in ended.err
    assert f"Nothing before round 1 is lost; to go on from there: policyopt resume {tmp_path / 'run'}" in ended.err
    assert len((tmp_path / "run" / "metrics.jsonl").read_text().splitlines()) == 1
    (tmp_path / "mended").touch()
    resumed = command("resume", tmp_path / "run")
    assert resumed.code == 0, resumed.err
    assert "resumed at round 1 of 3" in resumed.out
    assert command("train", made, f"folder={tmp_path / 'straight'}").code == 0
    assert files(tmp_path / "run") == files(tmp_path / "straight")


def test_an_evaluation_names_it_as_well(raising, tmp_path, command):
    tasks = {"gymnasium": raising, "limit": 30, "options": {"of": 1}}
    ended = command("train", recipe(tmp_path, tasks=tasks))
    assert ended.code == 2, ended.out
    assert GONE_WRONG.format("step") in ended.err


def test_in_python_the_cause_has_the_traceback(raising, tmp_path):
    tasks = {"gymnasium": raising, "limit": 30}
    with (
        Training.start(load_recipe(recipe(tmp_path, tasks=tasks, evaluation=None))) as training,
        pytest.raises(EnvironmentFailedError) as error,
    ):
        list(training.rounds())
    assert type(error.value.__cause__) is KeyError
    assert [frame.name for frame in traceback.extract_tb(error.value.__cause__.__traceback__)][-2:] == ["step", "fail"]
    told = traceback.format_exception(error.value)
    assert any("raising_worlds.py" in line for line in told)


@pytest.mark.filterwarnings("ignore:.*ERROR.*:UserWarning")
@pytest.mark.parametrize("autoreset", ["NextStep", "SameStep"])
@pytest.mark.parametrize("vectorization", ["sync", "async"])
@pytest.mark.parametrize("fails", ["step", "reset"])
def test_vector_environments_name_it(fails, vectorization, autoreset, raising):
    """An episode has 28 steps; the second one's reset is called by the vector environment's step."""
    importlib.import_module("raising_worlds")
    name = {"step": "Raising-v0", "reset": "Unready-v0"}[fails]
    world = EnvironmentWorld.make_vector(name, vectorization=vectorization, autoreset=autoreset)
    policy = new_actor(world.observation_space, world.action_space, body=MLP((4,)))
    told = f"{name} failed: its step raised KeyError: 'a joint'"
    with torch.no_grad(), pytest.raises(EnvironmentFailedError, match=told):
        ControlEngine().stream(policy, world.acted_by(policy), first_state(0), 60, torch.arange(2), 0)


def test_workers_that_can_not_begin_name_the_reset(raising):
    world = EnvironmentWorld.make(raising, options={"method": "reset", "of": 1}, processes=True)
    with (
        pytest.warns(UserWarning, match="ERROR"),
        pytest.raises(EnvironmentFailedError, match=r"its reset raised KeyError: 'a joint' \(in a worker process"),
    ):
        world.streams(first_state(0), 2)


def test_what_is_no_fault_of_the_environment_passes():
    for error in (KeyboardInterrupt(), MemoryError(), UnsuitableEnvironmentError("x"), EnvironmentFailedError("y")):
        with pytest.raises(type(error)) as seen, Blaming("name", "step"):
            raise error
        assert seen.value is error
