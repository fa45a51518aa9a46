"""Knobs of critics of steps and of policies moved through them."""

from typing import Any

import torch
from test_dead_knobs import Knob
from torch import Tensor

import cases
from policyopt.objective import action_values, pathwise, weighted
from policyopt.sampling import exploration
from policyopt.seen import SeenBatch
from policyopt.update.averaging import SequenceMean
from references_values import composed, mirror_models, models_of, stepped, table_critic, transitions
from support import context, full_step, method


def learned(trains: str, kind: str) -> Any:
    """Value and gradients of a loss by the model it trains."""

    def see(part: Any) -> Tensor:
        models = {**models_of(kind), "old": mirror_models()["old"], "value": table_critic(5)}
        loss, gradient = stepped(composed(part, trains, models), transitions())
        return torch.cat([loss[None], *(g.flatten() for g in gradient.values())])

    return see


def bootstrapped(kind: str) -> Any:
    """What a part says of the states that follow."""

    def see(part: Any) -> Tensor:
        ctx, batch = composed(action_values.TemporalDifference(part), "critic", models_of(kind)), transitions()
        return part(SeenBatch(ctx, batch), batch).detach()

    return see


def scaled(part: Any) -> Tensor:
    models, batch = models_of("smoothed"), transitions()
    ctx = composed(pathwise.ValueOfMode(), "policy", models)
    return part(SeenBatch(ctx, batch), batch).detach()[None]


def explored(part: Any) -> Tensor:
    ctx = context(method(), {})
    found = []
    for step in range(10):
        ctx.run.step = step
        found.append(part.level(ctx))
    return torch.tensor(found)


def weighed(part: Any) -> Tensor:
    case = cases.Case(part, cases.CASES["advantage_weighted"].reference)
    found, gradient = full_step(case.context(SequenceMean()), cases.rich())
    return torch.cat([found[None], gradient.flatten()])


KNOBS = (
    Knob(action_values.TemporalDifference(), learned("critic", "greedy"), {"gamma": 0.5, "huber": 0.5}),
    Knob(action_values.GreedyValue(), bootstrapped("greedy"), {"chooser": "critic"}),
    Knob(action_values.PolicyValue(), bootstrapped("sampled"), {"temperature": 0.5, "heads": "mean"}),
    Knob(action_values.SmoothedValue(), bootstrapped("smoothed"), {"noise": 0.7, "clip": 0.1}),
    Knob(action_values.ExpectileValue(), learned("value", "greedy"), {"expectile": 0.9}),
    Knob(action_values.SoftStateValue(), learned("value", "sampled"), {"temperature": 0.5}),
    Knob(pathwise.SoftImprovement(), learned("policy", "sampled"), {"temperature": 0.5, "heads": "first"}),
    Knob(pathwise.MirrorDescent(), learned("policy", "sampled"), {"proximity": 0.5, "temperature": 0.5}),
    Knob(pathwise.ValueOfMode(), learned("policy", "smoothed"), {"heads": "least"}),
    Knob(pathwise.ByValueScale(), scaled, {"alpha": 1.0}),
    Knob(pathwise.TemperatureError(), learned("temperature", "sampled"), {"entropy": -2.0}),
    Knob(exploration.Annealed(), explored, {"first": 0.5, "last": 0.2, "share": 0.9}),
    Knob(weighted.AdvantageWeighted(), weighed, {"temperature": 0.5, "cap": 1.5}),
)
