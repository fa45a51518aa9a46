"""The plan of a recipe, or of a model by name: shapes without weights."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from policyopt.compose import Method, Scalar
from policyopt.evaluation.sizing import MACHINES, Machine, Plan, Shape, Work, plan
from policyopt.methods import load
from policyopt.options import override
from policyopt.policies.checkpoint import new_config
from policyopt.recipe.base import Recipe, RecipeError
from policyopt.recipe.schema import load_recipe

# Published configurations (their config.json): Qwen2.5 1.5B, 7B and 32B, Llama 3.1 70B.
NAMED: dict[str, tuple[str, dict[str, Any]]] = {
    "1.5B": ("qwen2", {"hidden_size": 1536, "num_hidden_layers": 28, "num_attention_heads": 12,
        "num_key_value_heads": 2, "intermediate_size": 8960, "vocab_size": 151936, "tie_word_embeddings": True}),
    "7B": ("qwen2", {"hidden_size": 3584, "num_hidden_layers": 28, "num_attention_heads": 28,
        "num_key_value_heads": 4, "intermediate_size": 18944, "vocab_size": 152064}),
    "32B": ("qwen2", {"hidden_size": 5120, "num_hidden_layers": 64, "num_attention_heads": 40,
        "num_key_value_heads": 8, "intermediate_size": 27648, "vocab_size": 152064}),
    "70B": ("llama", {"hidden_size": 8192, "num_hidden_layers": 80, "num_attention_heads": 64,
        "num_key_value_heads": 8, "intermediate_size": 28672, "vocab_size": 128256}),
}  # fmt: skip


def plans(targets: Sequence[str], changes: Sequence[str] = (), machine: str = "h100") -> list[Plan]:
    """Of names ("7B"), each with the usual round; or of recipes with `key=value` changes."""
    if machine not in MACHINES:
        raise RecipeError(f"machine is one of {', '.join(MACHINES)}, not {machine!r}")
    return [_planned(target, changes, MACHINES[machine]) for target in targets]


def _planned(target: str, changes: Sequence[str], machine: Machine) -> Plan:
    if target in NAMED:
        if changes:
            raise RecipeError(f"changes are of recipes; {target} is the name of a model")
        kind, options = NAMED[target]
        return plan(shape_of(target, kind, options), Work(), machine)
    if not target.endswith((".yaml", ".yml")):
        raise RecipeError(f"{target!r} is neither a recipe (a YAML file) nor one of {', '.join(NAMED)}")
    recipe: Any = load_recipe(target, changes)
    if recipe.kind != "language":
        raise RecipeError(f"plans are of language policies, and {target} trains a {recipe.kind} policy")
    return plan(_shape(recipe), work_of(recipe), machine)


def shape_of(name: str, model_type: str, options: dict[str, Any], size: int = 2) -> Shape:
    """Exact: the architecture is made without memory."""
    from transformers import AutoConfig

    return _of_config(name, AutoConfig.for_model(model_type, **options), size)


def _of_config(name: str, config: Any, size: int) -> Shape:
    from transformers import AutoModelForCausalLM

    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(config)
    heads = config.num_attention_heads
    return Shape(
        name,
        sum(p.numel() for p in model.parameters()),
        config.num_hidden_layers,
        config.hidden_size,
        getattr(config, "num_key_value_heads", None) or heads,
        getattr(config, "head_dim", None) or config.hidden_size // heads,
        size,
    )


def _shape(recipe: Any) -> Shape:
    policy, size = recipe.policy, torch.empty((), dtype=getattr(torch, recipe.policy.dtype)).element_size()
    if policy.model is not None:
        from transformers import AutoConfig

        if not Path(policy.model).is_dir():
            raise RecipeError(f"policy.model={policy.model!r} is no folder here; a plan reads its config.json")
        found = _of_config(recipe.name, AutoConfig.from_pretrained(policy.model), size)
    else:
        new = policy.new
        vocabulary = len(new.alphabet) if new.alphabet else 128  # the characters of the tasks, about
        wide = new.intermediate_size or 4 * new.hidden_size
        made = new_config(vocabulary, new.model_type, new.hidden_size, new.layers, new.heads, intermediate_size=wide)
        found = _of_config(recipe.name, made, size)
    if policy.lora is None:
        return found
    # Adapters of all linear layers: rank (inputs + outputs) numbers each, about 2 rank / hidden of the weights.
    return replace(found, trained=int(found.parameters * 2 * policy.lora.rank / found.hidden))


def work_of(recipe: Recipe) -> Work:
    """Of the last stage."""
    stage, tasks = recipe.stages[-1], recipe.tasks
    method: Method = override(load(stage.method), {**stage.options_for.get(stage.method, {}), **stage.options})
    attempts = getattr(method.sampling, "size", 1)
    rows = getattr(method.selection, "count", 1) * attempts
    collected = [role for role in method.roles.values() if role.when == "collected" and role.model == "policy"]
    trained = {term.trains for term in method.terms} - {"policy", method.policy}
    frozen = ({role.model for role in method.roles.values()} | recipe.supplied) - trained - {"policy", method.policy}
    usual = Work()
    # Prompts are not read here: a plan makes no tasks.
    return Work(
        rows=rows,
        prompt=min(usual.prompt, tasks.limit),
        answer=tasks.limit,
        epochs=getattr(method.update, "epochs", 1),
        micro_rows=getattr(method.update, "micro_rows", None),
        frozen=len(frozen),
        scores=len(collected),
        critics=sum(not isinstance(method.models.get(name), Scalar) for name in trained),
    )
