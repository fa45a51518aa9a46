"""A decoder's states of packed rows: read without padding and with shared contexts, or plainly, row by row.

`transformers` lets every architecture of its attention interface run its own modules with another function for
attention; that function is all that differs here. Both ways give the same states and gradients within rounding.
"""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any, Literal

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from policyopt.policies.fused import forwards, fused, kernels_for
from policyopt.policies.packing import Packed
from policyopt.policies.segments import Layout, layout_of

ATTENTION = "policyopt_segments"
STATIC_ROPE = ("default", "linear", "llama3", "yarn")  # others depend on how long the longest row is


@dataclass(frozen=True)
class Reading:
    """How a decoder reads rows; all ways give the same numbers within rounding (of `autocast`, if it is set).

    packed: without padding, where the architecture allows it. share: contexts that rows share are read once.
    checkpointed: for a gradient, every layer keeps its input only and is computed again. autocast: matrix products of
    the layers in this precision, with and without gradient alike, so that ratios compare like with like; weights, sums
    between layers and the head stay in theirs, and so does torch's attention to packed rows on processors. scoring: of
    states, by "torch" or by kernels of "triton" (`token_scores.scorer`). compiled: on a processor, packed rows are read
    by compiled kernels, where the architecture has them (`fused`).
    """

    packed: bool = True
    share: bool = True
    checkpointed: bool = False
    autocast: torch.dtype | None = None
    scoring: Literal["torch", "triton"] = "torch"
    compiled: bool = True


PLAIN = Reading(packed=False, share=False)


def read(
    backbone: Any, packed: Packed, reading: Reading = PLAIN, *, tail: bool = True
) -> tuple[Float[Tensor, "N D"], Int[Tensor, "B L"]]:
    """States, and for each token of the packed rows the number of its state. tail: those after a row's last token are
    wanted too."""
    if not (reading.packed and can_pack(backbone, packed.tokens.shape[1])):
        # Without a mask the decoder is causal, and its positions start at 0.
        with _as_asked(backbone, reading):
            states = backbone(input_ids=packed.tokens, use_cache=False).last_hidden_state
        return states.flatten(0, 1), torch.arange(packed.tokens.numel(), device=states.device).view(packed.tokens.shape)
    layout = layout_of(packed, tail=tail, share=reading.share)
    if not len(layout.tokens):
        return backbone.get_input_embeddings().weight[:0], layout.index
    tokens, positions = layout.tokens[None], layout.positions[None]
    _register()
    able = kernels_for(backbone, reading.autocast) if reading.compiled else None
    by_kernels = contextlib.nullcontext() if able is None else fused(backbone, able, layout)
    with _attending(backbone, ATTENTION), by_kernels, _as_asked(backbone, reading):
        out = backbone(input_ids=tokens, position_ids=positions, use_cache=False, segments=layout)
    return out.last_hidden_state[0], layout.index


@contextlib.contextmanager
def _as_asked(backbone: Any, reading: Reading) -> Iterator[None]:
    with contextlib.ExitStack() as stack:
        if reading.autocast is not None:
            device = _weight(backbone).device.type
            stack.enter_context(torch.autocast(device, reading.autocast))
        if reading.checkpointed and torch.is_grad_enabled():
            stack.enter_context(_checkpointed(backbone))
        yield


@contextlib.contextmanager
def _checkpointed(backbone: Any) -> Iterator[None]:
    """Layers keep their input only. transformers' own way needs them in training mode, which would turn dropout on."""
    attention = backbone.config._attn_implementation
    wrapped = functools.partial(functools.partial, _recomputed, backbone, attention)
    with forwards(backbone.layers, lambda layer: wrapped(layer.forward)):
        yield


def _recomputed(backbone: Any, attention: str, forward: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
    def run(*args: Any, **kwargs: Any) -> Any:
        with _attending(backbone, attention):  # in the backward pass it is set to another one again
            return forward(*args, **kwargs)

    return checkpoint(run, *args, use_reentrant=False, preserve_rng_state=False, **kwargs)


@contextlib.contextmanager
def _attending(backbone: Any, attention: str) -> Iterator[None]:
    config = backbone.config
    before = config._attn_implementation
    config._attn_implementation = attention
    try:
        yield
    finally:
        config._attn_implementation = before


# -- attention ---------------------------------------------------------------------------------------------------------
def _attend(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Any,
    scaling: float | None = None,
    segments: Layout | None = None,
    **kwargs: Any,
) -> tuple[Tensor, None]:
    """`transformers`' attention function: query (1, H, N, D) -> (1, N, H, D)."""
    if segments is None:
        raise ValueError(f"the attention function {ATTENTION!r} is for reading without padding; set another one")
    q, k, v = (each[0].transpose(0, 1) for each in (query, key, value))
    if query.device.type != "cpu" or not torch.is_autocast_enabled("cpu"):
        return segments.attend(q, k, v, scaling)[None], None
    # On processors attention in a low precision is slower: its backward pass takes twice the time of float32's.
    q, k, v = (each.to(torch.promote_types(each.dtype, torch.float32)) for each in (q, k, v))
    with torch.autocast("cpu", enabled=False):
        return segments.attend(q, k, v, scaling)[None], None


@functools.cache
def _register() -> None:
    """Once, when a decoder is first read so: who trains agents never loads `transformers`."""
    from transformers import AttentionInterface

    AttentionInterface.register(ATTENTION, _attend)


def suited(backbone: Any, reading: Reading) -> Reading:
    """The reading, without packing if the architecture does not allow it or reads a few rows otherwise then."""
    if not (reading.packed and can_pack(backbone)):
        return replace(reading, packed=False)
    last = backbone.get_input_embeddings().weight.shape[0] - 1
    tokens = torch.tensor([[last, 0, last, 0], [last, 0, 0, last], [last, 0, 0, 0]], device=_weight(backbone).device)
    packed = Packed(tokens, torch.ones_like(tokens[:, 0]), tokens.new_tensor([[1, 1], [1, 1], [1, 0]]).bool())
    with torch.no_grad():
        (ours, index), (theirs, of_row) = read(backbone, packed, Reading()), read(backbone, packed, PLAIN)
    column = torch.arange(tokens.shape[1], device=tokens.device) <= packed.last[:, None]
    ours, theirs = ours[index[column]].float(), theirs[of_row[column]].float()
    tolerance = 1e-4 if torch.finfo(_weight(backbone).dtype).bits >= 32 else 0.05
    alike = torch.allclose(ours, theirs, rtol=tolerance, atol=tolerance * float(theirs.abs().max()))
    return replace(reading, packed=alike)


def _weight(backbone: Any) -> Tensor:
    return next(iter(backbone.parameters()))


def can_pack(backbone: Any, width: int = 0) -> bool:
    """Whether states of rows of at most `width` tokens depend on what stands before a token by causal attention alone,
    through the attention interface."""
    if not getattr(backbone, "_supports_attention_backend", False) or not hasattr(backbone, "layers"):
        return False
    config = backbone.config.get_text_config().to_dict()
    rope = config.get("rope_parameters") or {}
    window = config.get("sliding_window")
    return (
        set(config.get("layer_types") or ()) <= {"full_attention", "sliding_attention"}
        and (window is None or width <= window)
        and rope.get("rope_type", "default") in STATIC_ROPE
        and not config.get("attn_logit_softcapping")
    )
