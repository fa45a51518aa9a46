"""Compiled parts of layers equal torch's operations in float64, in value and gradient."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from policyopt.compiled.layers import Clusters, Layers, layers

TYPES = [
    (torch.float64, torch.float64, 1e-13),
    (torch.float32, torch.float32, 3e-6),
    (torch.float32, torch.bfloat16, 0.02),
]
LENGTHS = [5, 1, 60, 33, 40, 2, 7, 100, 49]
FIRST = [0, 4, 7, 8, 9]  # sequences 1 to 3 follow 0, 5 and 6 follow 4, two stand alone
SCALE = 0.3


def able_for(dtype: torch.dtype, low: torch.dtype) -> Layers:
    able = layers(dtype, low)
    if able is None:
        pytest.skip("no C compiler, or no products of bfloat16, here")
    return able


def drawn(*shape: int, dtype: torch.dtype, low: torch.dtype, seed: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=dtype).to(low)


def assert_near(found: Tensor, expected: Tensor, bound: float) -> None:
    """Relative to the largest."""
    assert found.shape == expected.shape
    assert (found.double() - expected).abs().max() <= bound * expected.abs().max()


def clusters() -> Clusters:
    begin = torch.tensor([0, *LENGTHS]).cumsum(0)[:-1]
    alone = {FIRST[c] for c in range(len(FIRST) - 1)}
    own = max(length for number, length in enumerate(LENGTHS) if number not in alone)
    return Clusters(torch.tensor(FIRST), begin, torch.tensor(LENGTHS), max(LENGTHS[number] for number in alone), own)


def turned(x: Tensor, cosine: Tensor, sine: Tensor) -> Tensor:
    """(a, b) of the two halves -> (a cos - b sin, b cos + a sin)."""
    a, b = x.chunk(2, -1)
    cosine, sine = cosine[:, None, : a.shape[-1]], sine[:, None, : a.shape[-1]]
    return torch.cat([a * cosine - b * sine, b * cosine + a * sine], -1)


def attended(query: Tensor, key: Tensor, value: Tensor, turns: tuple[Tensor, Tensor]) -> Tensor:
    """One query at a time, from the definition."""
    query, key = turned(query, *turns), turned(key, *turns)
    repeats, begin, out = query.shape[1] // key.shape[1], 0, []
    leader = [max(first for first in FIRST if first <= number) for number in range(len(LENGTHS))]
    starts = torch.tensor([0, *LENGTHS]).cumsum(0).tolist()
    for number, length in enumerate(LENGTHS):
        context = [] if leader[number] == number else list(range(starts[leader[number]], starts[leader[number] + 1]))
        for row in range(length):
            seen = torch.tensor(context + list(range(begin, begin + row + 1)))
            k, v = (x[seen].repeat_interleave(repeats, 1) for x in (key, value))
            weight = (torch.einsum("hd,khd->hk", query[begin + row], k) * SCALE).softmax(-1)
            out.append(torch.einsum("hk,khd->hd", weight, v))
        begin += length
    return torch.stack(out)


@pytest.mark.parametrize(("dtype", "low", "bound"), TYPES)
@pytest.mark.parametrize(("dim", "heads", "groups"), [(64, 4, 4), (32, 4, 2), (8, 2, 1), (20, 3, 3)])
def test_attention_of_clusters(dtype, low, bound, dim, heads, groups):
    able, count = able_for(dtype, low), sum(LENGTHS)
    inputs = [drawn(count, n, dim, dtype=dtype, low=low, seed=n + k) for k, n in enumerate((heads, groups, groups))]
    by_out = drawn(count, heads, dim, dtype=dtype, low=low, seed=9)
    angle = (torch.arange(count) % 37)[:, None] * 0.3 ** torch.arange(dim // 2).double()
    turns = [torch.cat([part, part], 1) for part in (angle.cos(), angle.sin())]
    given = (turns[0].to(dtype), turns[1].to(dtype))
    out, mass = able.attention((inputs[0], inputs[1], inputs[2]), given, clusters(), SCALE)
    found = able.attention_backward((inputs[0], inputs[1], inputs[2]), given, (out, mass), by_out, clusters(), SCALE)
    exact = [x.double().requires_grad_() for x in inputs]
    expected = attended(exact[0], exact[1], exact[2], (turns[0], turns[1]))
    assert_near(out, expected, bound)
    for one, other in zip(found, torch.autograd.grad(expected, exact, by_out.double()), strict=True):
        assert_near(one, other, bound)


def test_attention_does_not_depend_on_the_number_of_threads():
    able, before, found = able_for(torch.float32, torch.float32), torch.get_num_threads(), []
    drawn_heads = (drawn(sum(LENGTHS), 2, 16, dtype=torch.float32, low=torch.float32, seed=k) for k in range(3))
    heads = (next(drawn_heads), next(drawn_heads), next(drawn_heads))
    turns = (torch.ones(sum(LENGTHS), 16), torch.zeros(sum(LENGTHS), 16))
    try:
        for threads in (1, 2, 5):
            torch.set_num_threads(threads)
            out, mass = able.attention(heads, turns, clusters(), SCALE)
            found.append([out, *able.attention_backward(heads, turns, (out, mass), heads[0], clusters(), SCALE)])
    finally:
        torch.set_num_threads(before)
    for others in found[1:]:
        assert all(one.equal(other) for one, other in zip(found[0], others, strict=True))


@pytest.mark.parametrize(("dtype", "low", "bound"), TYPES)
@pytest.mark.parametrize("added", [True, False])
@pytest.mark.parametrize("high", [True, False])
@pytest.mark.parametrize("by_sum", [True, False])
def test_norm_of_a_sum(dtype, low, bound, added, high, by_sum):
    able, epsilon = able_for(dtype, low), 0.1
    x, weight = (drawn(*shape, dtype=dtype, low=dtype, seed=k) for k, shape in enumerate([(19, 37), (37,)]))
    other = drawn(19, 37, dtype=dtype, low=low, seed=3) if added else None
    total, norm, inverse = able.norm(x, other, weight, epsilon, high=high)
    assert norm.dtype == (dtype if high else low)
    wide = [part.double().requires_grad_() for part in (x, weight, other) if part is not None]
    summed = wide[0] + wide[2] if added else wide[0] + 0
    expected = summed / (summed.square().mean(-1, keepdim=True) + epsilon).sqrt() * wide[1]
    assert_near(total, summed, 1e-6)
    assert_near(norm, expected, bound)
    slopes = (drawn(19, 37, dtype=dtype, low=norm.dtype, seed=5), drawn(19, 37, dtype=dtype, low=dtype, seed=6))
    found = able.norm_backward((total, inverse), weight, slopes[0], slopes[1] if by_sum else None, added=added)
    weighed = (expected * slopes[0].double()).sum() + by_sum * (summed * slopes[1].double()).sum()
    of = torch.autograd.grad(weighed, wide)
    assert_near(found[0], of[0], bound)
    assert_near(found[2], of[1], bound)
    if added:
        assert found[1] is not None
        assert found[1].dtype == low
        assert_near(found[1], of[2], bound)
    else:
        assert found[1] is None


@pytest.mark.parametrize(("dtype", "low", "bound"), TYPES)
def test_gated_activation(dtype, low, bound):
    able = able_for(dtype, low)
    gate, other, by_out = (4 * drawn(11, 37, dtype=dtype, low=low, seed=seed) for seed in range(3))
    gate[0, :3] = torch.tensor([-200.0, 200.0, 0.0])
    wide = [part.double().requires_grad_() for part in (gate, other)]
    expected = wide[0] / (1 + (-wide[0]).exp()) * wide[1]
    assert_near(able.gated_silu(gate, other), expected, bound)
    found = able.gated_silu_backward(gate, other, by_out)
    for one, exact in zip(found, torch.autograd.grad(expected, wide, by_out.double()), strict=True):
        assert_near(one, exact, bound)
