"""Language policies from nothing, from a folder, with adapters; and back into an ordinary Hugging Face folder."""

from __future__ import annotations

import copy
import difflib
import re
import tempfile
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

from policyopt.policies.language import Language

ADAPTER = "adapter"  # folder, inside a checkpoint, of the low-rank adapters alone
_HUB = "hub:"


SAFELY = {"use_safetensors": True, "trust_remote_code": False}
"""What `from_pretrained` must know of a folder that anybody may have written: weights as safetensors, never as pickles,
and no code."""


class CheckpointError(ValueError):
    """A model folder that can not be opened; says what is missing and the remedy."""


@dataclass(frozen=True)
class Lora:
    """Low-rank adapters (Hu et al. 2021, arXiv 2106.09685): W + alpha / rank * B A, B = 0 at the start.

    There is no dropout option: log-probabilities that enter a ratio must not be random. seed: of A's initial values.
    """

    rank: int = 16
    alpha: int = 32
    target_modules: str | tuple[str, ...] = "all-linear"
    seed: int = 0


def new_language(
    vocab_size: int,
    model_type: str = "llama",
    hidden_size: int = 128,
    layers: int = 3,
    heads: int = 4,
    seed: int = 0,
    dtype: torch.dtype = torch.float32,
    **config: Any,
) -> Language:
    """A model of random weights, a function of the seed alone; the global random state is left as it was. config:
    further fields of the architecture's configuration (`new_config`)."""
    made = new_config(vocab_size, model_type, hidden_size, layers, heads, **config)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        # Made in its precision, not converted: the rotary frequencies must stay in float32.
        return Language(AutoModelForCausalLM.from_config(made, dtype=dtype))


def new_config(vocab_size: int, model_type: str, hidden_size: int, layers: int, heads: int, **config: Any) -> Any:
    """The configuration of a new model.

    config: further fields of the architecture's configuration; by default intermediate_size=4 * hidden_size,
    max_position_embeddings=512, as many key as query heads and tied embeddings. The default architecture is not
    qwen2, because transformers opens every tokenizer beside a qwen2 model as Qwen's own, which drops characters.
    """
    fields = {
        "vocab_size": vocab_size,
        "hidden_size": hidden_size,
        "num_hidden_layers": layers,
        "num_attention_heads": heads,
        "num_key_value_heads": heads,
        "head_dim": hidden_size // heads,
        "intermediate_size": 4 * hidden_size,
        "max_position_embeddings": 512,
        "tie_word_embeddings": True,
        # A padding id would zero that token's embedding and stop its gradient; rows here need no padding token.
        "pad_token_id": None,
        "bos_token_id": None,
        "eos_token_id": None,
    }
    if model_type not in MODEL_FOR_CAUSAL_LM_MAPPING_NAMES:
        near = difflib.get_close_matches(model_type, MODEL_FOR_CAUSAL_LM_MAPPING_NAMES, 1)
        hint = f"did you mean {near[0]!r}?" if near else "take llama, qwen2, qwen3, gemma or gpt_neox"
        raise CheckpointError(f"transformers has no causal language model of type {model_type!r}; {hint}")
    if model_type == "gpt_neox":
        del fields["num_key_value_heads"], fields["head_dim"]
    return AutoConfig.for_model(model_type, **{**fields, **config})


def load_language(path: str | Path, dtype: torch.dtype = torch.float32, lora: Lora | None = None) -> Language:
    """The policy of a model folder, or of a repository as "hub:owner/name". CheckpointError: not a model."""
    source = model_source(path)
    try:
        opened: Any = AutoModelForCausalLM.from_pretrained(source, dtype=dtype, output_loading_info=True, **SAFELY)
    except Exception as error:
        # The library raises anything for files that are damaged.
        raise CheckpointError(f"{str(path)!r} can not be opened as a causal language model: {error}") from error
    model, info = opened
    if info["missing_keys"]:
        missing = sorted(info["missing_keys"])
        raise CheckpointError(
            f"{str(path)!r} lacks {len(missing)} of its weights, {missing[:3]} among them; transformers would make "
            "them up at random: save the whole model there"
        )
    policy = Language(model)
    return policy if lora is None else with_lora(policy, lora)


def model_source(path: str | Path) -> str:
    """The folder or hub name that `from_pretrained` takes, once it is clear that there is something to open."""
    text = str(path)
    if text.startswith(_HUB):
        if not re.fullmatch(r"[\w.-]+/[\w.-]+", text.removeprefix(_HUB)):
            raise CheckpointError(f"a model of the Hugging Face Hub is written hub:owner/name, not {text!r}")
        return text.removeprefix(_HUB)
    folder = Path(path)
    if not folder.is_dir():
        raise CheckpointError(
            f"there is no model folder {text!r}; give a folder with config.json and weights, or hub:owner/name "
            "to download one"
        )
    if not (folder / "config.json").is_file():
        if (folder / "adapter_config.json").is_file():
            raise CheckpointError(
                f"{text!r} holds adapters alone; give the folder of the whole model, which policyopt saves one level up"
            )
        if (folder / "model" / "config.json").is_file():
            raise CheckpointError(f"{text!r} is the folder of a run; its model is {str(folder / 'model')!r}")
        raise CheckpointError(
            f"{text!r} has no config.json, so it is not a model folder; it holds "
            f"{sorted(entry.name for entry in folder.iterdir())[:8]}"
        )
    return text


def with_lora(policy: Language, lora: Lora) -> Language:
    """The policy with adapters, which alone are trained. The model is taken over, not copied; at first the adapted
    policy equals it."""
    # Imported here because it takes seconds and few runs need it.
    from peft import LoraConfig, get_peft_model

    targets = lora.target_modules if isinstance(lora.target_modules, str) else list(lora.target_modules)
    config = LoraConfig(
        r=lora.rank, lora_alpha=lora.alpha, target_modules=targets, lora_dropout=0.0, task_type="CAUSAL_LM"
    )
    with torch.random.fork_rng(devices=[]), warnings.catch_warnings():
        # A matter between peft and transformers that their users can not change.
        warnings.filterwarnings("ignore", "`is_gradient_checkpointing` is deprecated", FutureWarning)
        torch.manual_seed(lora.seed)
        try:
            adapted = get_peft_model(policy.causal, config)
        except ValueError as error:
            names = sorted(
                {name.rpartition(".")[2] for name, m in policy.causal.named_modules() if hasattr(m, "weight")}
            )
            raise CheckpointError(f"lora.target_modules={targets!r}: {error} The model has {names}") from error
    return Language(adapted, policy.score_rows, policy.head_tokens, policy.reading)


def save_language(policy: Language, folder: str | Path, tokenizer: Any = None) -> None:
    """A folder that `AutoModelForCausalLM.from_pretrained` opens; adapters are merged into it and also saved alone
    in folder/adapter. CheckpointError, after everything is written: `AutoTokenizer` would open another tokenizer."""
    folder = Path(folder)
    model = policy.causal
    if policy.adapted:
        policy.model.save_pretrained(folder / ADAPTER)
        model = copy.deepcopy(policy.model).merge_and_unload()
    if tokenizer is None:
        model.save_pretrained(folder)
        return
    _tell_ends(model, tokenizer)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    _check_reopened(folder, tokenizer, policy.causal.config.model_type)


def check_pair(policy: Language, tokenizer: Any) -> None:
    """CheckpointError if a folder of this policy and tokenizer would be opened as something else: better known
    before training than after it."""
    with tempfile.TemporaryDirectory() as folder:
        policy.causal.config.save_pretrained(folder)
        tokenizer.save_pretrained(folder)
        _check_reopened(Path(folder), tokenizer, policy.causal.config.model_type)


def _check_reopened(folder: Path, tokenizer: Any, model_type: str) -> None:
    """transformers picks the tokenizer's class by the *model's* type for some types, whatever the folder says."""
    reopened = AutoTokenizer.from_pretrained(folder)
    # Only of characters it knows: what is outside its alphabet has no right reading.
    probe = "".join(c for c in " a  B\n1 2+3= (\u00e9)" if tokenizer.unk_token_id not in tokenizer(c).input_ids)
    if reopened.get_vocab() != tokenizer.get_vocab() or reopened(probe).input_ids != tokenizer(probe).input_ids:
        raise CheckpointError(
            f"transformers opens the tokenizer of a {model_type!r} model as {type(reopened).__name__}, which reads "
            f"text otherwise than this {type(tokenizer).__name__}; use it with a llama, qwen3 or gemma model"
        )


def _tell_ends(model: Any, tokenizer: Any) -> None:
    """Other tools' `generate` must know where an answer ends; only the generation settings are touched.

    Answers were trained to end with the tokenizer's EOS, which need not be among those the model came with.
    """
    settings, end = model.generation_config, tokenizer.eos_token_id
    if settings.eos_token_id is None:
        settings.eos_token_id = end
    known = settings.eos_token_id if isinstance(settings.eos_token_id, list) else [settings.eos_token_id]
    if end not in known:
        settings.eos_token_id = [end, *known]
    if settings.pad_token_id is None:
        settings.pad_token_id = end if tokenizer.pad_token_id is None else tokenizer.pad_token_id
