"""`token_scores.score_tokens` by Triton kernels, without an array of (tokens, vocabulary).

Forward: a program reads a tile of tokens and goes through a span of the vocabulary, with softmax's running maximum and
sums; spans are joined afterwards. Spans have a fixed size, so that a token's score does not depend on how many others
are scored with it, and so that a few tokens occupy the whole GPU too.

Backward: for a part of the vocabulary at a time, a kernel makes the logits again and writes their gradient; cuBLAS
makes the two products. Of four products of this size (one forward, three backward) cuBLAS thus makes half, at a rate
that a kernel of ours would not reach. Kernels for states and for weights would each make the logits again, a fifth
product. Parts are of the vocabulary, because the weights' gradient (the larger one) then needs no sum over parts.

Products of bfloat16 are summed in float32, so these logits are as exact as those of states and weights widened before;
their gradient is rounded to bfloat16 once, for the products. All else is float32, its products by torch's setting
(`torch.set_float32_matmul_precision`).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
import triton  # pyright: ignore[reportMissingImports]
import triton.language as tl  # pyright: ignore[reportMissingImports]
from jaxtyping import Float, Int
from torch import Tensor

from policyopt.policies.token_scores import Head, Projection, ScoringError, check_tokens, differentiable
from policyopt.policies.token_scores import score_tokens as plain

BYTES = 2**27  # of logits' gradients that exist at a time: as much as `token_scores.LOGITS` in float32


@dataclass(frozen=True)
class Tiles:
    """Tokens, vocabulary and width of a product's tile, powers of 2 from 16; a program's warps, and how much of the
    vocabulary it goes through, a multiple of its tile's."""

    tokens: int
    vocabulary: int
    width: int
    warps: int
    span: int = 8192


# Not measured. A tile of 128 x 128 asks the second-level cache for 64 bytes a cycle of a Hopper multiprocessor that
# multiplies at its full rate, one of 128 x 256 for 48, of the about 40 there are; its sums just fit the registers.
LOW = Tiles(128, 256, 64, warps=8)
CAPPED = Tiles(128, 128, 64, warps=8)  # a second array of the tile's size, which would not fit
WIDE = Tiles(64, 64, 32, warps=4)


def check_device(device: torch.device) -> None:
    """ScoringError: kernels do not run there."""
    if _compiled() != (device.type == "cuda"):
        raise ScoringError(
            f"Triton kernels run on CUDA devices, the policy is on {device.type}; use reading.scoring=torch, or for "
            "tests TRITON_INTERPRET=1 and a CPU"
        )


def _compiled() -> bool:
    return isinstance(_sums, triton.JITFunction)  # not one of Triton's interpreter


def score_tokens(
    states: Float[Tensor, "M D"], head: Head, token: Int[Tensor, " M"], temperature: Float[Tensor, " M"], chunk: int
) -> tuple[Tensor, Tensor]:
    """As `token_scores.score_tokens`, which makes a gradient's gradient, `chunk` tokens at a time."""
    return tiled(states, head, token, temperature, chunk)


def tiled(
    states: Tensor, head: Head, token: Tensor, temperature: Tensor, chunk: int, tiles: Tiles | None = None
) -> tuple[Tensor, Tensor]:
    """`score_tokens` by tiles of another size."""
    check_device(states.device)
    if not isinstance(head, Projection):
        raise ScoringError("Triton kernels need a linear head without adapter or shard; use reading.scoring=torch")
    if torch.float64 in (states.dtype, head.weight.dtype):
        raise ScoringError(
            f"Triton kernels score in float32, states are {states.dtype} and weights {head.weight.dtype}; use "
            "reading.scoring=torch"
        )
    check_tokens(token, len(head.weight))
    if not len(states):
        return plain(states, head, token, temperature, chunk)
    if tiles is None:
        low = LOW if head.cap is None else CAPPED
        tiles = low if _precision(states, head.weight) == torch.bfloat16 else WIDE
    return _Scores.apply(states, head.weight, head.bias, token, temperature, (head.cap, chunk, tiles))


class _Scores(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        states: Tensor,
        weight: Tensor,
        bias: Tensor | None,
        token: Tensor,
        temperature: Tensor,
        how: tuple[float | None, int, Tiles],
    ) -> tuple[Tensor, Tensor]:
        ctx.save_for_backward(states, weight, bias, token, temperature)
        ctx.set_materialize_grads(False)
        ctx.cap, ctx.chunk, ctx.tiles = how
        given, options = _given((states, weight, bias, token, temperature), ctx.cap, ctx.tiles)
        sums = torch.empty(4, -(-len(weight) // ctx.tiles.span), len(states), device=states.device)
        _run(_sums, (-(-len(states) // ctx.tiles.tokens), sums.shape[1]), *given, *sums, ctx.tiles.span, **options)
        logp, entropy, ctx.total = _joined(*sums)
        ctx.entropy = entropy.clone()  # an output would keep itself alive
        return logp, entropy

    @staticmethod
    def backward(ctx: Any, *grads: Tensor | None) -> tuple[Tensor | None, ...]:
        if torch.is_grad_enabled():  # the gradient is to be differentiated
            return (*differentiable(ctx, grads), None, None, None)
        given, options = _given(ctx.saved_tensors, ctx.cap, ctx.tiles)
        states, weight, bias = given[:3]
        count, vocabulary, tile = len(states), len(weight), ctx.tiles.vocabulary
        by = [torch.zeros_like(ctx.total) if grad is None else grad.contiguous() for grad in grads]
        kind = _precision(states, weight)
        width = tile * min(max(1, BYTES // (count * tile * kind.itemsize)), -(-vocabulary // tile))
        slopes = torch.empty(count, width, dtype=kind, device=states.device)
        to_states = torch.zeros_like(states, dtype=torch.float32) if ctx.needs_input_grad[0] else None
        to_weight = torch.empty_like(weight) if ctx.needs_input_grad[1] else None
        to_bias = torch.empty_like(bias) if bias is not None and ctx.needs_input_grad[2] else None
        same = states.to(kind)
        for start in range(0, vocabulary, width):
            part = slice(start, min(start + width, vocabulary))
            rest = (ctx.total, ctx.entropy, *by, slopes, start, width)
            _run(_slopes, (-(-count // ctx.tiles.tokens), width // tile), *given, *rest, **options)
            slope = slopes[:, : part.stop - start]
            if to_states is not None:
                _add_product(to_states, slope, weight[part].to(kind))
            if to_weight is not None:
                to_weight[part] = slope.T @ same
            if to_bias is not None:
                to_bias[part] = slope.sum(0, dtype=torch.float32)
        return None if to_states is None else to_states.to(states.dtype), to_weight, to_bias, None, None, None


def _precision(states: Tensor, weight: Tensor) -> torch.dtype:
    """Of what is multiplied; sums are float32."""
    return torch.bfloat16 if states.dtype == weight.dtype == torch.bfloat16 else torch.float32


def _run(kernel: Any, grid: tuple[int, int], states: Tensor, *rest: Any, **options: Any) -> None:
    with torch.cuda.device_of(states):
        kernel[grid](states, *rest, **options)


def _given(arrays: tuple[Any, ...], cap: float | None, tiles: Tiles) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """What both kernels read, and how. Of the inputs, because what is made of them here has no history, which a second
    gradient needs."""
    states, weight, bias, token, temperature = arrays
    laid = (states.contiguous(), weight.contiguous(), bias, token.contiguous(), temperature.float().contiguous())
    options = {
        "ROWS": tiles.tokens,
        "COLUMNS": tiles.vocabulary,
        "WIDTH": tiles.width,
        # The interpreter multiplies the bits of bfloat16 as integers.
        "LOW": _precision(states, weight) == torch.bfloat16 and _compiled(),
        "FLOAT32": "ieee" if torch.get_float32_matmul_precision() == "highest" else "tf32",
        "num_warps": tiles.warps,
        "num_stages": 3,
    }
    return (*laid, *states.shape, len(weight), cap), options


def _add_product(total: Tensor, one: Tensor, other: Tensor) -> None:
    if one.dtype == total.dtype:
        total.addmm_(one, other)
    elif one.is_cuda:
        total.add_(torch.mm(one, other, out_dtype=total.dtype))  # from torch 2.8
    else:
        total.addmm_(one.to(total.dtype), other.to(total.dtype))


def _joined(top: Tensor, mass: Tensor, lean: Tensor, taken: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Sums (spans, M) of `_sums` -> log-probability, entropy and the logarithm of softmax's denominator, each (M,)."""
    most = top.amax(0)
    most = torch.where(most == -torch.inf, 0.0, most)
    below = torch.where(top == -torch.inf, 0.0, top - most)
    scale = (top - most).exp()
    lean, mass = (scale * (lean + mass * below)).sum(0), (scale * mass).sum(0)
    total = most + mass.log()
    # A token without probability has the least number, as in `token_scores`.
    return (taken.sum(0) - total).clamp_(min=torch.finfo(total.dtype).min), mass.log() - lean / mass, total


# -- kernels -----------------------------------------------------------------------------------------------------------
# Rows and columns are counted within a tile, in 32 bits; where the tile begins is a scalar of 64.
@triton.jit
def _logits(  # noqa: PLR0913
    states,
    weight,
    bias,
    first_row,
    first_column,
    count,
    size,
    vocabulary,
    cap,
    ROWS: tl.constexpr,
    COLUMNS: tl.constexpr,
    WIDTH: tl.constexpr,
    LOW: tl.constexpr,
    FLOAT32: tl.constexpr,
):
    """A tile of the head's output, before the temperature."""
    row, column = tl.arange(0, ROWS), tl.arange(0, COLUMNS)
    there, known = row < count - first_row, column < vocabulary - first_column
    state_at = states + first_row * size + row[:, None] * size
    weight_at = weight + first_column * size + column[None, :] * size
    found = tl.zeros((ROWS, COLUMNS), tl.float32)
    for start in range(0, size, WIDTH):
        at = start + tl.arange(0, WIDTH)
        state = tl.load(state_at + at[None, :], there[:, None] & (at < size)[None, :], 0.0)
        part = tl.load(weight_at + at[:, None], known[None, :] & (at < size)[:, None], 0.0)
        if LOW:
            found = tl.dot(state, part, found)
        else:
            found = tl.dot(state.to(tl.float32), part.to(tl.float32), found, input_precision=FLOAT32)
    if bias is not None:
        found += tl.load(bias + first_column + column, known, 0.0).to(tl.float32)[None, :]
    if cap is not None:
        found = cap * (2 * tl.sigmoid(2 * found / cap) - 1)  # tanh
    return found


@triton.jit
def _sums(  # noqa: PLR0913
    states,
    weight,
    bias,
    token,
    heat,
    count,
    size,
    vocabulary,
    cap,
    top_at,
    mass_at,
    lean_at,
    taken_at,
    span,
    ROWS: tl.constexpr,
    COLUMNS: tl.constexpr,
    WIDTH: tl.constexpr,
    LOW: tl.constexpr,
    FLOAT32: tl.constexpr,
):
    """Of z = logits / temperature over a span: the maximum m, sum exp(z - m), sum exp(z - m) (z - m), the taken z."""
    first_row = tl.program_id(0).to(tl.int64) * ROWS
    at = first_row + tl.arange(0, ROWS)
    there = at < count
    column = tl.arange(0, COLUMNS)
    chosen = tl.load(token + at, there, 0)
    cool = 1 / tl.load(heat + at, there, 1.0)
    top = tl.full((ROWS,), float("-inf"), tl.float32)
    mass = tl.zeros((ROWS,), tl.float32)
    lean = tl.zeros((ROWS,), tl.float32)
    taken = tl.zeros((ROWS,), tl.float32)
    begin = tl.program_id(1).to(tl.int64) * span
    for step in range(0, tl.minimum(span, vocabulary - begin).to(tl.int32), COLUMNS):
        first = begin + step
        z = _logits(
            states, weight, bias, first_row, first, count, size, vocabulary, cap, ROWS, COLUMNS, WIDTH, LOW, FLOAT32
        )
        z = tl.where((column < (vocabulary - first).to(tl.int32))[None, :], z * cool[:, None], float("-inf"))
        taken += tl.sum(tl.where(column[None, :] == (chosen - first).to(tl.int32)[:, None], z, 0.0), 1)
        highest = tl.maximum(top, tl.max(z, 1))
        base = tl.where(highest == float("-inf"), 0.0, highest)
        each = tl.exp(z - base[:, None])
        fall = tl.where(top == float("-inf"), 0.0, top - base)
        scale = tl.exp(top - base)
        # What has no probability must not give 0 * -inf.
        lean = scale * (lean + mass * fall) + tl.sum(each * tl.where(each > 0, z - base[:, None], 0.0), 1)
        mass = scale * mass + tl.sum(each, 1)
        top = highest
    at += tl.program_id(1).to(tl.int64) * count
    tl.store(top_at + at, top, there)
    tl.store(mass_at + at, mass, there)
    tl.store(lean_at + at, lean, there)
    tl.store(taken_at + at, taken, there)


@triton.jit
def _slopes(  # noqa: PLR0913
    states,
    weight,
    bias,
    token,
    heat,
    count,
    size,
    vocabulary,
    cap,
    total,
    entropy,
    by_logp,
    by_entropy,
    slopes,
    begin,
    width,
    ROWS: tl.constexpr,
    COLUMNS: tl.constexpr,
    WIDTH: tl.constexpr,
    LOW: tl.constexpr,
    FLOAT32: tl.constexpr,
):
    """The gradient for columns `begin` to `begin + width` of the logits before the cap: with log p = z - total,
    d logp_y / dz = onehot(y) - p and d H / dz = -p (log p + H)."""
    first_row = tl.program_id(0).to(tl.int64) * ROWS
    at = first_row + tl.arange(0, ROWS)
    there = at < count
    column = tl.arange(0, COLUMNS)
    into = tl.program_id(1).to(tl.int64) * COLUMNS
    first = begin + into
    x = _logits(
        states, weight, bias, first_row, first, count, size, vocabulary, cap, ROWS, COLUMNS, WIDTH, LOW, FLOAT32
    )
    cool = 1 / tl.load(heat + at, there, 1.0)
    logp = x * cool[:, None] - tl.load(total + at, there, 0.0)[:, None]
    p = tl.exp(logp)
    hit = column[None, :] == (tl.load(token + at, there, 0) - first).to(tl.int32)[:, None]
    # by_logp (hit - p) - by_entropy p (log p + H), all over the temperature
    of_logp = tl.load(by_logp + at, there, 0.0) * cool
    of_entropy = tl.load(by_entropy + at, there, 0.0) * cool
    constant = of_logp + of_entropy * tl.load(entropy + at, there, 0.0)
    slope = -p * (of_entropy[:, None] * tl.where(p > 0, logp, 0.0) + constant[:, None])
    slope += tl.where(hit, of_logp[:, None], 0.0)
    if cap is not None:
        slope *= 1 - (x / cap) * (x / cap)
    known = column < (vocabulary - first).to(tl.int32)
    tl.store(slopes + at[:, None] * width + into + column[None, :], slope, there[:, None] & known[None, :])
