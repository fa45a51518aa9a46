"""Our side of `grpo_step.py`: a step a turn, and where its time went."""

from __future__ import annotations

import json
import sys
import time
from collections import Counter
from dataclasses import replace
from pathlib import Path

import torch
from worker import serve

sys.path.append(str(Path(__file__).parents[1]))
from grpo_settings import NEVER, Setting, prompts, reward

from policyopt.compose import Program, Role, Stage
from policyopt.engines.native import Decoding, NativeEngine
from policyopt.methods.grpo import grpo
from policyopt.policies.checkpoint import load_language
from policyopt.policies.language import Language
from policyopt.policies.tokenizer import load_tokenizer
from policyopt.policies.trunk import PLAIN, Reading
from policyopt.run import Run
from policyopt.runtime.memory import keep_freed
from policyopt.sampling.samplers import Group
from policyopt.selection.tasks import Selection
from policyopt.train import rounds
from policyopt.update.gradient import GradientSteps
from policyopt.update.optimizers import AdamW
from policyopt.worlds.tokens import TokenWorld

asked = Setting(**json.loads(sys.argv[1]))
if asked.threads:
    torch.set_num_threads(asked.threads)
keep_freed()  # as `policyopt train` does
policy = load_language(asked.folder).to(asked.device)
low = torch.bfloat16 if asked.bf16 else None
way = {"packed": Reading(), "torch": Reading(compiled=False), "plain": PLAIN}[asked.reading]
policy.reading = replace(way, autocast=low)
tokenizer = load_tokenizer(asked.folder)
spent: Counter = Counter()
clock = torch.cuda.synchronize if asked.device == "cuda" else lambda: None


def timed(owner, name: str, label: str) -> None:
    """Count the time of a method; of nested ones only the outer."""
    call = getattr(owner, name)

    def measured(*args, **kwargs):
        clock()
        begun = time.perf_counter()
        found = call(*args, **kwargs)
        clock()
        spent[label] += time.perf_counter() - begun
        return found

    setattr(owner, name, measured)


def judge(texts: list[str], ids: list[int]) -> list[float]:
    raise AssertionError("rewards are of tokens")


class World(TokenWorld):
    def grade(self, batch):
        rows = zip(batch.step["_token"].tolist(), batch.lengths.tolist(), strict=True)
        spent["tokens"] += int(batch.lengths.sum())
        return torch.tensor([reward(row[:length]) for row, length in rows], device=batch.device)


world = World(
    [tokenizer(text, add_special_tokens=False).input_ids for text in prompts(asked)],
    eos=tokenizer.eos_token_id if asked.varying else NEVER,
    limit=asked.limit,
    decode=lambda rows: [""] * len(rows),
    judge=judge,
)
optimizer = AdamW(1e-6)
method = replace(
    grpo,
    selection=Selection(count=asked.groups),
    sampling=Group(size=asked.size),
    constraint=(),
    models={},
    roles={"old": Role(when="collected")},
    update=GradientSteps(
        {"policy": optimizer}, micro_tokens=asked.micro_tokens or None, trust_sampler=asked.trust or None
    ),
)
engine = NativeEngine(Decoding(weights=low))
run = Run({"policy": policy}, world, engine, 0)
timed(NativeEngine, "__call__", "generation")
timed(Language, "score", "forward")
timed(torch.Tensor, "backward", "backward")
timed(torch.optim.AdamW, "step", "optimiser")
loop = rounds(run, Program((Stage(method, 10**6),)))


def turn() -> dict[str, float]:
    spent.clear()
    begun, cpu = time.perf_counter(), time.process_time()
    done = next(loop)
    clock()
    seconds, cpu = time.perf_counter() - begun, time.process_time() - cpu
    named = {name: spent[name] for name in ("generation", "forward", "backward", "optimiser", "tokens")}
    return {"seconds": seconds, "cpu": cpu, **named, "mismatch": done.metrics.get("sampler_mismatch", 0.0)}


serve(turn)
