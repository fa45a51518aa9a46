"""Cases of losses of pairs and of single good and bad rows."""

from vector_cases import HOLED, LOGP, SIGNED, UNEVEN, case, draw, zeros

import loops_pairs as by_hand

STATED = ("beta", "mean", "discount", "divergence")


def begun(part, name, mask, options):
    """Inputs, and what every row says with its derivative by its steps."""
    label, anchor, by = f"objective/{part}/{name}", options.get("anchor", "reference"), options.get("by")
    inputs = {"logprobs": draw(f"{label}/new", mask, *LOGP)}
    if anchor:
        inputs[f"{anchor}_logprobs"] = draw(f"{label}/anchor", mask, *LOGP)
    if by:
        inputs[by] = draw(f"{label}/by", mask, *SIGNED)
    given = {k: v for k, v in options.items() if k in STATED}
    said = []
    for b, row in enumerate(mask):
        places = [t for t, m in enumerate(row) if m]
        held = inputs[f"{anchor}_logprobs"][b] if anchor else [0.0] * len(row)
        gaps = [inputs["logprobs"][b][t] - held[t] for t in places]
        weights = [inputs[by][b][t] if by else 1.0 for t in places]
        s, slopes = by_hand.said(gaps, weights, **given)
        said.append((s, dict(zip(places, slopes, strict=True))))
    return inputs, said


def spread(mask, said, outer, scale):
    gradient = [zeros(row) for row in mask]
    for b, slope in outer.items():
        for t, inner in said[b][1].items():
            gradient[b][t] = scale * slope * inner
    return gradient


def pair_case(name, mask, pairs, options):
    inputs, said = begun("pair_preference", name, mask, options)
    given = {k: v for k, v in options.items() if k in ("beta", "link", "wrong", "unbiased", "rejected", "target")}
    values, outer, doubt = [None] * len(mask), {}, options.get("doubt")
    if doubt:
        inputs[doubt] = [0.1, 0.0, 0.3, 0.5]
    for w, l in pairs:  # noqa: E741
        if any(mask[w]) and any(mask[l]):
            more = given | ({"wrong": inputs[doubt][w]} if doubt else {})
            values[w], outer[w], outer[l] = by_hand.pair(said[w][0], said[l][0], **more)
    told = [v for v in values if v is not None]
    expect = {"loss": sum(told) / len(told), "per_step": values}
    expect["grad_logprobs"] = spread(mask, said, outer, 1 / len(told))
    inputs |= {"mask": mask, "pairs": pairs}
    return case("objective", "pair_preference", name, inputs, expect, options=options, reduction="row_mean")


def row_case(name, mask, label, options):
    inputs, said = begun("row_preference", name, mask, options)
    given = {k: v for k, v in options.items() if k in ("link", "point", "balance", "good", "bad")}
    rows = [b for b, row in enumerate(mask) if any(row)]
    inputs["label"], right = label, [y > 0.5 for y in label]
    values, outer = [None] * len(mask), {}
    found = by_hand.rows([said[b][0] for b in rows], [right[b] for b in rows], **given)
    for b, (value, slope) in zip(rows, found, strict=True):
        values[b], outer[b] = value, slope
    expect = {"loss": sum(v for v in values if v is not None) / len(rows), "per_step": values}
    expect["grad_logprobs"] = spread(mask, said, outer, 1 / len(rows))
    return case(
        "objective", "row_preference", name, {**inputs, "mask": mask}, expect, options=options, reduction="row_mean"
    )


def alignment_case(name, mask, options):
    anchor, temperature = options.get("anchor", "reference"), options.get("temperature", 0.1)
    inputs, said = begun("row_alignment", name, mask, {"anchor": anchor, "beta": 1.0})
    inputs["advantages"] = draw(f"objective/row_alignment/{name}/a", mask, *SIGNED)
    rows = [b for b, row in enumerate(mask) if any(row)]
    values, outer = [None] * len(mask), {}
    for b in rows:
        known = [a for a in inputs["advantages"][b] if a is not None]
        error = said[b][0] - sum(known) / len(known) / temperature
        values[b], outer[b] = error**2, 2 * error
    expect = {"loss": sum(values[b] for b in rows) / len(rows), "per_step": values}
    expect["grad_logprobs"] = spread(mask, said, outer, 1 / len(rows))
    return case(
        "objective", "row_alignment", name, {**inputs, "mask": mask}, expect, options=options, reduction="row_mean"
    )


def cases():
    two = [[0, 1], [3, 2]]
    return [
        alignment_case("uneven rows", UNEVEN, {"temperature": 0.5}),
        alignment_case("an empty row", HOLED, {"temperature": 2.0, "anchor": "old"}),
        alignment_case("the default temperature", HOLED[:2], {}),
        pair_case("DPO", UNEVEN, two, {"beta": 0.3}),
        pair_case("IPO by means", UNEVEN, two, {"link": "squared", "beta": 0.3, "mean": True}),
        pair_case("SLiC without a reference", UNEVEN, two, {"link": "hinge", "anchor": None}),
        pair_case("robust", UNEVEN, two, {"wrong": 0.3, "unbiased": True, "beta": 0.5}),
        pair_case("exo", UNEVEN, two, {"link": "exo", "wrong": 0.1, "beta": 0.5}),
        pair_case("discovered", UNEVEN, two, {"link": "discovered", "beta": 0.05}),
        pair_case("SimPO", UNEVEN, two, {"anchor": None, "mean": True, "beta": 2.0, "target": 0.5}),
        pair_case("segments with a bias", UNEVEN, two, {"anchor": "old", "rejected": 0.5, "discount": 0.9}),
        pair_case("a forward divergence", UNEVEN, two, {"divergence": "forward_kl"}),
        pair_case("weights of steps", UNEVEN, two, {"by": "severity", "beta": 0.4}),
        pair_case("a doubt of each pair", UNEVEN, two, {"doubt": "doubt", "beta": 0.4}),
        pair_case("nca, an untrained side", HOLED, [[0, 1], [3, 2]], {"link": "nca", "beta": 0.4}),
        pair_case("apo_down", HOLED, [[3, 0]], {"link": "apo_down", "beta": 0.4}),
        row_case("labels", UNEVEN, [1.0, 0.0, 0.0, 1.0], {"beta": 0.5, "point": 0.2, "good": 0.7, "bad": 1.4}),
        row_case("balanced", UNEVEN, [1.0, 0.0, 0.0, 0.0], {"balance": True, "mean": True, "discount": 0.9}),
        row_case("kto, a row that is not trained on", HOLED, [1.0, 0.0, 1.0, 1.0], {"link": "kto", "anchor": "old"}),
        row_case(
            "weights of steps",
            UNEVEN,
            [0.0, 1.0, 0.0, 1.0],
            {"column": "label", "divergence": "jensen_shannon", "by": "severity"},
        ),
    ]
