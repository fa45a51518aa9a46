"""vLLM as a side of `benchmarks/generation.py`: a process of its own, because it needs another environment.

    make vllm
    .venv/bin/python benchmarks/generation.py --sides native --side vllm=".vllm/bin/python benchmarks/vllm_side.py"

Measured is what training asks of it: a sync of weights that have changed, with its checksums, and the answers with
their log-probabilities. vLLM's models have no bias in the head, with which the other sides end their answers: here the
lengths of varying answers are drawn beforehand, from the same distribution, as the limits of the requests.
"""

from __future__ import annotations

import json
import sys
import time

import torch
from generation import SHAPES, Setting, rows_of

from policyopt.engines.vllm_model import Request, VllmModel, VllmOptions
from policyopt.engines.weights import policy_weights
from policyopt.policies.checkpoint import new_language


def limits(setting: Setting, rng: torch.Generator) -> list[int]:
    """Tokens of every answer: an answer ends at each with probability 1 / (length / 2), or at the limit."""
    if not setting.varying:
        return [setting.length] * setting.batch
    drawn = torch.empty(setting.batch).geometric_(2 / setting.length, generator=rng)
    return drawn.clamp(max=setting.limit).int().tolist()


def main() -> None:
    setting = Setting(**json.loads(sys.stdin.readline()))
    shape = dict(SHAPES[setting.size])
    layers, heads = shape.pop("layers"), shape.pop("heads")
    policy = new_language(setting.vocabulary, layers=layers, heads=heads, dtype=getattr(torch, setting.dtype), **shape)
    config = policy.causal.config
    config.architectures = [type(policy.causal).__name__]
    options = VllmOptions(rows=setting.batch, positions=setting.prompt + setting.limit)
    model, prompts = VllmModel(config, policy.causal.dtype, options), rows_of(setting)[1].context().tolist()
    rng = torch.Generator().manual_seed(2)
    for version, _ in enumerate(sys.stdin):
        sizes = limits(setting, rng)
        seeds = range(version * setting.batch, (version + 1) * setting.batch)
        requests = [Request(*one, 1.0) for one in zip(prompts, seeds, sizes, strict=True)]
        with torch.no_grad():
            next(policy.parameters()).mul_(1.0001)
        start = time.perf_counter()
        model.sync(policy_weights(policy), version)
        answers = model.generate(requests, None)
        seconds = time.perf_counter() - start
        print(json.dumps({"tokens": sum(len(one.tokens) for one in answers), "seconds": seconds}), flush=True)


if __name__ == "__main__":
    main()
