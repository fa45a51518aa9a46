"""What a Hugging Face decoder computes, as data: blocks whose weights that read the same input stand side by side.

Llama, Qwen 2, Qwen 3, Gemma 1 to 3 (text) and GPT-NeoX: rotary positions, grouped queries, a feed-forward network that
may be gated, norms before (and in Gemma 2 and 3 after) both. Nothing here outlives a call of the engine, so the joined
weights can not be stale.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from policyopt.compiled.decoding import Kernels, kernels

GATED = ("llama", "qwen2", "qwen3", "gemma", "gemma2", "gemma3_text")
SUPPORTED = (*GATED, "gpt_neox")
STATIC_ROPE = ("default", "linear", "llama3", "yarn")
KERNELS = ("sdpa", "eager")
Map = Callable[[Tensor], Tensor]


def why_not(model: Any) -> str | None:
    """Why these blocks can not stand for a causal model, or None if they can."""
    config = model.config
    if config.model_type not in SUPPORTED:
        return f"it decodes {', '.join(SUPPORTED)} models, not {config.model_type!r}"
    changing = sorted({rope["rope_type"] for rope in _ropes(config)} - {*STATIC_ROPE})
    if changing:
        return f"its rotary positions are tables made once, and {changing[0]!r} positions change with the length"
    if config._attn_implementation not in KERNELS:
        return f"it attends as {' or '.join(KERNELS)} do, and this model as {config._attn_implementation!r}"
    if config.to_dict().get("use_bidirectional_attention"):
        return "it reads from left to right, and this model attends to both sides"
    return None


def _ropes(config: Any) -> list[dict[str, Any]]:
    """Gemma 3 has rotary positions by type of layer."""
    given = config.rope_parameters
    return [given] if "rope_type" in given else [rope for rope in given.values() if rope is not None]


@dataclass(frozen=True)
class Linear:
    """x (N, I) -> x weight^T + bias (N, O), a product of the weight's precision.

    packed: the weight as kernels read it.
    """

    weight: Tensor
    bias: Tensor | None
    kernels: Kernels | None = None
    packed: Tensor | None = None

    def __call__(self, x: Tensor) -> Tensor:
        if self.kernels is not None and self.packed is not None:
            return self.kernels.linear(x, self.packed, self.bias)
        if self.weight.dtype == x.dtype:
            return F.linear(x, self.weight, self.bias)
        return F.linear(x.to(self.weight.dtype), self.weight, self.bias).to(x.dtype)

    def onto(self, residual: Tensor, x: Tensor) -> Tensor:
        """residual + the map of x, in one kernel where there is one."""
        if self.kernels is not None and self.packed is not None:
            found = self.kernels.linear(x, self.packed, residual, high=True)
            return found if self.bias is None else found.add_(self.bias)
        if residual.dtype == x.dtype == self.weight.dtype and self.bias is None:
            return torch.addmm(residual, x, self.weight.t())
        return residual + self(x)


@dataclass(frozen=True)
class Attention:
    """qkv: per key head its queries, key and value. Queries come out scaled; rotated dimensions stand in pairs.
    cap: c tanh(score / c). window: tokens attended to, the own one among them. table: its rotary table."""

    qkv: Linear
    out: Linear
    head_norms: tuple[Map, Map] | None
    cap: float | None
    window: int | None
    table: int


@dataclass(frozen=True)
class Feed:
    wide: Linear
    activation: Map
    gated: bool
    down: Linear
    kernels: Kernels | None = None  # if the activation is silu

    def middle(self, x: Tensor) -> Tensor:
        wide = self.wide(x)
        if self.kernels is not None and self.gated:
            return self.kernels.gated_silu(wide)
        if not self.gated:
            return self.activation(wide)
        gate, up = wide.chunk(2, -1)
        return self.activation(gate).mul_(up)


@dataclass(frozen=True)
class Block:
    """norms: before attention, after it, before the feed-forward network, after it. parallel: both read the block's
    input."""

    norms: tuple[Map, Map | None, Map, Map | None]
    attention: Attention
    feed: Feed
    parallel: bool


@dataclass(frozen=True)
class Architecture:
    """groups: key heads; repeats: query heads of each. tables: rotations (positions, dim / 2) as complex numbers."""

    embed: Map
    blocks: Sequence[Block]
    norm: Map
    groups: int
    repeats: int
    dim: int
    dtype: torch.dtype  # of everything but the weights
    tables: Sequence[Tensor]
    kernels: Kernels | None


def read(backbone: Any, length: int, weights: torch.dtype | None = None, *, compiled: bool = True) -> Architecture:
    """The architecture of a backbone for `length` positions. weights: the precision of linear layers (None: their own);
    what is below float32 meets states of float32. compiled: with kernels, where there are some."""
    config = backbone.config
    neox = config.model_type == "gpt_neox"
    embedding = backbone.get_input_embeddings()
    held: torch.dtype = embedding.weight.dtype
    dtype = torch.float32 if held in (torch.bfloat16, torch.float16) else held
    layers = list(backbone.layers)
    groups = config.num_attention_heads if neox else config.num_key_value_heads
    weights = weights or held
    able = kernels(dtype, weights) if compiled and embedding.weight.device.type == "cpu" else None
    reader = _Reader(backbone, dtype, weights, groups, able)
    types = sorted({_layer_type(layer) for layer in layers}) if config.model_type == "gemma3_text" else [""]
    return Architecture(
        embed=lambda token: embedding(token).to(dtype),
        blocks=[reader.neox(layer) if neox else reader.gated(layer, types) for layer in layers],
        norm=_norm(backbone.final_layer_norm if neox else backbone.norm, dtype, None),
        groups=groups,
        repeats=config.num_attention_heads // groups,
        dim=reader.dim,
        dtype=dtype,
        tables=[reader.table(length, name) for name in types],
        kernels=able,
    )


def _layer_type(layer: Any) -> str:
    return layer.self_attn.layer_type


class _Reader:
    def __init__(self, backbone: Any, dtype: torch.dtype, weights: torch.dtype, groups: int, able: Kernels | None):
        self._backbone, self._dtype, self._weights, self._groups = backbone, dtype, weights, groups
        self._kernels = able
        config = backbone.config
        self.dim: int = config.to_dict().get("head_dim") or config.hidden_size // config.num_attention_heads
        cos, _ = self._angles(1, _layer_type(backbone.layers[0]) if config.model_type == "gemma3_text" else "")
        half = cos.shape[-1] // 2
        # (0, half, 1, half + 1, ...): what is rotated together stands together, and is a complex number.
        turned = torch.arange(2 * half).view(2, half).t().reshape(-1)
        self._places = torch.cat([turned, torch.arange(2 * half, self.dim)]).to(cos.device)

    def _angles(self, length: int, layer_type: str) -> tuple[Tensor, Tensor]:
        weight = self._backbone.get_input_embeddings().weight
        probe = torch.empty(1, dtype=self._dtype, device=weight.device)
        positions = torch.arange(length, device=weight.device)[None]
        cos, sin = self._backbone.rotary_emb(probe, positions, *([layer_type] if layer_type else []))
        return cos[0], sin[0]

    def table(self, length: int, layer_type: str) -> Tensor:
        cos, sin = self._angles(length, layer_type)
        half = cos.shape[-1] // 2
        turns = torch.complex(cos[:, :half].contiguous(), sin[:, :half].contiguous())
        still = turns.new_ones(length, self.dim // 2 - half)  # dimensions that are not rotated
        return torch.cat([turns, still], 1)

    def linear(self, *modules: Any) -> Linear:
        weights, biases = zip(*(linear_weights(module) for module in modules), strict=True)
        weight = weights[0] if len(weights) == 1 else torch.cat(weights)
        bias = None if biases[0] is None else biases[0] if len(biases) == 1 else torch.cat(biases)
        return self._linear(weight, bias)

    def _linear(self, weight: Tensor, bias: Tensor | None) -> Linear:
        weight = weight.to(self._weights)
        if self._kernels is not None:
            packed = self._kernels.packed(weight)
            if packed is not None:
                return Linear(packed, None if bias is None else bias.to(self._dtype), self._kernels, packed)
        return Linear(weight, None if bias is None else bias.to(self._weights))

    def gated(self, layer: Any, types: Sequence[str]) -> Block:
        attention, feed = layer.self_attn, layer.mlp
        inside = dict(layer.named_children())
        double = "pre_feedforward_layernorm" in inside  # norms behind both parts as well
        behind = layer.post_attention_layernorm
        silu = layer.mlp.config.to_dict().get("hidden_act") in ("silu", "swish")
        return Block(
            norms=(
                self._norm(layer.input_layernorm, self._kernels),
                self._norm(behind) if double else None,
                self._norm(layer.pre_feedforward_layernorm if double else behind, self._kernels),
                self._norm(layer.post_feedforward_layernorm) if double else None,
            ),
            attention=self._attention(attention, types),
            feed=Feed(
                self.linear(feed.gate_proj, feed.up_proj),
                feed.act_fn,
                True,
                self.linear(feed.down_proj),
                self._kernels if silu else None,
            ),
            parallel=False,
        )

    def _attention(self, attention: Any, types: Sequence[str]) -> Attention:
        parts = [linear_weights(attention.q_proj), linear_weights(attention.k_proj), linear_weights(attention.v_proj)]
        normed = "q_norm" in dict(attention.named_children())
        scale = attention.scaling
        held = vars(attention)
        # transformers' sdpa kernel leaves the cap out.
        capped = attention.config._attn_implementation == "eager" and attention.config.model_type == "gemma2"
        layer_type = held.get("layer_type") or ""
        return Attention(
            qkv=self._joined([[w, b] for w, b in parts], 1.0 if normed else scale),
            out=self.linear(attention.o_proj),
            head_norms=self._head_norms(attention, scale) if normed else None,
            cap=attention.attn_logit_softcapping if capped else None,
            window=held.get("sliding_window"),
            table=types.index(layer_type) if layer_type in types else 0,
        )

    def _joined(self, parts: Sequence[Sequence[Tensor | None]], scale: float) -> Linear:
        """Weights and biases of queries, keys and values -> one map, ordered as `Attention.qkv` says."""

        def join(kind: int) -> Tensor:
            found = []
            for number, part in enumerate(parts):
                rows = part[kind]
                assert rows is not None
                rows = rows.view(self._groups, -1, self.dim, *rows.shape[1:])
                rows = rows if number == 2 else rows[:, :, self._places]
                found.append(rows * scale if number == 0 and scale != 1 else rows)
            return torch.cat(found, 1).flatten(0, 2)

        return self._linear(join(0), None if parts[0][1] is None else join(1))

    def _head_norms(self, attention: Any, scale: float) -> tuple[Map, Map]:
        """Norms of queries and keys whose dimensions stand in pairs."""
        back = torch.argsort(self._places)
        query, key = self._norm(attention.q_norm), self._norm(attention.k_norm)
        return (
            lambda x: query(x[..., back])[..., self._places] * scale,
            lambda x: key(x[..., back])[..., self._places],
        )

    def neox(self, layer: Any) -> Block:
        attention, feed = layer.attention, layer.mlp
        weight, bias = linear_weights(attention.query_key_value)

        def part(tensor: Tensor | None, index: int) -> Tensor | None:
            if tensor is None:
                return None
            return tensor.view(self._groups, 3, self.dim, *tensor.shape[1:])[:, index].reshape(-1, *tensor.shape[1:])

        parts = [[part(weight, index), part(bias, index)] for index in range(3)]
        return Block(
            norms=(self._norm(layer.input_layernorm), None, self._norm(layer.post_attention_layernorm), None),
            attention=Attention(
                self._joined(parts, attention.scaling), self.linear(attention.dense), None, None, None, 0
            ),
            feed=Feed(self.linear(feed.dense_h_to_4h), feed.act, False, self.linear(feed.dense_4h_to_h)),
            parallel=layer.use_parallel_residual,
        )

    def _norm(self, module: Any, able: Kernels | None = None) -> Map:
        return _norm(module, self._dtype, able)


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


def _norm(module: Any, dtype: torch.dtype, able: Kernels | None) -> Map:
    """A norm in float32, by one kernel. In float64 the module itself, whose inner float32 must be matched exactly."""
    if dtype != torch.float32:
        return module
    weight = module.weight.float()
    if isinstance(module, nn.LayerNorm):
        bias = None if module.bias is None else module.bias.float()
        return lambda x: F.layer_norm(x.float(), weight.shape, weight, bias, module.eps)
    if "Gemma" in type(module).__name__:
        weight, epsilon = 1 + weight, module.eps
    else:
        epsilon = module.variance_epsilon
    if able is not None:
        return lambda x: able.rms_norm(x, weight, epsilon)
    return lambda x: F.rms_norm(x.float(), weight.shape, weight, epsilon)
