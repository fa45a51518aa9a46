"""One command line for every method, task source and verifier, on tiny language policies."""

import json
from collections import Counter

import datasets
import pytest
import tiny

import policyopt
from policyopt.compose import CompositionError
from policyopt.objective.advantages import StandardisedAdvantages
from policyopt.objective.surrogates import ClippedSurrogate
from policyopt.options import options as options_of
from policyopt.recipe.build import build
from policyopt.recipe.schema import RecipeError, load_recipe
from policyopt.sampling.samplers import DynamicSampling
from policyopt.update.replay import ReplaySteps

REWARD = {"verifier": "rules:length"}


@pytest.fixture(scope="module")
def given(tmp_path_factory):
    """A model folder and its teacher, which nothing changes."""
    base = tmp_path_factory.mktemp("models")
    return {name: str(tiny.folder(base / name, "llama", seed)) for seed, name in enumerate(("policy", "teacher"))}


def data(path, method):
    """What a method learns from: tasks with a reward, demonstrations or pairs."""
    if method == "dpo":
        return {"jsonl": str(tiny.jsonl(path, tiny.preferences()))}
    if method == "sft":
        records = [{"prompt": r["prompt"], "demonstration": f" {r['answer']}"} for r in tiny.sums()]
        return {"jsonl": str(tiny.jsonl(path, records))}
    return {"jsonl": str(tiny.jsonl(path, tiny.sums())), **REWARD}


@pytest.mark.parametrize("method", tiny.FAST)
def test_every_method_trains_a_folder_from_the_command_line(method, given, tmp_path, command):
    models = {"models": {"teacher": given["teacher"]}} if method.startswith("opd") else {}
    made = tiny.recipe(
        tmp_path / "r.yaml",
        {"model": given["policy"]},
        data(tmp_path / "data.jsonl", method),
        stages=[tiny.stage(method, 3)],
        **models,
    )
    called = command("train", made, "update.policy.learning_rate=0.01")
    assert called.code == 0, called.err
    found = tiny.lines(tmp_path / "run" / "metrics.jsonl")
    assert [line["step"] for line in found] == [0, 1, 2]
    assert all(line["gradient_norm/policy"] > 0 for line in found)
    assert ("gradient_norm/critic" in found[-1]) == (method == "ppo")
    assert (tmp_path / "run" / "model" / "config.json").is_file()
    assert (tmp_path / "run" / "plot.png").is_file()
    assert method.partition(":")[2] or method in (tmp_path / "run" / "objective.txt").read_text()
    summary = json.loads((tmp_path / "run" / "summary.json").read_text())
    kind = {"sft": None, "dpo": "pairs"}.get(method, "tasks")
    assert summary["before"] == summary["after"] is None if kind is None else summary["after"][kind] == 4


# -- task sources ------------------------------------------------------------------------------------------------
def trained(command, path, given, tasks, *changes, **sections):
    """Train on tasks; the rounds' metrics and the samples shown."""
    made = tiny.recipe(path / "r.yaml", {"model": given["policy"]}, tasks, **sections)
    called = command("train", made, *changes)
    assert called.code == 0, called.err
    return tiny.lines(path / "run" / "metrics.jsonl"), tiny.lines(path / "run" / "samples.jsonl")


def test_a_reasoning_gym_data_set_by_name(given, tmp_path, command):
    tasks = {"reasoning_gym": "chain_sum", "options": {"max_terms": 2, "max_digits": 1}, "size": 40}
    _, samples = trained(command, tmp_path, given, tasks)
    assert "calculation" in samples[0]["prompt"] or "+" in samples[0]["prompt"] or "-" in samples[0]["prompt"]


def test_a_weighted_mixture(given, tmp_path):
    parts = [
        {"name": "spell_backward", "weight": 3, "options": {"max_word_len": 4}},
        {"name": "chain_sum", "weight": 1.0, "options": {"max_terms": 2, "max_digits": 1}},
    ]
    tasks = {"reasoning_gym": parts, "size": 200}
    made = tiny.recipe(tmp_path / "r.yaml", {"model": given["policy"]}, tasks)
    with build(load_recipe(made, ["policy.model=" + str(given["policy"])])) as built:
        entries = built.run.worlds["world"].judge.grader.entries
        found = Counter(entry.metadata["source_dataset"] for entry in entries)
        assert 0.65 < found["spell_backward"] / found.total() < 0.85
        judge = built.run.worlds["world"].judge
        right = [i for i, e in enumerate(entries)][:20]
        assert judge([entries[i].answer for i in right], right) == [1.0] * 20


def test_a_mixture_trains(given, tmp_path, command):
    parts = [{"name": "spell_backward", "options": {"max_word_len": 4}}, {"name": "leg_counting", "weight": 0.5}]
    tasks = {"reasoning_gym": parts, "size": 60, "prompt": "{question}"}
    found, _ = trained(command, tmp_path, given, tasks, "policy.dtype=float32", f"policy.model={long(tmp_path)}")
    assert len(found) == 2


def long(path):
    """A model with room for long prompts."""
    return tiny.folder(path / "long", positions=1024)


def test_conversations_go_through_the_chat_template(given, tmp_path, command):
    tasks = {"jsonl": str(tiny.jsonl(tmp_path / "chats.jsonl", tiny.chats())), **REWARD}
    made = tiny.recipe(tmp_path / "r.yaml", {"model": given["policy"]}, tasks)
    with build(load_recipe(made)) as built:
        world = built.run.worlds["world"]
        raw = built.subject.tokenizer.decode(world.prompts[0])
    assert raw.startswith("<|im_start|>user\nWhat is ")
    assert raw.endswith("<|im_end|>\n<|im_start|>assistant\n")
    _, samples = trained(command, tmp_path, given, tasks)
    assert "What is" in samples[0]["prompt"]


@pytest.mark.parametrize("split", [None, "train"])
def test_a_saved_data_set_folder(split, given, tmp_path, command):
    rows = datasets.Dataset.from_list(tiny.sums())
    saved = datasets.DatasetDict({"train": rows, "test": rows}) if split else rows
    saved.save_to_disk(str(tmp_path / "rows"))
    tasks = {"folder": str(tmp_path / "rows"), **({"split": split} if split else {}), **REWARD}
    found, _ = trained(command, tmp_path, given, tasks)
    assert len(found) == 2


def test_held_out_tasks_of_their_own(given, tmp_path, command):
    held = tiny.jsonl(tmp_path / "held.jsonl", [{"prompt": f"What is {n} + 0?", "answer": str(n)} for n in range(6)])
    tasks = {"jsonl": str(tiny.jsonl(tmp_path / "tasks.jsonl", tiny.sums())), **REWARD}
    trained(command, tmp_path, given, tasks, evaluation={"jsonl": str(held), "tasks": 100, "samples": 8})
    assert json.loads((tmp_path / "run" / "summary.json").read_text())["after"]["tasks"] == 6


# -- verifiers -----------------------------------------------------------------------------------------------------
ANSWERS = {
    "exact": ({}, "7", "7", "8"),
    "numeric": ({"relative_tolerance": 0.01}, "700", "so it is 701", "so it is 720"),
    "math_verify": ({}, "1/2", "$\\frac{1}{2}$", "$\\frac{1}{3}$"),
    "regex": ({}, "[0-9]+ apples?", "12 apples", "twelve apples"),
    "rules:length": ({"divisor": 2}, "", "a", "aa"),
}


@pytest.mark.parametrize("name", ANSWERS)
def test_every_verifier_by_name(name, given, tmp_path, command):
    options, answer, right, wrong = ANSWERS[name]
    records = [{"prompt": f"Question {n}?", "answer": answer} for n in range(12)]
    tasks = {"jsonl": str(tiny.jsonl(tmp_path / "tasks.jsonl", records)), "verifier": name, "verifier_options": options}
    trained(command, tmp_path, given, tasks)
    made = tiny.recipe(tmp_path / "r.yaml", {"model": given["policy"]}, tasks)
    with build(load_recipe(made)) as built:
        assert built.run.worlds["world"].judge([right, wrong], [0, 1]) == [1.0, 0.0]


def test_the_scorer_of_reasoning_gym_with_a_threshold(given, tmp_path):
    tasks = {"reasoning_gym": "spell_backward", "size": 10, "verifier": "reasoning_gym"}
    for options, partial in (({}, False), ({"verifier_options": {"threshold": None}}, True)):
        made = tiny.recipe(tmp_path / "r.yaml", {"model": given["policy"]}, {**tasks, **options})
        with build(load_recipe(made)) as built:
            judge = built.run.worlds["world"].judge
            answer = judge.grader.entries[0].answer
            scores = judge([answer, answer + "?"], [0, 0])
            assert scores[0] == 1.0
            assert (0 < scores[1] < 1) == partial


# -- preference data -----------------------------------------------------------------------------------------------
def test_preferences_without_a_verifier_report_held_out_accuracy(given, tmp_path, command):
    records = [
        {"prompt": f"What is {a} + {b}?", "chosen": f" The answer is {a + b}.", "rejected": f" {a}" * (1 + b % 2)}
        for a in range(6)
        for b in range(8)
    ]
    tasks = {"jsonl": str(tiny.jsonl(tmp_path / "pairs.jsonl", records))}
    made = tiny.recipe(
        tmp_path / "r.yaml",
        {"model": given["policy"]},
        tasks,
        stages=[tiny.stage("dpo", 12, **{"selection.count": 16, "update.schedule": "constant"})],
        evaluation={"tasks": 8, "samples": 8},
    )
    called = command("train", made, "update.learning_rate=0.02")
    assert called.code == 0, called.err
    summary = json.loads((tmp_path / "run" / "summary.json").read_text())
    assert summary["before"]["pairs"] == summary["after"]["pairs"] == 8
    assert summary["before"]["preference_accuracy"] < summary["after"]["preference_accuracy"] == 1.0
    assert "preference accuracy" in called.out


def test_demonstrations_alone_are_trained_without_an_evaluation(given, tmp_path, command):
    made = tiny.recipe(
        tmp_path / "r.yaml",
        {"model": given["policy"]},
        data(tmp_path / "data.jsonl", "sft"),
        stages=[tiny.stage("sft", 2)],
    )
    called = command("train", made)
    assert called.code == 0, called.err
    assert "no evaluation" in called.out
    assert "tasks.verifier" in called.out
    summary = json.loads((tmp_path / "run" / "summary.json").read_text())
    assert summary["before"] is None
    assert summary["after"] is None


# -- stages and resolved recipes -----------------------------------------------------------------------------------
def test_the_resolved_recipe_builds_the_same_run(given, tmp_path, command):
    stages = [{**tiny.stage("sft", 1), "tasks": {"prompt": "{question} "}}, tiny.stage("grpo", 1)]
    tasks = {
        "reasoning_gym": "spell_backward",
        "options": {"max_word_len": 4},
        "prompt": "{question}",
        "size": 50,
        "demonstrations": {"reliability": 0.5},
    }
    trained(command, tmp_path, given, tasks, stages=stages)
    first, second = (load_recipe(tmp_path / name) for name in ("r.yaml", "run/recipe.yaml"))
    assert first == second
    with build(first) as one, build(second) as other:
        assert list(one.run.worlds) == list(other.run.worlds) == ["world", "tasks 1"]
        for name, world in one.run.worlds.items():
            assert world.prompts == other.run.worlds[name].prompts
            assert world.recorded_answers == other.run.worlds[name].recorded_answers


def test_held_out_tasks_stay_out_of_a_stage_that_writes_its_prompts_otherwise(given, tmp_path):
    tasks = {"reasoning_gym": "spell_backward", "options": {"max_word_len": 3}, "prompt": "{word} =", "size": 300}
    stages = [{**tiny.stage("grpo", 1), "tasks": {"prompt": "backward {word}:"}}, tiny.stage("grpo", 1)]
    made = tiny.recipe(tmp_path / "r.yaml", {"model": given["policy"]}, tasks, stages=stages)
    with build(load_recipe(made, ["evaluation.tasks=60"])) as built:
        held, *seen = (
            {entry.metadata["word"] for entry in world.judge.grader.entries}
            for world in (built.subject.held_out, *built.run.worlds.values())
        )
        assert len(held) == 60
        assert len(seen) == 2
        for words in seen:
            assert len(words) > 20
            assert not words & held


def test_a_stage_task_that_is_wrong_names_the_stage(given, tmp_path):
    stages = [{**tiny.stage("grpo", 1), "tasks": {"limitt": 3}}]
    tasks = {"jsonl": str(tiny.jsonl(tmp_path / "tasks.jsonl", tiny.sums())), **REWARD}
    made = tiny.recipe(tmp_path / "r.yaml", {"model": given["policy"]}, tasks, stages=stages)
    with pytest.raises(RecipeError, match=r"unknown key 'stages\.0\.tasks\.limitt'; did you mean 'limit'"):
        build(load_recipe(made))


def test_options_for_a_method_follow_it_when_methods_are_exchanged(given, tmp_path):
    tasks = {"jsonl": str(tiny.jsonl(tmp_path / "sums.jsonl", tiny.sums())), "verifier": "exact"}
    stage = {**tiny.stage("grpo"), "options": {"selection.count": 3}}
    stage["options_for"] = {"grpo": {"constraint.kl.weight": 0}, "rloo": {"reward.beta": 0.5}}
    path = tiny.recipe(tmp_path / "recipe.yaml", {"model": str(given["policy"])}, tasks, stages=[stage])
    with build(load_recipe(path)) as built:
        assert not built.program.stages[0].method.constraint
    with build(load_recipe(path, ["method=rloo"])) as built:
        assert built.program.stages[0].method.reward.parts[1].beta == 0.5
    for key, options, message in (
        ("grpp", {}, "did you mean 'grpo'"),
        ("rloo", {"constraint.kl.weight": 0}, "no effect for method 'rloo'"),
    ):
        wrong = [{**stage, "options_for": {key: options}}]
        path = tiny.recipe(tmp_path / "wrong.yaml", {"model": str(given["policy"])}, tasks, stages=wrong)
        with pytest.raises(CompositionError, match=message):
            build(load_recipe(path))


def test_a_model_in_a_change_takes_the_place_of_the_new_one(given, tmp_path):
    tasks = {"jsonl": str(tiny.jsonl(tmp_path / "sums.jsonl", tiny.sums())), "verifier": "exact"}
    path = tiny.recipe(tmp_path / "recipe.yaml", {"new": {"heads": 2}}, tasks)
    changed = load_recipe(path, [f"policy.model={given['policy']}"]).policy
    assert (changed.model, changed.new) == (given["policy"], None)
    path = tiny.recipe(tmp_path / "recipe.yaml", {"model": given["policy"]}, tasks)
    changed = load_recipe(path, ["policy.new.layers=2"]).policy
    assert changed.model is None
    assert changed.new.layers == 2
    with pytest.raises(RecipeError, match=r"exactly one of policy.model"):
        load_recipe(path, ["policy.model=null"])


# -- options of methods --------------------------------------------------------------------------------------------
def test_the_part_of_an_axis_is_exchanged_as_a_whole():
    """Options that both parts have stay as they were; the others are the new part's defaults or given."""
    ppo = policyopt.override(policyopt.load("ppo"), {"sampling.temperature": 0.7, "update.policy.learning_rate": 0.5})
    changed = policyopt.override(
        ppo, {"sampling": {"part": "dynamic_sampling", "size": 3}, "update": "replay_steps", "sampling.most_draws": 7}
    )
    assert changed.sampling == DynamicSampling(size=3, temperature=0.7, most_draws=7)
    assert isinstance(changed.update, ReplaySteps)
    assert changed.update.optimizers == ppo.update.optimizers
    assert "sampling" in {option.key for option in options_of(ppo)}
    for wrong, message in (
        ({"sampling": "groop"}, "did you mean 'group'"),
        ({"sampling": {"part": "group", "sizes": 3}}, r"group has no option \['sizes'\]; it has \['size'"),
        ({"credit": 3}, "takes a part of credit by name, got 3"),
        ({"objective": "clipped_surrogate"}, "no effect"),
        ({"samplin": "group"}, "Did you mean 'sampling'"),
    ):
        with pytest.raises(CompositionError, match=message):
            policyopt.override(ppo, wrong)


def test_a_part_inside_a_part_is_given_by_name_too():
    inner = {"part": "clipped_surrogate", "clip_low": "0.3"}
    given = {"part": "standardised_advantages", "loss": inner, "discounted": "false"}
    made = policyopt.override(policyopt.load("ppo"), {"objective.policy.loss": given}).objective[0].loss
    assert made == StandardisedAdvantages(ClippedSurrogate(clip_low=0.3), discounted=False)
    with pytest.raises(CompositionError, match="did you mean 'clipped_surrogate'"):
        policyopt.override(policyopt.load("ppo"), {"objective.policy.loss": {**given, "loss": "clipped_surogate"}})
