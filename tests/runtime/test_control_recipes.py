"""Agents from the command line: train, stop, go on, save, evaluate; what is refused."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import tiny
import torch
import yaml

from policyopt.compose import CompositionError
from policyopt.ops.random import derive
from policyopt.ops.streams import episode_seed
from policyopt.recipe.build import build
from policyopt.recipe.kinds import EVALUATION_SEED
from policyopt.recipe.schema import load_recipe, make_recipe
from policyopt.recipe.training import Training
from policyopt.worlds.gymnasium import EnvironmentWorld
from policyopt.worlds.minari_files import write_minari
from policyopt.worlds.recordings import Episode

RECIPES = sorted((Path(__file__).parents[2] / "recipes" / "control").glob("*.yaml"))
PPO = {
    "sampling": {"part": "stream", "horizon": 40, "count": 2},
    "update.minibatches": 2,
    "update.unit": "step",
    "update.policy.learning_rate": 0.003,
}
GRPO = {"selection.count": 2, "sampling.size": 3, "update.learning_rate": 0.01}


def recipe(path, environment="CartPole-v1", **changes):
    data = {
        "name": "agent",
        "seed": 3,
        "policy": {"control": {"hidden": [8]}},
        "tasks": {"gymnasium": environment, "limit": 30},
        "stages": [{"method": "ppo", "steps": 3, "options": PPO}],
        "evaluation": {"episodes": 3},
        "folder": str(path / "run"),
        **changes,
    }
    (path / "r.yaml").write_text(yaml.safe_dump(data))
    return path / "r.yaml"


def files(run):
    return tiny.files(run, "model/policy.json", "model/policy.safetensors")


# -- a run ---------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("environment", "method", "policy"),
    [
        ("CartPole-v1", "ppo", {"normalise": True}),
        ("CartPole-v1", "grpo", {}),
        ("Pendulum-v1", "ppo", {"head": "squashed", "critic": {"hidden": [8]}}),
        ("Pendulum-v1", "ppo", {"head": "beta"}),
        ("CartPole-v1", "ppo", {"memory": 6}),
        ("Taxi-v4", "ppo", {}),
    ],
)
def test_training_leaves_returns_a_plot_and_a_model(environment, method, policy, tmp_path, command):
    stages = [{"method": method, "steps": 2, "options": PPO if method == "ppo" else GRPO}]
    made = recipe(tmp_path, environment, policy={"control": {"hidden": [8], **policy}}, stages=stages)
    called = command("train", made)
    assert called.code == 0, called.err
    assert f"{environment}: 3 held-out episodes" in called.out
    run = tmp_path / "run"
    kept = json.loads((run / "summary.json").read_text())
    for when in ("before", "after"):
        for name in ("return_greedy", "return_sampled"):
            low, high = kept[when][f"{name}_interval"]
            assert low <= kept[when][name] <= high
    assert all(line["gradient_norm/policy"] > 0 for line in tiny.lines(run / "metrics.jsonl"))
    assert any("return" in line or "reward" in line for line in tiny.lines(run / "metrics.jsonl"))
    samples = tiny.lines(run / "samples.jsonl")
    assert samples
    for sample in samples:
        steps = sample["steps"]
        assert len(sample["actions"]) == len(steps["reward"]) == len(sample["observations"]) > 0
        assert len(steps["advantage"]) == len(steps["policy"]) == len(steps["reward"])
    assert (run / "plot.png").is_file()
    again = command("eval", run / "model", "--task", made, "--json")
    assert json.loads(again.out) == kept["after"]
    named = command("eval", run / "model", "--task", environment, "--tasks", 2, "--limit", 5)
    assert "2 held-out episodes" in named.out
    alone = command("eval", run / "model", "--task", environment, "--tasks", 1, "--limit", 5)
    assert alone.code != 0
    assert "one episode says nothing of how returns spread" in alone.err


def test_a_saved_policy_is_trained_further(tmp_path, command):
    made = recipe(tmp_path, policy={"control": {"hidden": [8], "normalise": True}})
    assert command("train", made).code == 0
    shutil.move(tmp_path / "run" / "model", tmp_path / "model")
    called = command("train", made, f"policy.model={tmp_path / 'model'}", f"folder={tmp_path / 'second'}")
    assert called.code == 0, called.err
    first, second = (json.loads((tmp_path / run / "summary.json").read_text()) for run in ("run", "second"))
    assert second["before"] == first["after"]


def test_evaluating_changes_nothing_and_uses_episodes_of_its_own(tmp_path):
    made = recipe(tmp_path, policy={"control": {"hidden": [8], "normalise": True}}, seed=0)
    with build(load_recipe(made)) as built, build(load_recipe(made, ["seed=1"])) as other:
        subject = built.subject
        before = {name: value.clone() for name, value in subject.policy.state_dict().items()}
        one, again = subject.measure(), subject.measure()
        assert one == again
        assert all(torch.equal(before[name], value) for name, value in subject.policy.state_dict().items())
        held = {derive(EVALUATION_SEED, "evaluation", n) >> 32 for n in range(1000)}
        train = [run.worlds["world"].tasks(torch.arange(1000)).row["_seed"] for run in (built.run, other.run)]
        assert not torch.equal(*train)
        streamed = {episode_seed(0, slot, n) for slot in range(4) for n in range(1000)}
        assert not held & {*train[0].tolist(), *train[1].tolist(), *streamed}


# -- recorded data -------------------------------------------------------------------------------------------------
def test_recorded_episodes_are_imitated_and_evaluated_in_the_environment(tmp_path, command):
    made = recipe(tmp_path)
    assert command("train", made).code == 0
    for given in ({"episodes": 4}, {"policy": str(tmp_path / "run" / "model"), "episodes": 5, "reliability": 0.4}):
        (tmp_path / "second").mkdir(exist_ok=True)
        stages = [{"method": "sft", "steps": 3, "options": {"selection.count": 8, "update.learning_rate": 0.01}}]
        tasks = {"gymnasium": "CartPole-v1", "limit": 20, "recorded": given}
        second = recipe(tmp_path / "second", tasks=tasks, stages=stages)
        called = command("train", second)
        assert called.code == 0, called.err
        assert "3 held-out episodes" in called.out
        with build(load_recipe(second)) as built, build(load_recipe(second, ["seed=8"])) as other:
            assert list(built.run.worlds) == ["world", "world, recorded"]
            data, same = (one.run.worlds["world, recorded"] for one in (built, other))
            assert len(data.lengths) == given["episodes"]
            assert torch.equal(data.observations, same.observations)
            assert built.program.stages[0].method.world == "world, recorded"


def test_a_minari_data_set_is_imitated(tmp_path, command):
    world = EnvironmentWorld.make("CartPole-v1", limit=20)
    steps = np.zeros((6, 4), dtype=np.float32)
    episodes = [Episode(steps[: n + 1], np.arange(n) % 2, np.ones(n), terminated=True) for n in (3, 5)]
    where = write_minari(tmp_path / "set" / "data-v0", episodes, world.observation_space, world.action_space)
    stages = [{"method": "sft", "steps": 2, "options": {"selection.count": 2}}]
    tasks = {"gymnasium": "CartPole-v1", "limit": 20, "minari": str(where), "unit": "episode"}
    called = command("train", recipe(tmp_path, tasks=tasks, stages=stages))
    assert called.code == 0, called.err
    assert tiny.lines(tmp_path / "run" / "metrics.jsonl")[0]["length"] == 4


# -- stopping and going on -------------------------------------------------------------------------------------------
@pytest.mark.parametrize("policy", [{"normalise": True}, {"memory": 5}], ids=["normalised", "recurrent"])
def test_a_stopped_run_goes_on_bit_for_bit(policy, tmp_path, command):
    """Also in the middle of an episode: a round ends at step 40 of each environment, an episode at step 30."""
    stages = [{"method": "ppo", "steps": 5, "options": PPO}]
    made = recipe(tmp_path, policy={"control": {"hidden": [8], **policy}}, stages=stages, checkpoint_every=2)
    straight = command("train", made, f"folder={tmp_path / 'straight'}")
    assert straight.code == 0, straight.err
    with Training.start(load_recipe(made)) as training:
        for _ in zip(range(3), training.rounds(), strict=False):
            pass  # left in the middle: round 3 is recorded, but in no checkpoint
    again = command("resume", tmp_path / "run")
    assert again.code == 0, again.err
    assert "resumed at round 2 of 5" in again.out
    assert files(tmp_path / "run") == files(tmp_path / "straight")


def test_the_resolved_recipe_is_the_same_run(tmp_path, command):
    made = recipe(tmp_path)
    assert command("train", made).code == 0
    assert load_recipe(made) == load_recipe(tmp_path / "run" / "recipe.yaml")


# -- mistakes --------------------------------------------------------------------------------------------------------
WRONG = {
    "key of the tasks": ("tasks.frame_stak=2", "unknown key 'tasks.frame_stak'; did you mean 'frame_stack'"),
    "key of the policy": ("policy.control.normalize=true", "did you mean 'normalise'"),
    "key of the evaluation": ("evaluation.episode=2", "did you mean 'episodes'"),
    "environment": ("tasks.gymnasium=CartPole-v2", "no Gymnasium environment has the id 'CartPole-v2'"),
    "head": ("policy.control.head=squashd", "head is one of auto"),
    "head of other actions": ("policy.control.head=squashed", "head 'squashed' is for Box actions"),
    "option of the head": (
        "policy.control={head: categorical, head_options: {log_std: 1}}",
        r"no option \['log_std'\]",
    ),
    "option without effect": ("policy.control.body=cnn", r"policy.control.hidden.*no effect with policy.control.body"),
    "option of an automatic head": ("policy.control.head_options={a: 1}", "no effect with head=auto"),
    "activation": ("policy.control.activation=gelu", "activation is one of"),
    "two policies": ("policy={model: x, control: {}}", "exactly one of policy.model and policy.control"),
    "no model": ("policy.model=nowhere", "has no policy.json"),
    "section of language": ("tasks.verifier=exact", "unknown key 'tasks.verifier'"),
    "method for other data": ("stages=[{method: sft, steps: 1}]", "recorded"),
    "data without a reader": ("tasks.recorded={episodes: 3}", "tasks.recorded has no effect"),
    "reliability of nobody": (
        "tasks.recorded={episodes: 3, reliability: 0.5}",
        "no effect with an untrained policy",
    ),
    "unit without data": ("tasks.unit=episode", "no effect with an environment alone"),
    "two data sets": ("tasks={gymnasium: CartPole-v1, minari: x, recorded: {}}", "tasks.recorded and tasks.segments"),
    "pairs": ("stages=[{method: dpo, steps: 1}]", "recorded"),
    "option of the method": ("sampling.horizons=3", "Did you mean 'sampling.horizon'"),
    "models without effect": ("models.teacher=x", "have no effect"),
}


@pytest.mark.parametrize("case", WRONG)
def test_a_wrong_change_is_refused_before_anything_is_made(case, tmp_path):
    change, message = WRONG[case]
    with pytest.raises((CompositionError, ValueError), match=message):
        build(load_recipe(recipe(tmp_path), [change]))
    assert not (tmp_path / "run").exists()


def test_a_misspelt_source_of_tasks_names_the_sources_of_all_kinds(tmp_path):
    data = yaml.safe_load(recipe(tmp_path).read_text())
    del data["policy"]
    data["tasks"] = {"gymnasum": "CartPole-v1"}
    with pytest.raises(CompositionError, match="did you mean 'gymnasium'"):
        make_recipe(data)


def test_a_policy_for_another_environment_is_refused(tmp_path, command):
    assert command("train", recipe(tmp_path)).code == 0
    called = command("eval", tmp_path / "run" / "model", "--task", "Pendulum-v1")
    assert called.code == 2
    assert "the policy sees" in called.err
    called = command("eval", tmp_path / "run" / "model", "--task", "CartPole-v1", "--samples", 8)
    assert "have no effect for agents" in called.err


BROKEN = """
import gymnasium, numpy as np

class Broken(gymnasium.Env):
    observation_space, action_space = gymnasium.spaces.Box(-1, 1, (2,)), gymnasium.spaces.Discrete(2)
    def __init__(self, seen, paid): self.seen, self.paid = seen, paid
    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.time = 0
        return np.zeros(2, np.float32), {}
    def step(self, action):
        self.time += 1
        bad = self.time == 5
        return np.full(2, self.seen * bad, np.float32), self.paid if bad else 1.0, self.time > 9, False, {}

gymnasium.register("Blind-v0", lambda **_: Broken(np.inf, 1.0))
gymnasium.register("Unpaid-v0", lambda **_: Broken(0.0, float("nan")))
"""


@pytest.mark.filterwarnings("ignore:invalid value encountered:RuntimeWarning", "ignore::UserWarning")
def test_numbers_of_an_environment_that_are_not_finite_are_named(tmp_path, command, monkeypatch):
    (tmp_path / "broken_worlds.py").write_text(BROKEN)
    monkeypatch.syspath_prepend(tmp_path)
    blind = command("train", recipe(tmp_path, "broken_worlds:Blind-v0", evaluation=None))
    assert blind.code == 2, blind.out
    assert "observations are not finite; mend the environment" in blind.err
    unpaid = command("train", recipe(tmp_path, "broken_worlds:Unpaid-v0"))
    assert unpaid.code == 2, unpaid.out
    assert "3 of 3 held-out episodes have a return that is none; mend the environment's step" in unpaid.err


# -- our recipes -----------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.stem)
def test_our_recipes_build_and_train(path, command, tmp_path):
    small = ["steps=1", "evaluation.episodes=2", "tasks.limit=20", f"folder={tmp_path / 'run'}"]
    given = load_recipe(path)
    options = given.stages[-1].options
    if len(given.stages) > 1:
        small += ["stages.0.steps=1"]
    if given.tasks.recorded is not None:
        small += ["tasks.recorded={episodes: 3}"]
    if "sampling" in options:
        small += ["sampling.horizon=64"]
    if "update.minibatches" in options:
        small += ["update.minibatches=2"]
    if given.kind == "diffusion":
        small += ["selection.count=4"]
    called = command("train", path, *small)
    assert called.code == 0, called.err
