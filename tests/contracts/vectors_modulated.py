"""Cases of entropies of steps and of the credit that they modulate."""

import reference_formulas as ref
from vector_cases import HOLED, SIGNED, SINGLE, UNEVEN, case, draw, draw_logits, grid, scored_mask
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


def cases():
    return [*entropy_cases(), *modulated_cases()]
