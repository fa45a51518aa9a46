"""Learning from rewards of samples: rectified flows in the plane, tuned by policy gradients over their chains."""

from __future__ import annotations

import copy
import functools
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from policyopt.compose import Method, Program, Stage
from policyopt.evaluation.experiments._common import CountingEngine, Outcome, numbers
from policyopt.evaluation.experiments._denoising import CENTRES, eight_gaussians_flow, off_ring, sampled, share_of_modes
from policyopt.methods.flow_matching import flow_matching
from policyopt.ops.masked import masked_sum
from policyopt.ops.sequences import total_reward
from policyopt.policies.chains import NoiseChain, diffusion, flow, heun_flow
from policyopt.policies.denoisers import Conditions, VectorDenoiser, partly_frozen
from policyopt.policies.denoising import Denoiser
from policyopt.policies.prior import only_prior
from policyopt.policies.transitions import ClampedAverage, Summed
from policyopt.reward.digits import expected_digit
from policyopt.run import Run
from policyopt.train import rounds as train_rounds
from policyopt.types import Batch, Finish, Round
from policyopt.worlds.denoising import DenoisingWorld, Trainable
from policyopt.worlds.drawings import near_mode, nearest_mode, on_mode
from policyopt.worlds.points import RoundDisc
from policyopt.worlds.two_clocks import TwoClockWorld

PROMPTS, SHOWN = 8, 512


def chain_divergence(policy: Any, base: Any, batch: Batch) -> float:
    """KL(policy || base) of the chains that the policy drew, in nats: the mean over rows of the sum over a row's
    stochastic steps. It bounds the divergence of the finished samples from above. Deterministic steps have none."""
    with torch.no_grad():
        ours, theirs = (replace(model.at(batch), density=Summed()) for model in (policy, base))
        return float(masked_sum(ours.kl(theirs), batch.own).mean())


def network_calls(batch: Batch) -> int:
    """Evaluations of the network that sampling the rows took: a stem is made once per group."""
    asked = batch.own & (batch.step["clock_denoise"] > 0)
    if "stem" not in batch.row:
        return int(asked.sum())
    stems = sum(int(batch.row["stem"][batch.row["group"] == g][0]) - 1 for g in batch.row["group"].unique())
    return stems + int((batch.lengths - batch.row["stem"].clamp(min=1)).sum())


@dataclass(frozen=True)
class Tuned:
    """A finished run, with the base model it began at."""

    policy: Any
    base: Any
    rows: int
    calls: int
    curve: tuple[float, ...]
    world: Any

    def samples(self, seed: int) -> Batch:
        return sampled(self.policy, SHOWN, seed, self.world)

    def notes(self, batch: Batch) -> dict[str, float]:
        """How far the tuned model has gone."""
        points = batch.row["_latent"]
        return {
            "KL(tuned || base) along the chains (nats)": chain_divergence(self.policy, self.base, batch),
            "mean distance to the nearest mode": off_ring(points),
            "modes with at least 2 percent of the samples": float((share_of_modes(points) >= 0.02).sum()),
            "network calls in sampling": float(self.calls),
        }


def _tune(method: Method, policy: Any, world: Any, rounds: int, seed: int) -> Tuned:
    """Run the real loop. Rows are finished samples."""
    base = copy.deepcopy(policy)
    run = Run({"policy": policy}, world, CountingEngine(), seed)
    rows = calls = 0
    curve = []
    done: Round
    for done in train_rounds(run, Program((Stage(method, rounds),))):
        rows += len(done.judged)
        calls += network_calls(done.judged)
        curve.append(done.metrics["reward"])
    return Tuned(policy, base, rows, calls, tuple(curve), world)


def _tuned_flow(
    method: Method, seed: int, rounds: int, reward: Callable[..., Any], steps: int = 16, eta: float = 0.7
) -> Tuned:
    """The flow on eight Gaussians, sampled as an SDE."""
    chain = flow(steps, eta)
    return _tune(method, eight_gaussians_flow(seed, chain), DenoisingWorld(chain.std, 2, PROMPTS, reward), rounds, seed)


def _mean_reward(done: Tuned, seed: int) -> Outcome:
    batch = done.samples(seed)
    value = float(done.world.grade(batch).mean())
    return Outcome(value, value, done.rows, done.curve, "mean reward of a round's samples", done.notes(batch))


def flow_to_one_mode(method: Method, seed: int, rounds: int) -> Outcome:
    """8 Gaussians on a ring of radius 2, SDE of 16 steps (eta 0.7), reward exp(-squared distance to one mode); 8
    prompts that all mean the same.

    value: mean reward of 512 samples after training.
    """
    return _mean_reward(_tuned_flow(method, seed, rounds, near_mode(0, CENTRES)), seed)


def flow_to_a_detail(method: Method, seed: int, rounds: int) -> Outcome:
    """8 Gaussians (std 0.15), SDE of 20 steps (eta 0.7); the reward looks at the place inside the mode only, which the
    last steps decide: exp(-|x - centre - (0.2, 0)|^2 / (2 0.15^2)).

    value: mean reward of 512 samples after training.
    """

    def reward(points: Tensor, task: Tensor) -> Tensor:
        inside = points - CENTRES[nearest_mode(points, CENTRES)[0]]
        return (-((inside - inside.new_tensor([0.2, 0.0])) ** 2).sum(1) / (2 * 0.15**2)).exp()

    return _mean_reward(_tuned_flow(method, seed, rounds, reward, 20), seed)


def two_rewards(method: Method, seed: int, rounds: int) -> Outcome:
    """8 Gaussians, SDE of 16 steps (eta 0.3); "first" = 100 exp(-(x - 2^0.5)^2) and "second" = exp(-(y - 2^0.5)^2):
    only the mode at 45 degrees has both.

    value: the smaller of the means of first / 100 and of second over 512 samples after training.
    """

    def near(points: Tensor) -> Tensor:
        return (-((points - 2**0.5) ** 2)).exp()

    def rewards(points: Tensor, task: Tensor) -> dict[str, Tensor]:
        right, up = near(points).unbind(1)
        return {"first": 100 * right, "second": up}

    done = _tuned_flow(method, seed, rounds, rewards, eta=0.3)
    batch = done.samples(seed)
    right, up = near(batch.row["_latent"]).mean(0).tolist()
    notes = {"mean of the large reward / 100": right, "mean of the small reward": up, **done.notes(batch)}
    curve = done.curve
    return Outcome(min(right, up), min(right, up), done.rows, curve, "sum of a round's rewards", notes)


def flow_by_its_noise(method: Method, seed: int, rounds: int, *, whole: bool = False) -> Outcome:
    """8 Gaussians, reward exp(-squared distance to one mode). The network is frozen and only the initial noise of its
    ODE is learned, or (whole) the network is tuned over the SDE of 16 steps (eta 0.7).

    value: share of 512 samples within 0.5 of the mode after training.
    """
    network = eight_gaussians_flow(seed, flow(16, 0.0)).network
    policy = Denoiser(network, flow(16, 0.7)) if whole else only_prior(network, flow(16, 0.0))
    trainable = Trainable() if whole else Trainable(prior=True)
    before = [p.detach().clone() for p in network.parameters()]
    world = DenoisingWorld(policy.chain.std, 2, PROMPTS, near_mode(0, CENTRES), trainable=trainable)
    done = _tune(method, policy, world, rounds, seed)
    points = done.samples(seed).row["_latent"]
    value = float(on_mode(0, CENTRES)(points, points).mean())
    same = all(torch.equal(a, b) for a, b in zip(before, network.parameters(), strict=True))
    notes = {
        "mean distance to the nearest mode": off_ring(points),
        "network calls in sampling": float(done.calls),
        "network unchanged (1 yes)": float(same),
    }
    return Outcome(value, value, done.rows, done.curve, "mean reward of a round's samples", notes)


def judged_by_digits(reward: Tensor) -> Tensor:
    """What a judge makes of rewards in 0..1 (B,): logits of the digits 0 to 5, peaked at 5 R, and the digit expected of
    them, again in 0..1."""
    digits = torch.arange(6, dtype=reward.dtype)
    return expected_digit(-4 * (digits - 5 * reward[:, None]) ** 2)


def flow_by_its_forward_process(method: Method, seed: int, rounds: int) -> Outcome:
    """8 Gaussians, 16 prompts that all mean the same, 6 Heun steps, reward exp(-squared distance to one mode / 2) read
    from a judge's digits.

    value: mean reward (not the judge's) of 512 samples after training.
    """
    wanted = near_mode(0, CENTRES, 0.5)

    def reward(points: Tensor, task: Tensor) -> Tensor:
        return judged_by_digits(wanted(points, task))

    chain = heun_flow(6)
    world = DenoisingWorld(chain.std, 2, 16, reward)
    done = _tune(method, eight_gaussians_flow(seed, chain), world, rounds, seed)
    points = done.samples(seed).row["_latent"]
    value = float(wanted(points, points).mean())
    notes = {"mean distance to the nearest mode": off_ring(points), "network calls in sampling": float(done.calls)}
    return Outcome(value, value, done.rows, done.curve, "mean judged reward of a round's samples", notes)


TWO = torch.tensor([[-1.5, 0.0], [1.5, 0.0]])


@functools.lru_cache(maxsize=16)
def _two_modes(seed: int, steps: int) -> Any:
    """A noise network for an equal mixture of two Gaussians (std 0.3)."""
    rng = numbers(seed, "two modes")
    samples = TWO[torch.randint(2, (4096,), generator=rng)] + 0.3 * torch.randn(4096, 2, generator=rng)
    chain = diffusion(steps)
    network = VectorDenoiser(2, width=64, time_scale=steps, seed=seed)
    world = DenoisingWorld(chain.std, 2, len(samples), samples=samples)
    run = Run({"policy": Denoiser(network, chain)}, world, CountingEngine(), seed)
    for _ in train_rounds(run, Program((Stage(flow_matching, 500),))):
        pass
    return network


def two_modes_one_wins(method: Method, seed: int, rounds: int) -> Outcome:
    """A diffusion model of 20 steps with modes at (-1.5, 0) and (1.5, 0), std 0.3; recorded winners are of the second.

    value: share of 512 samples within 1 of the winning centre after training.
    """
    chain = diffusion(20)
    winners = TWO[1] + 0.3 * torch.randn(1024, 2, generator=numbers(seed, "winners"))
    world = DenoisingWorld(chain.std, 2, len(winners), samples=winners)
    policy = Denoiser(copy.deepcopy(_two_modes(seed, 20)), chain)
    run, rows, curve = Run({"policy": policy}, world, CountingEngine(), seed), 0, []
    for number, done in enumerate(train_rounds(run, Program((Stage(method, rounds),)))):
        rows += len(done.judged)
        if number % 10 == 9:
            curve.append(_share_near(policy, seed, 128))
    points = sampled(policy, SHOWN, seed).row["_latent"]
    near = (points - TWO[1]).norm(dim=1) < 1
    notes = {
        "spread of samples in the winning mode (0.3 in the data)": float(points[near].std(0).mean())
        if near.any()
        else 0.0,
        "share of samples near neither mode": float((nearest_mode(points, TWO)[1] > 1).float().mean()),
    }
    value = float(near.float().mean())
    return Outcome(value, value, rows, tuple(curve), "share of samples in the winning mode, every 10 rounds", notes)


def _share_near(policy: Any, seed: int, count: int) -> float:
    points = sampled(policy, count, seed).row["_latent"]
    return float(((points - TWO[1]).norm(dim=1) < 1).float().mean())


# -- control ---------------------------------------------------------------------------------------------------------
@functools.lru_cache(maxsize=16)
def _cloned(seed: int, steps: int) -> Any:
    """A noise network that clones noisy, slow demonstrations of both ways round the disc."""
    seen, taken = RoundDisc().demonstrations(256, numbers(seed, "demonstrations"))
    chain = _robot_chain(steps)
    network = VectorDenoiser(2, Conditions(features=2), width=64, time_scale=steps, seed=seed)
    world = DenoisingWorld(chain.std, 2, len(seen), conditions=seen, samples=taken)
    run = Run({"policy": Denoiser(network, chain)}, world, CountingEngine(), seed)
    for _ in train_rounds(run, Program((Stage(flow_matching, 800),))):
        pass
    return network


def _robot_chain(steps: int) -> NoiseChain:
    """DPPO's conventions: least std 0.1, densities clamped and averaged, noise clipped, x_0 clipped."""
    return diffusion(steps, density=ClampedAverage(), min_std=0.1, noise_clip=3.0, clip_clean=1.0)


def cloned_round_a_disc(method: Method, seed: int, rounds: int, steps: int = 10, trained: int = 5) -> Outcome:
    """A point passes a disc to a goal in 16 steps; reward -distance, -1 at the disc. A diffusion policy of 10 steps,
    cloned from 256 slow and noisy demonstrations of both ways, is tuned in its last 5.

    value: mean return of 256 episodes after training.
    """
    chain, inner = _robot_chain(steps), RoundDisc()
    network = partly_frozen(copy.deepcopy(_cloned(seed, steps)), chain.levels.time, trained)
    policy = Denoiser(network, chain, condition="_obs")
    world = TwoClockWorld(inner, chain.std, 2, trainable=Trainable(last=trained))
    done = _tune(method, policy, world, rounds, seed)
    batch = sampled(policy, 256, seed, world)
    value = float(total_reward(batch).mean())
    sides = inner.sides(world.seen_by_environment(batch))
    notes = {
        "share that passes above": float((sides > 0).float().mean()),
        "share that passes below": float((sides < 0).float().mean()),
        "share that reaches the goal": float((batch.row["finish"] == Finish.STOPPED).float().mean()),
    }
    return Outcome(value, value, done.rows, done.curve, "mean return of a round's episodes", notes)
