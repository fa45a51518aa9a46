"""Checks of log-probabilities: sampler against trainer, the first ratio and KL, dropout."""

from __future__ import annotations

import math

import scipy  # its submodules are loaded where they are first used
import torch
from torch import Tensor

from policyopt.evaluation.flight.record import Flight, Leg, Probe, Said, fine, graded, skipped, stage_check

TAILS = (0.01, 0.02, 0.05, 0.1, 0.2)
STEPS_LEAST = 100
UNLIKELY = 1e-7  # of a healthy sampler
DEVIATIONS = 5.0  # standard errors, of about the same probability


@stage_check("sampler agrees with trainer")
def mismatch(leg: Leg, flight: Flight) -> Said:
    """The engine's own log-probabilities against a plain scoring pass at the temperature that the rows declare."""
    probe = leg.probe
    if probe is None or not bool(probe.own.any()):
        return skipped("nothing is sampled" if not leg.samples else "the policy was not sampled from alone")
    gap = (probe.reported - probe.plain)[probe.own].double()
    if not bool(gap.isfinite().all()):
        return graded("log-probabilities that are not finite", "look at the weights and the precision", fault=True)
    # Densities of many dimensions are sums: their rounding grows with them.
    scale = 1 + probe.plain[probe.own].double().abs().mean()
    mean, most = float(gap.abs().mean() / scale), float(gap.abs().max())
    return graded(
        f"|log-probability of engine - of a plain pass| is {float(gap.abs().mean()):.2g} on average, at most {most:.2g}"
        + _one_sided(gap),
        "report log-probabilities of the distribution that was sampled, with the same temperature, weights and "
        "precision as the trainer's; top-k and top-p only where the trainer has them too",
        fault=mean > 10 * probe.tolerance,
        warn=mean > probe.tolerance,
        mean=float(gap.abs().mean()),
        largest=most,
    )


def _one_sided(gap: Tensor) -> str:
    """A cut support leaves more to what survives: then the engine always says more than the trainer."""
    if float(gap.abs().mean()) < 1e-3 or float((gap > 0).double().mean()) < 0.99:
        return ""
    return f"; the engine says more for every step (it keeps {math.exp(-float(gap.mean())):.0%} of the mass?)"


@stage_check("samples come from the declared distribution")
def sampled_from(leg: Leg, flight: Flight) -> Said:
    """Whether steps are as surprising as the trainer's distribution says they should be, and whether its tail occurs:
    finds temperature, top-k and top-p on the sampler's side alone, whatever log-probabilities it reports."""
    probe = leg.probe
    if probe is None or int(probe.own.sum()) < STEPS_LEAST:
        return skipped("nothing is sampled" if not leg.samples else f"fewer than {STEPS_LEAST} steps were sampled")
    score, tail = surprise(probe), tails(probe.uniform)
    if score is None and tail is None:
        return skipped("the policy has no entropy in closed form")
    value, bad = [], False
    measured: dict[str, float] = {}
    if score is not None:
        value.append(f"surprise is {score:+.1f} standard errors from the entropy")
        bad, measured["deviations"] = abs(score) > DEVIATIONS, score
    if tail is not None:
        share, seen, chance = tail
        value.append(f"the last {share:.0%} of the mass was drawn in {seen:.1%} of steps")
        bad, measured["tail"], measured["chance"] = bad or chance < UNLIKELY, seen, chance
    return graded(
        "; ".join(value),
        "sample at the temperature that the method declares (sampling.temperature), and with top-k, top-p or min-p "
        "only where what was kept is recorded (sampling.top_k, top_p, min_p); else ratios compare two different "
        "policies",
        fault=bad,
        measured=measured,
    )


def surprise(probe: Probe) -> float | None:
    """Standard errors between -log p of the steps taken and the entropy where they were taken. Given what came before,
    the difference has mean zero if the steps were sampled from p: a martingale, so variances of steps add up."""
    if probe.entropy is None:
        return None
    gap = (-probe.plain - probe.entropy)[probe.own].double()
    error = float(gap.std()) / math.sqrt(len(gap))
    if error == 0 or not math.isfinite(error):
        return None
    return float(gap.mean()) / error


def tails(uniform: Tensor | None) -> tuple[float, float, float] | None:
    """(q, share of steps in the last q of the mass, its probability) for the q that is least likely for a sampler that
    draws from the whole distribution."""
    if uniform is None or len(uniform) < STEPS_LEAST:
        return None
    found = []
    for q in TAILS:
        count = int((uniform < q).sum())
        found.append((q, count / len(uniform), float(scipy.stats.binom.cdf(count, len(uniform), q))))
    return min(found, key=lambda each: each[2])


@stage_check("ratio at step 0")
def first_ratio(leg: Leg, flight: Flight) -> Said:
    """Before anything is trained the policy is its own old self: every ratio is 1."""
    starts = [start for start in leg.starts if start.old is not None and bool(start.counted.any())]
    if not starts:
        return skipped(leg.obstacle or "the loss has no ratio, or its rows were sampled by nobody")
    gaps, worst = [], 0.0
    for start in starts:
        assert start.old is not None
        gap = (start.new - start.old)[start.counted].double()
        size = float((gap.abs() / (1 + start.new[start.counted].double().abs())).max())
        worst = max(worst, size / start.tolerance)
        gaps.append(gap)
    gap = torch.cat(gaps)
    far = float((gap.exp() - 1).abs().max())
    kl = float((torch.expm1(gap) - gap).mean())
    return graded(
        f"|ratio - 1| is at most {far:.2g}, KL to the old policy {kl:.2g} a step",
        "score old and new log-probabilities alike: same temperature, no dropout, same weights, same masks",
        fault=not worst <= 100,
        warn=worst > 10,
        largest=far,
        kl=kl,
    )


@stage_check("KL at step 0")
def first_kl(leg: Leg, flight: Flight) -> Said:
    """The distance to the models that the policy is held to; to a copy of itself it is 0."""
    found = [
        (name, name in start.copies, (start.new - reference)[start.counted].double())
        for start in leg.starts
        for name, reference in start.reference.items()
        if bool(start.counted.any())
    ]
    if not found:
        return skipped(leg.obstacle or "the method is held to no reference")
    tolerance = max(start.tolerance for start in leg.starts)
    # E[log p / q] has k3 = r - 1 - log r as an estimate that is never negative.
    values = {name: float((torch.expm1(-gap) + gap).mean()) for name, _, gap in found}
    drifted = [name for name, copy, gap in found if copy and float(gap.abs().max()) > 100 * tolerance]
    far = [name for name, value in values.items() if not value <= 1.0]
    return graded(
        ", ".join(f"KL to {name} is {value:.2g} a step" for name, value in values.items()),
        (
            f"{drifted} should equal the policy: load the same weights and precision, score without dropout"
            if drifted
            else f"start from the model that the policy is held to ({far}), or lower the weight of the KL"
        ),
        fault=bool(drifted),
        warn=bool(far),
        measured=values,
    )


@stage_check("no dropout while scoring")
def dropout(leg: Leg, flight: Flight) -> Said:
    """Two passes over the same rows are equal to the last bit, and no dropout layer is on."""
    probe = leg.probe
    differ = probe is not None and not torch.equal(probe.plain, probe.again)
    if probe is None and not leg.dropping:
        return fine("no dropout layer is on")
    most = 0.0 if probe is None else float((probe.plain - probe.again).abs().max())
    names = f"; dropout is on in {', '.join(leg.dropping[:3])}" if leg.dropping else ""
    return graded(
        f"two passes differ by at most {most:.2g}{names}",
        "score in eval mode: dropout (and any other noise in the model) must be off wherever a log-probability enters "
        "a ratio or a KL",
        fault=differ or bool(leg.dropping),
        largest=most,
        layers=len(leg.dropping),
    )
