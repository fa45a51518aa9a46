"""Cases of credit from critics: two time scales, bounded advantages."""

import reference_formulas as ref
from vector_cases import HOLED, NOTHING, SIGNED, UNEVEN, case, draw, scored_mask
from vector_rows import step_rewards

TURNS = [[0, 0, 1, 1, 2], [0, 1, 1, 1, 1], [3, 3, 4, 4, 4], [0, 0, 0, 0, 1]]


def decomposed(rewards, values, mask, turns, truncated, gamma, lam, inside):
    """GAE of one row, the discount gamma only where the next counted step is of another turn, or none."""
    made = [0.0] * len(mask)
    held = ref.own_rewards(rewards, mask) if any(mask) else {}
    places, trace = sorted(held), 0.0
    for number in reversed(range(len(places))):
        t = places[number]
        over = number + 1 == len(places) or turns[places[number + 1]] != turns[t]
        step = gamma if over else inside
        after = values[t + 1] if truncated else 0.0
        following = values[places[number + 1]] if number + 1 < len(places) else after
        trace = held[t] + step * following - values[t] + step * lam * trace
        made[t] = trace
    return made


def decomposed_cases():
    made = []
    for name, mask, options, truncated, scored in (
        ("turns of several steps", UNEVEN, {"gamma": 0.8, "lam": 0.9, "inside": 1.0, "whitened": False}, None, None),
        ("truncated rows", UNEVEN, {"gamma": 0.9, "lam": 0.7, "inside": 0.95, "whitened": False}, [1, 0, 1, 1], None),
        ("steps of others", HOLED, {"gamma": 0.5, "lam": 0.8, "inside": 1.0, "whitened": False}, [0, 1, 0, 1], None),
        ("whitened", UNEVEN, {"gamma": 0.8, "lam": 0.95, "inside": 1.0, "whitened": True}, None, [1, 1, 0, 1]),
    ):
        label = f"credit/decomposed_advantage/{name}"
        rewards = step_rewards(f"{label}/rewards", mask)
        told = [
            [1 if m or (truncated and t and row[t - 1] and not any(row[t:])) else 0 for t, m in enumerate([*row, 0])]
            for row in mask
        ]
        values = draw(f"{label}/values", told, *SIGNED)
        numbers = {key: options[key] for key in ("gamma", "lam", "inside")}
        rows = zip(rewards, values, mask, TURNS, truncated or [0] * len(mask), strict=True)
        plain = [decomposed(*row, **numbers) for row in rows]
        returns = [
            [a + v if m else 0.0 for a, v, m in zip(a_row, v_row[:-1], m_row, strict=True)]
            for a_row, v_row, m_row in zip(plain, values, mask, strict=True)
        ]
        counted = scored_mask(mask, scored)
        advantages = ref.whitened(plain, counted) if options["whitened"] else plain
        inputs = {"rewards": rewards, "values": values, "mask": mask, "turn": TURNS}
        inputs |= {"truncated": truncated} if truncated else {}
        inputs |= {"scored": scored} if scored else {}
        expect = {"advantages": advantages, "returns": returns}
        made.append(case("credit", "decomposed_advantage", name, inputs, expect, options=options))
    return made


def bounded_cases():
    made = []
    for name, mask, bound in (("uneven rows", UNEVEN, 0.5), ("steps of others", HOLED, 1.0), ("no step", NOTHING, 0.1)):
        given = draw(f"credit/bounded_advantages/{name}", mask, *SIGNED)
        held = [[0.0 if a is None else min(bound, max(-bound, a)) for a in row] for row in given]
        inputs, options = {"advantages": given, "mask": mask}, {"bound": bound}
        made.append(case("credit", "bounded_advantages", name, inputs, {"advantages": held}, options=options))
    return made


def cases():
    return [*decomposed_cases(), *bounded_cases()]
