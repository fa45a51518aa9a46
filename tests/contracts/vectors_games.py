"""Cases of losses of preference games, and of pairs made of a group's ranks."""

import math

import reference_formulas as ref
from vector_cases import HOLED, LOGP, UNEVEN, case, draw
from vector_rows import FIVE


def pair_losses(part, roles, formula, variants):
    made = []
    for name, mask, pairs, options in variants:
        label = f"objective/{part}/{name}"
        inputs = {key: draw(f"{label}/{key}", mask, *LOGP) for key in ("logprobs", *(f"{r}_logprobs" for r in roles))}
        rewards = [0.9, 0.2, 0.4, 0.75][: len(mask)]
        whole = [
            [sum(column[b][t] for t, m in enumerate(row) if m) for b, row in enumerate(mask)]
            for column in inputs.values()
        ]
        counted = [any(mask[w]) and any(mask[l]) for w, l in pairs]  # noqa: E741
        values, gradient = [None] * len(mask), [[0.0] * len(row) for row in mask]
        for (w, l), counts in zip(pairs, counted, strict=True):  # noqa: E741
            if not counts:
                continue
            values[w], slope = formula(*(x[w] - x[l] for x in whole), rewards[w] - rewards[l], **options)
            for row, sign in ((w, 1.0), (l, -1.0)):
                gradient[row] = [sign * slope / sum(counted) * m for m in mask[row]]
        told = [v for v in values if v is not None]
        expect = {"loss": sum(told) / max(len(told), 1), "per_step": values, "grad_logprobs": gradient}
        inputs |= {"rewards": rewards, "mask": mask, "pairs": pairs}
        made.append(case("objective", part, name, inputs, expect, options=options, reduction="row_mean"))
    return made


def squared(policy, reference, old, reward, eta=0.0075, tau=0.0025, target="label"):
    goal = reward / eta if target == "win_rates" else 0.5 / eta
    error = policy - tau / eta * reference - (eta - tau) / eta * old - goal
    return error * error, 2 * error


def soft(policy, old, reward, eta=1.0):
    q = 1 / (1 + math.exp(-reward))
    first, second = ref.pair_logistic(policy - old, eta), ref.pair_logistic(old - policy, eta)
    return q * first[0] + (1 - q) * second[0], q * first[1] - (1 - q) * second[1]


def ranked():
    made, rewards, group = [], [0.9, 0.2, 0.4, 0.75, 0.1], [3, 3, 3, 3, 3]
    for name, options, source, scored, pairs in (
        ("best against worst", {}, [0] * 5, None, [[0, 4]]),
        ("two pairs", {"most": 2}, [0] * 5, None, [[0, 4], [3, 1]]),
        ("a gap that only the first has", {"most": 2, "gap": 0.6}, [0] * 5, None, [[0, 4]]),
        ("a teacher's row may win, not lose", {"most": 2}, [1, 0, 0, 0, 1], None, [[0, 1], [3, 2]]),
        ("a teacher's row may lose", {"own_losers": False}, [0, 0, 0, 0, 1], None, [[0, 4]]),
        ("no row is in two pairs", {"most": 5}, [0] * 5, None, [[0, 4], [3, 1]]),
        ("an unscored row", {}, [0] * 5, [1, 1, 1, 1, 0], [[0, 1]]),
    ):
        inputs = {"rewards": rewards, "group": group, "mask": FIVE, "source": source}
        inputs |= {"scored": scored} if scored else {}
        made.append(case("feedback", "ranked_pairs", name, inputs, {"pairs": pairs}, options=options))
    inputs = {"rewards": [0.5, 0.5, 0.1, 0.3, 0.7], "group": [0, 0, 1, 1, 2], "mask": FIVE, "source": [0] * 5}
    made.append(case("feedback", "ranked_pairs", "groups of equals and of one", inputs, {"pairs": [[3, 2]]}))
    return made


def cases():
    every = [[0, 1], [3, 2]]
    return [
        *pair_losses(
            "mirror_preference",
            ("reference", "old"),
            squared,
            (
                ("as published", UNEVEN, every, {}),
                ("to the reference: IPO", UNEVEN, every, {"eta": 0.4, "tau": 0.4}),
                ("to the last policy", HOLED[:2], [[1, 0]], {"eta": 0.4, "tau": 0.0}),
                ("with win rates", UNEVEN, every, {"eta": 0.5, "tau": 0.1, "target": "win_rates"}),
                ("a side that is not trained on", HOLED, [[0, 2], [3, 1]], {"eta": 0.5, "tau": 0.1}),
            ),
        ),
        *pair_losses(
            "win_rate_logistic",
            ("old",),
            soft,
            (
                ("uneven rows", UNEVEN, every, {}),
                ("a slow step", UNEVEN, every, {"eta": 3.0}),
                ("a side that is not trained on", HOLED, [[0, 2], [3, 1]], {"eta": 0.5}),
            ),
        ),
        *ranked(),
    ]
