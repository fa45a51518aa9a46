"""DNO: `reduces_to` of specification 125, each identity a test."""

from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from contests import BIASED, answers, every_pair, table
from policyopt.compose import CompositionError, Program, Role, Stage
from policyopt.engines.plain import generate
from policyopt.evaluation.experiments.games import cyclic_game, exploitability
from policyopt.feedback.duels import RankedPairs
from policyopt.methods import load
from policyopt.objective.games import WinRateLogistic
from policyopt.objective.preference import PairLogistic
from policyopt.options import override
from policyopt.policies.tabular import Table
from policyopt.run import Run
from policyopt.train import rounds
from policyopt.types import Source
from policyopt.update.gradient import GradientSteps
from policyopt.update.optimizers import SGD
from support import close, context, full_step, grids, method, numbers, ragged, rewarded, with_row

pytestmark = pytest.mark.usefixtures("float64")


def stepped(loss, batch, models=None, weight=1.0):
    (term,) = load("dno").objective
    made = method(replace(term, loss=loss, weight=weight), roles={"old": Role("old"), "reference": Role("old")})
    return full_step(context(made, models or grids()), batch)


def test_sure_labels_make_it_dpo_to_the_last_policy() -> None:
    """q = 1 on every pair, beta = eta."""
    batch = rewarded(ragged(), [500.0, 500.0, -500.0, -500.0])
    found, expected = stepped(WinRateLogistic(0.6), batch), stepped(PairLogistic(0.6), batch)
    close(found[0], expected[0])
    close(found[1], expected[1])


def test_equal_win_rates_leave_the_last_policy_where_it_is() -> None:
    models = grids()
    models["policy"] = models["old"]
    batch = rewarded(ragged(), [0.3, 0.3, 0.3, 0.3])
    value, gradient = stepped(WinRateLogistic(), batch, models)
    close(value, torch.tensor(2.0).log())
    close(gradient, torch.zeros_like(gradient))


def test_the_label_does_not_depend_on_which_row_is_first() -> None:
    batch, models = rewarded(ragged(), [0.9, 0.1, 0.4, 0.6]), grids()
    turned = batch.with_rows({"rank": 1 - batch.row["rank"]})
    one, other = stepped(WinRateLogistic(0.8), batch, models), stepped(WinRateLogistic(0.8), turned, models)
    close(one[0], other[0])
    close(one[1], other[1])


@settings(max_examples=10)
@given(st.integers(0, 50), st.sampled_from([0.5, 1.0, 2.0]))
def test_the_population_minimiser_is_the_tilted_last_policy(seed: int, eta: float) -> None:
    """pi_t exp(R / eta) / Z: gradient 0 there."""
    old = numbers(3, seed=seed).softmax(-1)
    rate, batch = BIASED @ old, every_pair(BIASED)
    answer = batch.step["_step"][:, 0].view(-1, 2)
    drawn = old[answer].prod(1)
    weight = lambda seen, part: len(drawn) * drawn[part.row["pair"]]  # noqa: E731
    batch = batch.with_steps({"reward": rate[batch.step["_step"]]})
    for policy, there in (((old.log() + rate / eta).softmax(-1), True), (old, False)):
        gradient = stepped(WinRateLogistic(eta), batch, {"policy": table(policy), "old": table(old)}, weight)[1]
        assert (float(gradient.abs().max()) < 1e-12) == there


def test_every_round_beats_the_one_before_and_the_average_is_the_answer() -> None:
    """Exact steps on a cycle of five: the average is nearly unexploitable, the last policy not."""
    game = cyclic_game(5, torch.Generator().manual_seed(1)).double()
    game = (game + 1 - game.T) / 2
    policy, average = numbers(5, seed=2, scale=0.5).softmax(-1), torch.zeros(5)
    for _ in range(200):
        after = (policy.log() + game @ policy / 1.0).softmax(-1)
        assert float(after @ game @ policy) >= 0.5 - 1e-12
        average += policy / 200
        policy = after
    assert float(exploitability(game, average)) < 0.05
    assert float(exploitability(game, policy)) > float(exploitability(game, average))


def test_pairs_by_rank_with_a_teacher() -> None:
    teacher = int(Source.DATASET)
    batch = rewarded(with_row(ragged((2, 2, 2, 2)), group=(1,) * 4, source=(0, 0, 0, teacher)), [0.5, 0.1, 0.8, 0.0])
    ctx = context(method(), {"policy": torch.nn.Identity()})
    found = RankedPairs(most=2)(ctx, batch)
    assert found.row["rank"].tolist() == [-1, 1, 0, -1]  # the best beats the worst own one; the next two are one row
    found = RankedPairs(most=2, own_losers=False)(ctx, batch)
    assert found.row["rank"].tolist() == [0, 1, 0, 1]
    assert found.row["pair"][[2, 3]].unique().numel() == 1
    assert RankedPairs(gap=0.9)(ctx, batch).row["rank"].tolist() == [-1] * 4


def test_the_practical_form_passes_its_teacher() -> None:
    """A teacher's answer 0 that answer 1 beats, and a policy that knows neither at first."""
    game = torch.full((4, 4), 0.5)
    for best, other in ((1, 0), (1, 2), (1, 3), (0, 2), (0, 3)):
        game[best, other], game[other, best] = 0.8, 0.2
    made = override(load("dno:dno_prct"), {"selection.count": 16, "feedback.gap": 0.05, "objective.beta": 0.5})
    made = replace(made, update=GradientSteps({"policy": SGD(20.0)}, epochs=4, clip_norm=None))
    run = Run({"policy": Table(torch.tensor([[-2.0, -1.0, 1.0, 1.0]]))}, answers(game), generate, 1)
    list(rounds(run, Program((Stage(made, 6),))))
    policy = run.models["policy"].logits.detach().softmax(-1)[0]
    assert float(policy @ game[:, 0]) > 0.5  # beats the teacher more often than not
    assert int(policy.argmax()) == 1


def test_refusals() -> None:
    with pytest.raises(CompositionError, match="eta"):
        WinRateLogistic(0.0)
    for options in ({"gap": -0.1}, {"most": 0}):
        with pytest.raises(CompositionError, match="gap"):
            RankedPairs(**options)
