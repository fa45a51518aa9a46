"""OPPO of language from a recipe: it trains, its folder writes alike, runs go on, wrong recipes are refused."""

import copy
from typing import Any

import pytest
import tiny
import torch

from policyopt.policies.checkpoint import load_language
from policyopt.recipe.base import RecipeError
from policyopt.recipe.build import build
from policyopt.recipe.schema import load_recipe
from policyopt.train import rounds

FEW = {
    "selection.count": 4,
    "update.optimizers.policy.learning_rate": 0.01,
    "update.optimizers.wish.learning_rate": 0.1,
}
SHIPPED = tiny.Path(__file__).parents[2] / "recipes" / "preferences" / "oppo.yaml"
SMALL = [
    "policy.new.hidden_size=16", "policy.new.layers=1", "policy.new.heads=2", "policy.new.intermediate_size=32",
    "policy.device=cpu", "tasks.size=200", "stages.0.steps=1", "stages.1.steps=2", "selection.count=4",
    "evaluation.tasks=8", "evaluation.samples=8",
]  # fmt: skip


@pytest.fixture(scope="module")
def policy(tmp_path_factory):
    return str(tiny.folder(tmp_path_factory.mktemp("models") / "policy", "llama", 0, 160))


def recipe(path, policy, stages=None, hindsight=3, **section):
    given = tiny.jsonl(path / "tasks.jsonl", tiny.preferences())
    section = {"model": policy, **({} if hindsight is None else {"hindsight": {"size": hindsight}}), **section}
    stages = stages or [{"method": "oppo", "steps": 4, "options": FEW}]
    return tiny.recipe(path / "r.yaml", section, {"jsonl": str(given)}, stages=stages, evaluation={"tasks": 4})


def test_the_recipe_that_ships_trains_and_its_model_writes_as_the_policy_does(tmp_path, command):
    called = command("train", SHIPPED, *SMALL, "--folder", tmp_path / "run")
    assert called.code == 0, called.err
    found = tiny.lines(tmp_path / "run" / "metrics.jsonl")[-1]
    assert {"loss/hindsight", "loss/preference", "loss/length", "loss/wish", "wish/accuracy"} <= found.keys()
    assert not load_language(tmp_path / "run" / "model").causal.config.tie_word_embeddings


def test_a_run_goes_on_from_its_state_and_the_policy_follows_the_place(policy, tmp_path):
    asked = load_recipe(recipe(tmp_path, policy))
    with build(asked) as one, build(asked) as other:
        for number, _ in enumerate(rounds(one.run, one.program)):
            if number == 1:
                state = copy.deepcopy(one.run.state())
        other.run.load_state(state, other.program)
        for _ in rounds(other.run, other.program):
            pass
        ours, theirs = (dict[str, Any](built.run.models) for built in (one, other))
        for name in ("policy", "wish"):
            for mine, its in zip(ours[name].parameters(), theirs[name].parameters(), strict=True):
                assert torch.equal(mine, its)
        for models in (ours, theirs):
            assert torch.equal(models["policy"].place, models["wish"].place.detach())
            assert not torch.equal(models["wish"].place, state["models"]["wish"]["place"])


def test_held_out_pairs_are_compared_under_the_place(policy, tmp_path, command):
    called = command("train", recipe(tmp_path, policy, lora={"rank": 2}))
    assert called.code == 0, called.err
    assert 0 <= tiny.json.loads((tmp_path / "run" / "summary.json").read_text())["after"]["preference_accuracy"] <= 1


@pytest.mark.parametrize(
    ("stages", "hindsight", "said"),
    [
        (None, None, r"acts under codes of recorded rows.*give policy.hindsight: \{size: 8\}"),
        ([{"method": "dpo", "steps": 1}], 3, "policy.hindsight has no effect: no stage learns codes"),
        (None, 0, "policy.hindsight.size must be at least 1, got 0"),
    ],
)
def test_recipes_that_lack_codes_or_do_not_use_them_are_refused(stages, hindsight, said, policy, tmp_path):
    with pytest.raises(RecipeError, match=said):
        build(load_recipe(recipe(tmp_path, policy, stages, hindsight)))


def test_agents_of_recipes_have_no_codes(tmp_path):
    asked = {"control": {"hidden": [4]}, "device": "cpu"}
    tasks = {"gymnasium": "Pendulum-v1", "limit": 5}
    path = tiny.recipe(tmp_path / "r.yaml", asked, tasks, stages=[{"method": "oppo", "steps": 1}], evaluation=None)
    with pytest.raises(RecipeError, match="this Actor policy does not have"):
        build(load_recipe(path))
