"""DYPO: `reduces_to` of specification 249, each identity a test."""

from dataclasses import replace

import pytest
import torch

from enumeration import Grades, first_step
from policyopt.compose import Term
from policyopt.engines.plain import generate
from policyopt.methods import load
from policyopt.objective.implicit import RightWrongPreference
from policyopt.objective.preference import PairLogistic
from policyopt.policies.tabular import Table
from policyopt.sampling.beside import COPY, GroupAndRecorded
from policyopt.selection.tasks import InformativeGroups, Selection
from policyopt.train import _draw, _judge
from policyopt.types import Source
from policyopt.update.averaging import RowMean
from policyopt.update.grouped import GroupMean
from policyopt.worlds.sequences import SequenceWorld
from support import close, context, full_step, grid, grids, method, numbers, ragged, rewarded, with_row

pytestmark = pytest.mark.usefixtures("float64")

GIVEN = int(Source.DATASET)


def eight():
    """Groups: 1 mixed, 2 all wrong, 3 all right; rows 6 and 7 are traces of groups 1 and 2."""
    batch = ragged((1, 2, 7, 13, 3, 5, 4, 2))
    return with_row(batch, group=(1, 2, 1, 2, 3, 3, 1, 2), source=[0] * 6 + [GIVEN] * 2)


GRADES = [1.0, 0.0, 0.0, 0.0, 1.0, 1.0, 1.0, 1.0]


def made(alpha=0.5, gamma=1.0, b=1.0):
    dypo = load("dypo")
    policy, alignment, teacher = dypo.objective
    terms = (
        replace(policy, weight=alpha),
        replace(alignment, weight=1 - alpha, loss=RightWrongPreference(beta=b)),
        replace(teacher, weight=gamma),
    )
    return replace(dypo, objective=terms)


def models():
    """The policy differs from the reference."""
    return {"policy": grid(0), "reference": grid(3)}


def test_every_group_is_routed_by_its_own_rows() -> None:
    done = first_step(made(), models(), eight(), Grades(GRADES))
    assert done.round.kept.row["_row"].tolist() == [0, 2, 7]
    moved = done.gradient[:8].abs().amax(1) > 0
    assert moved.tolist() == [True, False, True, False, False, False, False, True]


def test_without_alignment_and_teacher_it_is_grpo_with_dynamic_sampling() -> None:
    grpo = replace(load("grpo"), constraint=(), selection=Selection(rows=InformativeGroups()))
    batch = eight()
    found = first_step(made(1.0, 0.0), models(), batch, Grades(GRADES)).gradient
    own = batch[batch.row["source"] == 0]
    expected = first_step(grpo, models(), own, Grades(GRADES)).gradient
    assert float(expected.abs().max()) > 1e-2
    close(found, expected)


def test_of_one_right_and_one_wrong_row_the_alignment_is_dpo() -> None:
    batch = rewarded(with_row(ragged(), group=(1, 2, 1, 2)), [1.0, 0.0, 0.0, 1.0])
    batch = with_row(batch, pair=(0, 1, 0, 1), rank=(0, 1, 1, 0))
    ours = Term("a", RightWrongPreference(beta=0.7), GroupMean(), mask=lambda s, b: b.trained.any(1))
    dpo = replace(load("dpo").objective[0], loss=PairLogistic(0.7), average=RowMean())
    for a, b in zip(*(full_step(context(method(term), grids()), batch) for term in (ours, dpo)), strict=True):
        close(a, b)


def test_pair_weights_are_bounded_and_fade() -> None:
    """b (1 - sigma(b d)) for every pair, summed over the wrong rows, mean over pairs."""
    batch = rewarded(with_row(ragged((1, 2, 7, 13)), group=(1, 1, 1, 1)), [1.0, 0.0, 0.0, 1.0])
    tables = grids()
    term = Term("a", RightWrongPreference(beta=0.7), GroupMean(), mask=lambda s, b: b.trained.any(1))
    _, gradient = full_step(context(method(term), tables), batch)
    rho = torch.where(batch.trained, (tables["policy"].logp - tables["reference"].logp)[:4, :13], 0.0).sum(1).detach()
    for right in (0, 3):
        pull = sum(0.7 * torch.sigmoid(-0.7 * (rho[right] - rho[wrong])) for wrong in (1, 2)) / 4
        assert 0 < float(pull) < 0.7 / 2
        close(gradient[right, :13], torch.where(batch.trained[right], -pull, 0.0))


def test_only_teachers_are_left_when_nothing_is_solved() -> None:
    """-gamma mean over all-wrong prompts of the trace's mean log-probability."""
    batch = eight()
    done = first_step(made(gamma=0.8), models(), batch, Grades([0.0] * 6 + [1.0, 0.0]))
    expected = torch.zeros(8, 13)
    for b in (6, 7):
        expected[b] = torch.where(batch.trained[b], -0.8 / batch.trained[b].sum() / 2, 0.0)
    close(done.gradient[:8, :13], expected)


def test_solved_prompts_are_left() -> None:
    done = first_step(made(), models(), eight(), Grades([1.0] * 8))
    assert len(done.round.kept) == 0
    close(done.gradient, torch.zeros_like(done.gradient))


def test_traces_are_drawn_from_all_teachers_and_stand_in_their_group() -> None:
    class Shown(SequenceWorld):
        def recorded(self, tasks):
            return self.complete(tasks, torch.stack([tasks.id % 3, tasks.row[COPY]], 1))

    world = Shown(6, 3, 2, lambda strings, task: strings[:, 0].double())
    part = GroupAndRecorded(2, teachers=2, recorded=2)
    ctx = context(
        method(sampling=part, selection=Selection(count=30)), {"policy": Table(numbers(12, 3))}, world, generate
    )
    rows = part(ctx, _draw(ctx), _judge(ctx))
    shown = rows[rows.row["source"] == GIVEN]
    assert len(rows) == 120
    assert set(shown.step["_step"][:, 1].tolist()) == {0, 1}
    for group in rows.row["group"].unique():
        mine = rows[rows.row["group"] == group]
        assert len(mine) == 4
        assert len(mine.row["task"].unique()) == 1
    apart = replace(part, apart=True)(ctx, _draw(ctx), _judge(ctx))
    assert bool((apart.row["group"][apart.row["source"] == GIVEN] < 0).all())
