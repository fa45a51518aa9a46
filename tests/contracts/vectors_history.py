"""Cases of rewards for lengths: against what is remembered of a task, the middle of the group, a budget."""

import math

from vector_cases import case
from vector_rows import added, on_last

MASK = [[1] * n + [0] * (6 - n) for n in (2, 3, 5, 6, 1)]
LENGTHS = [2, 3, 5, 6, 1]
RIGHT = [1.0, 1.0, 0.0, 0.9, 0.2]
GROUP = [0, 0, 1, 1, 1]
NONE = [[0, 0, 0], [1, 0, 0]]


def lengths_of(mask):
    return [sum(row) for row in mask]


def made(part, name, mask, rewards, group, bonus, options, cells=None, scored=None, **more):
    known = scored or [1] * len(mask)
    right = [int(bool(k) and r > options.get("right", 0.5)) for r, k in zip(rewards, known, strict=True)]
    weight = options.get("weight", {"near_the_middle": 0.7, "near_the_target": 0.8}.get(part, 1.0))
    gained = [weight * bonus(b, right) if known[b] else 0.0 for b in range(len(mask))]
    expect = {"rewards": added(on_last(mask, rewards), on_last(mask, gained), mask), "right": right}
    inputs = {"rewards": rewards, "group": group, "mask": mask, **more}
    inputs |= {"cells": {"tasks": cells}} if cells else {}
    inputs |= {"scored": scored} if scored else {}
    return case("reward", part, name, inputs, expect, options=options)


def saving(length, record, right, curve, floor):
    if not record:
        return 0.0
    if curve == "cosine":
        f = math.cos(math.pi * length / (2 * record)) if length < 2 * record else -1.0
    elif length > 1.1 * record:
        f = -(length - 1.1 * record) / record
    else:
        f = 1 - length / record if right and length < record else 0.0
    return max(f, -floor) if right else max(min(f, 0.0), -1.0)


def histories():
    shortest, whole = "shortest right length", {"sum of right lengths": [9.0, 4.0], "number of right rows": [3.0, 1.0]}
    cases_ = []
    for name, records, cells, options, scored in (
        ("no record yet", [0, 0], None, {}, None),
        ("a record for one task of two", [4, 0], {shortest: [4.0]}, {}, None),
        ("shorter and longer than the records", [4, 2], {shortest: [4.0, 2.0]}, {"weight": 0.5, "floor": 0.4}, None),
        ("a record of one step", [1, 1], {shortest: [1.0, 1.0]}, {"right": 0.95}, None),
        ("means of earlier lengths", [3, 4], whole, {"mode": "mean"}, None),
        ("lines instead of cosines", [4, 3], {shortest: [4.0, 3.0]}, {"curve": "linear"}, None),
        ("an unscored row", [4, 3], {shortest: [4.0, 3.0]}, {}, [1, 0, 1, 0, 1]),
    ):
        curve, floor = options.get("curve", "cosine"), options.get("floor", 0.7)

        def bonus(b, right, records=records, curve=curve, floor=floor):
            return saving(LENGTHS[b], records[GROUP[b]], right[b], curve, floor)

        cases_.append(made("against_history", name, MASK, RIGHT, GROUP, bonus, options, cells, scored))
    cases_.append(made("against_history", "a row without a step", NONE, [0.0, 1.0], [0, 0], lambda b, r: 0.0, {}))
    return cases_


def quantile(values, share):
    values = sorted(values)
    place = share * (len(values) - 1)
    low = math.floor(place)
    high = min(low + 1, len(values) - 1)
    return values[low] + (place - low) * (values[high] - values[low])


def middles():
    cases_ = []
    mask = [[1] * n + [0] * (8 - n) for n in (2, 4, 7, 8, 3, 3)]
    group = [0, 0, 0, 0, 1, 1]
    for name, rewards, options, scored in (
        ("three right rows of four", [1.0, 1.0, 1.0, 0.0, 1.0, 0.0], {}, None),
        ("steep sides", [1.0, 1.0, 1.0, 1.0, 1.0, 1.0], {"decay": 2.0, "weight": 1.0}, None),
        ("wide quantiles", [1.0, 1.0, 0.8, 1.0, 0.0, 0.0], {"low": 0.1, "high": 0.95, "right": 0.9}, None),
        ("one right row, rows of one length", [0.0, 1.0, 0.0, 0.0, 1.0, 1.0], {"shrinking": True}, None),
        ("nobody gains at a point", [0.0, 1.0, 0.0, 0.0, 1.0, 1.0], {"point": False}, None),
        ("an unscored row", [1.0, 1.0, 1.0, 1.0, 1.0, 1.0], {"decay": 3.0}, [1, 1, 0, 1, 1, 1]),
    ):
        known = scored or [1] * 6

        def bonus(b, right, options=options, known=known):
            mine = [sum(mask[i]) for i in range(6) if group[i] == group[b] and right[i] and known[i]]
            if not right[b] or not mine:
                return 0.0
            low, high = quantile(mine, options.get("low", 0.3)), quantile(mine, options.get("high", 0.7))
            n = sum(mask[b])
            if low >= high and not options.get("point", True):
                return 0.0
            away = 0.0 if low <= n <= high else min(abs(n - low), abs(n - high))
            return max(0.0, 1 - away / options.get("decay", 100.0))

        cases_.append(made("near_the_middle", name, mask, rewards, group, bonus, options, None, scored))
    return cases_


def targets():
    cases_ = []
    for name, cells, options, scored in (
        ("nothing remembered: the group's median", None, {"sigma": 2.0}, None),
        ("a target for one task of two", {"median right length": [4.0]}, {"sigma": 1.5, "shrinking": False}, None),
        ("targets for both", {"median right length": [2.5, 6.0]}, {"weight": 0.3, "right": 0.1}, None),
        ("an unscored row", {"median right length": [2.5, 6.0]}, {"sigma": 3.0}, [1, 0, 1, 1, 1]),
    ):
        held = (cells or {}).get("median right length", [])

        def bonus(b, right, held=held, options=options):
            if not right[b]:
                return 0.0
            mine = [LENGTHS[i] for i in range(5) if GROUP[i] == GROUP[b] and right[i]]
            target = held[GROUP[b]] if GROUP[b] < len(held) else quantile(mine, 0.5)
            return math.exp(-((LENGTHS[b] - target) ** 2) / (2 * options.get("sigma", 120.0) ** 2))

        cases_.append(made("near_the_target", name, MASK, RIGHT, GROUP, bonus, options, cells, scored))
    return cases_


def budgets():
    cases_ = []
    for name, budget, options, scored in (
        ("within and beyond budgets", [4.0, 2.0, 4.0, 2.0, 8.0], {"limit": 8.0, "beta": 4.0}, None),
        ("a slope of its own", [1.0, 2.0, 4.0, 3.0, 8.0], {"limit": 8.0, "beta": 2.0, "alpha": 0.5}, None),
        ("the lesser of both", [8.0, 6.0, 6.0, 8.0, 1.0], {"limit": 8.0, "beta": 1.0, "lesser": True}, None),
        ("rows beyond the limit", [4.0, 2.0, 4.0, 2.0, 8.0], {"limit": 5.0, "right": 0.1}, None),
        ("an unscored row", [4.0, 2.0, 4.0, 2.0, 8.0], {"limit": 8.0}, [0, 1, 1, 1, 1]),
    ):
        limit, beta = options["limit"], options.get("beta", 4.0)
        alpha, known = options.get("alpha", 1 / limit), scored or [1] * 5
        worths, pars = [], []
        for n, b, r, k in zip(LENGTHS, budget, RIGHT, known, strict=True):
            f1 = beta * math.cos(math.pi * n / (2 * limit)) - alpha * abs(n - b)
            f2 = beta * math.cos(math.pi * b / (2 * limit))
            worth = f1 if n > b else min(f1, f2) if options.get("lesser") else f2
            worths.append(worth if k and r > options.get("right", 0.5) and n <= limit else 0.0)
            pars.append(f2)
        expect = {"rewards": on_last(MASK, worths), "par": pars}
        inputs = {"rewards": RIGHT, "group": GROUP, "budget": budget, "mask": MASK}
        inputs |= {"scored": scored} if scored else {}
        cases_.append(case("reward", "within_budget", name, inputs, expect, options=options))
    return cases_


def scores():
    cases_ = []
    for name, rewards, mask in (
        ("sums along the way", [[0.5, 0.25, None], [1.0, None, None]], [[1, 1, 0], [1, 0, 0]]),
        ("steps of others", [[0.5, 0.25, 1.0], [0.0, 1.0, None]], [[1, 0, 1], [0, 1, 0]]),
        ("no step", [[None, None]], [[0, 0]]),
    ):
        expect = {"score": [sum(x or 0.0 for x in row) for row in rewards]}
        cases_.append(case("reward", "score_so_far", name, {"rewards": rewards, "mask": mask}, expect))
    return cases_


def cases():
    return [*histories(), *middles(), *targets(), *budgets(), *scores()]
