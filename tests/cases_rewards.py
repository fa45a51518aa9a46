"""Cases of losses that came with graded rewards."""

import math

import torch

import cases
import loops
from policyopt.constraint.entropy_covariance import CovarianceEntropy


def covariance_entropy(scale, most):
    """Entropies with strengths from a softmax per row, which are constants."""

    def reference(batch, tables):
        places, step = [tuple(place) for place in batch.trained.nonzero().tolist()], batch.step["_step"]
        p = {(b, t): tables["policy"][b, t].softmax(-1).tolist() for b, t in places}
        logp = {(b, t): math.log(p[b, t][int(step[b, t])]) for b, t in places}
        gain = {(b, t): float(batch.step["advantage"][b, t]) for b, t in places}
        mean, centre = sum(logp.values()) / len(places), sum(gain.values()) / len(places)
        value = torch.zeros(len(batch), batch.steps, dtype=torch.float64)
        slope = torch.zeros(*value.shape, tables["policy"].shape[-1], dtype=torch.float64)
        for b, t in places:
            whole = sum(math.exp((gain[k] - centre) * (logp[k] - mean)) for k in places if k[0] == b)
            share = math.exp((gain[b, t] - centre) * (logp[b, t] - mean)) / whole
            entropy, by_logits = loops.entropy(p[b, t])
            strength = min(most, scale * share)
            value[b, t], slope[b, t] = -strength * entropy, -strength * torch.tensor(by_logits, dtype=torch.float64)
        return value, slope

    return reference


CASES = {"covariance_entropy": cases.Case(CovarianceEntropy(10.0, 2.0), covariance_entropy(10.0, 2.0), full=True)}
