"""Peak extra memory of scoring tokens at a large vocabulary, with its gradient: ours against all logits at once.
On a GPU also by Triton's kernels, and the rate of either as a share of a plain bfloat16 product's.

    .venv/bin/python benchmarks/scoring_memory.py [--vocabulary 151936] [--tokens 2048] [--gpu]

Each way runs in a process of its own, on the same weights and tokens. Memory is what the process held at most while it
scored and took the gradient, less what it held before (the kernel's count of its resident memory; on a GPU, torch's of
what was allocated). Log-probabilities, entropies and gradients of all are compared. Prints a table; `--json FILE`
writes the numbers.

Rates are of the head alone, at the widths of Qwen2.5-0.5B and 1.5B in bfloat16, medians of 5: operations of one product
for scores and of three for scores and gradients, whatever a way makes again, over the seconds it takes.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor

from policyopt.policies.checkpoint import new_language
from policyopt.policies.language import Language
from policyopt.policies.token_scores import LOGITS, Projection, Scorer, score_tokens
from policyopt.policies.trunk import PLAIN
from policyopt.types import Batch
from policyopt.worlds.tokens import TokenWorld

WAYS = ("all at once", "ours")
WIDTHS = (896, 1536)


class Memory:
    """The most memory held since it was made, beyond what was held then."""

    def __init__(self, device: str):
        self.device = device
        if device == "cuda":
            torch.cuda.synchronize()
            torch.cuda.reset_peak_memory_stats()
            self.before = torch.cuda.memory_allocated()
        else:
            Path("/proc/self/clear_refs").write_text("5")  # the peak is now what is held
            self.before = self._read("VmRSS")

    def extra(self) -> int:
        peak = torch.cuda.max_memory_allocated() if self.device == "cuda" else self._read("VmHWM")
        return peak - self.before

    @staticmethod
    def _read(name: str) -> int:
        lines = Path("/proc/self/status").read_text().splitlines()
        return next(int(line.split()[1]) << 10 for line in lines if line.startswith(f"{name}:"))


def all_at_once(policy: Language, batch: Batch) -> tuple[Tensor, Tensor]:
    """What a loss over logits does: (tokens, vocabulary) arrays of logits, log-probabilities and probabilities."""
    prompt, answer = batch.context(), batch.step["_token"]
    states = policy.backbone(input_ids=torch.cat([prompt, answer], 1), use_cache=False).last_hidden_state
    logp = policy.head(states[:, prompt.shape[1] - 1 : -1]).log_softmax(-1)
    return logp.gather(-1, answer[..., None])[..., 0], -(logp.exp() * logp).sum(-1)


def ours(policy: Language, batch: Batch) -> tuple[Tensor, Tensor]:
    scores = policy.score(batch)
    assert scores.entropy is not None
    return scores.logp, scores.entropy


def one(way: str, vocabulary: int, tokens: int, device: str, kept: str) -> dict[str, float]:
    policy = new_language(vocabulary, "qwen2", hidden_size=128, layers=2, heads=2, seed=0).to(device)
    if way == "all at once":
        policy.reading = PLAIN
    elif way == "triton":
        policy.reading = replace(policy.reading, scoring="triton")
    rng = torch.Generator().manual_seed(0)
    rows = 32
    answers = torch.randint(vocabulary, (rows, tokens // rows - 1), generator=rng).tolist()
    prompts = torch.randint(vocabulary, (rows, 8), generator=rng).tolist()
    world = TokenWorld(prompts, eos=0, limit=tokens, decode=str, recorded_answers=answers)
    batch = world.recorded(world.tasks(torch.arange(rows))).to(device)
    score = all_at_once if way == "all at once" else ours
    weight = torch.randn(2, rows, tokens // rows, generator=rng).to(device)
    sum(part.sum() for part in score(policy, batch[:1])).backward()  # kernels and gradients are there before
    policy.zero_grad(set_to_none=False)
    memory, begun = Memory(device), time.perf_counter()
    logp, entropy = score(policy, batch)
    ((weight[0] * logp).sum() + (weight[1] * entropy).sum()).backward()
    extra, seconds = memory.extra(), time.perf_counter() - begun
    torch.save([logp.detach(), entropy.detach(), *[p.grad for p in policy.parameters()]], kept)
    return {"extra": extra, "seconds": seconds}


def seconds(work: Callable[[], object], device: str) -> float:
    """The median of 5, after 2 that do not count."""
    found = []
    for _ in range(7):
        begun = time.perf_counter()
        work()
        if device == "cuda":
            torch.cuda.synchronize()
        found.append(time.perf_counter() - begun)
    return statistics.median(found[2:])


def rates(tokens: int, vocabulary: int, device: str, widths: tuple[int, ...], square: int) -> list[dict[str, Any]]:
    """square: the side of the plain product's matrices."""
    from policyopt.policies.triton_scores import LOW, tiled

    def by_tiles(columns: int) -> Scorer:
        return lambda *given: tiled(*given, replace(LOW, vocabulary=columns))

    rng = torch.Generator(device).manual_seed(0)
    drawn: dict[str, Any] = {"dtype": torch.bfloat16, "device": device, "generator": rng}
    matrix = torch.randn(square, square, **drawn)
    plain = 2 * square**3 / seconds(lambda: matrix @ matrix, device)
    ways: dict[str, Scorer] = {"ours": score_tokens}
    ways |= {f"triton, tiles of {LOW.tokens} x {columns}": by_tiles(columns) for columns in (128, 256)}
    found = []
    for width in widths:
        weight = (torch.randn(vocabulary, width, **drawn) / width**0.5).requires_grad_()
        states = torch.randn(tokens, width, **drawn).requires_grad_()
        token = torch.randint(vocabulary, (tokens,), device=device, generator=rng)
        given = (states, Projection(weight), token, torch.ones(tokens, device=device), max(1, LOGITS // vocabulary))
        for way, score in ways.items():
            for what, products in (("scores", 1), ("scores and gradients", 3)):
                took = seconds(lambda: scored(score, given, [states, weight] if products > 1 else []), device)  # noqa: B023
                rate = products * 2 * tokens * vocabulary * width / took
                line = {"width": width, "way": way, "what": what, "seconds": took, "rate": rate}
                found.append({**line, "share": rate / plain})
    return found


def scored(score: Scorer, given: tuple[Any, ...], learning: list[Tensor]) -> object:
    with torch.set_grad_enabled(bool(learning)):
        total = torch.stack(score(*given)).sum()
    return torch.autograd.grad(total, learning) if learning else total


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--vocabulary", type=int, default=151936)
    parser.add_argument("--tokens", type=int, default=2048, help="a multiple of 32")
    parser.add_argument("--gpu", action="store_true")
    parser.add_argument("--json", type=Path)
    parser.add_argument("--one", nargs=2, metavar=("WAY", "FILE"), help=argparse.SUPPRESS)
    asked = parser.parse_args()
    device = "cuda" if asked.gpu else "cpu"
    if asked.one:
        print(json.dumps(one(asked.one[0], asked.vocabulary, asked.tokens, device, asked.one[1])))
        return
    ways = (*WAYS, "triton") if asked.gpu else WAYS
    found, saved = {}, {}
    with tempfile.TemporaryDirectory() as folder:
        for way in ways:
            kept = f"{folder}/{way}.pt"
            command = [sys.executable, __file__, *sys.argv[1:], "--one", way, kept]
            done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
            found[way] = json.loads(done.stdout.splitlines()[-1])
            saved[way] = torch.load(kept, map_location="cpu")
    console, table = Console(), Table("way", "peak extra memory, MiB", "seconds")
    for way, numbers in found.items():
        table.add_row(way, f"{numbers['extra'] / 2**20:.0f}", f"{numbers['seconds']:.2f}")
    console.print(table)
    ratio, gaps = {}, {}
    for way in ways[1:]:
        pairs = zip(saved[way], saved["all at once"], strict=True)
        gaps[way] = [float((a - b).abs().max() / b.abs().max()) for a, b in pairs]
        ratio[way] = found["all at once"]["extra"] / found[way]["extra"]
        alike = f"scores {max(gaps[way][:2]):.1e}, gradients {max(gaps[way][2:]):.1e}"
        console.print(f"{way}: {ratio[way]:.1f} times less; largest relative difference: {alike}")
    written: dict[str, Any] = {"ways": found, "ratio": ratio, "differences": gaps}
    if asked.gpu:
        written["rates"] = rates(8 * asked.tokens, asked.vocabulary, device, WIDTHS, square=8192)
        console.print(shown(written["rates"]))
    if asked.json:
        asked.json.write_text(json.dumps(written, indent=1) + "\n")


def shown(speeds: list[dict[str, Any]]) -> Table:
    table = Table("width", "way", "what", "seconds", "TFLOP/s", "of a plain product's rate")
    for line in speeds:
        numbers = f"{line['seconds']:.4f}", f"{line['rate'] / 1e12:.0f}", f"{line['share']:.0%}"
        table.add_row(str(line["width"]), line["way"], line["what"], *numbers)
    return table


if __name__ == "__main__":
    main()
