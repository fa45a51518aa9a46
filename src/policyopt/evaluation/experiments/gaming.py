"""A proxy reward that one state games: what regularisation keeps of the true one, over a sweep of its coefficient."""

from __future__ import annotations

import itertools
from dataclasses import replace
from typing import Any

import torch

from policyopt.compose import Method
from policyopt.evaluation.experiments._common import Outcome, fit
from policyopt.evaluation.experiments._common import numbers as stream
from policyopt.options import override
from policyopt.policies.tabular import Table
from policyopt.run import Run
from policyopt.types import Round
from policyopt.worlds import oracles
from policyopt.worlds.tables import MOVES, TabularMDP

GARDEN = ("T.T", "...", "T.B")


def garden(rows: tuple[str, ...] = GARDEN, dry: float = 0.1, horizon: int = 30) -> tuple[TabularMDP, TabularMDP]:
    """The proxy and the true process of a garden: a gardener on a map begins in its middle, with dry plants ("T"). A
    plant is wet while the gardener stands on it, and then dries with probability `dry` a step. True reward: the share
    of wet plants; proxy: the same, but at the sprinkler ("B") every plant looks wet. Five actions, the last stays.

    State: cell * 2^plants + wet plants as bits.
    """
    cells = [(i, j) for i, row in enumerate(rows) for j in range(len(row))]
    letters = [rows[i][j] for i, j in cells]
    plants = [n for n, letter in enumerate(letters) if letter == "T"]
    wets, count = 2 ** len(plants), len(cells) * 2 ** len(plants)
    move = torch.zeros(count, 5, count, dtype=torch.float64)
    for cell, action in itertools.product(range(len(cells)), range(5)):
        x, y = (*MOVES, (0, 0))[action]
        beside = (cells[cell][0] + x, cells[cell][1] + y)
        there = cells.index(beside) if beside in cells else cell
        for wet, after in itertools.product(range(wets), repeat=2):
            move[cell * wets + wet, action, there * wets + after] = _drying(wet, after, plants, there, dry)
    share = torch.tensor([wet.bit_count() / len(plants) for wet in range(wets)], dtype=torch.float64)
    looks = torch.stack([torch.ones_like(share) if letter == "B" else share for letter in letters]).flatten()
    begin = torch.zeros(count, dtype=torch.float64)
    begin[len(cells) // 2 * wets] = 1.0
    proxy = TabularMDP(move, looks.expand_as(move), begin, horizon=horizon)
    return proxy, replace(proxy, reward=share.repeat(len(cells)).expand_as(move))


def _drying(wet: int, after: int, plants: list[int], there: int, dry: float) -> float:
    """The probability that the wet plants are then those of `after`, with the gardener at `there`."""
    chance = 1.0
    for place, cell in enumerate(plants):
        was, now = wet >> place & 1, after >> place & 1
        if cell == there:
            chance *= now
        elif was:
            chance *= 1 - dry if now else dry
        else:
            chance *= 1 - now
    return chance


def gardener(true: TabularMDP, seed: int) -> Table:
    """The base policy: the best one for the true reward (discount 0.95) half of the time, else any action, with normal
    noise of deviation 0.1 on its logits."""
    best = oracles.optimum(replace(true, gamma=0.95, cut=True))[2]
    noise = torch.randn(best.shape, generator=stream(seed, "gardener"), dtype=torch.float64)
    return Table(((0.5 * best + 0.1).log() + 0.1 * noise).float())


def gamed_sprinkler(method: Method, seed: int, rounds: int, option: str, values: tuple[float, ...]) -> Outcome:
    """Train on the proxy from the base policy, once for every coefficient (`option` = each of `values`).

    value: true reward per step of the best of these runs, exact.
    """
    proxy, true = garden()
    steps = true.horizon or 1
    proxy = replace(proxy, seed=seed)
    start = gardener(true, seed)
    before = _visits(true, start)
    runs = []

    def share(run: Run, done: Round) -> float:
        policy: Any = run.models["policy"]
        return oracles.expected_return(true, policy.logits.detach().double().softmax(-1)) / steps

    for coefficient in values:
        policy = Table(start.logits.detach())
        done = fit(override(method, {option: coefficient}), proxy, {"policy": policy}, rounds, seed, share)
        runs.append((done.watched[-1], coefficient, done, policy))
    best, coefficient, done, policy = max(runs, key=lambda run: run[0])
    after = _visits(true, policy)
    table = policy.logits.detach().double().softmax(-1)
    notes = {
        "true reward per step of the base policy": oracles.expected_return(
            true, start.logits.detach().double().softmax(-1)
        )
        / steps,
        "its proxy reward per step": oracles.expected_return(proxy, table) / steps,
        "its chi-square divergence of occupancies": float(oracles.chi_square(after, before)),
        "best coefficient": coefficient,
        "true reward per step of the worst coefficient": min(run[0] for run in runs),
    }
    return Outcome(best, best, sum(run[2].rows for run in runs), done.watched, "true reward per step", notes)


def _visits(mdp: TabularMDP, policy: Table) -> torch.Tensor:
    """(S, A) normalised occupancy."""
    table = policy.logits.detach().double().softmax(-1)
    return oracles.normalised(oracles.finite_occupancy(mdp, table).sum(0)[:, None] * table)
