"""Cases of graded rewards, of rows and steps that are pruned by their advantages, and of entropies below a target."""

import math

import reference_formulas as ref
from vector_cases import HOLED, NOTHING, SIGNED, SINGLE, UNEVEN, case, draw, draw_logits
from vector_losses import step_cases
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
def below(target):
    def formula(logits):
        value, slope = ref.entropy(logits)
        strength = max(0.0, (target - value) / target)
        return -strength * value, [-strength * s for s in slope]

    return formula


def quantile(values, q):
    order, place = sorted(values), q * (len(values) - 1)
    low = math.floor(place)
    high = min(low + 1, len(order) - 1)
    return order[low] + (place - low) * (order[high] - order[low])


def informative():
    made = []
    for name, mask, q in (("half", UNEVEN, 0.5), ("few", HOLED, 0.9), ("all", UNEVEN, 0.0), ("one step", SINGLE, 0.7)):
        label = f"objective/informative_steps/{name}"
        logits = draw_logits(label, mask)
        steps = [[(3 * b + t) % 4 for t in range(len(row))] for b, row in enumerate(mask)]
        places = [(b, t) for b, row in enumerate(mask) for t, m in enumerate(row) if m]
        loss = {(b, t): -ref.log_softmax(logits[b][t])[steps[b][t]] for b, t in places}
        spread = {(b, t): ref.entropy(logits[b][t])[0] for b, t in places}
        cuts = quantile([*loss.values()], q), quantile([*spread.values()], q)
        kept = [
            [float((b, t) in loss and (loss[b, t] >= cuts[0] or spread[b, t] >= cuts[1])) for t in range(len(row))]
            for b, row in enumerate(mask)
        ]
        inputs = {"logits": logits, "steps": steps, "mask": mask}
        options = {"quantile": q}
        made.append(case("objective", "informative_steps", name, inputs, {"weights": kept}, options=options))
    return made


def cases():
    return [
        *rewards(),
        *largest(),
        *varied(),
        *largest_steps(),
        *step_cases("constraint", "entropy_below_target", below(1.3), {"logits": None}, {"target": 1.3}),
        *informative(),
    ]
