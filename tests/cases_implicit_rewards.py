"""Cases of losses of teachers that are put together from several models."""

from __future__ import annotations

import torch

import loops
from cases import Case
from policyopt.objective.implicit_rewards import ExtrapolatedTeacher


def extrapolated(beta: float, scale: float, *, adaptive: bool):
    """The reference with the teacher as preferred model and anchor, against the reference model."""

    def reference(batch, tables):
        value = torch.zeros(len(batch), batch.steps, dtype=torch.float64)
        slope = torch.zeros(len(batch), batch.steps, tables["policy"].shape[-1], dtype=torch.float64)
        for b, t in batch.trained.nonzero().tolist():
            policy, teacher, other = (tables[m][b, t] for m in ("policy", "teacher", "reference"))
            gap = sum(abs(p - q) for p, q in zip(*(x.softmax(-1).tolist() for x in (teacher, other)), strict=True))
            w = scale * gap + 1e-3 if adaptive else scale
            target = [z + w * (z - r) for z, r in zip(teacher.tolist(), other.tolist(), strict=True)]
            found, slopes = loops.kl(policy.softmax(-1).tolist(), torch.tensor(target).softmax(-1).tolist())
            value[b, t], slope[b, t] = beta / w * found, torch.tensor([beta / w * s for s in slopes])
        return value, slope

    return reference


_ROLES = {"preferred": "teacher", "against": "reference", "anchor": "teacher"}
CASES = {
    "extrapolated_teacher": Case(
        ExtrapolatedTeacher(0.7, 0.4, **_ROLES), extrapolated(0.7, 0.4, adaptive=True), full=True
    ),
    "constant_teacher": Case(
        ExtrapolatedTeacher(0.7, 1.5, adaptive=False, **_ROLES), extrapolated(0.7, 1.5, adaptive=False), full=True
    ),
}
