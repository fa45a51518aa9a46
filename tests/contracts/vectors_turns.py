"""Cases of turns compared with turns, and of advantages that are added."""

from vector_cases import HOLED, SIGNED, UNEVEN, case, draw

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


def cases():
    return [*turns(), *sums()]
