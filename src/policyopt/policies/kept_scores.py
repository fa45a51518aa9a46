"""Log-probability and entropy of tokens within what truncated sampling kept. Of the logits, those of kept tokens alone
are read, so that no more of them exist at a time than without truncation."""

from __future__ import annotations

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from policyopt.ops.kept import Kept
from policyopt.policies.token_scores import Head, Projection, Scorer, score_tokens


def score_kept(
    states: Float[Tensor, "M D"],
    head: Head | Projection,
    token: Int[Tensor, " M"],
    temperature: Float[Tensor, " M"],
    chunk: int,
    kept: Kept | None,
    scorer: Scorer = score_tokens,
) -> tuple[Tensor, Tensor]:
    """As `score_tokens`, of softmax(head(state) / temperature) renormalised over what was kept. A single kept token has
    log-probability 0, entropy 0 and no gradient. scorer: of the others. ValueError: a token that was not kept."""
    if kept is None:
        return scorer(states, head, token, temperature, chunk)
    cut = kept.count > 0
    if not bool(cut.all()):
        some = _scored(states[cut], head, token[cut], temperature[cut], chunk, kept[cut])
        rest = scorer(states[~cut], head, token[~cut], temperature[~cut], chunk)
        blank = some[0].new_zeros(len(cut))
        both = zip(some, rest, strict=True)
        logp, entropy = (blank.masked_scatter(cut, a).masked_scatter(~cut, b) for a, b in both)
        return logp, entropy
    return _scored(states, head, token, temperature, chunk, kept)


def _scored(
    states: Tensor, head: Head, token: Tensor, temperature: Tensor, chunk: int, kept: Kept
) -> tuple[Tensor, Tensor]:
    taken = kept.choice == token[kept.of]
    if int(taken.sum()) != len(token):
        raise ValueError(
            f"a token is scored within what was kept when it was sampled; {len(token) - int(taken.sum())} of "
            f"{len(token)} were not kept: tokens and their record are of different rows"
        )
    if len(states) <= chunk:
        return _within(states, head, temperature, kept.choice, kept.of, taken)
    rows = zip(states.split(chunk), temperature.split(chunk), kept.split(chunk), strict=True)
    hits = taken.tensor_split(kept.count.cumsum(0)[chunk - 1 :: chunk].tolist())
    pieces = [
        checkpoint(_within, part, head, heat, held.choice, held.of, hit, use_reentrant=False, preserve_rng_state=False)
        for (part, heat, held), hit in zip(rows, hits, strict=False)
    ]
    logp, entropy = zip(*pieces, strict=True)
    return torch.cat(logp), torch.cat(entropy)


def _within(
    states: Float[Tensor, "M D"], head: Head, heat: Float[Tensor, " M"], choice: Tensor, of: Tensor, taken: Tensor
) -> tuple[Tensor, Tensor]:
    """choice, of (k,): the kept tokens and the state that each is of. taken (k,): which of them were sampled."""
    z = head(states)[of, choice] / heat[of]
    blank = z.new_zeros(len(states))
    most = blank.scatter_reduce(0, of, z.detach(), "amax", include_self=False)
    above = z - most[of]
    mass = above.exp()
    total = blank.index_add(0, of, mass)
    mean = blank.index_add(0, of, mass * above) / total
    return above[taken] - total.log(), total.log() - mean
