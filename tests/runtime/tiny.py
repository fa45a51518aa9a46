"""Tiny Hugging Face folders with real tokenizers, task files, and the command line called in this process."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from transformers import AutoConfig, PreTrainedTokenizerFast
from transformers.models.qwen2.tokenization_qwen2 import Qwen2Tokenizer

from policyopt.cli.app import main
from policyopt.policies.language import Language

KINDS = ("qwen2", "llama", "gemma")
CHAT = (
    "{% for m in messages %}<|im_start|>{{ m['role'] }}\n{{ m['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
SPECIAL = ["<|endoftext|>", "<|im_start|>", "<|im_end|>", "<|begin|>"]
TEXTS = [f"What is {a} + {b}? The answer is {a + b}." for a in range(12) for b in range(12)] + [
    "Spell this word backward: apple", "user\nassistant\nsystem", "Compute the sum of these numbers, please."
]  # fmt: skip


def tokenizer(kind: str) -> PreTrainedTokenizerFast:
    """A byte-level BPE tokenizer trained on a few sentences; with a BOS in front of texts unless for qwen2."""
    made = Tokenizer(models.BPE())
    made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    made.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=320,
        special_tokens=SPECIAL,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    made.train_from_iterator(TEXTS, trainer)
    if kind == "qwen2":
        held = json.loads(made.to_str())["model"]
        merges = [tuple(pair) for pair in held["merges"]]
        found: Any = Qwen2Tokenizer(vocab=held["vocab"], merges=merges, eos_token="<|im_end|>")
    else:
        made.post_processor = processors.TemplateProcessing(
            single="<|begin|> $A", special_tokens=[("<|begin|>", SPECIAL.index("<|begin|>"))]
        )
        found = PreTrainedTokenizerFast(
            tokenizer_object=made, bos_token="<|begin|>", eos_token="<|im_end|>", clean_up_tokenization_spaces=False
        )
    found.chat_template = CHAT
    return found


def model(kind: str, vocabulary: int, seed: int = 0, positions: int = 96) -> Any:
    """Random weights of an architecture, all of its features on: grouped queries, untied head (but Gemma's)."""
    import torch
    from transformers import AutoModelForCausalLM

    config = AutoConfig.for_model(
        kind,
        vocab_size=vocabulary,
        hidden_size=16,
        intermediate_size=32,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=4,
        max_position_embeddings=positions,
        tie_word_embeddings=kind == "gemma",
        initializer_range=0.2,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return AutoModelForCausalLM.from_config(config)


def folder(path: Path, kind: str = "llama", seed: int = 0, positions: int = 96) -> Path:
    """An ordinary model folder, saved by transformers itself."""
    words = tokenizer(kind)
    model(kind, len(words), seed, positions).save_pretrained(path)
    words.save_pretrained(path)
    return path


def jsonl(path: Path, records: Iterable[Mapping[str, Any]]) -> Path:
    path.write_text("".join(json.dumps(record) + "\n" for record in records), encoding="utf-8")
    return path


def sums(count: int = 24) -> list[dict[str, Any]]:
    """{prompt, answer} records."""
    return [{"prompt": f"What is {n} + {n % 5}?", "answer": str(n + n % 5)} for n in range(count)]


def chats(count: int = 24) -> list[dict[str, Any]]:
    """{messages, answer} records."""
    return [
        {"messages": [{"role": "user", "content": record["prompt"]}], "answer": record["answer"]}
        for record in sums(count)
    ]


def preferences(count: int = 24) -> list[dict[str, Any]]:
    """{prompt, chosen, rejected} records; answers of uneven lengths."""
    return [
        {"prompt": record["prompt"], "chosen": f" {record['answer']}.", "rejected": f" {n % 3}, I think"}
        for n, record in enumerate(sums(count))
    ]


FAST = {
    "reinforce": {"selection.count": 4},
    "rloo": {"selection.count": 3, "sampling.size": 3},
    "grpo": {"selection.count": 3, "sampling.size": 3},
    "dr_grpo": {"selection.count": 3, "sampling.size": 3},
    "dapo": {"selection.count": 3, "sampling.size": 3},
    "gspo": {"selection.count": 3, "sampling.size": 3},
    "ppo": {"selection.count": 4},
    "sft": {"selection.count": 4},
    "dpo": {"selection.count": 4},
    "dpo:dpo_online": {"selection.count": 3, "sampling.size": 3},
    "opd": {"selection.count": 3},
    "opd:opd_sampled": {"selection.count": 3},
}
"""Every method of the package, with options that make its rounds small."""


def recipe(path: Path, policy: Mapping[str, Any], tasks: Mapping[str, Any], **changes: Any) -> Path:
    """A recipe file beside its run folder `run`."""
    data = {
        "name": "tiny",
        "seed": 1,
        "policy": {"device": "cpu", **policy},
        "tasks": {"limit": 6, **tasks},
        "stages": [stage("grpo", 2)],
        "evaluation": {"tasks": 4, "samples": 8},
        "folder": str(path.parent / "run"),
        **changes,
    }
    path.write_text(yaml.safe_dump(data), encoding="utf-8")
    return path


def stage(method: str, steps: int = 2, **options: Any) -> dict[str, Any]:
    return {"method": method, "steps": steps, "options": {**FAST[method], **options}}


@dataclass(frozen=True)
class Called:
    """What a command did."""

    code: int
    out: str
    err: str


class Command:
    """`policyopt ARGUMENTS` in this process, through its entry point."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]):
        self._patch, self._capture = monkeypatch, capsys

    def __call__(self, *arguments: Any) -> Called:
        self._capture.readouterr()
        self._patch.setattr(sys, "argv", ["policyopt", *map(str, arguments)])
        code = 0
        try:
            main()
        except SystemExit as end:
            code = end.code if isinstance(end.code, int) else int(end.code is not None)
        out, err = self._capture.readouterr()
        return Called(code, out, err)


def lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def files(run: Path, *names: str) -> dict[str, Any]:
    """What must be equal between runs: everything but clocks and event files. names: files of the saved model."""
    summary = json.loads((run / "summary.json").read_text(encoding="utf-8"))
    del summary["seconds"]
    common = ("metrics.jsonl", "samples.jsonl", "objective.txt")
    return {"summary": summary, **{name: (run / name).read_bytes() for name in (*common, *names)}}


def texts_equal(one: Any, other: Any) -> bool:
    return all(one(text).input_ids == other(text).input_ids for text in TEXTS)


def logits(causal: Any, tokens: Any) -> Any:
    import torch

    with torch.no_grad():
        return causal(input_ids=tokens, use_cache=False).logits


__all__ = ["FAST", "KINDS", "Called", "Command", "Language", "chats", "folder", "jsonl", "lines", "logits", "model",
           "preferences", "recipe", "stage", "sums", "tokenizer"]  # fmt: skip
