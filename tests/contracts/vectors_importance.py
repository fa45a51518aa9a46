"""Cases of importance weights of whole rows."""

import reference_formulas as ref
from vector_cases import HOLED, LOGP, UNEVEN, case, draw, grid

PART = "truncated_sequence_importance"


def cases():
    made = []
    for name, mask, cap in (
        ("uneven rows, capped at 2", UNEVEN, 2.0),
        ("steps of others do not count", HOLED, 1.3),
        ("without a cap", UNEVEN, "inf"),
    ):
        label = f"objective/{PART}/{name}"
        old, behaviour = (draw(f"{label}/{key}", mask, *LOGP) for key in ("old", "behaviour"))
        row = [
            min(ref.exp(sum(old[b][t] - behaviour[b][t] for t, counted in enumerate(held) if counted)), float(cap))
            for b, held in enumerate(mask)
        ]
        inputs = {"old_logprobs": old, "behaviour_logprobs": behaviour, "mask": mask}
        expect = {"weights": grid(mask, lambda b, t, w=row: w[b])}
        made.append(case("objective", PART, name, inputs, expect, options={"cap": cap}))
    return made
