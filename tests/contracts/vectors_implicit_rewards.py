"""Cases of process rewards from log-ratios, of teachers put together from others, and of swapped preferences."""

import reference_formulas as ref
from vector_cases import HOLED, LOGP, NOTHING, UNEVEN, case, draw
from vector_losses import step_cases
from vector_rows import step_rewards


# -- process rewards ---------------------------------------------------------------------------------------------------
def ends_of(mask, turn, piece):
    """Places of every piece of each row, in order of time."""
    found = []
    for row, turns in zip(mask, turn, strict=True):
        by_id = {}
        for t, m in enumerate(row):
            if m:
                by_id.setdefault(t if piece == "step" else turns[t], []).append(t)
        found.append(sorted(by_id.values()))
    return found


def process():
    made = []
    turns = [[0, 0, 1, 1, 2], [3, 3, 3, 3, 3], [0, 1, 1, 2, 2], [5, 6, 7, 7, 7]]
    for name, mask, options in (
        ("turns, each on its end", UNEVEN, {"beta": 0.5}),
        ("the lowest turn of a row", UNEVEN, {"beta": 2.0, "paid": "min", "piece": "turn"}),
        ("single steps beside those of others", HOLED, {"beta": 1.0, "piece": "step", "paid": "mean"}),
        ("the whole row, other models", HOLED, {"beta": 1.0, "paid": "sum", "model": "teacher", "against": "old"}),
        ("no step", NOTHING, {"beta": 1.0, "paid": "min"}),
    ):
        label = f"reward/implicit_process/{name}"
        model, against = options.get("model", "implicit"), options.get("against", "reference")
        turn = turns if mask is not NOTHING else [[0, 0], [0, 0]]
        said, other = (draw(f"{label}/{key}", mask, *LOGP) for key in ("said", "other"))
        before = step_rewards(f"{label}/before", mask)
        added = [[0.0] * len(row) for row in mask]
        for b, places in enumerate(ends_of(mask, turn, options.get("piece", "turn"))):
            paid = [options["beta"] * sum(said[b][t] - other[b][t] for t in piece) for piece in places]
            kind = options.get("paid", "each")
            if kind == "each":
                for piece, x in zip(places, paid, strict=True):
                    added[b][piece[-1]] = x
            elif paid:
                one = {"min": min(paid), "sum": sum(paid), "mean": sum(paid) / len(paid)}[kind]
                added[b][max(t for piece in places for t in piece)] = one
        expect = [[(x or 0.0) + y for x, y in zip(*rows, strict=True)] for rows in zip(before, added, strict=True)]
        inputs = {"rewards": before, f"{model}_logprobs": said, f"{against}_logprobs": other, "mask": mask}
        inputs |= {"turn": turn} if options.get("piece", "turn") == "turn" else {}
        made.append(case("reward", "implicit_process", name, inputs, {"rewards": expect}, options=options))
    return made


# -- teachers ----------------------------------------------------------------------------------------------------------
def teacher(logits, preferred, against, anchor, beta, scale, adaptive):
    """beta / w KL(softmax(logits) || teacher) and its derivative by the logits."""
    p, q = ([ref.exp(x) for x in ref.log_softmax(one)] for one in (preferred, against))
    w = scale * sum(abs(a - b) for a, b in zip(p, q, strict=True)) + 1e-3 if adaptive else scale
    target = [a + w * (x - y) for a, x, y in zip(anchor, preferred, against, strict=True)]
    value, slope = ref.reverse_kl(logits, target)
    return beta / w * value, [beta / w * s for s in slope]


def teachers():
    span = (-2.0, 2.0)
    made = []
    for options in ({}, {"beta": 0.7, "scale": 1.5}, {"adaptive": False, "scale": 2.0}):
        beta, scale = options.get("beta", 0.1), options.get("scale", 15.0)
        adaptive = options.get("adaptive", True)
        made += step_cases(
            "objective",
            "extrapolated_teacher",
            lambda l, p, r, b=beta, s=scale, a=adaptive: teacher(l, p, r, p, b, s, a),  # noqa: E741
            {"logits": span, "preferred_logits": span, "reversed_logits": span},
            options,
        )
    options = {"preferred": "teacher", "against": "reference", "anchor": "reference", "adaptive": False, "scale": 1.5}
    made += step_cases(
        "objective",
        "extrapolated_teacher",
        lambda l, p, r: teacher(l, p, r, r, 0.1, 1.5, False),  # noqa: E741
        {"logits": span, "teacher_logits": span, "reference_logits": span},
        options,
    )
    return made


# -- preferences -------------------------------------------------------------------------------------------------------
def swapped():
    return [
        case("feedback", "swapped", name, {"pairs": pairs, "mask": [[1]] * size}, {"pairs": [p[::-1] for p in pairs]})
        for name, pairs, size in (
            ("two pairs", [[0, 1], [3, 2]], 4),
            ("a row of no pair stays out", [[2, 0]], 3),
            ("no pair", [], 2),
        )
    ]


def cases():
    return [*process(), *teachers(), *swapped()]
