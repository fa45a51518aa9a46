"""Diffusion and flow models from the command line: train, stop, go on, save, evaluate; what is refused."""

import json
import shutil
import warnings
from pathlib import Path

import numpy as np
import pytest
import tiny
import torch
import yaml

from policyopt.compose import CompositionError
from policyopt.evaluation.samples import Data, variety
from policyopt.policies.denoising_checkpoint import (
    ChainSpec,
    DenoiserFolderError,
    DenoiserSpec,
    load_denoiser,
    save_denoiser,
)
from policyopt.recipe.build import build
from policyopt.recipe.schema import load_recipe
from policyopt.recipe.training import Training

RECIPES = sorted((Path(__file__).parents[2] / "recipes" / "denoising").glob("*.yaml"))
GRPO = {"selection.count": 3, "sampling.size": 4, "constraint.kl.weight": 0, "update.learning_rate": 0.001}
POINTS = {"points": "eight_gaussians", "size": 64, "reward": "near_mode", "reward_options": {"target": 2}}
IMAGES = {"images": "shapes", "side": 4, "size": 32, "reward": "symmetry"}


def recipe(path, tasks=POINTS, **changes):
    data = {
        "name": "denoiser",
        "seed": 3,
        "policy": {"denoising": {"width": 16, "depth": 2}, "chain": {"steps": 4}, "device": "cpu"},
        "tasks": tasks,
        "stages": [
            {"method": "flow_matching", "steps": 4, "options": {"selection.count": 16}},
            {"method": "grpo", "steps": 3, "options": GRPO},
        ],
        "evaluation": {"samples": 20},
        "folder": str(path / "run"),
        **changes,
    }
    (path / "r.yaml").write_text(yaml.safe_dump(data))
    return path / "r.yaml"


def files(run):
    return tiny.files(run, "model/denoiser.json", "model/denoiser.safetensors")


# -- a run ---------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("tasks", "body", "chain"),
    [
        (POINTS, "auto", {}),
        ({**POINTS, "conditioned": True}, "mlp", {"density": "summed", "guidance": 1.5}),
        ({"points": "two_moons", "size": 64, "reward": "right_of"}, "auto", {"path": "diffusion", "eta": 1.0}),
        ({"points": "checkerboard", "size": 64, "reward": "right_of"}, "auto", {}),
        (IMAGES, "auto", {}),
        ({**IMAGES, "conditioned": True}, "transformer", {}),
    ],
    ids=["points", "conditioned", "diffusion", "checkerboard", "images", "transformer"],
)
def test_training_leaves_rewards_a_plot_and_a_model(tasks, body, chain, tmp_path, command):
    policy = {"denoising": {"width": 16, "depth": 2, "body": body}, "chain": {"steps": 4, **chain}, "device": "cpu"}
    made = recipe(tmp_path, tasks, policy=policy)
    called = command("train", made)
    assert called.code == 0, called.err
    assert "20 fresh samples" in called.out
    run = tmp_path / "run"
    kept = json.loads((run / "summary.json").read_text())
    names = ["reward", *(["modes", "near_data"] if "points" in tasks else [])]
    for when in ("before", "after"):
        for name in names:
            low, high = kept[when][f"{name}_interval"]
            assert low <= kept[when][name] <= high
    lines = tiny.lines(run / "metrics.jsonl")
    assert all(line["gradient_norm/policy"] > 0 for line in lines)
    assert ["reward" in line for line in lines] == [False] * 4 + [True] * 3
    for sample in tiny.lines(run / "samples.jsonl"):
        steps = len(sample["steps"]["kind"])
        if "points" in tasks:
            assert len(sample["points"]) == steps
        else:
            assert [at for at, _ in sample["images"]][-1] == steps - 1
            assert all(image.startswith("data:image/png;base64,") for _, image in sample["images"])
    assert (run / "plot.png").is_file()
    again = command("eval", run / "model", "--task", made, "--json")
    assert json.loads(again.out) == kept["after"]


def test_a_saved_policy_is_trained_further_with_another_chain(tmp_path, command):
    made = recipe(tmp_path)
    assert command("train", made).code == 0
    shutil.move(tmp_path / "run" / "model", tmp_path / "model")
    change = (f"policy.model={tmp_path / 'model'}", f"folder={tmp_path / 'second'}")
    assert command("train", made, *change).code == 0
    first, second = (json.loads((tmp_path / run / "results" / "after.json").read_text()) for run in ("run", "second"))
    assert first["over"] == second["over"]
    with build(load_recipe(made, [*change, "policy.chain.steps=7"])) as built:
        assert built.policy.chain.steps == 7
        assert built.run.worlds["world"].limit == 8
        assert built.run.worlds["world, recorded"].size == 64
        assert built.run.worlds["world"].size == 1


def test_a_stopped_run_goes_on_bit_for_bit(tmp_path, command):
    made = recipe(tmp_path, checkpoint_every=2)
    straight = command("train", made, f"folder={tmp_path / 'straight'}")
    assert straight.code == 0, straight.err
    for rounds in (3, 5):
        run = tmp_path / f"stopped-{rounds}"
        with Training.start(load_recipe(made, [f"folder={run}"])) as training:
            for _ in zip(range(rounds), training.rounds(), strict=False):
                pass
        again = command("resume", run)
        assert again.code == 0, again.err
        assert files(run) == files(tmp_path / "straight")


def test_the_initial_noise_alone_is_trained_and_saved(tmp_path, command):
    made = recipe(tmp_path)
    assert command("train", made).code == 0
    (tmp_path / "second").mkdir()
    policy = {"model": str(tmp_path / "run" / "model"), "chain": {"eta": 0}, "trains": "prior", "device": "cpu"}
    stages = [{"method": "find", "steps": 3, "options": {"sampling.size": 8}}]
    second = recipe(tmp_path / "second", policy=policy, stages=stages)
    called = command("train", second)
    assert called.code == 0, called.err
    model = tmp_path / "second" / "run" / "model"
    first, _ = load_denoiser(tmp_path / "run" / "model")
    tuned, spec = load_denoiser(model)
    assert spec.learned_prior
    for name, value in first.network.state_dict().items():
        assert torch.equal(value, tuned.network.state_dict()[name])
    assert not torch.equal(tuned.prior.mean, torch.zeros(2))
    kept = json.loads((tmp_path / "second" / "run" / "summary.json").read_text())["after"]
    assert json.loads(command("eval", model, "--task", second, "--json").out) == kept


# -- diffusers folders ---------------------------------------------------------------------------------------------
@pytest.fixture(scope="module")
def pipeline(tmp_path_factory):
    """A tiny class-conditional model of images, as diffusers saves it."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # what the library warns of when it is imported is not ours
        diffusers = pytest.importorskip("diffusers")
    torch.manual_seed(0)
    unet = diffusers.UNet2DModel(
        sample_size=8,
        layers_per_block=1,
        block_out_channels=(8, 16),
        norm_num_groups=4,
        attention_head_dim=8,
        down_block_types=("DownBlock2D", "AttnDownBlock2D"),
        up_block_types=("AttnUpBlock2D", "UpBlock2D"),
        num_class_embeds=3,
    )
    folder = tmp_path_factory.mktemp("pipeline")
    diffusers.DDIMPipeline(unet, diffusers.DDIMScheduler(num_train_timesteps=1000)).save_pretrained(folder)
    return folder


@pytest.mark.parametrize("lora", [None, {"rank": 2, "alpha": 4}], ids=["full", "lora"])
def test_a_diffusers_folder_is_trained_and_saved_as_one(lora, pipeline, tmp_path, command):
    policy = {"model": str(pipeline), "chain": {"steps": 4, "eta": 1.0}, "device": "cpu"}
    stages = [{"method": "grpo", "steps": 2, "options": {**GRPO, "update.learning_rate": 1e-3}}]
    tasks = {"pipeline": 3, "reward": "colour_share", "reward_options": {"colour": [1, 0, 0], "within": 1.5}}
    made = recipe(tmp_path, tasks, policy={**policy, **({"lora": lora} if lora else {})}, stages=stages)
    called = command("train", made)
    assert called.code == 0, called.err
    model = tmp_path / "run" / "model"
    assert (model / "model_index.json").is_file()
    assert (model / "adapter").is_dir() == (lora is not None)
    kept = json.loads((tmp_path / "run" / "summary.json").read_text())
    assert kept["before"] != kept["after"]
    again = json.loads(command("eval", model, "--task", made, "--json").out)
    assert again["reward"] == pytest.approx(kept["after"]["reward"], abs=1e-4)  # adapters are merged
    for change, message in (
        ("policy.chain.path=diffusion", r"\['path'\] are the scheduler's"),
        ("tasks={images: shapes, side: 4, reward: symmetry}", "makes samples of shape"),
        ("tasks.pipeline=5", "these tasks give 5 classes"),
        ("tasks.pipeline=nowhere.npy", "can not be read"),
        ("tasks.size=64", "no effect with tasks.pipeline"),
        ("method=flow_matching", "tasks.pipeline has none"),
        ("policy={denoising: {}}", "is for a diffusers folder"),
    ):
        with pytest.raises(CompositionError, match=message):
            build(load_recipe(made, ["stages.0.options={}", change]))


# -- measures ------------------------------------------------------------------------------------------------------
def test_variety_is_the_effective_share_of_modes():
    assert variety(np.array([5, 5, 5, 5])) == pytest.approx(1)
    assert variety(np.array([9, 0, 0, 0])) == pytest.approx(0.25)
    assert variety(np.array([3, 3, 0, 0])) == pytest.approx(0.5)
    assert variety(np.array([1, 3])) == pytest.approx(np.exp(0.25 * np.log(4) + 0.75 * np.log(4 / 3)) / 2)


def test_nearness_is_judged_by_fresh_data():
    line = torch.arange(200.0)[:, None].expand(-1, 2)
    samples = torch.cat([line, line + 0.5])  # the second half is 0.5 * sqrt(2) from the first
    data = Data.of(samples, torch.arange(400) // 100, 4)
    assert data.near == pytest.approx(0.5 * 2**0.5)
    mode, near = data.nearest(torch.tensor([[3.1, 3.1], [150.0, 150.2], [-4.0, 0.0]]))
    assert mode.tolist() == [0, 1, 0]
    assert near.tolist() == [True, True, False]


# -- folders -------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    "spec",
    [
        DenoiserSpec((2,), width=16, depth=2, classes=3),
        DenoiserSpec((3, 4, 4), "unet", 16, chain=ChainSpec("diffusion", 5, 1.0, guidance=2.0)),
        DenoiserSpec((1, 4, 4), "transformer", 16, 1),
    ],
    ids=["mlp", "unet", "transformer"],
)
def test_a_folder_opens_as_the_same_policy(spec, tmp_path):
    policy = spec.make(5)
    save_denoiser(policy, spec, tmp_path / "a")
    again, read = load_denoiser(tmp_path / "a")
    assert read == spec
    assert all(torch.equal(value, again.state_dict()[name]) for name, value in policy.state_dict().items())
    save_denoiser(again, read, tmp_path / "b")
    for name in ("denoiser.json", "denoiser.safetensors"):
        assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes()


def test_folders_that_are_no_policies(tmp_path):
    spec = DenoiserSpec((2,), width=16)
    save_denoiser(spec.make(), spec, tmp_path / "a")
    with pytest.raises(DenoiserFolderError, match=r"has no denoiser\.json"):
        load_denoiser(tmp_path / "nowhere")
    for old, new in (('"width": 16', '"width": 24'), ('"width"', '"breadth"'), ('"version": 1', '"version": 2')):
        shutil.copytree(tmp_path / "a", tmp_path / "b", dirs_exist_ok=True)
        text = (tmp_path / "b" / "denoiser.json").read_text()
        assert old in text
        (tmp_path / "b" / "denoiser.json").write_text(text.replace(old, new))
        with pytest.raises(DenoiserFolderError, match="can not be opened"):
            load_denoiser(tmp_path / "b")


# -- mistakes --------------------------------------------------------------------------------------------------------
WRONG = {
    "key of the tasks": ("tasks.rewards=x", "unknown key 'tasks.rewards'; did you mean 'reward'"),
    "key of the chain": ("policy.chain.step=3", "did you mean 'steps'"),
    "key of the policy": ("policy.denoising.widht=3", "did you mean 'width'"),
    "reward": ("tasks.reward=near_mod", "unknown reward 'near_mod'; did you mean 'near_mode'"),
    "reward that is not there": ("tasks.reward=nowhere:none", "cannot be imported"),
    "option of the reward": ("tasks.reward_options={sharp: 2}", r"near_mode has no option \['sharp'\]"),
    "option that is needed": ("tasks={images: shapes, reward: colour_share}", r"needs \['colour'\]"),
    "reward without need": ("tasks.reward=null", "reward_options"),
    "no reward": ("tasks={points: two_moons}", "needs rewards, but the tasks have none"),
    "option of other samples": ("tasks.side=6", r"tasks.side.* no effect with tasks.points"),
    "option of another path": ("policy.chain.times=6", r"policy.chain.times.*no effect with path=flow"),
    "prior of nothing": ("policy.trains=prior", "needs a trained network"),
    "two sources": ("tasks.images=shapes", "exactly one of tasks.points, tasks.images and"),
    "body of other samples": ("policy.denoising.body=unet", "does not denoise samples of shape"),
    "no model": ("policy.model=nowhere", r"has no denoiser\.json"),
    "pairs": ("stages=[{method: dpo, steps: 1}]", "recorded pairs"),
    "nothing to measure": ("tasks={images: shapes}", "nothing can be measured"),
}


@pytest.mark.parametrize("case", WRONG)
def test_a_wrong_change_is_refused_before_anything_is_made(case, tmp_path):
    change, message = WRONG[case]
    with pytest.raises((CompositionError, ValueError), match=message):
        build(load_recipe(recipe(tmp_path), [change]))
    assert not (tmp_path / "run").exists()


def test_images_without_a_reward_can_not_be_measured(tmp_path):
    stages = [{"method": "flow_matching", "steps": 1}]
    made = recipe(tmp_path, {"images": "shapes", "side": 4, "size": 32}, stages=stages)
    with pytest.raises(CompositionError, match="nothing can be measured"):
        build(load_recipe(made))
    with build(load_recipe(made, ["evaluation=null"])) as built:
        assert built.subject.measure() is None


def test_a_policy_for_other_samples_is_refused(tmp_path, command):
    assert command("train", recipe(tmp_path)).code == 0
    (tmp_path / "other").mkdir()
    other = recipe(tmp_path / "other", IMAGES)
    called = command("eval", tmp_path / "run" / "model", "--task", other)
    assert called.code == 2
    assert "makes samples of shape (2,)" in called.err
    called = command("eval", tmp_path / "run" / "model", "--task", "CartPole-v1")
    assert "give a recipe, not 'CartPole-v1'" in called.err
    called = command("eval", tmp_path / "run" / "model", "--task", tmp_path / "r.yaml", "--limit", 3)
    assert "no effect" in called.err


# -- our recipes -----------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.stem)
def test_our_recipes_build_and_train(path, command, tmp_path):
    given = load_recipe(path)
    small = [f"stages.{n}.steps=1" for n in range(len(given.stages))]
    if given.policy.model is not None:  # of another recipe's run
        spec = DenoiserSpec((2,), width=16)
        save_denoiser(spec.make(), spec, tmp_path / "model")
        small += [f"policy.model={tmp_path / 'model'}"]
    called = command("train", path, *small, "evaluation.samples=20", f"folder={tmp_path / 'run'}", "policy.device=cpu")
    assert called.code == 0, called.err
