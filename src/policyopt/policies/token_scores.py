"""Log-probability and entropy of tokens from logits, without keeping more than the logits for the gradient."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.utils.checkpoint import checkpoint

Head = Callable[[Tensor], Tensor]


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
    vocabulary = logits.shape[-1]
    if token.numel() and (int(token.max()) >= vocabulary or int(token.min()) < 0):
        raise IndexError(
            f"tokens are 0 to {vocabulary - 1} for this model, these are {int(token.min())} to {int(token.max())}; "
            "use the tokenizer the model was trained with"
        )
    return _LogProbEntropy.apply(logits, token)


def score_tokens(
    states: Float[Tensor, "M D"], head: Head, token: Int[Tensor, " M"], temperature: Float[Tensor, " M"], chunk: int
) -> tuple[Tensor, Tensor]:
    """(M,) log-probabilities and entropies of softmax(head(state) / temperature).

    Logits exist for `chunk` tokens at a time; if there is more than one chunk, the gradient makes them again.
    """

    def part(states: Tensor, token: Tensor, temperature: Tensor) -> tuple[Tensor, Tensor]:
        return logp_and_entropy(head(states) / temperature[:, None], token)

    if len(states) <= chunk:
        return part(states, token, temperature)
    pieces = [
        checkpoint(part, *piece, use_reentrant=False, preserve_rng_state=False)
        for piece in zip(states.split(chunk), token.split(chunk), temperature.split(chunk), strict=True)
    ]
    logp, entropy = zip(*pieces, strict=True)
    return torch.cat(logp), torch.cat(entropy)
