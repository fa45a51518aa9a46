"""Cases of losses over whole groups and of advantages of groups."""

import reference_formulas as ref
from vector_cases import LOGP, NOTHING, UNEVEN, case, draw, scored_mask, zeros
from vector_losses import step_case, step_cases
from vector_rows import FIVE, GROUPS

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


def negative_case(situation, options=None, *, sequence=False):
    """Ratios of right and of implied wrong policies; the share of right rows is that of the group's counted ones."""
    mask, group, rewards, scored = SITUATIONS[situation]
    counted, part = scored_mask(mask, scored), f"{'sequence_' if sequence else ''}implicit_negative"
    label = f"objective/{part}/{situation}/{options}"
    inputs = {key: draw(f"{label}/{key}", mask, *LOGP) for key in ("logprobs", "old_logprobs")}
    places = [[t for t, m in enumerate(row) if m] for row in counted]
    weights = ref.row_weights([bool(p) for p in places]) if sequence else ref.weights("sequence_mean", counted)
    values = [None if sequence else [None] * len(row) for row in mask]
    gradient, loss = [zeros(row) for row in mask], 0.0
    for one in sorted(set(group)):
        rows = [b for b in range(len(mask)) if group[b] == one and places[b]]
        change = [[inputs["logprobs"][b][t] - inputs["old_logprobs"][b][t] for t in places[b]] for b in rows]
        told = [[sum(c)] for c in change] if sequence else change
        found = by_hand.negative(told, [rewards[b] for b in rows], **(options or {})) if rows else []
        for b, pairs in zip(rows, found, strict=True):
            if sequence:
                values[b], slope = pairs[0]
                loss += weights[b] * values[b]
                gradient[b] = [weights[b] * slope * (t in places[b]) for t in range(len(mask[b]))]
                continue
            for t, (value, slope) in zip(places[b], pairs, strict=True):
                values[b][t], gradient[b][t] = value, weights[b][t] * slope
                loss += weights[b][t] * value
    expect = {"loss": loss} | ({"per_step": values} if any(places) else {}) | {"grad_logprobs": gradient}
    inputs |= {"rewards": rewards, "group": group, "mask": mask, **({"scored": scored} if scored else {})}
    more = {"options": options} if options else {}
    name = f"{situation}{f' ({options})' if options else ''}"
    reduction = "row_mean" if sequence else "sequence_mean"
    return case("objective", part, name, inputs, expect, **more, reduction=reduction)


def negatives():
    every = {"negative": 0.3, "floor_right": 0.9, "floor_wrong": 0.7, "least": 0.4, "threshold": 0.05}
    first, second = list(SITUATIONS)[:2]
    made = [negative_case(name) for name in SITUATIONS]
    made += [negative_case(name, {"weighting": "root"}) for name in (first, second)]
    made += [negative_case(first, {"weighting": "none", **every})]
    made += [negative_case(name, sequence=True) for name in SITUATIONS]
    return [*made, negative_case(first, {"weighting": "root", **every}, sequence=True)]


def balanced_case(name, mask, options=None, scored=None, lean=0.0):
    label, counted = f"objective/balanced_clip/{name}", scored_mask(mask, scored)
    inputs = {key: draw(f"{label}/{key}", mask, *LOGP) for key in ("logprobs", "old_logprobs")}
    inputs["advantages"] = draw(f"{label}/advantages", mask, -1.5 + lean, 1.5 + lean)
    places = [(b, t) for b, row in enumerate(counted) for t, m in enumerate(row) if m]
    ratios = [ref.exp(inputs["logprobs"][b][t] - inputs["old_logprobs"][b][t]) for b, t in places]
    searched = {k: v for k, v in (options or {}).items() if k != "dual_clip"}
    low, high = by_hand.balanced_bounds(ratios, [inputs["advantages"][b][t] for b, t in places], **searched)
    dual = (options or {}).get("dual_clip")

    def formula(x, old, advantage):
        return ref.clipped_surrogate(x, old, advantage, 1 - low, high - 1, dual)

    return step_case("objective", "balanced_clip", name, formula, inputs, mask, "token_mean", options, scored=scored)


def balances():
    every = {"low": 0.5, "low_end": 0.8, "low_by": 0.1, "high": 1.1, "high_end": 1.7, "high_by": 0.2}
    return [
        balanced_case("in balance at once", UNEVEN, lean=1.0),
        balanced_case("both bounds are searched", UNEVEN, lean=-0.7),
        balanced_case("other bounds", SIX, {**every, "share": 0.6}, lean=-0.4),
        balanced_case("counting steps that are not clipped", SIX, {"counted": "gradient", "share": 0.5}, lean=-0.3),
        balanced_case("the quotient", SIX, {"quotient": True, "share": 0.8}, lean=-0.3),
        balanced_case("as released", SIX, {"quotient": True, "first": "low", "dual_clip": 3.0}, lean=-0.6),
        balanced_case("an unscored row", UNEVEN, None, [1, 0, 1, 1], lean=-0.5),
        balanced_case("nothing to train on", NOTHING),
    ]


def alignments():
    columns = {"logprobs": LOGP, "reference_logprobs": LOGP, "advantages": (-1.5, 1.5)}
    renamed = {"logprobs": LOGP, "old_logprobs": LOGP, "advantages": (-1.5, 1.5)}

    def aligned(temperature):
        return lambda x, f, a: ((x - f - a / temperature) ** 2, 2 * (x - f - a / temperature))

    options = {"temperature": 0.5, "anchor": "old"}
    return [
        *step_cases("objective", "advantage_alignment", aligned(0.1), columns),
        *step_cases("objective", "advantage_alignment", aligned(0.5), renamed, options),
    ]


def drifts():
    k3 = lambda x, o: (o - x + ref.exp(x - o) - 1, ref.exp(x - o) - 1)  # noqa: E731
    ranges = {"logprobs": LOGP, "old_logprobs": LOGP}
    made = [
        *step_cases("constraint", "drift_from_old", lambda x, o: (o - x, -1.0), ranges),
        *step_cases("constraint", "drift_from_old", k3, ranges, {"estimator": "k3"}),
    ]
    for name, mask, options in (
        ("above the limit", UNEVEN, {"scale": 10.0, "limit": 1e-3}),
        ("k3", UNEVEN, {"scale": 10.0, "limit": 0.01, "estimator": "k3"}),
        ("below the limit", UNEVEN, {"scale": 10.0, "limit": 5.0}),
        ("nothing to train on", NOTHING, {"scale": 10.0, "limit": 0.0}),
    ):
        label = f"constraint/squared_hinge/{name}"
        inputs = {key: draw(f"{label}/{key}", mask, *LOGP) for key in ("logprobs", "old_logprobs")}
        gaps = [
            o - x
            for xs, os in zip(inputs["logprobs"], inputs["old_logprobs"], strict=True)
            for x, o in zip(xs, os, strict=True)
            if x is not None
        ]
        if options.get("estimator") == "k3":
            gaps = [g + ref.exp(-g) - 1 for g in gaps]
        mean = sum(gaps) / max(len(gaps), 1)
        expect = {"weights": options["scale"] * max(mean - options["limit"], 0.0)}
        made.append(case("constraint", "squared_hinge", name, {**inputs, "mask": mask}, expect, options=options))
    return made


def credit_case(part, name, formula, group, rewards, scored, options, **more):
    advantage = formula(rewards, group, scored or [1] * len(group), **more.get("given", {}), **options)
    steps = [[a if m else 0.0 for m in row] for a, row in zip(advantage, FIVE, strict=True)]
    inputs = {"rewards": rewards, "group": group, "mask": FIVE, **({"scored": scored} if scored else {})}
    inputs |= more.get("inputs", {})
    held = {"options": options} if options else {}
    label = f"{name} ({options})" if options else name
    return case("credit", part, label, inputs, {"advantages": steps}, **held)


def betas():
    made, formula = [], by_hand.beta_normalised
    for name, (group, rewards, scored) in GROUPS.items():
        inside = [min(max(r, 0.0), 1.0) for r in rewards]
        made.append(credit_case("beta_normalised", name, formula, group, inside, scored, {}))
        options = {"alpha": 1.5, "beta": 2.0, "low": -2.0, "high": 9.0}
        made.append(credit_case("beta_normalised", name, formula, group, rewards, scored, options))
    group, first, second = [0, 0, 1, 1, 1], [1.0, 0.0, 0.0, 1.0, 1.0], [0.2, 0.4, 0.9, 0.1, 0.3]
    parts = [by_hand.beta_normalised(rewards, group, [1] * 5) for rewards in (first, second)]
    advantage = [(a + b) / 2 for a, b in zip(*parts, strict=True)]
    places = [[t for t, m in enumerate(row) if m][-1] for row in FIVE]
    columns = [
        [[r if t == p else 0.0 for t in range(3)] for r, p in zip(x, places, strict=True)] for x in (first, second)
    ]
    inputs = {"reward:first": columns[0], "reward:second": columns[1], "group": group, "mask": FIVE}
    expect = {"advantages": [[a if m else 0.0 for m in row] for a, row in zip(advantage, FIVE, strict=True)]}
    options = {"rewards": ["reward:first", "reward:second"]}
    made.append(
        case("credit", "beta_normalised", "two rewards, each normalised apart", inputs, expect, options=options)
    )
    return made


def scales():
    made = []
    for name, (group, rewards, scored) in GROUPS.items():
        for source in ([0, 0, 3, 0, 3], [0, 3, 0, 0, 0]):
            more = {"given": {"source": source}, "inputs": {"source": source}}
            for options in ({}, {"epsilon": 0.1, "bound": 1.2}, {"ddof": 1, "bound": None}):
                if options.get("ddof") and any(_few(group, scored, source)):
                    continue
                label = f"{name}, rows {[b for b in range(5) if source[b]]} given"
                made.append(
                    credit_case("on_own_scale", label, by_hand.on_own_scale, group, rewards, scored, options, **more)
                )
    return made


EIGHT = [[1, 1, 0], [1, 0, 0], [1, 1, 1], [0, 1, 1]] * 2


def risk_case(name, group, rewards, scored=None, held=None, **options):
    advantage = by_hand.risk(rewards, group, scored or [1] * 8, held, **options)
    steps = [[a if m else 0.0 for m in row] for a, row in zip(advantage, EIGHT, strict=True)]
    inputs = {"rewards": rewards, "group": group, "mask": EIGHT, **({"scored": scored} if scored else {})}
    inputs |= {"cells": {"quantiles of bundles": held}} if held else {}
    label = f"{name} ({options})" if options else name
    more = {"options": options} if options else {}
    return case("credit", "risk_advantage", label, inputs, {"advantages": steps}, **more)


def risks():
    rewards, graded = [1.0, 0.0, 0.0, 1.0, 1.0, 0.0, 1.0, 0.0], [0.3, 1.2, 0.7, 0.1, 2.0, 0.4, 0.9, 0.6]
    made = [
        risk_case("two tasks, four papers", [0, 1] * 4, rewards),
        risk_case("quantiles of earlier rounds", [0, 1] * 4, graded, held=[0.5, 1.7]),
        risk_case("an unscored row leaves its paper", [3, 3, 3, 3, 1, 1, 1, 1], graded, [1, 1, 0, 1, 1, 1, 1, 1]),
        risk_case("papers that are all alike", [0, 1] * 4, [1.0, 0.0] * 4),
        risk_case("one paper", [0, 1, 2, 3, 4, 5, 6, 7], graded, size=8),
    ]
    for sharing in ("uniform", "deviation", "share", "absolute_share"):
        for size in (1, 2):
            made.append(risk_case("bundles", [5, 2, 9, 4] * 2, graded, held=[0.6, 1.5], size=size, sharing=sharing))
    every = {"alpha": 0.3, "beta": 0.6, "tail": 0.5, "natural": False, "epsilon": 0.1, "rate": 0.5}
    return [*made, risk_case("other options", [0, 1] * 4, graded, **every)]


def _few(group, scored, source):
    """Whether each group has a single own row."""
    known = scored or [1] * len(group)
    return [sum(1 for b in range(len(group)) if group[b] == g and known[b] and not source[b]) < 1 for g in set(group)]


def whitened():
    made = []
    for name, mask, epsilon, scored in (
        ("uneven rows", UNEVEN, 1e-8, None),
        ("steps of others", SIX, 0.1, None),
        ("an unscored row", UNEVEN, 1e-8, [1, 0, 1, 1]),
    ):
        raw = draw(f"credit/whitened_advantage/{name}", mask, -1.5, 1.5)
        inputs = {"advantages": raw, "mask": mask, **({"scored": scored} if scored else {})}
        expect = {
            "advantages": ref.whitened([[a or 0.0 for a in row] for row in raw], scored_mask(mask, scored), epsilon)
        }
        made.append(case("credit", "whitened_advantage", name, inputs, expect, options={"epsilon": epsilon}))
    return made


def shaped():
    made = []
    for name, rewards, scored, options in (
        ("on both sides of the threshold", [0.0, 0.5, 0.79, 0.8, 1.0], None, {}),
        ("an unscored row", [0.2, 0.9, 0.4, 0.6, 0.1], [1, 0, 1, 1, 1], {}),
        ("other options", [0.1, 0.3, 0.5, 0.7, 1.1], None, {"threshold": 0.5, "alpha": 2.0, "slope": 0.3}),
    ):
        threshold, alpha, slope = (options.get(k, d) for k, d in (("threshold", 0.8), ("alpha", 1.0), ("slope", 0.01)))
        found = []
        for b, r in enumerate(rewards):
            if scored and not scored[b]:
                found.append(r)
            elif r >= threshold:
                found.append(threshold + slope * ref.log(r - threshold + 1))
            else:
                found.append(threshold - (ref.exp(alpha * (threshold - r)) - 1) / (ref.exp(alpha) - 1))
        inputs = {"rewards": rewards, "mask": FIVE, **({"scored": scored} if scored else {})}
        more = {"options": options} if options else {}
        made.append(case("reward", "asymmetric_shaping", name, inputs, {"rewards": found}, **more))
    return made


def capped():
    made = []
    for name, rewards, source, cap in (
        ("rows of the data", [1.0, 0.5, 0.9, 1.0, 0.2], [0, 3, 3, 3, 0], 0.8),
        ("own rows only", [1.0, 0.5, 0.9, 1.0, 0.2], [0] * 5, 0.3),
        ("of several origins", [1.0, 0.5, 0.9, 1.0, 0.2], [1, 2, 3, 4, 0], 0.6),
    ):
        found = [min(r, cap) if s else r for r, s in zip(rewards, source, strict=True)]
        inputs = {"rewards": rewards, "source": source, "mask": FIVE}
        made.append(case("reward", "capped_given", name, inputs, {"rewards": found}, options={"cap": cap}))
    return made


def routed():
    made = []
    for name, group, rewards, source, kept, options in (
        ("all wrong, mixed, all right", [1, 1, 2, 2, 3], [0, 1, 1, 0, 1], [0, 3, 0, 0, 0], [1, 2, 3], {}),
        ("the row of the data counts as no attempt", [1, 1, 1, 2, 2], [1, 1, 0, 0, 0], [0, 0, 3, 0, 3], [4], {}),
        ("a threshold", [1, 1, 2, 2, 2], [0.3, 0.1, 0.05, 0.1, 1], [0, 0, 0, 0, 3], [0, 1, 4], {"threshold": 0.2}),
    ):
        inputs = {"rewards": rewards, "group": group, "source": source, "mask": FIVE}
        more = {"options": options} if options else {}
        made.append(case("selection", "routed_rows", name, inputs, {"kept": kept}, **more))
    return made


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
    return [
        *losses(),
        *negatives(),
        *balances(),
        *alignments(),
        *drifts(),
        *betas(),
        *scales(),
        *risks(),
        *whitened(),
        *shaped(),
        *capped(),
        *routed(),
        *averages(),
    ]
