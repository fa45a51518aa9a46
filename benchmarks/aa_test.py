"""How often a comparison of a method with itself declares a difference. It should be at most 5 % of the time.

    python benchmarks/aa_test.py [--method grpo] [--repetitions 200] [--simulated 10000] [--json FILE]

Trained: a method on a bandit, by the real loop, for one round. The arms of a repetition are that method on the same
tasks and beginnings, seed by seed, that sample independently; they are judged as `policyopt compare` judges.
Simulated: scores of equal arms from known distributions, judged by several procedures, to see what each one is worth;
and several equal arms at once, judged by t tests with Holm's adjustment alone and as `policyopt compare` judges.
"""

from __future__ import annotations

import argparse
import itertools
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from scipy import stats

from policyopt.evaluation.comparison import Finding, compare
from policyopt.evaluation.exchange import exchange_p, reaches
from policyopt.evaluation.experiments._common import fit, numbers, probabilities, random_table
from policyopt.evaluation.statistics import proportion_interval
from policyopt.methods import load
from policyopt.options import override
from policyopt.worlds.sequences import bandit

LEVEL = 0.95
ARMS, MANY = 4, 10
SEEDS = (5, 10)
REARRANGED = 999  # of a simulated family; exact with any number


# -- trained ---------------------------------------------------------------------------------------------------------
def score(method: Any, seed: int, sampling: int) -> float:
    """Expected reward after a round on 8 prompts of 6 choices. seed: tasks and beginning; sampling: the rest."""
    rewards = torch.rand(8, 6, generator=numbers(seed, "aa rewards"))
    policy = random_table(8, 6, 0.5, seed, "aa policy")
    done = fit(method, bandit(rewards), {"policy": policy}, 1, sampling, lambda run, _: 0.0)
    return float((probabilities(done.run) * rewards).sum(1).mean())


def trained(key: str, repetitions: int) -> Iterator[tuple[str, int, list[bool]]]:
    """(arms, seeds, whether a difference was declared among them). Two repetitions together are one of ten seeds."""
    options = {"selection.count": 8, "sampling.size": 4, "update.policy.learning_rate": 1.0}
    options |= {"constraint.kl.weight": 0} if key == "grpo" else {}
    method = override(load(key), options)
    shape = (repetitions, SEEDS[0], ARMS)
    values = np.empty(shape)
    for repetition, seed, arm in itertools.product(*map(range, shape)):
        world = repetition * SEEDS[0] + seed
        values[repetition, seed, arm] = score(method, world, 10**6 * (arm + 1) + world)
    for arms, seeds in itertools.product((2, ARMS), SEEDS):
        joined = values.reshape(-1, seeds, ARMS)[:, :, :arms]
        yield f"{arms} arms", seeds, [declared(one.T) for one in joined]


def declared(values: np.ndarray) -> bool:
    """Whether `compare` tells any of the arms (M, K) apart."""
    named = {f"arm {arm}": found.tolist() for arm, found in enumerate(values)}
    return any(pair.finding != Finding.OPEN for pair in compare(named, level=LEVEL).pairs)


# -- simulated -------------------------------------------------------------------------------------------------------
WORLDS: dict[str, Callable[[np.random.Generator, tuple[int, ...]], np.ndarray]] = {
    "normal": lambda rng, size: rng.normal(size=size),
    "uniform": lambda rng, size: rng.random(size),
    "heavy tails (t, 2)": lambda rng, size: rng.standard_t(2, size),
    "skewed (log-normal)": lambda rng, size: rng.lognormal(0.0, 1.0, size),
    "solved or not (30 %)": lambda rng, size: (rng.random(size) < 0.3) + rng.normal(0.0, 0.02, size),
    "solved or not (50 %)": lambda rng, size: (rng.random(size) < 0.5) + rng.normal(0.0, 0.02, size),
    "coin": lambda rng, size: (rng.random(size) < 0.5).astype(float),
    "8 tasks (50 %)": lambda rng, size: rng.binomial(8, 0.5, size) / 8,
    "200 tasks (90 %)": lambda rng, size: rng.binomial(200, 0.9, size) / 200,
}


def by_t(difference: np.ndarray) -> np.ndarray:
    """(R, K) -> (R,) p of the paired t test, as `comparison.paired_p` has it where all differences are equal."""
    spread = np.ptp(difference, axis=1) > 1e-12
    signs = np.where(np.abs(difference[:, 0]) > 1e-12, 2.0 ** (1 - difference.shape[1]), 1.0)
    found: Any = stats.ttest_1samp(difference[spread], 0.0, axis=1)
    signs[spread] = found.pvalue
    return signs


def by_flips(difference: np.ndarray) -> np.ndarray:
    """p of the exact sign-flip test on the mean."""
    signs = np.array(list(itertools.product((1, -1), repeat=difference.shape[1])))
    flipped = np.abs(difference @ signs.T)
    return (flipped >= flipped[:, :1] * (1 - 1e-12)).mean(1)


def by_percentiles(difference: np.ndarray, resamples: int = 2000) -> np.ndarray:
    """0 where the percentile bootstrap interval leaves 0 out, else 1."""
    index = np.random.default_rng(1).integers(difference.shape[1], size=(resamples, difference.shape[1]))
    means = np.concatenate([part[:, index].mean(2) for part in np.array_split(difference, len(difference) // 100 + 1)])
    low, high = np.quantile(means, [(1 - LEVEL) / 2, (1 + LEVEL) / 2], axis=1)
    return ((low <= 0) & (high >= 0)).astype(float)


PROCEDURES = {"paired t": by_t, "sign flips": by_flips, "percentile bootstrap": by_percentiles}


def simulated(repetitions: int, seeds: int) -> Iterator[tuple[str, str, list[bool]]]:
    """(world, procedure, whether it saw a difference between two equal arms)."""
    for world, draw in WORLDS.items():
        values = draw(np.random.default_rng(0), (2, repetitions, seeds))
        for procedure, test in PROCEDURES.items():
            yield world, procedure, list(test(values[0] - values[1]) <= 1 - LEVEL)


def family(repetitions: int, seeds: int, arms: int) -> Iterator[tuple[str, list[bool], list[bool]]]:
    """(world, whether any of the pairs of equal arms was told apart by paired t tests with Holm's adjustment alone, and
    whether "all arms are equal" was rejected, too)."""
    pairs = list(itertools.combinations(range(arms), 2))
    for world, draw in WORLDS.items():
        values = draw(np.random.default_rng(0), (arms, repetitions, seeds))
        # The smallest p is the first that Holm's rule looks at, against the level divided by the number of pairs.
        alone = np.min([by_t(values[one] - values[other]) for one, other in pairs], axis=0) <= (1 - LEVEL) / len(pairs)
        both = alone.copy()
        for index in np.flatnonzero(alone) if reaches(arms, seeds, LEVEL) else ():
            both[index] = exchange_p(values[:, index], pairs, REARRANGED) <= 1 - LEVEL
        yield world, list(alone), list(both)


# -- printed -----------------------------------------------------------------------------------------------------------
def tell(said: list[dict[str, Any]], source: str, what: str, seeds: int, found: list[bool]) -> None:
    """One line of the table."""
    rate = proportion_interval(int(np.sum(found)), len(found))
    said.append(
        {
            "scores": source,
            "judged": what,
            "seeds": seeds,
            "repetitions": len(found),
            "declared": int(np.sum(found)),
            "rate": rate.estimate,
            "interval": [rate.low, rate.high],
        }
    )
    shown = f"{100 * rate.estimate:.1f} % [{100 * rate.low:.1f}, {100 * rate.high:.1f}]"
    print(f"| {source} | {what} | {seeds} | {np.sum(found)} of {len(found)} | {shown} |", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--method", default="grpo", help="which is trained")
    parser.add_argument("--repetitions", type=int, default=200, help="trained ones")
    parser.add_argument("--simulated", type=int, default=10_000)
    parser.add_argument("--json", type=Path)
    given = parser.parse_args()
    torch.set_num_threads(1)
    said: list[dict[str, Any]] = []
    print("| scores | judged by | seeds | differences declared | rate, 95 % interval |\n|---|---|---:|---:|---:|")
    for what, seeds, found in trained(given.method, given.repetitions):
        tell(said, f"{given.method}, trained", f"policyopt compare, {what}", seeds, found)
    for seeds in SEEDS:
        for world, procedure, found in simulated(given.simulated, seeds):
            tell(said, world, procedure, seeds, found)
    for arms, seeds in itertools.product((2, 3, ARMS, MANY), (5, 6, 8, 10, 20)):
        for world, alone, both in family(given.simulated, seeds, arms):
            tell(said, world, f"paired t with Holm, any of {arms} arms", seeds, alone)
            tell(said, world, f"policyopt compare, any of {arms} arms", seeds, both)
    if given.json is not None:
        given.json.write_text(json.dumps(said, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
