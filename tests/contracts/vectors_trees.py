"""Cases of trees of rows: differences of node values, nested groups, edges trained once, unsure steps, whitening."""

from vector_cases import LOGP, SIGNED, UNEVEN, case, draw

from references_trees import differences, nested, whitened

# Rows 0, 1 and 4 share the segment 1, rows 0 and 1 also the segment 2; row 3 is of another group.
NODES = [[1, 1, 2, 3, 3], [1, 1, 2, 4, 4], [5, 5, 5, 0, 0], [7, 8, 8, 8, 9], [1, 1, 6, 0, 0]]
MASK = [[1, 1, 1, 1, 1], [1, 1, 1, 1, 1], [1, 1, 1, 0, 0], [1, 1, 1, 1, 1], [1, 1, 1, 0, 0]]
PATHS = [[1, 2, 3], [1, 2, 4], [5], [7, 8, 9], [1, 6]]
GROUP = [0, 0, 0, 1, 0]
WORTH = {"sparse": [1.0, 0.0, 0.0, 1.0, 1.0], "dense": [0.5, -0.25, 2.0, 0.3, 1.75], "equal": [1.0] * 5}


def of_groups(formula, worth, scored):
    """A formula of a tree, for the rows of every group."""
    out = [None] * 5
    for one in set(GROUP):
        rows = [b for b in range(5) if GROUP[b] == one]
        found = formula([PATHS[b] for b in rows], [worth[b] for b in rows], [scored[b] for b in rows])
        for b, value in zip(rows, found, strict=True):
            out[b] = value
    return out


def on_nodes(values):
    """A number per node of a row's path, on its steps."""
    return [[values[b][PATHS[b].index(NODES[b][t])] if MASK[b][t] else 0.0 for t in range(5)] for b in range(5)]


def tree_case(part, name, worth, options, expect, scored=None, **more):
    inputs = {"rewards": worth, "group": GROUP, "node": NODES, "mask": MASK, **more}
    inputs |= {"scored": scored} if scored else {}
    return case("credit", part, name, inputs, expect, options=options)


def trees():
    made = []
    for name, scored in (("sparse", None), ("dense", None), ("equal", None), ("dense", [1, 0, 1, 1, 1])):
        worth, known = WORTH[name], scored or [1] * 5
        label = f"{name}{', an unscored row' if scored else ''}"
        for scaled in (False, True):
            options = {"scaled": scaled, "epsilon": 0.1}
            found = of_groups(lambda p, w, s, e=0.1 if scaled else None: differences(p, w, s, e), worth, known)
            expect = {"advantages": on_nodes(found)}
            made.append(tree_case("node_difference", f"{label} ({options})", worth, options, expect, scored))
        for by_size, skip in ((True, False), (False, False), (True, True)):
            options = {"weighting": "size" if by_size else "simple", "skip_flat": skip}
            found = of_groups(lambda p, w, s, o=(by_size, skip): nested(p, w, s, by_size=o[0], skip=o[1]), worth, known)
            expect = {"advantages": [[found[b] if MASK[b][t] else 0.0 for t in range(5)] for b in range(5)]}
            made.append(tree_case("nested_groups", f"{label} ({options})", worth, options, expect, scored))
    return made


def once():
    made = []
    for name, flat, scored in (
        ("all", True, None),
        ("not flat", False, None),
        ("row 0 unscored", True, [0, 1, 1, 1, 1]),
    ):
        known = scored or [1] * 5
        advantage = [[0.0 if t == 2 else 1.0 + t for t in range(5)] for _ in range(5)]
        seen, mask = set(), [[0] * 5 for _ in range(5)]
        for b in range(5):
            fresh = {(GROUP[b], n) for n in PATHS[b]} - seen if known[b] else set()
            seen |= fresh
            for t in range(5):
                dropped = not flat and advantage[b][t] == 0.0
                mask[b][t] = int(bool(MASK[b][t]) and (GROUP[b], NODES[b][t]) in fresh and not dropped)
        inputs = {"advantages": advantage, "group": GROUP, "node": NODES, "mask": MASK}
        inputs |= {"scored": scored} if scored else {}
        made.append(case("credit", "edges_once", name, inputs, {"mask": mask}, options={"flat": flat}))
    return made


def unsure():
    made = []
    for name, most in (("half", 0.5), ("most", 0.9), ("none is below", 0.01)):
        logp = draw(f"credit/uncertain_steps/{name}", UNEVEN, *LOGP)
        limit = most if most > 0.1 else 2.0
        keep = [
            [int(bool(m) and 2.718281828459045**x < limit) if m else 0 for x, m in zip(r, row, strict=True)]
            for r, row in zip(logp, UNEVEN, strict=True)
        ]
        inputs = {"behaviour_logprobs": logp, "mask": UNEVEN}
        made.append(case("credit", "uncertain_steps", name, inputs, {"mask": keep}, options={"most": most}))
    return made


def white():
    made = []
    for name, ddof, epsilon, scored in (
        ("sample", 1, 1e-8, None), ("population", 0, 0.1, None), ("an unscored row", 1, 1e-8, [1, 0, 1, 1]),
    ):  # fmt: skip
        raw = draw(f"credit/whitened/{name}", UNEVEN, *SIGNED)
        known = scored or [1] * 4
        flat = [x for b, row in enumerate(raw) for x in row if x is not None and known[b]]
        found = iter(whitened(flat, ddof, epsilon))
        out = [[next(found) if x is not None and known[b] else 0.0 for x in row] for b, row in enumerate(raw)]
        inputs = {"advantages": raw, "mask": UNEVEN, **({"scored": scored} if scored else {})}
        options = {"ddof": ddof, "epsilon": epsilon}
        made.append(case("credit", "whitened", name, inputs, {"advantages": out}, options=options))
    return [*made, *white_of_differing_groups()]


def white_of_differing_groups():
    """Rows 0 and 2 differ in reward, rows 1 and 3 do not: two groups."""
    raw = draw("credit/whitened/flat groups", UNEVEN, *SIGNED)
    inputs = {"advantages": raw, "mask": UNEVEN, "group": [0, 1, 0, 1], "rewards": [1.0, 0.5, 0.0, 0.5]}
    made = []
    for flat in (True, False):
        known = [1, flat, 1, flat]
        counted = [x for b, row in enumerate(raw) for x in row if x is not None and known[b]]
        found = iter(whitened(counted, 1, 1e-8))
        out = [[next(found) if x is not None and known[b] else 0.0 for x in row] for b, row in enumerate(raw)]
        name = f"equal rewards {'counted' if flat else 'left out'}"
        made.append(case("credit", "whitened", name, inputs, {"advantages": out}, options={"flat": flat}))
    return made


def cases():
    return [*trees(), *once(), *unsure(), *white()]
