"""Environments as worlds: spaces, limits, wrappers, rows that are rebuilt, errors, evaluation and resumed runs."""

from dataclasses import replace
from typing import ClassVar

import gymnasium
import numpy as np
import pytest
import torch
from gymnasium import spaces

from policyopt.compose import Chain, Program, Stage
from policyopt.credit.returns import GeneralisedAdvantage
from policyopt.engines.choose import engine_for
from policyopt.engines.control import ControlEngine, episodes
from policyopt.engines.plain import generate
from policyopt.engines.sampling import NotFiniteError
from policyopt.methods.grpo import grpo
from policyopt.methods.ppo import ppo
from policyopt.ops.streams import first_state
from policyopt.policies.bodies import MLP, NATURE
from policyopt.policies.control import new_actor
from policyopt.reward.parts import FromWorld
from policyopt.reward.scaling import ScaledReward
from policyopt.run import Run
from policyopt.runtime import checkpoint
from policyopt.sampling.samplers import Group
from policyopt.sampling.streams import Stream
from policyopt.selection.tasks import Selection
from policyopt.train import rounds
from policyopt.types import Finish
from policyopt.update.gradient import GradientSteps
from policyopt.update.optimizers import AdamW
from policyopt.worlds.environments import UnsuitableEnvironmentError
from policyopt.worlds.gymnasium import EnvironmentWorld


def acting(name, seed=0, **options):
    world = EnvironmentWorld.make(name, **options)
    policy = new_actor(world.observation_space, world.action_space, body=MLP((16,)), seed=seed)
    return world.acted_by(policy), policy


def run_of(world, policy, tasks=(0, 1), engine=generate):
    batch = world.start(world.tasks(torch.tensor(tasks)))
    return engine(policy, world, batch, torch.arange(len(tasks)), 1.0, 0)


class Echo(gymnasium.Env):
    """Terminates after three steps; remembers what it was sent."""

    sent: ClassVar[list] = []

    def __init__(self, action_space, observation_space):
        self.action_space, self.observation_space = action_space, observation_space

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.left = 3
        self.observation_space.seed(seed)
        return self.observation_space.sample(), {}

    def step(self, action):
        assert self.action_space.contains(action), (self.action_space, action)
        self.sent.append(action)
        self.left -= 1
        return self.observation_space.sample(), 1.5, self.left == 0, False, {}


LINE = spaces.Box(-1, 1, (3,), np.float32)


@pytest.mark.parametrize(
    "space",
    [
        spaces.Discrete(4),
        spaces.Discrete(3, start=-1),
        spaces.MultiDiscrete([2, 5]),
        spaces.MultiDiscrete([2, 5], start=[1, -2]),
        spaces.MultiBinary(3),
        spaces.Box(-2, 1, (2,), np.float32),
        spaces.Box(-2, 1, (2, 2), np.float64),
    ],
    ids=str,
)
def test_actions_of_every_space_arrive(space):
    """Each engine sends actions that the space contains (`Echo` asserts it), in rows and in streams."""
    world = EnvironmentWorld(lambda: Echo(space, LINE))
    policy = new_actor(world.observation_space, world.action_space)
    world.acted_by(policy)
    for engine in (generate, ControlEngine()):
        batch = run_of(world, policy, engine=engine)
        assert batch.lengths.tolist() == [3, 3]
        assert (batch.row["finish"] == Finish.STOPPED).all()
        assert batch.row["episode_return"].tolist() == [4.5, 4.5]
        assert bool(batch.step["behaviour"].isfinite().all())
        torch.testing.assert_close(policy.score(batch).logp, batch.step["behaviour"])
    assert Echo.sent


def test_composite_observations_become_vectors_and_others_are_refused():
    world, policy = acting("policyopt/echo-dict-v0")
    assert world.observation_space.shape == (5,)
    batch = run_of(world, policy)
    assert batch.step["_obs"].shape == (2, 3, 5)
    with pytest.raises(UnsuitableEnvironmentError, match="no fixed size"):
        EnvironmentWorld.make("policyopt/echo-sequence-v0")
    with pytest.raises(UnsuitableEnvironmentError, match="a policy acts in Discrete"):
        EnvironmentWorld(lambda: Echo(spaces.Tuple([LINE]), LINE))


gymnasium.register(
    "policyopt/echo-dict-v0",
    lambda: Echo(spaces.Discrete(2), spaces.Dict({"place": LINE, "kind": spaces.Discrete(2)})),
)
gymnasium.register("policyopt/echo-sequence-v0", lambda: Echo(spaces.Discrete(2), spaces.Sequence(LINE)))


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("HalfCheeta-v5", "near ones are .*HalfCheetah-v5"),
        ("CartPole-v7", "near ones are CartPole-v1"),
        ("not an id", "Malformed"),
    ],
)
def test_unknown_ids_name_near_ones(name, message):
    with pytest.raises(UnsuitableEnvironmentError, match=message):
        EnvironmentWorld.make(name)


def test_discrete_observations_stay_numbers():
    world, policy = acting("FrozenLake-v1")
    batch = run_of(world, policy)
    assert batch.step["_obs"].dtype == torch.int64
    assert batch.step["_obs"].shape == (2, batch.steps)


def test_rows_go_on_though_their_environments_are_gone():
    """Two rows of one group take different actions in turn; a third is copied midway: all equal a run of their own."""
    world, policy = acting("Hopper-v5", limit=12)
    whole = run_of(world, policy, (3, 3, 4))
    live = torch.ones(3, dtype=torch.bool)
    batch = world.start(world.tasks(torch.tensor([3, 3, 4])))
    other = world.start(world.tasks(torch.tensor([3, 3, 4])))  # takes other actions in between
    for t in range(12):
        action, logp = whole.step["_action"][:, t], whole.step["behaviour"][:, t]
        keep = ~batch.done
        batch = world.append(batch, action, logp, keep, 0)
        other = world.append(other, -action, logp, ~other.done & live, 0)
        if t == 4:
            world._live.clear()  # as in a new process
    for column, expected in whole.step.items():
        assert torch.equal(batch.step[column], expected), column
    copies = world.start(world.tasks(torch.tensor([4])))
    for t in range(5):
        copies = world.append(copies, whole.step["_action"][2:, t], torch.zeros(1), live[:1], 0)
    copies = copies[torch.tensor([0, 0])]
    for t in range(5, 8):
        both = torch.stack([whole.step["_action"][2, t], -whole.step["_action"][2, t]])
        copies = world.append(copies, both, torch.zeros(2), live[:2], 0)
    assert torch.equal(copies.step["_obs"][0, :8], whole.step["_obs"][2, :8])
    assert not torch.equal(copies.row["_obs"][0], copies.row["_obs"][1])


def test_few_environments_stay_alive():
    world, policy = acting("CartPole-v1", most_live=4)
    for first in range(0, 60, 2):
        world.start(world.tasks(torch.tensor([first, first + 1])))
    assert sum(map(len, world._live.values())) <= 4
    assert run_of(world, policy, (60, 61)).done.all()


def test_limits_and_clipped_rewards():
    world, policy = acting("Pendulum-v1", limit=7, reward_clip=(-1.0, 1.0))
    for batch in (run_of(world, policy), run_of(world, policy, engine=ControlEngine())):
        assert batch.lengths.tolist() == [7, 7]
        assert (batch.row["finish"] == Finish.TRUNCATED).all()
        assert float(batch.step["reward"].min()) >= -1
        assert float(batch.row["episode_return"].max()) < -7  # as the environment pays
        assert torch.equal(world.grade(batch), batch.step["reward"])
    with pytest.raises(UnsuitableEnvironmentError, match="limit"):
        EnvironmentWorld.make("Pendulum-v1", limit=0)


def test_atari_frames():
    world = EnvironmentWorld.make("ALE/Pong-v5", atari={"noop_max": 3}, frame_stack=4, limit=4, reward_clip=(-1.0, 1.0))
    assert world.observation_space.shape == (4, 84, 84)
    assert world.dtype == torch.uint8
    policy = new_actor(world.observation_space, world.action_space, body=NATURE)
    world.acted_by(policy)
    with torch.no_grad():
        plain, fast = run_of(world, policy), run_of(world, policy, engine=ControlEngine())
    assert plain.step["_obs"].shape == (2, 4, 4, 84, 84)
    assert torch.equal(plain.step["_obs"], fast.step["_obs"])
    frames = plain.step["_obs"][0]
    assert torch.equal(frames[1:, :3], frames[:-1, 1:])  # the newest frame is the last


def test_evaluation_episodes():
    """The same whether they run side by side or not; greedy ones take modes; nothing moves."""
    world, policy = acting("CartPole-v1", limit=60)
    streamed = Stream(30, 2)
    run = Run({"policy": policy}, world, engine_for(policy, world), seed=1)
    made = control(streamed)
    list(rounds(run, Program((Stage(made, 1),))))
    before = checkpoint_of(run)
    returns, lengths = episodes(policy, world, 9, seed=4)
    alone, _ = episodes(policy, world, 9, seed=4, parallel=2)
    assert torch.equal(returns, alone)
    assert torch.equal(returns, lengths.double())
    greedy, _ = episodes(policy, world, 9, seed=4, greedy=True)
    assert not torch.equal(greedy, returns)
    assert checkpoint_of(run) == before


def test_what_is_no_number_stops_the_run():
    """A policy that diverged, and an environment that pays nan: not one step of the round is kept."""
    world, policy = acting("Pendulum-v1", limit=5)
    with torch.no_grad():
        policy.log_std.fill_(torch.nan)
    with pytest.raises(NotFiniteError, match="diverged"):
        run_of(world, policy, engine=ControlEngine())

    class Poor(gymnasium.Wrapper):
        def step(self, action):
            observation, _, terminated, truncated, infos = super().step(action)
            return observation, float("nan"), terminated, truncated, infos

    world, policy = acting("Pendulum-v1", limit=5, wrappers=(Poor,))
    with pytest.raises(NotFiniteError, match="gave a reward that is no number"), torch.no_grad():
        ControlEngine().stream(policy, world, first_state(0), 3, torch.arange(2), 0)


def checkpoint_of(run):
    return repr(run.state()["cells"])


def control(sampling, reward=FromWorld()):  # noqa: B008 - frozen
    return replace(
        ppo,
        sampling=sampling,
        reward=reward,
        credit=GeneralisedAdvantage(0.99, 0.95),
        constraint=(),
        roles={"old": ppo.roles["old"]},
        models={"critic": ppo.models["critic"]},
        update=GradientSteps({"policy": AdamW(3e-3), "critic": AdamW(3e-3)}, epochs=2, minibatches=2, unit="step"),
    )


@pytest.mark.parametrize("name", ["CartPole-v1", "Hopper-v5"])
@pytest.mark.parametrize("interrupted", [1, 2])
def test_trap_48_a_run_of_streams_continues_bitwise(name, interrupted, tmp_path):
    """Four rounds straight, or some, a checkpoint on disk, a fresh world and policy, and the rest."""
    made = control(Stream(60, 2), Chain((FromWorld(), ScaledReward())))
    program = Program((Stage(made, 4),))

    def begin():
        world, policy = acting(name)
        return Run({"policy": policy}, world, engine_for(policy, world), seed=3)

    straight = begin()
    expected = [done.judged for done in rounds(straight, program)]
    first = begin()
    for _, done in zip(range(interrupted), rounds(first, program), strict=False):
        assert torch.equal(done.judged.step["reward"], expected[first.step - 1].step["reward"])
    checkpoint.save(first.state(), tmp_path / "state")
    second = begin()
    second.load_state(checkpoint.load(tmp_path / "state"), program)
    found = [done.judged for done in rounds(second, program)]
    assert len(found) == 4 - interrupted
    for one, other in zip(found, expected[interrupted:], strict=True):
        for columns, wanted in ((one.step, other.step), (one.row, other.row)):
            for column in wanted:
                assert torch.equal(columns[column].nan_to_num(7.0), wanted[column].nan_to_num(7.0)), column
    for weights, wanted in zip(
        second.models["policy"].state_dict().values(), straight.models["policy"].state_dict().values(), strict=True
    ):
        assert torch.equal(weights, wanted)
    assert any(int(row) for row in expected[-1].row["_before"])


def test_each_world_goes_on_where_it_was():
    """Stages that take turns between two worlds: each world's episodes go on."""
    worlds = {name: acting("Pendulum-v1", limit=limit) for name, limit in (("world", 50), ("other", 70))}
    policy = worlds["world"][1]
    worlds["other"][0].acted_by(policy)
    made = control(Stream(30, 1))
    stages = (
        Stage(made, 1),
        Stage(replace(made, world="other"), 1),
        Stage(made, 1),
        Stage(replace(made, world="other"), 1),
    )
    other = {"other": worlds["other"][0]}
    run = Run({"policy": policy}, worlds["world"][0], ControlEngine(), seed=3, worlds=other)
    found = [done.judged for done in rounds(run, Program(stages))]
    assert [batch.row["_before"].tolist() for batch in found] == [[0], [0], [30, 0], [30]]
    lengths = [batch.row["episode_length"].tolist() for batch in found]
    assert lengths == [[0], [0], [50, 0], [0]]


def test_groups_of_attempts_learn_to_balance():
    """GRPO as written for tokens, on CartPole: attempts of a group begin in the same state."""
    world, policy = acting("CartPole-v1", limit=100, seed=1)
    made = replace(
        grpo,
        selection=Selection(count=4),
        sampling=Group(size=8),
        reward=FromWorld(),
        constraint=(),
        roles={"old": grpo.roles["old"]},
        models={},
        update=GradientSteps({"policy": AdamW(1e-2)}, epochs=2),
    )
    run = Run({"policy": policy}, world, engine_for(policy, world), seed=0)
    lengths = [float(done.judged.lengths.float().mean()) for done in rounds(run, Program((Stage(made, 15),)))]
    assert np.mean(lengths[-3:]) > 2 * np.mean(lengths[:3])


def test_notices_about_gymnasiums_own_models_are_logged_not_printed(tmp_path, monkeypatch, caplog, capfd) -> None:
    monkeypatch.chdir(tmp_path)
    world = EnvironmentWorld.make("HalfCheetah-v5")
    world.start(world.tasks(torch.tensor([0])))
    assert capfd.readouterr() == ("", "")
    assert not list(tmp_path.iterdir())
    with caplog.at_level("DEBUG", logger="policyopt.worlds.environments"):
        world.start(world.tasks(torch.tensor([1])))
    assert "MuJoCo on HalfCheetah-v5" in caplog.text
