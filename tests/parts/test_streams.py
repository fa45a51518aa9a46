"""Streams: fast equals step by step, fragments are whole, a resumed run continues exactly."""

import copy
import math

import pytest
import torch

from policyopt.engines.control import ControlEngine
from policyopt.engines.plain import generate
from policyopt.ops.random import uniforms
from policyopt.ops.streams import first_state, same_state, state_after
from policyopt.policies.bodies import MLP, Recurrent
from policyopt.policies.control import new_actor
from policyopt.policies.perception import carried
from policyopt.types import Finish, Tasks
from policyopt.worlds.gymnasium import EnvironmentWorld

SMALL = MLP((16,))
RECURRENT = Recurrent(MLP((16,)), 8)


def acting(name, body=SMALL, limit=None, head="auto", seed=0, **options):
    world = EnvironmentWorld.make(name, limit=limit, **options)
    policy = new_actor(world.observation_space, world.action_space, body=body, head=head, seed=seed)
    return world.acted_by(policy), policy


def stream(world, policy, state, horizon, keys, exploration=0.0):
    with torch.no_grad():
        return ControlEngine().stream(policy, world, state, horizon, keys, 3, exploration)


def plain_episode(world, policy, fragment, key, offset, exploration, memory):
    """The steps of one fragment by `next` and `append`: its episode is begun again and led to the fragment's start."""
    steps, before = int(fragment.lengths[0]), int(fragment.row["_before"][0])
    batch = world.start(Tasks(torch.zeros(1).long(), {"_seed": fragment.row["_seed"]}))
    for action in memory["actions"]:
        batch = world.append(batch, action[None], torch.zeros(1), torch.ones(1, dtype=torch.bool), 3)
    assert batch.steps == before
    batch = policy.begin(batch)
    if memory["memory"] is not None:
        batch = batch.with_rows({"_memory": memory["memory"][None]})
    if exploration:
        batch = batch.with_rows({"_exploration": torch.tensor([exploration])})
    with torch.no_grad():
        for position in range(offset, offset + steps):
            dist = policy.next(batch)
            step = dist.sample(uniforms(key[None], position, dist.width))
            moved = policy.advance(batch, step)
            live = torch.ones(1, dtype=torch.bool)
            batch = carried(batch, world.append(batch, step, dist.log_prob(step), live, 3), moved, live)
    return batch


CASES = [
    ("CartPole-v1", SMALL, "auto", None, 0.0),
    ("CartPole-v1", SMALL, "q", 12, 0.3),
    ("CartPole-v1", RECURRENT, "auto", None, 0.0),
    ("Pendulum-v1", SMALL, "squashed", 30, 0.0),
    ("Pendulum-v1", SMALL, "beta", 30, 0.0),
    ("Hopper-v5", SMALL, "gaussian", None, 0.0),
    ("Hopper-v5", SMALL, "deterministic", 25, 0.2),
]


@pytest.mark.parametrize(("name", "body", "head", "limit", "exploration"), CASES)
def test_a_stream_is_next_and_append(name, body, head, limit, exploration):
    world, policy = acting(name, body, limit, head)
    horizon, keys, state = 60, torch.tensor([11, 12, 13]), first_state(5)
    for _ in range(2):
        batch = stream(world, policy, state, horizon, keys, exploration)
        offset = dict.fromkeys(range(3), 0)
        for row in range(len(batch)):
            fragment = batch[row : row + 1]
            slot = int(fragment.row["_env"])
            goes_on = int(fragment.row["_before"]) > 0
            before = {"actions": state["actions"][slot] if goes_on else [], "memory": None}
            if goes_on and state["memory"] is not None:
                before["memory"] = state["memory"][slot]
            plain = plain_episode(world, policy, fragment, keys[slot], offset[slot], exploration, before)
            start, length = int(fragment.row["_before"]), int(fragment.lengths)
            for column in ("_obs", "_action", "reward", "behaviour", *(["_memory"] if policy.memory else [])):
                torch.testing.assert_close(
                    fragment.step[column][:, :length],
                    plain.step[column][:, start:].to(fragment.step[column].dtype),
                    rtol=1e-4,
                    atol=1e-5,
                    equal_nan=True,
                )
            torch.testing.assert_close(fragment.row["_obs"], plain.row["_obs"], rtol=1e-4, atol=1e-5)
            cut = int(fragment.row["episode_length"]) == 0
            expected = int(Finish.TRUNCATED if cut else plain.row["finish"])
            assert int(fragment.row["finish"]) == expected
            if not cut:
                assert int(fragment.row["episode_length"]) == plain.steps
                assert math.isclose(
                    float(fragment.row["episode_return"]), float(plain.row["episode_return"]), rel_tol=1e-5
                )
            offset[slot] += length
        assert set(offset.values()) == {horizon}
        state = state_after(state, batch)


@pytest.mark.parametrize(
    ("name", "limit"), [("CartPole-v1", None), ("Hopper-v5", None), ("Pendulum-v1", 25), ("Pendulum-v1", 130)]
)
def test_environments_are_brought_back_to_where_they_were(name, limit):
    """Live environments, those of a new process, and those that another run moved meanwhile: bitwise the same.
    Episodes of Pendulum end with the horizon, or last for several rounds."""
    world, policy = acting(name, limit=limit)
    first = stream(world, policy, first_state(1), 50, torch.tensor([1, 2]))
    state = state_after(first_state(1), first)
    state = state_after(state, stream(world, policy, state, 50, torch.tensor([5, 6])))
    went_on = stream(world, policy, state, 50, torch.tensor([3, 4]))
    fresh = acting(name, limit=limit)[0].acted_by(policy)
    resumed = stream(fresh, policy, copy.deepcopy(state), 50, torch.tensor([3, 4]))
    moved = stream(world, policy, state, 50, torch.tensor([3, 4]))  # the live ones are a round ahead
    for other in (resumed, moved):
        for column in went_on.step:
            assert torch.equal(went_on.step[column], other.step[column]), column
        for column in went_on.row:
            assert torch.equal(went_on.row[column].nan_to_num(7), other.row[column].nan_to_num(7)), column


def test_workers_equal_one_process():
    world, policy = acting("CartPole-v1")
    apart, _ = acting("CartPole-v1", processes=True)
    apart.acted_by(policy)
    state, other = first_state(1), first_state(1)
    for _ in range(2):
        one, two = stream(world, policy, state, 40, torch.arange(3)), stream(apart, policy, other, 40, torch.arange(3))
        assert all(torch.equal(one.step[column], two.step[column]) for column in one.step)
        state, other = state_after(state, one), state_after(other, two)
        assert same_state(state, other)
    third, _ = acting("CartPole-v1", processes=True)
    third.acted_by(policy)
    one, two = stream(world, policy, state, 40, torch.arange(3)), stream(third, policy, state, 40, torch.arange(3))
    assert all(torch.equal(one.step[column], two.step[column]) for column in one.step)


@pytest.mark.parametrize("temperature", [1.0, 0.7, 0.0])
@pytest.mark.parametrize(
    ("name", "body", "head", "limit"),
    [
        ("CartPole-v1", SMALL, "auto", None),
        ("CartPole-v1", RECURRENT, "auto", None),
        ("Pendulum-v1", SMALL, "squashed", 20),
        ("Hopper-v5", SMALL, "gaussian", 30),
    ],
)
def test_whole_episodes_are_next_and_append(name, body, head, limit, temperature):
    world, policy = acting(name, body, limit, head)
    tasks = world.tasks(torch.tensor([3, 3, 5, 8])).with_rows({"_exploration": torch.zeros(4)})
    start = world.start(tasks)
    start = start.with_rows({"temperature": torch.full((4,), temperature)})
    keys = torch.tensor([1, 2, 3, 4])
    plain = generate(policy, world, start, keys, temperature, 3)
    with torch.no_grad():
        fast = ControlEngine()(policy, world, start, keys, temperature, 3)
    assert torch.equal(plain.own, fast.own)
    assert torch.equal(plain.row["finish"], fast.row["finish"])
    assert set(plain.row) == set(fast.row)
    assert set(plain.step) == set(fast.step)
    for column, expected in plain.step.items():
        own = plain.own.view(*plain.own.shape, *(1,) * (expected.dim() - 2))
        torch.testing.assert_close(
            torch.where(own, expected, torch.zeros_like(expected)), fast.step[column], rtol=1e-4, atol=1e-4, msg=column
        )
    for column in sorted(set(plain.row) - {"_history"}):
        torch.testing.assert_close(plain.row[column], fast.row[column], rtol=1e-4, atol=1e-4, msg=column)
    group = fast.step["_obs"][:, 0]
    assert torch.equal(group[0], group[1])
    assert not torch.equal(group[1], group[2])


@pytest.mark.parametrize("body", [SMALL, RECURRENT])
def test_rows_pause_and_go_on(body):
    """Seven steps, then the rest: the numbers of a row's stream begin again, memory and environment do not."""
    world, policy = acting("CartPole-v1", body)
    start = world.start(world.tasks(torch.tensor([3, 5])))
    keys = torch.tensor([1, 2])
    with torch.no_grad():
        paused = ControlEngine()(policy, world, start, keys, 1.0, 3, steps=7)
        ended = ControlEngine()(policy, world, paused, keys, 1.0, 3)
    assert paused.steps == 7
    assert bool(ended.done.all())
    torch.testing.assert_close(ended.step["_obs"][:, :7], paused.step["_obs"])
    torch.testing.assert_close(policy.score(ended).logp[ended.own], ended.step["behaviour"][ended.own])
