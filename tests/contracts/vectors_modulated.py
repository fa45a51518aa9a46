"""Cases of entropies of steps and of the credit that they modulate."""

import reference_formulas as ref
from vector_cases import HOLED, LOGP, SIGNED, SINGLE, UNEVEN, case, draw, draw_logits, grid, scored_mask
from vector_losses import step_case, step_cases
from vectors_critics import TURNS


def entropy_cases():
    made = []
    for name, mask, role in (
        ("uneven rows", UNEVEN, "old"),
        ("steps of others", HOLED, "old"),
        ("one step", SINGLE, "reference"),
    ):
        logits = draw_logits(f"credit/step_entropies/{name}", mask)
        entropy = grid(mask, lambda b, t, z=logits: ref.entropy(z[b][t])[0])
        inputs = {f"{role}_logits": logits, "steps": [[0] * len(row) for row in mask], "mask": mask}
        expect = {"entropy": [[x or 0.0 for x in row] for row in entropy]}
        made.append(case("credit", "step_entropies", name, inputs, expect, options={"role": role}))
    return made


def modulated(advantage, entropy, turns, counted, sharpness, foresight, bonus, epsilon):
    """EMPG over lists; a turn is the counted steps of a row with one number."""
    places = {}
    for b, row in enumerate(counted):
        for t, m in enumerate(row):
            if m:
                places.setdefault((b, turns[b][t]), []).append((b, t))
    keys = list(places)
    h = {k: sum(entropy[b][t] for b, t in places[k]) / len(places[k]) for k in keys}
    low, high = min(h.values()), max(h.values())
    h = {k: (x - low) / (high - low + epsilon) for k, x in h.items()}
    g = {k: ref.exp(-sharpness * x) for k, x in h.items()}
    mean = sum(g.values()) / len(keys)
    out = [[0.0] * len(row) for row in counted]
    for n, k in enumerate(keys):
        after = keys[n + 1] if n + 1 < len(keys) and keys[n + 1][0] == k[0] else None
        clear = ref.exp(-foresight * h[after]) if after else 0.0
        for b, t in places[k]:
            out[b][t] = advantage[b][t] * g[k] / mean + bonus * clear
    centre = sum(sum(out[b][t] for b, t in places[k]) / len(places[k]) for k in keys) / len(keys)
    return [[x - centre if m else 0.0 for x, m in zip(*rows, strict=True)] for rows in zip(out, counted, strict=True)]


def modulated_cases():
    made = []
    for name, mask, options, scored in (
        ("turns of several steps", UNEVEN, {"sharpness": 1.0, "foresight": 1.0, "bonus": 0.05}, None),
        ("steps of others and an empty row", HOLED, {"sharpness": 2.0, "foresight": 0.5, "bonus": 0.3}, None),
        ("an unscored row", UNEVEN, {"sharpness": 0.5, "foresight": 3.0, "bonus": 0.1}, [1, 0, 1, 1]),
        ("one step", SINGLE, {"sharpness": 1.0, "foresight": 1.0, "bonus": 0.5}, None),
        ("no modulation is centring", UNEVEN, {"sharpness": 0.0, "foresight": 1.0, "bonus": 0.0}, None),
    ):  # fmt: skip
        label, options = f"credit/entropy_modulated/{name}", {**options, "epsilon": 1e-3}
        given, entropy = draw(f"{label}/a", mask, *SIGNED), draw(f"{label}/h", mask, 0.0, 1.4)
        expect = modulated(given, entropy, TURNS, scored_mask(mask, scored), **options)
        turns = [row[: len(mask[0])] for row in TURNS[: len(mask)]]
        inputs = {"advantages": given, "entropy": entropy, "turn": turns, "mask": mask}
        inputs |= {"scored": scored} if scored else {}
        made.append(case("credit", "entropy_modulated", name, inputs, {"advantages": expect}, options=options))
    return made


# -- HAPO --------------------------------------------------------------------------------------------------------------
def score_cases():
    made = []
    for name, mask, quantile, scored in (
        ("uneven rows", UNEVEN, 0.8, None),
        ("steps of others and an empty row", HOLED, 0.5, None),
        ("an unscored row, the lowest quantile", UNEVEN, 0.0, [1, 0, 1, 1]),
        ("one step", SINGLE, 0.8, None),
    ):
        entropy = draw(f"credit/entropy_scores/{name}", mask, 0.01, 1.4)
        counted = scored_mask(mask, scored)
        level = grid(counted, lambda b, t, h=entropy: ref.log(h[b][t]))
        every = sorted(x for row in level for x in row if x is not None)
        middle = every[round(quantile * (len(every) - 1))]
        spread = max(sum((x - middle) ** 2 for x in every) / len(every), 1e-8) ** 0.5
        most, least = (max(abs((x - middle) / spread), 1e-8) for x in (every[-1], every[0]))
        score = [[0.0 if x is None else (x - middle) / spread for x in row] for row in level]
        score = [[h / most if h > 0 else h / least for h in row] for row in score]
        inputs = {"entropy": entropy, "mask": mask, **({"scored": scored} if scored else {})}
        expect, options = {"entropy_score": score}, {"quantile": quantile}
        made.append(case("credit", "entropy_scores", name, inputs, expect, options=options))
    return made


def step_standardised(rewards, group, scored, lengths, epsilon, bound):
    made = []
    for row in range(len(rewards)):
        members = ref.members(group, scored, row)
        pool = [rewards[i] for i in members for _ in range(lengths[i])]
        if not scored[row] or len({rewards[i] for i in members}) < 2 or not pool:
            made.append(0.0)
            continue
        mean = sum(pool) / len(pool)
        deviation = (sum((x - mean) ** 2 for x in pool) / len(pool)) ** 0.5
        made.append((rewards[row] - mean) / (deviation + epsilon) if deviation > 0 else 0.0)
    far = [
        any(abs(made[i]) >= (bound or float("inf")) for i in ref.members(group, scored, row))
        for row in range(len(made))
    ]
    plain = ref.standardised(rewards, group, scored, epsilon, 1)
    return [p if f else a for p, f, a in zip(plain, far, made, strict=True)]


def step_standardised_cases():
    made = []
    wide = [[1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1], [1] + [0] * 11, [1, 1] + [0] * 10, [1, 1, 1] + [0] * 9]
    for name, rewards, mask, group, scored, options in (
        ("ragged groups", [1.0, 0.0, 0.5, 2.0], UNEVEN, [0, 0, 1, 1], None, {"epsilon": 1e-6, "bound": 5.0}),
        ("interleaved", [1.0, 0.3, 0.0, 0.9], HOLED, [4, 2, 4, 4], None, {"epsilon": 0.1, "bound": None}),
        ("an unscored row", [1.0, 0.0, 0.5, 2.0], UNEVEN, [0] * 4, [1, 1, 0, 1], {"epsilon": 1e-6, "bound": 5.0}),
        ("equal rewards", [1.0, 1.0, 0.5, 0.5], UNEVEN, [0, 0, 1, 1], None, {"epsilon": 1e-6, "bound": 5.0}),
        ("a short row far off", [0.0, 1.0, 0.0, 0.0], wide, [0] * 4, None, {"epsilon": 0.0, "bound": 2.0}),
    ):
        known, lengths = scored or [1] * 4, [sum(row) for row in mask]
        advantage = step_standardised(rewards, group, known, lengths, **options)
        expect = [[a if m else 0.0 for m in row] for a, row in zip(advantage, mask, strict=True)]
        inputs = {"rewards": rewards, "group": group, "mask": mask, **({"scored": scored} if scored else {})}
        made.append(case("credit", "step_standardised", name, inputs, {"advantages": expect}, options=options))
    return made


def heterogeneous(logp, old, advantage, score, low=0.2, high=0.2, dual=None, amount=1.0):
    ratio = ref.exp(logp - old)
    middle = 1 - low / 2 < ratio < 1 + high / 2
    if (score > 0) != middle:
        advantage = advantage * (1 + amount * score)
    return ref.clipped_surrogate(logp, old, advantage, low, high, dual)


def heterogeneous_cases():
    ranges = {"logprobs": LOGP, "old_logprobs": LOGP, "advantages": SIGNED, "entropy_score": (-1.0, 1.0)}
    options = {"clip_low": 0.4, "clip_high": 0.6, "dual_clip": 3.0, "amount": 0.5}
    mask = [[1] * 8]
    inputs = {
        "logprobs": [[-1.0, -0.95, -0.7, -0.95, -0.7, -1.3, -1.3, -1.08]],
        "old_logprobs": [[-1.0] * 8],
        "advantages": [[1.0, 2.0, 1.5, -0.5, -1.0, -2.0, 0.7, -1.0]],
        "entropy_score": [[0.5, -0.5, 0.5, 0.9, -0.9, 0.3, -0.3, 0.0]],
    }
    made = [
        *step_cases("objective", "heterogeneous_surrogate", heterogeneous, ranges),
        *step_cases(
            "objective",
            "heterogeneous_surrogate",
            lambda x, o, a, h: heterogeneous(x, o, a, h, 0.4, 0.6, 3.0, 0.5),
            ranges,
            options,
        ),
    ]
    name, part = "every branch", "heterogeneous_surrogate"
    columns = {"advantage": "advantage", "score": "entropy_score"}
    made.append(step_case("objective", part, name, heterogeneous, inputs, mask, "token_mean", columns))
    return made


def cases():
    return [
        *entropy_cases(),
        *modulated_cases(),
        *score_cases(),
        *step_standardised_cases(),
        *heterogeneous_cases(),
    ]
