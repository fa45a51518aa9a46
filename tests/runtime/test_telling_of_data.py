"""Warnings about data that can be read but hardly learned from, each told once."""

import json
import logging

import pytest
import tiny

from policyopt.recipe.build import build
from policyopt.recipe.schema import load_recipe
from policyopt.worlds.prompts import token_world
from policyopt.worlds.sources import jsonl_entries
from policyopt.worlds.tasks import Entry

DEAF = "{% for m in messages %}<|im_start|>{{ m['role'] }}<|im_end|>{% endfor %}<|im_start|>assistant\n"


@pytest.fixture
def told(caplog):
    caplog.set_level(logging.WARNING, "policyopt")
    return lambda word: [record.getMessage() for record in caplog.records if word in record.getMessage()]


def test_pairs_of_equal_or_empty_texts_are_told_with_their_line(tmp_path, told):
    good = {"prompt": "q", "chosen": "a", "rejected": "b"}
    records = [good, {**good, "rejected": "a"}, {**good, "chosen": " "}, {**good, "rejected": "a"}, good]
    path = tmp_path / "pairs.jsonl"
    path.write_text("\n\n".join(map(json.dumps, records)))
    for _ in range(2):  # for training and for evaluation
        assert len(jsonl_entries(path)) == 5
    (equal,), (empty,) = told("equal texts"), told("empty text")
    assert "2 of 5 preference pairs" in equal
    assert "pairs.jsonl, line 3" in equal
    assert "1 of 5 preference pairs" in empty
    assert "pairs.jsonl, line 5" in empty


def test_equal_answers_to_different_beginnings_are_a_preference(tmp_path, told):
    starts = {"prompt_chosen": "p", "chosen": "a", "prompt_rejected": "q", "rejected": "a"}
    lists = {"prompt": "q", "completions": ["a", "a", "b"], "ranks": [1, 2, 3]}
    for name, record in (("segments", starts), ("lists", lists)):
        jsonl_entries(tiny.jsonl(tmp_path / f"{name}.jsonl", [record]))
    assert not told("preference pairs")


def test_training_on_pairs_tells_of_them_once(tmp_path, told):
    model = str(tiny.folder(tmp_path / "policy"))
    records = [*tiny.preferences(), {"prompt": "p", "chosen": "same", "rejected": "same"}]
    tasks = {"jsonl": str(tiny.jsonl(tmp_path / "pairs.jsonl", records))}
    path = tiny.recipe(tmp_path / "r.yaml", {"model": model}, tasks)
    stages = "stages=[{method: dpo, steps: 1, options: {selection.count: 4}}]"
    build(load_recipe(path, [stages, "evaluation.tasks=4"])).close()
    (said,) = told("equal texts")
    assert "1 of 25 preference pairs" in said
    assert "pairs.jsonl, line 25" in said


def test_a_chat_template_that_ignores_messages_is_told(told):
    tokenizer = tiny.tokenizer("qwen2")
    asked = [{"role": "user", "content": text} for text in ("one", "two", "one")]
    entries = [Entry(None, (message,), "x") for message in asked]
    token_world(entries, tokenizer, 4)
    assert not told("ignores messages")  # equal ones may be written alike
    tokenizer.chat_template = DEAF
    token_world(entries, tokenizer, 4)
    token_world(entries, tokenizer, 4)
    (said,) = told("ignores messages")
    assert "1 of 3 conversations" in said
