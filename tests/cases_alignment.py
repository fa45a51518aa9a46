"""Cases of preferences between contexts and of matched orders."""

from __future__ import annotations

import math

import torch

import loops_pairs as by_hand
from cases import Case
from policyopt.objective.contrasted import ContextPreference
from policyopt.objective.ordered import OddsPreference, SortedMargins, SortedSides

CONTRASTED = {"other": "old", "other_anchor": "teacher"}


def by_contexts(beta, by=None):
    def reference(batch, tables):
        value = torch.zeros(len(batch), dtype=torch.float64)
        slope = torch.zeros(len(batch), batch.steps, dtype=torch.float64)
        for b in range(len(batch)):
            steps = [t for t in range(batch.steps) if batch.trained[b, t]]
            weight = {t: float(batch.step[by][b, t]) if by else 1.0 for t in steps}
            here = {name: [float(tables[name][b, t]) for t in steps] for name in tables if name != "critic"}
            gaps = zip(here["policy"], here["reference"], here["old"], here["teacher"], strict=True)
            margin = beta * sum(weight[t] * (p - r - (o - q)) for t, (p, r, o, q) in zip(steps, gaps, strict=True))
            value[b] = by_hand.softplus(-margin)
            for t in steps:
                slope[b, t] = -by_hand.sigmoid(-margin) * beta * weight[t]
        return value, slope

    return reference


def steps_of(batch, b):
    return [t for t in range(batch.steps) if batch.trained[b, t]]


def blank(batch):
    value = torch.zeros(len(batch), dtype=torch.float64)
    return value, torch.zeros(len(batch), batch.steps, dtype=torch.float64)


def pairs_of(batch):
    ranks, pairs = batch.row["rank"].tolist(), batch.row["pair"].tolist()
    for w in [b for b, rank in enumerate(ranks) if rank == 0]:
        other = next(b for b in range(len(batch)) if pairs[b] == pairs[w] and ranks[b] == 1)
        if steps_of(batch, w) and steps_of(batch, other):
            yield w, other


def by_odds(batch, tables):
    value, slope = blank(batch)
    for w, l in pairs_of(batch):  # noqa: E741
        said, steep = [], []
        for b in (w, l):
            steps = steps_of(batch, b)
            mean = sum(float(tables["policy"][b, t]) for t in steps) / len(steps)
            below = min(mean, -(2.0**-52))  # densities may be above 1
            said.append(below - math.log(-math.expm1(below)))
            steep.append(-1 / math.expm1(below) / len(steps) if mean == below else 0.0)
        value[w] = by_hand.softplus(said[1] - said[0])
        outer = -by_hand.sigmoid(said[1] - said[0])
        slope[w, steps_of(batch, w)] = outer * steep[0]
        slope[l, steps_of(batch, l)] = -outer * steep[1]
    return value, slope


def by_sorted_margins(beta, link):
    def reference(batch, tables):
        value, slope = blank(batch)
        total = {
            name: [sum(float(tables[name][b, t]) for t in steps_of(batch, b)) for b in range(len(batch))]
            for name in ("policy", "reference")
        }
        found = list(pairs_of(batch))
        levels = sorted(total["reference"][pair[0]] - total["reference"][pair[1]] for pair in found)
        own = sorted(found, key=lambda pair: total["policy"][pair[0]] - total["policy"][pair[1]])
        for level, (w, l) in zip(levels, own, strict=True):  # noqa: E741
            value[w], outer = by_hand.link(beta * (total["policy"][w] - total["policy"][l] - level), link)
            slope[w, steps_of(batch, w)] = beta * outer
            slope[l, steps_of(batch, l)] = -beta * outer
        return value, slope

    return reference


def by_sorted_sides(beta, link, column="rank"):
    def reference(batch, tables):
        value, slope = blank(batch)
        some = [b for b in range(len(batch)) if steps_of(batch, b)]
        change = {
            b: sum(float(tables["policy"][b, t] - tables["reference"][b, t]) for t in steps_of(batch, b)) for b in some
        }
        right = {b: float(batch.row["rank"][b]) == 0 for b in some}
        good, bad = (sorted((b for b in some if right[b] is side), key=change.__getitem__) for side in (True, False))
        count = max(len(good), len(bad))
        for k in range(count):
            w, l = good[k * len(good) // count], bad[k * len(bad) // count]  # noqa: E741
            cost, outer = by_hand.link(beta * (change[w] - change[l]), link)
            value[w] += cost * len(some) / count
            for b, sign in ((w, 1), (l, -1)):
                for t in steps_of(batch, b):
                    slope[b, t] += sign * beta * outer * len(some) / count
        return value, slope

    return reference


CASES = {
    "odds": Case(OddsPreference(), by_odds, unit="pair"),
    "sorted_margins": Case(SortedMargins(0.4), by_sorted_margins(0.4, "logistic"), unit="pair"),
    "sorted_sides": Case(SortedSides(0.3, "squared", "rank"), by_sorted_sides(0.3, "squared"), unit="row"),
    "contexts": Case(ContextPreference(0.3, **CONTRASTED), by_contexts(0.3), unit="row"),
    "weighted_contexts": Case(ContextPreference(0.5, by="value", **CONTRASTED), by_contexts(0.5, "value"), unit="row"),
}
