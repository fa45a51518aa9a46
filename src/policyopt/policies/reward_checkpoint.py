"""Reward models of language as ordinary Hugging Face folders, and back."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from transformers import AutoModelForSequenceClassification

from policyopt.policies.checkpoint import CheckpointError, model_source
from policyopt.policies.language import LanguageReward, UnsupportedModelError


def save_reward(reward: LanguageReward, folder: str | Path, tokenizer: Any = None) -> None:
    """A folder that `AutoModelForSequenceClassification.from_pretrained` opens.

    With a tokenizer, its padding token is written down, so that batches of other tools find each row's last token; not
    if it is the end token, because theirs would then be the token before the end and not the one that is read here.
    """
    if tokenizer is not None:
        pad = tokenizer.pad_token_id
        reward.model.config.pad_token_id = None if pad == tokenizer.eos_token_id else pad
        tokenizer.save_pretrained(folder)
    reward.model.save_pretrained(folder)


def holds_reward(path: str | Path) -> bool:
    """Whether a model folder (not one of the Hub) says of itself that it is a sequence classifier."""
    config = Path(path) / "config.json"
    if not config.is_file():
        return False
    try:
        said = json.loads(config.read_text(encoding="utf-8")).get("architectures") or []
    except (ValueError, AttributeError) as error:
        raise CheckpointError(f"{config} is no JSON object: {error}") from error
    return any("ForSequenceClassification" in str(name) for name in said)


def load_reward(path: str | Path, dtype: torch.dtype = torch.float32) -> LanguageReward:
    """The reward model of a folder, or of a repository as "hub:owner/name". CheckpointError: not one of one label."""
    try:
        opened: Any = AutoModelForSequenceClassification.from_pretrained(
            model_source(path), dtype=dtype, output_loading_info=True
        )
    except (OSError, ValueError, RuntimeError, SafetensorError) as error:
        raise CheckpointError(f"{str(path)!r} can not be opened as a reward model: {error}") from error
    model, info = opened
    if info["missing_keys"]:
        raise CheckpointError(
            f"{str(path)!r} lacks {sorted(info['missing_keys'])[:3]}; a causal language model has no head of rewards: "
            "train one (models: RewardModel) or give a folder of a sequence classifier"
        )
    try:
        return LanguageReward(model)
    except UnsupportedModelError as error:
        raise CheckpointError(f"{str(path)!r} is no reward model: {error}") from error
