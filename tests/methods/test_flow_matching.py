"""Flow matching: regression on recorded samples."""

import pytest
import torch

from enumeration import first_step
from policyopt.compose import Program, Stage
from policyopt.engines.plain import generate
from policyopt.evaluation.experiments.regression import _energy_distance
from policyopt.methods import load
from policyopt.ops.random import generator
from policyopt.policies.chains import diffusion, flow
from policyopt.policies.denoisers import VectorDenoiser
from policyopt.policies.denoising import Denoiser
from policyopt.policies.paths import linear_betas
from policyopt.run import Run
from policyopt.train import rounds
from policyopt.types import Source
from policyopt.worlds.denoising import DenoisingWorld
from support import close

pytestmark = pytest.mark.usefixtures("float64")


def recorded(chain, count=6):
    samples = torch.randn(count, 2, generator=torch.Generator().manual_seed(1))
    world = DenoisingWorld(chain.std, 2, count, samples=samples)
    return samples, world, world.recorded(world.tasks(torch.arange(count)))


class Constant(torch.nn.Module):
    """Says one vector whatever it is shown."""

    def __init__(self, value):
        super().__init__()
        self.value, self.dims = torch.nn.Parameter(value), len(value)
        self.conditions = VectorDenoiser(2).conditions

    def forward(self, latent, time, condition=None):
        return self.value.expand_as(latent)


def test_gradient_of_a_constant_network_is_that_of_the_mean_squared_error():
    """d/du mean (u - (eps - x_0))^2 = u - mean(eps - x_0), over 4 points of 6 rows and 2 dimensions."""
    chain = flow(4)
    samples, _, rows = recorded(chain)
    policy = Denoiser(Constant(torch.tensor([0.3, -0.2])), chain)
    done = first_step(load("flow_matching"), {"policy": policy}, rows)
    # The noise of seed 0, round 0, as the loss plans it.
    noise = policy.noise(rows, generator(0, "matching", 0, 0), 4)["match_noise"]
    target = noise - samples[:, None]
    said = policy.network.value.detach() + done.gradient
    close(done.gradient, said - target.mean((0, 1)))
    close(done.round.metrics["loss/matching"], ((said - target) ** 2).mean())


def test_the_exact_velocity_of_one_sample_has_no_loss():
    """Data are one point x_0: then eps - x_0 = (x_t - x_0) / t exactly."""
    chain = flow(4)
    world = DenoisingWorld(chain.std, 2, 3, samples=torch.tensor([[1.0, -2.0]] * 3))
    rows = world.recorded(world.tasks(torch.arange(3)))

    class Exact(Constant):
        def forward(self, latent, time, condition=None):
            return (latent - torch.tensor([1.0, -2.0])) / time[:, None] + 0 * self.value

    done = first_step(load("flow_matching"), {"policy": Denoiser(Exact(torch.zeros(2)), chain)}, rows)
    close(done.round.metrics["loss/matching"], 0.0, 1e-9)
    close(done.gradient, torch.zeros(2), 1e-6)


def test_rows_are_data_and_their_behaviour_is_unknown():
    _, world, rows = recorded(flow(4))
    assert (rows.row["source"] == Source.DATASET).all()
    assert rows.step["behaviour"].isnan().all()
    policy = Denoiser(VectorDenoiser(2, width=8), flow(4))
    for done in rounds(Run({"policy": policy}, world, generate), Program((Stage(load("flow_matching"), 2),))):
        assert done.metrics["loss/matching"] > 0
        assert "reward" not in done.metrics


@pytest.mark.parametrize("chain", [flow(4), diffusion(4, betas=linear_betas(100))])
def test_noise_of_the_loss_is_a_function_of_seed_and_round(chain):
    _, world, _ = recorded(chain)
    found = []
    for _ in range(2):
        policy = Denoiser(VectorDenoiser(2, width=8, time_scale=float(chain.levels.time.max())), chain)
        run = Run({"policy": policy}, world, generate, seed=3)
        done = rounds(run, Program((Stage(load("flow_matching"), 3),)))
        found.append([one.metrics["loss/matching"] for one in done])
    assert found[0] == found[1]
    assert len(set(found[0])) == 3


def test_energy_distance_by_hand():
    """X = {0, 2}, Y = {1, 3}: 2 * (1 + 3 + 1 + 1) / 4 - 2 - 2 = -1 (unbiased, so it can be below 0)."""
    x, y = torch.tensor([[0.0], [2.0]]), torch.tensor([[1.0], [3.0]])
    assert _energy_distance(x, y) == pytest.approx(-1.0)
    assert _energy_distance(x, x + 10) == pytest.approx(2 * 10 - 4)
