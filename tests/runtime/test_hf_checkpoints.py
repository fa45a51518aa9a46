"""Ordinary Hugging Face folders in, trained from the command line, ordinary Hugging Face folders out."""

import json
import shutil
import warnings

import pytest
import tiny
import torch
from peft import PeftModel
from transformers import AutoModelForCausalLM, AutoTokenizer

from policyopt.policies.checkpoint import load_language
from policyopt.recipe.training import Training

TOKENS = torch.arange(40).view(2, 20) * 7 % 300
VERIFIER = {"verifier": "rules:length", "verifier_options": {"divisor": 4}}


def trained_policy(folder):
    """The policy of a finished run as its last checkpoint has it."""
    with Training.resume(folder) as training:
        training.session.resume()
        return training.built.policy


@pytest.mark.parametrize("lora", [None, {"rank": 4, "alpha": 8}], ids=["full", "lora"])
@pytest.mark.parametrize("kind", tiny.KINDS)
def test_a_folder_is_trained_and_comes_back_as_a_folder(kind, lora, tmp_path, command):
    given = tiny.folder(tmp_path / "given", kind)
    tasks = {"jsonl": str(tiny.jsonl(tmp_path / "tasks.jsonl", tiny.chats())), **VERIFIER}
    made = tiny.recipe(tmp_path / "r.yaml", {"model": str(given), **({"lora": lora} if lora else {})}, tasks)
    called = command("train", made, "update.learning_rate=0.01")
    assert called.code == 0, called.err
    run = tmp_path / "run"
    assert all(line["gradient_norm/policy"] > 0 for line in tiny.lines(run / "metrics.jsonl"))

    policy = trained_policy(run)
    saved = AutoModelForCausalLM.from_pretrained(run / "model")
    before = tiny.logits(AutoModelForCausalLM.from_pretrained(given), TOKENS)
    after = tiny.logits(saved, TOKENS)
    trained = tiny.logits(policy.model, TOKENS)
    assert not torch.allclose(after, before, atol=1e-3)
    torch.testing.assert_close(after, trained, rtol=0, atol=1e-5 if lora else 0)
    assert sorted(saved.state_dict()) == sorted(AutoModelForCausalLM.from_pretrained(given).state_dict())
    if lora:
        with warnings.catch_warnings():
            # A matter between peft and transformers.
            warnings.filterwarnings("ignore", "`is_gradient_checkpointing` is deprecated", FutureWarning)
            adapted = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(given), run / "model" / "adapter")
        torch.testing.assert_close(tiny.logits(adapted, TOKENS), trained, rtol=0, atol=1e-6)
    words = AutoTokenizer.from_pretrained(run / "model")
    assert tiny.texts_equal(words, tiny.tokenizer(kind))
    assert words.chat_template == tiny.CHAT
    ends = saved.generation_config.eos_token_id
    assert words.eos_token_id in (ends if isinstance(ends, list) else [ends])

    summary = json.loads((run / "summary.json").read_text())
    again = command("eval", run / "model", "--task", run / "recipe.yaml", "--tasks", 4, "--samples", 8, "--json")
    assert again.code == 0, again.err
    assert json.loads(again.out) == summary["after"]


def test_the_saved_folder_can_be_trained_again(tmp_path, command):
    given = tiny.folder(tmp_path / "given", "qwen2")
    tasks = {"jsonl": str(tiny.jsonl(tmp_path / "tasks.jsonl", tiny.sums())), **VERIFIER}
    made = tiny.recipe(tmp_path / "r.yaml", {"model": str(given)}, tasks)
    for _ in range(2):
        called = command("train", made, f"policy.model={given}")
        assert called.code == 0, called.err
        shutil.rmtree(given)
        (tmp_path / "run" / "model").rename(given)
        shutil.rmtree(tmp_path / "run")
    load_language(given)


def test_an_end_token_is_named_in_the_recipe(tmp_path, command):
    given = tiny.folder(tmp_path / "given")
    words = AutoTokenizer.from_pretrained(given)
    words.eos_token = None
    words.save_pretrained(given)
    tasks = {"jsonl": str(tiny.jsonl(tmp_path / "tasks.jsonl", tiny.sums())), **VERIFIER}
    made = tiny.recipe(tmp_path / "r.yaml", {"model": str(given)}, tasks)
    called = command("train", made)
    assert called.code == 2
    assert "has no end-of-sequence token" in called.err
    assert "policy.eos_token=" in called.err
    assert not (tmp_path / "run").exists()
    called = command("train", made, "policy.eos_token=<|endoftext|>")
    assert called.code == 0, called.err
    assert AutoTokenizer.from_pretrained(tmp_path / "run" / "model").eos_token == "<|endoftext|>"
