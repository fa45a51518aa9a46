"""Cases of the objective and constraint axes."""

import random

import reference_formulas as ref
from vector_cases import (
    HOLED,
    LOGP,
    NOTHING,
    SIGNED,
    SINGLE,
    UNEVEN,
    case,
    draw,
    draw_logits,
    grid,
    scored_mask,
    total,
    zeros,
)


# -- losses per step -------------------------------------------------------------------------------------------------
def step_case(axis, part, name, formula, inputs, mask, reduction, options=None, constant=None, scored=None):
    """A loss that is a function of one step; the derivative is with respect to the first input."""
    counted = scored_mask(mask, scored)
    done = grid(counted, lambda b, t: formula(*(column[b][t] for column in inputs.values())))
    weights = ref.weights(reduction or "sum", counted, constant or 1.0)
    first = next(iter(inputs))
    gradient = [zeros(row) for row in inputs[first]]
    for b, row in enumerate(done):
        for t, found in enumerate(row):
            if found is not None:
                slope, w = found[1], weights[b][t]
                gradient[b][t] = [w * s for s in slope] if isinstance(slope, list) else w * slope
    values = [[None if f is None else f[0] for f in row] for row in done]
    expect = {"loss": total(weights, values)} if reduction else {}
    if any(any(row) for row in counted):
        expect["per_step"] = values
    expect[f"grad_{first}"] = gradient
    more = {"options": options} if options else {}
    more |= {"reduction": reduction} if reduction else {}
    more |= {"reduction_options": {"constant": constant}} if constant else {}
    inputs = {**inputs, "mask": mask, **({"scored": scored} if scored else {})}
    return case(axis, part, name, inputs, expect, **more)


def step_cases(axis, part, formula, ranges, options=None):
    """The same five situations for every loss per step."""
    situations = [
        ("uneven rows, every step weighs the same", UNEVEN, "token_mean", None, None),
        ("steps of others and an empty row, every row weighs the same", HOLED, "sequence_mean", None, None),
        ("an unscored row, sums over a constant", UNEVEN, "sequence_sum", 8.0, [1, 1, 0, 1]),
        ("one step, not averaged", SINGLE, None, None, None),
        ("nothing to train on", NOTHING, "token_mean", None, None),
    ]
    made, suffix = [], f" ({options})" if options else ""
    for situation, mask, reduction, constant, scored in situations:
        name = f"{situation}{suffix}"
        label = f"{axis}/{part}/{name}"
        inputs = {
            key: draw_logits(f"{label}/{key}", mask) if key.endswith("logits") else draw(f"{label}/{key}", mask, *span)
            for key, span in ranges.items()
        }
        made.append(step_case(axis, part, name, formula, inputs, mask, reduction, options, constant, scored))
    return made


CLIP = {"logprobs": LOGP, "old_logprobs": LOGP, "advantages": SIGNED}


def every_branch():
    """Ratio inside and on both sides of the range, for both signs of the advantage and for none."""
    mask, old = [[1] * 6, [1] * 3 + [0] * 3], [[-1.0] * 6, [-2.0] * 3 + [None] * 3]
    logp = [[-1.0, -0.9, -0.7, -1.5, -0.6, -1.4], [-0.5, -1.9, -2.1, None, None, None]]
    advantages = [[1.0, 2.0, 1.5, 0.5, -1.0, -2.0], [-0.7, 0.0, -1.2, None, None, None]]
    inputs = {"logprobs": logp, "old_logprobs": old, "advantages": advantages}
    made = []
    for name, options in (
        ("every branch", {}),
        ("every branch, wider above", {"clip_low": 0.15, "clip_high": 0.28}),
        ("every branch, dual clip", {"dual_clip": 3.0}),
    ):
        low, high, dual = options.get("clip_low", 0.2), options.get("clip_high", 0.2), options.get("dual_clip")
        made.append(
            step_case(
                "objective",
                "clipped_surrogate",
                name,
                lambda x, o, a, h=high, d=dual, w=low: ref.clipped_surrogate(x, o, a, w, h, d),
                inputs,
                mask,
                "sequence_mean",
                options,
            )
        )
    return made


def from_logits():
    """Log-probabilities from logits: the gradient goes through the softmax."""
    mask, label = UNEVEN, "objective/policy_gradient/logits"
    logits, advantages = draw_logits(label, mask), draw(label, mask, *SIGNED)
    rng = random.Random(label)
    steps = [[rng.randrange(4) for _ in row] for row in mask]
    weights = ref.weights("token_mean", mask)
    values = grid(mask, lambda b, t: -advantages[b][t] * ref.log_softmax(logits[b][t])[steps[b][t]])

    def slope(b, t, v):
        p = ref.exp(ref.log_softmax(logits[b][t])[v])
        return -weights[b][t] * advantages[b][t] * ((1.0 if v == steps[b][t] else 0.0) - p)

    gradient = [
        [[slope(b, t, v) if m else 0.0 for v in range(4)] for t, m in enumerate(row)] for b, row in enumerate(mask)
    ]
    inputs = {"logits": logits, "steps": steps, "advantages": advantages, "mask": mask}
    expect = {"loss": total(weights, values), "per_step": values, "grad_logits": gradient}
    return case("objective", "policy_gradient", "through a softmax", inputs, expect, reduction="token_mean")


# -- losses per row and per pair ---------------------------------------------------------------------------------------
def row_case(part, formula, name, inputs, mask, options, scored=None):
    """A loss of a row's counted steps, averaged over rows."""
    counted = scored_mask(mask, scored)
    weights = ref.row_weights([1 if any(row) else 0 for row in counted])
    values, gradient = [], [[0.0] * len(row) for row in mask]
    for b, row in enumerate(counted):
        places = [t for t, m in enumerate(row) if m]
        if not places:
            values.append(None)
            continue
        advantage = inputs["advantages"][b]
        if isinstance(advantage, list):
            advantage = sum(advantage[t] for t in places) / len(places)
        columns = ([inputs[key][b][t] for t in places] for key in ("logprobs", "old_logprobs"))
        value, slopes = formula(*columns, advantage, options["clip_low"], options["clip_high"])
        values.append(value)
        for t, slope in zip(places, slopes, strict=True):
            gradient[b][t] = weights[b] * slope
    expect = {"loss": sum(w * v for w, v in zip(weights, values, strict=True) if v is not None)}
    if any(any(row) for row in counted):
        expect["per_step"] = values
    expect["grad_logprobs"] = gradient
    inputs = {**inputs, "mask": mask, **({"scored": scored} if scored else {})}
    return case("objective", part, name, inputs, expect, options=options, reduction="row_mean")


def row_cases(part, formula, narrow):
    """narrow: the distance between policy and old policy in the case with clip ranges of that size."""
    made = []
    situations = [
        ("uneven rows", UNEVEN, (0.2, 0.3), [0.8, -1.1, -0.4, 1.3], None, 0.3),
        ("narrow clip ranges, rows on both sides", UNEVEN, (3e-4, 4e-4), [0.8, -1.1, 0.9, -0.6], None, narrow),
        ("steps of others, an empty row", HOLED, (0.2, 0.2), [1.0, -1.0, 0.5, -0.3], None, 0.4),
        (
            "an unscored row and equal rewards (no advantage)",
            UNEVEN,
            (0.2, 0.2),
            [0.0, 0.0, 1.0, 0.0],
            [1, 1, 0, 1],
            0.3,
        ),
        ("nothing to train on", NOTHING, (0.2, 0.2), [1.0, -1.0], None, 0.3),
    ]
    for name, mask, (low, high), advantages, scored, distance in situations:
        label = f"objective/{part}/{name}"
        old = draw(f"{label}/old", mask, *LOGP)
        change = draw(f"{label}/change", mask, -1000 * distance, 1000 * distance)
        logp = grid(mask, lambda b, t, old=old, change=change: round(old[b][t] + change[b][t] / 1000, 7))
        inputs = {"logprobs": logp, "old_logprobs": old, "advantages": advantages}
        options = {"clip_low": low, "clip_high": high}
        made.append(row_case(part, formula, name, inputs, mask, options, scored))
    label = f"objective/{part}/steps"
    inputs = {"logprobs": draw(f"{label}/1", UNEVEN, *LOGP), "old_logprobs": draw(f"{label}/2", UNEVEN, *LOGP)}
    inputs["advantages"] = draw(f"{label}/3", UNEVEN, *SIGNED)
    options = {"clip_low": 0.2, "clip_high": 0.2}
    made.append(row_case(part, formula, "an advantage per step is averaged", inputs, UNEVEN, options))
    return made


def pair_case(name, inputs, mask, pairs, beta, smoothing=0.0):
    rho = [
        sum(inputs["logprobs"][b][t] - inputs["reference_logprobs"][b][t] for t, m in enumerate(row) if m)
        for b, row in enumerate(mask)
    ]
    # A pair counts if both of its rows have a trained step.
    counted = [any(mask[w]) and any(mask[l]) for w, l in pairs]  # noqa: E741
    values, gradient = [None] * len(mask), [[0.0] * len(row) for row in mask]
    for (chosen, rejected), counts in zip(pairs, counted, strict=True):
        if not counts:
            continue
        value, slope = ref.pair_logistic(rho[chosen] - rho[rejected], beta, smoothing)
        values[chosen] = value
        for row, sign in ((chosen, 1.0), (rejected, -1.0)):
            for t, m in enumerate(mask[row]):
                gradient[row][t] = sign * slope / sum(counted) * m
    told = [v for v in values if v is not None]
    expect = {"loss": sum(told) / max(len(told), 1)} | ({"per_step": values} if told else {})
    options = {"beta": beta} | ({"label_smoothing": smoothing} if smoothing else {})
    inputs = {**inputs, "mask": mask, "pairs": pairs}
    expect["grad_logprobs"] = gradient
    return case("objective", "pair_logistic", name, inputs, expect, options=options, reduction="row_mean")


def pair_cases():
    made = []
    for name, mask, pairs, beta, smoothing in (
        ("two pairs of uneven rows", UNEVEN, [[0, 1], [3, 2]], 0.1, 0.0),
        ("labels that may be wrong", UNEVEN, [[2, 0], [1, 3]], 0.5, 0.1),
        ("a row in no pair", HOLED[:2] + HOLED[3:], [[2, 0]], 0.2, 0.0),
        ("steps of others are left out", HOLED[:2], [[1, 0]], 0.3, 0.0),
        ("a pair with a side that is not trained on does not count", HOLED, [[0, 2], [3, 1]], 0.2, 0.0),
    ):
        label = f"objective/pair_logistic/{name}"
        inputs = {key: draw(f"{label}/{key}", mask, *LOGP) for key in ("logprobs", "reference_logprobs")}
        made.append(pair_case(name, inputs, mask, pairs, beta, smoothing))
    same = draw("objective/pair_logistic/same", UNEVEN, *LOGP)
    inputs = {"logprobs": same, "reference_logprobs": same}
    made.append(pair_case("policy and reference are equal: log 2", inputs, UNEVEN, [[0, 1], [2, 3]], 0.1))
    return made


def importance_cases():
    made = []
    for name, mask, cap in (
        ("uneven rows, capped at 2", UNEVEN, 2.0),
        ("steps of others", HOLED, 1.3),
        ("without a cap", UNEVEN, "inf"),
    ):
        label = f"objective/truncated_importance/{name}"
        old, behaviour = (draw(f"{label}/{key}", mask, *LOGP) for key in ("old", "behaviour"))
        weights = grid(mask, lambda b, t, o=old, s=behaviour, c=cap: min(ref.exp(o[b][t] - s[b][t]), float(c)))
        inputs = {"old_logprobs": old, "behaviour_logprobs": behaviour, "mask": mask}
        made.append(case("objective", "truncated_importance", name, inputs, {"weights": weights}, options={"cap": cap}))
    return made


def objective():
    logp, pair = {"logprobs": LOGP}, {"logits": None, "teacher_logits": None}
    distilled = {"logprobs": LOGP, "old_logprobs": LOGP, "teacher_logprobs": LOGP}
    value = {"values": SIGNED, "returns": SIGNED}
    return [
        *step_cases("objective", "policy_gradient", ref.policy_gradient, {"logprobs": LOGP, "advantages": SIGNED}),
        from_logits(),
        *step_cases("objective", "clipped_surrogate", ref.clipped_surrogate, CLIP),
        *every_branch(),
        *row_cases("geometric_sequence_surrogate", ref.geometric_surrogate, 2e-3),
        *row_cases("product_sequence_surrogate", ref.product_surrogate, 1e-3),
        *importance_cases(),
        *pair_cases(),
        *step_cases("objective", "negative_log_likelihood", lambda x: (-x, -1.0), logp),
        *step_cases("objective", "full_reverse_kl", ref.reverse_kl, pair),
        *(
            one
            for beta in (0.5, 0.1)
            for one in step_cases(
                "objective", "generalised_jensen_shannon", lambda x, y, beta=beta: ref.jensen_shannon(x, y, beta), pair,
                {"beta": beta},
            )
        ),
        *step_cases("objective", "sampled_reverse_kl", ref.sampled_reverse_kl, distilled),
        *step_cases("objective", "squared_value_error", ref.squared_value_error, value),
        *step_cases(
            "objective", "squared_value_error", lambda v, g, old: ref.squared_value_error(v, g, old, 0.3),
            {**value, "old_values": SIGNED}, {"clip": 0.3},
        ),
    ]  # fmt: skip


def constraint():
    close = {"logprobs": LOGP, "reference_logprobs": LOGP}
    anchored = {"logprobs": LOGP, "old_logprobs": LOGP, "reference_logprobs": LOGP}
    full = {"logits": None, "reference_logits": None}
    return [
        *step_cases("constraint", "kl_to_reference", ref.kl_to_reference, anchored),
        *step_cases("constraint", "k1_loss", ref.k1, close),
        *step_cases("constraint", "k2_loss", ref.k2, close),
        *step_cases("constraint", "k3_loss", ref.k3, close),
        *step_cases("constraint", "exact_kl", ref.reverse_kl, full),
        *step_cases("constraint", "exact_kl", ref.forward_kl, full, {"first": "reference", "second": "policy"}),
        *step_cases("constraint", "entropy", ref.entropy, {"logits": None}),
    ]
