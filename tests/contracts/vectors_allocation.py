"""Cases of advantages and rules for rows of groups that were told, chosen, or allocated differently."""

import math

import reference_formulas as ref
from vector_cases import HOLED, NOTHING, SIGNED, UNEVEN, case, draw, total
from vector_rows import FIVE, GROUPS


def spread(mask, numbers):
    return [[n if m else 0.0 for m in row] for n, row in zip(numbers, mask, strict=True)]


def within():
    rewards, group, source = [1.0, 0.0, 0.5, 2.0, -1.0], [0, 0, 0, 0, 1], [0, 2, 0, 2, 2]
    made = []
    for name, columns, ids in (
        ("apart by source", ["group", "source"], [0, 1, 0, 1, 2]),
        ("all of a source", ["source"], source),
        ("by group, named", ["group"], group),
    ):
        advantages = spread(FIVE, ref.standardised(rewards, ids, [1] * 5))
        inputs = {"rewards": rewards, "group": group, "source": source, "mask": FIVE}
        expect, options = {"advantages": advantages}, {"within": columns, "bound": None}
        made.append(case("credit", "group_standardised", f"within: {name}", inputs, expect, options=options))
    return made


def pars():
    rewards, budget, par = [1.0, 0.0, 0.5, 2.0, -1.0], [4.0, 4.0, 8.0, 8.0, 8.0], [0.9, 0.9, 0.5, 0.5, 0.5]
    before = [0.1, -0.2, 0.3, 0.0, 0.5]
    made = []
    for name, group, weight, scored in (
        ("two budgets in a group", [0, 0, 0, 0, 0], 1.0, None),
        ("groups have budgets of their own", [0, 0, 0, 1, 1], 2.0, None),
        ("an unscored row", [0, 0, 0, 0, 0], 1.0, [1, 0, 1, 1, 1]),
    ):
        known, found = scored or [1] * 5, []
        for b in range(5):
            same = [rewards[i] for i in range(5) if (group[i], budget[i]) == (group[b], budget[b]) and known[i]]
            found.append(before[b] + (weight * (sum(same) / len(same) - par[b]) if known[b] else 0.0))
        inputs = {"rewards": rewards, "group": group, "budget": budget, "par": par, "advantages": before, "mask": FIVE}
        inputs |= {"scored": scored} if scored else {}
        options = {"weight": weight, "by": "budget"}
        expect = {"advantages": spread(FIVE, found)}
        made.append(case("credit", "against_par", name, inputs, expect, options=options))
    return made


def rates():
    rewards, rate, drawn = [1.0, 0.0, 1.0, 1.0, 0.0], [0.25, 0.25, 0.9, 1.0, 0.5], [8, 8, 20, 8, 1]
    made = []
    for name, options, scored in (
        ("not scaled", {}, None),
        ("scaled by the spread of all rows", {"scaled": True}, None),
        ("with a large epsilon", {"scaled": True, "epsilon": 0.5}, None),
        ("an unscored row", {"scaled": True}, [1, 0, 1, 1, 1]),
    ):
        found = []
        for b, (r, p, n) in enumerate(zip(rewards, rate, drawn, strict=True)):
            a = r - p
            if options.get("scaled"):
                deviation = math.sqrt(p * (1 - p) * n / max(n - 1, 1))
                a = a / (deviation + options.get("epsilon", 1e-6)) if deviation > 0 else 0.0
            found.append(a if (scored or [1] * 5)[b] else 0.0)
        inputs = {"rewards": rewards, "rate": rate, "drawn": drawn, "mask": FIVE}
        inputs |= {"scored": scored} if scored else {}
        expect = {"advantages": spread(FIVE, found)}
        made.append(case("credit", "against_rate", name, inputs, expect, options=options))
    return made


def accepted():
    made = []
    for name, (group, rewards, scored) in GROUPS.items():
        for right in (0.5, 0.0):
            good = [int(r > right and bool(k)) for r, k in zip(rewards, scored or [1] * 5, strict=True)]
            inputs = {"rewards": rewards, "group": group, "mask": FIVE, **({"scored": scored} if scored else {})}
            label, options = f"{name}, above {right:g}", {"right": right}
            expect = {"advantages": spread(FIVE, [float(g) for g in good])}
            made.append(case("credit", "accepted", label, inputs, expect, options=options))
            kept = {"kept": [b for b in range(5) if good[b]]}
            made.append(case("selection", "right_rows", label, inputs, kept, options=options))
    return made


def sources():
    made = []
    for name, source, options in (
        ("all fresh", [0, 0, 0, 0], {"replayed": 0.5}),
        ("two replayed", [0, 2, 2, 0], {"replayed": 0.5, "recorded": 3.0}),
        ("recorded rows", [3, 2, 0, 1], {"replayed": 0.0, "recorded": 0.25}),
    ):
        weight = {2: options["replayed"], 3: options.get("recorded", 1.0)}
        expect = {"weights": [[weight.get(s, 1.0)] for s in source]}
        behaviour = draw(f"objective/by_source/{name}", [[1] * 5] * 4, -1.0, -0.1)
        inputs = {"source": source, "behaviour_logprobs": behaviour, "mask": UNEVEN}
        made.append(case("objective", "by_source", name, inputs, expect, options=options))
    return made


def even_groups():
    made = []
    for name, mask, group in (
        ("groups of uneven size", UNEVEN, [0, 0, 0, 1]),
        ("an empty row", HOLED, [1, 0, 0, 0]),
        ("groups interleave", UNEVEN, [5, 2, 5, 2]),
        ("nothing", NOTHING, [0, 1]),
    ):
        rows = [b for b, row in enumerate(mask) if any(row)]
        groups = sorted({group[b] for b in rows})
        size = {g: sum(group[b] == g for b in rows) for g in groups}
        weights = [[m / size[group[b]] / len(groups) if any(row) else 0.0 for m in row] for b, row in enumerate(mask)]
        losses = draw(f"update/even_groups/{name}", mask, *SIGNED)
        expect = {"weights": weights, "loss": total(weights, losses)}
        inputs = {"mask": mask, "group": group, "losses": losses}
        made.append(case("update", "even_groups", name, inputs, expect))
    return made


def cases():
    return [*within(), *pars(), *rates(), *accepted(), *sources(), *even_groups()]
