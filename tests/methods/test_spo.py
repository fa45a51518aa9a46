"""SPO: `reduces_to` of specification 152, each identity a test."""

from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from asked import resumed
from contests import BIASED, FIRST, Contest, answers, chances
from enumeration import first_step
from policyopt.compose import Program, Stage
from policyopt.engines.plain import generate
from policyopt.evaluation.experiments.games import bradley_terry, cyclic_game, equilibrium, exploitability
from policyopt.methods import load
from policyopt.ops.wins import win_rates
from policyopt.options import override
from policyopt.policies.tabular import Table
from policyopt.reward.wins import WinRate
from policyopt.run import Run
from policyopt.sampling.store import ROWS
from policyopt.train import rounds
from support import close, context, grids, method, numbers, ragged, with_row

pytestmark = pytest.mark.usefixtures("float64")


def rates(batch, wins, part=None):
    found = (part or WinRate())(context(method(), grids(), Contest(wins)), batch)
    return (found.step["reward"] * found.valid).sum(1)


@settings(max_examples=30)
@given(st.integers(0, 100), st.lists(st.sampled_from([1, 4, 9]), min_size=1, max_size=6))
def test_the_mean_over_a_group_is_one_half(seed: int, groups: list[int]) -> None:
    size = len(groups)
    batch = with_row(ragged((3, 1, 2, 4, 2, 5)[:size], tools=False), group=groups)
    reward, wins = rates(batch, chances(size, seed)), chances(size, seed)
    for group in set(groups):
        rows = [b for b in range(size) if groups[b] == group]
        close(reward[rows].mean(), 0.5)
        for b in rows:
            others = [float(wins[b, j]) for j in rows if j != b]
            close(reward[b], sum(others) / len(others) if others else 0.5)


def test_two_rows_duel_and_a_row_alone_has_one_half() -> None:
    batch = with_row(ragged((1, 2, 7)), group=(4, 4, 2))
    wins = chances(3)
    close(rates(batch, wins), [wins[0, 1], wins[1, 0], 0.5])
    close(rates(batch, wins, WinRate(level=0.5)), [wins[0, 1] - 0.5, wins[1, 0] - 0.5, 0.0])


def test_of_a_transitive_rater_it_is_the_rank() -> None:
    worth = torch.tensor([3.0, -1.0, 0.5, 7.0])
    wins = (worth[:, None] > worth).double() + 0.5 * torch.eye(4)
    close(rates(with_row(ragged(), group=(1, 1, 1, 1)), wins), torch.tensor([2.0, 0.0, 1.0, 3.0]) / 3)


def test_unscored_rows_meet_nobody() -> None:
    batch = with_row(ragged(), group=(1, 1, 1, 1), scored=(1, 1, 0, 1))
    wins = chances(4)
    expected = [(wins[0, 1] + wins[0, 3]) / 2, (wins[1, 0] + wins[1, 3]) / 2, 0.0, (wins[3, 0] + wins[3, 1]) / 2]
    close(rates(batch, wins), expected)
    close(win_rates(torch.tensor([0.2, 0.4]), torch.tensor([1, 1]), 3, without=0.7), [0.7, 0.3, 0.7])


def test_gradient_against_a_loop() -> None:
    """On fresh rows -(R - 1/2) on every own step, mean over rows."""
    batch, models, wins = ragged(), grids(), chances(4, 2)
    models["old"] = models["policy"]
    found = first_step(load("spo"), models, batch, Contest(wins))
    share = torch.tensor([wins[0, 2], wins[1, 3], wins[2, 0], wins[3, 1]]) - 0.5
    close(found.gradient[:4, :13], torch.where(batch.trained, -share[:, None], 0.0) / 4)


def test_queues_hold_rows_of_earlier_rounds() -> None:
    """The first round meets itself; later ones the rows that were kept, of the same task."""
    made = override(load("spo:spo_queue"), {"selection.count": 4, "sampling.kept": 7, "sampling.opponents": 7})
    sure = torch.full((2, 3), -50.0)
    sure[:, 1] = 50.0
    run = Run({"policy": Table(sure)}, answers(BIASED, 2), generate, 1)
    program = Program((Stage(made, 3),))
    done = next(rounds(run, program))
    assert sorted(run.cells[ROWS.name]) == [0, 1]
    assert {len(rows) for rows in run.cells[ROWS.name].values()} == {7}
    with torch.no_grad():
        run.models["policy"].logits.copy_(torch.tensor([50.0, -50.0, -50.0]).expand(2, 3))
    done = next(rounds(run, program))
    close(done.judged.step["reward"], torch.full((20, 1), float(BIASED[0, 1])))
    assert len(done.judged) == 20


def test_runs_with_a_queue_go_on_bitwise() -> None:
    options = {"selection.count": 4, "sampling.size": 2, "update.learning_rate": 0.1}
    resumed(load("spo:spo_queue"), answers(BIASED, 2), lambda: Table(numbers(2, 3)), changes=options)


def test_multiplicative_weights_find_the_equilibrium_on_average() -> None:
    policy, average = FIRST.clone(), torch.zeros(3)
    for _ in range(3000):
        average += policy / 3000
        policy = (policy.log() + 0.1 * BIASED @ policy).softmax(-1)
    close(average, equilibrium(BIASED), 0.02)
    assert float(exploitability(BIASED, average)) < 0.01
    close(exploitability(BIASED, equilibrium(BIASED)), 0.0, 1e-9)


def test_bradley_terry_scores_fit_what_has_scores_and_lose_cycles() -> None:
    scores = numbers(4, seed=3)
    fitted = bradley_terry(torch.sigmoid(scores[:, None] - scores), torch.full((4,), 0.25), 3000)
    close(fitted, scores - scores.mean(), 1e-6)
    for seed in range(5):
        game = cyclic_game(5, torch.Generator().manual_seed(seed)).double()
        close(game + game.T, torch.ones(5, 5), 1e-6)
        best = bradley_terry(game, torch.full((5,), 0.2)).argmax()
        assert float(exploitability(game, torch.eye(5)[best])) >= 0.1 - 1e-6


def test_with_a_score_in_place_of_win_rates_it_is_mean_centred_rloo() -> None:
    made = load("spo")
    assert replace(made, reward=load("rloo").reward.parts[0]).objective == load("rloo").objective
