"""Traps 41 and 42: the point of single-row preference losses, and divergences to a teacher."""

import math

import pytest
import torch

from enumeration import choices_of
from policyopt.compose import CompositionError, Role, Term
from policyopt.objective.pairwise import RowPreference
from policyopt.objective.supervised import FullReverseKL, GeneralisedJensenShannon, SampledReverseKL
from policyopt.ops.divergence import jensen_shannon
from policyopt.policies.tabular import Table
from policyopt.seen import SeenBatch
from policyopt.types import Categorical
from policyopt.update.averaging import RowMean, TokenMean
from policyopt.worlds.sequences import bandit
from support import Grid, close, context, full_step, grids, method, numbers, ragged, with_row

pytestmark = pytest.mark.usefixtures("float64")


# -- 41 ---------------------------------------------------------------------------------------------------------
def kto(size: int, shift: float = 0.0):
    """A context and rows, of which every third is good; log-ratios differ from row to row around a shift."""
    lengths = [1 + (3 * n) % 5 for n in range(size)]
    models = grids()
    models["reference"] = Grid(logp=models["policy"].logp.detach() - numbers(8, 104, seed=8) / 5 - shift)
    batch = with_row(ragged(lengths, tools=False), rank=[int(n % 3 > 0) for n in range(size)])
    batch = batch.with_rows({"_row": batch.row["_row"] % 8})
    term = Term("one", RowPreference(0.5, column="rank", link="kto"), RowMean(), mask=lambda s, b: b.trained.any(1))
    return context(method(term, roles={"reference": Role("reference")}), models), batch, models


def test_trap_41_no_row_is_compared_with_itself_by_chance() -> None:
    """The point of KTO is the mean over all rows of the optimiser step, not below 0: the same for every order and
    every micro-batch, with no pairs that could match. Steps of 2 to 9 rows, around a point above and below 0."""
    for size in range(2, 10):
        for shift in (0.3, -0.5):
            ctx, batch, models = kto(size, shift)
            rows = batch.row["_row"]
            gap = (models["policy"].logp - models["reference"].logp).detach()[rows, : batch.steps]
            worth = 0.5 * torch.where(batch.trained, gap, 0.0).sum(1)
            point = max(0.0, float(worth.mean()))
            assert (point > 0) == (shift > 0), "both sides of 0 are tried"
            sign = torch.where(batch.row["rank"] == 0, 1.0, -1.0)
            chance = torch.sigmoid(sign * (worth - point))
            value, gradient = full_step(ctx, batch)
            close(value, (1 - chance).mean(), what=f"{size} rows")
            # The point carries no gradient, though it is made of the same log-probabilities.
            slope = (-sign * chance * (1 - chance) * 0.5 / size)[:, None] * batch.trained
            expected = torch.zeros_like(gradient).index_put((rows[:, None], torch.arange(batch.steps)), slope, True)
            close(gradient, expected, what=f"gradient of {size} rows")
            order = torch.randperm(size, generator=torch.Generator().manual_seed(size))
            for part, micro in ((batch, 1), (batch, 4), (batch[order], None)):
                found, other = full_step(ctx, part, micro)
                close(found, value, what=f"{size} rows, micro-batches of {micro}")
                close(other, gradient, what=f"{size} rows, micro-batches of {micro}")


# -- 42 ---------------------------------------------------------------------------------------------------------
STUDENT, TEACHER, STALE = (numbers(6, seed=s, scale=1.5) for s in (31, 32, 33))


def kl(p: list[float], q: list[float]) -> float:
    return sum(a * math.log(a / b) for a, b in zip(p, q, strict=True))


def distilled(loss, weights=None, student=STUDENT, teacher=TEACHER):
    """Loss and gradient over all six choices of one state, by weight (None: a sixth each)."""
    world = bandit(torch.zeros(1, 6))
    rows = choices_of(world, 6)
    if weights is not None:
        weights = 6 * weights
    term = Term("one", loss, TokenMean(), weight=1.0 if weights is None else lambda s, b: weights[b.step["_step"]])
    roles = {"policy": Role(grad=True, full=True), "old": Role("old"), "teacher": Role("teacher", full=True)}
    models = {"policy": Table(student[None]), "old": Table(STALE[None]), "teacher": Table(teacher[None])}
    ctx = context(method(term, roles=roles), models, world)
    value, gradient = full_step(ctx, rows)
    return value, gradient[0], SeenBatch(ctx, rows), rows


def test_trap_42_divergences_are_of_the_whole_vocabulary() -> None:
    """No choice is left out: the value is the sum over all of them, at least 0, and 0 only for equal distributions."""
    p, q = STUDENT.softmax(-1).tolist(), TEACHER.softmax(-1).tolist()
    close(distilled(FullReverseKL())[0], kl(p, q))
    for beta in (0.1, 0.5, 0.9):
        mixed = [beta * b + (1 - beta) * a for a, b in zip(p, q, strict=True)]
        close(distilled(GeneralisedJensenShannon(beta))[0], beta * kl(q, mixed) + (1 - beta) * kl(p, mixed))
    for seed in range(20):
        one, other = (numbers(6, seed=100 + 2 * seed + n, scale=4.0).log_softmax(-1) for n in (0, 1))
        assert float(Categorical(one).kl(Categorical(other))) > 0
        assert float(jensen_shannon(one, other, 0.3)) > 0
    for loss in (FullReverseKL(), GeneralisedJensenShannon(0.3)):
        value, gradient, *_ = distilled(loss, teacher=STUDENT)
        close(value, 0.0)
        close(gradient, torch.zeros(6))


def test_trap_42_the_sampled_form_has_the_gradient_of_the_whole_one() -> None:
    """In expectation over the steps of an older policy; what a step is paid depends on the step that was taken."""
    exact = distilled(FullReverseKL())[1]
    assert float(exact.abs().max()) > 0.05
    close(distilled(SampledReverseKL(), STALE.softmax(-1))[1], exact)
    _, _, seen, rows = distilled(SampledReverseKL())
    paid = (seen["teacher"].logp - seen["policy"].logp).detach()[:, 0]
    ratio = (seen["policy"].logp - seen["old"].logp).detach().exp()[:, 0]
    close(SampledReverseKL()(seen, rows)[:, 0], -ratio * paid)
    assert len(paid.unique()) == 6


def test_trap_42_a_teacher_of_another_vocabulary_is_refused() -> None:
    """Not broadcast, cut or padded."""
    for loss in (FullReverseKL(), GeneralisedJensenShannon(0.3)):
        with pytest.raises(CompositionError, match=r"the policy has 6, the teacher 7; give a teacher of the policy"):
            distilled(loss, teacher=numbers(7, seed=4))
