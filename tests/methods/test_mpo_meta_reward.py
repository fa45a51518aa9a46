"""MPO: `reduces_to` of specification 71, each identity a test."""

from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch

from policyopt.compose import Chain, CompositionError, Program, Stage
from policyopt.engines.plain import generate
from policyopt.evaluation.experiments._rubrics import BRIEF, NOT_TOO_BRIEF, Rubrics
from policyopt.methods import load
from policyopt.ops.sequences import total_reward
from policyopt.options import override
from policyopt.policies.tabular import Table
from policyopt.reward.parts import ReferencePenalty, Verified
from policyopt.reward.rubric import RUBRIC, RubricReward
from policyopt.run import Run
from policyopt.train import rounds
from support import close, context, grids, method, numbers, ragged

pytestmark = pytest.mark.usefixtures("float64")

TARGET = torch.tensor([[1, 2, 3, 4], [2, 2, 1, 3]])


def world(**parts):
    return Rubrics(2, 5, 4, lambda strings, task: torch.zeros(len(strings)).double(), end=0, target=TARGET, **parts)


def row(string, task=0, of=None):
    of = of or world()
    padded = torch.tensor([[*string, *[-1] * (4 - len(string))]])
    return of.complete(of.tasks(torch.tensor([task])), padded)


def played(made, count, of=None, seed=0):
    run = Run({"policy": Table(numbers(8, 5, seed=1))}, of or world(), generate, seed)
    return run, list(rounds(run, Program((Stage(made, count),))))


def small(every=2, samples=5):
    made = load("mpo_meta_reward")
    made = replace(made, reward=Chain((RubricReward(every, samples), ReferencePenalty(0.03))))
    return override(
        made, {"selection.count": 8, "update.optimizers.policy.learning_rate": 0.05, "update.minibatches": 1}
    )


def test_a_rubric_that_is_never_rewritten_is_ppo_with_a_fixed_judge() -> None:
    of = world()

    class Judged(Rubrics):
        def grade(self, batch):
            return self.judge_by(batch, self.first_rubric())

    fixed = Judged(2, 5, 4, of.reward, end=0, target=TARGET)
    made = small(every=None)
    ours, _ = played(made, 4, fixed)
    plain, _ = played(replace(made, reward=Chain((Verified(), ReferencePenalty(0.03)))), 4, fixed)
    close(ours.models["policy"].logits, plain.models["policy"].logits)
    assert float((ours.models["policy"].logits.detach() - numbers(8, 5, seed=1)).abs().max()) > 0.01
    assert ours.cells.get(RUBRIC.name, {"version": 0})["version"] == 0


def test_the_rubric_is_rewritten_every_k_rounds_and_the_next_round_is_judged_by_it() -> None:
    run, done = played(small(every=2), 5)
    assert run.cells[RUBRIC.name]["version"] == 2
    assert len(run.cells[RUBRIC.name]["rows"]) == 8  # the round after the last rewriting
    of, rubric = world(), world().first_rubric()
    seen = [rubric]
    run, _ = played(small(every=2), 2)
    seen.append(run.cells[RUBRIC.name]["text"])
    run, _ = played(small(every=2), 4)
    seen.append(run.cells[RUBRIC.name]["text"])
    assert [len(text) for text in seen] == sorted({len(text) for text in seen})
    for number, one in enumerate(done):
        close(
            one.judged.step["reward"].sum(1),
            of.judge_by(one.judged, seen[number // 2]) + _paid(one.judged),
        )


def _paid(judged):
    """What the reference charges, which is part of the same column."""
    reference = Table(numbers(8, 5, seed=1)).score(judged).logp
    gap = torch.where(judged.own, judged.step["behaviour"] - reference, 0.0)
    return -0.03 * gap.sum(1).detach()


def test_analysis_refinement_and_merging() -> None:
    """A brief row with the right first symbol scores all of the first rubric and is worth a quarter."""
    of, rubric = world(), [BRIEF, 0]
    brief = row([1, 0])
    close(of.judge_by(brief, rubric), [3.0])
    assert of.most(rubric) == 3.0
    assert of.analyse(brief, rubric) == NOT_TOO_BRIEF
    assert of.refine(NOT_TOO_BRIEF, rubric) == [BRIEF, 0, NOT_TOO_BRIEF]
    long = row([1, 2, 1, 1])
    close(of.judge_by(long, rubric), [1.0])
    assert of.analyse(long, rubric) == 2
    assert of.merge([[BRIEF, 0, 2], [BRIEF, 0, NOT_TOO_BRIEF], [BRIEF, 0]]) == sorted([BRIEF, NOT_TOO_BRIEF, 0, 2])
    assert of.most([BRIEF, NOT_TOO_BRIEF, 0, 2]) == 6.0
    close(of.judge_by(long, [BRIEF, NOT_TOO_BRIEF, 0, 2]), [5.0])


def test_only_rows_since_the_last_rewriting_are_looked_at() -> None:
    looked = []

    class Watched(Rubrics):
        def analyse(self, row, rubric):
            looked.append((row.step["version"][0, 0].item(), list(rubric)))
            return super().analyse(row, rubric)

    of = Watched(2, 5, 4, world().reward, end=0, target=TARGET)
    played(small(every=2, samples=9), 4, of)
    assert len(looked) == 18
    first, second = looked[:9], looked[9:]
    assert max(version for version, _ in first) < min(version for version, _ in second)
    assert {tuple(rubric) for _, rubric in first} == {(BRIEF, 0)}
    assert len({tuple(rubric) for _, rubric in second}) == 1


def test_fewer_rows_than_samples_are_all_looked_at_and_raw_scores_are_paid() -> None:
    looked = []

    class Watched(Rubrics):
        def analyse(self, row, rubric):
            looked.append(1)
            return super().analyse(row, rubric)

    of = Watched(2, 5, 4, world().reward, end=0, target=TARGET)
    _, done = played(small(every=1, samples=100), 1, of)
    assert len(looked) == 8
    share = float((of.judge_by(done[0].judged, [BRIEF, 0]) / 3).mean())
    assert done[0].metrics["rubric_share"] == pytest.approx(share)


def test_a_judge_that_fails_leaves_the_row_unscored() -> None:
    class Failing(Rubrics):
        def judge_by(self, batch, rubric):
            return torch.where(batch.row["task"] == 0, torch.nan, super().judge_by(batch, rubric))

    of = Failing(2, 5, 4, world().reward, end=0, target=TARGET)
    _, done = played(small(every=1), 1, of)
    assert done[0].judged.row["scored"].tolist() == (done[0].judged.row["task"] == 1).tolist()
    assert float(total_reward(done[0].judged).abs().max()) < 10


def test_the_rubric_is_part_of_the_runs_state() -> None:
    run, _ = played(small(every=2), 2)
    state = run.state()
    assert state["cells"][RUBRIC.name]["text"] == run.cells[RUBRIC.name]["text"]


def test_refusals_and_settings() -> None:
    for broken in (lambda: RubricReward(every=0), lambda: RubricReward(samples=0)):
        with pytest.raises(CompositionError):
            broken()
    with pytest.raises(CompositionError, match="first_rubric"):
        RubricReward()(context(method(), grids(), SimpleNamespace()), ragged())
    part = load("mpo_meta_reward").reward.parts[0]
    assert (part.every, part.samples) == (10, 20)
