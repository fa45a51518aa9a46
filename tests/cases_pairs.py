"""Cases of losses of pairs and of single good and bad rows."""

from __future__ import annotations

import torch

import loops_pairs as by_hand
from cases import Case
from policyopt.objective.anchored import RowAlignment
from policyopt.objective.pairwise import PairPreference, RowPreference

STATED = ("beta", "mean", "discount", "divergence")


def statements(batch, tables, options):
    """s of every row and its derivatives by the row's steps (dictionaries by step)."""
    anchor, by = options.get("anchor", "reference"), options.get("by")
    found = []
    for b in range(len(batch)):
        steps = [t for t in range(batch.steps) if batch.trained[b, t]]
        gaps = [float(tables["policy"][b, t] - (tables[anchor][b, t] if anchor else 0.0)) for t in steps]
        weights = [float(batch.step[by][b, t]) if by else 1.0 for t in steps]
        s, slopes = by_hand.said(gaps, weights, **{k: v for k, v in options.items() if k in STATED})
        found.append((s, dict(zip(steps, slopes, strict=True))))
    return found


def by_pairs(options):
    def reference(batch, tables):
        value = torch.zeros(len(batch), dtype=torch.float64)
        slope = torch.zeros(len(batch), batch.steps, dtype=torch.float64)
        found = statements(batch, tables, options)
        more = {k: v for k, v in options.items() if k in ("beta", "link", "wrong", "unbiased", "rejected", "target")}
        pairs, ranks = batch.row["pair"].tolist(), batch.row["rank"].tolist()
        for w in [b for b, rank in enumerate(ranks) if rank == 0]:
            (l,) = [b for b in range(len(batch)) if pairs[b] == pairs[w] and ranks[b] == 1]  # noqa: E741
            value[w], up, down = by_hand.pair(found[w][0], found[l][0], **more)
            for b, outer in ((w, up), (l, down)):
                for t, inner in found[b][1].items():
                    slope[b, t] = outer * inner
        return value, slope

    return reference


def by_single_rows(options):
    def reference(batch, tables):
        value = torch.zeros(len(batch), dtype=torch.float64)
        slope = torch.zeros(len(batch), batch.steps, dtype=torch.float64)
        found = statements(batch, tables, options)
        right = (batch.row["rank"] == 0).tolist()
        more = {k: v for k, v in options.items() if k in ("link", "point", "balance", "good", "bad")}
        some = [b for b in range(len(batch)) if bool(batch.trained[b].any())]
        for b, (one, outer) in zip(
            some, by_hand.rows([found[b][0] for b in some], [right[b] for b in some], **more), strict=True
        ):
            value[b] = one
            for t, inner in found[b][1].items():
                slope[b, t] = outer * inner
        return value, slope

    return reference


PAIRS = {
    "hinge": {"link": "hinge", "beta": 0.5},
    "squared": {"link": "squared", "beta": 0.4, "mean": True},
    "exponential": {"link": "exponential", "wrong": 0.1},
    "exo": {"link": "exo", "wrong": 0.2, "beta": 0.5},
    "discovered": {"link": "discovered", "beta": 0.02},
    "unbiased": {"wrong": 0.3, "unbiased": True, "beta": 0.5},
    "simpo": {"anchor": None, "mean": True, "beta": 2.0, "target": 0.5},
    "segments": {"anchor": None, "rejected": 0.5, "discount": 0.9},
    "weighted": {"by": "value", "anchor": "old", "beta": 0.3},
    "forward_kl": {"divergence": "forward_kl", "beta": 0.2},
    "jensen_shannon": {"divergence": "jensen_shannon", "beta": 0.7},
    **{kind: {"link": kind, "beta": 0.5} for kind in by_hand.SIDES},
}
ROWS = {
    "label": {"beta": 0.5, "point": 0.3, "good": 0.7, "bad": 1.5},
    "balanced": {"beta": 0.5, "balance": True},
    "kto": {"beta": 0.5, "link": "kto", "good": 1.3, "anchor": "old"},
}

CASES = {
    **{f"pair_{key}": Case(PairPreference(**given), by_pairs(given), unit="pair") for key, given in PAIRS.items()},
    **{
        f"rows_{key}": Case(RowPreference(column="rank", **given), by_single_rows(given), unit="row")
        for key, given in ROWS.items()
    },
}


def by_row_alignment(temperature):
    def reference(batch, tables):
        value = torch.zeros(len(batch), dtype=torch.float64)
        slope = torch.zeros(len(batch), batch.steps, dtype=torch.float64)
        for b in range(len(batch)):
            steps = [t for t in range(batch.steps) if batch.trained[b, t]]
            if not steps:
                continue
            change = sum(float(tables["policy"][b, t] - tables["reference"][b, t]) for t in steps)
            advantage = sum(float(batch.step["advantage"][b, t]) for t in steps) / len(steps)
            error = change - advantage / temperature
            value[b], slope[b, steps] = error**2, 2 * error
        return value, slope

    return reference


CASES["row_alignment"] = Case(RowAlignment(0.7), by_row_alignment(0.7), unit="row")
