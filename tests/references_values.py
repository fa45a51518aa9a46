"""Critics of steps and policies moved through them, again as plain loops over Python numbers with derivatives by hand,
and the small models they are computed on: tables over numbered states, one step number of D dimensions or a choice."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from enumeration import Fixed
from policyopt.compose import Given, Loss, Method, Program, Role, Stage, Term
from policyopt.compose.models import Positive
from policyopt.constraint.cloning import CloneSteps, WriteAgain
from policyopt.distributions import Deterministic, Gaussian, SquashedGaussian
from policyopt.objective.action_values import ExpectileValue, SoftStateValue, TemporalDifference
from policyopt.objective.pathwise import MirrorDescent, SoftImprovement, TemperatureError, ValueOfMode
from policyopt.objective.weighted import WithCriticAdvantage
from policyopt.policies.tabular import Table, TableCritic, TableQ
from policyopt.reward.parts import FromWorld
from policyopt.run import Run, StageContext
from policyopt.train import rounds
from policyopt.types import Batch, Finish, Scores
from policyopt.update.averaging import SequenceMean
from policyopt.update.gradient import GradientSteps, losses
from policyopt.update.optimizers import SGD
from policyopt.worlds.tables import TabularMDP
from support import context, method, numbers, ragged

STATES, CHOICES, DIMS = 6, 4, 2

Numbers = dict[str, Any]
"""The parameters of a model as nested lists."""


# -- models ------------------------------------------------------------------------------------------------------------
class Squashed(nn.Module):
    """tanh-normal steps: mean and log_std (S, D)."""

    kind = "control"

    def __init__(self, seed: int, dims: int = DIMS):
        super().__init__()
        self.mean = nn.Parameter(numbers(STATES, dims, seed=seed, scale=0.6))
        self.log_std = nn.Parameter(numbers(STATES, dims, seed=seed + 50, scale=0.3) - 0.5)

    def at(self, batch: Batch, *, following: bool = False) -> SquashedGaussian:
        state = batch.following("_state") if following else batch.step["_state"]
        return SquashedGaussian(Gaussian(self.mean[state], self.log_std[state].exp()))

    def taken(self, batch: Batch) -> Tensor:
        return batch.step["_action"]

    def score(self, batch: Batch, context: str | None = None, *, full: bool = False) -> Scores:
        return Scores(self.at(batch).log_prob(self.taken(batch)))


class Pointed(nn.Module):
    """Deterministic steps tanh(mean) (S, D)."""

    kind = "control"

    def __init__(self, seed: int):
        super().__init__()
        self.mean = nn.Parameter(numbers(STATES, DIMS, seed=seed))

    def at(self, batch: Batch, *, following: bool = False) -> Deterministic:
        state = batch.following("_state") if following else batch.step["_state"]
        mean = self.mean[state].tanh()
        return Deterministic(mean, torch.zeros_like(mean))

    def taken(self, batch: Batch) -> Tensor:
        return batch.step["_action"]


class Bowl(nn.Module):
    """Q_e(s, a) = c + sum_d (w_d y_d - k_d y_d^2); y = tanh a (squashed) or a itself."""

    def __init__(self, seed: int, *, squashed: bool = True, heads: int = 2):
        super().__init__()
        self.c = nn.Parameter(numbers(heads, STATES, seed=seed))
        self.w = nn.Parameter(numbers(heads, STATES, DIMS, seed=seed + 1))
        self.k = nn.Parameter(numbers(heads, STATES, DIMS, seed=seed + 2).abs())
        self.squashed = squashed

    def q(self, batch: Batch, steps: Tensor | None = None, *, following: bool = False) -> Tensor:
        state = batch.following("_state") if following else batch.step["_state"]
        a = batch.step["_action"] if steps is None else steps
        y = a.tanh() if self.squashed else a
        return self.c[:, state] + (self.w[:, state] * y - self.k[:, state] * y**2).sum(-1)


def table_critic(seed: int) -> TableCritic:
    critic = TableCritic(STATES, torch.float64)
    critic.values.data = numbers(STATES, seed=seed)
    return critic


def table(seed: int) -> Table:
    return Table(numbers(STATES, CHOICES, seed=seed))


def table_q(seed: int, heads: int = 2) -> TableQ:
    return TableQ(numbers(heads, STATES, CHOICES, seed=seed))


def transitions(lengths: Sequence[int] = (3, 1, 4, 2)) -> Batch:
    """Rows of uneven lengths with states, steps of both kinds and all three ways to end; one step is not trained on."""
    batch = ragged(lengths, tools=False)
    rng = torch.Generator().manual_seed(9)
    size, width = len(lengths), batch.steps
    if batch.steps > 1:
        batch.step["train"][2, 1] = False
    finish = [Finish.STOPPED, Finish.TRUNCATED, Finish.RUNNING, Finish.STOPPED]
    return batch.with_rows(
        {
            "_state": torch.randint(STATES, (size,), generator=rng),
            "finish": torch.tensor([int(finish[row % 4]) for row in range(size)]),
        }
    ).with_steps(
        {
            "_state": torch.randint(STATES, (size, width), generator=rng),
            "_action": numbers(size, width, DIMS, seed=7),
            "_step": torch.randint(CHOICES, (size, width), generator=rng),
        }
    )


WEIGHT = 0.7


def composed(loss: Loss, trains: str, models: Mapping[str, Any], weight: Any = WEIGHT) -> StageContext:
    """A method of one term."""
    term = Term("one", loss, SequenceMean(), weight=weight, trains=trains)
    roles = {name: Role(name) for name in models if name in ("old", "target_policy")}
    made = replace(
        method(),
        objective=(term,),
        roles=roles,
        models={name: Given("a table") for name in models if name != "policy"},
        update=GradientSteps({trains: SGD(1.0)}, clip_norm=None),
    )
    return context(made, models)


def stepped(ctx: StageContext, batch: Batch, micro_rows: int | None = None) -> tuple[Tensor, dict[str, Tensor]]:
    """The loss of one optimiser step, and the gradient of the trained model by name of parameter."""
    model = ctx.models[ctx.stage.terms[0].trains]
    named = dict(model.named_parameters())
    for parameter in named.values():
        parameter.grad = None
    total = torch.zeros(())
    for loss in losses(ctx, batch, ctx.stage.terms, micro_rows):
        loss.backward(inputs=list(named.values()))
        total = total + loss.detach()
    return total, {n: torch.zeros_like(p) if p.grad is None else p.grad.clone() for n, p in named.items()}


def models_of(kind: str) -> dict[str, Any]:
    if kind in ("sampled", "smoothed"):
        squashed = kind == "sampled"
        return {
            "policy": Squashed(1) if squashed else Pointed(1),
            "target_policy": Pointed(2),
            "critic": Bowl(3, squashed=squashed),
            "target": Bowl(13, squashed=squashed),
            "temperature": Positive(0.3, torch.zeros(())),
        }
    return {"policy": table(1), "critic": table_q(3), "target": table_q(13), "value": table_critic(5)}


def mirror_models() -> dict[str, Any]:
    return {**models_of("sampled"), "old": Squashed(30)}


# -- whole processes ---------------------------------------------------------------------------------------------------
def forks(gamma: float = 0.9) -> TabularMDP:
    """Five states, three choices, the last state terminal; some choices lead to either of two states, alike often."""
    rng = torch.Generator().manual_seed(4)
    move = torch.zeros(5, 3, 5, dtype=torch.float64)
    for s in range(5):
        for a in range(3):
            for reached in torch.randint(5, (2,), generator=rng).tolist():
                move[s, a, reached] += 0.5
    move[0, 0] = move[3, 2] = torch.tensor([0.0, 0.0, 0.0, 0.0, 1.0])
    ends = torch.tensor([False, False, False, False, True])
    return TabularMDP(move, numbers(5, 3, seed=8), torch.eye(5)[0], gamma, terminal=ends)


def every_transition(mdp: TabularMDP) -> Batch:
    """Both outcomes of every choice in every state that goes on, as rows of one step: as often as they happen."""
    found = []
    for s in (~mdp.ends).nonzero()[:, 0].tolist():
        for a in range(mdp.actions):
            outcomes = mdp.transition[s, a].nonzero()[:, 0].tolist()
            for reached in outcomes if len(outcomes) == 2 else outcomes * 2:
                found.append((s, a, reached))
    s, a, reached = torch.tensor(found).T
    batch = ragged((1,) * len(found), tools=False)
    finish = torch.where(mdp.ends[reached], int(Finish.STOPPED), int(Finish.RUNNING))
    return batch.with_rows({"_state": reached, "finish": finish}).with_steps(
        {"_state": s[:, None], "_step": a[:, None], "reward": mdp.mean_reward[s, a][:, None]}
    )


def iterated(
    made: Method, models: Mapping[str, nn.Module], batch: Batch, updates: int, rates: Mapping[str, float]
) -> Run:
    """A run of one round of the method on a batch, by `updates` plain gradient steps: everything else (terms, models,
    periods, hooks) is the method's own."""
    update = GradientSteps(
        {name: SGD(rates[name]) for name in made.update.optimizers},
        epochs=updates,
        clip_norm=None,
        every=made.update.every,
        after_step=made.update.after_step,
    )
    made = replace(made, sampling=Fixed(batch, ()), reward=FromWorld(), update=update)
    run = Run(models, None, None)
    next(rounds(run, Program((Stage(made, 1),))))
    return run


# -- loops -------------------------------------------------------------------------------------------------------------
def places(batch: Batch) -> list[tuple[int, int, int, int, bool]]:
    """(row, step, state, state that follows, whether the episode ended) of every trained step."""
    found = []
    for b in range(len(batch)):
        length = int(batch.lengths[b])
        states = [*batch.step["_state"][b, :length].tolist(), int(batch.row["_state"][b])]
        for t in range(length):
            if bool(batch.step["train"][b, t]):
                over = t == length - 1 and int(batch.row["finish"][b]) == 1
                found.append((b, t, states[t], states[t + 1], over))
    return found


def softmax(logits: list[float]) -> list[float]:
    top = max(logits)
    weights = [math.exp(x - top) for x in logits]
    return [w / sum(weights) for w in weights]


def bowl(model: Numbers, head: int, s: int, a: list[float], *, squashed: bool) -> tuple[float, list[float]]:
    """Q and its derivative by the raw step."""
    value, slope = model["c"][head][s], []
    for d, x in enumerate(a):
        y = math.tanh(x) if squashed else x
        w, k = model["w"][head][s][d], model["k"][head][s][d]
        value += w * y - k * y * y
        slope.append((w - 2 * k * y) * ((1 - y * y) if squashed else 1.0))
    return value, slope


def least(model: Numbers, s: int, a: list[float], *, squashed: bool = True) -> tuple[float, list[float]]:
    return min((bowl(model, e, s, a, squashed=squashed) for e in range(len(model["c"]))), key=lambda pair: pair[0])


def tanh_normal(policy: Numbers, s: int, noise: list[float]) -> tuple[list[float], float]:
    """A draw and its log-density."""
    mean, log_std = policy["mean"][s], policy["log_std"][s]
    a = [m + math.exp(spread) * n for m, spread, n in zip(mean, log_std, noise, strict=True)]
    return a, tanh_density(policy, s, a)


def tanh_density(policy: Numbers, s: int, a: list[float]) -> float:
    total = 0.0
    for m, spread, x in zip(policy["mean"][s], policy["log_std"][s], a, strict=True):
        z = (x - m) / math.exp(spread)
        total += -0.5 * z * z - spread - 0.5 * math.log(2 * math.pi) - math.log(1 - math.tanh(x) ** 2)
    return total


def temporal_difference(q: list[float], target: float, huber: float | None) -> tuple[float, list[float]]:
    """Value, and its derivative by every head."""
    value, slopes = 0.0, []
    for x in q:
        error = x - target
        if huber is None or abs(error) <= huber:
            value, slope = value + error * error / 2, error
        else:
            value, slope = value + huber * (abs(error) - huber / 2), math.copysign(huber, error)
        slopes.append(slope)
    return value, slopes


def expectile(target: float, v: float, tau: float) -> tuple[float, float]:
    u = target - v
    share = 1 - tau if u < 0 else tau
    return share * u * u, -2 * share * u


def soft_state(target: float, v: float) -> tuple[float, float]:
    return (v - target) ** 2 / 2, v - target


def soft_improvement(
    policy: Numbers, critic: Numbers, s: int, noise: list[float], alpha: float
) -> tuple[float, list[float], list[float]]:
    """Value, derivatives by mean and log_std."""
    a, logp = tanh_normal(policy, s, noise)
    q, slope = least(critic, s, a)
    by_mean, by_spread = [], []
    for d, n in enumerate(noise):
        step = alpha * 2 * math.tanh(a[d]) - slope[d]
        by_mean.append(step)
        by_spread.append(step * math.exp(policy["log_std"][s][d]) * n - alpha)
    return alpha * logp - q, by_mean, by_spread


def mirror_descent(
    policy: Numbers,
    old: Numbers,
    critic: Numbers,
    s: int,
    noise: list[float],
    c: float,
    lam: float,
) -> tuple[float, list[float], list[float]]:
    a, logp = tanh_normal(policy, s, noise)
    q, slope = bowl(critic, 0, s, a, squashed=True)
    by_mean, by_spread = [], []
    for d, n in enumerate(noise):
        std = math.exp(old["log_std"][s][d])
        by_old = -(a[d] - old["mean"][s][d]) / std**2 + 2 * math.tanh(a[d])
        step = c * 2 * math.tanh(a[d]) + (lam - c) * by_old - slope[d]
        by_mean.append(step)
        by_spread.append(step * math.exp(policy["log_std"][s][d]) * n - c)
    return c * logp + (lam - c) * tanh_density(old, s, a) - q, by_mean, by_spread


def over_choices(logits: list[float], worth: Callable[[int, float], float]) -> tuple[float, list[float]]:
    """sum_a p(a) f(a, log p(a)) and its derivative by the logits, for f = k log p + (something constant)."""
    p = softmax(logits)
    f = [worth(a, math.log(x)) for a, x in enumerate(p)]
    value = sum(x * y for x, y in zip(p, f, strict=True))
    return value, [x * (y - value) for x, y in zip(p, f, strict=True)]


def value_of_mode(policy: Numbers, critic: Numbers, s: int, head: int = 0) -> tuple[float, list[float]]:
    mode = [math.tanh(m) for m in policy["mean"][s]]
    q, slope = bowl(critic, head, s, mode, squashed=False)
    return -q, [-g * (1 - y * y) for g, y in zip(slope, mode, strict=True)]


def clone(policy: Numbers, s: int, a: list[float]) -> tuple[float, list[float]]:
    mode = [math.tanh(m) for m in policy["mean"][s]]
    value = sum((y - x) ** 2 for y, x in zip(mode, a, strict=True)) / len(a)
    return value, [2 * (y - x) * (1 - y * y) / len(a) for y, x in zip(mode, a, strict=True)]


def temperature_error(log_alpha: float, entropy: float, target: float) -> tuple[float, float]:
    """Value and derivative by log alpha: the same number."""
    value = math.exp(log_alpha) * (entropy - target)
    return value, value


def advantage_weighted(q: list[float], v: float, logp: float, temperature: float, cap: float) -> tuple[float, float]:
    """Value and derivative by log pi, with the critics' advantage."""
    weight = min(math.exp((min(q) - v) / temperature), cap)
    return -weight * logp, -weight


def plain(model: nn.Module) -> Numbers:
    return {name: parameter.tolist() for name, parameter in model.named_parameters()}


REFERENCES: dict[type, Callable[..., Any]] = {
    TemporalDifference: temporal_difference,
    ExpectileValue: expectile,
    SoftStateValue: soft_state,
    SoftImprovement: soft_improvement,
    MirrorDescent: mirror_descent,
    ValueOfMode: value_of_mode,
    CloneSteps: clone,
    WriteAgain: clone,  # of choices: see test_hindsight_language
    TemperatureError: temperature_error,
    WithCriticAdvantage: advantage_weighted,
}
