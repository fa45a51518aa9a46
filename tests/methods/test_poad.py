"""POAD: `reduces_to` of specification 85, each identity a test."""

from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from enumeration import first_step
from policyopt.credit.critics import DecomposedAdvantage
from policyopt.credit.returns import GeneralisedAdvantage
from policyopt.methods import load
from policyopt.reward.parts import FromWorld
from policyopt.types import Finish
from support import close, context, grids, method, ragged, with_row

pytestmark = pytest.mark.usefixtures("float64")


def paid(batch):
    return batch.with_steps({"reward": torch.where(batch.valid, batch.step["reward"], 0.0)})


def turned(batch, length: int):
    """Turns of `length` steps."""
    return batch.with_steps({"turn": (torch.arange(batch.steps) // length).expand(len(batch), -1)})


def credit(part, batch):
    return part(context(method(), grids()), batch)


@settings(max_examples=15)
@given(st.integers(0, 20), st.floats(0, 1))
def test_without_a_discount_it_is_generalised_advantage(seed: int, lam: float) -> None:
    batch = turned(paid(ragged(seed=seed)), 3)
    found = credit(DecomposedAdvantage(1.0, lam, whitened=False), batch)
    close(found.step["advantage"], credit(GeneralisedAdvantage(1.0, lam, whitened=False), batch).step["advantage"])


def test_the_whole_method_without_a_discount_is_ppo() -> None:
    made = replace(load("poad"), reward=FromWorld(), credit=DecomposedAdvantage(1.0, 0.9))
    ppo = replace(load("ppo"), reward=FromWorld(), credit=GeneralisedAdvantage(1.0, 0.9))
    batch = turned(paid(ragged()), 3)
    found = first_step(made, grids(), batch).gradient
    assert float(found.abs().max()) > 1e-3
    close(found, first_step(ppo, grids(), batch).gradient)


def test_one_step_a_turn_is_ppo_over_actions() -> None:
    batch = turned(paid(with_row(ragged(), finish=[1, 2, 1, 2])), 1)
    found = credit(DecomposedAdvantage(0.8, 0.9, whitened=False), batch)
    close(found.step["advantage"], credit(GeneralisedAdvantage(0.8, 0.9, whitened=False), batch).step["advantage"])
    inside = credit(DecomposedAdvantage(0.8, 0.9, inside=0.8, whitened=False), turned(batch, 4))
    close(inside.step["advantage"], found.step["advantage"])


def test_token_deltas_of_an_action_add_up_to_the_actions() -> None:
    """lam = 0: sum over a turn of delta = R + gamma V(next turn) - V(turn), whatever the values inside."""
    batch = turned(paid(ragged((7, 5), tools=False)), 3)
    found = credit(DecomposedAdvantage(0.7, 0.0, whitened=False), batch)
    values, reward = grids()["critic"].values.detach(), batch.step["reward"]
    for b, length in enumerate((7, 5)):
        for first in range(0, length, 3):
            after = min(first + 3, length)
            following = 0.0 if after == length else float(values[b, after])
            expected = float(reward[b, first:after].sum()) + 0.7 * following - float(values[b, first])
            # Rewards inside a turn count undiscounted, at its end.
            close(found.step["advantage"][b, first:after].sum(), expected)


def test_two_turns_by_hand() -> None:
    """gamma 0.5, lam 1, V = (1, 2, 4, 8): deltas 1, 0.5 * 4 - 2 = 0, 4, 10 - 8 = 2."""
    batch = ragged((4,), tools=False).with_steps({"reward": torch.tensor([[0.0, 0.0, 0.0, 10.0]])})
    models = grids()
    with torch.no_grad():
        models["critic"].values[0, :4] = torch.tensor([1.0, 2.0, 4.0, 8.0])
    part = DecomposedAdvantage(0.5, 1.0, whitened=False)
    found = part(context(method(), models), turned(batch, 2))
    close(found.step["advantage"], [[4.0, 3.0, 6.0, 2.0]])
    close(found.step["return"], [[5.0, 5.0, 10.0, 10.0]])


def test_a_cut_row_is_worth_what_follows_and_padding_takes_no_part() -> None:
    batch = turned(paid(with_row(ragged((2, 3)), finish=[int(Finish.TRUNCATED)] * 2)), 2)
    found = credit(DecomposedAdvantage(0.5, 0.0, whitened=False), batch).step["advantage"]
    values = grids()["critic"].values.detach()
    close(found[0, 1], batch.step["reward"][0, 1] + 0.5 * values[0, 2] - values[0, 1])
    assert float(found[0, 2]) == 0.0
