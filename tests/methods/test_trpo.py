"""TRPO: `reduces_to` of specification 92, and what every accepted step promises."""

from dataclasses import replace

import pytest
import torch

from enumeration import Fixed
from policyopt.compose import Program, Stage
from policyopt.engines.plain import generate
from policyopt.methods import load
from policyopt.options import OptionError, override
from policyopt.policies.linear import Linear
from policyopt.policies.tabular import Table
from policyopt.reward.parts import FromWorld
from policyopt.run import Run
from policyopt.train import rounds
from policyopt.types import Categorical
from policyopt.update.optimizers import SGD
from policyopt.update.trust_region import TrustRegion
from policyopt.worlds.tables import chain, garnet
from support import close, grids, numbers, ragged

pytestmark = pytest.mark.usefixtures("float64")


def trained(made, models, count, seed=0, world=None):
    run = Run(models, world or garnet(6, 3, 2, torch.Generator().manual_seed(3)), generate, seed)
    return run, list(rounds(run, Program((Stage(made, count),))))


def small(**changes):
    return override(load("trpo"), {"selection.count": 16, "credit.gamma": 0.9, **changes})


def logp_of(run):
    return run.models["policy"].logits.detach().log_softmax(-1)


def test_every_accepted_step_keeps_the_limit_and_raises_the_surrogate() -> None:
    """Evaluated anew from the rows and the tables before and after every round."""
    made = small(**{"constraint.limit": 0.02})
    run = Run({"policy": Table(numbers(6, 3, seed=1))}, garnet(6, 3, 2, torch.Generator().manual_seed(3)), generate)
    before, accepted = logp_of(run), 0
    for done in rounds(run, Program((Stage(made, 12),))):
        now, rows = logp_of(run), done.kept
        state, step = (rows.step[name][rows.own] for name in ("_state", "_step"))
        kl = Categorical(before).kl(Categorical(now))[state].mean()
        ratio = (now - before)[state, step].exp()
        gain = ((ratio - 1) * rows.step["advantage"][rows.own]).mean()
        if done.metrics["trust_region/accepted"]:
            accepted += 1
            assert 0 < float(kl) <= 0.02
            assert float(gain) > 0
            close(kl, done.metrics["trust_region/kl"], atol=1e-10)
        else:
            assert torch.equal(now, before)
        before = now
    assert accepted > 8


def test_ppo_and_a_plain_gradient_do_not_keep_it() -> None:
    """The same rows and learning rates of their claims: the limit is not kept by accident."""
    for key in ("ppo", "a2c"):
        made = override(load(key), {"selection.count": 16, "update.optimizers.policy.learning_rate": 0.1})
        run = Run({"policy": Table(numbers(6, 3, seed=1))}, garnet(6, 3, 2, torch.Generator().manual_seed(3)), generate)
        before, largest = logp_of(run), 0.0
        for done in rounds(run, Program((Stage(made, 6),))):
            now, state = logp_of(run), done.kept.step["_state"][done.kept.own]
            largest, before = max(largest, float(Categorical(before).kl(Categorical(now))[state].mean())), now
        assert largest > 0.02, key


def test_the_step_does_not_depend_on_the_parameterisation() -> None:
    """With no damping and enough iterations a linear policy of any invertible features moves as the table does: the
    same rows give the same new distribution. Along the plain gradient it does not."""
    mixing = numbers(6, 6, seed=5) + 2 * torch.eye(6)
    start = numbers(6, 3, seed=1, scale=0.3)

    def after(features, iterations):
        policy = Linear(features, torch.linalg.solve(features, start))
        made = small(**{"update.damping": 1e-12, "update.iterations": iterations})
        # A critic of the first round says 0 for every parameterisation.
        run, _ = trained(made, {"policy": policy}, 1)
        return logp_of(run)

    table, mixed = after(torch.eye(6), 60), after(mixing, 60)
    close(mixed, table, atol=1e-6)
    assert float((table - start.log_softmax(-1)).abs().max()) > 1e-2
    assert float((after(mixing, 1) - after(torch.eye(6), 1)).abs().max()) > 1e-3


def test_one_iteration_is_a_normalised_policy_gradient() -> None:
    """The step is along the gradient of PPO's first minibatch at r = 1."""
    batch = ragged()
    batch = batch.with_steps({"reward": torch.where(batch.valid, batch.step["reward"], 0.0)})
    moved = {}
    for key, changes in (("trpo", {"update.iterations": 1}), ("ppo", {"constraint.kl.weight": 0.0})):
        made = replace(override(load(key), {"credit.gamma": 0.9, **changes}), reward=FromWorld(), sampling=Fixed(batch))
        if key == "ppo":
            made = override(made, {"update.epochs": 1, "update.minibatches": 1, "update.clip_norm": None})
            made = replace(made, update=replace(made.update, optimizers={"policy": SGD(1.0), "critic": SGD(0.0)}))
        models = grids(full=True)
        start = models["policy"].logits.detach().clone()
        run = Run(models, None, None)
        next(rounds(run, Program((Stage(made, 1),))))
        moved[key] = models["policy"].logits.detach() - start
    one, two = (moved[key] / moved[key].norm() for key in ("trpo", "ppo"))
    assert float(moved["trpo"].norm()) > 1e-3
    close(one, two, atol=1e-8)


def test_without_any_reward_nothing_moves() -> None:
    """Advantages of 0 at a critic of 0: the policy is left bit for bit, the critic has nothing to learn."""
    world = replace(garnet(6, 3, 2, torch.Generator().manual_seed(3)), reward=torch.zeros(6, 3))
    start = numbers(6, 3, seed=1)
    run, done = trained(small(), {"policy": Table(start)}, 2, world=world)
    assert torch.equal(run.models["policy"].logits.detach(), start)
    assert [d.metrics["trust_region/accepted"] for d in done] == [0.0, 0.0]


def test_it_solves_a_chain() -> None:
    """Five states, the reward at the end: from a third of the probability to nearly all of it."""
    world = chain(5, gamma=0.95, horizon=12)
    run, done = trained(
        override(load("trpo"), {"selection.count": 16, "constraint.limit": 0.05, "credit.gamma": 0.95,
                                "update.then.optimizers.critic.learning_rate": 0.05}),
        {"policy": Table(torch.zeros(5, 2))}, 25, world=world,
    )  # fmt: skip
    right = run.models["policy"].logits.detach().softmax(-1)[:4, 1]
    assert float(right.min()) > 0.8
    assert done[-1].metrics["reward"] > done[0].metrics["reward"]


def test_settings_are_those_published_and_can_be_set() -> None:
    trpo = load("trpo")
    update = trpo.update
    assert isinstance(update, TrustRegion)
    assert (update.iterations, update.damping, update.backtracks, update.shrink) == (10, 0.1, 10, 0.5)
    assert trpo.constraint[0].limit == 0.01
    assert override(trpo, {"constraint.trust.limit": 0.5}).constraint[0].limit == 0.5
    assert override(trpo, {"update.critic.learning_rate": 0.5}).update.then.optimizers["critic"].learning_rate == 0.5
    with pytest.raises(OptionError, match="no effect"):
        override(load("ppo"), {"constraint.kl.limit": 0.5})
