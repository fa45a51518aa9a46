"""RLFR: `reduces_to` of specification 4, each identity a test."""

from dataclasses import replace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from enumeration import Grades, first_step
from policyopt.compose import CompositionError, Stage, Term
from policyopt.credit.flow import DenseAdvantage, FlowDeviation, scaled_in_rows
from policyopt.engines.plain import generate
from policyopt.methods import load
from policyopt.objective.flow import HiddenFlowMatching, steps_of_right
from policyopt.options import override
from policyopt.policies.checkpoint import new_language
from policyopt.policies.flow import FlowOfHidden, HiddenFlow
from policyopt.policies.linear import Linear
from policyopt.policies.tabular import Table
from policyopt.run import Run
from policyopt.seen import SeenBatch
from policyopt.types import Tasks
from policyopt.update.averaging import SequenceMean
from policyopt.worlds.sequences import SequenceWorld
from policyopt.worlds.tokens import TokenWorld
from support import close, context, full_step, grids, method, numbers, per_row, ragged, rewarded

pytestmark = pytest.mark.usefixtures("float64")

GRADES = [0.5, 2.0, -1.0, 4.0]


class Shown(nn.Module):
    """A flow whose hidden states are numbers of the rows, and whose velocity is `slope` times the point."""

    def __init__(self, slope: float = 0.0):
        super().__init__()
        self.slope = nn.Parameter(torch.tensor(slope))
        self.states = numbers(8, 104, 3, seed=2)

    def hidden(self, batch):
        return self.states[batch.row["_row"], : batch.steps]

    def deviation(self, hidden, noise, share):
        point = share[..., None] * hidden + (1 - share[..., None]) * noise
        return ((self.slope * point - (hidden - noise)) ** 2).mean(-1)


def rlfr(**changes):
    return replace(load("rlfr"), **changes)


def test_without_a_charge_it_is_grpo() -> None:
    made = override(load("rlfr"), {"credit.dense_advantage.weight": 0.0})
    batch = rewarded(ragged(), [0.0] * 4)
    found = first_step(made, {**grids(), "flow": Shown()}, batch, Grades(GRADES))
    assert float(found.gradient.abs().max()) > 1e-3
    close(found.gradient, first_step(load("grpo"), grids(), batch, Grades(GRADES)).gradient)


@given(st.integers(0, 50), st.floats(-5, 5), st.floats(0.01, 10))
def test_scaling_ignores_an_offset_and_a_factor(seed: int, offset: float, factor: float) -> None:
    batch, score = ragged(seed=seed), numbers(4, 13, seed=seed)
    found = scaled_in_rows(score, batch.own, 0.3)
    close(scaled_in_rows(offset + factor * score, batch.own, 0.3), found, 1e-6)
    assert float(found.min()) >= 0
    assert float(found.max()) <= 1


def test_scaling_by_hand() -> None:
    score = torch.tensor([[1.0, 3.0, 2.0, 5.0, 99.0], [4.0, 4.0, 4.0, 0.0, 0.0], [7.0, 0.0, 0.0, 0.0, 0.0]])
    mask = torch.tensor([[1, 1, 1, 1, 0], [1, 1, 1, 0, 0], [1, 0, 0, 0, 0]]).bool()
    zero = [[0.0] * 5] * 2
    close(scaled_in_rows(score, mask), [[0.0, 0.5, 0.25, 1.0, 0.0], *zero])
    close(scaled_in_rows(score, mask, 0.25), [[0.0, 0.5, 0.0, 1.0, 0.0], *zero])
    close(scaled_in_rows(score, mask, top=1), [[0.0, 0.0, 0.0, 1.0, 0.0], *zero])
    close(scaled_in_rows(score, mask, two_sided=True), [[-1.0, 0.0, -0.5, 1.0, 0.0], *zero])
    close(scaled_in_rows(score, mask, two_sided=True, top=2), [[-1.0, 0.0, 0.0, 1.0, 0.0], *zero])


def test_dense_rewards_and_the_outcome_are_discounted_to_every_step() -> None:
    batch = per_row(ragged((3, 1), tools=False), [2.0, -1.0])
    batch = batch.with_steps({"value": torch.tensor([[1.0, 0.5, 0.25], [3.0, 9.0, 9.0]])})
    found = DenseAdvantage("value", -0.1, 0.5)(context(method(), grids()), batch).step["advantage"]
    first = 0.5 - 0.1 * (1.0 + 0.25 + 0.0625)
    close(found, [[first, 1.0 - 0.1 * 0.625, 2.0 - 0.025], [-1.3, 0.0, 0.0]])
    whole = DenseAdvantage("value", -0.1)(context(method(), grids()), batch).step["advantage"]
    close(whole[0], [2.0 - 0.175, 2.0 - 0.075, 2.0 - 0.025])


def test_the_deviation_is_the_flows_error_at_the_named_time() -> None:
    """Velocity 0: 0.8 / 0.2 mean (h - n)^2, with the run's noise."""
    batch, flow = ragged(), Shown()
    ctx = context(method(), {**grids(), "flow": flow})
    found = FlowDeviation()(ctx, batch).step["deviation"]
    noise = torch.randn(4, 13, 3, generator=context(method(), grids()).rng("deviation"), dtype=torch.float64)
    score = 4 * ((flow.states[:4, :13] - noise) ** 2).mean(-1)
    close(found, scaled_in_rows(score, batch.own))


def test_the_flow_learns_from_right_rows_only_and_sends_nothing_to_the_policy() -> None:
    """Value and gradient by a loop: mean over right rows of the mean over their steps."""
    batch = rewarded(ragged(), [1.0, 0.0, 1.0, 0.5])
    term = Term("flow", HiddenFlowMatching("critic"), SequenceMean(), mask=steps_of_right, trains="critic")
    models = {**grids(), "critic": Shown(0.3)}
    ctx = context(method(term), models)
    planned = term.loss.plan(SeenBatch(ctx, batch), batch)
    ctx.run._calls.clear()
    loss, slope = full_step(ctx, batch, model="critic")
    value, by = 0.0, 0.0
    for b in (0, 2):
        steps = batch.trained[b].nonzero()[:, 0].tolist()
        for t in steps:
            h, n, s = (planned.step[name][b, t] for name in ("_hidden", "_noised", "_share"))
            point = s * h + (1 - s) * n
            gap = 0.3 * point - (h - n)
            value += float((gap**2).mean()) / len(steps) / 2
            by += float((2 * gap * point).mean()) / len(steps) / 2
    close(loss, value)
    close(slope, by)
    assert all(p.grad is None for p in models["policy"].parameters())


def world() -> SequenceWorld:
    return SequenceWorld(2, 3, 3, lambda strings, task: (strings == 1).all(1).double())


def test_a_flow_of_a_linear_policy_tells_known_states_from_others() -> None:
    """Fitted to rows of ones: states behind a one are explained better than others."""
    features = numbers(6, 8, seed=1)
    policy = Linear(features, torch.zeros(8, 3))
    flow = HiddenFlow(policy, 32, torch.Generator().manual_seed(0))
    flow.double()
    rows = world().complete(Tasks(torch.zeros(1, dtype=torch.int64)), torch.ones(1, 3, dtype=torch.int64))
    assert len(list(flow.parameters())) == 6
    optimizer, rng = torch.optim.Adam(flow.parameters(), 0.01), torch.Generator().manual_seed(1)
    hidden = flow.hidden(rows)
    close(hidden, features[[1, 2, 2]][None])
    for _ in range(300):
        noise = torch.randn(32, 3, 8, generator=rng)
        loss = flow.deviation(hidden.expand(32, -1, -1), noise, torch.rand(32, 3, generator=rng)).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    noise = torch.randn(64, 3, 8, generator=rng)
    with torch.no_grad():
        known = flow.deviation(hidden.expand(64, -1, -1), noise, torch.full((64, 3), 0.8)).mean(0)
        strange = flow.deviation(numbers(1, 3, 8, seed=5).expand(64, -1, -1), noise, torch.full((64, 3), 0.8)).mean(0)
    assert bool((known < strange).all())


def test_language_policies_show_the_state_after_every_token() -> None:
    policy = new_language(11, hidden_size=8, layers=1, heads=2, max_position_embeddings=16)
    text = TokenWorld([[1, 2], [3]], eos=0, limit=4, decode=str)
    rows = text.complete(text.tasks(torch.tensor([0, 1])), [[4, 5], [6, 7, 8]])
    hidden = policy.hidden(rows)
    assert hidden.shape == (2, 4, policy.hidden_size)
    shorter = rows[torch.tensor([1])].cut(2)
    close(policy.hidden(shorter), hidden[1:, :2], 1e-5)


def test_policies_without_hidden_states_are_refused() -> None:
    run = Run({"policy": Table(torch.zeros(6, 3))}, world(), generate)
    with pytest.raises(CompositionError, match="linear policy"):
        run.enter(Stage(rlfr(), 1))
    with pytest.raises(CompositionError, match="shares"):
        FlowDeviation(shares=(1.0,))
    assert FlowOfHidden().width == 64
