"""Cases of charges on the ratio of whole rows."""

import math

from vector_cases import HOLED, LOGP, SINGLE, UNEVEN, case, draw
from vector_rows import step_rewards


def cases():
    made = []
    for name, mask, coefficient, bound in (
        ("uneven rows", UNEVEN, 0.1, 100.0),
        ("steps of others do not count", HOLED, 0.3, 100.0),
        ("a bound on the charge", UNEVEN, 2.0, 0.5),
        ("one step", SINGLE, 0.5, 100.0),
    ):
        label = f"reward/sequence_chi_square_penalty/{name}"
        ours, theirs = (draw(f"{label}/{key}", mask, *LOGP) for key in ("behaviour", "reference"))
        rewards = step_rewards(f"{label}/rewards", mask)
        expect = [[x or 0.0 for x in row] for row in rewards]
        for b, row in enumerate(mask):
            own = [t for t, m in enumerate(row) if m]
            if own:
                u = math.exp(sum(ours[b][t] - theirs[b][t] for t in own))
                expect[b][own[-1]] += min(max(-coefficient * (u - 1), -bound), bound)
        inputs = {"rewards": rewards, "behaviour_logprobs": ours, "reference_logprobs": theirs, "mask": mask}
        options = {"coefficient": coefficient, "bound": bound}
        made.append(case("reward", "sequence_chi_square_penalty", name, inputs, {"rewards": expect}, options=options))
    return made
