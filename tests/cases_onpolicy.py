"""Cases of surrogates that keep two policies apart, or leave steps out."""

import math

import torch

import cases
from policyopt.objective.decoupled import DecoupledSurrogate, RatioSurrogate
from policyopt.objective.dropout import SurrogateDropout


def ratio(l, o, a, cap):  # noqa: E741
    r = min(math.exp(l - o), cap)
    return -r * a, -r * a  # the cap raises the denominator and leaves the derivative of the numerator


def decoupled(l, p, b, a, low, high, cap):  # noqa: E741
    b = max(b, l - math.log(cap))
    r = math.exp(l - p)
    plain = -a * math.exp(l - b)
    if (a > 0 and r > 1 + high) or (a < 0 and r < 1 - low):
        return -a * (1 + high if a > 0 else 1 - low) * math.exp(p - b), 0.0
    return plain, plain


def dropped_places(u, share):
    """Places of the share that is dropped, of a list of surrogates."""
    total = sum(u)
    phi = [x * (total - x) for x in u]
    out = []
    for side in ([n for n, f in enumerate(phi) if f >= 0], [n for n, f in enumerate(phi) if f < 0]):
        out += sorted(side, key=lambda n: phi[n])[: math.floor(share * len(side))]
    return out


def dropout(low, high, share):
    def reference(batch, tables):
        value = torch.zeros(len(batch), batch.steps, dtype=torch.float64)
        slope = torch.zeros_like(value)
        logp, old, advantage = (x.tolist() for x in (tables["policy"], tables["old"], batch.step["advantage"]))
        places = batch.trained.nonzero().tolist()
        u = [math.exp(logp[b][t] - old[b][t]) * advantage[b][t] for b, t in places]
        gone = dropped_places(u, share)
        assert 0 < len(gone) < len(places)
        for n, (b, t) in enumerate(places):
            if n not in gone:
                value[b, t], slope[b, t] = cases.loops.clipped(logp[b][t], old[b][t], advantage[b][t], low, high)
        return value, slope

    return reference


CASES = {
    "ratio": cases.Case(
        RatioSurrogate(),
        cases.by_step(lambda l, o, a: ratio(l, o, a, math.inf), "policy old", "advantage"),  # noqa: E741
    ),
    "capped_ratio": cases.Case(
        RatioSurrogate(cap=1.3),
        cases.by_step(lambda l, o, a: ratio(l, o, a, 1.3), "policy old", "advantage"),  # noqa: E741
    ),
    "decoupled": cases.Case(
        DecoupledSurrogate(0.2, 0.28, cap=1.4, proximal="old"),
        cases.by_step(lambda l, p, b, a: decoupled(l, p, b, a, 0.2, 0.28, 1.4), "policy old", "behaviour", "advantage"),  # noqa: E741
    ),
    "surrogate_dropout": cases.Case(SurrogateDropout(0.2, 0.28, 0.4), dropout(0.2, 0.28, 0.4)),
}
