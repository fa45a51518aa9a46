"""Cases of preferences between contexts and of matched orders."""

import math

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


def places(mask, b):
    return [t for t, m in enumerate(mask[b]) if m]


def begun(part, name, mask, roles):
    """Inputs, and the sum of every row under each of the roles."""
    inputs = {f"{role}_logprobs".removeprefix("policy_"): draw(f"{part}/{name}/{role}", mask, *LOGP) for role in roles}
    sums = [[sum(row[t] for t in places(mask, b)) for b, row in enumerate(grid)] for grid in inputs.values()]
    return inputs, sums, [None] * len(mask), [zeros(row) for row in mask]


def finished(part, name, inputs, values, gradient, options=None):
    told = [v for v in values if v is not None]
    expect = {"loss": sum(told) / len(told), "per_step": values, "grad_logprobs": gradient}
    return case("objective", part, name, inputs, expect, options=options or {}, reduction="row_mean")


def odds_case(name, mask, pairs):
    inputs, (total,), values, gradient = begun("odds_preference", name, mask, ("policy",))
    counted = [tuple(pair) for pair in pairs if all(any(mask[b]) for b in pair)]
    for w, l in counted:  # noqa: E741
        chance = {b: math.exp(total[b] / len(places(mask, b))) for b in (w, l)}
        said = {b: math.log(p / (1 - p)) for b, p in chance.items()}
        values[w] = by_hand.softplus(said[l] - said[w])
        for b, sign in ((w, -1), (l, 1)):
            outer = sign * by_hand.sigmoid(said[l] - said[w]) / (1 - chance[b]) / len(places(mask, b)) / len(counted)
            for t in places(mask, b):
                gradient[b][t] = outer
    return finished("odds_preference", name, {**inputs, "mask": mask, "pairs": pairs}, values, gradient)


def margins_case(name, mask, pairs, options):
    inputs, sums, values, gradient = begun("sorted_margins", name, mask, ("policy", "reference"))
    counted = [tuple(pair) for pair in pairs if all(any(mask[b]) for b in pair)]
    own, level = ({pair: total[pair[0]] - total[pair[1]] for pair in counted} for total in sums)
    beta, link = options.get("beta", 0.1), options.get("link", "logistic")
    for pair, held in zip(sorted(own, key=own.__getitem__), sorted(level.values()), strict=True):
        values[pair[0]], slope = by_hand.link(beta * (own[pair] - held), link)
        for b, sign in zip(pair, (1, -1), strict=True):
            for t in places(mask, b):
                gradient[b][t] = sign * beta * slope / len(counted)
    inputs |= {"mask": mask, "pairs": pairs}
    return finished("sorted_margins", name, inputs, values, gradient, options)


def sides_case(name, mask, good, options):
    inputs, (own, held), values, gradient = begun("sorted_sides", name, mask, ("policy", "reference"))
    rows = [b for b, row in enumerate(mask) if any(row)]
    change = {b: own[b] - held[b] for b in rows}
    first, second = (sorted((b for b in rows if good[b] is side), key=change.__getitem__) for side in (True, False))
    beta, link, count = options.get("beta", 0.1), options.get("link", "logistic"), max(len(first), len(second))
    for b in rows:
        values[b] = 0.0
    for k in range(count):
        w, l = first[k * len(first) // count], second[k * len(second) // count]  # noqa: E741
        cost, slope = by_hand.link(beta * (change[w] - change[l]), link)
        values[w] += cost * len(rows) / count
        for b, sign in ((w, 1), (l, -1)):
            for t in places(mask, b):
                gradient[b][t] += sign * beta * slope / count
    inputs |= {"mask": mask, "label": [float(g) for g in good]}
    return finished("sorted_sides", name, inputs, values, gradient, options)


def cases():
    two, skewed = [[0, 1], [3, 2]], [True, False, False, True]
    return [
        odds_case("uneven rows", UNEVEN, two),
        odds_case("one pair", UNEVEN[:2], [[1, 0]]),
        odds_case("an untrained side", HOLED, [[0, 1], [3, 2]]),
        margins_case("uneven rows", UNEVEN, two, {"beta": 0.5}),
        margins_case("a hinge", UNEVEN, [[2, 0], [3, 1]], {"link": "hinge"}),
        margins_case("an untrained side", HOLED, two, {"link": "squared", "beta": 0.3}),
        sides_case("as many on both sides", UNEVEN, skewed, {"beta": 0.5}),
        sides_case("three against one", UNEVEN, [True, False, True, True], {"link": "squared"}),
        sides_case("an untrained row", HOLED, skewed, {"column": "label", "beta": 1.5}),
        context_case("uneven rows", UNEVEN, {"beta": 0.5}),
        context_case("weights of steps", UNEVEN, {"by": "severity"}),
        context_case(
            "other roles, an empty row",
            HOLED,
            {"anchor": "old", "other": "reference", "other_anchor": "teacher", "beta": 1.5},
        ),
    ]
