"""On-policy updates on processes and strings with exact answers: baselines, directions, proximal problems, batches."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from policyopt.compose import Chain, Method
from policyopt.credit.running import RunningStandardised
from policyopt.evaluation.experiments._common import Fit, Outcome, fit, probabilities, random_table, uniform_table
from policyopt.evaluation.experiments._common import numbers as stream
from policyopt.evaluation.experiments._worlds import share_right, strings_with_target, target_probability
from policyopt.policies.linear import Linear
from policyopt.run import Run
from policyopt.types import Round
from policyopt.update.averages import CorrectedAverage
from policyopt.worlds.oracles import expected_return, finite_optimum, optimum
from policyopt.worlds.sequences import SequenceWorld
from policyopt.worlds.tables import TabularMDP, garnet


def _best(mdp: TabularMDP) -> float:
    if mdp.horizon is not None and not mdp.cut:
        return finite_optimum(mdp)[0]
    return expected_return(mdp, optimum(mdp)[2])


def _attained(mdp: TabularMDP, first: Tensor) -> Callable[[Tensor], float]:
    """Where a policy's J stands between that of the first policy (0) and the best (1)."""
    low, high = expected_return(mdp, first.double()), _best(mdp)
    return lambda policy: (expected_return(mdp, policy.double()) - low) / (high - low)


def random_process(method: Method, seed: int, rounds: int) -> Outcome:
    """A random process of 12 states and 4 actions whose episodes last 10 steps, undiscounted; states differ in value.

    value: (J - J of the uniform policy) / (best J - J of the uniform policy) after training, exact; the best policy
    may depend on the time, which the table can not.
    """
    mdp = replace(garnet(12, 4, 3, stream(seed, "random process"), gamma=1.0, horizon=10), cut=False, seed=seed)
    share = _attained(mdp, torch.full((12, 4), 0.25))
    done = fit(method, mdp, {"policy": uniform_table(12, 4)}, rounds, seed, lambda run, _: share(probabilities(run)))
    return done.outcome("share of the attainable return")


def badly_scaled_features(method: Method, seed: int, rounds: int, condition: float = 30.0) -> Outcome:
    """A random process of 10 states and 3 actions (discount 0.9, rows of 20 steps), a linear softmax policy over 10
    features: a random rotation of the states whose directions are scaled from 1 down to 1 / condition.

    value: (J - J of the first policy) / (best J - J of the first policy) after training, exact.
    """
    rng = stream(seed, "badly scaled features")
    mdp = replace(garnet(10, 3, 3, rng, gamma=0.9, horizon=20), seed=seed)
    left, right = (torch.linalg.qr(torch.randn(10, 10, generator=rng, dtype=torch.float64))[0] for _ in range(2))
    scale = torch.logspace(0, -math.log10(condition), 10, dtype=torch.float64)
    features = (left * scale) @ right
    share = _attained(mdp, torch.full((10, 3), 1 / 3))

    policy = Linear(features.float(), torch.zeros(10, 3))
    kept: list[float] = []

    def watch(run: Run, done: Round) -> float:
        kept.append(done.metrics.get("trust_region/kl", 0.0))
        return share(probabilities(run))

    done = fit(method, mdp, {"policy": policy}, rounds, seed, watch)
    notes = {"largest divergence of an accepted step": max(kept)}
    return done.outcome("share of the attainable return", notes)


def proximal_problems(method: Method, seed: int, rounds: int) -> Outcome:
    """A random process of 8 states and 3 actions (discount 0.9, rows of 20 steps), a softmax table. Every round's loss
    -mean r A + mean KL(pi || old) / t has the solution pi = old exp(t A(s, a)) / Z, A(s, a) the mean over the rows'
    visits to s of the advantages of a, each over its probability.

    value: share of the decrease from old to that solution that the round's updates reach, mean over rounds.
    """
    mdp = replace(garnet(8, 3, 3, stream(seed, "proximal problems"), gamma=0.9, horizon=20), seed=seed)
    start = random_table(8, 3, 0.1, seed, "policy")
    attained = _attained(mdp, start.logits.detach().softmax(-1))
    before = start.logits.detach().double().log_softmax(-1)
    returns: list[float] = []

    def reached(run: Run, done: Round) -> float:
        nonlocal before
        now = probabilities(run).double().log()
        step = 1 - len(returns) / rounds
        state, choice = (done.kept.step[name][done.kept.own] for name in ("_state", "_step"))
        advantage = done.kept.step["advantage"][done.kept.own].double()
        visits = torch.zeros(8).double().index_add(0, state, torch.ones_like(advantage))
        gain = torch.zeros(8, 3).double().index_put((state, choice), advantage, accumulate=True)
        # gain / (visits pi_old) is the estimate A(s, a); unvisited states have no part in the loss.
        estimate = gain / before.exp() / visits.clamp(min=1)[:, None]

        def loss(logp: Tensor) -> Tensor:
            linear = ((logp - before).exp() * gain).sum()
            return (-linear + ((logp.exp() * (logp - before)).sum(1) * visits).sum() / step) / visits.sum()

        solution = (before + step * estimate).log_softmax(-1)
        share = float((loss(before) - loss(now)) / (loss(before) - loss(solution)))
        before = now
        returns.append(attained(now.exp()))
        return share

    done = fit(method, mdp, {"policy": start}, rounds, seed, reached)
    share = sum(done.watched) / len(done.watched)
    notes = {"share of the attainable return after training": returns[-1]}
    return done.outcome("share of the attainable decrease", notes, value=share)


def _quarter(method: Method, share: float = 0.25) -> Method:
    """The method on batches of a quarter: learning rates times its root, averages four times as old."""

    def older(decay: float) -> float:
        age = decay / (1 - decay) / share
        return age / (1 + age)

    update: Any = method.update
    rates = {
        name: replace(spec, learning_rate=spec.learning_rate * math.sqrt(share))
        for name, spec in update.optimizers.items()
    }
    hooks = tuple(
        replace(hook, decay=older(hook.decay)) if isinstance(hook, CorrectedAverage) else hook
        for hook in update.after_step
    )
    credit = method.credit
    if isinstance(credit, Chain):
        parts = (replace(p, decay=older(p.decay)) if isinstance(p, RunningStandardised) else p for p in credit.parts)
        credit = Chain(tuple(parts))
    return replace(
        method,
        selection=replace(method.selection, count=round(method.selection.count * share)),
        update=replace(update, optimizers=rates, after_step=hooks),
        credit=credit,
    )


def two_batch_sizes(method: Method, seed: int, rounds: int) -> Outcome:
    """4 tasks, strings of 4 of 6 symbols, reward = share of right symbols. The method runs twice: as it is, and on
    batches of a quarter for four times the rounds with the published adjustments (learning rate halved, mean ages of
    averages times four where the method has them).

    value: mean over rounds of the gap between the two curves at equal numbers of rows.
    """
    target = strings_with_target(4, 6, 4, stream(seed, "two batch sizes"))

    def run(method: Method, rounds: int) -> Fit:
        world = SequenceWorld(4, 6, 4, share_right(target))

        def share(run: Run, done: Round) -> float:
            return float(target_probability(probabilities(run), target).mean())

        return fit(method, world, {"policy": uniform_table(world.states, 6)}, rounds, seed, share)

    large, small = run(method, rounds), run(_quarter(method), 4 * rounds)
    gaps = tuple(abs(a - b) for a, b in zip(large.watched, small.watched[3::4], strict=True))
    means = [sum(curve) / len(curve) for curve in (large.watched, small.watched)]
    notes = {"mean share right, whole batch": means[0], "mean share right, a quarter": means[1]}
    return Outcome(
        sum(gaps) / len(gaps), sum(means) / 2, large.rows + small.rows, gaps, "gap between the two curves", notes
    )


def surrogate_variance(method: Method, seed: int, rounds: int) -> Outcome:
    """4 tasks, strings of 4 of 6 symbols, reward = share of right symbols, several epochs on every batch.

    value: variance of r A over all samples of an update, mean over updates. score: expected share of right symbols.
    """
    target = strings_with_target(4, 6, 4, stream(seed, "surrogate variance"))
    world = SequenceWorld(4, 6, 4, share_right(target))
    shares: list[float] = []

    def watch(run: Run, done: Round) -> float:
        shares.append(float(target_probability(probabilities(run), target).mean()))
        return done.metrics["policy/variance"]

    done = fit(method, world, {"policy": random_table(world.states, 6, 0.5, seed, "policy")}, rounds, seed, watch)
    notes = {"expected share of right symbols after training": shares[-1]}
    return done.outcome("variance of r A", notes, value=sum(done.watched) / len(done.watched), score=shares[-1])
