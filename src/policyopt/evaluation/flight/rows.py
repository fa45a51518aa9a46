"""Checks of what the policy writes and what it is paid: truncation, groups without variance, gamed rewards."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import wraps

import numpy as np
import scipy  # its submodules are loaded where they are first used
import torch
from torch import Tensor

from policyopt.evaluation.flight.record import Flight, Grading, Leg, Said, graded, skipped, stage_check
from policyopt.ops.groups import group_count, group_range
from policyopt.ops.sequences import total_reward
from policyopt.types import Batch, Finish, concatenate

TRUNCATED_WARN, TRUNCATED_FAULT = 0.1, 0.5
FLAT_WARN, FLAT_FAULT = 0.8, 0.95
PAID_WARN, PAID_FAULT = 0.7, 0.95  # rank correlation within groups
PAIRS_LEAST = 24  # rows with rewards that differ within their group, before a correlation is believed


def of_behaviour(check: Callable[[Leg], Said]) -> Callable[[Leg, Flight], Said]:
    """A check of what the policy does now: said only where the stage begins with this policy."""

    @wraps(check)
    def asked(leg: Leg, flight: Flight) -> Said:
        if not leg.samples:
            return skipped("the rows are recorded")
        if leg.later:
            return skipped("an earlier stage trains the policy first; check the run's folder once that is done")
        if not leg.judged:
            return skipped(leg.obstacle or "no rows")
        return check(leg)

    return asked


@stage_check("truncated answers")
@of_behaviour
def truncated(leg: Leg) -> Said:
    """Rows that the limit ended never show how they would have ended, and earn what their stump earns."""
    if leg.kind != "language":
        return skipped("a limit ends rows by design")
    finish = torch.cat([batch.row["finish"] for batch in leg.judged])
    share = float((finish == Finish.TRUNCATED).double().mean())
    return graded(
        f"{share:.0%} of {len(finish)} answers are cut off by tasks.limit",
        "raise tasks.limit, teach the policy to end (a stage of sft), or ask for shorter answers in the prompt",
        fault=share >= TRUNCATED_FAULT,
        warn=share >= TRUNCATED_WARN,
        share=share,
    )


@stage_check("groups without variance")
@of_behaviour
def flat_groups(leg: Leg) -> Said:
    """Attempts of a task that all earn the same have no advantage over each other: nothing is learned from them."""
    if not leg.rewarded:
        return skipped("the method has no reward")
    shares, groups = [], 0
    for batch in leg.judged:
        reward, group, scored = total_reward(batch), batch.row["group"], batch.row["scored"]
        several = group_count(group, scored) > 1
        flat = group_range(reward, group, scored) <= 1e-8
        ids = group[several].unique()
        groups += len(ids)
        shares += [bool(flat[group == one].all()) for one in ids]
    if not groups:
        return skipped("tasks have one attempt each")
    share, mean = float(np.mean(shares)), _mean_reward(leg.judged)
    return graded(
        f"{share:.0%} of {groups} groups have rewards that are all equal (mean reward {mean:.3g})",
        "choose tasks that the policy solves sometimes (easier ones where the mean is low, harder ones where it is "
        "high), a reward with part marks, larger groups (sampling.size), or a stage of sft first",
        fault=share >= FLAT_FAULT,
        warn=share >= FLAT_WARN,
        share=share,
        mean_reward=mean,
    )


def _mean_reward(batches: tuple[Batch, ...]) -> float:
    rewards = torch.cat([total_reward(batch)[batch.row["scored"]] for batch in batches])
    return float(rewards.double().mean()) if len(rewards) else float("nan")


@stage_check("reward against length and format")
@of_behaviour
def gamed(leg: Leg) -> Said:
    """Whether, among attempts of one task, length or form alone says what is paid: the policy will learn that."""
    if not leg.rewarded:
        return skipped("the method has no reward")
    if leg.kind != "language":
        return skipped("the reward is not of texts")
    lines = concatenate([Batch(batch.row, batch.step) for batch in leg.judged])
    pays = total_reward(lines)
    rows = (lines.row["scored"] & (group_range(pays, lines.row["group"], lines.row["scored"]) > 1e-8)).numpy()
    if rows.sum() < PAIRS_LEAST:
        return skipped(f"rewards differ within groups for {rows.sum()} rows only")
    group, reward = lines.row["group"].numpy()[rows], pays.double().numpy()[rows]
    found = {name: within(column[rows], reward, group) for name, column in features(lines, leg.answers).items()}
    name, rho = max(found.items(), key=lambda item: abs(item[1]))
    length = found["length"]
    return graded(
        f"within groups the reward's rank correlation is {length:+.2f} with length, at most {rho:+.2f} (with {name})",
        f"the reward hardly looks beyond the {name}: check the verifier, or pay for what is right as well",
        fault=abs(rho) >= PAID_FAULT,
        warn=abs(rho) >= PAID_WARN,
        length=length,
        most=rho,
    )


def features(batch: Batch, answers: tuple[str, ...]) -> Mapping[str, np.ndarray]:
    """What can be seen of an answer without understanding it, a number per row."""
    found = {"length": batch.lengths.double().numpy()}
    if len(answers) == len(batch):
        forms: Mapping[str, Callable[[str], float]] = {
            "share of digits": lambda text: _share(text, str.isdigit),
            "share of letters": lambda text: _share(text, str.isalpha),
            "lines": lambda text: float(text.count("\n")),
            "repetition": lambda text: 1 - len(set(text)) / len(text) if text else 0.0,
            "boxes and tags": lambda text: float(sum(text.count(mark) for mark in ("\\boxed", "</", "```"))),
        }
        found |= {name: np.array([form(text) for text in answers]) for name, form in forms.items()}
    return found


def _share(text: str, what: Callable[[str], bool]) -> float:
    return sum(map(what, text)) / len(text) if text else 0.0


def within(x: np.ndarray, y: np.ndarray, group: np.ndarray) -> float:
    """Rank correlation within groups: ranks in each group, less their mean, correlated over all rows; 0 where one of
    both does not vary."""
    ranks = [np.zeros(len(x)), np.zeros(len(x))]
    for one in np.unique(group):
        rows = group == one
        for rank, values in zip(ranks, (x, y), strict=True):
            found = scipy.stats.rankdata(values[rows])
            rank[rows] = (found - found.mean()) / len(found)
    size = float(np.sqrt((ranks[0] ** 2).sum() * (ranks[1] ** 2).sum()))
    return float((ranks[0] * ranks[1]).sum() / size) if size > 0 else 0.0


# -- the reward itself -------------------------------------------------------------------------------------------------
SLOW = 0.1  # seconds a row of wall time, all workers together
FAULTS_FAULT = 0.05


def of_grading(check: Callable[[Leg, Grading], Said]) -> Callable[[Leg, Flight], Said]:
    """A check of rows that were graded."""

    @wraps(check)
    def asked(leg: Leg, flight: Flight) -> Said:
        if leg.grading is None:
            return skipped("the method has no reward" if not leg.rewarded else leg.obstacle or "nothing was graded")
        return check(leg, leg.grading)

    return asked


@stage_check("sampling is reproducible")
def reproducible(leg: Leg, flight: Flight) -> Said:
    """The same tasks and random numbers twice: engine, policy and environment are functions of them."""
    if leg.probe is None:
        return skipped("nothing is sampled" if not leg.samples else "the policy was not sampled from alone")
    return graded(
        "equal rows twice" if leg.probe.repeated else "the same random numbers gave other rows the second time",
        "make the environment and the engine functions of seed and actions alone: no clock, no unseeded generator",
        fault=not leg.probe.repeated,
    )


@stage_check("reward is deterministic")
@of_grading
def deterministic(leg: Leg, grading: Grading) -> Said:
    """The same rows graded twice."""
    first, second = grading.first, grading.second
    differ = ~((first == second) | (first.isnan() & second.isnan()))
    rows = int(_per_row(differ).sum())
    most = float((first - second).nan_to_num().abs().max()) if len(first) else 0.0
    return graded(
        f"{rows} of {len(first)} rows got another reward when graded again (largest difference {most:.3g})",
        "make the reward a function of task and answer: fix its seeds, temperature 0 for a judge, no clock",
        fault=rows > 0,
        rows=rows,
        largest=most,
    )


@stage_check("reward can be had")
@of_grading
def reliable(leg: Leg, grading: Grading) -> Said:
    """Rows that could not be graded: the grader raised, crashed, ran out of time or gave no number."""
    unscored = int(_per_row(grading.first.isnan()).sum())
    share = unscored / max(1, len(grading.first))
    why = max(grading.faults, key=lambda fault: grading.faults[fault], default="")
    return graded(
        f"{unscored} of {len(grading.first)} rows could not be graded" + (f": {why[:120]}" if why else ""),
        "mend the verifier for such answers, or raise tasks.deadline if it was only slow; rows without a grade are "
        "left out",
        fault=share >= FAULTS_FAULT,
        warn=unscored > 0,
        share=share,
    )


@stage_check("reward is quick")
@of_grading
def quick(leg: Leg, grading: Grading) -> Said:
    """Seconds a row, and how near the slowest came to its deadline."""
    each, slowest = grading.wall / max(1, len(grading.first)), max(grading.seconds, default=0.0)
    near = grading.deadline is not None and slowest > 0.5 * grading.deadline
    value = f"{1000 * each:.2g} ms a row, the slowest {1000 * slowest:.2g} ms"
    if grading.deadline is not None:
        value += f" of a deadline of {grading.deadline:g} s"
    return graded(
        f"{value}; {leg.obstacle}" if leg.obstacle else value,
        "a faster verifier, or more cores for it; raise tasks.deadline if right answers take so long",
        fault=bool(leg.obstacle) or (grading.deadline is not None and slowest >= grading.deadline),
        warn=near or each >= SLOW,
        seconds=each,
        slowest=slowest,
    )


def _per_row(marked: Tensor) -> Tensor:
    return marked if marked.dim() == 1 else marked.flatten(1).any(1)
