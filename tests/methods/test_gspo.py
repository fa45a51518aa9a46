"""GSPO: `reduces_to` of specification 69, each identity a test."""

from dataclasses import replace

import pytest
import torch

from enumeration import Grades, first_step
from policyopt.compose import Term
from policyopt.methods import load
from policyopt.objective.surrogates import ClippedSurrogate, GeometricSequenceSurrogate
from policyopt.seen import SeenBatch
from policyopt.update.averaging import RowMean, SequenceMean
from support import close, context, full_step, grid, grids, method, ragged

pytestmark = pytest.mark.usefixtures("float64")

GRADES = [0.5, 2.0, -1.0, 4.0]


def wide(low: float = 0.1, high: float = 0.15):
    """GSPO with a clip range that clips some rows of the test batch, not all."""
    made = load("gspo")
    (term,) = made.objective
    return replace(made, objective=(replace(term, loss=GeometricSequenceSurrogate(low, high)),))


def test_gspo_token_has_the_same_value_and_gradient() -> None:
    """GSPO-token, s_it = sg(s_i) pi_it / sg(pi_it), with A_it = A_i."""
    batch, models = ragged(), grids()
    old = models["old"].logp.detach()[:4, :13]
    free = models["policy"].logp.detach().clone().requires_grad_()
    done = first_step(wide(), models, batch, Grades(GRADES), old=old)
    value, clipped = torch.zeros(()), 0
    for b in range(4):
        steps = batch.trained[b].nonzero()[:, 0]
        now = free[b, steps]
        s = (now - old[b, steps]).mean().exp().detach()
        token = s * (now - now.detach()).exp()
        a = done.advantage[b]
        value = value - torch.minimum(token * a, token.clamp(0.9, 1.15) * a).mean() / 4
        clipped += int((a > 0) & (s > 1.15)) + int((a < 0) & (s < 0.9))
    value.backward()
    assert 0 < clipped < 4
    close(done.gradient, free.grad, what="gradient")
    close(done.round.metrics["loss/policy"], value, what="value")
    close(done.round.metrics["policy/clipped"], clipped / 4)


def test_gspo_at_the_old_policy_is_grpo_with_sequence_mean() -> None:
    """mean_i A_i mean_t grad log pi; GRPO's KL term is 0 at the reference."""
    batch = ragged()
    gspo = first_step(load("gspo"), {"policy": grid(0)}, batch, Grades(GRADES))
    grpo = first_step(load("grpo"), {"policy": grid(0)}, batch, Grades(GRADES))
    assert float(gspo.gradient.abs().max()) > 1e-2
    close(gspo.gradient, grpo.gradient)
    by_hand = torch.where(batch.trained, -gspo.advantage[:, None] / batch.trained.sum(1)[:, None] / 4, 0.0)
    close(gspo.gradient[:4, :13], by_hand)


def test_gspo_of_rows_of_one_step_is_the_clipped_surrogate() -> None:
    batch, models = ragged((1, 1, 1, 1)), grids()
    old = models["old"].logp.detach()[:4, :1]
    found = first_step(wide(0.2, 0.2), models, batch, Grades(GRADES), old=old)
    grpo = replace(load("grpo"), constraint=())
    close(found.gradient, first_step(grpo, grids(), batch, Grades(GRADES), old=old).gradient)


def test_gradient_of_the_sequence_ratio() -> None:
    """grad s_i = s_i / |o_i| on every trained step."""
    batch, models = ragged(), grids()
    ctx = context(method(Term("a", ClippedSurrogate(), SequenceMean())), models)
    ratio = GeometricSequenceSurrogate().ratio(SeenBatch(ctx, batch), batch)
    (slope,) = torch.autograd.grad(ratio.sum(), models["policy"].logp)
    count = batch.trained.sum(1)
    expected = torch.where(batch.trained, (ratio.detach() / count)[:, None], 0.0)
    close(slope[:4, :13], expected)
    logs = torch.where(batch.trained, (models["policy"].logp - models["old"].logp)[:4, :13], 0.0)
    close(ratio, (logs.sum(1) / count).exp())


def test_gspo_moves_all_steps_of_a_row_alike() -> None:
    batch, models = ragged(), grids()
    old = models["old"].logp.detach()[:4, :13]
    done = first_step(wide(0.9, 9.0), models, batch, Grades(GRADES), old=old)
    for b in range(4):
        moved = done.gradient[b, :13][batch.trained[b]]
        assert float(moved.abs().min()) > 0
        close(moved, moved[:1].expand_as(moved))


def test_published_clip_range_clips_at_three_and_four_in_ten_thousand() -> None:
    (term,) = load("gspo").objective
    assert (term.loss.clip_low, term.loss.clip_high) == (3e-4, 4e-4)
    batch = ragged((2, 2))
    for change, advantage, clipped in ((3.5e-4, 1.0, 0), (4.5e-4, 1.0, 1), (-2.5e-4, -1.0, 0), (-3.5e-4, -1.0, 1)):
        models = grids()
        with torch.no_grad():
            models["old"].logp.copy_(models["policy"].logp - change)
        rows = batch.with_steps({"advantage": torch.full((2, 2), advantage)})
        ctx = context(method(replace(term, average=RowMean())), models)
        _, gradient = full_step(ctx, rows)
        assert (float(gradient.abs().max()) == 0.0) == bool(clipped)
