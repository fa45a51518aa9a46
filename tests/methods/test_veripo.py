"""VerIPO: `reduces_to` of specification 104, each identity a test."""

import math
from dataclasses import replace

import pytest
import torch

from policyopt.compose import CompositionError, Program, Stage
from policyopt.engines.plain import generate
from policyopt.methods import load
from policyopt.policies.tabular import Table
from policyopt.run import Run, StageContext
from policyopt.sampling.store import ROWS
from policyopt.sampling.verified_pairs import StoredPairs, StoreRows
from policyopt.selection.dropped import MostlyUnsolved
from policyopt.selection.solved import RETIRED
from policyopt.selection.tasks import Selection
from policyopt.train import rounds
from policyopt.types import Round
from policyopt.update.gradient import GradientSteps
from policyopt.update.optimizers import SGD
from policyopt.worlds.sequences import SequenceWorld
from support import close, numbers

pytestmark = pytest.mark.usefixtures("float64")


def checks(strings, task):
    """The second symbol is the first; the third is not 0."""
    return torch.stack([strings[:, 1] == strings[:, 0], strings[:, 2] > 0], 1).double()


def world():
    return SequenceWorld(3, 3, 4, lambda strings, task: (strings[:, 3] == task).double(), checker=checks)


def small(key, **parts):
    made = load(key)
    update = GradientSteps({"policy": SGD(0.1)}, clip_norm=None)
    selection = replace(made.selection, count=3)
    sampling = replace(made.sampling, size=8) if key == "veripo" else made.sampling
    return replace(made, update=update, selection=selection, sampling=sampling, **parts)


def policy():
    return Table(numbers(12, 3, seed=1))


def run_of(*stages, seed=0):
    run = Run({"policy": policy()}, world(), generate, seed)
    return run, list(rounds(run, Program(tuple(Stage(made, count) for made, count in stages))))


def test_without_the_verifier_stage_it_is_grpo_with_task_filtering() -> None:
    ours, _ = run_of((small("veripo"), 3))
    grpo = small("veripo", after=())
    plain = replace(load("grpo"), selection=grpo.selection, sampling=grpo.sampling, update=grpo.update)
    theirs, _ = run_of((plain, 3))
    close(ours.models["policy"].logits, theirs.models["policy"].logits)
    assert float((ours.models["policy"].logits.detach() - policy().logits.detach()).abs().max()) > 0.01


def test_at_the_first_update_of_the_second_stage_the_loss_is_log_two() -> None:
    _, done = run_of((small("veripo"), 2), (small("veripo:veripo_dpo"), 2))
    assert done[2].metrics["loss/preference"] == pytest.approx(math.log(2))
    assert done[3].metrics["loss/preference"] < math.log(2)


def stored_rows():
    _, done = run_of((small("veripo"), 3))
    run, _ = run_of((small("veripo"), 3))
    return run, done


def test_pairs_are_a_good_row_against_one_of_every_cause() -> None:
    run, _ = stored_rows()
    ctx = StageContext(run, Stage(load("veripo:veripo_dpo"), 1))
    found = StoredPairs()(ctx, lambda: world().tasks(torch.arange(3)), lambda batch: batch)
    seen = []
    for pair in found.row["pair"].unique().tolist():
        good, bad = ((found.row["pair"] == pair) & (found.row["rank"] == side) for side in (0, 1))
        assert (int(good.sum()), int(bad.sum())) == (1, 1)
        task = int(found.row["task"][good])
        assert task == int(found.row["task"][bad])
        good_row, bad_row = (found.step["_step"][side][0].tolist() for side in (good, bad))
        assert good_row[3] == task
        assert good_row[1] == good_row[0]
        assert good_row[2] > 0
        cause = 0 if bad_row[3] != task else 1 if bad_row[1] != bad_row[0] else 2
        seen.append((task, cause if cause != 1 else (1 if bad_row[2] > 0 else 12)))
    assert len(seen) == len(found) // 2 > 3
    assert max(seen.count(one) for one in set(seen)) <= 2


def test_every_task_makes_as_many_pairs_as_it_has_causes() -> None:
    run, _ = stored_rows()
    ctx = StageContext(run, Stage(load("veripo:veripo_dpo"), 1))
    found = StoredPairs()(ctx, lambda: world().tasks(torch.arange(3)), lambda batch: batch)
    expected = 0
    for rows in run.cells[ROWS.name].values():
        right = rows.step["reward"].sum(1) == 1
        passed = checks(rows.step["_step"], rows.row["task"]) > 0
        good = bool((right & passed.all(1)).any())
        causes = [~right, right & ~passed[:, 0], right & ~passed[:, 1]]
        expected += sum(good and bool(cause.any()) for cause in causes)
    assert len(found) == 2 * expected > 0


def test_a_store_without_pairs_teaches_nothing() -> None:
    """Every row wrong: one row of rank -1, which the stage's selection drops."""
    never = SequenceWorld(3, 3, 4, lambda strings, task: torch.zeros(len(strings)).double(), checker=checks)
    run = Run({"policy": policy()}, never, generate, 0)
    before = policy().logits.detach()
    stages = (Stage(small("veripo", constraint=()), 1), Stage(small("veripo:veripo_dpo"), 1))
    done = list(rounds(run, Program(stages)))
    assert done[1].judged.row["rank"].tolist() == [-1]
    assert len(done[1].kept) == 0
    close(run.models["policy"].logits, before)


def test_a_stage_before_any_rows_were_stored_is_refused() -> None:
    with pytest.raises(CompositionError, match="StoreRows"):
        run_of((small("veripo:veripo_dpo"), 1))
    for broken in (lambda: StoreRows(0), lambda: MostlyUnsolved(drop=1.5)):
        with pytest.raises(CompositionError):
            broken()


def test_solved_tasks_are_dropped_with_a_probability_and_all_drawn_again_when_none_is_left() -> None:
    easy = SequenceWorld(300, 2, 1, lambda strings, task: (strings[:, 0] < 2).double())
    run = Run({"policy": Table(torch.zeros(300, 2))}, easy, generate, 0)
    part = MostlyUnsolved()
    made = replace(small("veripo"), selection=Selection(count=300, tasks=part), after=(), constraint=())
    (done,) = list(rounds(run, Program((Stage(made, 1),))))
    assert len(run.cells[RETIRED.name]) == pytest.approx(240, abs=25)
    ctx = StageContext(run, Stage(made, 1))
    left = part(ctx, 40).id.tolist()
    assert not set(left) & set(run.cells[RETIRED.name])
    MostlyUnsolved(drop=1.0).after(ctx, Round(done.judged, done.judged, done.judged, {}))
    assert len(run.cells[RETIRED.name]) == 300
    assert len(part(ctx, 10).id) == 10


def test_the_store_keeps_the_newest_rows_and_no_replayed_ones() -> None:
    run, done = run_of((small("veripo", after=(StoreRows(10),)), 3), (small("veripo:veripo_dpo"), 1))
    held = run.cells[ROWS.name]
    assert {task: len(rows) for task, rows in held.items()} == {0: 10, 1: 10, 2: 10}
    last = done[2].judged
    for task, rows in held.items():
        newest = last[last.row["task"] == task]
        assert torch.equal(rows.step["_step"][-len(newest) :], newest.step["_step"])
