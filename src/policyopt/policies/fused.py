"""Layers of Llama's kind with everything but their linear maps in compiled kernels, on processors.

Norms with the sum before them, rotary positions with attention, and the gated activation are one pass over memory each,
forward and backward, where torch's operations take a dozen. Linear layers are called as the modules they are, with
whatever hooks and adapters they have.
"""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from policyopt.compiled.layers import Layers, layers
from policyopt.policies.segments import Layout

ALIKE = ("llama", "mistral", "qwen2", "qwen3", "gemma")
# transformers rounds norms of float64 models to float32, and engines follow it to the last bit.
STATES = (torch.float32,)


def kernels_for(backbone: Any, low: torch.dtype | None) -> Layers | None:
    """The kernels that can stand in this decoder's layers, or None. low: the precision of matrix products (None: of the
    weights)."""
    weight, config = backbone.get_input_embeddings().weight, backbone.config
    if weight.device.type != "cpu" or weight.dtype not in STATES or config.model_type not in ALIKE:
        return None
    if backbone.training and config.attention_dropout:
        return None
    if any("forward" in vars(layer) for layer in backbone.layers):
        return None
    replaced = [backbone.norm, *(part for layer in backbone.layers for part in _replaced(layer))]
    library = f"transformers.models.{config.model_type}."
    if not all(type(part).__module__.startswith(library) and not altered(part) for part in replaced):
        return None
    return layers(weight.dtype, low or weight.dtype)


def _replaced(layer: Any) -> tuple[nn.Module, ...]:
    """The modules that kernels do the work of, so that nobody calls them."""
    return layer.input_layernorm, layer.self_attn, layer.post_attention_layernorm, layer.mlp


def altered(module: nn.Module) -> bool:
    """It has hooks or a forward of its own, which whoever reads its weights passes by."""
    held = vars(module)
    hooks = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")
    return "forward" in held or any(held[name] for name in hooks)


@contextlib.contextmanager
def fused(backbone: Any, able: Layers, layout: Layout) -> Iterator[None]:
    """The decoder's layers and its last norm compute by kernels, for rows of one layout."""
    with (
        forwards(backbone.layers, lambda layer: functools.partial(_layer, layer, able, layout)),
        forwards([backbone.norm], lambda norm: functools.partial(_last_norm, norm, able)),
    ):
        yield


@contextlib.contextmanager
def forwards(modules: Iterable[Any], forward: Callable[[Any], Callable[..., Any]]) -> Iterator[None]:
    """Modules compute something else for a time: a patch of the instances, so that their hooks run as ever."""
    modules = list(modules)
    before = [vars(module).get("forward") for module in modules]
    for module in modules:
        module.forward = forward(module)
    try:
        yield
    finally:
        for module, earlier in zip(modules, before, strict=True):
            if earlier is None:
                del module.forward
            else:
                module.forward = earlier


def _layer(
    layer: Any,
    able: Layers,
    layout: Layout,
    hidden_states: Tensor,
    *,
    position_embeddings: tuple[Tensor, Tensor],
    **_: Any,
) -> Float[Tensor, "1 N D"]:
    attention, feed = layer.self_attn, layer.mlp
    x, inside = _normed(layer.input_layernorm, able, hidden_states[0])
    heads = [
        module(inside).view(len(x), -1, attention.head_dim)
        for module in (attention.q_proj, attention.k_proj, attention.v_proj)
    ]
    if "q_norm" in dict(attention.named_children()):
        heads[:2] = [attention.q_norm(heads[0]), attention.k_norm(heads[1])]
    cosine, sine = (each[0].to(able.dtype).contiguous() for each in position_embeddings)
    heads = [head.to(able.low) for head in heads]
    attended = Attention.apply(*heads, (cosine, sine), able, layout, attention.scaling)
    x, inside = _normed(layer.post_attention_layernorm, able, x, attention.o_proj(attended.flatten(1)))
    gate, other = feed.gate_proj(inside).to(able.low), feed.up_proj(inside).to(able.low)
    silu = type(feed.act_fn).__name__ in ("SiLU", "SiLUActivation") and not altered(feed.act_fn)
    middle = _GatedSilu.apply(gate, other, able) if silu else feed.act_fn(gate) * other
    return (x + feed.down_proj(middle))[None]


def _last_norm(norm: Any, able: Layers, hidden_states: Tensor) -> Float[Tensor, "1 N D"]:
    return _normed(norm, able, hidden_states[0], high=True)[1][None]


def _normed(
    norm: Any, able: Layers, x: Tensor, added: Tensor | None = None, *, high: bool = False
) -> tuple[Float[Tensor, "N D"], Float[Tensor, "N D"]]:
    """x + added, and what the module gives for it."""
    if "variance_epsilon" in vars(norm):
        weight, epsilon = norm.weight, norm.variance_epsilon
    else:  # Gemma's
        weight, epsilon = 1 + norm.weight, norm.eps
    added = None if added is None else added.to(able.low)
    return _AddNorm.apply(x, added, weight, epsilon, able, able.dtype if high else able.low)


# -- operations --------------------------------------------------------------------------------------------------------
# A gradient that is to be differentiated once more is made by torch's operations.
class _AddNorm(torch.autograd.Function):
    """The sum x + added, and sum / sqrt(mean sum^2 + epsilon) * weight."""

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, added: Tensor | None, weight: Tensor, epsilon: float, able: Layers, wanted: torch.dtype
    ) -> tuple[Tensor, Tensor]:
        """wanted: the norm's precision."""
        x, added, high = x.contiguous(), None if added is None else added.contiguous(), wanted != able.low
        total, norm, inverse = able.norm(x, added, weight.to(able.dtype).contiguous(), epsilon, high=high)
        ctx.save_for_backward(total, inverse, weight)
        ctx.set_materialize_grads(False)
        ctx.able, ctx.epsilon, ctx.added = able, epsilon, added is not None
        return total, norm

    @staticmethod
    def backward(ctx: Any, *grads: Tensor | None) -> tuple[Tensor | None, ...]:
        total, inverse, weight = ctx.saved_tensors
        by_sum, by_norm = grads
        wide = weight.to(ctx.able.dtype)
        if by_norm is None:
            by_x, by_added, by_weight = by_sum, by_sum, None
        elif torch.is_grad_enabled():
            root = (total.square().mean(-1, keepdim=True) + ctx.epsilon).rsqrt()
            unit, slope = total * root, by_norm.to(total.dtype)
            by_x = root * (slope * wide - unit * (unit * slope * wide).mean(-1, keepdim=True))
            by_x = by_x if by_sum is None else by_x + by_sum
            by_added, by_weight = by_x, (slope * unit).sum(0)
        else:
            by_norm, by_sum = by_norm.contiguous(), None if by_sum is None else by_sum.contiguous()
            found = (total, inverse)
            by_x, by_added, by_weight = ctx.able.norm_backward(
                found, wide.contiguous(), by_norm, by_sum, added=ctx.added
            )
        by_added = by_added.to(ctx.able.low) if ctx.added and by_added is not None else None
        return by_x, by_added, None if by_weight is None else by_weight.to(weight.dtype), None, None, None


class _GatedSilu(torch.autograd.Function):
    """silu(gate) * other."""

    @staticmethod
    def forward(ctx: Any, gate: Tensor, other: Tensor, able: Layers) -> Tensor:
        gate, other = gate.contiguous(), other.contiguous()
        ctx.save_for_backward(gate, other)
        ctx.able = able
        return able.gated_silu(gate, other)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, Tensor, None]:
        gate, other = ctx.saved_tensors
        by_out = grads[0]
        if not torch.is_grad_enabled():
            return (*ctx.able.gated_silu_backward(gate, other, by_out.contiguous()), None)
        p = gate.sigmoid()
        return by_out * other * p * (1 + gate * (1 - p)), by_out * gate * p, None


class Attention(torch.autograd.Function):
    """Rotary positions and causal attention: queries (N, H, D), keys and values (N, G, D), cosines and sines (N, D)."""

    @staticmethod
    def forward(
        ctx: Any,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        turns: tuple[Tensor, Tensor],
        able: Layers,
        layout: Layout,
        scale: float,
    ) -> Float[Tensor, "N H D"]:
        heads = (query.contiguous(), key.contiguous(), value.contiguous())
        out, mass = able.attention(heads, turns, layout.clusters, scale)
        ctx.save_for_backward(*heads, *turns, out, mass)
        ctx.able, ctx.layout, ctx.scale = able, layout, scale
        return out

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        query, key, value, cosine, sine, out, mass = ctx.saved_tensors
        heads, turns = (query, key, value), (cosine, sine)
        if torch.is_grad_enabled():
            slopes = torch.autograd.grad(
                attended_by_torch(heads, turns, ctx.layout, ctx.scale), heads, grads, create_graph=True
            )
        else:
            by_out = grads[0].contiguous()
            slopes = ctx.able.attention_backward(heads, turns, (out, mass), by_out, ctx.layout.clusters, ctx.scale)
        return (*slopes, None, None, None, None)


def attended_by_torch(
    heads: tuple[Tensor, Tensor, Tensor], turns: tuple[Tensor, Tensor], layout: Layout, scale: float
) -> Float[Tensor, "N H D"]:
    """What `Attention` gives."""
    cosine, sine = (each[:, None] for each in turns)
    query, key, value = (head.to(cosine.dtype) for head in heads)
    query, key = (each * cosine + _half_turned(each) * sine for each in (query, key))
    return layout.attend(query, key, value, scale).to(heads[0].dtype)


def _half_turned(x: Tensor) -> Tensor:
    one, other = x.chunk(2, -1)
    return torch.cat([-other, one], -1)
