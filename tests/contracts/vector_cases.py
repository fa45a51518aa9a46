"""What the cases of all axes are made of: masks, drawn numbers, the record of a case."""

import random

UNEVEN = [[1, 1, 1, 1, 1], [1, 1, 0, 0, 0], [1, 1, 1, 0, 0], [1, 0, 0, 0, 0]]
HOLED = [[1, 0, 0, 1, 1], [0, 1, 1, 0, 0], [0, 0, 0, 0, 0], [1, 1, 1, 1, 0]]
SINGLE = [[0, 1, 0]]
NOTHING = [[0, 0], [0, 0]]

LOGP = (-1.6, -0.05)
SIGNED = (-1.5, 1.5)


def draw(name, mask, low, high):
    """Rounded numbers where the mask holds, null elsewhere."""
    rng = random.Random(name)
    return [[round(rng.uniform(low, high), 3) if m else None for m in row] for row in mask]


def draw_logits(name, mask, choices=4):
    rng = random.Random(name)
    return [[[round(rng.uniform(-2, 2), 3) if m else None for _ in range(choices)] for m in row] for row in mask]


def case(axis, part, name, inputs, expect, **more):
    return {"name": name, "axis": axis, "part": part, **more, "inputs": inputs, "expect": expect}


def scored_mask(mask, scored):
    return [[m if s else 0 for m in row] for row, s in zip(mask, scored or [1] * len(mask), strict=True)]


def grid(mask, value):
    """value(row, step) where the mask holds, None elsewhere."""
    return [[value(b, t) if m else None for t, m in enumerate(row)] for b, row in enumerate(mask)]


def zeros(row):
    """Nulls and what they stand for replaced by 0, in nested lists like `row`."""
    return [zeros(x) for x in row] if isinstance(row, list) else 0.0


def total(weights, values):
    pairs = zip(weights, values, strict=True)
    return sum(w * v for ws, vs in pairs for w, v in zip(ws, vs, strict=True) if v is not None)
