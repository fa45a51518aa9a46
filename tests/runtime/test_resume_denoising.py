"""Resume (trap 48) of methods for denoising policies: what they remember between rounds is in the checkpoint."""

import copy
from dataclasses import replace

import pytest
import torch

from chains import DIMS, TASKS, denoiser, flat, world
from policyopt.compose import Program, Stage
from policyopt.engines.plain import generate
from policyopt.methods import load
from policyopt.objective.advantages import StandardisedAdvantages
from policyopt.objective.clipping import ClipByNoise
from policyopt.objective.surrogates import ClippedSurrogate
from policyopt.policies.chains import diffusion, flow, heun_flow
from policyopt.policies.denoisers import Conditions, VectorDenoiser
from policyopt.policies.denoising import Denoiser
from policyopt.policies.prior import only_prior
from policyopt.policies.transitions import ClampedAverage
from policyopt.run import Run
from policyopt.runtime import checkpoint
from policyopt.sampling.progress import BackwardProgress
from policyopt.selection.tasks import Selection
from policyopt.train import rounds
from policyopt.update.earlier import EarlierSelf
from policyopt.worlds.denoising import Trainable
from policyopt.worlds.points import RoundDisc
from policyopt.worlds.two_clocks import TwoClockWorld

pytestmark = pytest.mark.usefixtures("float64")

ROUNDS = 5


def gentle(points, task):
    """Rewards in 0..1, on both sides of every threshold."""
    return (points[:, 0] + 0.5 * task).sigmoid()


def ddpo():
    made = load("ddpo")
    policy = denoiser()
    credit = replace(made.credit, past=2, fewest=1)
    return (
        replace(made, selection=Selection(3), sampling=replace(made.sampling, size=1), credit=credit),
        policy,
        world(policy),
    )


def dance_grpo():
    made = load("dance_grpo")
    policy = denoiser()
    selection = replace(made.selection, count=3)
    return replace(made, selection=selection, sampling=replace(made.sampling, size=3)), policy, world(policy)


def b2_diffurl():
    made = load("b2_diffurl")
    policy = denoiser()
    sampling = replace(made.sampling, stem=BackwardProgress(2, 5, ROUNDS), size=3)
    return replace(made, selection=replace(made.selection, count=3), sampling=sampling), policy, world(policy)


def edit_r1_diffusion_nft():
    made = load("edit_r1_diffusion_nft")
    policy = denoiser(heun_flow(3))
    selection = replace(made.selection, count=3, tasks=replace(made.selection.tasks, spread=0.3, most=0.6))
    sampling = replace(made.sampling, size=3)
    return replace(made, selection=selection, sampling=sampling), policy, world(policy, gentle)


def seppo():
    made = load("seppo")
    policy = denoiser()
    made = replace(made, selection=Selection(3), before=(EarlierSelf(every=2),))
    return made, policy, world(policy, samples=torch.linspace(-1, 1, TASKS * DIMS).view(TASKS, DIMS))


def find():
    made = load("find")
    network = VectorDenoiser(DIMS, Conditions(classes=TASKS), width=8, depth=2).double()
    policy = only_prior(network, flow(3, 0.0)).double()
    return replace(made, selection=Selection(3)), policy, world(policy, trainable=Trainable(prior=True))


def dppo():
    made = load("dppo")
    chain = diffusion(3, density=ClampedAverage(), min_std=0.1)
    network = VectorDenoiser(2, Conditions(features=2), width=8, depth=2, time_scale=3).double()
    policy = Denoiser(network, chain, condition="_obs").double()
    clip = ClipByNoise(0.1, 0.2, count=3, end=3)
    policy_term, value_term = made.objective
    policy_term = replace(policy_term, loss=StandardisedAdvantages(ClippedSurrogate(clip, clip)))
    made = replace(made, selection=Selection(3), objective=(policy_term, value_term))
    return made, policy, TwoClockWorld(RoundDisc(limit=3, size=64), chain.std, 2)


SETTINGS = (ddpo, dance_grpo, b2_diffurl, edit_r1_diffusion_nft, seppo, find, dppo)


@pytest.mark.parametrize("setting", SETTINGS, ids=lambda setting: setting.__name__)
def test_trap_48_a_resumed_run_equals_one_that_went_on(setting, tmp_path) -> None:
    made, policy, place = setting()
    program, begin = Program((Stage(made, ROUNDS),)), copy.deepcopy(policy)
    straight = Run({"policy": policy}, place, generate, 0)
    states = []
    for _ in rounds(straight, program):
        states.append(tmp_path / f"{straight.step}.ckpt")
        checkpoint.save(straight.state(), states[-1])
    expected = {name: flat(model.parameters()) for name, model in straight.models.items()}
    assert float((expected["policy"] - flat(begin.parameters())).abs().max()) > 0
    for stop in (1, 3, 4):
        again = Run({"policy": copy.deepcopy(begin)}, place, generate, 0)
        again.load_state(checkpoint.load(states[stop - 1]), program)
        assert again.step == stop
        for _ in rounds(again, program):
            pass
        for name, model in again.models.items():
            assert torch.equal(flat(model.parameters()), expected[name]), f"{name} after stopping at {stop}"
        assert repr(again.cells) == repr(straight.cells)
