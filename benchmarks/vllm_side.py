"""Tokens a second of one engine, as one line of JSON for every size of batch: a process of its own, because vLLM needs
another environment than the rest (`make vllm`). The same file measures the native engine, so that both sides do the
same work:

    .vllm/bin/python benchmarks/vllm_side.py --engine vllm --hidden 128 --layers 3 --batch 64
    .venv/bin/python benchmarks/vllm_side.py --engine native --hidden 128 --layers 3 --batch 64

Measured is a whole call of the engine as training makes it, after a change of the weights: with vLLM also the sync,
its checksums, and the rows that the policy scores again. Groups of rows share a prompt. --varying: answers end with a
token that random weights give a chance of about one in `--vocabulary`; else all are `--length` long. The first call is
not counted.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from typing import Any

import torch

from policyopt.engines.choose import engine_for
from policyopt.engines.vllm_model import VllmOptions
from policyopt.ops.random import new_keys
from policyopt.policies.checkpoint import new_language
from policyopt.worlds.tokens import TokenWorld


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--engine", choices=("vllm", "native", "transformers"), default="vllm")
    parser.add_argument("--model-type", default="qwen2")
    shape = {"hidden": 128, "layers": 3, "heads": 4, "intermediate": 512, "vocabulary": 48}
    parser.add_argument("--batch", type=int, nargs="+", default=[64])
    work = {"group": 8, "prompt": 32, "length": 64, "repeats": 5}
    for name, default in {**shape, **work}.items():
        parser.add_argument(f"--{name}", type=int, default=default)
    parser.add_argument("--dtype", choices=("float32", "bfloat16"), default="float32")
    parser.add_argument("--varying", action="store_true")
    parser.add_argument("--compile", action="store_true")
    return parser.parse_args()


def main() -> None:
    asked = arguments()
    policy = new_language(
        asked.vocabulary,
        asked.model_type,
        asked.hidden,
        asked.layers,
        asked.heads,
        seed=0,
        dtype=getattr(torch, asked.dtype),
        intermediate_size=asked.intermediate,
        max_position_embeddings=asked.prompt + asked.length,
    )
    options = VllmOptions(rows=max(asked.batch), compile=asked.compile) if asked.engine == "vllm" else None
    began = time.perf_counter()
    engine = engine_for(policy, world_of(asked, asked.group), asked.engine, options)
    for batch in asked.batch:
        if batch % asked.group:
            raise SystemExit(f"--batch {batch} must be a multiple of --group {asked.group}")
        print(json.dumps(measured(asked, policy, engine, batch, began)), flush=True)


def world_of(asked: argparse.Namespace, batch: int) -> TokenWorld:
    rng = torch.Generator().manual_seed(0)
    prompts = torch.randint(1, asked.vocabulary, (batch // asked.group, asked.prompt), generator=rng).tolist()
    # Without an end: one behind the vocabulary, which is never sampled.
    return TokenWorld(prompts, eos=0 if asked.varying else asked.vocabulary, limit=asked.length, decode=str)


def measured(asked: argparse.Namespace, policy: Any, engine: Any, size: int, began: float) -> dict[str, Any]:
    """began: when the engine was made, for the time until its first answers."""
    world, seconds, tokens, first = world_of(asked, size), [], [], 0.0
    for repeat in range(asked.repeats + 1):
        with torch.no_grad():
            next(policy.parameters()).mul_(1.0001)
        batch = world.start(world.tasks(torch.arange(world.size)).repeat(asked.group))
        keys = new_keys(len(batch), torch.Generator().manual_seed(repeat))
        start = time.perf_counter()
        done = engine(policy, world, batch, keys, 1.0, repeat)
        seconds.append(time.perf_counter() - start)
        tokens.append(int(done.lengths.sum()))
        first = first or time.perf_counter() - began
    rates = [count / taken for count, taken in zip(tokens[1:], seconds[1:], strict=True)]
    return {
        "engine": asked.engine,
        "parameters": sum(parameter.numel() for parameter in policy.parameters()),
        "dtype": asked.dtype,
        "threads": torch.get_num_threads(),
        "batch": size,
        **{name: getattr(asked, name) for name in ("group", "prompt", "length", "varying", "compile")},
        "tokens": statistics.median(tokens[1:]),
        "tokens_per_second": round(statistics.median(rates), 1),
        "slowest": round(min(rates), 1),
        "fastest": round(max(rates), 1),
        "first_answers_seconds": round(first, 1),
        "mismatch": getattr(engine, "mismatch", None),
    }


if __name__ == "__main__":
    main()
