"""GRPO of next-scale generators: `reduces_to` of specification 107, each identity a test."""

import math
from dataclasses import replace

import pytest
import torch

from enumeration import first_step
from policyopt.compose import CompositionError, Role, Term
from policyopt.constraint.divergence import K3Loss
from policyopt.engines.plain import generate
from policyopt.evaluation.experiments._scales import Scales, pretrained, stripes
from policyopt.methods import load
from policyopt.objective.surrogates import ClippedSurrogate
from policyopt.objective.turns import OverTurns
from policyopt.ops.random import new_keys
from policyopt.policies.tabular import Table
from policyopt.reward.parts import FromWorld
from policyopt.update.averaging import SequenceMean
from policyopt.update.turns import TurnMean
from references_turns import over_turns, turn_numbers
from support import close, context, full_step, grids, method, numbers, ragged, with_row

pytestmark = pytest.mark.usefixtures("float64")

TURNS = torch.tensor([0, 0, 1, 1, 1, 2, 2, 3, 3, 3, 4, 4, 5])
ROLES = {"old": Role("old"), "reference": Role("reference")}


def rows(turn=TURNS):
    batch = with_row(ragged(), group=[1, 1, 1, 1]).with_steps({"turn": turn.expand(4, -1)})
    return batch.with_steps({"reward": torch.where(batch.own, batch.step["reward"], 0.0)})


def loss_of(part, average, batch):
    models = grids()
    ctx = context(method(Term("a", part, average), roles=ROLES), models)
    return full_step(ctx, batch)


def test_scales_of_one_token_are_the_token_form_in_value_and_gradient() -> None:
    batch = rows(torch.arange(13))
    for part in (ClippedSurrogate(0.2, 0.2), K3Loss()):
        found, token = loss_of(OverTurns(part), TurnMean(), batch), loss_of(part, SequenceMean(), batch)
        close(found[0], token[0])
        close(found[1], token[1])
        assert float(token[1].abs().max()) > 1e-3


def test_both_methods_are_grpo_on_rows_of_such_scales() -> None:
    batch = rows(torch.arange(13))
    grpo = load("grpo")
    grpo = replace(grpo, reward=FromWorld(), constraint=load("var_grpo").constraint)
    expected = first_step(grpo, grids(), batch).gradient
    for key in ("var_grpo", "var_grpo:var_grpo_scales"):
        close(first_step(replace(load(key), reward=FromWorld()), grids(), batch).gradient, expected)


@pytest.mark.parametrize("part", [ClippedSurrogate(0.05, 0.05), K3Loss()])
def test_a_scale_is_one_action_with_the_mean_log_probability(part) -> None:
    """One value per scale, the mean over scales and rows, against loops."""
    batch, models = rows(), grids()
    logp = {name: models[name].logp.detach()[:4, :13] for name in ("policy", "old", "reference")}
    trained = batch.trained
    mean = {
        name: [over_turns(table[b].tolist(), TURNS.tolist(), trained[b].tolist()) for b in range(4)]
        for name, table in logp.items()
    }
    value, slope = 0.0, torch.zeros(4, 13)
    for b in range(4):
        scales = turn_numbers(TURNS.tolist(), trained[b].tolist())
        advantage = float(batch.step["advantage"][b, 0])
        for steps in scales:
            l, o, f = (mean[name][b][steps[0]] for name in ("policy", "old", "reference"))  # noqa: E741
            if isinstance(part, K3Loss):
                one, by = math.exp(f - l) - 1 - (f - l), 1 - math.exp(f - l)
            else:
                r = math.exp(l - o)
                one, by = max(-r * advantage, -min(max(r, 0.95), 1.05) * advantage), -r * advantage
                if (advantage > 0 and r > 1.05) or (advantage < 0 and r < 0.95):
                    by = 0.0
            value += one / len(scales) / 4
            for t in steps:
                slope[b, t] = by / len(steps) / len(scales) / 4
    same = batch.with_steps({"advantage": batch.step["advantage"][:, :1].expand(-1, 13)})
    found = loss_of(OverTurns(part), TurnMean(), same)
    close(found[0], value)
    close(found[1][:4, :13], slope)
    assert float(slope.abs().max()) > 1e-3


def test_the_joint_log_probability_of_a_scale_is_the_sum_over_its_tokens() -> None:
    """Pixels of a scale are independent given the coarser scales: their order does not matter."""
    world = Scales(1, 2, 85, lambda strings, task: strings[:, 21:].double().mean(1))
    policy = Table(numbers(world.states, 2, seed=2))
    start = world.start(world.tasks(torch.zeros(3, dtype=torch.int64)))
    batch = generate(policy, world, start, new_keys(3, torch.Generator()), 1.0, 0)
    table = policy.logits.detach().log_softmax(-1).view(85, 2, 2)
    symbols, parent = batch.step["_step"], world.parent
    for b in range(3):
        for place in range(85):
            above = int(symbols[b, parent[place]]) if place else 0
            close(batch.step["behaviour"][b, place], table[place, above, int(symbols[b, place])])
    assert batch.step["turn"][0].tolist() == [0] + [1] * 4 + [2] * 16 + [3] * 64
    close(policy.score(batch).logp, batch.step["behaviour"])


def test_expected_pixels_are_exact_and_stripes_are_half_lit() -> None:
    world = Scales(1, 2, 85, lambda strings, task: strings[:, 21:].double().mean(1))
    logits = pretrained(world).double()
    assert float(world.lit(logits.softmax(-1))[:, 21:].mean()) == pytest.approx(0.5, abs=0.02)
    policy = Table(logits)
    start = world.start(world.tasks(torch.zeros(400, dtype=torch.int64)))
    batch = generate(policy, world, start, new_keys(400, torch.Generator()), 1.0, 0)
    close(batch.step["_step"].double().mean(0), world.lit(logits.softmax(-1))[0], 0.12)
    assert stripes().shape == (12, 85)


def test_masked_rows_and_empty_masks() -> None:
    batch = rows()
    none = batch.with_steps({"train": torch.zeros(4, 13, dtype=torch.bool)})
    value, gradient = loss_of(OverTurns(), TurnMean(), none)
    close(value, 0.0)
    close(gradient, torch.zeros_like(gradient))
    weights = TurnMean()(batch.trained, batch, lambda x: x)
    close(weights.sum(), 1.0)
    close(weights.sum(1), torch.full((4,), 0.25))


def test_a_bound_is_no_ratio_of_scales_either() -> None:
    class Bound:
        def __getitem__(self, role):
            return replace(grids()["policy"].score(rows()).detach(), exact=False)

    with pytest.raises(CompositionError, match="exact"):
        OverTurns()(Bound(), rows())
