"""Every method that runs on tables, against exact answers: the expected gradient of its policy loss at the first step
is the exact policy gradient times a known number, and it reaches the known optimum of a small process.

Methods are found by scanning the package. One that is made of the parts of `HELD` is held to the statement as they are;
one with parts of its own is held to its own formula, in its own test, and to its claim.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field, replace
from typing import Any

import pytest
import torch
from torch import Tensor

from policyopt import methods
from policyopt.compose import Chain, Method, Program, Stage
from policyopt.credit.groups import GroupCentred, GroupStandardised
from policyopt.credit.returns import GeneralisedAdvantage, ReturnToGo
from policyopt.credit.running import RunningStandardised
from policyopt.engines.plain import generate
from policyopt.evaluation.methods import parts_of
from policyopt.methods import keys, load
from policyopt.objective.dropout import SurrogateDropout
from policyopt.objective.preference import PairLogistic
from policyopt.objective.supervised import FullReverseKL, NegativeLogLikelihood, SampledReverseKL
from policyopt.objective.surrogates import GeometricSequenceSurrogate
from policyopt.options import options, override
from policyopt.policies.tabular import Table, TableCritic, TableQ
from policyopt.run import Run, StageContext
from policyopt.seen import collect_roles
from policyopt.train import _judge, rounds
from policyopt.types import Batch
from policyopt.update.averaging import SequenceMean, SequenceSum, TokenMean
from policyopt.update.gradient import losses
from policyopt.worlds import oracles
from policyopt.worlds.tables import RecordedEpisodes, TabularMDP, chain
from support import close, numbers
from trajectories import Enumerated, every_group, every_trajectory, tiny

pytestmark = pytest.mark.usefixtures("float64")


def variants() -> list[str]:
    """Every method of the package: keys and, where a file defines more than one, key:name."""
    found = []
    for key in keys():
        names = [n for n, v in vars(methods.module(key)).items() if isinstance(v, Method) and v.about.key == n]
        own = [n for n in names if n == key or n not in keys()]
        found += [n if n == key else f"{key}:{n}" for n in own]
    return found


VARIANTS = variants()
SIZE = 2  # rows of an enumerated group
LENGTH = 2  # steps of every enumerated row

HELD = (
    "reinforce", "rloo", "grpo", "dr_grpo", "dapo", "gspo", "ppo", "a2c", "trpo", "mdpo", "ppo_ewma", "d_ppo_dropout",
    "orpo_occupancy", "orpo_occupancy:orpo_sequences", "dpo", "dpo:dpo_online", "sft", "opd", "opd:opd_sampled",
    "seppo",
)  # fmt: skip
KNOWN = set().union(*(parts_of(load(key)) for key in HELD if key in VARIANTS))


def own_parts(method: Method) -> str:
    """Why a method is held to its own formula only; empty if all its parts are known."""
    strange = sorted({name for _, name in parts_of(method) - KNOWN})
    return f"its {', '.join(strange)}: test_{method.key}.py" if strange else ""


NO_GRADIENT = {
    PairLogistic: "it regresses on preferences; its optimum, not its slope, is known",
    NegativeLogLikelihood: "it imitates recorded rows and asks for no reward",
    FullReverseKL: "it imitates a teacher and asks for no reward",
    SampledReverseKL: "it imitates a teacher and asks for no reward",
}
"""Losses whose expected gradient is not that of the return."""


def terms_of(method: Method) -> list[Any]:
    """The terms that move the policy towards reward."""
    return [term for term in method.objective if term.trains == "policy"]


def why_no_gradient(method: Method) -> str:
    """Why a method has no policy gradient to be compared; empty if it has."""
    if "tabular" not in method.about.policies:
        return f"it is for {', '.join(method.about.policies) or 'worlds of its own'}"
    if own_parts(method):
        return own_parts(method)
    reasons = [NO_GRADIENT[type(t.loss)] for t in terms_of(method) if type(t.loss) in NO_GRADIENT]
    return reasons[0] if reasons else ""


def settled(method: Method) -> Method:
    """Without what makes the first gradient another one than that of the return, by design: advantages scaled by
    moments of the batch (their mean is a baseline, their deviation a scale), discounts (the exact gradient would count
    later states less), steps that are dropped, and what runs before a round."""
    objective = tuple(replace(term, loss=undropped(term.loss)) for term in method.objective)
    return replace(method, before=(), credit=plain(method.credit), objective=objective)


def credits_of(method: Method) -> tuple[Any, ...]:
    return method.credit.parts if isinstance(method.credit, Chain) else (method.credit,)


def standardises(method: Method) -> GroupStandardised | None:
    """The part that divides by the spread of a group, if there is one: rewards are then 0 or 1."""
    return next((part for part in credits_of(method) if isinstance(part, GroupStandardised)), None)


def plain(credit: Any) -> Any:
    if isinstance(credit, Chain):
        return Chain(tuple(plain(part) for part in credit.parts if not isinstance(part, RunningStandardised)))
    if isinstance(credit, GeneralisedAdvantage):
        return replace(credit, gamma=1.0, whitened=False)
    return replace(credit, gamma=1.0) if isinstance(credit, ReturnToGo) else credit


def undropped(loss: Any) -> Any:
    return replace(loss, share=0.0) if isinstance(loss, SurrogateDropout) else loss


def standard_scale(p: Tensor, size: int, epsilon: float) -> Tensor:
    """c(p): the expected gradient of standardised 0/1 rewards is c(p) grad p. A group with k of `size` successes has
    deviation s = sqrt(k (size - k) / (size (size - 1))) and gives k (size - k) / (size^2 (s + eps)) (1/p + 1/(1-p))."""
    total = torch.zeros_like(p)
    for k in range(1, size):
        chance = math.comb(size, k) * p**k * (1 - p) ** (size - k)
        s = math.sqrt(k * (size - k) / (size * (size - 1)))
        total += chance * k * (size - k) / (size**2 * (s + epsilon)) * (1 / p + 1 / (1 - p))
    return total


def expected_slope(method: Method, mdp: TabularMDP, logits: Tensor) -> tuple[Tensor, bool]:
    """What the expected gradient is to be, and whether its length is known (else its direction only)."""
    begin = mdp.start_at[0]
    total, known = torch.zeros_like(logits), True
    for state in begin.nonzero()[:, 0].tolist():
        alone = replace(mdp, start_at=torch.eye(mdp.states)[state])
        share = begin[state]
        standard = standardises(method)
        if standard is not None:
            p = torch.tensor(oracles.expected_return(alone, logits.softmax(-1)))
            share = share * standard_scale(p, SIZE, standard.epsilon)
        elif any(isinstance(part, GroupCentred) for part in credits_of(method)):
            share = share * (SIZE - 1) / SIZE
        total += share * oracles.policy_gradient(alone, logits)
    (term, *others) = terms_of(method)
    if isinstance(term.average, (TokenMean, SequenceMean)) or isinstance(term.loss, GeometricSequenceSurrogate):
        total = total / LENGTH
    elif isinstance(term.average, SequenceSum):
        total = total / term.average.constant
    known = not others and isinstance(term.weight, float)
    return total * (term.weight if known else 1.0), known


def known_models(method: Method, mdp: TabularMDP, policy: Table) -> dict[str, Any]:
    """Policy, and critics that are right."""
    value, q = oracles.evaluate(mdp, policy.logits.detach().softmax(-1))
    models: dict[str, Any] = {"policy": policy}
    for name, spec in method.models.items():
        kind = type(spec).__name__
        if kind == "Critic":
            models[name] = TableCritic(mdp.states, torch.float64)
            models[name].values.data.copy_(value)
        elif kind == "QCritic":
            # A discriminator of a policy that is its own reference says 0 everywhere.
            models[name] = TableQ(q.expand(spec.heads, *q.shape) * (name != "discriminator"))
        elif kind == "Given":
            models[name] = Table(policy.logits.detach())
    return models


def found_slope(method: Method, mdp: TabularMDP, policy: Table, given: Enumerated) -> Tensor:
    """Minus the gradient of the policy loss, each enumerated row weighted by its (group's) probability: through the
    method's own reward, feedback, credit, selection, roles and losses."""
    made = settled(method)
    terms = [replace(term, weight=weighted(term, given)) for term in terms_of(made)]
    run = Run(known_models(made, mdp, policy), mdp, generate)
    stage = Stage(made, 10)
    run.enter(stage)
    ctx = StageContext(run, stage)
    judged = _judge(ctx)(given.rows)
    kept = collect_roles(ctx, made.selection.keep(ctx, made.credit(ctx, judged)))
    loss = sum(losses(ctx, kept, terms), torch.zeros(()))
    (slope,) = torch.autograd.grad(loss, policy.logits)
    return -slope


def weighted(term: Any, given: Enumerated) -> Any:
    """The term's weight times what makes its average over enumerated rows an expectation over groups."""
    grouped = given.rows.row["group"].unique(return_counts=True)[1].max()

    def weight(seen: Any, batch: Batch) -> Tensor:
        own = term.weight(seen, batch) if callable(term.weight) else term.weight
        chance = len(batch) / grouped * given.probability[batch.row["_number"]]
        return own * (chance if term.mask(seen, batch).dim() == 1 else chance[:, None])

    return weight


@pytest.mark.parametrize("key", VARIANTS)
def test_expected_gradient_is_the_exact_policy_gradient(key: str) -> None:
    method = load(key)
    reason = why_no_gradient(method)
    if reason:
        pytest.skip(reason)
    mdp, logits = tiny(binary=standardises(method) is not None), numbers(7, 2, seed=3)
    one = every_trajectory(mdp, Table(logits))
    given = every_group(one, SIZE) if compares_rows(method) else one
    close(given.probability.sum() / (SIZE if compares_rows(method) else 1), 1.0)
    found = found_slope(method, mdp, Table(logits), given)
    expected, known = expected_slope(method, mdp, logits)
    length = (found * expected).sum() / (expected * expected).sum()
    assert float(length) > 0, f"{key} goes down"
    close(found, length * expected, 1e-10, f"{key}: direction")
    if known:
        close(length, 1.0, 1e-9, f"{key}: length")


def compares_rows(method: Method) -> bool:
    """Its credit looks at the other rows of a group."""
    return any(type(part).__module__ == GroupCentred.__module__ for part in credits_of(method))


def test_the_enumeration_is_complete() -> None:
    """Probabilities of trajectories sum to 1, those of groups count each group once, and E[R] is the oracle's."""
    mdp, policy = tiny(), Table(numbers(7, 2, seed=3))
    one = every_trajectory(mdp, policy)
    assert len(one.rows) == 2 * 2 * 2 * 2
    close(one.probability.sum(), 1.0)
    exact = oracles.expected_return(mdp, policy.logits.detach().softmax(-1))
    close((one.probability * mdp.grade(one.rows).sum(1)).sum(), exact)
    three = every_group(one, 3)
    close(three.probability.sum() / 3, 1.0)
    close((three.probability * mdp.grade(three.rows).sum(1)).sum() / 3, exact)


# -- convergence -----------------------------------------------------------------------------------------------------
@dataclass(frozen=True)
class Course:
    """How a method is run to the optimum: what it learns from, how far it is to come (as a share of the way from the
    first policy to `goal`), and how many rounds it has."""

    share: float = 0.9
    rounds: int = 60
    changes: dict[str, Any] = field(default_factory=dict)


WORLD = chain(4, slip=0.1, horizon=6)
BEST, RULE = oracles.finite_optimum(WORLD)
GUIDE = 0.9 * RULE[0] + 0.05  # the best first step (always right), one in ten replaced by any


COURSES = {
    "orpo_sequences": Course(changes={"reward.coefficient": 0.001}),  # the optimum that is known is that without charge
    "suboptimal_onpolicy": Course(share=0.6, rounds=100),  # as DPO: the best of a group is also the luckiest
}
"""Methods, by their own key, that need a course of their own."""


def course(method: Method) -> Course:
    if method.key in COURSES:
        return COURSES[method.key]
    return Course(share=0.6, rounds=100) if type(terms_of(method)[0].loss) is PairLogistic else Course()


def prepared(method: Method) -> Method:
    """Small rounds and learning rates for a table."""
    rates = [o.key for o in options(method) if o.path[-1] == "learning_rate" and "optimizers" in o.path]
    changes: dict[str, Any] = dict.fromkeys(rates, 0.1)
    changes["selection.count"] = 8 if hasattr(method.sampling, "size") else 64
    if hasattr(method.sampling, "size"):
        changes["sampling.size"] = 8
    return override(method, changes | course(method).changes)


@pytest.mark.parametrize("key", VARIANTS)
def test_it_reaches_the_known_optimum(key: str) -> None:
    method = load(key)
    if "tabular" not in method.about.policies or own_parts(method):
        pytest.skip(own_parts(method) or f"it is for {', '.join(method.about.policies)}")
    course_of = course(method)
    models: dict[str, Any] = {"policy": Table(torch.zeros(4, 2))}
    if "teacher" in method.models:
        models["teacher"] = Table(GUIDE.log())
    recorded = NegativeLogLikelihood in {type(t.loss) for t in method.objective}
    world = RecordedEpisodes(WORLD, GUIDE if recorded else torch.full((4, 2), 0.5), 512)
    first = oracles.expected_return(WORLD, torch.full((4, 2), 0.5))
    goal = oracles.expected_return(WORLD, GUIDE) if recorded or "teacher" in models else BEST
    run, value = Run(models, world, generate, 1), first
    for _ in rounds(run, Program((Stage(prepared(method), course_of.rounds),))):
        value = oracles.expected_return(WORLD, models["policy"].logits.detach().softmax(-1))
        if (value - first) / (goal - first) >= course_of.share:
            return
    pytest.fail(f"{key} came from {first:.3f} to {value:.3f}; {goal:.3f} is to be had")
