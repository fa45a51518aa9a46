"""One pass of a decoder over contexts, and over one more token of every row that continues them."""

from __future__ import annotations

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn import functional as F

from policyopt.engines.architecture import Architecture, Attention, Block
from policyopt.engines.cache import SharedCache

_TOGETHER = 16384  # tokens of contexts that are read at a time


class Decoder:
    """made: the weights. Every context is read once, whatever the number of its rows."""

    def __init__(self, made: Architecture, device: torch.device):
        self.made = made
        self.cache = SharedCache(made, device)

    def enter(self, token: Int[Tensor, "U P"], length: Int[Tensor, " U"], of: Int[Tensor, " R"]) -> Tensor:
        """Read contexts, padded behind their length, for rows that continue them (`of`: their context). (U, D) states
        of the contexts' last tokens. Causal, so padding does not reach them."""
        together = max(1, _TOGETHER // token.shape[1])
        states, keys = [], []
        for part, size in zip(token.split(together), length.split(together), strict=True):
            found, held = self._prefill(part)
            states.append(found[torch.arange(len(part), device=part.device), size - 1])
            keys.append(held)
        joined = [(torch.cat([k for k, _ in one]), torch.cat([v for _, v in one])) for one in zip(*keys, strict=True)]
        self.cache.enter(joined if len(keys) > 1 else keys[0], length, of)
        return self.made.norm(torch.cat(states))

    def step(self, token: Int[Tensor, " R"]) -> Float[Tensor, "R D"]:
        """States after one more token of every row."""
        made, cache = self.made, self.cache
        position = cache.advance()
        turns = [] if made.kernels else [table[position][:, None, None] for table in made.tables]
        x = made.embed(token)
        for layer, block in enumerate(made.blocks):
            how = block.attention
            heads = self._heads(how, block.norms[0](x))
            if made.kernels is not None:
                attended = cache.attend_compiled(layer, how, heads, made.kernels)
            else:
                attended = cache.attend(layer, how, *_turned(heads, turns[how.table]))
            x = _through(block, x, attended)
        return made.norm(x)

    def _heads(self, how: Attention, x: Float[Tensor, "N D"]) -> Float[Tensor, "N G Q+2 dim"]:
        """Queries, key and value of every key head, of states after the norm."""
        made = self.made
        heads = how.qkv(x).view(len(x), made.groups, made.repeats + 2, made.dim)
        if how.head_norms is None:
            return heads
        of_query, of_key = how.head_norms
        heads = heads.to(made.dtype)
        return torch.cat([of_query(heads[:, :, :-2]), of_key(heads[:, :, -2:-1]), heads[:, :, -1:]], 2)

    def _prefill(self, token: Int[Tensor, "U P"]) -> tuple[Tensor, list[tuple[Tensor, Tensor]]]:
        """States (U, P, D) before the last norm; keys and values (U, G, P, dim) by layer."""
        made, (count, width) = self.made, token.shape
        x = made.embed(token).view(count * width, -1)
        turns = [table[:width].repeat(count, 1)[:, None, None] for table in made.tables]
        held = []
        for block in made.blocks:
            how = block.attention
            heads = self._heads(how, block.norms[0](x)).to(made.dtype)
            query, key, value = _turned(heads, turns[how.table])
            key, value = (part.view(count, width, *part.shape[1:]).transpose(1, 2) for part in (key, value))
            query = query.reshape(count, width, -1, made.dim).transpose(1, 2)
            attended = _causal(how, query, key, value)
            x = _through(block, x, attended.transpose(1, 2).reshape(count * width, -1))
            held.append((key.contiguous(), value.contiguous()))
        return x.view(count, width, -1), held


def _turned(heads: Float[Tensor, "N G Q+2 dim"], turns: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """(N, G, Q, dim) queries and (N, G, dim) keys, rotated; values as they are. turns: complex (N, 1, 1, dim / 2)."""
    pairs = torch.view_as_complex(heads[:, :, :-1].unflatten(-1, (-1, 2)))
    turned = torch.view_as_real(pairs * turns).flatten(-2)
    return turned[:, :, :-1], turned[:, :, -1], heads[:, :, -1]


def _through(block: Block, x: Float[Tensor, "N D"], attended: Float[Tensor, "N H"]) -> Float[Tensor, "N D"]:
    """The rest of a block."""
    _, after, before_feed, after_feed = block.norms
    if block.parallel:
        return block.feed.down.onto(block.attention.out.onto(x, attended), block.feed.middle(before_feed(x)))
    x = block.attention.out.onto(x, attended) if after is None else x + after(block.attention.out(attended))
    wide = block.feed.middle(before_feed(x))
    return block.feed.down.onto(x, wide) if after_feed is None else x + after_feed(block.feed.down(wide))


def _causal(how: Attention, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
    """(U, H, P, dim) queries over (U, G, P, dim) keys."""
    width = key.shape[2]
    many = query.shape[1] != key.shape[1]
    hidden = None
    if how.window is not None and how.window < width:
        place = torch.arange(width, device=key.device)
        apart = place[:, None] - place
        hidden = (apart < 0) | (apart >= how.window)
    if how.cap is None:
        seen = None if hidden is None else ~hidden
        return F.scaled_dot_product_attention(
            query, key, value, attn_mask=seen, is_causal=seen is None, scale=1.0, enable_gqa=many
        )
    key, value = (part.repeat_interleave(query.shape[1] // key.shape[1], 1) for part in (key, value))
    score = how.cap * torch.tanh(query @ key.transpose(-1, -2) / how.cap)
    if hidden is None:
        hidden = torch.ones(width, width, dtype=torch.bool, device=key.device).triu(1)
    return score.masked_fill(hidden, -torch.inf).softmax(-1) @ value
