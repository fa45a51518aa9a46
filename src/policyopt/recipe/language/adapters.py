"""Whether the rank of low-rank adapters fits the layers that they are put on."""

from __future__ import annotations

from torch import nn

from policyopt.recipe.base import RecipeError
from policyopt.worlds.once import warn_once


def check_rank(model: nn.Module, rank: int) -> None:
    """RecipeError: the rank is above the smallest side of every adapted layer. Above that of some, it is told: there
    B A has the rank of the layer itself, and the rest of the adapter is memory."""
    from peft.tuners.lora import LoraLayer

    layers = [layer for layer in model.modules() if isinstance(layer, LoraLayer)]
    shapes = [(layer.in_features, layer.out_features) for layer in layers]
    sides = [min(wide, high) for wide, high in shapes if wide is not None and high is not None]
    over = [side for side in sides if side < rank]
    if not over:
        return
    if len(over) == len(sides):
        raise RecipeError(
            f"policy.lora.rank={rank} is above the smallest side of every layer that adapters are put on (at most "
            f"{max(sides)}): they would be larger than the layers and not of low rank; use a rank of {max(sides)} or "
            "less, or train all weights without policy.lora"
        )
    warn_once(
        f"policy.lora.rank={rank} is above the smallest side of {len(over)} of {len(sides)} layers that adapters are "
        f"put on (from {min(over)}): there more than the side changes nothing and takes memory; use {min(over)} or "
        "less, or name other layers with policy.lora.target_modules"
    )
