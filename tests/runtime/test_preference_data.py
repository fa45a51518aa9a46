"""`policyopt train` on preference data as users have it: pairs, ranked lists, single answers with labels, segments."""

import json
from dataclasses import replace

import pytest
import tiny
import torch

from policyopt.methods import load
from policyopt.options import OptionError, override
from policyopt.recipe.build import build
from policyopt.recipe.language.preferences import check_preferences
from policyopt.recipe.schema import load_recipe
from policyopt.worlds.compared import Ranked, pair
from policyopt.worlds.tokens import TokenWorld

SMALL = {"selection.count": 4, "update.policy.learning_rate": 0.01}


@pytest.fixture(scope="module")
def given(tmp_path_factory):
    return str(tiny.folder(tmp_path_factory.mktemp("models") / "policy"))


def pairs(count=24):
    """Without a prompt, as two whole texts; and how sure the annotators were."""
    return [
        {"chosen": f"{r['prompt']}{r['chosen']}", "rejected": f"{r['prompt']}{r['rejected']}", "margin": n % 3}
        for n, r in enumerate(tiny.preferences(count))
    ]


def lists(count=24):
    """Of two and three answers by turns."""
    texts, scores = [" no", " yes", " 77 or so"], [0.1, 1.0, 0.4]
    return [
        {"prompt": r["prompt"], "completions": texts[: 2 + n % 2], "scores": scores[: 2 + n % 2]}
        for n, r in enumerate(tiny.sums(count))
    ]


def said(role, text):
    return {"role": role, "content": text}


def labelled(count=24):
    """Of two answers to every prompt."""
    return [
        {"prompt": [said("user", r["prompt"])], "completion": [said("assistant", text)], "label": good}
        for r in tiny.sums(count)
        for text, good in ((f" {r['answer']}", True), (" I do not know", False))
    ]  # fmt: skip


def graded(count=24):
    return [
        {"prompt": r["prompt"], "completion": f" {r['answer']}", "stars": (n % 5) / 4}
        for n, r in enumerate(tiny.sums(count))
    ]


def segments(count=24):
    return [
        {"prompt_chosen": r["prompt"], "chosen": " yes", "prompt_rejected": f"Compute {n}.", "rejected": " it is no"}
        for n, r in enumerate(tiny.sums(count))
    ]


TRAINED = {
    "dpo": (pairs, {}),
    "crm": (pairs, {"selection.count": 5}),
    "cpl": (segments, {}),
    "dpo:kto": (labelled, {}),
    "pro": (lists, {}),
    "lipo_lambda": (lists, {}),
    "sft": (lists, {}),
    "reward_model of margins": (pairs, {"objective.margin": "strength", "sampling.columns": ["strength"]}),
    "reward_model of lists": (lists, {"objective.loss": "list_ranking"}),
}


def recipe(tmp_path, given, method, records, options=None, **tasks):
    data = {"jsonl": str(tiny.jsonl(tmp_path / "data.jsonl", records)), **tasks}
    stages = [{"method": method, "steps": 1, "options": {"selection.count": 4, **(options or {})}}]
    return tiny.recipe(tmp_path / "r.yaml", {"model": given}, data, stages=stages)


@pytest.mark.parametrize("method", TRAINED)
def test_a_file_of_preferences_trains(method, given, tmp_path, command):
    made, options = TRAINED[method]
    called = command("train", recipe(tmp_path, given, method.partition(" ")[0], made(), options))
    assert called.code == 0, called.err
    metrics = tiny.lines(tmp_path / "run" / "metrics.jsonl")
    assert all(value > 0 for line in metrics for name, value in line.items() if name.startswith("gradient_norm/"))
    after = json.loads((tmp_path / "run" / "summary.json").read_text())["after"]
    if made is labelled:
        assert after is None  # no pair could be agreed with
    else:
        assert after["pairs"] >= 4
        assert 0 <= after["preference_accuracy"] <= 1


def test_options_that_fit_together_only_may_stand_in_any_order():
    forward = {"sampling.columns": ("label",), "objective.column": "label"}
    made = [override(load("dpo:kto"), dict(changes)) for changes in (forward.items(), reversed(forward.items()))]
    assert made[0] == made[1]
    assert made[0].terms[0].loss.column == "label"
    with pytest.raises(OptionError, match=r"'objective.colunm' has no effect .*Did you mean 'objective.column'"):
        override(load("dpo:kto"), {"objective.colunm": "label", **forward})
    with pytest.raises(OptionError, match="which no earlier part writes"):
        override(load("dpo:kto"), {"objective.column": "label", "objective.beta": 0.2})


def test_tokens_are_weighed_alike_where_files_hold_no_weights(given, tmp_path, command):
    alike = {"sampling.columns": [], "objective.preference.by": ""}
    called = command("train", recipe(tmp_path, given, "opa_dpo", pairs(), alike))
    assert called.code == 0, called.err


def test_grades_are_labels_of_single_answers(given, tmp_path, command):
    path = recipe(tmp_path, given, "dpo:kto", graded(), columns={"label": "stars"})
    rows, _ = drawn(path)
    assert sorted(set(rows.row["label"].tolist())) == [0, 0.25, 0.5, 0.75, 1]
    assert torch.equal(rows.row["rank"] == 0, rows.row["label"] > 0.5)
    called = command("train", path)
    assert called.code == 0, called.err


def drawn(path, *changes):
    """The rows of all tasks, as the first stage reads them."""
    with build(load_recipe(path, changes)) as built:
        world = built.run.worlds["world"]
        rows = world.recorded_pairs(world.tasks(torch.arange(world.size)))
        return rows, world.texts(rows)


def test_lists_become_pairs_where_the_recipe_says_so(given, tmp_path):
    path = recipe(tmp_path, given, "dpo", lists(), pairing="best_worst")
    rows, texts = drawn(path, "evaluation=null")
    assert rows.row["rank"].tolist() == [0, 1] * 24
    assert texts[1] == texts[3] == " no"
    assert rows.row["label"][:2].tolist() == pytest.approx([1.0, 0.1])
    rows, texts = drawn(path, "evaluation=null", "tasks.pairing=every")
    assert len(rows) == 2 * (12 + 3 * 12)
    rows, texts = drawn(path, "evaluation=null", "tasks.pairing=neighbours")
    assert len(rows) == 2 * (12 + 2 * 12)
    assert texts[2:6] == [" yes", " 77 or so", " 77 or so", " no"]


def test_labels_are_wrong_for_training_only_and_the_same_for_every_method(given, tmp_path):
    path = recipe(tmp_path, given, "dpo", pairs(), noise={"flip": 0.5, "seed": 3})
    flipped = {}
    for change in ("seed=1", "seed=2", "method=simpo"):
        method = ["method=dpo:simpo"] if "simpo" in change else [change]
        rows, texts = drawn(path, *method)
        assert rows.row["flipped"].sum() > 0
        flipped[change] = [text for text, wrong in zip(texts, rows.row["flipped"].tolist(), strict=True) if wrong]
        with build(load_recipe(path, method)) as built:
            held_out = built.subject.held_out
            assert "flipped" not in held_out.recorded_pairs(held_out.tasks(torch.arange(held_out.size))).row
    assert flipped["seed=1"] == flipped["seed=2"] == flipped["method=simpo"]
    without, _ = drawn(path, "tasks.noise.seed=null", "seed=5")
    assert without.row["flipped"].sum() > 0


GENERATED = {"jsonl": None, "reasoning_gym": "chain_sum", "columns": {"label": "x"}}


@pytest.mark.parametrize("record", ["texts", "conversations"])
def test_tokens_weigh_as_much_as_the_parts_they_stand_in(record, given, tmp_path, command):
    said = {"chosen": " It is 12.", "rejected": " It is 13, I think"}
    marks = {"severity_chosen": [[7, 9, 3.0]], "severity_rejected": [[7, 9, 3.0], [9, 18, 0.5]]}
    made = [{**tiny.sums()[n], **said, **marks} for n in range(12)]
    if record == "conversations":
        made = [{**one, "prompt": [{"role": "user", "content": one["prompt"]}]} for one in made]
    path = recipe(tmp_path, given, "opa_dpo", made, columns={"severity": "severity"})
    rows, texts = drawn(path, "evaluation=null")
    words = tiny.tokenizer("qwen2")
    for row, text in enumerate(texts[:2]):
        weighed = zip(rows.step["_token"][row].tolist(), rows.step["severity"][row].tolist(), strict=True)
        parts = {2.0: "", 3.0: "", 0.5: "", 1.0: ""}
        for token, weight in weighed:
            parts[weight] += words.decode([token])
        assert parts[3.0].strip() in text
        assert {"12", "13"} & {parts[3.0].strip()[:2]}
        assert ("I think" in parts[0.5]) == ("think" in text)
        assert parts[1.0].startswith(" It is")
    called = command("train", path, "evaluation=null")
    assert called.code == 0, called.err


REFUSED = {
    "a single answer": ("dpo", labelled, {}, ("compares answers to one prompt", "dpo:kto")),
    "lists for pairs": ("dpo", lists, {}, ("compares two answers", "up to 3", "tasks.pairing=best_worst")),
    "no such number": ("dpo", pairs, {"columns": {"safety": "safe"}}, ("data.jsonl, line 1", "no numbers 'safe'")),
    "numbers of tokens": ("opa_dpo", pairs, {}, ("weighs tokens by 'severity'", "sampling.columns=[]")),
    "pairs of pairs": ("dpo", pairs, {"pairing": "every"}, ("tasks.pairing=every has no effect",)),
    "noise without labels": ("sft", tiny.sums, {"noise": {"flip": 0.1}}, ("tasks.noise has no effect",)),
    "noise of two kinds": ("dpo", pairs, {"noise": {"flip": 0.1, "temperature": 1.0}}, ("not both",)),
    "a rate that is none": ("dpo", pairs, {"noise": {"flip": 1.1}}, ("tasks.noise.flip", "1.1")),
    "columns of generated tasks": ("dpo", pairs, GENERATED, ("tasks.columns", "no effect")),
}  # fmt: skip


@pytest.mark.parametrize("case", REFUSED)
def test_what_does_not_fit_is_refused_before_anything_is_made(case, given, tmp_path, command):
    method, made, tasks, words = REFUSED[case]
    called = command("train", recipe(tmp_path, given, method, made(), **tasks))
    assert called.code == 2, called.out
    for word in words:
        assert word in called.err, called.err
    assert not (tmp_path / "run").exists()


def test_a_number_that_a_method_reads_must_be_there(given, tmp_path, command):
    options = {"sampling.columns": ["label", "safety"]}
    called = command("train", recipe(tmp_path, given, "lipo_lambda", lists(), options))
    assert called.code == 2
    assert "reads the number 'safety' of recorded answers" in called.err
    assert "tasks.columns.safety=FIELD" in called.err


def test_pairs_whose_labels_are_equal_are_told(caplog):
    """No preference, but learned as one; a list of labels learns nothing of it."""
    tied, told = ({"label": [0.5, second]} for second in (0.5, 0.2))
    held = [Ranked([[2], [3]], [0, 1], numbers) for numbers in (tied, told, tied)]
    world = TokenWorld([[1]] * 3, 0, 4, lambda tokens: "", pairs=held)
    with caplog.at_level("WARNING", "policyopt"):
        check_preferences(load("dpo"), world)
        (found,) = caplog.messages
        assert found.startswith("2 of 3 pairs have answers with equal labels")
        caplog.clear()
        check_preferences(load("lipo_lambda"), world)
        check_preferences(load("dpo"), replace(world, pairs=[held[1], pair([2], [3]), held[1]]))
    assert not caplog.messages
