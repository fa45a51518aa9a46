"""The classical pipeline from one recipe: imitation, a reward model, and methods that continue the same policy."""

import json

import pytest
import torch
import yaml
from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification

from policyopt.compose import MissingModelError
from policyopt.policies.reward_checkpoint import holds_reward, load_reward
from policyopt.recipe.build import build
from policyopt.recipe.schema import RecipeError, load_recipe, make_recipe

TASKS = {
    "reasoning_gym": "spell_backward",
    "options": {"min_word_len": 3, "max_word_len": 4},
    "prompt": "{word} =",
    "size": 200,
    "limit": 6,
    "verifier": "similarity",
    "demonstrations": {"reliability": 0.3, "mistake": ["swap_two", "drop_one"], "again": 0.3},
    "preferences": {"temperature": 0.1},
}
POLICY = {"device": "cpu", "new": {"hidden_size": 16, "layers": 1, "heads": 2, "positions": 16}}
SMALL = {"selection.count": 6, "update.policy.learning_rate": 0.01}
PROXY = {"reward": "model_reward"}


def stages():
    return [
        {"name": "sft", "method": "sft", "steps": 2, "options": SMALL},
        {"method": "reward_model", "steps": 2, "options": {"selection.count": 6, "update.learning_rate": 0.01}},
        {"name": "ppo", "method": "ppo", "steps": 2, "start_from": "sft", "options": {**SMALL, **PROXY}},
        {"name": "grpo", "method": "grpo", "steps": 1, "start_from": "sft", "options": {**SMALL, **PROXY}},
        {"name": "dpo", "method": "dpo", "steps": 2, "start_from": "sft", "options": SMALL},
    ]


def recipe(path, **changes):
    data = {
        "name": "tiny",
        "policy": POLICY,
        "tasks": TASKS,
        "stages": stages(),
        "evaluation": {"tasks": 5, "samples": 8},
        "folder": str(path / "run"),
        **changes,
    }
    (path / "r.yaml").write_text(yaml.safe_dump(data), encoding="utf-8")
    return path / "r.yaml"


def test_one_command_runs_the_pipeline_and_reports_what_it_compared(tmp_path, command):
    called = command("train", recipe(tmp_path))
    assert called.code == 0, called.err
    run = tmp_path / "run"
    found = json.loads((run / "results" / "branches.json").read_text())
    assert found["measures"] == ["gold reward", "proxy reward (reward)", "length", "KL to the start"]
    by_name = {said["name"]: said for said in found["branches"]}
    assert list(by_name) == ["sft", "ppo", "grpo", "dpo"]
    assert "KL to the start" not in by_name["sft"]
    assert [said["begins"] for said in found["branches"]] == [None, "sft", "sft", "sft"]
    for said in found["branches"]:
        low, high = said["gold reward"]["interval"]
        assert 0 <= said["gold reward"]["mean"] <= 1
        assert said["gold reward"]["tasks"] == 5
        assert low <= high
    assert len(found["differences"]) == 6
    assert found["reward_models"]["reward"]["pairs"] == 5
    page = (run / "report.md").read_text()
    assert "| sft | sft | 0." in page
    assert "gold reward, sft - ppo:" in page
    assert "gold reward, sft - ppo:" in called.out
    # Every branch and the reward model open as ordinary folders.
    weights = {}
    for name in by_name:
        opened = AutoModelForCausalLM.from_pretrained(run / "models" / name)
        weights[name] = torch.cat([p.detach().flatten() for p in opened.parameters()])
    assert all(not torch.equal(weights["sft"], weights[name]) for name in ("ppo", "grpo", "dpo"))
    last = AutoModelForCausalLM.from_pretrained(run / "model")
    assert torch.equal(weights["dpo"], torch.cat([p.detach().flatten() for p in last.parameters()]))
    AutoModelForSequenceClassification.from_pretrained(run / "models" / "reward")
    assert holds_reward(run / "models" / "reward")
    assert not holds_reward(run / "models" / "sft")
    assert json.loads((run / "summary.json").read_text())["before"]["tasks"] == 5
    _a_reward_model_is_given_by_its_folder(tmp_path, run, command)


def _a_reward_model_is_given_by_its_folder(tmp_path, run, command):
    saved = load_reward(run / "models" / "reward")
    changed = recipe(
        tmp_path,
        policy={"device": "cpu", "model": str(run / "models" / "sft")},
        tasks={name: said for name, said in TASKS.items() if name not in ("demonstrations", "preferences")},
        models={"reward": str(run / "models" / "reward")},
        stages=[{"method": "grpo", "steps": 1, "options": {**SMALL, **PROXY}}],
        folder=str(tmp_path / "other"),
    )
    with build(load_recipe(changed)) as built:
        model = built.run.models["reward"]
        assert not any(p.requires_grad for p in model.parameters())
        for name, tensor in saved.state_dict().items():
            assert torch.equal(model.state_dict()[name], tensor)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ("stages.2.start_from=sftt", "start_from='sftt' is no earlier stage"),
        ("stages.2.name=sft", "two stages are named 'sft'"),
        ("stages.0.steps=0", "start_from='sft' is no earlier stage"),
        ("tasks.demonstrations=null", "tasks.preferences compares demonstrations"),
    ],
)
def test_branches_and_pairs_of_nothing_are_refused(change, said, tmp_path):
    data = yaml.safe_load(recipe(tmp_path).read_text())
    with pytest.raises(RecipeError, match=said):
        make_recipe(data, [change])


def test_a_reward_model_that_no_stage_makes_is_asked_for(tmp_path):
    made = recipe(tmp_path, stages=[stage for stage in stages() if stage["method"] != "reward_model"])
    with pytest.raises(MissingModelError, match=r"models\.reward .*earlier stage"):
        build(load_recipe(made))
