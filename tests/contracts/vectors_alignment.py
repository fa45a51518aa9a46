"""Cases of preferences between contexts and of matched orders."""

from vector_cases import HOLED, LOGP, SIGNED, UNEVEN, case, draw, zeros

import loops_pairs as by_hand

ROLES = ("reference", "blind", "blind_reference")


def context_case(name, mask, options):
    label, beta, by = f"objective/context_preference/{name}", options.get("beta", 0.1), options.get("by")
    roles = [options.get(key, role) for key, role in zip(("anchor", "other", "other_anchor"), ROLES, strict=True)]
    inputs = {"logprobs": draw(f"{label}/new", mask, *LOGP)}
    inputs |= {f"{role}_logprobs": draw(f"{label}/{role}", mask, *LOGP) for role in roles}
    if by:
        inputs[by] = draw(f"{label}/by", mask, *SIGNED)
    anchor, other, other_anchor = (inputs[f"{role}_logprobs"] for role in roles)
    gradient, values = [zeros(row) for row in mask], [None] * len(mask)
    rows = [b for b, row in enumerate(mask) if any(row)]
    for b in rows:
        places = [t for t, m in enumerate(mask[b]) if m]
        weight = {t: inputs[by][b][t] if by else 1.0 for t in places}
        gain = {t: inputs["logprobs"][b][t] - anchor[b][t] - other[b][t] + other_anchor[b][t] for t in places}
        margin = beta * sum(weight[t] * gain[t] for t in places)
        values[b] = by_hand.softplus(-margin)
        for t in places:
            gradient[b][t] = -by_hand.sigmoid(-margin) * beta * weight[t] / len(rows)
    expect = {"loss": sum(values[b] for b in rows) / len(rows), "per_step": values, "grad_logprobs": gradient}
    inputs["mask"] = mask
    return case("objective", "context_preference", name, inputs, expect, options=options, reduction="row_mean")


def cases():
    return [
        context_case("uneven rows", UNEVEN, {"beta": 0.5}),
        context_case("weights of steps", UNEVEN, {"by": "severity"}),
        context_case(
            "other roles, an empty row",
            HOLED,
            {"anchor": "old", "other": "reference", "other_anchor": "teacher", "beta": 1.5},
        ),
    ]
