"""Coefficients may be numbers or functions of the batch."""

from __future__ import annotations

import pytest
import torch

from policyopt.compose import CompositionError
from policyopt.objective.surrogates import ClippedSurrogate, GeometricSequenceSurrogate
from policyopt.types import Batch, Scores, Tasks, empty_batch

RATIOS = [[0.5, 0.9, 1.5], [1.5, 1.05, 0.7]]


def rows() -> Batch:
    batch = empty_batch(Tasks(torch.tensor([0, 1])), {"_noise": torch.zeros(2, 0, dtype=torch.float64)})
    ones = torch.ones(2, 3)
    added = batch.append({"kind": ones, "train": ones.bool(), "_noise": torch.tensor([[0.1, 0.3, 0.6]]).expand(2, 3)})
    return added.with_steps({"advantage": torch.tensor([[1.0, -1.0, 1.0], [-2.0, 2.0, -2.0]], dtype=torch.float64)})


def seen() -> dict[str, Scores]:
    logp = torch.tensor(RATIOS, dtype=torch.float64).log()
    return {"policy": Scores(logp), "old": Scores(torch.zeros_like(logp))}


def test_a_clip_range_may_differ_by_step() -> None:
    by_step = ClippedSurrogate(clip_low=lambda b: b.step["_noise"], clip_high=lambda b: b.step["_noise"])
    loss = by_step(seen(), rows())
    # -min(r A, clip(r, 1 - c, 1 + c) A) with c = 0.1, 0.3, 0.6, worked by hand.
    expected = torch.tensor([[-0.5, 0.9, -1.5], [3.0, -2.1, 1.4]], dtype=torch.float64)
    torch.testing.assert_close(loss, expected)
    for column, clip in enumerate((0.1, 0.3, 0.6)):
        constant = ClippedSurrogate(clip_low=clip, clip_high=clip)(seen(), rows())
        torch.testing.assert_close(loss[:, column], constant[:, column])
    # A bound that is not the same for all steps must matter.
    assert not torch.allclose(loss, ClippedSurrogate(clip_low=0.1, clip_high=0.1)(seen(), rows()))
    clipped = by_step.watch(seen(), rows())["clipped"]
    torch.testing.assert_close(clipped, torch.zeros(2, 3, dtype=torch.float64))


def test_a_clip_range_may_differ_by_row() -> None:
    batch = rows()
    by_row = GeometricSequenceSurrogate(clip_high=lambda b: torch.tensor([0.01, 0.2], dtype=torch.float64))
    for row, clip in enumerate((0.01, 0.2)):
        constant = GeometricSequenceSurrogate(clip_high=clip)(seen(), batch)
        torch.testing.assert_close(by_row(seen(), batch)[row], constant[row])


@pytest.mark.parametrize("wrong", [0.0, -0.1, 1.5])
def test_impossible_bounds_are_refused(wrong: float) -> None:
    with pytest.raises(CompositionError, match="clip_low"):
        ClippedSurrogate(clip_low=wrong)
