"""Recipes with trained preference models and with reward models that read the task's own answer."""

import json
import math
from pathlib import Path

import pytest
import tiny
import torch

from policyopt.policies.classifiers import LanguagePreference
from policyopt.policies.reward_checkpoint import load_reward, template_of
from policyopt.policies.tokenizer import load_tokenizer
from policyopt.recipe.base import RecipeError
from policyopt.recipe.build import build
from policyopt.recipe.language.rewards import Completion, on_benchmark, open_scorer
from policyopt.recipe.schema import load_recipe, make_recipe
from policyopt.worlds.prompts import token_world
from policyopt.worlds.reward_bench import Item, write_items
from policyopt.worlds.tasks import Entry, pair

RECIPES = Path(__file__).parents[2] / "recipes" / "preferences"
TEMPLATE = "{prompt} It is {answer}. Answer:"
FEW = {"selection.count": 4}
BENCH = [
    Item("What is 1 + 1?", ("2.",), ("3, I think",), "plain", answer="2"),
    Item(({"role": "user", "content": "What is 5 + 1?"},), ("6.",), ("apple", "0"), "chat", answer="6"),
]


@pytest.fixture(scope="module")
def policy(tmp_path_factory):
    return str(tiny.folder(tmp_path_factory.mktemp("models") / "policy", "llama", 0, 160))


def recipe(path, policy, stages, records=None, models=None, **tasks):
    given = tiny.jsonl(path / "tasks.jsonl", tiny.preferences() if records is None else records)
    data = {"jsonl": str(given), **tasks}
    changes = {"stages": stages, "models": models or {}, "evaluation": None}
    return tiny.recipe(path / "r.yaml", {"model": policy}, data, **changes)


def test_a_preference_model_is_trained_from_a_file_plays_and_is_saved(policy, tmp_path, command):
    asked = {"sampling.size": 3, "reward.judge": "preference", "selection.count": 2}
    stages = [
        {"method": "preference_model", "steps": 2, "options": {**FEW, "update.learning_rate": 0.01}},
        {"method": "dno", "steps": 1, "options": {**asked, "feedback.judge": "preference"}},
    ]
    called = command("train", recipe(tmp_path, policy, stages))
    assert called.code == 0, called.err
    metrics = tiny.lines(tmp_path / "run" / "metrics.jsonl")
    assert {"preference/accuracy", "loss/preference"} <= metrics[0].keys()
    assert 0 < metrics[2]["win_rate"] < 1
    assert all(math.isfinite(value) for line in metrics for value in line.values())
    folder = tmp_path / "run" / "models" / "preference"
    model = load_reward(folder)
    assert isinstance(model, LanguagePreference)
    _it_is_given_by_its_folder(tmp_path, policy, folder, command)
    _it_is_evaluated(tmp_path, folder, model, command)


def _it_is_given_by_its_folder(path, policy, folder, command):
    other = path / "other"
    other.mkdir()
    feedback = {"part": "judged_pairs", "judge": "preference", "margin": 0.0}
    options = {**FEW, "sampling.size": 4, "reward": "from_world", "feedback": feedback}
    stages = [{"method": "dpo:dpo_online", "steps": 1, "options": options}]
    called = command("train", recipe(other, policy, stages, tiny.sums(), {"preference": str(folder)}))
    assert called.code == 0, called.err
    assert tiny.lines(other / "run" / "metrics.jsonl")[0]["judge_decided"] == 1


def _it_is_evaluated(path, folder, model, command):
    write_items(BENCH, path / "bench.jsonl")
    called = command("reward", folder, "--pairs", path / "bench.jsonl", "--json")
    assert called.code == 0, called.err
    found = json.loads(called.out)["benchmark"]
    odds = []
    for item in BENCH:
        for rejected in item.rejected:
            entry = Entry.asking(item.prompt, candidates=pair(item.chosen[0], rejected))
            world = token_world([entry], load_tokenizer(str(folder)), 1)
            rows = world.recorded_pairs(world.tasks(torch.tensor([0])))
            with torch.no_grad():
                odds.append(float(model.compare(rows, torch.tensor([0]), torch.tensor([1]))))
    right = [odds[0] > 0, min(odds[1:]) > 0]
    assert found["accuracy"] == pytest.approx(sum(right) / 2)
    assert 0 <= found["calibration_error"] <= 1
    assert command("reward", folder, "--task", path / "r.yaml", "--policy", folder).code == 2


CONDITIONED = "reward_model:reference_conditioned"


def with_answers():
    both = zip(tiny.preferences(), tiny.sums(), strict=True)
    return [{**preference, "answer": task["answer"]} for preference, task in both]


def test_a_conditioned_reward_model_is_trained_saved_used_and_evaluated(policy, tmp_path, command):
    stages = [
        {"method": CONDITIONED, "steps": 2, "options": {**FEW, "update.learning_rate": 0.01}},
        {"method": "grpo", "steps": 1, "options": {**FEW, "sampling.size": 3, "reward": "model_reward"}},
    ]
    called = command("train", recipe(tmp_path, policy, stages, with_answers(), reference_answer=TEMPLATE))
    assert called.code == 0, called.err
    folder = tmp_path / "run" / "models" / "reward"
    assert template_of(load_reward(folder)) == TEMPLATE
    scorer = open_scorer(str(folder))
    assert scorer.worth is not None
    one, other, same = scorer.worth([Completion("1 + 1?", "2.", answer) for answer in ("2", "7", "2")])
    assert one == same != other
    assert on_benchmark(scorer, BENCH)["items"] == 2
    with pytest.raises(RecipeError, match=r"an item .* has none; give the field 'answer'"):
        on_benchmark(scorer, [Item("Hi", ("a",), ("b",))])
    _it_fits_recipes_of_the_same_words(tmp_path, policy, folder)


def _it_fits_recipes_of_the_same_words(path, policy, folder):
    stages = [{"method": "grpo", "steps": 1, "options": {"reward": "model_reward"}}]
    given = recipe(path, policy, stages, tiny.sums(), {"reward": str(folder)}, reference_answer=TEMPLATE)
    with build(load_recipe(given)) as built:
        assert built.run.models["reward"].context == "reference answer"
    with pytest.raises(
        RecipeError, match=r"models\.reward reads reference answers as .*, and tasks.reference_answer is"
    ):
        build(load_recipe(given, ["tasks.reference_answer='{prompt}{answer}'"]))


@pytest.mark.parametrize(
    ("method", "records", "tasks", "said"),
    [
        (CONDITIONED, with_answers(), {}, r"\['reward'\] read reference answers; say how"),
        ("reward_model", with_answers(), {"reference_answer": TEMPLATE}, "has no effect: no reward model reads it"),
        (CONDITIONED, tiny.preferences(), {"reference_answer": TEMPLATE}, "'answer' in every record; 24 of 24"),
        (CONDITIONED, with_answers(), {"reference_answer": "{answer}"}, "holds the fields"),
    ],
)
def test_reference_answers_that_are_not_there_or_not_read_are_refused(method, records, tasks, said, policy, tmp_path):
    path = recipe(tmp_path, policy, [{"method": method, "steps": 1}], records, **tasks)
    with pytest.raises(ValueError, match=said):
        build(make_recipe(load_recipe(path).model_dump(exclude_unset=True)))


SMALL = [
    "policy.new.hidden_size=16", "policy.new.layers=1", "policy.new.heads=2", "policy.new.intermediate_size=32",
    "policy.device=cpu", "tasks.size=200", "stages.0.steps=1", "stages.1.steps=2", "stages.2.steps=1",
    "stages.0.selection.count=4", "stages.1.selection.count=4", "selection.count=2", "sampling.size=3",
    "evaluation.tasks=8", "evaluation.samples=8",
]  # fmt: skip


@pytest.mark.parametrize(("name", "model"), [("reference_reward", "reward"), ("preference_model", "preference")])
def test_the_recipes_that_ship_run_and_report_how_good_their_model_is(name, model, tmp_path, command):
    called = command("train", RECIPES / f"{name}.yaml", *SMALL, "--folder", tmp_path / "run")
    assert called.code == 0, called.err
    found = json.loads((tmp_path / "run" / "results" / "branches.json").read_text())["reward_models"][model]
    assert found["pairs"] >= 4
    assert 0 <= found["accuracy"] <= 1
    assert (tmp_path / "run" / "models" / model / "config.json").is_file()
