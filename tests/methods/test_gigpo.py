"""GiGPO: `reduces_to` of specification 74, each identity a test; turns compared with turns, and what is added."""

from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from enumeration import first_step
from policyopt.compose import Chain, CompositionError
from policyopt.credit.groups import GroupCentred
from policyopt.credit.turns import AddedAdvantages, TurnAdvantage
from policyopt.evaluation.experiments.episodes import key_door
from policyopt.methods import load
from policyopt.ops.pieces import pieces
from policyopt.reward.parts import FromWorld
from policyopt.worlds.oracles import expected_return
from references_turns import compared, turn_numbers
from support import close, context, grids, method, ragged, with_row

pytestmark = pytest.mark.usefixtures("float64")

TURNS = torch.tensor([0, 0, 1, 1, 1, 2, 2, 3, 3, 3, 4, 4, 5])


class States:
    """A world in which steps were taken in the states of a table (B, T)."""

    def __init__(self, keys):
        self.keys = torch.as_tensor(keys)

    def state_keys(self, batch):
        return self.keys[batch.row["_row"], : batch.steps]


def rows(seed=0, group=(1, 1, 1, 2)):
    return with_row(ragged(seed=seed), group=group).with_steps({"turn": TURNS.expand(4, -1)})


def credited(part, batch, world=None):
    return part(context(method(), grids(), world), batch).step["advantage"]


def of_method(key, batch, keys, **weights):
    part = load(key).credit
    if weights:
        part = Chain((*part.parts[:-1], AddedAdvantages({f"advantage:{k}": w for k, w in weights.items()})))
    return credited(part, batch, States(keys))


KEYS = torch.arange(4 * 13).view(4, 13) % 3


@settings(max_examples=12)
@given(st.integers(0, 60))
def test_anchor_groups_are_what_the_loops_say(seed: int) -> None:
    """Turns of any row and time that began in the same state, returns to go discounted per turn."""
    batch = rows(seed)
    keys = torch.randint(3, (4, 13), generator=torch.Generator().manual_seed(seed))
    found = credited(TurnAdvantage(among="state", gamma=0.8, scaled=bool(seed % 2)), batch, States(keys))
    worth, ids, where = [], [], []
    for b in range(4):
        steps = turn_numbers(TURNS.tolist(), batch.own[b].tolist())
        reward, place = [0.0] * len(steps), 0
        for t in range(13):  # a reward on another's step belongs to the own step before it
            place = next((k for k, one in enumerate(steps) if t in one), place)
            reward[place] += float(batch.step["reward"][b, t]) if batch.valid[b, t] else 0.0
        for k, one in enumerate(steps):
            worth.append(sum(0.8**n * x for n, x in enumerate(reward[k:])))
            ids.append((int(batch.row["group"][b]), int(keys[b, one[0]])))
            where.append((b, one))
    expected = torch.zeros(4, 13)
    for a, (b, one) in zip(compared(worth, ids, [True] * len(worth), scaled=bool(seed % 2)), where, strict=True):
        expected[b, one] = a
    close(found, expected, 1e-10)


def test_without_the_state_level_it_is_the_centred_reward_of_rows() -> None:
    batch = rows(3)
    close(of_method("gigpo", batch, KEYS, episode=1.0, state=0.0), credited(GroupCentred(), batch))
    scaled = of_method("gigpo:gigpo_scaled", batch, KEYS, episode=1.0, state=0.0)
    grpo = load("grpo").credit
    close(scaled, credited(grpo, batch))
    assert float(scaled.abs().max()) > 0.1


def test_where_no_state_comes_twice_it_is_grpo_in_the_gradient() -> None:
    """The whole method against grpo with mean-centred rewards."""
    batch = rows(1, (1, 1, 1, 1))
    batch = batch.with_steps({"reward": torch.where(batch.valid, batch.step["reward"], 0.0)})
    made = replace(load("gigpo"), reward=FromWorld())
    found = first_step(made, grids(), batch, States(torch.arange(52).view(4, 13)))
    grpo = replace(load("grpo"), reward=FromWorld(), credit=GroupCentred())
    close(found.gradient, first_step(grpo, grids(), batch).gradient)
    again = first_step(made, grids(), batch, States(KEYS))
    assert float((again.gradient - found.gradient).abs().max()) > 1e-3


def test_rows_of_one_turn_have_one_plus_w_times_the_centred_return() -> None:
    batch = with_row(ragged((2, 3, 1, 4), tools=False), group=[1, 1, 1, 1])
    found = of_method("gigpo", batch, torch.zeros(4, 4, dtype=torch.long), episode=1.0, state=0.7)
    close(found, 1.7 * credited(GroupCentred(), batch))


def test_pooled_statistics_weigh_long_rows_more() -> None:
    """Rewards 1 and 0 of rows of 3 and 1 turns: means 0.5 by row, 0.75 by turn."""
    batch = with_row(ragged((3, 1), tools=False), group=[1, 1])
    batch = batch.with_steps({"turn": torch.tensor([[0, 1, 2], [0, 0, 0]])})
    batch = batch.with_steps({"reward": torch.tensor([[0.0, 0.0, 1.0], [0.0, 0.0, 0.0]])})
    keys = torch.arange(6).view(2, 3)
    by_row = of_method("gigpo", batch, keys)
    by_turn = of_method("gigpo:gigpo_pooled", batch, keys)
    close(by_row[batch.own], [0.5, 0.5, 0.5, -0.5])
    close(by_turn[batch.own], [0.25, 0.25, 0.25, -0.75])


def test_a_state_visited_twice_by_one_row_gives_two_members() -> None:
    """Returns to go 0.81, 0.9, 1 of one row in the states 5, 6, 5: 0.905 is the mean of the first and the last."""
    batch = with_row(ragged((3, 1), tools=False), group=[1, 2])
    batch = batch.with_steps({"turn": torch.tensor([[0, 1, 2], [0, 0, 0]])})
    batch = batch.with_steps({"reward": torch.tensor([[0.0, 0.0, 1.0], [0.0, 0.0, 0.0]])})
    found = credited(TurnAdvantage(among="state", gamma=0.9), batch, States([[5, 6, 5], [5, 5, 5]]))
    close(found[0], [0.81 - 0.905, 0.0, 1 - 0.905])
    close(found[1, :1], [0.0])


def test_unscored_rows_and_steps_of_others_have_no_advantage() -> None:
    batch = with_row(rows(2, (1, 1, 1, 1)), scored=[True, True, False, True])
    found = credited(TurnAdvantage(among="state"), batch, States(KEYS))
    assert float(found[2].abs().max()) == 0.0
    assert float(found[~batch.own].abs().max()) == 0.0
    assert float(found[3].abs().max()) > 0.0


def test_pieces_know_their_steps() -> None:
    batch = rows()
    turns = pieces(batch, "turn")
    for n in range(len(turns)):
        b = int(turns.row[n])
        steps = turn_numbers(TURNS.tolist(), batch.own[b].tolist())[int(turns.place[n])]
        assert [int(turns.first[n]), int(turns.last[n])] == [steps[0], steps[-1]]
        assert (turns.of[b] == n).nonzero()[:, 0].tolist() == steps
    empty = pieces(batch, "turn", torch.zeros_like(batch.own))
    assert len(empty) == 0
    close(empty.spread(torch.zeros(0)), torch.zeros(4, 13))


def test_a_world_without_states_is_refused() -> None:
    with pytest.raises(CompositionError, match="state_keys"):
        credited(TurnAdvantage(among="state"), rows(), SimpleNamespace())
    with pytest.raises(CompositionError, match="gamma"):
        TurnAdvantage(gamma=1.5)
    with pytest.raises(CompositionError, match="at least one"):
        AddedAdvantages({})


def test_the_key_opens_the_door() -> None:
    """Right along the bottom to the door is worth nothing; up to the key and down again is."""
    world = key_door(3, 20, 0)
    policy = torch.zeros(19, 4)
    policy[:, 1] = 1.0  # right
    assert expected_return(world, policy.double()) == 0.0
    policy[[6, 3]] = torch.tensor([1.0, 0.0, 0.0, 0.0])  # up on the left
    policy[9:] = torch.tensor([0.0, 0.0, 1.0, 0.0])  # down with the key
    assert expected_return(world, policy.double()) == 1.0
    assert expected_return(replace(world, horizon=5), policy.double()) == 0.0
