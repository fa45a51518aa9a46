"""Experiments of lengths, pools, locks and told strings: what they observe is what it is called, and worlds by hand."""

import math
from typing import Any

import pytest
import torch

from asked import asking, sampled
from policyopt.evaluation.experiments import _lengths, curricula, experiments
from policyopt.evaluation.experiments._told import HintedStrings, ToldStrings
from policyopt.evaluation.verify import build, claim_of
from policyopt.methods import load
from policyopt.ops.sequences import total_reward
from policyopt.options import override
from policyopt.sampling.samplers import Group
from policyopt.types import NO_TOKEN, Finish, StepKind
from policyopt.worlds.sequences import SequenceWorld
from support import close, ragged, rewarded, with_row


def still(key: str, **changes: Any) -> Any:
    """The method of a claim's treated arm with a learning rate of 0: the policy stays what it was."""
    made = build(claim_of(key).treated, key)
    rates = {f"update.optimizers.{name}.learning_rate": 0.0 for name in made.update.optimizers}
    return override(made, rates | changes)


def normal_length(centre: int, longest: int) -> float:
    n = torch.arange(1, longest + 1).double()
    return float((torch.exp(-((n - centre) ** 2) / 50) * n).sum() / torch.exp(-((n - centre) ** 2) / 50).sum())


# -- observables of a policy that stays ----------------------------------------------------------------------------
def test_expected_lengths() -> None:
    found = experiments()
    for name, key, centre, longest in (
        ("concise_answers", "hapo_history", 28, 40),
        ("announced_budgets", "hbpo", 24, 32),
        ("remembered_targets", "lapo", 28, 40),
    ):
        outcome = found[name](still(key), 3, 2)
        assert outcome.value == pytest.approx(normal_length(centre, longest), rel=1e-5), name


def test_accuracy_is_the_share_of_right_rows() -> None:
    """Exact, against 4000 rows of the world."""
    torch.set_default_dtype(torch.float64)
    try:
        world = _lengths.LengthWorld(torch.tensor([3, 9, 15]), 20, 0.8, lucky=0.25, told=(5.0,), seed=4)
        policy = _lengths.told_table(_lengths.around(10, 20, 3), 1)
        rows = sampled(asking(Group(1500), world, policy, 3))
        exact = world.accuracy(_lengths.chances(policy, 3))
        length = _lengths.mean_length(_lengths.chances(policy, 3))
        for task in range(3):
            mine = rows.row["task"] == task
            assert float(total_reward(rows)[mine].mean()) == pytest.approx(float(exact[task]), abs=0.04)
            assert float(rows.lengths[mine].double().mean()) == pytest.approx(float(length[task]), abs=0.4)
    finally:
        torch.set_default_dtype(torch.float32)


def test_chances_of_pools() -> None:
    pool = curricula.pool_of_difficulties(still("vade"), 3, 3)
    assert pool.notes["chance of the right symbol of open tasks, end"] == pytest.approx(
        pool.notes["chance of the right symbol of open tasks, start"], rel=1e-5
    )
    medium = curricula.medium_tasks(still("mmr1_vas"), 3, 3)
    assert medium.value == pytest.approx(0.35, abs=0.03)
    never = curricula.updates_to_success(still("reinforce_ada"), 3, 2)
    assert never.value == 3.0
    assert never.score == pytest.approx(0.5, abs=0.06)


def test_chances_of_strings() -> None:
    assert curricula.refined_digits(still("igrpo"), 3, 2).value == pytest.approx(0.1, rel=1e-5)
    assert curricula.rare_right_answers(still("repo_replay"), 3, 3).score == pytest.approx(1 / 64, rel=1e-5)
    lock = curricula.hinted_lock(still("ghpo"), 3, 4)
    assert lock.score == pytest.approx(3**-12, rel=1e-4)
    assert 128 <= lock.value == lock.rows <= 128 + 4 * 32
    # Five lengths, the end included: 5 ** -(n + 1), n = 2 ... 6.
    episodes = curricula.rare_episodes(still("arpo_gui"), 3, 2)
    assert episodes.value == pytest.approx(sum(5.0 ** -(n + 1) for n in range(2, 7)) / 5, rel=1e-4)
    # A liking of 2.5 for the first strategy's two symbols, then two of six.
    miss = 1 / (5 + math.exp(2.5))
    rare = curricula.rare_strategy(still("tapo"), 3, 2)
    assert rare.value == pytest.approx(miss**2 / 36, rel=1e-4)
    # Told, both symbols are as likely as the liked ones.
    named = (math.exp(2.5) / (4 + 2 * math.exp(2.5))) ** 2 / 36
    assert rare.notes["the same, told the task's pattern"] == pytest.approx(named, rel=1e-4)


def test_the_error_of_accepted_gradients_falls_with_the_number_of_rows() -> None:
    made = build(claim_of("gvm_raft").baseline, "gvm_raft")
    few, many = (curricula.accepted_gradients(override(made, {"sampling.size": n}), 3, 8) for n in (4, 64))
    assert many.value < few.value - 1.5
    assert many.notes["variance of the gradient"] == pytest.approx(
        many.notes["mean squared error of the gradient"], rel=0.3
    )


# -- worlds by hand ------------------------------------------------------------------------------------------------
def test_a_row_of_a_length_world() -> None:
    """One choice, as many own steps, the first alone trained."""
    world = _lengths.LengthWorld(torch.tensor([3, 5]), 6, told=(2.0, 4.0))
    budget = torch.tensor([4.4, 3.0])
    batch = world.start(world.tasks(torch.tensor([0, 1])).with_rows({"budget": budget}))
    assert batch.row["_state"].tolist() == [2, 3]  # 4.4 is told as 4, 3 is not among the budgets
    done = world.append(batch, torch.tensor([1, 5]), torch.tensor([-1.0, -2.0]), ~batch.done, 7)
    assert done.lengths.tolist() == [2, 6]
    assert done.trained.sum(1).tolist() == [1, 1]
    assert done.step["behaviour"].sum(1).tolist() == [-1.0, -2.0]
    assert done.row["finish"].tolist() == [int(Finish.STOPPED)] * 2
    assert world.level(torch.tensor([math.nan, 1.5, 2.5, 4096.0])).tolist() == [0, 1, 1, 0]


def test_what_strings_are_told_is_in_their_states() -> None:
    world = ToldStrings(SequenceWorld(2, 3, 2, lambda s, t: s[:, 0].float()), "draft", 3)
    draft = torch.tensor([[2, NO_TOKEN], [0, 1]])
    batch = world.start(world.tasks(torch.tensor([0, 1])).with_rows({"draft": draft}))
    assert batch.row["_state"].tolist() == [0 * 4 + 3, 2 * 4 + 1]
    after = world.append(batch, torch.tensor([1, 1]), torch.zeros(2), ~batch.done, 0)
    assert after.row["_state"].tolist() == [1 * 4 + 0, 3 * 4 + 2]
    assert after.step["_state"][:, 0].tolist() == [3, 9]
    back = world.rewind(after, torch.tensor([0, 1]))
    assert back.row["_state"].tolist() == [3, 14]


def test_hints_of_different_lengths_stand_in_one_batch() -> None:
    solution = torch.tensor([[1, 2, 0, 1], [2, 0, 1, 1]])
    world = HintedStrings(SequenceWorld(2, 3, 4, lambda s, t: s[:, 0].float()), solution)
    batch = world.start(world.tasks(torch.tensor([0, 1])).with_rows({"hint": torch.tensor([0.25, 0.75])}))
    assert batch.step["_step"].tolist() == [[1, 0, 0], [2, 0, 1]]
    assert batch.step["kind"].tolist() == [[StepKind.HINT, 0, 0], [StepKind.HINT] * 3]
    assert batch.row["_state"].tolist() == [1, 4 + 3]
    assert batch.lengths.tolist() == [0, 0]
    assert not bool(batch.done.any())


def test_shares_of_groups() -> None:
    rows = with_row(rewarded(ragged((2, 2, 2, 2, 2), tools=False), [1.0, 0.0, 1.0, 1.0, 0.0]), group=[4, 4, 7, 7, 9])
    assert curricula.share_informative(rows) == pytest.approx(1 / 3)
    close(torch.tensor(_lengths.correlation(torch.tensor([1, 2, 3]), torch.tensor([2, 4, 6]))), 1.0, 1e-9)
    assert _lengths.correlation(torch.ones(3), torch.arange(3)) == 0.0
    assert load("vade").selection.count == 32
