"""Cases of turns compared with turns, and of advantages that are added."""

import reference_formulas as ref
from vector_cases import HOLED, LOGP, SIGNED, UNEVEN, case, draw
from vector_losses import CLIP, step_cases

from references_turns import compared, turn_numbers

TURNS = [[0, 0, 1, 2, 2], [0, 1, 1, 1, 1], [0, 1, 1, 1, 1], [0, 0, 1, 2, 3]]


def filled(name, mask):
    """Rounded numbers where the mask holds, 0 elsewhere."""
    return [[x or 0.0 for x in row] for row in draw(name, mask, *SIGNED)]


def turn_case(name, mask, options, scored=None, group=(0, 0, 1, 1)):
    of, gamma, among = (options.get(k, d) for k, d in (("of", "to_go"), ("gamma", 1.0), ("among", "group")))
    column = options.get("column", "turn")
    label = f"credit/turn_advantage/{name}"
    rewards = filled(label, mask)
    turns = TURNS if column == "turn" else [[0] * 5] * 4
    worth, ids, known, where = [], [], [], []
    for b in range(4):
        own = [bool(m) for m in mask[b]]
        steps = turn_numbers(turns[b], own)
        # No reward stands on a step of others here, so that a turn's reward is that of its own steps.
        own_worth = [sum(rewards[b][t] for t in one) for one in steps]
        for k, one in enumerate(steps):
            later = sum(gamma**n * x for n, x in enumerate(own_worth[k:]))
            worth.append({"own": own_worth[k], "total": sum(own_worth), "to_go": later}[of])
            ids.append((group[b], k) if among == "place" else group[b])
            known.append((scored or [1] * 4)[b])
            where.append((b, one))
    scaling = {k: options[k] for k in ("ddof", "epsilon") if k in options}
    found = compared(worth, ids, known, scaled=options.get("scaled", False), **scaling)
    out = [[0.0] * 5 for _ in range(4)]
    for a, (b, one) in zip(found, where, strict=True):
        for t in one:
            out[b][t] = a
    given, written = options.get("reward", "reward"), options.get("advantage", "advantage")
    inputs = {"rewards" if given == "reward" else given: rewards, "turn": TURNS, "mask": mask, "group": list(group)}
    inputs |= {"scored": scored} if scored else {}
    expect = {"advantages" if written == "advantage" else written: out}
    return case("credit", "turn_advantage", name, inputs, expect, options=options)


def turns():
    named = {"reward": "reward:turn", "advantage": "advantage:turn"}
    return [
        turn_case("to go, among the group", UNEVEN, {}),
        turn_case("discounted per turn", UNEVEN, {"gamma": 0.5, "of": "to_go", "among": "group"}),
        turn_case("own rewards, at the same place", UNEVEN, {"of": "own", "among": "place", "column": "turn"}),
        turn_case("whole rows", UNEVEN, {"column": None, "of": "total"}),
        turn_case("the row's reward, a value per turn", UNEVEN, {"of": "total"}),
        turn_case("scaled", HOLED, {"scaled": True, "ddof": 0, "epsilon": 0.1, "gamma": 0.9}),
        turn_case("by name", HOLED, {**named, "of": "own", "scaled": True}),
        turn_case("an unscored row", UNEVEN, {"gamma": 0.7}, [1, 0, 1, 1], (3, 3, 3, 3)),
    ]


def sums():
    made = []
    for name, mask, weights in (
        ("two levels", UNEVEN, {"advantage:episode": 1.0, "advantage:state": 0.5}),
        ("steps of others", HOLED, {"advantage:a": -2.0, "advantage:b": 0.25}),
        ("one level, off", UNEVEN, {"advantage:a": 0.0}),
    ):
        columns = {key: filled(f"credit/added_advantages/{name}/{key}", mask) for key in weights}
        out = [[sum(w * columns[k][b][t] for k, w in weights.items()) for t in range(5)] for b in range(4)]
        inputs = {**columns, "mask": mask}
        made.append(case("credit", "added_advantages", name, inputs, {"advantages": out}, options={"weights": weights}))
    return made


def dependence(logp, other, bound=20.0, most=10.0):
    d = min(max(other - logp, -bound), bound)
    value = ref.exp(d) - d - 1
    if value > most:
        return most, 0.0
    return value, 0.0 if abs(other - logp) > bound else 1 - ref.exp(d)


def share_case(name, mask, share):
    label = f"constraint/context_dependence/{name}"
    inputs = {key: draw(f"{label}/{key}", mask, *LOGP) for key in ("logprobs", "blind_logprobs")}
    places = [(b, t) for b, row in enumerate(mask) for t, m in enumerate(row) if m]
    found = {(b, t): dependence(inputs["logprobs"][b][t], inputs["blind_logprobs"][b][t]) for b, t in places}
    kept = sorted(places, key=lambda place: -found[place][0])[: int(share * len(places) + 1e-9)]
    values = [[None if not m else 0.0 for m in row] for row in mask]
    gradient = [[0.0] * len(row) for row in mask]
    for b, t in kept:
        values[b][t], gradient[b][t] = found[b, t]
    expect = {"per_step": values, "grad_logprobs": gradient}
    options = {"role": "blind", "share": share}
    return case("constraint", "context_dependence", name, {**inputs, "mask": mask}, expect, options=options)


def contexts():
    ranges = {"logprobs": LOGP, "blind_logprobs": LOGP}
    near = {"bound": 0.4, "most": 0.05}
    return [
        *step_cases("constraint", "context_dependence", dependence, ranges),
        *step_cases(
            "constraint", "context_dependence", lambda x, y: dependence(x, y, 0.4, 0.05), ranges, near
        )[:3],
        share_case("the larger half", UNEVEN, 0.5),
        share_case("a third of holed rows", HOLED, 1 / 3),
        *step_cases("constraint", "surprise", lambda x: (-x, -1.0), {"logprobs": LOGP}, {"role": "policy"}),
    ]  # fmt: skip


def optimistic(logp, old, advantage, low=0.2, high=0.2):
    """min(r, 1 + high) A for negative A, the usual form for the others."""
    if advantage >= 0:
        return ref.clipped_surrogate(logp, old, advantage, low, high)
    ratio = ref.exp(logp - old)
    return (-(1 + high) * advantage, 0.0) if ratio > 1 + high else (-ratio * advantage, -ratio * advantage)


def surrogates():
    options = {"clip_high": 0.3}
    return [
        *step_cases("objective", "optimistic_surrogate", optimistic, CLIP),
        *step_cases("objective", "optimistic_surrogate", lambda *x: optimistic(*x, 0.1, 0.3), CLIP, options)[:3],
    ]


def means():
    """Every turn of a row weighs the same, and every row."""
    made = []
    for name, mask in (("uneven rows", UNEVEN), ("holed rows", HOLED), ("one row", [[1, 1, 1, 0, 1], *[[0] * 5] * 3])):
        turns = [turn_numbers(TURNS[b], [bool(m) for m in mask[b]]) for b in range(4)]
        rows = sum(1 for found in turns if found)
        weights = [[0.0] * 5 for _ in range(4)]
        for b, found in enumerate(turns):
            for one in found:
                for t in one:
                    weights[b][t] = 1 / len(one) / len(found) / rows
        inputs = {"mask": mask, "turn": TURNS}
        made.append(case("update", "turn_mean", name, inputs, {"weights": weights}, options={"column": "turn"}))
    return made


def cases():
    return [*turns(), *sums(), *contexts(), *surrogates(), *means()]
