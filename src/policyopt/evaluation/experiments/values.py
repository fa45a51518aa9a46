"""Critics of steps, stores and recordings: on processes with exact answers and on small control worlds."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from policyopt.compose import Method
from policyopt.distributions import Categorical, epsilon_greedy
from policyopt.evaluation.experiments._common import Outcome, fit, probabilities, uniform_table
from policyopt.evaluation.experiments._common import numbers as stream
from policyopt.evaluation.experiments._moves import Moves, actor, flat_states
from policyopt.policies.tabular import TableQ
from policyopt.run import Run
from policyopt.types import Batch, Round
from policyopt.worlds.oracles import evaluate, optimum
from policyopt.worlds.tables import RecordedEpisodes, TabularMDP, garnet


# -- tables ------------------------------------------------------------------------------------------------------------
def _process(seed: int, horizon: int, states: int = 12) -> TabularMDP:
    """4 actions, 3 outcomes of each, discount 0.9; episodes are cut, not ended."""
    return replace(garnet(states, 4, 3, stream(seed, "values process"), 0.9, horizon), seed=seed)


def _worth(mdp: TabularMDP, policy: Tensor) -> float:
    """The value of a policy without the cut, mean over first states."""
    return float(evaluate(mdp, policy.double())[0] @ mdp.start_at.mean(0))


def _share(mdp: TabularMDP, policy: Tensor, first: Tensor) -> float:
    """Where a policy stands between a first one (0) and the best (1)."""
    low, best = _worth(mdp, first), _worth(mdp, optimum(mdp)[2])
    return (_worth(mdp, policy) - low) / (best - low)


def recorded_process(method: Method, seed: int, rounds: int, skill: float = 0.0, episodes: int = 200) -> Outcome:
    """A random process of 12 states and 4 actions (discount 0.9), 200 recorded episodes of 20 steps. Who recorded took
    the best action with probability `skill`, else any alike.

    value: (J - J of who recorded) / (best J - J of who recorded) after training, exact; a policy as good as that is 0.
    """
    mdp = _process(seed, 20)
    author = torch.full((12, 4), 0.25).double() * (1 - skill) + skill * optimum(mdp)[2]
    world = RecordedEpisodes(mdp, author, episodes)

    def watch(run: Run, done: Round) -> float:
        return _share(mdp, probabilities(run), author)

    done = fit(method, world, {"policy": uniform_table(12, 4)}, rounds, seed, watch)
    share = done.watched[-1]
    notes = {"share of the way from the uniform policy": _share(mdp, done.table, torch.full((12, 4), 0.25))}
    return done.outcome("share of the way from who recorded to the best", notes, value=share)


def _corridor(seed: int) -> TabularMDP:
    """Places 0 ... 8 in a line and a pit (9), discount 0.95. The ends end an episode: 1 at the left one, 5 at the right
    one. Left of place 4 two of four actions stay, from there on they fall into the pit, which pays nothing."""
    place, ends = torch.arange(10), torch.tensor([0, 8, 9])
    waits = torch.where(place < 4, place, 9)
    reached = torch.stack([place - 1, place + 1, waits, waits], 1).clamp(0, 9)
    reached[ends] = ends[:, None]
    move = torch.nn.functional.one_hot(reached, 10).double()
    reward = ((reached == 0) * 1.0 + (reached == 8) * 5.0).double()
    reward[ends] = 0.0
    begin = ((place > 0) & (place < 8)).double() / 7
    terminal = torch.isin(place, ends)
    return TabularMDP(move, reward, begin, 0.95, 30, terminal, cut=True, seed=seed)


def pit_corridor(method: Method, seed: int, rounds: int) -> Outcome:
    """A corridor with a small reward at one end and a large one behind places where random behaviour falls into a pit:
    300 recorded episodes of uniform behaviour from random places. What uniform behaviour is worth points to the small
    reward, what the best recorded actions are worth to the large one.

    value: (J - J of uniform behaviour) / (best J - J of uniform behaviour) after training, exact.
    """
    mdp, uniform = _corridor(seed), torch.full((10, 4), 0.25)
    world = RecordedEpisodes(mdp, uniform.double(), 300)

    def watch(run: Run, done: Round) -> float:
        return _share(mdp, probabilities(run), uniform)

    done = fit(method, world, {"policy": uniform_table(10, 4)}, rounds, seed, watch)
    label = "share of the way from who recorded to the best"
    return done.outcome(label)


def recordings_or_own(method: Method, seed: int, rounds: int) -> Outcome:
    """The same process with 200 episodes of someone who takes the best action nine times of ten: to be imitated, or
    left alone by a method that acts itself.

    value: (J - J of the uniform policy) / (best J - J of the uniform policy) after training, exact.
    """
    mdp, uniform = _process(seed, 20), torch.full((12, 4), 0.25)
    world = RecordedEpisodes(mdp, 0.1 * uniform.double() + 0.9 * optimum(mdp)[2], 200)

    def watch(run: Run, done: Round) -> float:
        return _share(mdp, probabilities(run), uniform)

    done = fit(method, world, {"policy": uniform_table(12, 4)}, rounds, seed, watch)
    return done.outcome("share of the attainable return")


class _Chooser(TableQ):
    """A policy that is its action values: the best choice, or with probability `epsilon` any."""

    kind = "tabular"

    def __init__(self, values: Tensor, epsilon: float):
        super().__init__(values)
        self.epsilon = epsilon

    def next(self, batch: Batch) -> Categorical:
        return epsilon_greedy(self.values[0, batch.row["_state"]], self.epsilon)

    @property
    def greedy(self) -> Tensor:
        """(S, A) the policy without exploration."""
        return epsilon_greedy(self.values[0], 0.0).logp.exp()


def choosing_process(method: Method, seed: int, rounds: int) -> Outcome:
    """Such a process of 40 states, 4 episodes of 10 steps a round, acted in with epsilon 0.2 by a table of values.

    value: (J of the greedy policy - J of the uniform one) / (best J - J of the uniform one), mean over rounds, exact.
    """
    mdp, uniform = _process(seed, 10, 40), torch.full((40, 4), 0.25)
    policy = _Chooser(torch.zeros(1, 40, 4), 0.2)

    def watch(run: Run, done: Round) -> float:
        chooser: Any = run.models["policy"]
        return _share(mdp, chooser.greedy, uniform)

    done = fit(method, mdp, {"policy": policy}, rounds, seed, watch)
    share = sum(done.watched) / rounds
    notes = {"share after training": done.watched[-1]}
    return done.outcome("share of the attainable return", notes, value=share)


# -- control -----------------------------------------------------------------------------------------------------------
def _hill(seed: int, purpose: str) -> Any:
    """The best action (N, 2) in a state (N, 2): a smooth random function inside -0.7..0.7."""
    weight = 2 * torch.randn(2, 2, generator=stream(seed, purpose))
    return lambda state: 0.7 * torch.tanh(state @ weight)


def scaled_rewards(method: Method, seed: int, rounds: int, scale: float = 20.0) -> Outcome:
    """One-step tasks: two-dimensional states and actions, reward -scale |a - a*(s)|^2; 32 of them a round.

    value: |entropy of the policy - target entropy| after training, nats, mean over 256 states; the target is -2.
    """
    best = _hill(seed, "scaled rewards")
    world = Moves(2, 2, lambda s, a: s, lambda s, a: -scale * ((a - best(s)) ** 2).sum(1), seed=seed)
    policy = actor(world, "squashed", seed)
    asked = flat_states(2 * torch.rand(256, 2, generator=stream(seed, "asked")) - 1, 2)

    def watch(run: Run, done: Round) -> float:
        with torch.no_grad():
            return float((policy.at(asked).entropy().mean() + 2.0).abs())

    done = fit(method, world, {"policy": policy}, rounds, seed, watch)
    with torch.no_grad():
        mode = policy.emit(policy.at(asked).mode()[:, 0])
        distance = float((mode - best(asked.step["_obs"][:, 0])).norm(dim=1).mean())
    late = done.watched[-10:]
    return done.outcome(
        "distance of the entropy to its target (nats)",
        {"distance of the mode to the best action": distance},
        value=sum(late) / len(late),
        score=-distance,
    )


def overestimation(method: Method, seed: int, rounds: int) -> Outcome:
    """A point on a line that is to stand at 0.5, moved by up to 0.3 a step, with normal noise in its rewards; episodes
    are cut after 16 steps; 4 a round.

    value: mean of Q_1(s, mu(s)) less the discounted return that mu really has from s, over 64 states, at the end
    (mean of the last ten rounds).
    """
    gamma = 0.95

    def move(s: Tensor, a: Tensor) -> Tensor:
        return (s + 0.3 * a).clamp(-1.5, 1.5)

    def pay(s: Tensor, a: Tensor) -> Tensor:
        return -2 * ((move(s, a) - 0.5) ** 2)[:, 0]

    world = Moves(1, 1, move, pay, limit=16, ends=False, noise=1.0, exploration=0.3, seed=seed)
    policy = actor(world, "deterministic", seed)
    states = torch.linspace(-1, 1, 64)[:, None]

    def watch(run: Run, done: Round) -> float:
        critic: Any = run.models["critic"]
        with torch.no_grad():
            asked = flat_states(states, 1)
            said = critic.q(asked, policy.at(asked).mode())[0, :, 0]
            here, worth = states, torch.zeros(len(states))
            for t in range(120):
                action = policy.emit(policy.at(flat_states(here, 1)).mode()[:, 0])
                worth, here = worth + gamma**t * pay(here, action), move(here, action)
        returns.append(float(worth.mean()))
        return float((said - worth).mean())

    returns: list[float] = []
    done = fit(method, world, {"policy": policy}, rounds, seed, watch)
    late = done.watched[-10:]
    notes = {"discounted return of the policy": returns[-1]}
    return done.outcome("estimated less true value", notes, value=sum(late) / len(late), score=returns[-1])


def policy_steps(method: Method, seed: int, rounds: int) -> Outcome:
    """One-step tasks as in `scaled_rewards`, at scale 3; the old policy is renewed with every round.

    value: KL(policy after a round || before it), nats, mean over 256 states and the rounds from the tenth on.
    """
    best = _hill(seed, "policy steps")
    world = Moves(2, 2, lambda s, a: s, lambda s, a: -3 * ((a - best(s)) ** 2).sum(1), seed=seed)
    policy = actor(world, "squashed", seed)
    asked = flat_states(2 * torch.rand(256, 2, generator=stream(seed, "asked")) - 1, 2)
    with torch.no_grad():
        held = [policy.at(asked)]

    def watch(run: Run, done: Round) -> float:
        with torch.no_grad():
            now = policy.at(asked)
            moved = float(now.kl(held[0]).mean())
        held[0] = now
        return moved

    done = fit(method, world, {"policy": policy}, rounds, seed, watch)
    with torch.no_grad():
        mode = policy.emit(policy.at(asked).mode()[:, 0])
        distance = float((mode - best(asked.step["_obs"][:, 0])).norm(dim=1).mean())
    late = done.watched[10:] or done.watched
    notes = {"distance of the mode to the best action": distance}
    return done.outcome("KL of a round (nats)", notes, value=sum(late) / len(late), score=-distance)


def narrow_recordings(method: Method, seed: int, rounds: int) -> Outcome:
    """One-step tasks recorded by someone whose actions are within 0.3 of a habit g(s). The best action is 0.2 from it;
    further away than 0.4, where nothing was recorded, rewards fall steeply. All rewards are around 5: actions matter
    less than states, as in longer tasks.

    value: mean true reward of the policy's own action over 256 states; the habit itself has 4.92.
    """
    habit = _hill(seed, "narrow recordings")

    def pay(s: Tensor, a: Tensor) -> Tensor:
        gap = a - habit(s)
        near = 0.2 * torch.ones(2) / 2**0.5
        return 5 - 2 * ((gap - near) ** 2).sum(1) - 10 * (gap.norm(dim=1) - 0.4).clamp(min=0)

    world = Moves(
        2, 2, lambda s, a: s, pay, noise=0.1, author=lambda s, u: habit(s) + 0.6 * (u - 0.5), seed=seed, size=2000
    )
    policy = actor(world, "deterministic", seed)
    states = 2 * torch.rand(256, 2, generator=stream(seed, "asked")) - 1

    def watch(run: Run, done: Round) -> float:
        with torch.no_grad():
            return float(pay(states, policy.emit(policy.at(flat_states(states, 2)).mode()[:, 0])).mean())

    done = fit(method, world, {"policy": policy}, rounds, seed, watch)
    late = sum(done.watched[-5:]) / len(done.watched[-5:])
    return done.outcome("true reward of the policy's action", value=late)
