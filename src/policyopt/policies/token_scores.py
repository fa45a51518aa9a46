"""Log-probability and entropy of tokens from logits, without keeping more than the logits for the gradient."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

Head = Callable[[Tensor], Tensor]
Scorer = Callable[[Tensor, Head, Tensor, Tensor, int], tuple[Tensor, Tensor]]  # as `score_tokens`
LOGITS = 2**25  # that exist at a time: 128 MiB in float32


class ScoringError(ValueError):
    """Tokens can not be scored in the way that was asked for."""


@dataclass(frozen=True)
class Projection:
    """A linear head, then logits -> cap * tanh(logits / cap) (Gemma 2) if there is a cap; in at least float32."""

    weight: Float[Tensor, "V D"]
    bias: Float[Tensor, " V"] | None = None
    cap: float | None = None

    def __call__(self, states: Float[Tensor, "*lead D"]) -> Float[Tensor, "*lead V"]:
        wide = torch.promote_types(states.dtype, torch.float32)
        logits = F.linear(states.to(wide), self.weight.to(wide), None if self.bias is None else self.bias.to(wide))
        return capped(logits, self.cap)


def capped(logits: Tensor, cap: float | None) -> Tensor:
    return logits if cap is None else cap * torch.tanh(logits / cap)


class _LogProbEntropy(torch.autograd.Function):
    """(M, V) logits, (M,) tokens -> (M,) log-probabilities, (M,) entropies.

    With p = softmax(logits) and H the entropy,
    d logp_y / d logits = onehot(y) - p and d H / d logits = -p * (log p + H).
    """

    @staticmethod
    def forward(ctx: Any, logits: Tensor, token: Tensor) -> tuple[Tensor, Tensor]:
        ctx.save_for_backward(logits, token)
        ctx.set_materialize_grads(False)
        logp = logits.log_softmax(-1)
        return logp.gather(-1, token[:, None])[:, 0], _entropy(logp)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor | None) -> tuple[Tensor | None, None]:
        # Recomputed from the input (not from a saved output), so that it can be differentiated once more.
        logits, token = ctx.saved_tensors
        by_logp, by_entropy = grads
        logp = logits.log_softmax(-1)
        p = logp.exp()
        result = None
        if by_logp is not None:
            result = (-by_logp[:, None] * p).scatter_add(-1, token[:, None], by_logp[:, None])
        if by_entropy is not None:
            # A choice of probability 0 has no gradient, and must not give 0 * -inf.
            surprise = torch.where(p > 0, logp, 0.0) + _entropy(logp)[:, None]
            slope = -by_entropy[:, None] * p * surprise
            result = slope if result is None else result + slope
        return result, None


def _entropy(logp: Tensor) -> Tensor:
    p = logp.exp()
    return -torch.where(p > 0, p * logp, 0.0).sum(-1)


def logp_and_entropy(logits: Float[Tensor, "M V"], token: Int[Tensor, " M"]) -> tuple[Tensor, Tensor]:
    """Both differentiable (twice); only the logits are kept for the gradient. IndexError: an unknown token."""
    check_tokens(token, logits.shape[-1])
    return _LogProbEntropy.apply(logits, token)


def check_tokens(token: Tensor, vocabulary: int) -> None:
    if token.numel() and (int(token.max()) >= vocabulary or int(token.min()) < 0):
        raise IndexError(
            f"tokens are 0 to {vocabulary - 1} for this model, these are {int(token.min())} to {int(token.max())}; "
            "use the tokenizer the model was trained with"
        )


def scorer(name: str, device: torch.device) -> Scorer:
    """torch: `score_tokens`. triton: its like in `triton_scores`. ScoringError: not on this device, or no Triton."""
    if name == "torch":
        return score_tokens
    try:
        from policyopt.policies import triton_scores
    except ModuleNotFoundError as error:
        if error.name != "triton":
            raise
        raise ScoringError(
            "reading.scoring=triton needs Triton, which is not installed: it comes with torch's builds for CUDA, or "
            "pip install triton; or use reading.scoring=torch"
        ) from error
    triton_scores.check_device(device)
    return triton_scores.score_tokens


def score_tokens(
    states: Float[Tensor, "M D"], head: Head, token: Int[Tensor, " M"], temperature: Float[Tensor, " M"], chunk: int
) -> tuple[Tensor, Tensor]:
    """(M,) log-probabilities and entropies of softmax(head(state) / temperature).

    Logits exist for `chunk` tokens at a time; if there is more than one chunk, the gradient makes them again.
    """
    if len(states) <= chunk:
        return _scored(states, head, token, temperature)
    if isinstance(head, Projection):
        check_tokens(token, len(head.weight))
        return _ChunkedScores.apply(states, head.weight, head.bias, token, temperature, head.cap, chunk)
    pieces = [
        checkpoint(_scored, part, head, *rest, use_reentrant=False, preserve_rng_state=False)
        for part, *rest in zip(states.split(chunk), token.split(chunk), temperature.split(chunk), strict=True)
    ]
    logp, entropy = zip(*pieces, strict=True)
    return torch.cat(logp), torch.cat(entropy)


def _scored(states: Tensor, head: Head, token: Tensor, temperature: Tensor) -> tuple[Tensor, Tensor]:
    return logp_and_entropy(head(states) / temperature[:, None], token)


class _ChunkedScores(torch.autograd.Function):
    """`_scored` of a `Projection`, `chunk` tokens at a time, in two arrays (chunk, V) at most; nothing of that size is
    kept for the gradient, which is exact: see `_LogProbEntropy`."""

    @staticmethod
    def forward(
        ctx: Any,
        states: Tensor,
        weight: Tensor,
        bias: Tensor | None,
        token: Tensor,
        temperature: Tensor,
        cap: float | None,
        chunk: int,
    ) -> tuple[Tensor, Tensor]:
        ctx.save_for_backward(states, weight, bias, token, temperature)
        ctx.set_materialize_grads(False)
        ctx.cap, ctx.chunk = cap, chunk
        wide, head = _wide(states, weight, bias, cap)
        logp, entropy = (torch.empty(len(states), dtype=wide, device=states.device) for _ in range(2))
        for part in _parts(len(states), chunk):
            z = head(states[part]).div_(temperature[part, None])
            z = _log_softmax_(z)
            logp[part] = z.gather(1, token[part, None])[:, 0]
            entropy[part] = -torch.linalg.vecdot(z.exp(), z)
        return logp, entropy

    @staticmethod
    def backward(ctx: Any, *grads: Tensor | None) -> tuple[Tensor | None, ...]:
        states, weight, bias, token, temperature = ctx.saved_tensors
        if torch.is_grad_enabled():  # the gradient is to be differentiated
            return (*differentiable(ctx, grads), None, None, None, None)
        wide, head = _wide(states, weight, bias, ctx.cap)
        by_logp, by_entropy = grads
        needed = ctx.needs_input_grad
        to_states = torch.empty_like(states) if needed[0] else None
        to_weight = torch.zeros_like(head.weight) if needed[1] else None
        to_bias = torch.zeros_like(head.bias) if head.bias is not None and needed[2] else None
        for part in _parts(len(states), ctx.chunk):
            given, heat = states[part].to(wide), temperature[part, None]
            logits = head(given)
            # Of the cap: d (c tanh(x / c)) / dx = 1 - (logits / c)^2.
            slope = None if ctx.cap is None else 1 - (logits / ctx.cap).square_()
            z = _log_softmax_(logits.div_(heat))
            p = z.exp()
            if by_entropy is not None:
                # p first: the least number times anything above 1 is infinite.
                z.add_(-torch.linalg.vecdot(p, z)[:, None]).mul_(p).mul_(-by_entropy[part, None])
            else:
                z.zero_()
            if by_logp is not None:
                z.addcmul_(p, by_logp[part, None], value=-1)
                z.scatter_add_(1, token[part, None], by_logp[part, None])
            z.div_(heat)
            z = z if slope is None else z.mul_(slope)
            if to_states is not None:
                to_states[part] = (z @ head.weight).to(states.dtype)
            if to_weight is not None:
                to_weight.addmm_(z.T, given)
            if to_bias is not None:
                to_bias.add_(z.sum(0))
        return (
            to_states,
            None if to_weight is None else to_weight.to(weight.dtype),
            None if to_bias is None or bias is None else to_bias.to(bias.dtype),
            None,
            None,
            None,
            None,
        )


def _wide(states: Tensor, weight: Tensor, bias: Tensor | None, cap: float | None) -> tuple[torch.dtype, Projection]:
    """The precision of the logits, and the head in it, converted once for all chunks."""
    wide = torch.promote_types(states.dtype, torch.float32)
    return wide, Projection(weight.to(wide), None if bias is None else bias.to(wide), cap)


def _parts(count: int, chunk: int) -> list[slice]:
    return [slice(start, start + chunk) for start in range(0, count, chunk)]


def _log_softmax_(z: Tensor) -> Tensor:
    """In place; what has no probability is the least number, not -inf, so that 0 times it is 0."""
    return z.sub_(z.logsumexp(1, keepdim=True)).clamp_(min=torch.finfo(z.dtype).min)


def differentiable(ctx: Any, grads: tuple[Tensor | None, ...]) -> tuple[Tensor | None, ...]:
    """The gradient for states, weight and bias, by operations that have one themselves."""
    states, weight, bias, token, temperature = ctx.saved_tensors
    inputs = [x for x, asked in zip((states, weight, bias), ctx.needs_input_grad, strict=False) if asked]
    outputs = score_tokens(states, lambda x: Projection(weight, bias, ctx.cap)(x), token, temperature, ctx.chunk)
    some = [(out, grad) for out, grad in zip(outputs, grads, strict=True) if grad is not None]
    found = iter(torch.autograd.grad([out for out, _ in some], inputs, [grad for _, grad in some], create_graph=True))
    return tuple(next(found) if asked else None for asked in ctx.needs_input_grad[:3])
