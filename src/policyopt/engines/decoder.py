"""One pass of a Llama-like decoder over new tokens, with a cache that is written in place.

It has no parameters: it reads the modules of a Hugging Face model at every call. Architectures: Llama, Qwen 2,
Qwen 3 and Gemma (pre-normalised blocks, rotary positions, grouped queries, a gated feed-forward network).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn import functional as F

SUPPORTED = ("qwen2", "llama", "gemma", "qwen3")
STATIC_ROPE = ("default", "linear", "llama3", "yarn")
Map = Callable[[Tensor], Tensor]


def why_not(model: Any) -> str | None:
    """Why this decoder can not stand in for a causal model, or None if it can."""
    config = model.config
    if config.model_type not in SUPPORTED:
        return f"it decodes {', '.join(SUPPORTED)} models, not {config.model_type!r}"
    rope = config.rope_parameters["rope_type"]
    if rope not in STATIC_ROPE:
        return f"its rotary positions are tables made once, and {rope!r} positions change with the length"
    if model.base_model.layers and any(_window(layer.self_attn) for layer in model.base_model.layers):
        return "it attends to everything before a token, and this model has a sliding window"
    return None


def _window(attention: nn.Module) -> Any:
    return vars(attention).get("sliding_window")


@dataclass(frozen=True)
class Layer:
    """One block's functions, over the model's own parameters."""

    norm: Map
    qkv: Map
    head_norms: tuple[Map, Map] | None
    out: Map
    feed_norm: Map
    gate: Map
    up: Map
    activation: Map
    down: Map


class Decoder:
    """Keys and values of up to `length` tokens of several rows, and the pass that adds to them."""

    def __init__(self, backbone: Any, length: int):
        attention = backbone.layers[0].self_attn
        self.dim, self.scale = attention.head_dim, attention.scaling
        self.heads = backbone.config.num_attention_heads
        self.groups = backbone.config.num_key_value_heads
        self.embed, self.norm = backbone.embed_tokens, _norm(backbone.norm)
        weight = backbone.embed_tokens.weight
        self.layers = [_layer(layer) for layer in backbone.layers]
        positions = torch.arange(length, device=weight.device)[None]
        cos, sin = backbone.rotary_emb(weight[:1, None], positions)
        # The minus sign of the rotation is kept in the table: x cos + swap(x) sin.
        half = self.dim // 2
        self.cos, self.sin = cos[0], torch.cat([-sin[0, :, :half], sin[0, :, half:]], -1)
        self.length, self.used = length, 0
        self.keys: list[Tensor] = []
        self.values: list[Tensor] = []

    def prefill(self, token: Int[Tensor, "U C"]) -> Float[Tensor, "U C D"]:
        """States of contexts that begin at column 0; starts the cache. Causal, so padding behind a context does not
        reach it."""
        rows, width = token.shape
        shape = (rows, self.groups, self.length, self.dim)
        dtype, device = self.embed.weight.dtype, token.device
        # Zeros, not memory as it came: a masked key must still be a number.
        self.keys = [torch.zeros(shape, dtype=dtype, device=device) for _ in self.layers]
        self.values = [torch.zeros(shape, dtype=dtype, device=device) for _ in self.layers]
        self.used = width
        return self._through(token, torch.arange(width, device=device)[None], None)

    def step(self, token: Int[Tensor, " R"], position: Int[Tensor, " R"], real: Tensor | None) -> Float[Tensor, "R D"]:
        """States after one more token per row. real (R, length): columns that are no padding; None if all are."""
        self.used += 1
        mask = None if real is None else real[:, None, None, : self.used]
        return self._through(token[:, None], position[:, None], mask)[:, 0]

    def select(self, rows: Tensor) -> None:
        """Keep (or repeat) rows of the cache."""
        self.keys = [key[rows] for key in self.keys]
        self.values = [value[rows] for value in self.values]

    def _through(self, token: Tensor, position: Tensor, mask: Tensor | None) -> Tensor:
        x = self.embed(token)
        cos, sin = self.cos[position][:, :, None], self.sin[position][:, :, None]
        for index, layer in enumerate(self.layers):
            x = x + layer.out(self._attend(index, layer, layer.norm(x), cos, sin, mask))
            fed = layer.feed_norm(x)
            x = x + layer.down(layer.activation(layer.gate(fed)) * layer.up(fed))
        return self.norm(x)

    def _attend(self, index: int, layer: Layer, x: Tensor, cos: Tensor, sin: Tensor, mask: Tensor | None) -> Tensor:
        rows, new = x.shape[:2]
        both = self.heads + self.groups
        heads = layer.qkv(x).view(rows, new, both + self.groups, self.dim)
        turned = heads[:, :, :both]
        if layer.head_norms is not None:
            of_query, of_key = layer.head_norms
            turned = torch.cat([of_query(turned[:, :, : self.heads]), of_key(turned[:, :, self.heads :])], 2)
        # Queries and keys are rotated together: x cos + (second half, first half) sin.
        turned = turned * cos + turned.roll(self.dim // 2, -1) * sin
        start = self.used - new
        keys, values = self.keys[index], self.values[index]
        keys[:, :, start : self.used] = turned[:, :, self.heads :].transpose(1, 2)
        values[:, :, start : self.used] = heads[:, :, both:].transpose(1, 2)
        attended = F.scaled_dot_product_attention(
            turned[:, :, : self.heads].transpose(1, 2),
            keys[:, :, : self.used],
            values[:, :, : self.used],
            attn_mask=mask,
            is_causal=mask is None and new > 1,
            scale=self.scale,
            enable_gqa=self.heads != self.groups,
        )
        return attended.transpose(1, 2).reshape(rows, new, self.heads * self.dim)


def _layer(block: Any) -> Layer:
    attention, feed = block.self_attn, block.mlp
    normed = "q_norm" in dict(attention.named_children())
    return Layer(
        norm=_norm(block.input_layernorm),
        qkv=_joint(attention.q_proj, attention.k_proj, attention.v_proj),
        head_norms=(_norm(attention.q_norm), _norm(attention.k_norm)) if normed else None,
        out=_linear(attention.o_proj),
        feed_norm=_norm(block.post_attention_layernorm),
        gate=_linear(feed.gate_proj),
        up=_linear(feed.up_proj),
        activation=feed.act_fn,
        down=_linear(feed.down_proj),
    )


def _linear(module: Any) -> Map:
    weight, bias = linear_weights(module)
    return lambda x: F.linear(x, weight, bias)


def _joint(*modules: Any) -> Map:
    """Several linear maps of one input, their outputs side by side. (Joining the weights instead of the outputs was
    measured: no gain for a model of 1 million parameters, a third slower for one of 30 million.)"""
    maps = [_linear(module) for module in modules]
    return lambda x: torch.cat([each(x) for each in maps], -1)


def linear_weights(module: Any) -> tuple[Tensor, Tensor | None]:
    """Weight and bias of a linear layer; of one with low-rank adapters, W plus what the active adapters add."""
    if type(module) is nn.Linear:
        return module.weight, module.bias
    # Imported here because it takes seconds; a layer that is not torch's own comes from there.
    from peft.tuners.lora import Linear as LoraLinear

    if not isinstance(module, LoraLinear):
        raise TypeError(f"a linear layer is torch's or a low-rank adapter's, not {type(module).__name__}")
    base: Any = module.get_base_layer()
    weight = base.weight
    if not module.merged and not module.disable_adapters:
        for adapter in module.active_adapters:
            if adapter in module.lora_A:
                weight = weight + module.get_delta_weight(adapter).to(weight.dtype)
    return weight, base.bias


def _norm(module: Any) -> Map:
    """Root-mean-square normalisation. In float32 one fused kernel; otherwise the module itself, whose inner
    float32 (also in a float64 model) must be matched exactly."""
    if module.weight.dtype != torch.float32:
        return module
    if "Gemma" in type(module).__name__:
        weight, epsilon = 1 + module.weight, module.eps
    else:
        weight, epsilon = module.weight, module.variance_epsilon
    return lambda x: F.rms_norm(x, weight.shape, weight, epsilon)
