"""Cases of losses over whole groups and of advantages of groups."""

from vector_cases import LOGP, NOTHING, case, draw, scored_mask, zeros

import loops_groups as by_hand

SIX = [[1, 1, 1, 1], [1, 0, 0, 0], [1, 1, 0, 0], [0, 1, 1, 0], [1, 1, 1, 0], [1, 1, 0, 0]]
SITUATIONS = {
    "interleaved groups of uneven rows": (SIX, [4, 1, 4, 1, 4, 1], [1.0, 0.0, 0.0, 1.0, 1.0, 0.0], None),
    "a group of one and a group of equal rewards": (SIX, [0, 1, 1, 2, 2, 2], [1.0, 1.0, 1.0, 1.0, 0.0, 0.0], None),
    "an unscored row leaves its group": (SIX, [0, 0, 0, 1, 1, 1], [1.0, 9.0, 0.0, 0.0, 1.0, 0.0], [1, 0, 1, 1, 1, 1]),
    "graded rewards": (SIX, [0, 0, 0, 1, 1, 1], [0.9, 0.1, 0.6, 0.2, 0.55, 0.4], None),
    "nothing to train on": (NOTHING, [0, 0], [1.0, 0.0], None),
}


def group_loss(part, formula, situation, options=None, anchor="old", reduction="group_mean", **given):
    """A loss of the rows of each group. x: the sum of log pi - log anchor over a row's counted steps, or without an
    anchor their mean log pi. Extra numbers: own steps of every row."""
    mask, group, rewards, scored = SITUATIONS[situation]
    counted = scored_mask(mask, scored)
    label = f"objective/{part}/{situation}/{options}"
    inputs = {"logprobs": draw(f"{label}/new", mask, *LOGP)}
    if anchor:
        inputs[f"{anchor}_logprobs"] = draw(f"{label}/anchor", mask, *LOGP)
    values, gradient = [None] * len(mask), [zeros(row) for row in mask]
    places = [[t for t, m in enumerate(row) if m] for row in counted]
    rows = [b for b in range(len(mask)) if places[b]]
    groups = sorted({group[b] for b in rows})
    weight = 1 / max(len(groups), 1) if reduction == "group_mean" else 1 / max(len(rows), 1)
    for one in groups:
        mine = [b for b in rows if group[b] == one]
        whole = [sum(inputs["logprobs"][b][t] for t in places[b]) for b in mine]
        if anchor:
            held = [sum(inputs[f"{anchor}_logprobs"][b][t] for t in places[b]) for b in mine]
            x = [a - c for a, c in zip(whole, held, strict=True)]
        else:
            x = [a / len(places[b]) for a, b in zip(whole, mine, strict=True)]
        extra = [sum(mask[b]) for b in mine]
        found, slopes = formula(x, [rewards[b] for b in mine], extra, **given)
        for b, value, slope in zip(mine, found, slopes, strict=True):
            values[b] = value
            for t in places[b]:
                gradient[b][t] = weight * slope / (1 if anchor else len(places[b]))
    told = [v for v in values if v is not None]
    expect = {"loss": weight * sum(told)} | ({"per_step": values} if told else {})
    expect["grad_logprobs"] = gradient
    inputs |= {"rewards": rewards, "group": group, "mask": mask, **({"scored": scored} if scored else {})}
    more = {"options": options} if options else {}
    name = f"{situation}{f' ({options})' if options else ''}"
    return case("objective", part, name, inputs, expect, **more, reduction=reduction)


def group_losses(part, formula, *variants, anchor="old", reduction="group_mean"):
    """Every situation with default options, and two of them with each of the variants: dictionaries of options."""
    made = [group_loss(part, formula, name, anchor=anchor, reduction=reduction) for name in SITUATIONS]
    for options in variants:
        given = {name: float(v) if v == "inf" else v for name, v in options.items() if name != "anchor"}
        used = None if options.get("mean_logp") else options.get("anchor", anchor)
        given.pop("mean_logp", None)
        for name in list(SITUATIONS)[:2]:
            made.append(group_loss(part, formula, name, options, used, reduction, **given))
    return made


def discriminative(x, rewards, steps, *, bonus=None, temperature=10.0, sharpness=0.1, threshold=0.5):
    extra = [1 - n / 8192 if bonus is None else bonus for n in steps]
    return by_hand.discriminative(x, rewards, extra, temperature=temperature, sharpness=sharpness, threshold=threshold)


def losses():
    return [
        *group_losses(
            "implicit_classifier",
            by_hand.classifier,
            {"beta": 0.3, "threshold": 0.05},
            {"comparison": "standardised", "epsilon": 0.01, "balanced": False},
            {"comparison": "none", "mean_logp": True},
            reduction="row_mean",
        ),
        *group_losses("implicit_regression", by_hand.regression, {"beta": 0.5, "anchor": "reference"}, {"pairs": True}),
        *group_losses("joint_pair_surrogate", by_hand.joint, {"clip": 0.7}, {"clip": "inf"}, reduction="row_mean"),
        *group_losses(
            "right_wrong_preference", by_hand.preference, {"beta": 0.3, "threshold": 0.05}, anchor="reference"
        ),
        *group_losses(
            "equivalent_preference",
            by_hand.equivalent,
            {"beta": 0.4, "spread": 0.2, "threshold": 0.05},
            anchor="reference",
        ),
        *group_losses(
            "discriminative_scores",
            discriminative,
            {"temperature": 0.5, "sharpness": 1e-4},
            {"temperature": "inf", "sharpness": "inf", "threshold": 0.05},
            {"bonus": 0.3},
            anchor=None,
        ),
    ]


def averages():
    made = []
    for name, (mask, group) in {
        "groups of two and three": ([1, 1, 1, 1, 1], [3, 5, 3, 5, 5]),
        "a group without a counted row does not count": ([1, 0, 0, 1, 1], [3, 5, 5, 3, 7]),
        "nothing": ([0, 0], [1, 2]),
    }.items():
        losses_ = draw(f"update/group_mean/{name}", [mask], -1.5, 1.5)[0]
        count = len({g for g, m in zip(group, mask, strict=True) if m})
        weights = [m / max(count, 1) for m in mask]
        total = sum(w * (x or 0.0) for w, x in zip(weights, losses_, strict=True))
        inputs = {"mask": mask, "losses": losses_, "group": group}
        made.append(case("update", "group_mean", name, inputs, {"weights": weights, "loss": total}))
    return made


def cases():
    return [*losses(), *averages()]
