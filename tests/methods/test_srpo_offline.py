"""SRPO: value and gradient against loops, closed forms of Gaussian behaviour, and what the score is asked of."""

from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

import references_srpo as loops
from policyopt.compose import CompositionError
from policyopt.constraint import score
from policyopt.constraint.score import ScoreOfBehaviour
from policyopt.methods import load
from policyopt.objective.matching import StepDenoising
from policyopt.objective.pathwise import ValueOfMode
from policyopt.ops.random import generator
from policyopt.policies.bodies import MLP
from policyopt.policies.chains import diffusion, flow
from policyopt.policies.control import new_actor
from policyopt.policies.denoisers import Conditions, VectorDenoiser
from policyopt.policies.denoising import Denoiser
from policyopt.policies.paths import linear_betas
from policyopt.seen import SeenBatch
from policyopt.types import Batch
from references_srpo import GaussianNoise, LinearNoise
from references_values import DIMS, WEIGHT, Bowl, Pointed, composed, places, plain, stepped, transitions
from support import close, numbers

pytestmark = pytest.mark.usefixtures("float64")

MEAN = torch.tensor([0.3, -0.2], dtype=torch.float64)
COVARIANCE = torch.tensor([[0.04, 0.01], [0.01, 0.09]], dtype=torch.float64)


def points(purpose: str, batch: Batch, times: tuple[float, float]) -> tuple[list, list]:
    """What `plan` draws."""
    rng = generator(0, purpose, 0, 0)
    share = times[0] + (times[1] - times[0]) * torch.rand(batch.own.shape, generator=rng, dtype=torch.float64)
    return share.tolist(), torch.randn(*batch.own.shape, DIMS, generator=rng, dtype=torch.float64).tolist()


def weights(batch: Batch) -> list[float]:
    counts = batch.trained.sum(1)
    return [WEIGHT / max(int(n), 1) / int((counts > 0).sum()) for n in counts]


def check(ctx: Any, batch: Batch, value: float, slopes: dict[str, Tensor]) -> None:
    assert abs(value) > 1e-3
    for micro_rows in (None, 1, 3):
        ctx.run.tick()
        ctx.run.step = 0
        loss, gradient = stepped(ctx, batch, micro_rows)
        close(loss, value)
        for name, slope in slopes.items():
            assert float(slope.abs().max()) > 1e-3
            close(gradient[name], slope)


@pytest.mark.parametrize("weighting", ["variance", "one", "ratio"])
@pytest.mark.parametrize("centred", [False, True])
def test_score_equals_the_loops(weighting: Any, centred: bool) -> None:
    """In value and gradient, whatever the micro-batches; steps that are not trained on, and padding, leave no trace."""
    batch, models = transitions(), {"policy": Pointed(1), "diffusion": LinearNoise(4)}
    times = (0.1, 0.7)
    ctx = composed(ScoreOfBehaviour("diffusion", weighting, centred, times), "policy", models)
    value, slope = 0.0, torch.zeros_like(models["policy"].mean.detach())
    share, noise = points("score of behaviour", batch, times)
    policy, model = plain(models["policy"]), plain(models["diffusion"])
    for b, t, s, _, _ in places(batch):
        one, by_mean = loops.score_of_behaviour(policy, model, s, share[b][t], noise[b][t], weighting, centred)
        value += weights(batch)[b] * one
        slope[s] += weights(batch)[b] * torch.tensor(by_mean)
    check(ctx, batch, value, {"mean": slope})


def test_denoising_of_steps_equals_the_loops() -> None:
    batch, models = transitions(), {"policy": Pointed(1), "diffusion": LinearNoise(4)}
    ctx = composed(StepDenoising(), "diffusion", models)
    share, noise = points("step denoising", batch, (0.0, 1.0))
    model, value = plain(models["diffusion"]), 0.0
    slopes = {name: torch.zeros_like(p).detach() for name, p in models["diffusion"].named_parameters()}
    for b, t, s, _, _ in places(batch):
        step = batch.step["_action"][b, t].tolist()
        one, by_k, by_w = loops.step_denoising(model, s, step, share[b][t], noise[b][t])
        value += weights(batch)[b] * one
        slopes["k"][s] += weights(batch)[b] * torch.tensor(by_k)
        slopes["w"][s] += weights(batch)[b] * torch.tensor(by_w)
    check(ctx, batch, value, slopes)


# -- Gaussian behaviour -----------------------------------------------------------------------------------------------
def pull(mode: Tensor, time: float, part: ScoreOfBehaviour, noise: Tensor | None = None) -> Tensor:
    """(B, T, D) minus the direction in which the score moves modes, at one time. Without noise: its mean over noise,
    since a Gaussian's score is linear."""
    batch = transitions((1,) * len(mode))
    batch = batch.with_steps(
        {
            "_time": torch.full((len(mode), 1), time),
            "_noise": torch.zeros(len(mode), 1, DIMS) if noise is None else noise[:, None],
        }
    )
    batch.step["train"][:] = True

    class Fixed(Pointed):
        def at(self, batch: Batch, *, following: bool = False) -> Any:
            found = super().at(batch, following=following)
            return replace(found, mean=leaf[:, None])

    leaf = mode.clone().requires_grad_()
    models = {"policy": Fixed(1), "diffusion": GaussianNoise(MEAN, COVARIANCE)}
    ctx = composed(part, "policy", models)
    part(SeenBatch(ctx, batch), batch).sum().backward()
    assert leaf.grad is not None
    assert models["diffusion"].mean.grad is None  # frozen
    return leaf.grad


def test_fixed_point_of_gaussian_behaviour() -> None:
    """w = alpha / sigma and t -> 0: S^-1 (mu - m) = beta grad Q, here with Q = <g, a>."""
    slope, beta = torch.tensor([1.5, -0.7]), 0.3
    mode = MEAN + beta * COVARIANCE @ slope
    found = pull(mode[None], 1e-4, ScoreOfBehaviour(weighting="ratio"))[0]
    close(found, beta * slope, 1e-6)
    moved = mode[None] * 0
    for _ in range(300):
        moved = moved - 0.02 * (pull(moved, 1e-4, ScoreOfBehaviour(weighting="ratio")) - beta * slope)
    close(moved[0], mode, 1e-4)


@pytest.mark.parametrize("weighting", ["variance", "one", "ratio"])
def test_without_values_it_goes_to_the_mode(weighting: Any) -> None:
    """beta = 0: still at the mode and only there, whatever the noise level and the weighting."""
    part = ScoreOfBehaviour(weighting=weighting)
    for time in (0.1, 0.5, 0.9):
        close(pull(MEAN[None], time, part), torch.zeros(1, DIMS), 1e-10)
        away = numbers(5, DIMS, seed=3)
        assert bool(((pull(MEAN + away, time, part) * away).sum(1) > 0).all())


def test_centring_changes_the_spread_and_not_the_mean() -> None:
    """Less variance at much noise, more at little; exactly the same mean over antithetic noise."""
    mode, noise = numbers(400, DIMS, seed=1) * 0.1, numbers(400, DIMS, seed=2)
    plainly, centred = ScoreOfBehaviour(), ScoreOfBehaviour(centred=True)
    for time, less in ((0.9, True), (0.05, False)):
        found = {}
        for part in (plainly, centred):
            one, other = pull(mode, time, part, noise), pull(mode, time, part, -noise)
            close((one + other) / 2, pull(mode, time, part), 1e-10)
            found[part.centred] = float((one - (one + other) / 2).pow(2).sum())
        assert (found[True] < found[False]) == less


def test_a_bug_is_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    """The gradient through the model's answer, or a wrong sign of the weight's exponent, moves the fixed point."""
    monkeypatch.setattr(score.ScoreOfBehaviour, "_weight", lambda self, found: found.noise / found.signal)
    with pytest.raises(AssertionError):
        test_fixed_point_of_gaussian_behaviour()
    with pytest.raises(AssertionError):
        test_score_equals_the_loops("ratio", False)


# -- the models -------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("chain", [diffusion(5, betas=linear_betas(50)), flow(5)])
def test_a_denoiser_says_the_noise_in_steps(chain: Any) -> None:
    """Whatever its network predicts, given the observation before each step."""
    batch = transitions()
    batch = batch.with_rows({"_obs": numbers(4, 3, seed=1)}).with_steps({"_obs": numbers(4, batch.steps, 3, seed=2)})
    network = VectorDenoiser(DIMS, Conditions(features=3), width=8, depth=2, time_scale=50.0).double()
    model = Denoiser(network, chain, condition="_obs").double()
    share, noise = torch.full(batch.own.shape, 0.4), numbers(*batch.own.shape, DIMS, seed=5)
    found = model.renoised(batch, batch.step["_action"], share, noise)
    time = chain.path.training_time(torch.tensor([0.4]))
    a, b = (float(x) for x in chain.path.marginal(time))
    for row, t, _, _, _ in places(batch):
        x = a * batch.step["_action"][row, t] + b * noise[row, t]
        u = network(x[None], time, batch.step["_obs"][row, t][None])[0]
        # A flow's network says eps - x_0 of x = (1 - s) x_0 + s eps.
        expected = u if a**2 + b**2 > 0.999 else x + a * u
        close(found.said[row, t], expected, 1e-9)
    assert not bool(found.said[~batch.trained].any())


def test_actors_make_one_of_their_steps() -> None:
    from gymnasium import spaces

    box = spaces.Box(-1.0, 1.0, (2,))
    made = new_actor(spaces.Box(-1.0, 1.0, (3,)), box, head="deterministic", body=MLP((4,))).make_denoiser(
        torch.Generator().manual_seed(0)
    )
    assert (made.dims, made.condition, made.network.conditions.features) == (2, "_obs", 3)
    chooser = new_actor(spaces.Box(-1.0, 1.0, (3,)), spaces.Discrete(2), body=MLP((4,)))
    with pytest.raises(CompositionError, match="steps that are numbers"):
        chooser.make_denoiser(torch.Generator())


def test_models_that_can_not_are_refused() -> None:
    models = {"policy": Pointed(1), "diffusion": Bowl(3)}
    with pytest.raises(CompositionError, match="the noise in steps"):
        stepped(composed(ScoreOfBehaviour(), "policy", models), transitions())
    with pytest.raises(CompositionError, match="times rise"):
        ScoreOfBehaviour(times=(0.5, 0.5))


def test_published_settings() -> None:
    made = load("srpo_offline")
    part: Any = made.constraint[0].loss
    assert (part.weighting, part.centred, part.times) == ("variance", False, (0.02, 0.98))
    assert made.objective[:2] == load("iql").objective[:2]
    assert made.objective[3].loss == ValueOfMode("target", heads="mean")
    assert type(made.update.optimizers["policy"].schedule).__name__ == "Cosine"
