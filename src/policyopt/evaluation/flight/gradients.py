"""Checks of the first gradient and of options that change nothing."""

from __future__ import annotations

import math
from collections.abc import Sequence

from policyopt.evaluation.flight.record import Flight, Gradient, Leg, Said, graded, skipped, stage_check

NOTHING = 1e-6  # rounding alone gives as much
STEEP = 100.0  # times the clip norm
NOISY = 10.0  # times the rows of an update


@stage_check("gradient")
def gradient(leg: Leg, flight: Flight) -> Said:
    """Finite, not zero, and not far beyond what is clipped."""
    if not leg.gradients:
        return skipped(leg.obstacle or "no update was due")
    norms = {model: [g.norm for g in leg.gradients if g.model == model] for model in _models(leg.gradients)}
    value = ", ".join(f"{model} {max(found):.3g}" for model, found in norms.items())
    measured = {model: max(found, key=_badness) for model, found in norms.items()}
    broken = [model for model, found in norms.items() if not all(map(math.isfinite, found))]
    if broken:
        return graded(
            f"norm: {value}",
            f"the gradient of {broken} is not finite: look at the rewards, the precision and the initial weights",
            fault=True,
            measured=measured,
        )
    if all(norm < NOTHING for norm in norms.get("policy", [1.0])):
        if leg.later:
            return skipped("nothing moves the policy yet; an earlier stage trains it first")
        remedy = "nothing moves the policy: rewards, advantages or masks are all zero"
        return graded(f"norm: {value}", remedy, fault=True, measured=measured)
    steep = [g.model for g in leg.gradients if g.clip_norm is not None and g.norm > STEEP * g.clip_norm]
    return graded(
        f"norm: {value}",
        f"{sorted(set(steep))} is clipped to less than 1 %: every step has the same size whatever it says; scale "
        "rewards or advantages, or raise update.clip_norm",
        fault=False,
        warn=bool(steep),
        measured=measured,
    )


def _badness(norm: float) -> float:
    return norm if math.isfinite(norm) else math.inf


def _models(gradients: Sequence[Gradient]) -> list[str]:
    return list(dict.fromkeys(each.model for each in gradients))


@stage_check("gradient noise scale")
def noise(leg: Leg, flight: Flight) -> Said:
    """The rows at which the policy's gradient is as large as its noise (McCandlish et al. 2018, arXiv 1812.06162,
    appendix A.1), against the rows of an update."""
    if leg.later:
        return skipped("an earlier stage trains the policy first")
    found = [g for g in leg.gradients if g.model == "policy" and len(g.pieces) > 1 and math.isfinite(g.norm)]
    if not found or all(g.norm < NOTHING for g in found):
        return skipped(leg.obstacle or "no gradient of several rows")
    each = [estimate(g) for g in found]
    signal, spread, error = (sum(values) / len(each) for values in zip(*each, strict=True))
    rows = sum(g.rows for g in found) / len(found)
    most = signal + 2 * error / math.sqrt(len(each))
    scale, least = (spread / size if size > 0 else math.inf for size in (signal, most))
    return graded(
        f"about {scale:.3g} rows (at least {least:.3g}); an update has {rows:.0f}",
        "an update's direction is nearly all noise: more rows (selection.count, sampling.size), a better baseline, or "
        "a lower learning rate",
        fault=False,
        warn=least > NOISY * rows,
        scale=scale,
        least=least,
        rows=rows,
    )


def estimate(gradient: Gradient) -> tuple[float, float, float]:
    """Unbiased estimates of |G|^2 and tr(Sigma) from K pieces h_i of b rows whose mean is the whole gradient:
    |G|^2 = mean over i != j of <h_i, h_j>,  tr(Sigma) = b (mean |h_i|^2 - |G|^2); and the jackknife's standard error of
    the first, infinite where the pieces' products with the whole are not known."""
    count, squares = len(gradient.pieces), [piece**2 for piece in gradient.pieces]
    pairs = count**2 * gradient.norm**2 - sum(squares)
    signal = pairs / (count * (count - 1))
    spread = gradient.rows / count * (sum(squares) / count - signal)
    if not gradient.products or count < 3:
        return signal, spread, math.inf
    without = [
        (pairs - 2 * (count * product - square)) / ((count - 1) * (count - 2))
        for product, square in zip(gradient.products, squares, strict=True)
    ]
    centre = sum(without) / count
    error = math.sqrt((count - 1) / count * sum((each - centre) ** 2 for each in without))
    return signal, spread, error


@stage_check("options have an effect")
def idle(leg: Leg, flight: Flight) -> Said:
    """Options of the objective that the recipe sets: whether another value would change the update."""
    if not leg.tried:
        return skipped("the recipe sets no number in the objective, or each round has several updates")
    return graded(
        f"{len(leg.idle)} of {len(leg.tried)} change nothing" + (f": {', '.join(leg.idle)}" if leg.idle else ""),
        "with one update a round every ratio is 1, so clip ranges do nothing: remove the option, or set update.epochs "
        "or update.minibatches above 1",
        fault=False,
        warn=bool(leg.idle),
        idle=len(leg.idle),
    )
