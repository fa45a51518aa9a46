"""Cases of graded rewards, of rows and steps that are pruned by their advantages, and of entropies."""

import math

import reference_formulas as ref
from vector_cases import HOLED, NOTHING, SIGNED, SINGLE, UNEVEN, case, draw, draw_logits
from vector_losses import step_case
from vector_rows import on_last

LASTING = [[1, 1, 1], [1, 0, 0], [1, 1, 0], [0, 1, 1], [1, 1, 1]]


# -- rewards -----------------------------------------------------------------------------------------------------------
def rewards():
    made = []
    errors, before = [0.0, 0.25, 0.5, 0.4999, 3.0], [1.0, 0.0, 1.0, 1.0, 0.5]
    for name, scored, options in (
        ("as published: a jump at half", None, {}),
        ("a wider limit and another height", None, {"limit": 0.6, "most": 1.0}),
        ("an unscored row gets nothing", [1, 0, 1, 1, 1], {"limit": 0.3}),
        ("an error of another name", None, {"head": "gap"}),
    ):
        limit, most, head = options.get("limit", 0.5), options.get("most", 1.5), options.get("head", "error")
        known = scored or [1] * 5
        worth = [most - e if e < limit and s else 0.0 for e, s in zip(errors, known, strict=True)]
        inputs = {f"reward:{head}": on_last(LASTING, errors), "rewards": before, "mask": LASTING}
        inputs |= {"scored": scored} if scored else {}
        expect = {"rewards": [a + b for a, b in zip(before, worth, strict=True)]}
        made.append(case("reward", "fuzzy_error", name, inputs, expect, options=options))
    lengths = [sum(row) for row in LASTING]
    for name, scored, options in (
        ("half the limit", None, {"weight": 0.5, "limit": 6}),
        ("never more than the weight", None, {"weight": 0.2, "limit": 2}),
        ("an unscored row gets nothing", [1, 1, 1, 0, 1], {"weight": -0.1, "limit": 3}),
    ):
        known = scored or [1] * 5
        bonus = [
            options["weight"] * min(n / options["limit"], 1.0) if s else 0.0
            for n, s in zip(lengths, known, strict=True)
        ]
        inputs = {"rewards": before, "mask": LASTING, **({"scored": scored} if scored else {})}
        expect = {"rewards": [a + b for a, b in zip(before, bonus, strict=True)]}
        made.append(case("reward", "length_bonus", name, inputs, expect, options=options))
    return made


# -- pruning -----------------------------------------------------------------------------------------------------------
TEN = [[1, 1], [1, 0], [1, 1], [1, 1], [1, 0], [1, 1], [1, 1], [1, 1], [1, 0], [1, 1]]
GROUP = [0, 1, 0, 1, 0, 1, 0, 0, 1, 0]
ADVANTAGE = [0.9, -0.2, -1.4, 0.2, 0.9, 0.0, -0.1, -0.3, 1.1, 0.4]


def whole(share, count):
    return max(1, math.floor(share * count + 1e-9))


def largest():
    made = []
    for name, scored, options in (
        ("half of every group", None, {}),
        ("a tenth of ten is one", None, {"keep": 0.1, "by": "round"}),
        ("the smallest, over the round", None, {"keep": 0.3, "pick": "smallest", "by": "round"}),
        ("an unscored row is never kept", [1, 1, 0, 1, 1, 1, 1, 1, 0, 1], {"keep": 0.34}),
        ("all", None, {"keep": 1.0}),
    ):
        known, kept = scored or [1] * 10, []
        groups = [0] * 10 if options.get("by") == "round" else GROUP
        sign = 1 if options.get("pick") == "smallest" else -1
        for one in sorted(set(groups)):
            rows = [b for b in range(10) if groups[b] == one and known[b]]
            order = sorted(rows, key=lambda b, sign=sign: sign * abs(ADVANTAGE[b]))
            kept += order[: whole(options.get("keep", 0.5), len(rows))]
        inputs = {"advantages": ADVANTAGE, "group": GROUP, "mask": TEN, **({"scored": scored} if scored else {})}
        made.append(case("selection", "largest_advantages", name, inputs, {"kept": sorted(kept)}, options=options))
    return made


def variance(values):
    mean = sum(values) / len(values)
    return sum((v - mean) ** 2 for v in values) / len(values)


def varied():
    made = []
    for name, scored, options in (
        ("a quarter", None, {"keep": 0.25}),
        ("three quarters", None, {"keep": 0.75, "final": 0.75}),
        ("one row", None, {"keep": 0.01}),
        ("an unscored row is never kept", [1, 1, 0, 1, 1, 1, 1, 1, 0, 1], {"keep": 0.5}),
        ("the last round has the final share", None, {"keep": 0.2, "final": 0.6}),
    ):
        rows = [b for b in range(10) if (scored or [1] * 10)[b]]
        # One round is the first and the last.
        count = whole(options.get("final", options["keep"]), len(rows))
        order, best = sorted(rows, key=lambda b: -ADVANTAGE[b]), None
        for k in range(count + 1):
            ends = order[:k] + order[len(order) - (count - k) :]
            spread = variance([ADVANTAGE[b] for b in ends])
            if best is None or spread > best[0]:
                best = (spread, ends)
        inputs = {"advantages": ADVANTAGE, "group": GROUP, "mask": TEN, **({"scored": scored} if scored else {})}
        made.append(case("selection", "most_varied", name, inputs, {"kept": sorted(best[1])}, options=options))
    return made


def largest_steps():
    made = []
    for name, mask, options in (
        ("a fifth, rounded up", UNEVEN, {"keep": 0.2}),
        ("steps of others are no steps", HOLED, {"keep": 0.5}),
        ("all", UNEVEN, {"keep": 1.0}),
        ("the last round has the final share", UNEVEN, {"keep": 0.1, "final": 0.6}),
        ("nothing to train on", NOTHING, {"keep": 0.5}),
    ):
        label = f"selection/largest_steps/{name}"
        advantage, logits = draw(f"{label}/a", mask, *SIGNED), draw_logits(f"{label}/l", mask)
        places = [(b, t) for b, row in enumerate(mask) for t, m in enumerate(row) if m]
        score = {(b, t): abs(advantage[b][t]) * ref.entropy(logits[b][t])[0] for b, t in places}
        count = math.ceil(options.get("final", options["keep"]) * len(places) - 1e-9)
        chosen = set(sorted(places, key=lambda place, score=score: -score[place])[:count])
        expect = {"mask": [[float((b, t) in chosen) for t in range(len(row))] for b, row in enumerate(mask)]}
        steps = [[0] * len(row) for row in mask]
        inputs = {"advantages": advantage, "old_logits": logits, "steps": steps, "mask": mask}
        made.append(case("selection", "largest_steps", name, inputs, expect, options=options))
    return made


# -- entropies ---------------------------------------------------------------------------------------------------------
def taken(mask, logits):
    """The steps taken, the places that are counted, and -log pi there."""
    steps = [[(3 * b + t) % 4 for t in range(len(row))] for b, row in enumerate(mask)]
    places = [(b, t) for b, row in enumerate(mask) for t, m in enumerate(row) if m]
    return steps, places, {(b, t): -ref.log_softmax(logits[b][t])[steps[b][t]] for b, t in places}


def sure_and_rewarded():
    made = []
    for name, mask, options in (
        ("uneven rows", UNEVEN, {}),
        ("steps of others and an empty row", HOLED, {"scale": 3.0}),
        ("all are cut", UNEVEN, {"scale": 50.0, "most": 0.5}),
        ("one step", SINGLE, {}),
        ("nothing to train on", NOTHING, {}),
    ):
        label = f"constraint/covariance_entropy/{name}"
        logits, advantage = draw_logits(f"{label}/l", mask), draw(f"{label}/a", mask, *SIGNED)
        steps, places, loss = taken(mask, logits)
        scale, most = options.get("scale", 10.0), options.get("most", 5.0)
        count = max(1, len(places))
        mean, centre = sum(loss.values()) / count, sum(advantage[b][t] for b, t in places) / count
        size = {(b, t): ref.exp((advantage[b][t] - centre) * (mean - loss[b, t])) for b, t in places}
        whole = [sum(x for (row, _), x in size.items() if row == b) for b in range(len(mask))]
        strength = iter([min(most, scale * x / whole[b]) for (b, _), x in size.items()])

        def formula(logits, *_, strength=strength):
            (value, slope), w = ref.entropy(logits), next(strength)
            return -w * value, [-w * s for s in slope]

        inputs = {"logits": logits, "steps": steps, "advantages": advantage}
        made.append(step_case("constraint", "covariance_entropy", name, formula, inputs, mask, "token_mean", options))
    return made


def informative():
    made = []
    for name, mask, options in (
        ("half", UNEVEN, {"share": 0.5}),
        ("few", HOLED, {"share": 0.3, "entropy": 0.2}),
        ("all", UNEVEN, {"share": 1.0}),
        ("one step", SINGLE, {}),
    ):
        label = f"objective/informative_steps/{name}"
        logits = draw_logits(label, mask)
        steps, places, loss = taken(mask, logits)
        share, doubt = options.get("share", 0.8), options.get("entropy", 0.8)
        surplus = {(b, t): loss[b, t] - doubt * ref.entropy(logits[b][t])[0] for b, t in places}
        count = max(1, math.floor(share * len(places) + 1e-9))
        chosen = set(sorted(places, key=lambda place, surplus=surplus: -surplus[place])[:count])
        kept = [[float((b, t) in chosen) for t in range(len(row))] for b, row in enumerate(mask)]
        inputs = {"logits": logits, "steps": steps, "mask": mask}
        more = {"options": options} if options else {}
        made.append(case("objective", "informative_steps", name, inputs, {"weights": kept}, **more))
    return made


def cases():
    return [
        *rewards(),
        *largest(),
        *varied(),
        *largest_steps(),
        *sure_and_rewarded(),
        *informative(),
    ]
