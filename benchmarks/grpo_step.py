"""Seconds of a whole GRPO step (generation, scores, update), against TRL's GRPOTrainer on identical work.

    make peers-language
    .venv/bin/python benchmarks/grpo_step.py [--models 4M ...] [--lengths fixed varying] [--bf16] [--gpu] [--rounds 5]

Both sides have the same model folder (random weights), prompts, groups, lengths, reward, loss, optimiser and threads;
each samples its own answers. Their steps alternate, so that both see the same machine; medians of `--rounds` steps
after a warm-up, of tokens per second where lengths vary. "processor": the same ratio of processor time, which a machine
that does other things as well changes little. `--ways` adds slower ways of ours (torch: without compiled kernels in
training; plain: padded rows, every score taken). Prints tables; `--json FILE` writes the numbers.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
from dataclasses import asdict, replace
from pathlib import Path

from grpo_settings import CHARACTERS, SIZES, Setting
from rich.console import Console
from rich.table import Table

HERE = Path(__file__).parent
PARTS = ("generation", "forward", "backward", "optimiser")


class Side:
    """A process that takes a step when it is told to."""

    def __init__(self, python: str, script: str, setting: Setting, errors: Path):
        threads = {"OMP_NUM_THREADS": str(setting.threads)} if setting.threads else {}
        self.errors = errors
        self.process = subprocess.Popen(
            [python, str(HERE / "peers" / script), json.dumps(asdict(setting))],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=errors.open("w"),
            text=True,
            env={**os.environ, **threads, "TOKENIZERS_PARALLELISM": "false"},
        )
        self.read()

    def read(self) -> dict[str, float]:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            if line.startswith("{"):
                return json.loads(line)
        raise SystemExit(f"{self.process.args[1]} ended: {self.errors.read_text()[-2000:]}")

    def go(self) -> dict[str, float]:
        assert self.process.stdin is not None
        self.process.stdin.write("go\n")
        self.process.stdin.flush()
        return self.read()

    def end(self) -> None:
        self.process.communicate("end\n")


def save_model(size: str, folder: Path) -> None:
    """A Qwen2 model of random weights with a tokenizer of single characters."""
    from policyopt.policies.checkpoint import new_language, save_language
    from policyopt.policies.tokenizer import character_tokenizer

    hidden, layers, heads, inner = SIZES[size]
    tokenizer = character_tokenizer(CHARACTERS)
    model = new_language(
        len(tokenizer), "qwen2", hidden_size=hidden, layers=layers, heads=heads, intermediate_size=inner, seed=0
    )
    save_language(model, folder, tokenizer)


def measure(setting: Setting, asked: argparse.Namespace, folder: Path) -> dict:
    ours = {
        "ours": replace(setting, trust=asked.trust),
        "torch": replace(setting, trust=asked.trust, reading="torch"),
        "plain": replace(setting, reading="plain", micro_tokens=0),
    }
    sides = {way: Side(sys.executable, "ours_grpo.py", ours[way], folder / way) for way in ["ours", *asked.ways]}
    if asked.peer:
        sides["trl"] = Side(asked.peer, "trl_grpo.py", setting, folder / "trl")
    found: dict[str, list[dict[str, float]]] = {side: [] for side in sides}
    for turn in range(asked.warm_up + asked.rounds):
        for side, process in sides.items():
            numbers = process.go()
            if turn >= asked.warm_up:
                found[side].append(numbers)
    for process in sides.values():
        process.end()
    mine = found["ours"]
    outside = [1 - sum(n[part] for part in PARTS) / n["seconds"] for n in mine]
    result = {
        **asdict(setting),
        "seconds": {side: statistics.median(n["seconds"] for n in turns) for side, turns in found.items()},
        "tokens": {side: statistics.mean(n["tokens"] for n in turns) for side, turns in found.items()},
        "parts": {part: statistics.median(n[part] for n in mine) for part in PARTS},
        "outside": statistics.median(outside),
        "mismatch": max(n["mismatch"] for n in mine),
    }
    # Per sampled token: where lengths vary, no two steps are of the same answers.
    for clock, ratio in (("seconds", "ratio"), ("cpu", "processor_ratio")):
        rate = {side: [n["tokens"] / n[clock] for n in turns] for side, turns in found.items()}
        result[f"tokens_per_{clock}"] = {side: statistics.median(values) for side, values in rate.items()}
        if "trl" in rate:
            result[f"{ratio}s"] = [one / other for one, other in zip(rate["ours"], rate["trl"], strict=True)]
            result[ratio] = statistics.median(result[f"{ratio}s"])
    return result


def show(results: list[dict], ways: list[str]) -> None:
    sides = ("ours", *ways, "trl")
    table = Table("model", "lengths", *(f"{side}, s" for side in sides), "ratio", "from..to", "processor")
    parts = Table("model", "lengths", *PARTS, "rest")
    for r in results:
        lengths = ("varying" if r["varying"] else f"{r['limit']}") + (" bf16" if r["bf16"] else "")
        seconds = [f"{r['seconds'][side]:.2f}" if side in r["seconds"] else "-" for side in sides]
        ratios = ["-"] * 3
        if "ratio" in r:
            spread = f"{min(r['ratios']):.2f}..{max(r['ratios']):.2f}"
            ratios = [f"{r['ratio']:.2f}", spread, f"{r['processor_ratio']:.2f}"]
        table.add_row(r["model"], lengths, *seconds, *ratios)
        parts.add_row(r["model"], lengths, *(f"{r['parts'][part]:.3f}" for part in PARTS), f"{r['outside']:.1%}")
    Console().print(table)
    Console().print(parts)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--peer", default=".peers-language/bin/python", help="Python with TRL; '' leaves it out")
    parser.add_argument("--models", nargs="*", choices=sorted(SIZES), default=["4M"])
    parser.add_argument("--lengths", nargs="*", choices=("fixed", "varying"), default=["fixed", "varying"])
    parser.add_argument("--ways", nargs="*", choices=("torch", "plain"), default=[])
    parser.add_argument("--groups", type=int, default=16, help="prompts per step")
    parser.add_argument("--size", type=int, default=8, help="answers per prompt")
    parser.add_argument("--prompt", type=int, default=32)
    parser.add_argument("--limit", type=int, default=64)
    parser.add_argument("--micro-tokens", type=int, default=8192)
    parser.add_argument("--trust", type=float, default=0.01, help="bound on the sampler's mismatch; 0: score again")
    parser.add_argument("--bf16", action="store_true")
    parser.add_argument("--gpu", action="store_true")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--warm-up", type=int, default=1)
    parser.add_argument("--json", type=Path)
    asked = parser.parse_args()
    results = []
    for model in asked.models:
        with tempfile.TemporaryDirectory() as name:
            folder = Path(name)
            save_model(model, folder / "model")
            for lengths in asked.lengths:
                setting = Setting(
                    str(folder / "model"),
                    model,
                    varying=lengths == "varying",
                    groups=asked.groups,
                    size=asked.size,
                    prompt=asked.prompt,
                    limit=asked.limit,
                    bf16=asked.bf16,
                    threads=0 if asked.gpu else asked.threads,
                    device="cuda" if asked.gpu else "cpu",
                    micro_tokens=asked.micro_tokens,
                )
                results.append(measure(setting, asked, folder))
                show(results[-1:], asked.ways)
    if len(results) > 1:
        show(results, asked.ways)
    if asked.json:
        machine = {"processor": platform.processor() or platform.machine(), "cores": os.cpu_count()}
        asked.json.write_text(json.dumps({"machine": machine, "results": results}, indent=1) + "\n")


if __name__ == "__main__":
    main()
