"""Cases of credit from critics: two time scales, bounded advantages."""

import reference_formulas as ref
from vector_cases import HOLED, LOGP, NOTHING, SIGNED, UNEVEN, case, draw, scored_mask
from vector_rows import on_last, step_rewards

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


def held_cases():
    """Rows that have ended; those that go on are not told to a case."""
    made = []
    for name, mask, gamma, lam, whitened, truncated in (
        ("all rows terminate", UNEVEN, 0.9, 0.8, False, None),
        ("a limit is an end", UNEVEN, 1.0, 0.95, False, [1, 0, 1, 1]),
        ("steps of others, whitened", HOLED, 0.9, 1.0, True, None),
    ):
        label = f"credit/held_advantage/{name}"
        rewards, values = step_rewards(f"{label}/r", mask), draw(f"{label}/v", mask, *SIGNED)
        rows = zip(rewards, values, mask, strict=True)
        plain = [ref.generalised_advantage(r, [*v, None], m, False, gamma, lam) for r, v, m in rows]
        returns = [ref.to_go(r, m, gamma) for r, m in zip(rewards, mask, strict=True)]
        inputs = {"rewards": rewards, "values": values, "mask": mask}
        inputs |= {"truncated": truncated} if truncated else {}
        expect = {"advantages": ref.whitened(plain, mask) if whitened else plain, "returns": returns}
        options = {"gamma": gamma, "lam": lam, "whitened": whitened}
        made.append(case("credit", "held_advantage", name, inputs, expect, options=options))
    return made


def bounded_cases():
    made = []
    for name, mask, bound in (("uneven rows", UNEVEN, 0.5), ("steps of others", HOLED, 1.0), ("no step", NOTHING, 0.1)):
        given = draw(f"credit/bounded_advantages/{name}", mask, *SIGNED)
        held = [[0.0 if a is None else min(bound, max(-bound, a)) for a in row] for row in given]
        inputs, options = {"advantages": given, "mask": mask}, {"bound": bound}
        made.append(case("credit", "bounded_advantages", name, inputs, {"advantages": held}, options=options))
    return made


# -- rewards of single steps, scores in common units -------------------------------------------------------------------
def score_cases():
    made = []
    before = {"count": 10.0, "mean": 0.5, "squares": 20.0}
    for name, grades, options, cell, scored in (
        ("the first round", [1.0, 0.0, 0.5, -2.0], {"centred": True, "scaled": True, "bound": 10.0}, None, None),
        ("clipped", [1.0, 0.0, 9.5, -2.0], {"centred": True, "scaled": True, "bound": 0.4}, before, None),
        ("only scaled", [1.0, 0.0, 0.5, -2.0], {"centred": False, "scaled": True, "bound": None}, before, None),
        ("only clipped", [1.0, 0.0, 30.5, -12.0], {"centred": False, "scaled": False, "bound": 10.0}, None, None),
        ("an unscored row", [1.0, 7.0, 0.5, -2.0], {"centred": True, "bound": 5.0}, before, [1, 0, 1, 1]),
        ("equal scores", [1.0, 1.0, 1.0, 1.0], {"centred": False, "scaled": True, "bound": None}, None, None),
    ):  # fmt: skip
        known = scored or [1] * 4
        new = [g for g, s in zip(grades, known, strict=True) if s]
        # As one list of numbers: the earlier ones stand for any with these moments.
        held = cell or {"count": 0.0, "mean": 0.0, "squares": 0.0}
        count = held["count"] + len(new)
        mean = (held["count"] * held["mean"] + sum(new)) / count
        squares = held["squares"] + held["count"] * (held["mean"] - mean) ** 2 + sum((g - mean) ** 2 for g in new)
        spread = (squares / (count - 1)) ** 0.5
        score = [g - (mean if options["centred"] else 0.0) for g in grades]
        score = [x / spread if options.get("scaled", True) and spread > 0 else x for x in score]
        bound = options["bound"] or float("inf")
        score = [min(bound, max(-bound, x)) if s else 0.0 for x, s in zip(score, known, strict=True)]
        inputs = {"rewards": grades, "mask": UNEVEN, **({"scored": scored} if scored else {})}
        inputs |= {"cells": {"score_moments": cell}} if cell else {}
        expect = {"rewards": on_last(UNEVEN, score), "score": grades}
        made.append(case("reward", "running_score", name, inputs, expect, options=options))
    return made


def log_ratio_cases():
    made = []
    for name, mask, options in (
        ("uneven rows, clipped", UNEVEN, {"coefficient": 0.5, "bound": 0.2}),
        ("steps of others keep theirs", HOLED, {"coefficient": 0.05, "bound": None}),
        ("other models", UNEVEN, {"coefficient": 1.0, "bound": 0.3, "model": "teacher", "against": "old"}),
        ("no step", NOTHING, {"coefficient": 1.0, "bound": 0.3}),
    ):
        label = f"reward/log_ratio_reward/{name}"
        model, against = options.get("model", "preferred"), options.get("against", "reference")
        rewards = step_rewards(f"{label}/rewards", mask)
        said, other = (draw(f"{label}/{key}", mask, *LOGP) for key in ("said", "other"))
        bound = options["bound"] or float("inf")
        paid = [
            [
                (r or 0.0) + (min(bound, max(-bound, options["coefficient"] * (p - q))) if m else 0.0)
                for r, p, q, m in zip(*rows, strict=True)
            ]
            for rows in zip(rewards, said, other, mask, strict=True)
        ]
        inputs = {"rewards": rewards, f"{model}_logprobs": said, f"{against}_logprobs": other, "mask": mask}
        made.append(case("reward", "log_ratio_reward", name, inputs, {"rewards": paid}, options=options))
    return made


# -- what models say of the steps taken ------------------------------------------------------------------------------
def said(label, mask):
    """Values before every step and after the last."""
    return draw(label, [[*row, 1] for row in [[1] * len(mask[0])] * len(mask)], -3.0, 3.0)


def token_model_cases():
    made = []
    for name, mask, running in (
        ("uneven rows", UNEVEN, False),
        ("steps of others", HOLED, False),
        ("no step", NOTHING, False),
        ("the mean of the steps so far", HOLED, True),
    ):
        label = f"credit/by_token_model/{name}"
        given, values = draw(f"{label}/a", mask, *SIGNED), said(f"{label}/w", mask)
        praise = []
        for v, row in zip(values, mask, strict=True):
            told = [[v[k + 1] for k in range(0 if running else t, t + 1) if row[k]] for t in range(len(row))]
            praise.append([2 * ref.sigmoid(sum(w) / len(w)) - 1 if m else 0.0 for w, m in zip(told, row, strict=True)])
        weighed = [
            [a * max(0.0, (1 if a > 0 else -1) * p) if m else 0.0 for a, p, m in zip(*rows, strict=True)]
            for rows in zip(given, praise, mask, strict=True)
        ]
        inputs = {"advantages": given, "values": values, "mask": mask}
        expect = {"advantages": weighed, "praise": praise}
        options = {"critic": "tokens", **({"running": True} if running else {})}
        made.append(case("credit", "by_token_model", name, inputs, expect, options=options))
    return made


def frozen_value_cases():
    made = []
    for name, mask, whitened, scored in (
        ("whitened", UNEVEN, True, None),
        ("an unscored row", HOLED, True, [1, 1, 0, 0]),
        ("as they are", HOLED, False, None),
    ):
        values, counted = said(f"credit/frozen_values/{name}", mask), scored_mask(mask, scored)
        plain = [[v[t + 1] if m else 0.0 for t, m in enumerate(row)] for v, row in zip(values, counted, strict=True)]
        expect = {"advantages": ref.whitened(plain, counted) if whitened else plain}
        inputs = {"values": values, "mask": mask, **({"scored": scored} if scored else {})}
        made.append(case("credit", "frozen_values", name, inputs, expect, options={"whitened": whitened}))
    return made


def turn_reward_cases():
    made = []
    for name, mask, options in (
        ("turns of several steps", UNEVEN, {"weight": 0.3, "bound": 1.0, "by_length": True}),
        ("steps of others", HOLED, {"weight": 1.0, "bound": 0.5, "by_length": False}),
        ("no step", NOTHING, {"weight": 1.0, "bound": 1.0, "by_length": True}),
    ):
        label = f"reward/turn_reward/{name}"
        rewards, values = step_rewards(f"{label}/r", mask), said(f"{label}/w", mask)
        paid = [[r or 0.0 for r in row] for row in rewards]
        for b, row in enumerate(mask):
            last = {TURNS[b][t]: t for t, m in enumerate(row) if m}
            for t in last.values():
                gain = options["weight"] * min(options["bound"], max(-options["bound"], values[b][t + 1]))
                paid[b][t] += gain / (len(last) if options["by_length"] else 1)
        turns = [row[: len(mask[0])] for row in TURNS[: len(mask)]]
        inputs = {"rewards": rewards, "values": values, "mask": mask, "turn": turns}
        made.append(case("reward", "turn_reward", name, inputs, {"rewards": paid}, options=options))
    return made


def dense_cases():
    made = []
    for name, mask, options, scored in (
        ("uneven rows", UNEVEN, {"weight": -0.1, "gamma": 1.0}, None),
        ("discounted, steps of others", HOLED, {"weight": 0.5, "gamma": 0.8}, None),
        ("another column, an unscored row", UNEVEN, {"column": "gain", "weight": 1.0, "gamma": 0.5}, [1, 0, 1, 1]),
        ("no step", NOTHING, {"weight": 1.0, "gamma": 0.9}, None),
    ):
        label, column = f"credit/dense_advantage/{name}", options.get("column", "deviation")
        given, dense = draw(f"{label}/a", mask, *SIGNED), draw(f"{label}/x", mask, 0.0, 1.0)
        counted = scored_mask(mask, scored)
        found = [[0.0] * len(row) for row in mask]
        for b, row in enumerate(counted):
            places = [t for t, m in enumerate(row) if m]
            for number, t in enumerate(places):
                ahead = [(s - number, places[s]) for s in range(number, len(places))]
                paid = sum(options["gamma"] ** k * dense[b][s] for k, s in ahead)
                found[b][t] = options["gamma"] ** ahead[-1][0] * given[b][t] + options["weight"] * paid
        inputs = {"advantages": given, column: dense, "mask": mask, **({"scored": scored} if scored else {})}
        made.append(case("credit", "dense_advantage", name, inputs, {"advantages": found}, options=options))
    return made


def cases():
    return [
        *decomposed_cases(),
        *held_cases(),
        *bounded_cases(),
        *score_cases(),
        *log_ratio_cases(),
        *token_model_cases(),
        *frozen_value_cases(),
        *turn_reward_cases(),
        *dense_cases(),
    ]
