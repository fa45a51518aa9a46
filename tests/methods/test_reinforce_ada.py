"""Reinforce-Ada: `reduces_to` of specification 168, exit rules, balanced groups, the baseline over all rows."""

from dataclasses import replace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from asked import asking, first_symbol, same_rows, sampled
from policyopt.compose import CompositionError
from policyopt.credit.groups import GroupCentred
from policyopt.credit.subgroups import AgainstRate
from policyopt.methods import load
from policyopt.ops.sequences import total_reward
from policyopt.policies.tabular import Table
from policyopt.sampling.adaptive import AdaptiveGroup, balanced_choice
from policyopt.sampling.samplers import Group
from policyopt.types import Batch
from support import close

pytestmark = pytest.mark.usefixtures("float64")


def chances(values: list[float], limit: int = 2) -> Table:
    """A policy whose first symbol is 1 with these chances, by task."""
    logits = torch.zeros(len(values) * limit, 2)
    logits[::limit, 1] = torch.tensor(values).clamp(1e-9, 1 - 1e-9).logit()
    return Table(logits)


def rated(part: AdaptiveGroup, values: list[float], seed: int = 3) -> Batch:
    world = first_symbol(torch.tensor([0.0, 1.0]), len(values))
    return sampled(asking(part, world, chances(values), len(values), seed))


def test_one_round_without_choice_is_grpo_without_division() -> None:
    part = AdaptiveGroup(size=8, per_round=8, rounds=1)
    world = first_symbol(torch.tensor([0.0, 1.0]))
    rows = sampled(asking(part, world))
    same_rows(rows, sampled(asking(Group(8), world)))
    ctx = asking(part, world)
    found = AgainstRate()(ctx, rows).step["advantage"]
    close(found, GroupCentred()(ctx, rows).step["advantage"], 1e-14)
    assert float(found.abs().max()) > 0.1


def test_a_balanced_group_has_the_mean_one_half_less_the_rate() -> None:
    rows = rated(AdaptiveGroup(size=4, per_round=8, rounds=4), [0.1, 0.3, 0.5, 0.8])
    advantage = AgainstRate()(asking(Group()), rows).step["advantage"][:, 0]
    for group in rows.row["group"].unique():
        mine = rows.row["group"] == group
        assert int(mine.sum()) == 4
        if float(total_reward(rows)[mine].sum()) == 2:
            close(advantage[mine].mean(), 0.5 - rows.row["rate"][mine][0])


def test_a_task_leaves_when_its_rule_holds() -> None:
    """Chance 0 and 1 never leave; rates and numbers drawn are those of all rounds."""
    for rule, most in (("balanced", [12, 12, 6]), ("positive", [12, 3, 6])):
        rows = rated(AdaptiveGroup(size=2, per_round=3, rounds=4, rule=rule), [0.0, 1.0, 0.6])
        drawn = {int(t): int(n) for t, n in zip(rows.row["task"], rows.row["drawn"], strict=True)}
        assert [drawn[0], drawn[1]] == most[:2]
        assert drawn[2] in (3, 6, 9)
        assert {int(t): float(p) for t, p in zip(rows.row["task"], rows.row["rate"], strict=True) if t < 2} == {
            0: 0,
            1: 1,
        }
        assert rows.row["group"].bincount().tolist() == [2, 2, 2]


def test_rows_that_were_kept_are_among_those_drawn() -> None:
    """The same numbers whatever the others do: a task alone in its round gets the rows it would have had."""
    part = AdaptiveGroup(size=4, per_round=4, rounds=3)
    rows = rated(part, [0.02, 0.98, 0.5])
    assert len(rows) == 12
    assert bool((rows.row["rate"] * rows.row["drawn"]).frac().abs().lt(1e-9).all())


@given(st.lists(st.booleans(), min_size=1, max_size=20), st.sampled_from([2, 4, 6]), st.integers(0, 100))
def test_balanced_choices(right: list[bool], size: int, seed: int) -> None:
    known = torch.tensor(right)
    chosen = balanced_choice(known, size, torch.Generator().manual_seed(seed))
    good, bad = sum(right), len(right) - sum(right)
    assert len(set(chosen.tolist())) == len(chosen) == min(size, len(right))
    if min(good, bad) >= size // 2:
        assert int(known[chosen].sum()) == size // 2
    elif len(right) >= size:
        assert int(known[chosen].sum()) == (good if good < size // 2 else size - bad)


def test_numbers_of_the_specification() -> None:
    """Uniform rates, n = 4, 8 a round, 4 rounds: 14.1 rows a task and 96% of groups with both outcomes (positive rule:
    9.3 and 89%), where GRPO has 60% with 4."""
    values = torch.linspace(0.02, 0.98, 400).tolist()
    for rule, cost, share in (("balanced", 14.1, 0.96), ("positive", 9.3, 0.89)):
        rows = rated(AdaptiveGroup(rule=rule), values)
        reward = total_reward(rows).view(-1, 4).sum(1)
        assert float(((reward > 0) & (reward < 4)).double().mean()) == pytest.approx(share, abs=0.03)
        assert float(rows.row["drawn"].double().mean()) == pytest.approx(cost, abs=0.6)


def test_scaled_advantages_and_flat_rates_by_hand() -> None:
    rows = rated(AdaptiveGroup(size=2, per_round=2, rounds=1), [1.0, 0.0])
    assert float(AgainstRate(scaled=True)(asking(Group()), rows).step["advantage"].abs().max()) == 0.0
    rows = rows.with_rows({"rate": torch.full((4,), 0.2), "drawn": torch.full((4,), 5)})
    found = AgainstRate(scaled=True, epsilon=0.0)(asking(Group()), rows).step["advantage"][:, 0]
    close(found, (total_reward(rows) - 0.2) / (0.2 * 0.8 * 5 / 4) ** 0.5)


def test_options_of_the_method() -> None:
    made = load("reinforce_ada")
    assert (made.sampling.size, made.sampling.per_round, made.sampling.rounds) == (4, 8, 4)
    assert made.constraint == ()
    with pytest.raises(CompositionError, match="even size"):
        AdaptiveGroup(size=3)
    with pytest.raises(CompositionError, match="'rate'"):
        replace(made, sampling=Group())
