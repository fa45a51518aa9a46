"""Cases of the axes that turn rows into rows (credit, reward, feedback, selection), and of averages."""

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
    grid,
    scored_mask,
    total,
)

GROUPS = {
    "ragged groups": ([0, 0, 0, 1, 1], [1.0, 0.0, 0.5, 2.0, -1.0], None),
    "rows of a group need not be neighbours": ([7, 3, 7, 3, 7], [0.2, 1.0, 0.9, 0.0, 0.4], None),
    "equal rewards": ([0, 0, 0, 1, 1], [1.0, 1.0, 1.0, 0.0, 1.0], None),
    "a group of one": ([0, 1, 1, 1, 2], [1.0, 0.5, 0.0, 0.25, -2.0], None),
    "an unscored row leaves the statistics": ([0, 0, 0, 1, 1], [1.0, 9.0, 0.0, 1.0, 0.0], [1, 0, 1, 1, 1]),
    "one scored row left": ([0, 0, 0, 1, 1], [1.0, 9.0, 0.0, 1.0, 0.0], [1, 1, 1, 0, 1]),
}
FIVE = [[1, 1, 1], [1, 0, 0], [1, 1, 0], [0, 1, 1], [1, 1, 1]]


def group_cases(part, formula, **options):
    made = []
    for name, (group, rewards, scored) in GROUPS.items():
        advantage = formula(rewards, group, scored or [1] * len(group), **options)
        steps = [[a if m else 0.0 for m in row] for a, row in zip(advantage, FIVE, strict=True)]
        inputs = {"rewards": rewards, "group": group, "mask": FIVE, **({"scored": scored} if scored else {})}
        more = {"options": options} if options else {}
        label = f"{name} ({options})" if options else name
        made.append(case("credit", part, label, inputs, {"advantages": steps}, **more))
    split = [[0.25, 0.5, 0.25], [0.5, None, None], [0.0, 1.0, None], [0.1, 0.2, 0.3], [-1.0, 0.0, 2.0]]
    sums, group = [sum(x or 0.0 for x in row) for row in split], [0, 0, 1, 1, 1]
    inputs = {"rewards": split, "group": group, "mask": FIVE}
    advantage = formula(sums, group, [1] * 5, **options)
    steps = [[a if m else 0.0 for m in row] for a, row in zip(advantage, FIVE, strict=True)]
    label = f"rewards along the way are summed{f' ({options})' if options else ''}"
    more = {"options": options} if options else {}
    return [*made, case("credit", part, label, inputs, {"advantages": steps}, **more)]


def step_rewards(label, mask):
    """Rewards also on the steps of others, up to the last counted step."""
    reach = [[1 if any(row[t:]) else 0 for t in range(len(row))] for row in mask]
    return draw(label, reach, *SIGNED)


def return_cases():
    made = []
    for name, mask, gamma, baseline, scored in (
        ("uneven rows", UNEVEN, 1.0, None, None),
        ("discounted, less a baseline", UNEVEN, 0.9, 0.4, None),
        ("rewards of others' steps go to the step before", HOLED, 0.95, 0.25, None),
        ("an unscored row", UNEVEN, 0.9, 0.5, [1, 0, 1, 1]),
        ("no step", NOTHING, 0.9, None, None),
    ):
        rewards = step_rewards(f"credit/return_to_go/{name}", mask)
        returns = [ref.to_go(r, m, gamma) for r, m in zip(rewards, mask, strict=True)]
        counted = scored_mask(mask, scored)
        pairs = zip(returns, counted, strict=True)
        advantages = [[g - (baseline or 0.0) if m else 0.0 for g, m in zip(row, c, strict=True)] for row, c in pairs]
        inputs = {"rewards": rewards, "mask": mask, **({"scored": scored} if scored else {})}
        inputs |= {"cells": {"baseline": {"mean": baseline, "rounds": 5}}} if baseline else {}
        expect = {"advantages": advantages, "returns": returns}
        made.append(case("credit", "return_to_go", name, inputs, expect, options={"gamma": gamma}))
    inputs, ones = {"rewards": [1.0, -0.5], "lengths": [2, 3]}, [[1.0, 1.0, 0.0], [-0.5, -0.5, -0.5]]
    expect = {"advantages": ones, "returns": ones}
    return [*made, case("credit", "return_to_go", "one reward at the end of every row", inputs, expect)]


def advantage_cases():
    made = []
    for name, mask, gamma, lam, white, truncated, scored in (
        ("all rows terminate", UNEVEN, 0.9, 0.8, False, None, None),
        ("truncated rows are worth what follows", UNEVEN, 0.99, 0.95, False, [1, 0, 1, 1], None),
        ("steps of others and an empty row", HOLED, 0.9, 0.7, False, [0, 1, 0, 1], None),
        ("lam 1: return less value", UNEVEN, 1.0, 1.0, False, None, None),
        ("lam 0: one step", UNEVEN, 0.9, 0.0, False, [0, 0, 1, 0], None),
        ("whitened over scored rows", UNEVEN, 1.0, 0.95, True, None, [1, 1, 0, 1]),
    ):
        label = f"credit/generalised_advantage/{name}"
        rewards = step_rewards(f"{label}/rewards", mask)
        # A value before every counted step; where rows differ in how they end, all have one after the last step too,
        # which only the truncated ones may use.
        told = [
            [1 if m or (truncated and t and row[t - 1] and not any(row[t:])) else 0 for t, m in enumerate([*row, 0])]
            for row in mask
        ]
        values = draw(f"{label}/values", told, *SIGNED)
        rows = zip(rewards, values, mask, truncated or [0] * len(mask), strict=True)
        plain = [ref.generalised_advantage(r, v, m, cut, gamma, lam) for r, v, m, cut in rows]
        returns = [
            [a + v if m else 0.0 for a, v, m in zip(a_row, v_row[:-1], m_row, strict=True)]
            for a_row, v_row, m_row in zip(plain, values, mask, strict=True)
        ]
        counted = scored_mask(mask, scored)
        advantages = ref.whitened(plain, counted) if white else plain
        inputs = {"rewards": rewards, "values": values, "mask": mask}
        inputs |= {"truncated": truncated} if truncated else {}
        inputs |= {"scored": scored} if scored else {}
        options = {"gamma": gamma, "lam": lam, "whitened": white}
        expect = {"advantages": advantages, "returns": returns}
        made.append(case("credit", "generalised_advantage", name, inputs, expect, options=options))
    return made


def credit():
    return [
        *group_cases("group_standardised", ref.standardised),
        *group_cases("group_standardised", ref.standardised, epsilon=0.0, ddof=0),
        *group_cases("group_centred", ref.centred),
        *group_cases("leave_one_out", ref.leave_one_out),
        *return_cases(),
        *advantage_cases(),
    ]


def on_last(mask, numbers):
    """A number per row on its last counted step."""
    return [
        [n if m and not any(row[t + 1 :]) else 0.0 for t, m in enumerate(row)]
        for row, n in zip(mask, numbers, strict=True)
    ]


def added(rows, others, mask):
    return [
        [(x or 0.0) + y for x, y in zip(row, other, strict=True)]
        for row, other, _ in zip(rows, others, mask, strict=True)
    ]


def reward():
    made = []
    for name, grades, truncated, options in (
        ("grades on the last step", [1.0, 0.0, 0.5, -1.0], None, {}),
        ("a grader that failed: the row is unscored", [1.0, None, 0.5, 0.0], None, {}),
        ("truncated rows get a reward of their own", [1.0, 1.0, None, 0.0], [0, 1, 1, 0], {"truncated": -0.5}),
    ):
        given = [
            options["truncated"] if truncated and cut else g
            for g, cut in zip(grades, truncated or [0] * 4, strict=True)
        ]
        inputs = {"grades": grades, "mask": UNEVEN, **({"truncated": truncated} if truncated else {})}
        expect = {"rewards": on_last(UNEVEN, [g or 0.0 for g in given]), "scored": [int(g is not None) for g in given]}
        made.append(case("reward", "verified", name, inputs, expect, **({"options": options} if options else {})))
    for name, mask in (("uneven rows", UNEVEN), ("steps of others keep theirs", HOLED), ("no step", NOTHING)):
        rewards = step_rewards(f"reward/from_world/{name}", mask)
        expect = {"rewards": [[x or 0.0 for x in row] for row in rewards]}
        made.append(case("reward", "from_world", name, {"rewards": rewards, "mask": mask}, expect))
    for name, mask, limit, buffer in (
        ("below, inside and at the end of the buffer", UNEVEN, 5, 3),
        ("beyond the limit: never below -1", UNEVEN, 3, 2),
        ("steps of others are no length", HOLED, 4, 2),
    ):
        rewards = [1.0, 0.0, 0.5, 1.0]
        lengths = [sum(row) for row in mask]
        penalties = [min(0.0, max(-1.0, (limit - buffer - n) / buffer)) for n in lengths]
        expect = {"rewards": added(on_last(mask, rewards), on_last(mask, penalties), mask)}
        inputs, options = {"rewards": rewards, "mask": mask}, {"limit": limit, "buffer": buffer}
        made.append(case("reward", "overlong_penalty", name, inputs, expect, options=options))
    for name, mask, beta in (("uneven rows", UNEVEN, 0.03), ("steps of others", HOLED, 0.5), ("no step", NOTHING, 0.1)):
        label = f"reward/reference_penalty/{name}"
        rewards = step_rewards(f"{label}/rewards", mask)
        said, theirs = (draw(f"{label}/{key}", mask, *LOGP) for key in ("behaviour", "reference"))
        gap = grid(mask, lambda b, t, p=said, q=theirs, beta=beta: -beta * (p[b][t] - q[b][t]))
        expect = {"rewards": added(rewards, [[x or 0.0 for x in row] for row in gap], mask)}
        inputs = {"rewards": rewards, "behaviour_logprobs": said, "reference_logprobs": theirs, "mask": mask}
        made.append(case("reward", "reference_penalty", name, inputs, expect, options={"beta": beta}))
    return made


def feedback():
    made = []
    for name, (group, rewards, scored) in GROUPS.items():
        pairs = []
        for one in sorted(set(group)):
            rows = [b for b in range(5) if group[b] == one and (scored is None or scored[b])]
            best, worst = max(rows, key=lambda b: rewards[b]), min(rows, key=lambda b: rewards[b])
            pairs += [[best, worst]] if rewards[best] > rewards[worst] else []
        inputs = {"rewards": rewards, "group": group, "mask": FIVE, **({"scored": scored} if scored else {})}
        made.append(case("feedback", "best_versus_worst", name, inputs, {"pairs": pairs}))
    inputs = {"rewards": [1.0, 1.0, 0.0, 0.0], "group": [0, 0, 0, 0], "mask": UNEVEN}
    made.append(case("feedback", "best_versus_worst", "among equals the first", inputs, {"pairs": [[0, 2]]}))
    return made


def selection():
    made = []
    for name, (group, rewards, scored) in GROUPS.items():
        known = scored or [1] * 5
        spread = {g: {rewards[b] for b in range(5) if group[b] == g and known[b]} for g in group}
        inputs = {"rewards": rewards, "group": group, "mask": FIVE, **({"scored": scored} if scored else {})}
        kept = [b for b in range(5) if len(spread[group[b]]) > 1]
        made.append(case("selection", "informative_groups", name, inputs, {"kept": kept}))
        made.append(case("selection", "every_row", name, inputs, {"kept": [0, 1, 2, 3, 4]}))
    inputs = {"rewards": [0.5, 0.52, 1.0, 0.0], "group": [0, 0, 1, 1], "mask": UNEVEN}
    made.append(
        case("selection", "informative_groups", "a tolerance", inputs, {"kept": [2, 3]}, options={"tolerance": 0.1})
    )
    for name, cut in (("some", [0, 1, 0, 1]), ("none", [0, 0, 0, 0]), ("all", [1, 1, 1, 1])):
        expect = {"kept": [b for b in range(4) if not cut[b]]}
        made.append(case("selection", "finished_rows", f"{name} truncated", {"truncated": cut, "mask": UNEVEN}, expect))
    for name, pairs in (("two pairs", [[3, 0], [1, 2]]), ("rows in no pair", [[2, 1]]), ("no pair", [])):
        expect = {"kept": sorted(row for pair in pairs for row in pair)}
        made.append(case("selection", "paired_rows", name, {"pairs": pairs, "mask": UNEVEN}, expect))
    return made


def update():
    made = []
    for part, options in (("token_mean", {}), ("sequence_mean", {}), ("sequence_sum", {"constant": 16.0})):
        for name, mask in (
            ("uneven rows", UNEVEN),
            ("an empty row", HOLED),
            ("nothing", NOTHING),
            ("one step", SINGLE),
        ):
            losses = draw(f"update/{part}/{name}", mask, *SIGNED)
            weights = ref.weights(part, mask, options.get("constant", 1.0))
            expect = {"weights": weights, "loss": total(weights, losses)}
            more = {"options": options} if options else {}
            made.append(case("update", part, name, {"mask": mask, "losses": losses}, expect, **more))
    for name, mask in (("some rows", [1, 0, 1, 1]), ("nothing", [0, 0]), ("one row", [0, 1])):
        losses = draw(f"update/row_mean/{name}", [mask], *SIGNED)[0]
        weights = ref.row_weights(mask)
        expect = {"weights": weights, "loss": total([weights], [losses])}
        made.append(case("update", "row_mean", name, {"mask": mask, "losses": losses}, expect))
    return made
