"""Recorded gradients: bitwise those of the eager update, for every minibatch; what can not be recorded is refused."""

from dataclasses import replace

import gymnasium
import pytest
import torch
from torch import Tensor

from policyopt.compose import Cell, CompositionError, Copy, Critic, Loss, Program, Role, Stage, Term
from policyopt.constraint.divergence import Entropy, ExactKL
from policyopt.credit.returns import GeneralisedAdvantage
from policyopt.engines.control import ControlEngine
from policyopt.engines.plain import generate
from policyopt.methods import load
from policyopt.objective.surrogates import ClippedSurrogate, PolicyGradient
from policyopt.objective.value import SquaredValueError
from policyopt.options import override
from policyopt.policies.bodies import MLP
from policyopt.policies.control import new_actor
from policyopt.policies.tabular import Table
from policyopt.recorded import NotRecordableError
from policyopt.reward.parts import Verified
from policyopt.run import Run
from policyopt.sampling.samplers import Group
from policyopt.selection.tasks import Selection
from policyopt.train import rounds
from policyopt.update.averaging import TokenMean
from policyopt.update.gradient import GradientSteps
from policyopt.update.optimizers import AdamW
from policyopt.worlds.gymnasium import EnvironmentWorld
from policyopt.worlds.sequences import SequenceWorld

pytestmark = pytest.mark.usefixtures("float64")


def composed(execution: str, **update):
    """PPO with an entropy bonus and a KL to the initial policy, on single steps in minibatches of two sizes."""
    adam = AdamW(0.05)
    return replace(
        load("ppo"),
        selection=Selection(8),
        sampling=Group(1),
        reward=Verified(),
        credit=GeneralisedAdvantage(0.9, 0.8),
        objective=(
            Term("policy", ClippedSurrogate(0.1, 0.2), TokenMean()),
            Term("value", SquaredValueError(), TokenMean(), trains="critic", weight=0.7),
        ),
        constraint=(
            Term("kl", ExactKL(), TokenMean(), weight=0.3),
            Term("entropy", Entropy(), TokenMean(), weight=-0.01),
        ),
        update=GradientSteps(
            {"policy": adam, "critic": adam}, epochs=2, minibatches=3, unit="step", execution=execution, **update
        ),
        roles={
            "old": Role(when="collected"),
            "policy": Role(grad=True, full=True),
            "reference": Role("reference", full=True),
        },
        models={"reference": Copy(), "critic": Critic()},
    )


def trained(method, steps: int = 4):
    world = SequenceWorld(5, 3, 5, lambda s, t: (s == 1).double().sum(1) - t.double(), end=0)
    policy = Table(torch.randn(world.states, 3, generator=torch.Generator().manual_seed(1)))
    run = Run({"policy": policy}, world, generate, 3)
    metrics = [done.metrics for done in rounds(run, Program((Stage(method, steps),)))]
    return run, metrics


def weights(run: Run) -> list[Tensor]:
    return [p for name in ("policy", "critic") for p in run.models[name].parameters()]


@pytest.mark.parametrize("options", [{}, {"clip_over": "all", "clip_norm": 0.1}], ids=["each", "together"])
def test_recorded_updates_are_the_eager_ones_bit_for_bit(options) -> None:
    eager, expected = trained(composed("eager", **options))
    recorded, found = trained(composed("recorded", **options))
    for a, b in zip(weights(eager), weights(recorded), strict=True):
        assert torch.equal(a, b)
    assert found == expected
    assert recorded.recorded


def test_what_moves_between_updates_is_read_anew() -> None:
    """The reference is replaced by the policy after round 2: both ways of execution see it."""

    def refreshed(execution: str):
        from policyopt.update.following import Refresh

        return replace(composed(execution), after=(Refresh("reference", every=2),))

    eager, _ = trained(refreshed("eager"))
    recorded, _ = trained(refreshed("recorded"))
    other, _ = trained(composed("eager"))
    assert torch.equal(weights(eager)[0], weights(recorded)[0])
    assert not torch.equal(weights(eager)[0], weights(other)[0])


CELL = Cell("something", float)


class ByClock(PolicyGradient):
    def __call__(self, seen, batch) -> Tensor:
        return super().__call__(seen, batch) * (1 + seen.ctx.step)


class ByCell(PolicyGradient):
    def __call__(self, seen, batch) -> Tensor:
        return super().__call__(seen, batch) * (1 + seen.ctx[CELL])


class ByChance(PolicyGradient):
    """Draws twice from one generator and once from another."""

    def plan(self, seen, batch):
        rng, size = seen.rng("noise"), (len(batch), batch.steps)
        noise = torch.rand(size, generator=rng) + torch.randn(size, generator=rng)
        unread = torch.rand(3, generator=seen.rng("unread"))
        return batch.with_steps({"noise": noise + torch.randn(size, generator=seen.rng("other")) + 0 * unread.sum()})

    def __call__(self, seen, batch) -> Tensor:
        return super().__call__(seen, batch) * batch.step["noise"]


class ByFilling(PolicyGradient):
    def plan(self, seen, batch):
        return batch.with_steps({"noise": torch.zeros(len(batch), batch.steps).normal_(generator=seen.rng("noise"))})


class ByValue(PolicyGradient):
    def __call__(self, seen, batch) -> Tensor:
        loss = super().__call__(seen, batch)
        return loss if bool((batch.step["advantage"] > 0).any()) else 2 * loss


@pytest.mark.parametrize(
    ("loss", "what"),
    [
        (ByClock(), r"reads ctx\.step"),
        (ByCell(), "reads the cell 'something'"),
        (ByFilling(), r"draws by normal_, whose numbers may depend on a tensor"),
        (ByValue(), "decides something in Python by the value of a tensor"),
    ],
)
def test_what_a_recording_would_freeze_is_refused(loss: Loss, what: str) -> None:
    method = composed("recorded")
    method = replace(method, objective=(Term("policy", loss, TokenMean()), *method.objective[1:]))
    with pytest.raises(NotRecordableError, match=what):
        trained(method)
    trained(replace(method, update=replace(method.update, execution="eager")), 1)


def test_random_numbers_are_drawn_anew_and_are_the_eager_ones() -> None:
    def chance(execution: str):
        method = composed(execution)
        return replace(method, objective=(Term("policy", ByChance(), TokenMean()), *method.objective[1:]))

    eager, expected = trained(chance("eager"))
    recorded, found = trained(chance("recorded"))
    assert torch.equal(weights(eager)[0], weights(recorded)[0])
    assert found == expected


@pytest.mark.parametrize("key", ["sac", "td3", "dqn"])
def test_updates_from_a_store_are_recorded_bit_for_bit(key: str) -> None:
    """Targets with noise, delayed policies and averages of weights: the same weights and metrics."""
    runs = []
    for execution in ("eager", "recorded"):
        env, head = {
            "sac": ("Pendulum-v1", "squashed"),
            "td3": ("Pendulum-v1", "deterministic"),
            "dqn": ("CartPole-v1", "q"),
        }[key]
        made = gymnasium.make(env)
        policy = new_actor(made.observation_space, made.action_space, head=head, body=MLP(hidden=(8,)), seed=1)
        world = EnvironmentWorld.make(env)
        world.emit, world.seed = policy.emit, 3
        changes = {
            "sampling.horizon": 5,
            "update.starts": 10,
            "update.size": 8,
            "update.ratio": 1.0,
            "update.execution": execution,
        }
        run = Run({"policy": policy}, world, ControlEngine(), 3)
        method = override(load(key), changes)
        metrics = [done.metrics for done in rounds(run, Program((Stage(method, 4),)))]
        runs.append((run, metrics))
    (eager, expected), (recorded, found) = runs
    assert eager.updates > 10
    for name in eager.models:
        for a, b in zip(eager.models[name].parameters(), recorded.models[name].parameters(), strict=True):
            assert torch.equal(a, b), name
    assert str(found) == str(expected)


def test_a_recording_takes_a_minibatch_at_once() -> None:
    with pytest.raises(CompositionError, match="set micro_rows and micro_tokens to none"):
        trained(composed("recorded", micro_rows=2))


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::DeprecationWarning:torch")
def test_compiled_updates_differ_by_rounding_only() -> None:
    eager, _ = trained(composed("eager"), 2)
    compiled, _ = trained(composed("compiled"), 2)
    for a, b in zip(weights(eager), weights(compiled), strict=True):
        assert torch.allclose(a, b, rtol=0, atol=1e-10)
