"""DPPO: `reduces_to` of specification 67, each identity a test."""

import math
import runpy
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from chains import flat
from policyopt.compose import CompositionError, Program, Stage
from policyopt.credit.denoising import OverDenoising
from policyopt.engines.plain import generate
from policyopt.methods import load
from policyopt.objective.advantages import StandardisedAdvantages
from policyopt.objective.clipping import ClipByNoise
from policyopt.objective.surrogates import ClippedSurrogate
from policyopt.policies.chains import diffusion
from policyopt.policies.denoisers import Conditions, VectorDenoiser, partly_frozen
from policyopt.policies.denoising import Denoiser
from policyopt.policies.transitions import ClampedAverage
from policyopt.run import Run, StageContext
from policyopt.seen import SeenBatch
from policyopt.selection.tasks import Selection
from policyopt.train import rounds
from policyopt.types import StepKind
from policyopt.update.gradient import GradientSteps
from policyopt.update.optimizers import SGD
from policyopt.worlds.denoising import Trainable
from policyopt.worlds.points import RoundDisc
from policyopt.worlds.two_clocks import TwoClockWorld
from support import close, context, grids, method, ragged

pytestmark = pytest.mark.usefixtures("float64")


def setting(steps: int = 4, trained: int | None = None, limit: int = 3):
    """A diffusion policy of `steps` transitions, of which the last `trained` are trained, and its world."""
    chain = diffusion(steps, density=ClampedAverage(-50.0, 50.0), min_std=0.1, noise_clip=3.0)
    network = VectorDenoiser(2, Conditions(features=2), width=8, depth=2, time_scale=steps, seed=1).double()
    trained = steps if trained is None else trained
    policy = Denoiser(partly_frozen(network, chain.levels.time, trained), chain, condition="_obs").double()
    inner = RoundDisc(limit=limit, size=64)
    return policy, TwoClockWorld(inner, chain.std, 2, trainable=Trainable(last=trained))


def surrogate(least: float, most: float, count: int, end: int) -> StandardisedAdvantages:
    clip = ClipByNoise(least, most, count=count, end=end)
    return StandardisedAdvantages(ClippedSurrogate(clip, clip))


def small(steps: int = 4, trained: int | None = None, gamma: float = 0.9, least: float = 0.1, most: float = 0.1):
    made = load("dppo")
    loss = surrogate(least, most, steps if trained is None else trained, steps)
    return replace(
        made,
        selection=Selection(6),
        credit=replace(made.credit, gamma=gamma),
        objective=(replace(made.objective[0], loss=loss), made.objective[1]),
        update=GradientSteps({"policy": SGD(1.0), "critic": SGD(1.0)}, clip_norm=None, unit="step"),
    )


def played(made, policy, world, seed: int = 0):
    """One round: (change of the policy, the round)."""
    trained = [p for p in policy.parameters() if p.requires_grad]
    before = flat(trained)
    done = next(rounds(Run({"policy": policy}, world, generate, seed), Program((Stage(made, 1),))))
    return before - flat(trained), done


def by_loops(policy, world, batch, gamma: float, low: float = 0.0, high: float = 1.0):
    """(row, step) -> A_ti: GAE over environment steps, repeated over denoising steps, standardised over trained pairs,
    clamped to quantiles and only then discounted. Environment steps are told apart by `clock_environment`."""
    found, places = [], []
    values = batch.step["value"]
    for b in range(len(batch)):
        ends = [t for t in range(batch.steps) if batch.own[b, t] and int(batch.step["_clock"][b, t]) == world.chain - 1]
        rewards, worth = batch.step["reward"][b, ends].tolist(), values[b, ends].tolist()
        after = float(batch.step["return"][b, ends[-1]] - batch.step["reward"][b, ends[-1]]) / 0.99
        trace, advantage = 0.0, [0.0] * len(ends)
        for n in reversed(range(len(ends))):
            following = worth[n + 1] if n + 1 < len(ends) else after
            trace = rewards[n] + 0.99 * following - worth[n] + 0.99 * 0.95 * trace
            advantage[n] = trace
        for t in batch.trained[b].nonzero()[:, 0].tolist():
            found.append(advantage[int(batch.step["clock_environment"][b, t])])
            places.append((b, t))
    x = torch.tensor(found)
    x = (x - x.mean()) / (x.std() + 1e-8)
    x = x.clamp(torch.quantile(x, low), torch.quantile(x, high))
    clock = torch.tensor([int(batch.step["_clock"][b, t]) for b, t in places])
    return x * gamma ** (world.chain - 1 - clock), places


def test_at_the_old_policy_it_is_reinforce_of_the_chain() -> None:
    """-mean_ti A_ti grad log p, A_ti = gamma_den^(K' - 1 - i) A_t."""
    policy, world = setting(4, 2)
    change, done = played(small(4, 2), policy, world)
    fresh, _ = setting(4, 2)
    a, places = by_loops(fresh, world, done.credited, 0.9)
    logp = fresh.score(done.credited).logp
    value = -torch.stack([a[n] * logp[b, t] for n, (b, t) in enumerate(places)]).mean()
    trained = [p for p in fresh.parameters() if p.requires_grad]
    expected = torch.cat([g.flatten() for g in torch.autograd.grad(value, trained)])
    assert float(expected.abs().max()) > 1e-3
    close(change, expected, atol=1e-6)


def test_one_denoising_step_is_gaussian_ppo() -> None:
    """K = K' = 1, on tensors off the old policy: the ordinary clipped loss of environment steps."""
    policy, world = setting(1)
    made = small(1)
    _, done = played(made, policy, world)
    batch = done.kept
    a, places = by_loops(policy, world, batch, 0.9)
    now, old = policy.score(batch).logp.detach(), batch.scores["old"].logp
    ratio = torch.stack([(now - old)[b, t].exp() for b, t in places])
    expected = torch.maximum(-a * ratio, -a * ratio.clamp(0.9, 1.1))
    assert float((ratio - 1).abs().max()) > 1e-2
    pairs = batch.flat()
    pairs = pairs[pairs.trained[:, 0]]
    seen = SeenBatch(StageContext(Run({"policy": policy}, world, generate, 0), Stage(made, 1)), pairs)
    loss = made.objective[0].loss
    close(loss(seen, loss.plan(seen, pairs))[:, 0], expected, atol=1e-9)
    close(ClippedSurrogate(0.1, 0.1)(seen, pairs.with_steps({"advantage": a[:, None]}))[:, 0], expected, atol=1e-9)


def test_without_discount_and_with_one_clip_range_it_is_flat_ppo() -> None:
    """gamma_den = 1, c_base = c_max: PPO over T K' steps with the advantage repeated; the order of steps is nothing."""
    policy, world = setting(4, 3)
    change, done = played(small(4, 3, gamma=1.0), policy, world)
    a = done.credited.step["advantage"]
    for b in range(len(done.credited)):
        for n in done.credited.step["clock_environment"][b].unique().tolist():
            chain = done.credited.own[b] & (done.credited.step["clock_environment"][b] == n)
            close(a[b][chain], a[b][chain][:1].expand(int(chain.sum())))
    made = small(4, 3, gamma=1.0)
    flat_ppo = replace(made, credit=replace(made.credit, applied=True))
    again, world = setting(4, 3)
    close(played(flat_ppo, again, world)[0], change)


def test_the_clip_range_grows_towards_the_last_step() -> None:
    clip = ClipByNoise(0.01, 0.2, rate=3.0, count=5, end=9)
    policy, world = setting(9, 5, 1)
    _, done = played(small(9, 5), policy, world)
    found = clip(done.kept)[0, 5:]
    expected = [0.01 + 0.19 * (math.exp(3 * i / 4) - 1) / (math.exp(3) - 1) for i in range(5)]
    close(found, torch.tensor(expected))


def test_quantiles_come_before_the_discount() -> None:
    policy, world = setting(4, 2)
    made = small(4, 2)
    loss = replace(made.objective[0].loss, low=0.2, high=0.7)
    change, done = played(
        replace(made, objective=(replace(made.objective[0], loss=loss), made.objective[1])), policy, world
    )
    fresh, _ = setting(4, 2)
    a, places = by_loops(fresh, world, done.credited, 0.9, 0.2, 0.7)
    logp = fresh.score(done.credited).logp
    value = -torch.stack([a[n] * logp[b, t] for n, (b, t) in enumerate(places)]).mean()
    trained = [p for p in fresh.parameters() if p.requires_grad]
    close(change, torch.cat([g.flatten() for g in torch.autograd.grad(value, trained)]), atol=1e-6)


def test_the_frozen_part_stays_and_has_no_credit_of_its_own() -> None:
    policy, world = setting(4, 2)
    early = flat(policy.network.early.parameters())
    _, done = played(small(4, 2), policy, world)
    assert torch.equal(early, flat(policy.network.early.parameters()))
    trained = done.kept.trained & done.kept.own
    assert set(done.kept.step["_clock"][trained].tolist()) == {3, 4}


def test_rewards_and_values_are_the_environments() -> None:
    """Credit of chains equals credit of the environment's own steps, wherever rows end."""
    policy, world = setting(3, 3, 5)
    _, done = played(small(3, 3), policy, world)
    batch = done.credited
    ends = batch.own & (batch.step["_clock"] == 3)
    short = batch.with_steps({"kind": torch.where(ends, int(StepKind.OWN), int(StepKind.TOOL)).to(torch.uint8)})
    assert short.lengths.tolist() == (batch.lengths / 4).long().tolist()
    made = small(3, 3)
    assert isinstance(made.credit, OverDenoising)
    a, g = batch.step["advantage"], batch.step["return"]
    close(g[ends], (a + batch.step["value"])[ends])
    discount = batch.step["discount"][0, :4]
    close(discount, 0.9 ** torch.tensor([3.0, 2.0, 1.0, 0.0]))


def test_other_policies_are_refused() -> None:
    with pytest.raises(CompositionError, match="clock_denoise"):
        OverDenoising()(context(method(), grids()), ragged())


def test_the_example_on_pendulum_runs(capsys) -> None:
    example = runpy.run_path(str(Path(__file__).parents[2] / "examples" / "diffusion_policy.py"))
    torch.set_default_dtype(torch.float32)
    try:
        shown, before, after = example["main"](1, episodes=1, cloning=2)
    finally:
        torch.set_default_dtype(torch.float64)
    assert all(-2000 < found < 0 for found in (shown, before, after))
    assert before != after
    assert "tuned" in capsys.readouterr().out
