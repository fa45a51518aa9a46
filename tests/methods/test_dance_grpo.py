"""DanceGRPO: `reduces_to` of specification 239, each identity a test."""

from dataclasses import replace

import pytest
import torch

from chains import DIMS, TASKS, denoiser, gradient_of, logp_by_hand, one_step, world
from policyopt.compose import CompositionError, Program, Stage
from policyopt.credit.groups import GroupStandardised
from policyopt.engines.plain import generate
from policyopt.evaluation.experiments._denoising import sampled
from policyopt.evaluation.experiments.denoising import chain_divergence
from policyopt.methods import load
from policyopt.methods.dance_grpo import anchored, with_heads
from policyopt.objective.surrogates import ClippedSurrogate
from policyopt.policies.chains import flow
from policyopt.policies.denoisers import Conditions, VectorDenoiser
from policyopt.policies.denoising import Denoiser
from policyopt.run import Run
from policyopt.sampling.branches import Branched
from policyopt.sampling.samplers import Group
from policyopt.selection.steps import RandomSteps
from policyopt.selection.tasks import EveryRow, Selection
from policyopt.train import rounds
from policyopt.update.gradient import GradientSteps
from policyopt.update.optimizers import AdamW
from policyopt.worlds.denoising import DenoisingWorld
from support import close

pytestmark = pytest.mark.usefixtures("float64")


def small(size: int = 4, share: float = 1.0, clip: float = 0.1):
    made = load("dance_grpo")
    loss = ClippedSurrogate(clip, clip)
    return replace(
        made,
        selection=Selection(TASKS, rows=RandomSteps(share)),
        sampling=Branched(1, size),
        objective=(replace(made.objective[0], loss=loss),),
    )


def two(points, task):
    return {"a": points[:, 0], "b": (points**2).sum(1)}


def heads(weights=None, keep=None, size: int = 6):
    made = with_heads(weights or {"a": 1.0, "b": 0.5}, keep, clip=0.1)
    rows = EveryRow() if keep is None else made.selection.rows.parts[0]
    return replace(made, selection=Selection(TASKS, rows=rows), sampling=Branched(1, size))


def test_without_noise_a_step_is_eulers() -> None:
    """eta -> 0: x' = x + d v, d = s' - s."""
    policy = denoiser(flow(5, 0.0))
    x, condition = torch.randn(7, DIMS), torch.arange(7) % TASKS
    index = torch.tensor([0, 1, 2, 3, 4, 0, 2])

    def velocity(latent, time):
        return policy.network(latent, time, condition)

    found = policy.chain.transition(velocity, x, index)
    close(found.mean, x - velocity(x, 1 - index / 5) / 5, atol=1e-12)
    assert float(found.std.max()) == 0.0


def test_on_fresh_samples_it_is_group_standardised_reinforce() -> None:
    policy, begin = denoiser(), denoiser()
    batch = (done := one_step(small(), policy, world(policy))).round.credited
    logp, terms = logp_by_hand(begin, batch), []
    reward = batch.step["reward"].sum(1)
    for b, row in enumerate(logp):
        of_group = reward[batch.row["group"] == batch.row["group"][b]]
        a = (reward[b] - of_group.mean()) / (of_group.std() + 1e-8)
        terms += [-a.clamp(-5, 5) * x for x in row]
    expected = gradient_of(torch.stack(terms).mean(), begin)
    assert float(expected.abs().max()) > 1e-2
    close(done.gradient, expected, atol=1e-6)


def test_one_head_all_steps_and_noise_of_ones_own_is_ddpos_loss() -> None:
    """Off the old policy too: both clip the ratio of stored pairs."""
    made = replace(small(), sampling=Group(4))
    ddpo = load("ddpo")
    other = replace(
        ddpo,
        selection=Selection(TASKS),
        sampling=Group(4),
        credit=GroupStandardised(epsilon=1e-8, bound=5.0),
        objective=made.objective,
    )
    first, second = (one_step(m, denoiser(), world(denoiser())) for m in (made, other))
    close(first.gradient, second.gradient)
    named = replace(heads({"reward": 1.0}), sampling=Group(4))
    close(first.gradient, one_step(named, denoiser(), world(denoiser())).gradient)


def test_samples_of_a_group_share_their_initial_noise_and_nothing_else() -> None:
    batch = one_step(small(), denoiser(), world(denoiser())).round.judged
    for g in batch.row["group"].unique():
        rows = batch.row["group"] == g
        noise, later = batch.step["_next"][rows, 0], batch.step["_next"][rows, 1]
        assert bool((noise == noise[0]).all())
        assert len(later.unique(dim=0)) == int(rows.sum())
    assert len(batch.step["_next"][:, 0].unique(dim=0)) == len(batch.row["group"].unique())


def test_heads_are_unchanged_by_the_scale_of_one_reward() -> None:
    def scaled(points, task):
        found = two(points, task)
        return {"a": 100 * found["a"], "b": found["b"]}

    plain = one_step(heads(), denoiser(), world(denoiser(), two))
    close(one_step(heads(), denoiser(), world(denoiser(), scaled)).gradient, plain.gradient, atol=1e-6)
    summed = [one_step(small(6), denoiser(), world(denoiser(), f)).gradient for f in (two, scaled)]
    assert float((summed[0] - summed[1]).abs().max()) > 1e-2


def test_terms_add_the_advantages_of_heads_with_their_weights() -> None:
    """At the old policy: -mean_ik (A^a + 0.5 A^b) grad log p."""
    policy, begin = denoiser(), denoiser()
    done = one_step(heads(), policy, world(policy, two))
    batch, terms = done.round.credited, []
    for b, row in enumerate(logp_by_hand(begin, batch)):
        a = batch.step["advantage:a"][b, 0] + 0.5 * batch.step["advantage:b"][b, 0]
        terms += [-a * x for x in row]
    close(done.gradient, gradient_of(torch.stack(terms).mean(), begin), atol=1e-6)


def test_best_and_worst_by_the_weighted_sum() -> None:
    done = one_step(heads(keep=2), denoiser(), world(denoiser(), two)).round
    batch = done.credited
    score = batch.step["advantage:a"][:, 0] + 0.5 * batch.step["advantage:b"][:, 0]
    for g in batch.row["group"].unique():
        of_group = score[batch.row["group"] == g]
        kept = done.kept.step["advantage:a"][:, 0] + 0.5 * done.kept.step["advantage:b"][:, 0]
        kept = kept[done.kept.row["group"] == g]
        close(kept.sort().values, torch.stack([of_group.min(), of_group.max()]))


def test_a_share_of_the_steps_is_trained_and_scored() -> None:
    done = one_step(small(share=0.6), denoiser(), world(denoiser())).round
    assert done.kept.trained.sum(1).tolist() == [2] * len(done.kept)  # floor(0.6 * 4)
    assert len({tuple(row) for row in done.kept.trained.tolist()}) > 3
    old = done.kept.scores["old"].logp
    assert bool(old[done.kept.trained].isfinite().all())
    assert bool(old[~done.kept.trained][:, None].isnan().any())


def test_names_that_the_world_does_not_have_are_refused() -> None:
    with pytest.raises(CompositionError, match=r"\['a', 'b'\]"):
        one_step(heads({"a": 1.0}), denoiser(), world(denoiser(), two))


class ExactFlow(torch.nn.Module):
    """The velocity field of N(0, 0.5^2 I) in the plane in closed form, and beside it a small network, at first 0."""

    dims, conditions = 2, Conditions()

    def __init__(self):
        super().__init__()
        self.beside = VectorDenoiser(2, width=16, depth=2, seed=0).double()
        torch.nn.init.zeros_(self.beside.leave.weight)
        torch.nn.init.zeros_(self.beside.leave.bias)

    def forward(self, latent, time, condition=None):
        s = time[:, None]
        exact = (s - (1 - s) * 0.25) / ((1 - s) ** 2 * 0.25 + s**2) * latent
        return exact + self.beside(latent, time)


def test_the_reward_rises_within_a_stated_divergence_of_the_base() -> None:
    """Moving N(0, 0.5^2) by 1 costs 2 nats; along the chains, which say more than the sample, at most 4 here."""
    chain = flow(8, 0.7)
    policy, base = Denoiser(ExactFlow(), chain), Denoiser(ExactFlow(), chain)
    target = torch.tensor([1.0, 0.0])

    def reward(points, task):
        return (-((points - target) ** 2).sum(1)).exp()

    place = DenoisingWorld(chain.std, 2, 8, reward)
    made = replace(small(12, 0.6), selection=Selection(8, rows=RandomSteps(0.6)))
    made = replace(made, update=GradientSteps({"policy": AdamW(learning_rate=5e-3)}, minibatches=4))
    before = place.grade(sampled(base, 512, 0, place)).mean()
    for _ in rounds(Run({"policy": policy}, place, generate, 0), Program((Stage(made, 15),))):
        pass
    batch = sampled(policy, 512, 0, place)
    assert float(before) < 0.4
    assert float(place.grade(batch).mean()) > 0.7
    assert 0.5 < chain_divergence(policy, base, batch) < 4.0
    assert chain_divergence(base, base, batch) == 0.0


def bounded(weight: float = 0.5):
    made = small()
    kl = replace(anchored.constraint[0], weight=weight)
    return replace(made, constraint=(kl,), roles=anchored.roles, models=anchored.models)


def test_at_the_base_the_charge_has_no_gradient() -> None:
    plain, charged = (one_step(m, denoiser(), world(denoiser())).gradient for m in (small(), bounded()))
    close(charged, plain, atol=1e-12)


def test_away_from_the_base_the_charge_is_the_distance_of_the_means() -> None:
    """KL of two Gaussians of one std: |m - m'|^2 / 2 std^2, here averaged over dimensions as densities are."""
    begin, base = denoiser(), denoiser(seed=1)
    plain = one_step(small(), denoiser(), world(denoiser()))
    charged = one_step(bounded(), denoiser(), world(denoiser()), reference=base)
    batch = charged.round.credited
    ours, theirs = begin.at(batch)[batch.trained], base.at(batch)[batch.trained]
    terms = ((ours.mean - theirs.mean.detach()) ** 2 / (2 * ours.std**2)).mean(-1)
    expected = gradient_of(0.5 * terms.mean(), begin)
    assert float(expected.abs().max()) > 1e-3
    close(charged.gradient - plain.gradient, expected, atol=1e-6)
