"""Knobs of credit from critics."""

from dataclasses import replace
from typing import Any

import torch
from test_dead_knobs import Knob
from torch import Tensor

from policyopt.compose import Given, Program, Role, Stage, Term
from policyopt.credit import critics, tokens
from policyopt.credit.flow import DenseAdvantage, FlowDeviation
from policyopt.engines.plain import generate
from policyopt.evaluation.experiments.locks import lock
from policyopt.evaluation.experiments.searching import TwoHops
from policyopt.methods import load
from policyopt.objective import successors
from policyopt.objective.supervised import NegativeLogLikelihood
from policyopt.objective.surrogates import ClippedSurrogate
from policyopt.policies.tabular import Table, TableQ
from policyopt.reward import dense
from policyopt.reward.parts import Verified
from policyopt.reward.search import SearchReward
from policyopt.run import Run
from policyopt.sampling.collected import UnderSampled
from policyopt.sampling.windows import Windows
from policyopt.selection import contrast
from policyopt.selection.tasks import Selection
from policyopt.train import _draw, _judge, rounds
from policyopt.types import Finish, Round
from policyopt.update import apart
from policyopt.update.apart import Apart
from policyopt.update.averaging import TokenMean
from policyopt.update.gradient import GradientSteps
from policyopt.update.improving import PolicyImprovement
from policyopt.update.optimistic import OptimisticWeights
from policyopt.update.optimizers import SGD
from policyopt.worlds.sequences import SequenceWorld, bandit
from support import context, full_step, grids, method, numbers, ragged, rewarded, with_row


def credited(part: Any) -> Tensor:
    """What it writes, for turns of three steps and a row that is cut."""
    batch = with_row(ragged(), finish=[1, 1, 1, int(Finish.TRUNCATED)])
    batch = batch.with_steps({"turn": (torch.arange(13) // 3).expand(4, -1)})
    found = part(context(method(), grids()), batch)
    return torch.cat([found.step[name].flatten() for name in part.writes])


def paid(part: Any) -> Tensor:
    """Rewards and what is written, in a second round."""
    batch, ctx = ragged(), context(method(), {**grids(), "preferred": grids()["teacher"]})
    roles = {"preferred": Role("preferred"), "reference": Role("reference"), "old": Role("old")}
    ctx.stage = replace(ctx.stage, roles=roles, models={**ctx.stage.models, "preferred": Given("a table")})
    for _ in range(2):
        out = part(ctx, batch)
        part.after(ctx, Round(out, out, out, {}))
    return torch.cat([out.step["reward"].flatten(), *(out.row[name].flatten() for name in part.writes)])


def rehearsed(part: Any) -> Tensor:
    """A table after rows of its own."""
    world = SequenceWorld(4, 3, 2, lambda s, t: t.float(), recordings=torch.tensor([[0, 1], [1, 1], [2, 0], [1, 2]]))
    term = Term("recorded", NegativeLogLikelihood(), TokenMean())
    part = replace(part, terms=(term,), update=GradientSteps({"policy": SGD(1.0)}))
    ctx = context(method(), {"policy": Table(torch.zeros(8, 3))}, world)
    part(ctx)
    return ctx.models["policy"].logits.detach().flatten()


def gathered(part: Any) -> Tensor:
    """What two rounds of collecting gave, behaviour and numbers of rows."""
    roles = {"policy": Role("sampler", grad=True), "old": Role(when="collected")}
    term = Term("rarer", ClippedSurrogate(0.3, 0.3), TokenMean(), trains="sampler")
    if isinstance(part, UnderSampled) and part.adapt is not None:
        part = replace(part, adapt=Apart((term,), GradientSteps({"sampler": SGD(1.0)}), roles))
    models = {"policy": Table(numbers(4, 3)), "sampler": Table(numbers(4, 3, seed=1))}
    ctx = context(method(sampling=part), models, bandit(numbers(4, 3)), generate)
    ctx.stage = replace(ctx.stage, reward=Verified(), selection=Selection(4))
    for _ in range(2):
        out = part(ctx, _draw(ctx), _judge(ctx))
        part.after(ctx, Round(out, out, out, {}))
        ctx.run.tick()
    return torch.cat([torch.tensor([float(len(out))]), out.step["behaviour"].flatten()])


def learned(part: Any) -> Tensor:
    """Value and gradient of a loss on the critic's values."""
    case = Term("a", part, TokenMean(), trains="critic")
    batch = ragged()
    batch = batch.with_steps({"reward": torch.where(batch.valid, batch.step["reward"], 0.0)})
    found, slope = full_step(context(method(case), grids()), batch, model="critic")
    return torch.cat([found[None], slope.flatten()])


def lines(part: Any) -> Tensor:
    """Labels of random rows, and their completions' numbers."""
    world = SequenceWorld(2, 2, 4, lambda s, t: (s == 1).double().mean(1))
    ctx = context(method(), {"policy": Table(2 * numbers(8, 2, seed=1))}, world, generate)
    rows = ctx.extend(world.start(world.tasks(torch.arange(2).repeat(8))))
    rows = rows.with_steps({"turn": torch.arange(4).expand(16, -1), "reward": torch.zeros(16, 4)})
    return part(ctx, rows).step["label"].flatten()


def chosen(part: Any) -> Tensor:
    batch = rewarded(ragged((2,) * 6), [1.0, 0.6, 0.2, 1.0, 0.6, 0.9])
    batch = with_row(batch, group=[0, 0, 0, 1, 1, 1])
    return part(context(method(), grids()), batch).row["_row"].double()


def improved(part: Any) -> Tensor:
    """A table after five rounds on rewards that rise and fall."""
    part = replace(part, then=GradientSteps({"policy": SGD(1.0)}, clip_norm=None))
    ctx = context(method(Term("a", ClippedSurrogate(), TokenMean()), update=part), grids())
    for number in range(5):
        batch = ragged(seed=number)
        level = (0.0, 0.4, -0.5, 1.5, -1.0)[number]
        batch = rewarded(batch, [level, level + 0.1, level, level])
        part(ctx, batch.with_scores({"old": ctx.models["old"].score(batch).detach()}))
    return ctx.models["policy"].logp.detach().flatten()


def windowed(part: Any) -> Tensor:
    world = SequenceWorld(3, 3, 6, lambda s, t: (s == 1).double().sum(1), end=0)
    ctx = context(method(sampling=part), {"policy": Table(numbers(18, 3))}, world, generate)
    ctx.stage = replace(ctx.stage, reward=Verified(), selection=Selection(3))
    return part(ctx, _draw(ctx), _judge(ctx)).step["behaviour"].flatten()


def searched(part: Any) -> Tensor:
    ctx = context(method(), {"policy": Table(numbers(18, 5))}, TwoHops(), generate)
    rows = ctx.extend(ctx.world.start(ctx.world.tasks(torch.zeros(16, dtype=torch.int64))))
    return part(ctx, rows).step["reward"].flatten()


def weighed(part: Any) -> Tensor:
    """A table after a few episodes of a lock."""
    made = replace(load("optimistic_actor_critic"), update=part)
    run = Run({"policy": Table(torch.zeros(7, 2))}, lock(torch.tensor([1, 0, 1])), generate)
    list(rounds(run, Program((Stage(made, 6),))))
    return run.models["policy"].logits.detach().flatten()


class Hidden:
    """A flow that explains nothing."""

    def hidden(self, batch):
        return numbers(4, batch.steps, 3)

    def deviation(self, hidden, noise, share):
        return ((hidden - noise) ** 2).mean(-1)


def deviating(part: Any) -> Tensor:
    ctx = context(method(), grids())
    ctx.run.models["flow"] = Hidden()
    return part(ctx, ragged()).step["deviation"].flatten()


def by_choices(part: Any) -> Tensor:
    world, policy = lock(torch.tensor([1, 0, 1])), Table(numbers(7, 2))
    ctx = context(method(roles={}), {"policy": policy, "q": TableQ(numbers(1, 7, 2, seed=3))}, world, generate)
    rows = ctx.extend(world.start(world.tasks(torch.zeros(4, dtype=torch.int64))))
    found = part(ctx, rows.with_steps({"reward": numbers(4, 3, seed=4)})).step
    return torch.cat([found[name].flatten() for name in part.writes])


KNOBS = (
    Knob(critics.PolicyValueAdvantage(), by_choices, {"gamma": 0.5, "lam": 0.3}),
    Knob(FlowDeviation(), deviating, {"threshold": 0.5, "top": 1}),
    Knob(DenseAdvantage("value"), credited, {"weight": 0.5, "gamma": 0.5}),
    Knob(OptimisticWeights(horizon=3), weighed, {"rate": 0.5, "bonus": 0.2, "horizon": 1}),
    Knob(SearchReward(), searched, {"step": 0.1, "keywords": 0.1}),
    Knob(critics.HeldAdvantage(), credited, {"gamma": 0.5, "lam": 0.3}),
    Knob(
        PolicyImprovement(past=2),
        improved,
        {"past": 1, "negative": 1.0, "threshold": 5.0, "largest": 0.05, "bound": 0.05, "ddof": 0, "gate": 0.1},
    ),
    Knob(Windows(steps=3), windowed, {"steps": 1, "temperature": 0.3}),
    Knob(successors.SarsaError("critic"), learned, {"gamma": 0.5}),
    Knob(dense.TurnReward(critic="critic"), paid, {"weight": 0.5, "bound": 0.1}),
    Knob(tokens.PrefixLabels(), lines, {"count": 1, "right": 0.6, "temperature": 50.0}),
    Knob(contrast.OneOfEach(), chosen, {"most": 0.1, "right": 0.95}),
    Knob(UnderSampled(adapt=print), gathered, {"size": 2, "batches": 1, "pieces": 1, "adapt": None}),
    Knob(Apart(), lambda part: torch.tensor([float(part.roles is None)]), {"roles": {}}),
    Knob(dense.RunningScore(), paid, {"bound": 0.1}),
    Knob(dense.LogRatioReward(bound=0.01), paid, {"coefficient": 0.5, "bound": None}),
    Knob(apart.Rehearsal(), rehearsed, {"count": 1}),
    Knob(critics.DecomposedAdvantage(), credited, {"gamma": 0.5, "lam": 0.3, "inside": 0.5}),
    Knob(critics.BoundedAdvantages(), credited, {"bound": 0.1}),
)
