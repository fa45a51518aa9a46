"""Reward models and preference models of language as ordinary Hugging Face folders, and back.

What an ordinary classifier does not say of itself stands in the config's entry `policyopt`: that it compares rows, and
the template by which it reads a task's own answer beside the prompt.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForSequenceClassification

from policyopt.plain import from_json
from policyopt.policies.checkpoint import SAFELY, CheckpointError, model_source
from policyopt.policies.classifiers import Classifier, LanguagePreference, LanguageReward, UnsupportedModelError
from policyopt.types import REFERENCE_ANSWER

_COMPARES, _TEMPLATE = "compares", "reference_answer"


def save_reward(model: Classifier, folder: str | Path, tokenizer: Any = None, template: str | None = None) -> None:
    """A folder that `AutoModelForSequenceClassification.from_pretrained` opens. template: of what a model that is
    conditioned on reference answers reads.

    With a tokenizer, its padding token is written down, so that batches of other tools find each row's last token; not
    if it is the end token, because theirs would then be the token before the end and not the one that is read here.
    """
    said: dict[str, Any] = {_COMPARES: True} if isinstance(model, LanguagePreference) else {}
    if model.context is not None:
        if template is None:
            raise CheckpointError("a model that reads reference answers is saved with the template that it reads by")
        said[_TEMPLATE] = template
    config = model.model.config
    if said:
        config.policyopt = said
    if tokenizer is not None:
        pad = tokenizer.pad_token_id
        config.pad_token_id = None if pad == tokenizer.eos_token_id else pad
        tokenizer.save_pretrained(folder)
    model.model.save_pretrained(folder)


def holds_reward(path: str | Path) -> bool:
    """Whether a model folder (not one of the Hub) says of itself that it is a sequence classifier."""
    config = Path(path) / "config.json"
    if not config.is_file():
        return False
    try:
        said = list(from_json(config.read_bytes()).get("architectures") or [])
    except (ValueError, AttributeError, TypeError) as error:
        raise CheckpointError(f"{config} is no JSON object: {error}") from error
    return any("ForSequenceClassification" in str(name) for name in said)


def load_reward(path: str | Path, dtype: torch.dtype = torch.float32) -> LanguageReward | LanguagePreference:
    """The reward or preference model of a folder, or of a repository as "hub:owner/name". CheckpointError: it is
    neither a classifier of one label nor one that says of itself that it compares rows."""
    try:
        opened: Any = AutoModelForSequenceClassification.from_pretrained(
            model_source(path), dtype=dtype, output_loading_info=True, **SAFELY
        )
    except Exception as error:
        # The library raises anything for files that are damaged.
        raise CheckpointError(f"{str(path)!r} can not be opened as a reward model: {error}") from error
    model, info = opened
    if info["missing_keys"]:
        raise CheckpointError(
            f"{str(path)!r} lacks {sorted(info['missing_keys'])[:3]}; a causal language model has no head of rewards: "
            "train one (models: RewardModel) or give a folder of a sequence classifier"
        )
    said = _said(model)
    try:
        made = LanguagePreference(model) if said.get(_COMPARES) else LanguageReward(model)
    except UnsupportedModelError as error:
        raise CheckpointError(f"{str(path)!r} is no reward model: {error}") from error
    made.context = REFERENCE_ANSWER if template_of(made) is not None else None
    return made


def template_of(model: Classifier) -> str | None:
    """By what template an opened model reads reference answers; None if it does not."""
    found = _said(model.model).get(_TEMPLATE)
    return found if isinstance(found, str) else None


def _said(classifier: Any) -> dict[str, Any]:
    found = getattr(classifier.config, "policyopt", None)
    return found if isinstance(found, dict) else {}
