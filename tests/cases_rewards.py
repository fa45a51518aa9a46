"""Cases of losses that came with graded rewards."""

import math

import torch

import cases
import loops
from policyopt.constraint.entropy_covariance import CovarianceEntropy

SCALE, MOST = 10.0, 2.0


def strengths(batch, logp):
    """Of every trained step, by place: a softmax per row of what log-probability (by place) and advantage share."""
    gain = {(b, t): float(batch.step["advantage"][b, t]) for b, t in logp}
    mean, centre = sum(logp.values()) / len(logp), sum(gain.values()) / len(gain)
    size = {place: math.exp((gain[place] - centre) * (logp[place] - mean)) for place in logp}
    whole = {b: sum(x for place, x in size.items() if place[0] == b) for b, _ in size}
    return {place: min(MOST, SCALE * x / whole[place[0]]) for place, x in size.items()}


def covariance_entropy(batch, tables):
    """Entropies with strengths that are constants."""
    places, step = [tuple(place) for place in batch.trained.nonzero().tolist()], batch.step["_step"]
    p = {(b, t): tables["policy"][b, t].softmax(-1).tolist() for b, t in places}
    value = torch.zeros(len(batch), batch.steps, dtype=torch.float64)
    slope = torch.zeros(*value.shape, tables["policy"].shape[-1], dtype=torch.float64)
    for place, strength in strengths(batch, {(b, t): math.log(p[b, t][int(step[b, t])]) for b, t in places}).items():
        entropy, by_logits = loops.entropy(p[place])
        value[place], slope[place] = -strength * entropy, -strength * torch.tensor(by_logits, dtype=torch.float64)
    return value, slope


CASES = {"covariance_entropy": cases.Case(CovarianceEntropy(SCALE, MOST), covariance_entropy, full=True)}
