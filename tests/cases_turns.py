"""Cases of losses of a second context, and of a surrogate that is not pessimistic."""

import math

import torch

import cases
from policyopt.constraint.contexts import ContextDependence, Surprise
from policyopt.objective.optimistic import OptimisticSurrogate


def dependence(l, o, bound, most):  # noqa: E741
    d = min(max(o - l, -bound), bound)
    value = math.exp(d) - d - 1
    if value > most:
        return most, 0.0
    return value, 0.0 if abs(o - l) > bound else 1 - math.exp(d)


def largest(bound, most, share):
    """The estimate on the share of steps of the largest ones, 0 elsewhere."""

    def reference(batch, tables):
        value = torch.zeros(len(batch), batch.steps, dtype=torch.float64)
        slope = torch.zeros_like(value)
        policy, other = tables["policy"].tolist(), tables["teacher"].tolist()
        trained = batch.trained.nonzero().tolist()
        places = [(b, t, *dependence(policy[b][t], other[b][t], bound, most)) for b, t in trained]
        places.sort(key=lambda place: -place[2])
        for b, t, v, s in places[: math.floor(share * len(places))]:
            value[b, t], slope[b, t] = v, s
        return value, slope

    return reference


def optimistic(l, o, a, low, high):  # noqa: E741
    """The ratio is cut above for either sign."""
    r = math.exp(l - o)
    if a == 0:
        return 0.0, 0.0
    if a > 0 or r > 1 + high:
        return cases.loops.clipped(l, o, a, low, high) if a > 0 else (-(1 + high) * a, 0.0)
    return -r * a, -r * a


CASES = {
    "optimistic": cases.Case(
        OptimisticSurrogate(0.28),
        cases.by_step(lambda l, o, a: optimistic(l, o, a, 0.2, 0.28), "policy old", "advantage"),  # noqa: E741
    ),
    "context_dependence": cases.Case(
        ContextDependence("teacher", bound=0.6, most=0.15),
        cases.by_step(lambda l, o: dependence(l, o, 0.6, 0.15), "policy teacher"),  # noqa: E741
    ),
    "largest_dependence": cases.Case(ContextDependence("teacher", share=0.4), largest(20.0, 10.0, 0.4)),
    "surprise": cases.Case(Surprise(), cases.by_step(lambda l: (-l, -1.0), "policy")),  # noqa: E741
}
