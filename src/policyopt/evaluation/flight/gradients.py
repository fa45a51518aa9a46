"""Checks of the first gradient and of options that change nothing."""

from __future__ import annotations

import math
from collections.abc import Sequence

from policyopt.evaluation.flight.record import Flight, Gradient, Leg, Said, graded, skipped, stage_check

NOTHING = 1e-6  # rounding alone gives as much
STEEP = 100.0  # times the clip norm
NOISY = 30.0  # times the rows of an update: as much as a few batches can tell from no signal at all


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
    found = [g for g in leg.gradients if g.model == "policy" and len(g.pieces) > 1 and math.isfinite(g.norm)]
    if not found or all(g.norm < NOTHING for g in found):
        return skipped(leg.obstacle or "no gradient of several rows")
    signal, spread = map(sum, zip(*(estimate(g) for g in found), strict=True))
    rows = sum(g.rows for g in found) / len(found)
    scale = spread / signal if signal > 0 else math.inf
    value = f"about {scale:.3g} rows" if signal > 0 else "beyond measure: no signal is seen in the noise"
    return graded(
        f"{value}; an update has {rows:.0f}",
        "an update's direction is nearly all noise: more rows (selection.count, sampling.size), a better baseline, or "
        "a lower learning rate",
        fault=False,
        warn=scale > NOISY * rows,
        scale=scale,
        rows=rows,
    )


def estimate(gradient: Gradient) -> tuple[float, float]:
    """Unbiased estimates of |G|^2 and tr(Sigma) from the norm over B rows and the mean over pieces of b rows:
    |G|^2 = (B |G_B|^2 - b |G_b|^2) / (B - b),  tr(Sigma) = (|G_b|^2 - |G_B|^2) / (1/b - 1/B)."""
    whole, part = float(gradient.rows), gradient.rows / len(gradient.pieces)
    of_whole = gradient.norm**2
    of_part = sum(piece**2 for piece in gradient.pieces) / len(gradient.pieces)
    signal = (whole * of_whole - part * of_part) / (whole - part)
    return signal, (of_part - of_whole) / (1 / part - 1 / whole)


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
