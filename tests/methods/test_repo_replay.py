"""RePO: `reduces_to` of specification 80, strategies of retrieval, the store, both normalisations."""

import itertools
from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from asked import as_group, asking, equal, first_symbol, kept_rounds, resumed
from enumeration import Grades, first_step
from policyopt.compose import CompositionError
from policyopt.credit.groups import GroupStandardised, standardised
from policyopt.methods import load
from policyopt.options import override
from policyopt.policies.tabular import Table
from policyopt.runtime.checkpoint import load as load_state
from policyopt.runtime.checkpoint import save
from policyopt.sampling.replay import ReplayedGroup, retrieve, widest_choice
from policyopt.sampling.store import ROWS, stored
from policyopt.types import Source
from support import close, grids, numbers, ragged, with_row

pytestmark = pytest.mark.usefixtures("float64")

MIXED = [0, 2, 0, 2]  # sources


def remembering(rounds: int = 3, **options):
    """A context after some rounds, and their rows; every task is drawn once a round."""
    ctx = asking(ReplayedGroup(**options), first_symbol(torch.tensor([0.0, 1.0]), 4), Table(numbers(8, 2)), 4)
    return ctx, kept_rounds(ctx, rounds)


def test_without_replay_it_is_grpo() -> None:
    as_group(ReplayedGroup(size=3, replayed=0, least=1), 3)
    batch = ragged()
    old = batch.step["behaviour"]
    grpo = override(load("grpo"), {"constraint.kl.weight": 0.0, "credit.epsilon": 1e-4})
    one = first_step(load("repo_replay"), grids(), batch, Grades([0.5, 2.0, -1.0, 4.0]))
    other = first_step(grpo, grids(), batch, Grades([0.5, 2.0, -1.0, 4.0]), old=old)
    close(one.gradient, other.gradient)


def test_without_weight_the_fresh_term_is_scaled_by_its_share_of_rows() -> None:
    """lambda = 0: GRPO's gradient of the fresh rows, times fresh rows over all."""
    batch = with_row(ragged((3, 2, 7, 13)), group=[0, 0, 0, 0], source=MIXED)
    made = load("repo_replay")
    (term,) = made.objective
    without = replace(made, objective=(replace(term, weight=replace(term.weight, replayed=0.0)),))
    grades = Grades([0.5, 2.0, -1.0, 4.0])
    whole = first_step(without, grids(), batch, grades).gradient
    fresh = batch[torch.tensor([0, 2])]
    alone = first_step(made, grids(), fresh, grades).gradient
    close(whole, alone * 2 / 4)
    assert float(whole[[1, 3]].abs().max()) == 0.0


def test_mixed_normalisation_is_grpo_on_the_union() -> None:
    """With each row's own behaviour log-probabilities as the old ones."""
    batch = with_row(ragged(), group=[0, 0, 0, 0], source=MIXED)
    mixed = override(load("repo_replay"), {"credit.within": ("group",)})
    grpo = override(load("grpo"), {"constraint.kl.weight": 0.0, "credit.epsilon": 1e-4})
    grades = Grades([0.5, 2.0, -1.0, 4.0])
    one = first_step(mixed, grids(), batch, grades).gradient
    close(one, first_step(grpo, grids(), batch, grades, old=batch.step["behaviour"]).gradient)


def test_split_normalisation_against_a_loop() -> None:
    batch = with_row(ragged((3, 2, 7, 13, 4, 5)), group=[0, 0, 0, 0, 1, 0], source=[0, 2, 0, 2, 2, 2])
    rewards = torch.tensor([1.0, 4.0, 0.0, 1.0, 9.0, 2.0])
    found = standardised(rewards, batch.ids("group", "source"), torch.ones(6).bool(), 1e-4, 1)
    old = torch.tensor([4.0, 1.0, 2.0])
    expected = [0.5 / (0.5**0.5 + 1e-4), *((x - old.mean()) / (old.std() + 1e-4) for x in (4.0,))]
    close(found[:2], torch.tensor(expected))
    close(found[4], 0.0)
    with pytest.raises(CompositionError, match="within"):
        GroupStandardised(within=())


def test_rows_enter_after_the_round_and_keep_what_they_were() -> None:
    ctx, (first, second, third) = remembering(size=2, replayed=2, capacity=4, least=2, strategy="recent")
    assert set(first.row["source"].tolist()) == {int(Source.POLICY)}
    for before, rows in ((first, second), (second, third)):
        for task in range(4):
            old = rows[(rows.row["task"] == task) & (rows.row["source"] == Source.REPLAY)]
            new = before[(before.row["task"] == task) & (before.row["source"] == Source.POLICY)]
            assert torch.equal(old.step["_step"], new.step["_step"])
            assert torch.equal(old.step["behaviour"], new.step["behaviour"])
            assert torch.equal(old.step["reward"], new.step["reward"])
            assert len(rows.row["group"][rows.row["task"] == task].unique()) == 1
    held = stored(ctx, 0)
    assert held is not None
    assert len(held) == 4  # the newest: those of the second and third round
    assert set(held.row["source"].tolist()) == {int(Source.POLICY)}


def test_nothing_returns_before_enough_is_stored() -> None:
    _, rounds = remembering(rounds=4, size=2, replayed=2, capacity=8, least=5)
    assert [int((rows.row["source"] == Source.REPLAY).sum()) for rows in rounds] == [0, 0, 0, 8]


def test_strategies_by_hand() -> None:
    reward, rng = torch.tensor([0.0, 1.0, 0.5, 1.0, 0.0]), torch.Generator().manual_seed(0)
    assert retrieve(reward, "all", 2, rng).tolist() == [0, 1, 2, 3, 4]
    assert retrieve(reward, "recent", 2, rng).tolist() == [3, 4]
    assert retrieve(reward, "highest", 1, rng).tolist() == [3]
    assert retrieve(reward, "highest", 3, rng).tolist() == [1, 2, 3]
    assert sorted(reward[retrieve(reward, "max_variance", 2, rng)].tolist()) == [0.0, 1.0]
    drawn = torch.stack([retrieve(reward, "random", 2, rng) for _ in range(500)])
    close(drawn.flatten().bincount() / 1000, [0.2] * 5, 0.05)
    assert retrieve(reward, "highest", 9, rng).tolist() == [0, 1, 2, 3, 4]


@settings(max_examples=30)
@given(st.lists(st.integers(0, 4), min_size=2, max_size=7), st.integers(1, 6))
def test_the_widest_choice_is_the_best_of_all(values: list[int], size: int) -> None:
    size = min(size, len(values))
    reward = torch.tensor(values, dtype=torch.float64)
    chosen = reward[widest_choice(reward, size)]
    best = max(
        (float(reward[list(c)].var(unbiased=False)), float(reward[list(c)].sum()))
        for c in itertools.combinations(range(len(values)), size)
    )
    assert (float(chosen.var(unbiased=False)), float(chosen.sum())) == pytest.approx(best)


def test_a_row_of_the_present_policy_is_an_extra_member() -> None:
    """r = 1: under mixed normalisation it counts like a fresh one."""
    batch = with_row(ragged(), group=[0, 0, 0, 0], source=MIXED)
    now = grids()["policy"].logp.detach()[:4, :13]
    batch = batch.with_steps({"behaviour": now})
    mixed, grades = override(load("repo_replay"), {"credit.within": ("group",)}), Grades([0.5, 2.0, -1.0, 4.0])
    fresh = with_row(batch, source=[0, 0, 0, 0])
    close(first_step(mixed, grids(), batch, grades).gradient, first_step(mixed, grids(), fresh, grades).gradient)


def test_the_store_is_checkpointed_bitwise(tmp_path) -> None:
    ctx, _ = remembering(size=2, replayed=2, capacity=4, least=2)
    save(ctx.run.cells, tmp_path / "cells")
    equal(load_state(tmp_path / "cells")[ROWS.name], ctx.run.cells[ROWS.name])
    changes = {"selection.count": 3, "sampling.size": 2, "sampling.least": 2, "sampling.replayed": 2}
    resumed(load("repo_replay"), first_symbol(torch.tensor([0.0, 1.0])), lambda: Table(numbers(12, 2)), changes=changes)


def test_impossible_options_are_refused() -> None:
    for options in ({"least": 17}, {"replayed": -1}, {"least": 0}):
        with pytest.raises(CompositionError, match="need replayed"):
            ReplayedGroup(**options)
