"""IterResearch: `reduces_to` of specification 42, each identity a test."""

import math
from dataclasses import replace

import pytest
import torch

from enumeration import first_step
from policyopt.compose import CompositionError
from policyopt.evaluation.experiments.episodes import clue_chain, turns_of_success
from policyopt.methods import load
from policyopt.reward.parts import FromWorld
from policyopt.selection.turns import TurnsAsRows
from policyopt.worlds.oracles import expected_return
from references_turns import rows_of_turns
from support import close, context, grids, method, numbers, ragged, with_row

pytestmark = pytest.mark.usefixtures("float64")

TURNS = torch.tensor([0, 0, 1, 1, 1, 2, 2, 3, 3, 3, 4, 4, 5])


def rows(group=(1, 1, 1, 1)):
    """The reward stands on every row's last step."""
    batch = with_row(ragged(), group=group).with_steps({"turn": TURNS.expand(4, -1)})
    reward = torch.zeros(4, 13)
    reward[[0, 1, 2, 3], [0, 1, 6, 12]] = torch.tensor([1.0, 0.0, 1.0, 1.0])
    return batch.with_steps({"reward": reward})


def small(**parts):
    made = load("iterresearch_eapo")
    return replace(made, reward=FromWorld(), update=replace(made.update, minibatches=1), **parts)


def test_rounds_earn_the_final_reward_discounted_backwards() -> None:
    """Rows of 1, 1, 3 (0, 1 | 2 is partly a tool's | 6) and 6 rounds: gamma^(T - t) R, standardised over all rounds."""
    made, batch = load("iterresearch_eapo"), rows()
    worth = []
    for b, reward in enumerate((1.0, 0.0, 1.0, 1.0)):
        count = len({int(t) for t in TURNS[batch.own[b]].tolist()})
        worth += [0.95 ** (count - 1 - t) * reward for t in range(count)]
    mean = sum(worth) / len(worth)
    deviation = math.sqrt(sum((x - mean) ** 2 for x in worth) / (len(worth) - 1))
    found = made.credit(context(method(), grids()), batch).step["advantage"]
    expected = iter((x - mean) / (deviation + 1e-6) for x in worth)
    for b in range(4):
        for turn in sorted({int(t) for t in TURNS[batch.own[b]].tolist()}):
            value = next(expected)
            steps = batch.own[b] & (turn == TURNS)
            close(found[b, steps], torch.full((int(steps.sum()),), value), 1e-10)


def test_one_round_and_no_discount_is_gspo_in_the_gradient() -> None:
    batch = rows().with_steps({"turn": torch.zeros(4, 13, dtype=torch.long)})
    made = small(credit=replace(load("iterresearch_eapo").credit, gamma=1.0))
    gspo = load("gspo")
    gspo = replace(gspo, reward=FromWorld(), update=replace(gspo.update, minibatches=1))
    old = grids()["policy"].logp.detach()[:4, :13] + numbers(4, 13, seed=9, scale=1e-4)
    found, expected = (first_step(m, grids(), batch, old=old) for m in (made, gspo))
    close(found.gradient, expected.gradient)
    assert float(found.gradient.abs().max()) > 1e-3


def test_every_round_is_a_row_whose_ratio_is_its_own() -> None:
    """-A_k (slope of s_k) / n_k on the steps of round k, mean over all rounds of all rows."""
    batch, made = rows(), small()
    found = first_step(made, grids(), batch)
    advantage = made.credit(context(method(), grids()), batch).step["advantage"]
    trained = batch.trained
    expected = rows_of_turns([TURNS.tolist()] * 4, trained.tolist())
    gradient = torch.zeros(4, 13)
    for b, steps in expected:
        for t in steps:
            gradient[b, t] = -float(advantage[b, t]) / len(steps) / len(expected)
    close(found.gradient[:4, :13], gradient, 1e-10)


def test_rounds_are_thinned_to_a_multiple() -> None:
    batch, ctx = rows(), context(method(), grids())
    every = TurnsAsRows()(ctx, batch)
    expected = rows_of_turns([TURNS.tolist()] * 4, batch.trained.tolist())
    assert len(every) == len(expected)
    for n, (b, steps) in enumerate(expected):
        assert int(every.row["_row"][n]) == b
        assert every.trained[n].nonzero()[:, 0].tolist() == steps
    some = TurnsAsRows(4)(ctx, batch)
    assert len(some) == len(every) // 4 * 4 < len(every)
    told = {(int(r), tuple(t.nonzero()[:, 0].tolist())) for r, t in zip(some.row["_row"], some.trained, strict=True)}
    assert len(told) == len(some)
    assert len(TurnsAsRows(100)(ctx, batch)) == 0


def test_equal_rewards_and_untrained_rows() -> None:
    batch = rows().with_steps({"reward": torch.zeros(4, 13)})
    found = load("iterresearch_eapo").credit(context(method(), grids()), batch)
    close(found.step["advantage"], torch.zeros(4, 13))
    none = rows().with_steps({"train": torch.zeros(4, 13, dtype=torch.bool)})
    assert len(TurnsAsRows()(context(method(), grids()), none)) == 0
    with pytest.raises(CompositionError, match="multiples"):
        TurnsAsRows(0)


def test_turns_of_success_are_the_exact_ones() -> None:
    world = clue_chain(2, 6, 3)
    right = world.transition[:2, :3].diagonal(1, 0, 2)  # probability that a search moves on
    policy = torch.zeros(4, 5, dtype=torch.float64)
    policy[:, 4] = 0.0
    for state in range(2):
        policy[state, int(right[:, state].argmax())] = 0.5
        policy[state, 3] = 0.5
    policy[2:, 4] = 1.0
    success, turns = turns_of_success(world, policy)
    # The clues take 2 + n turns with probability (n + 1) / 2^(n + 2), n = 0 ... 3; the answer one more.
    chances = [(n + 1) / 2 ** (n + 2) for n in range(4)]
    assert success == pytest.approx(sum(chances))
    assert turns == pytest.approx(sum(p * (3 + n) for n, p in enumerate(chances)) / sum(chances))
    assert success == pytest.approx(expected_return(world, policy))
