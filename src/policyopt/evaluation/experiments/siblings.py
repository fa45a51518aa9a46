"""Searches whose siblings become preference pairs."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from policyopt.compose import Method, Program, Stage
from policyopt.evaluation.experiments._common import CountingEngine, Outcome, numbers, probabilities, uniform_table
from policyopt.evaluation.experiments._worlds import all_right, strings_with_target, target_probability
from policyopt.methods import load
from policyopt.options import override
from policyopt.run import Run
from policyopt.train import rounds as train_rounds
from policyopt.worlds.sequences import SequenceWorld


def judged_chains(method: Method, seed: int, rounds: int, limit: int = 5, level: float = 0.1) -> Outcome:
    """6 tasks, chains of 5 moves out of 4, all of which must be right; at first one chain in 1024 is. A judge of single
    moves says 0.7 of right and 0.3 of wrong ones, with noise of deviation 0.2 that is a move's own.

    value: steps generated until the probability of a right chain, mean over tasks, exact, is `level` (all if never).
    """
    rng = numbers(seed, "judged chains")
    target = strings_with_target(6, 4, limit, rng)
    noise = 0.2 * torch.randn(6, limit, 4, generator=rng)

    def judge(strings: Tensor, task: Tensor) -> Tensor:
        width = strings.shape[1]
        right = (strings == target[task, :width]).float()
        move = strings.clamp(min=0)[..., None]
        return (0.3 + 0.4 * right + noise[task, :width].gather(2, move)[..., 0]).clamp(0, 1)

    world = SequenceWorld(6, 4, limit, all_right(target), judge=judge)
    engine = CountingEngine()
    run = Run({"policy": uniform_table(world.states, 4)}, world, engine, seed)
    watched, steps = [], []
    for _ in train_rounds(run, Program((Stage(method, rounds),))):
        watched.append(float(target_probability(probabilities(run), target).prod(1).mean()))
        steps.append(engine.steps)
    reached = next((n for n, chance in enumerate(watched) if chance >= level), rounds - 1)
    notes = {"probability of a right chain after training": watched[-1], "steps generated in all": float(engine.steps)}
    return Outcome(
        float(steps[reached]), watched[-1], engine.rows, tuple(watched), "probability of a right chain", notes
    )


def calls_of_two_tools(method: Method, seed: int, rounds: int, warm: int = 12) -> Outcome:
    """24 calls (tool, value, tool, value) of 6 symbols, checked part by part. Demonstrations have a third of the values
    wrong; 12 rounds of supervised fine-tuning on them come first.

    value: updates after these until the probability of a wrong value, mean over tasks, exact, is at most half of the
    share of wrong values in the demonstrations (all if never).
    """
    rng = numbers(seed, "calls of two tools")
    target = strings_with_target(24, 6, 4, rng)
    wrong = (torch.rand(24, 4, generator=rng) < 1 / 3) & torch.tensor([False, True, False, True])
    shown = torch.where(wrong, (target + torch.randint(1, 6, (24, 4), generator=rng)) % 6, target)
    errors = float(wrong[:, 1::2].float().mean())

    def checked(strings: Tensor, task: Tensor) -> Tensor:
        return (strings == target[task, : strings.shape[1]]).double()

    world = SequenceWorld(24, 6, 4, all_right(target), recordings=target, checker=checked)
    demonstrations = replace(world, recordings=shown)
    steps = {"selection.count": 24, "update.learning_rate": 0.1, "update.clip_norm": None}
    warmup = replace(override(load("sft"), steps), world="demonstrations")
    made = replace(method, world="demonstrations") if method.key == "sft" else method
    engine = CountingEngine()
    run = Run({"policy": uniform_table(96, 6)}, world, engine, seed, worlds={"demonstrations": demonstrations})
    watched = []
    for _ in train_rounds(run, Program((Stage(warmup, warm), Stage(made, rounds)))):
        right = target_probability(probabilities(run), target)
        watched.append(1 - float(right[:, 1::2].mean()))
    after = watched[warm:]
    updates = next((n + 1 for n, share in enumerate(after) if share <= errors / 2), rounds)
    notes = {
        "share of wrong values in the demonstrations": errors,
        "probability of a wrong value after the warm-up": watched[warm - 1],
        "probability of a wrong value at the end": after[-1],
    }
    return Outcome(float(updates), -after[-1], engine.rows, tuple(after), "probability of a wrong value", notes)
