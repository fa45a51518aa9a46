"""Milliseconds of attention with rotary positions, forward and backward: compiled kernels against torch's.

    .venv/bin/python benchmarks/attention.py [--rounds 5] [--threads 2]

Both read the same layout of rows that share prompts, in turns; medians of `--rounds` after a warm-up. float32 and
bfloat16: of queries, keys and values; torch attends in float32 in both.
"""

from __future__ import annotations

import argparse
import statistics
import time

import torch

from policyopt.compiled.layers import layers
from policyopt.policies.fused import Attention, attended_by_torch
from policyopt.policies.packing import Packed
from policyopt.policies.segments import Layout, layout_of
from policyopt.runtime.memory import keep_freed

SHAPES = [  # rows, tokens of a prompt, of an answer, answers a prompt, heads, heads of keys, their size
    (128, 32, 64, 8, 4, 4, 64),
    (16, 256, 256, 8, 8, 2, 64),
    (8, 512, 1024, 8, 14, 2, 64),
    (2, 64, 2048, 1, 8, 8, 64),
]
LOW = (torch.float32, torch.bfloat16)


def rows_of(rows: int, prompt: int, answer: int, size: int) -> Layout:
    rng = torch.Generator().manual_seed(0)
    prompts = torch.randint(0, 20, (rows // size, prompt), generator=rng).repeat_interleave(size, 0)
    tokens = torch.cat([prompts, torch.randint(0, 20, (rows, answer), generator=rng)], 1)
    return layout_of(Packed(tokens, torch.full((rows,), prompt - 1), torch.ones(rows, answer, dtype=torch.bool)))


def measure(shape: tuple[int, ...], low: torch.dtype, rounds: int) -> list[float]:
    """Medians of ours and of torch's, in milliseconds."""
    *of_rows, heads, groups, dim = shape
    layout, able = rows_of(*of_rows), layers(torch.float32, low)
    if able is None:
        raise SystemExit(
            f"no compiled kernels for {low} here: a C compiler, or instructions of the processor, are missing"
        )
    count = len(layout.tokens)
    inputs = [torch.randn(count, n, dim).to(low).requires_grad_() for n in (heads, groups, groups)]
    q, k, v = inputs
    turns, slope = (torch.rand(count, dim), torch.rand(count, dim)), torch.randn(count, heads, dim).to(low)
    ways = [
        lambda: Attention.apply(q, k, v, turns, able, layout, dim**-0.5),
        lambda: attended_by_torch((q, k, v), turns, layout, dim**-0.5),
    ]
    spent: list[list[float]] = [[], []]
    for turn in range(rounds + 1):
        for way, found in zip(ways, spent, strict=True):
            begun = time.perf_counter()
            torch.autograd.grad(way(), inputs, slope)
            if turn:
                found.append(1000 * (time.perf_counter() - begun))
    return [statistics.median(found) for found in spent]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=2)
    asked = parser.parse_args()
    torch.set_num_threads(asked.threads)
    keep_freed()
    print(
        "| rows x (prompt + answer), answers a prompt | heads (keys) x size | float32 | bfloat16 |\n|---|---|---|---|"
    )
    for shape in SHAPES:
        cells = [" / ".join(f"{found:.0f}" for found in measure(shape, low, asked.rounds)) for low in LOW]
        rows, prompt, answer, size, heads, groups, dim = shape
        print(
            f"| {rows} x ({prompt} + {answer}), {size} | {heads} ({groups}) x {dim} | {' | '.join(cells)} |", flush=True
        )


if __name__ == "__main__":
    main()
