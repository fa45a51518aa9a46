"""Diffusion policies from the command line: clone, tune, stop, go on, save, evaluate; what is refused."""

import json
import shutil
from pathlib import Path

import gymnasium
import numpy as np
import pytest
import tiny
import torch
import yaml

from policyopt.policies.diffusion_policy import (
    DiffusionPolicyFolderError,
    DiffusionPolicySpec,
    load_diffusion_policy,
    save_diffusion_policy,
)
from policyopt.recipe.build import build
from policyopt.recipe.diffusion.kind import chunks
from policyopt.recipe.diffusion.sections import DiffusionRecipe
from policyopt.recipe.schema import RecipeError, load_recipe
from policyopt.recipe.training import Training
from policyopt.worlds.recordings import Episode, Recording

DPPO = {"selection.count": 3, "update.minibatches": 2, "update.epochs": 2}
TASKS = {"gymnasium": "Pendulum-v1", "limit": 9, "recorded": {"episodes": 4}}


def recipe(path, **changes):
    data = {
        "name": "robot",
        "seed": 3,
        "policy": {"diffusion": {"chunk": 2, "steps": 3, "width": 16}},
        "tasks": TASKS,
        "stages": [
            {"method": "flow_matching", "steps": 3, "options": {"selection.count": 16}},
            {"method": "dppo", "steps": 3, "options": DPPO},
        ],
        "evaluation": {"episodes": 3},
        "folder": str(path / "run"),
        **changes,
    }
    (path / "r.yaml").write_text(yaml.safe_dump(data))
    return path / "r.yaml"


def files(run):
    return tiny.files(run, "model/diffusion_policy.json", "model/diffusion_policy.safetensors")


def test_a_clone_is_tuned_saved_and_evaluated(tmp_path, command):
    called = command("train", recipe(tmp_path))
    assert called.code == 0, called.err
    run = tmp_path / "run"
    kept = json.loads((run / "summary.json").read_text())
    for when in ("before", "after"):
        assert kept[when]["length_sampled"] == 9
        assert kept[when]["return_sampled"] < 0
    sample = json.loads((run / "samples.jsonl").read_text().splitlines()[-1])
    assert [len(sample["observations"]), len(sample["observations"][0])] == [sample["length"], 3]
    assert [len(sample["actions"]), len(sample["actions"][0])] == [sample["length"], 2]
    policy, spec = load_diffusion_policy(run / "model")
    assert (spec.chunk, spec.low, spec.high) == (2, (-2.0,), (2.0,))
    assert len(spec.centre) == len(spec.spread) == policy.network.conditions.features == 3
    called = command("eval", run / "model", "--task", recipe(tmp_path))
    assert called.code == 0, called.err
    low, high = kept["after"]["return_sampled_interval"]
    assert f"{kept['after']['return_sampled']:.0f}  [{low:.0f}, {high:.0f}]" in called.out


def test_a_stopped_run_goes_on_bit_for_bit(tmp_path, command):
    made = recipe(tmp_path, checkpoint_every=2)
    assert command("train", made, f"folder={tmp_path / 'straight'}").code == 0
    run = tmp_path / "stopped"
    with Training.start(load_recipe(made, [f"folder={run}"])) as training:
        for _ in zip(range(5), training.rounds(), strict=False):
            pass
    again = command("resume", run)
    assert again.code == 0, again.err
    assert files(run) == files(tmp_path / "straight")


def test_the_first_steps_of_a_saved_policy_stay_as_they_were(tmp_path, command):
    assert command("train", recipe(tmp_path)).code == 0
    clone = tmp_path / "clone"
    shutil.move(tmp_path / "run" / "model", clone)
    stages = [{"method": "dppo", "steps": 2, "options": DPPO}]
    tasks = {name: value for name, value in TASKS.items() if name != "recorded"}
    given = recipe(tmp_path, policy={"model": str(clone), "last": 2}, tasks=tasks, stages=stages, folder=None)
    assert isinstance(load_recipe(given), DiffusionRecipe)
    assert command("train", given, "--folder", tmp_path / "tuned").code == 0
    before, _ = load_diffusion_policy(clone)
    after, spec = load_diffusion_policy(tmp_path / "tuned" / "model")
    assert spec.last == 2
    for name, value in before.network.state_dict().items():
        assert torch.equal(after.network.early.state_dict()[name], value)
    moved = [not torch.equal(after.network.late.state_dict()[n], v) for n, v in before.network.state_dict().items()]
    assert any(moved)
    with pytest.raises(DiffusionPolicyFolderError, match="last 2 steps were trained; it can not train the last 1"):
        load_diffusion_policy(tmp_path / "tuned" / "model", last=1)


def test_chunks_are_runs_of_one_episode_given_what_was_seen_before_them():
    def episode(first: int, steps: int) -> Episode:
        seen = np.arange(first, first + steps + 1, dtype=np.float32)[:, None]
        return Episode(seen, seen[:-1] / 10, np.zeros(steps), terminated=False)

    spec = DiffusionPolicySpec((1,), (0.0,), (10.0,), chunk=3)
    world = chunks(Recording([episode(0, 4), episode(50, 2), episode(70, 3)]), spec)
    assert world.size == 3
    rows = world.recorded(world.tasks(torch.arange(3)))
    assert rows.row["_obs"][:, 0].tolist() == [0, 1, 70]
    expected = torch.tensor([[0.0, 0.1, 0.2], [0.1, 0.2, 0.3], [7.0, 7.1, 7.2]]) / 5 - 1
    torch.testing.assert_close(rows.row["_latent"], expected)
    with pytest.raises(RecipeError, match="no recorded episode is as long as a sample of 3 actions"):
        chunks(Recording([episode(0, 2)]), spec)


def test_actions_beyond_the_bounds_are_clipped_and_come_back():
    spec = DiffusionPolicySpec((1,), (-2.0, 0.0), (2.0, 10.0))
    action = torch.tensor([[-2.0, 0.0], [1.0, 7.5], [3.0, -4.0]])
    assert spec.receive(action).tolist() == [[-1, -1], [0.5, 0.5], [1, -1]]
    torch.testing.assert_close(spec.emit()(spec.receive(action[:2])), action[:2])


def test_conditions_are_read_as_the_recorded_ones_are_spread():
    """The network of a spec with centre and spread is the plain one on standardised observations."""
    plain = DiffusionPolicySpec((2,), (-1.0,), (1.0,), width=16)
    scaled = DiffusionPolicySpec((2,), (-1.0,), (1.0,), width=16, centre=(3.0, -1.0), spread=(2.0, 0.5))
    a, b = plain.make(5).network, scaled.make(5).network
    latent, time, seen = torch.randn(4, 1), torch.full((4,), 3.0), torch.randn(4, 2)
    raw = seen * torch.tensor([2.0, 0.5]) + torch.tensor([3.0, -1.0])
    torch.testing.assert_close(b(latent, time, raw), a(latent, time, seen))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"tasks": {"gymnasium": "CartPole-v1", "recorded": {}}}, "a vector of bounded actions; CartPole-v1"),
        ({"tasks": {"gymnasium": "Pendulum-v1"}}, "learns from recorded episodes, but the tasks are an environment"),
        ({"policy": {"diffusion": {}, "last": 2}}, "nothing to freeze"),
        ({"tasks": {**TASKS, "unit": "episode"}}, "learns chunks of actions"),
        ({"stages": [{"method": "dppo", "steps": 1}]}, "tasks.recorded has no effect"),
        ({"stages": [{"method": "sac", "steps": 1}]}, "does not run on denoising policies"),
        ({"policy": {"diffusion": {"chunk": 20}}}, "as long as a sample of 20 actions"),
    ],
)
def test_what_can_not_be_is_said_before_training(changes, message, tmp_path):
    with pytest.raises(RecipeError, match=message), build(load_recipe(recipe(tmp_path, **changes))):
        pass


def test_a_broken_folder_says_what_is_wrong(tmp_path):
    spec = DiffusionPolicySpec((3,), (-2.0,), (2.0,), width=16)
    save_diffusion_policy(spec.make(), spec, tmp_path / "a")
    with pytest.raises(DiffusionPolicyFolderError, match=r"has no diffusion_policy.json"):
        load_diffusion_policy(tmp_path)
    said = tmp_path / "a" / "diffusion_policy.json"
    said.write_text(said.read_text().replace('"width": 16', '"width": 32'))
    with pytest.raises(DiffusionPolicyFolderError, match="can not be opened as a diffusion policy: RuntimeError"):
        load_diffusion_policy(tmp_path / "a")


def test_another_environment_is_refused(tmp_path, command):
    assert command("train", recipe(tmp_path)).code == 0
    assert gymnasium.spec("MountainCarContinuous-v0") is not None
    called = command("eval", tmp_path / "run" / "model", "--task", "MountainCarContinuous-v0")
    assert called.code != 0
    assert "Use the environment it was made for" in called.err


def test_the_recipe_in_the_repository_is_one():
    path = Path(__file__).parents[2] / "recipes" / "control" / "dppo_pendulum.yaml"
    assert isinstance(load_recipe(path), DiffusionRecipe)
