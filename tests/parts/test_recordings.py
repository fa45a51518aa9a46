"""Recorded episodes as rows, and Minari's files read and written."""

import warnings

import gymnasium
import minari
import numpy as np
import pytest
import torch
from gymnasium import spaces
from minari.data_collector import EpisodeBuffer

from policyopt.credit.returns import GeneralisedAdvantage
from policyopt.engines.control import ControlEngine
from policyopt.ops.streams import first_state
from policyopt.policies.control import new_actor
from policyopt.types import Finish, Source, Tasks, concatenate
from policyopt.worlds.gymnasium import EnvironmentWorld
from policyopt.worlds.minari_files import read_minari, write_minari
from policyopt.worlds.recordings import Episode, Recording, RecordingError, episodes_of
from support import context, method


def small():
    """Two episodes of 3 and 2 steps; observations count 0, 1, ... through both."""
    seen = np.arange(7, dtype=np.float32)[:, None] * np.ones(2, dtype=np.float32)
    return [
        Episode(seen[:4], np.array([0, 1, 1]), np.array([1.0, 2.0, 3.0]), terminated=True),
        Episode(seen[4:], np.array([1, 0]), np.array([10.0, 20.0]), terminated=False),
    ]


def test_transitions_by_hand():
    world = Recording(small())
    assert world.size == 5
    batch = world.recorded(world.tasks(torch.tensor([4, 0, 2])))
    assert batch.step["_obs"][:, 0, 0].tolist() == [5, 0, 2]
    assert batch.row["_obs"][:, 0].tolist() == [6, 1, 3]
    assert batch.step["_action"][:, 0].tolist() == [0, 0, 1]
    assert batch.step["reward"][:, 0].tolist() == [20, 1, 3]
    assert batch.row["finish"].tolist() == [Finish.TRUNCATED, Finish.RUNNING, Finish.STOPPED]
    assert batch.row["_before"].tolist() == [1, 0, 2]
    assert batch.row["_earned"].tolist() == [30, 1, 6]
    assert batch.row["episode_return"].nan_to_num(-1).tolist() == [30, -1, 6]
    assert batch.row["episode_length"].tolist() == [2, 0, 3]
    assert (batch.row["source"] == Source.DATASET).all()
    assert bool(batch.step["behaviour"].isnan().all())


def test_whole_episodes_are_their_transitions():
    whole, single = Recording(small(), "episode"), Recording(small())
    episodes = whole.recorded(whole.tasks(torch.arange(2)))
    assert episodes.lengths.tolist() == [3, 2]
    flat = episodes.flat()
    transitions = single.recorded(single.tasks(torch.arange(5)))
    for column in ("_obs", "_action", "reward"):
        assert torch.equal(flat.step[column], transitions.step[column])
    for column in ("_obs", "finish"):
        assert torch.equal(flat.row[column], transitions.row[column])


class Places(torch.nn.Module):
    """V = the first number of an observation, of rows of one step."""

    def value(self, batch):
        return torch.cat([batch.step["_obs"], batch.row["_obs"][:, None]], 1)[..., 0]


def test_trap_51_recorded_transitions_are_credited_with_what_follows():
    """A = r + gamma V(s') - V(s): an episode that goes on or was cut bootstraps, one that ended does not."""
    world = Recording(small())
    batch = world.recorded(world.tasks(torch.arange(5)))
    ctx = context(method(), {"policy": Places(), "critic": Places()})
    found = GeneralisedAdvantage(0.5, 0.9, whitened=False)(ctx, batch).step
    assert found["advantage"][:, 0].tolist() == [1.5, 2.0, 1.0, 8.5, 18.0]
    assert found["return"][:, 0].tolist() == [1.5, 3.0, 3.0, 12.5, 23.0]


@pytest.mark.parametrize("head", ["squashed", "gaussian"])
def test_what_a_policy_did_is_read_back(head):
    """Collected, recorded, and received: the raw steps, in the columns of streams, so that both can be joined."""
    world = EnvironmentWorld.make("Pendulum-v1", limit=9)
    policy = new_actor(world.observation_space, world.action_space, head=head)
    world.acted_by(policy)
    with torch.no_grad():
        batch = ControlEngine().stream(policy, world, first_state(0), 30, torch.arange(2), 0)
    episodes = episodes_of(batch, world.emit)
    assert len(episodes) == 6
    recording = Recording(episodes, "episode").acted_by(policy)
    read = recording.recorded(recording.tasks(torch.arange(6)))
    whole = batch[batch.row["episode_length"] == 9]
    torch.testing.assert_close(policy.emit(read.step["_action"]), policy.emit(whole.step["_action"][:, :9]))
    if head == "squashed":
        torch.testing.assert_close(read.step["_action"], whole.step["_action"][:, :9], rtol=1e-3, atol=1e-3)
    assert torch.equal(read.step["_obs"], whole.step["_obs"][:, :9])
    joined = concatenate([batch, read])
    assert bool(policy.score(joined).logp[joined.own].isfinite().all())


def test_what_is_not_whole_is_refused():
    good = small()[0]
    with pytest.raises(RecordingError, match="one observation more"):
        Episode(good.observations[:3], good.actions, good.rewards, terminated=True)
    with pytest.raises(RecordingError, match="of one shape"):
        Recording([good, Episode(np.zeros((2, 3)), np.zeros(1), np.zeros(1), terminated=True)])
    with pytest.raises(RecordingError, match="at least one"):
        Recording([])
    with pytest.raises(RecordingError, match="transition, episode"):
        Recording([good], "step")
    with pytest.raises(RecordingError, match="no policy can act"):
        Recording([good]).start(Tasks(torch.zeros(1).long()))


@pytest.fixture
def local(tmp_path, monkeypatch):
    monkeypatch.setenv("MINARI_DATASETS_PATH", str(tmp_path))
    return tmp_path


PLANE, TWO = spaces.Box(-np.inf, np.inf, (2,), np.float32), spaces.Discrete(2)


def equal(one, other):
    for name in ("observations", "actions", "rewards", "terminated", "lengths"):
        assert torch.equal(getattr(one, name), getattr(other, name)), name


def test_minari_reads_what_is_written(local):
    folder = write_minari(
        local / "point" / "two-v0", small(), PLANE, TWO, gymnasium.spec("CartPole-v1"), "point/two-v0"
    )
    found = minari.load_dataset("point/two-v0")
    assert found.total_steps == 5
    assert found.env_spec is not None
    for episode, expected in zip(found.iterate_episodes(), small(), strict=True):
        np.testing.assert_array_equal(episode.observations, expected.observations)
        np.testing.assert_array_equal(episode.actions, expected.actions)
        np.testing.assert_array_equal(episode.rewards, expected.rewards)
        assert bool(episode.terminations[-1]) == expected.terminated
        assert bool(episode.truncations[-1]) != expected.terminated
    for where in (folder, folder / "data", "point/two-v0"):
        equal(read_minari(where), Recording(small()))
    with pytest.raises(RecordingError, match="already"):
        write_minari(folder, small(), PLANE, TWO)
    with pytest.raises(RecordingError, match="Installed are point/two-v0"):
        read_minari("point/three-v0")


def test_what_minari_wrote_is_read(local):
    """By the library's own writer, composite observations included."""
    buffers = [
        EpisodeBuffer(
            id=number,
            observations={"place": one.observations, "kind": np.arange(len(one.rewards) + 1) % 3},
            actions=one.actions,
            rewards=one.rewards,
            terminations=np.arange(len(one.rewards)) == (len(one.rewards) - 1 if one.terminated else -1),
            truncations=np.zeros(len(one.rewards), dtype=bool),
        )
        for number, one in enumerate(small())
    ]
    space = spaces.Dict({"kind": spaces.Discrete(3), "place": PLANE})
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # about an author and a link
        minari.create_dataset_from_buffers("made/dict-v0", buffers, observation_space=space, action_space=TWO)
    found = read_minari("made/dict-v0")
    assert found.observations.shape == (7, 5)
    assert found.observations[:, :3].argmax(1).tolist() == [0, 1, 2, 0, 0, 1, 2]
    assert torch.equal(found.observations[:, 3:], Recording(small()).observations)
    assert found.terminated.tolist() == [True, False]
