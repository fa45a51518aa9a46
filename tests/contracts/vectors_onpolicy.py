"""Cases of the parts of on-policy methods: two policies in one surrogate, dropped samples, running moments, stops."""

import math

import reference_formulas as ref
from vector_cases import HOLED, LOGP, NOTHING, SIGNED, SINGLE, UNEVEN, case, draw, grid, scored_mask, total, zeros
from vector_losses import step_case, step_cases


# -- surrogates of one step --------------------------------------------------------------------------------------------
def ratio(logp, old, advantage, cap=math.inf):
    """The cap raises the denominator, so the derivative is that of the numerator over it: the value itself."""
    value = -advantage * min(ref.exp(logp - old), cap)
    return value, value


def decoupled(logp, proximal, behaviour, advantage, low=0.2, high=0.2, cap=100.0):
    denominator = max(ref.exp(behaviour), ref.exp(logp) / cap)
    plain = -advantage * ref.exp(logp) / denominator
    change = ref.exp(logp - proximal)
    held = min(max(change, 1 - low), 1 + high)
    bounded = -advantage * held * ref.exp(proximal) / denominator
    return (bounded, 0.0) if held != change and bounded > plain else (plain, plain)


def surrogates():
    taken = {"logprobs": LOGP, "old_logprobs": LOGP, "advantages": SIGNED}
    recorded = {"logprobs": LOGP, "behaviour_logprobs": LOGP, "advantages": SIGNED}
    three = {"logprobs": LOGP, "proximal_logprobs": LOGP, "behaviour_logprobs": LOGP, "advantages": SIGNED}
    renamed = {"old_logprobs" if k == "proximal_logprobs" else k: v for k, v in three.items()}
    options = {"clip_low": 0.1, "clip_high": 0.3, "cap": 1.5, "proximal": "old"}
    return [
        *step_cases("objective", "ratio_surrogate", ratio, taken),
        *step_cases(
            "objective", "ratio_surrogate", lambda x, o, a: ratio(x, o, a, 1.5), recorded,
            {"old": "behaviour", "cap": 1.5},
        ),
        *step_cases("objective", "decoupled_surrogate", decoupled, three),
        *step_cases(
            "objective", "decoupled_surrogate", lambda x, p, b, a: decoupled(x, p, b, a, 0.1, 0.3, 1.5), renamed,
            options,
        ),
        step_case(
            "objective",
            "decoupled_surrogate",
            "every branch: within, above and below the range, for both signs, and at the cap",
            decoupled,
            {
                "logprobs": [[-1.0, -0.7, -1.3, -0.7, -1.3, -0.1]],
                "proximal_logprobs": [[-1.1, -1.0, -1.0, -1.0, -1.0, -0.2]],
                "behaviour_logprobs": [[-1.4, -0.9, -0.9, -1.2, -1.2, -5.5]],
                "advantages": [[1.0, 1.0, 1.0, -1.0, -1.0, 2.0]],
            },
            [[1] * 6],
            "token_mean",
        ),
    ]  # fmt: skip


# -- dropped samples ---------------------------------------------------------------------------------------------------
def dropout_case(name, mask, reduction, low, high, share, scored=None):
    label = f"objective/surrogate_dropout/{name}"
    inputs = {"logprobs": draw(f"{label}/1", mask, *LOGP), "old_logprobs": draw(f"{label}/2", mask, *LOGP)}
    inputs["advantages"] = draw(f"{label}/3", mask, *SIGNED)
    counted = scored_mask(mask, scored)
    places = [(b, t) for b, row in enumerate(counted) for t, m in enumerate(row) if m]
    u = [
        ref.exp(inputs["logprobs"][b][t] - inputs["old_logprobs"][b][t]) * inputs["advantages"][b][t] for b, t in places
    ]
    phi = [x * sum(y for m, y in enumerate(u) if m != n) for n, x in enumerate(u)]
    out = set()
    for side in ([n for n, f in enumerate(phi) if f >= 0], [n for n, f in enumerate(phi) if f < 0]):
        out |= {places[n] for n in sorted(side, key=lambda n: phi[n])[: math.floor(share * len(side))]}

    def value(b, t):
        columns = (inputs[key][b][t] for key in ("logprobs", "old_logprobs", "advantages"))
        return (0.0, 0.0) if (b, t) in out else ref.clipped_surrogate(*columns, low, high)

    done, weights = grid(counted, value), ref.weights(reduction, counted)
    values = [[None if f is None else f[0] for f in row] for row in done]
    gradient = [zeros(row) for row in inputs["logprobs"]]
    for b, t in places:
        gradient[b][t] = weights[b][t] * done[b][t][1]
    expect = {"loss": total(weights, values), "grad_logprobs": gradient}
    expect |= {"per_step": values} if places else {}
    inputs = {**inputs, "mask": mask, **({"scored": scored} if scored else {})}
    options = {"clip_low": low, "clip_high": high, "share": share}
    return case("objective", "surrogate_dropout", name, inputs, expect, options=options, reduction=reduction)


def dropouts():
    return [
        dropout_case("a fifth of every sign", UNEVEN, "token_mean", 0.2, 0.2, 0.2),
        dropout_case("most of them", HOLED, "sequence_mean", 0.1, 0.3, 0.7),
        dropout_case("none", UNEVEN, "token_mean", 0.2, 0.2, 0.0),
        dropout_case("an unscored row", UNEVEN, "token_mean", 0.2, 0.28, 0.4, [1, 0, 1, 1]),
        dropout_case("a single step has no other", SINGLE, "token_mean", 0.2, 0.2, 0.9),
        dropout_case("nothing to train on", NOTHING, "token_mean", 0.2, 0.2, 0.2),
    ]


# -- moments, weights, stops -------------------------------------------------------------------------------------------
def moment_case(name, mask, decay, epsilon, before, scored=None):
    raw = draw(f"credit/running_standardised/{name}", mask, *SIGNED)
    counted = scored_mask(mask, scored)
    seen = [x for row, m in zip(raw, counted, strict=True) for x, c in zip(row, m, strict=True) if c]
    held = before or {"count": 0.0, "sum": 0.0, "squares": 0.0}
    count = decay * held["count"] + len(seen)
    mean = (decay * held["sum"] + sum(seen)) / count
    spread = (decay * held["squares"] + sum(x * x for x in seen)) / count - mean**2
    scaled = grid(counted, lambda b, t: (raw[b][t] - mean) / (spread**0.5 + epsilon))
    expect = {"advantages": [[x or 0.0 for x in row] for row in scaled], "raw_advantage": raw}
    inputs = {"advantages": raw, "mask": mask, **({"scored": scored} if scored else {})}
    inputs |= {"cells": {"advantage_moments": before}} if before else {}
    options = {"decay": decay, "epsilon": epsilon}
    return case("credit", "running_standardised", name, inputs, expect, options=options)


def moments():
    before = {"count": 12.5, "sum": 3.0, "squares": 20.0}
    return [
        moment_case("the first round", UNEVEN, 0.9, 1e-8, None),
        moment_case("moments of earlier rounds", UNEVEN, 0.9, 0.1, before),
        moment_case("steps of others and an empty row", HOLED, 0.5, 1e-8, before),
        moment_case("an unscored row", UNEVEN, 0.7, 1e-8, before, [1, 1, 0, 1]),
    ]


def stops():
    made = []
    for name, mask, limit in (("far", UNEVEN, 0.1), ("near", UNEVEN, 9.0), ("steps of others", HOLED, 0.2)):
        label = f"update/approximate_kl/{name}"
        inputs = {key: draw(f"{label}/{key}", mask, *LOGP) for key in ("logprobs", "old_logprobs")}
        changes = [
            x - o
            for rows in zip(inputs["logprobs"], inputs["old_logprobs"], strict=True)
            for x, o in zip(*rows, strict=True)
            if x is not None
        ]
        mean = sum(ref.exp(d) - 1 - d for d in changes) / len(changes)
        expect = {"weights": float(mean > limit)}
        made.append(case("update", "approximate_kl", name, {**inputs, "mask": mask}, expect, options={"limit": limit}))
    return made


def cases():
    annealed = []
    for scale in (1.0, 0.5, 3.0):
        name, expect = f"the first round, scale {scale:g}", {"weights": scale}
        options = {"scale": scale}
        annealed.append(case("constraint", "inverse_annealed", name, {"mask": UNEVEN}, expect, options=options))
    return [*surrogates(), *dropouts(), *annealed, *moments(), *stops()]
