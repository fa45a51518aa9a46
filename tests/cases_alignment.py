"""Cases of preferences between contexts and of matched orders."""

from __future__ import annotations

import torch

import loops_pairs as by_hand
from cases import Case
from policyopt.objective.contrasted import ContextPreference

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


CASES = {
    "contexts": Case(ContextPreference(0.3, **CONTRASTED), by_contexts(0.3), unit="row"),
    "weighted_contexts": Case(ContextPreference(0.5, by="value", **CONTRASTED), by_contexts(0.5, "value"), unit="row"),
}
