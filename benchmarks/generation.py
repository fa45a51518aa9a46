"""Tokens per second of generation: the native engine against `transformers.generate` and its continuous batching.

    .venv/bin/python benchmarks/generation.py [--sizes 0.8M 4M] [--batches 64 256] [--rounds 5] [--json FILE]
    .venv/bin/python benchmarks/generation.py --scaling          # fitted exponents of cost
    .venv/bin/python benchmarks/generation.py --gpu              # a random-weight Qwen2.5-0.5B shape on CUDA
    .venv/bin/python benchmarks/generation.py --side vllm=".venv-vllm/bin/python benchmarks/peers/vllm_generation.py"

Groups of 8 attempts share a prompt. Answers of "fixed" settings all have `--length` tokens; those of "varying" ones
end with probability 1 / (length / 2) at each token, and at twice the length at the latest. All sides sample at
temperature 1 from the same model; their rounds alternate, so that all see the same machine. Medians of `--rounds`
rounds after one for warming up.

A side is a function of a setting, or a process (`--side NAME=COMMAND`): it reads the setting as one JSON line, then for
every line "go" generates once and prints {"tokens": ..., "seconds": ...}; it ends with its input.
"""

from __future__ import annotations

import argparse
import json
import logging
import math
import os
import platform
import shlex
import statistics
import subprocess
import time
import warnings
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor, nn

from policyopt.engines.native import Decoding, NativeEngine
from policyopt.ops.random import new_keys
from policyopt.policies.checkpoint import new_language
from policyopt.policies.language import Language
from policyopt.types import PROMPT, Batch
from policyopt.worlds.tokens import TokenWorld

GROUP, EOS = 8, 0
SHAPES: dict[str, dict[str, Any]] = {  # parameters without embeddings
    "0.8M": {"hidden_size": 128, "layers": 3, "heads": 4},
    "4M": {"hidden_size": 256, "layers": 4, "heads": 8},
    "25M": {"hidden_size": 512, "layers": 6, "heads": 8},
    "120M": {"hidden_size": 896, "layers": 9, "heads": 14},
    "0.5B": {
        "model_type": "qwen2",
        "hidden_size": 896,
        "layers": 24,
        "heads": 14,
        "num_key_value_heads": 2,
        "intermediate_size": 4864,
        "max_position_embeddings": 2048,
    },
}


@dataclass(frozen=True)
class Setting:
    size: str
    batch: int
    length: int
    varying: bool
    prompt: int = 32
    vocabulary: int = 256
    device: str = "cpu"
    dtype: str = "float32"

    @property
    def limit(self) -> int:
        return 2 * self.length if self.varying else self.length


def model_of(setting: Setting) -> Language:
    """A model of random weights that ends as the setting says: its head has a bias for EOS."""
    shape = dict(SHAPES[setting.size])
    layers, heads = shape.pop("layers"), shape.pop("heads")
    policy = new_language(
        setting.vocabulary, layers=layers, heads=heads, dtype=getattr(torch, setting.dtype), **shape
    ).to(setting.device)
    head = policy.causal.get_output_embeddings()
    biased = nn.Linear(head.in_features, setting.vocabulary, device=head.weight.device, dtype=head.weight.dtype)
    biased.weight = head.weight
    with torch.no_grad():
        biased.bias.zero_()
        mean = setting.length / 2
        biased.bias[EOS] = math.log((setting.vocabulary - 1) / (mean - 1)) if setting.varying else -1e4
    policy.causal.set_output_embeddings(biased)
    return policy


def rows_of(setting: Setting) -> tuple[TokenWorld, Batch]:
    rng = torch.Generator().manual_seed(1)
    shape = (setting.batch // GROUP, setting.prompt)
    prompts = torch.randint(1, setting.vocabulary, shape, generator=rng).tolist()
    world = TokenWorld(prompts, eos=EOS, limit=setting.limit, decode=str)
    batch = world.start(world.tasks(torch.arange(len(prompts))).repeat(GROUP)).to(setting.device)
    return world, batch.with_rows({"temperature": torch.ones(len(batch), device=setting.device)})


# -- sides: a function of a setting gives a function that generates once and counts tokens --------------------------
Side = Callable[[Setting], Callable[[], int]]


def native(decoding: Decoding) -> Side:
    def begin(setting: Setting) -> Callable[[], int]:
        engine, policy, (world, batch) = NativeEngine(decoding), model_of(setting), rows_of(setting)
        rng = torch.Generator().manual_seed(2)

        def generate() -> int:
            keys = new_keys(len(batch), rng).to(setting.device)
            return int(engine(policy, world, batch, keys, 1.0, 0).lengths.sum())

        return generate

    return begin


def _ids(setting: Setting) -> Tensor:
    return rows_of(setting)[1].row[PROMPT]


_SAMPLED = {"do_sample": True, "top_k": 0, "top_p": 1.0, "eos_token_id": EOS, "pad_token_id": EOS}


def transformers_generate(setting: Setting) -> Callable[[], int]:
    model, ids = model_of(setting).causal, _ids(setting)

    def generate() -> int:
        made = model.generate(
            input_ids=ids, attention_mask=torch.ones_like(ids), max_new_tokens=setting.limit, **_SAMPLED
        )
        ended = (made[:, ids.shape[1] :] == EOS).cumsum(1)
        return int(((ended == 0) | ((ended == 1) & (made[:, ids.shape[1] :] == EOS))).sum())

    return generate


PAGE = 32  # tokens


def transformers_continuous(setting: Setting) -> Callable[[], int]:
    """Continuous batching with its cache as large as the rows need, made once: by itself it takes 60 % of a processor's
    memory, anew at every call."""
    from transformers import ContinuousBatchingConfig, GenerationConfig

    logging.getLogger("ContinuousBatchingLogger").setLevel(logging.ERROR)
    model, ids = model_of(setting).causal, _ids(setting).tolist()
    config = GenerationConfig(max_new_tokens=setting.limit, **_SAMPLED)
    pages = setting.batch * math.ceil((setting.prompt + setting.limit) / PAGE) + 1
    tokens = max(512, setting.batch)

    def generate() -> int:
        made = model.generate_batch(
            ids,
            generation_config=config,
            continuous_batching_config=ContinuousBatchingConfig(
                page_size=PAGE, num_blocks=pages, max_batch_tokens=tokens
            ),
            progress_bar=False,
            persistent_manager=True,
        )
        failed = [one.error for one in made.values() if one.error]
        if failed or len(made) < len(ids):
            raise SystemExit(f"continuous batching answered {len(made)} of {len(ids)} rows: {failed[:1]}")
        return sum(len(one.generated_tokens) for one in made.values())

    return generate


SIDES: dict[str, Side] = {
    "transformers": transformers_generate,
    "continuous": transformers_continuous,
    "native": native(Decoding()),
    "native bf16": native(Decoding(weights=torch.bfloat16)),
    "native torch": native(Decoding(compiled=False)),
}


def process_side(command: str) -> Side:
    def begin(setting: Setting) -> Callable[[], int]:
        process = subprocess.Popen(shlex.split(command), stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        assert process.stdin is not None
        assert process.stdout is not None
        source, sink = process.stdout, process.stdin
        sink.write(json.dumps(asdict(setting)) + "\n")

        def generate() -> int:
            sink.write("go\n")
            sink.flush()
            for line in source:
                if line.startswith("{"):
                    return json.loads(line)["tokens"]
            raise SystemExit(f"{command} ended; run it by hand to see why")

        return generate

    return begin


# -- measuring ------------------------------------------------------------------------------------------------------
def measure(setting: Setting, sides: Sequence[str], rounds: int) -> dict[str, list[float]]:
    """Tokens per second of every round, by side."""
    ready = {name: SIDES[name](setting) for name in sides}
    rates: dict[str, list[float]] = {name: [] for name in sides}
    for turn in range(rounds + 1):
        for name, generate in ready.items():
            start = time.perf_counter()
            tokens = generate()
            if setting.device == "cuda":
                torch.cuda.synchronize()
            if turn:
                rates[name].append(tokens / (time.perf_counter() - start))
    return rates


def compared(settings: Sequence[Setting], sides: Sequence[str], rounds: int) -> list[dict[str, Any]]:
    table = Table("model", "batch", "answers", *sides, *[f"{name} / {sides[0]}" for name in sides[1:]])
    results = []
    for setting in settings:
        rates = measure(setting, sides, rounds)
        middle = {name: statistics.median(found) for name, found in rates.items()}
        pairs = {
            name: [ours / theirs for ours, theirs in zip(rates[name], rates[sides[0]], strict=True)]
            for name in sides[1:]
        }
        results.append({**asdict(setting), "tokens_per_second": rates, "ratios": pairs})
        answers = f"varying, {setting.length // 2} of {setting.limit}" if setting.varying else f"{setting.length}"
        table.add_row(
            setting.size,
            str(setting.batch),
            answers,
            *[f"{rate:.0f}" for rate in middle.values()],
            *[f"{statistics.median(found):.2f} ({min(found):.2f}-{max(found):.2f})" for found in pairs.values()],
        )
        print(json.dumps({"setting": asdict(setting), "median": middle}), flush=True)
    Console(width=200).print(table)
    return results


def scaling(base: Setting, sides: Sequence[str], rounds: int, sizes: Sequence[str]) -> list[dict[str, Any]]:
    """cost ~ x^exponent, by least squares of logarithms: seconds of a call against batch and length, and against the
    model's parameters."""
    axes = {
        "batch": [replace(base, batch=batch) for batch in (16, 32, 64, 128, 256)],
        "length": [replace(base, length=length) for length in (16, 32, 64, 128, 256)],
        "parameters": [replace(base, size=size, length=16) for size in sizes],
    }
    results = []
    table = Table("cost against", *sides)
    for axis, settings in axes.items():
        xs = [float(_scale(setting, axis)) for setting in settings]
        seconds: dict[str, list[float]] = {name: [] for name in sides}
        for setting in settings:
            for name, rates in measure(setting, sides, rounds).items():
                seconds[name].append(setting.batch * setting.length / statistics.median(rates))
        slopes = {name: _slope(xs, found) for name, found in seconds.items()}
        results.append({"axis": axis, "x": xs, "seconds": seconds, "exponent": slopes})
        table.add_row(axis, *[f"{slope:.2f}" for slope in slopes.values()])
    Console().print(table)
    return results


def _scale(setting: Setting, axis: str) -> int:
    if axis != "parameters":
        return getattr(setting, axis)
    return sum(parameter.numel() for parameter in model_of(setting).parameters())


def _slope(x: Sequence[float], y: Sequence[float]) -> float:
    return statistics.linear_regression([math.log(v) for v in x], [math.log(v) for v in y]).slope


def machine() -> dict[str, Any]:
    name = next(
        (line.split(":")[1].strip() for line in Path("/proc/cpuinfo").read_text().splitlines() if "model name" in line),
        platform.processor(),
    )
    found = {"processor": name, "cores": os.cpu_count(), "threads": torch.get_num_threads(), "torch": torch.__version__}
    return {**found, "gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else None}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--sizes", nargs="*", choices=list(SHAPES), default=None)
    parser.add_argument("--batches", nargs="*", type=int, default=None)
    parser.add_argument("--length", type=int, default=64)
    parser.add_argument("--answers", nargs="*", choices=("fixed", "varying"), default=["fixed", "varying"])
    parser.add_argument("--sides", nargs="*", default=["transformers", "native", "native bf16"], help=", ".join(SIDES))
    parser.add_argument("--side", action="append", default=[], metavar="NAME=COMMAND", help="one more side: a process")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--scaling", action="store_true")
    parser.add_argument("--gpu", action="store_true")
    parser.add_argument("--json", type=Path)
    asked = parser.parse_args()
    warnings.filterwarnings("ignore")
    for given in asked.side:
        name, _, command = given.partition("=")
        SIDES[name] = process_side(command)
        asked.sides.append(name)
    if asked.gpu and not torch.cuda.is_available():
        raise SystemExit("--gpu needs a CUDA device; torch sees none")
    sizes, batches = asked.sizes or (["0.5B"] if asked.gpu else ["0.8M", "4M"]), asked.batches or [64, 256]
    where: dict[str, Any] = {"device": "cuda", "dtype": "bfloat16", "vocabulary": 151936} if asked.gpu else {}
    with torch.no_grad():
        if asked.scaling:
            base = Setting("0.8M", 64, asked.length, False, **where)
            results = scaling(base, asked.sides, asked.rounds, asked.sizes or ["0.8M", "4M", "25M", "120M"])
        else:
            settings = [
                Setting(size, batch, asked.length, answers == "varying", **where)
                for size in sizes
                for batch in batches
                for answers in asked.answers
            ]
            results = compared(settings, asked.sides, asked.rounds)
    if asked.json:
        asked.json.write_text(json.dumps({"machine": machine(), "results": results}, indent=1) + "\n")


if __name__ == "__main__":
    main()
