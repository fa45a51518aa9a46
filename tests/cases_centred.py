"""The case of ratios that are centred by a divergence."""

import math

import torch

import loops
from cases import Case
from policyopt.objective.centred import CentredSurrogate

LOW, HIGH, SCALE = 0.2, 0.28, 0.7


def of_choices(p: list[float], o: list[float], step: int, a: float) -> tuple[float, list[float]]:
    """d = log p(step) - log o(step) + KL(o || p); by the logits of p: (e - p) + (p - o) = e - o."""
    divergence = sum(y * math.log(y / x) for x, y in zip(p, o, strict=True))
    value, slope = loops.of_change(SCALE * (math.log(p[step] / o[step]) + divergence), a, LOW, HIGH)
    return value, [SCALE * slope * ((n == step) - y) for n, y in enumerate(o)]


def reference(batch, tables):
    value = torch.zeros(len(batch), batch.steps, dtype=torch.float64)
    slope = torch.zeros(len(batch), batch.steps, tables["policy"].shape[-1], dtype=torch.float64)
    for b, t in batch.trained.nonzero().tolist():
        p, o = (tables[m][b, t].softmax(-1).tolist() for m in ("policy", "old"))
        step, a = int(batch.step["_step"][b, t]), float(batch.step["advantage"][b, t])
        value[b, t], gradient = of_choices(p, o, step, a)
        slope[b, t] = torch.tensor(gradient, dtype=torch.float64)
    return value, slope


CASES = {"centred": Case(CentredSurrogate(LOW, HIGH, SCALE), reference, full=True)}
