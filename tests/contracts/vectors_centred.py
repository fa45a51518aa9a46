"""Cases of the clipped surrogate with centred log-ratios."""

import random

import reference_formulas as ref
from vector_cases import HOLED, SIGNED, UNEVEN, draw, draw_logits
from vector_losses import step_case


def centred(logits, old, advantage, step, low, high, scale):
    """-min(r A, clip(r) A), r = exp(scale (log p - log q + sum_v q (log q - log p))); d log r / d logit_v = scale (1[v
    = step] - q_v)."""
    new, before = ref.log_softmax(logits), ref.log_softmax(old)
    divergence = sum(ref.exp(q) * (q - p) for p, q in zip(new, before, strict=True))
    ratio = ref.exp(scale * (new[step] - before[step] + divergence))
    value, slope = ref.clipped(ratio, advantage, low, high)
    return value, [slope * ratio * scale * ((v == step) - ref.exp(q)) for v, q in enumerate(before)]


def cases():
    made = []
    for name, mask, reduction, options in (
        ("uneven rows", UNEVEN, "token_mean", {}),
        ("steps of others", HOLED, "sequence_mean", {"clip_low": 0.1, "clip_high": 0.3}),
        ("scaled", UNEVEN, "token_mean", {"scale": 0.25, "clip_low": 0.05, "clip_high": 0.02}),
    ):
        label = f"objective/centred_surrogate/{name}"
        rng = random.Random(label)
        inputs = {
            "logits": draw_logits(f"{label}/new", mask),
            "old_logits": draw_logits(f"{label}/old", mask),
            "advantages": draw(f"{label}/advantages", mask, *SIGNED),
            "steps": [[rng.randrange(4) for _ in row] for row in mask],
        }

        def formula(new, old, advantage, step, given=options):
            low, high = given.get("clip_low", 0.2), given.get("clip_high", 0.2)
            return centred(new, old, advantage, step, low, high, given.get("scale", 1.0))

        made.append(
            step_case("objective", "centred_surrogate", name, formula, inputs, mask, reduction, options or None)
        )
    return made
