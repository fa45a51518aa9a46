"""Held-out episodes step by step, with frames where the environment draws."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator
from typing import Any

import gymnasium
import numpy as np
import pytest
from gymnasium import spaces

from policyopt.engines.control import episodes
from policyopt.policies.control import new_actor
from policyopt.recipe.control.kind import filmed, make_world
from policyopt.recipe.control.sections import TasksSection
from policyopt.recipe.kinds import EVALUATION_SEED
from policyopt.worlds.filming import FRAMES, Filmed, draw_off_screen


class Drawn(gymnasium.Env):
    """Counts down from a random number; draws its state as the shade of a picture."""

    metadata = {"render_modes": ["rgb_array"], "render_fps": 4}  # noqa: RUF012 - as Gymnasium has it
    observation_space = spaces.Box(0, 999, (1,), np.float32)
    action_space = spaces.Discrete(2)

    def __init__(self, render_mode: str | None = None, broken: bool = False, length: int = 9):
        self.render_mode, self.broken, self.length = render_mode, broken, length

    def reset(self, *, seed: int | None = None, options: Any = None) -> Any:
        super().reset(seed=seed)
        self.left = self.length + int(self.np_random.integers(5))
        return np.array([self.left], np.float32), {}

    def step(self, action: Any) -> Any:
        self.left -= 1
        return np.array([self.left], np.float32), 1.0 + int(action), self.left == 0, False, {}

    def render(self) -> Any:
        if self.broken:
            raise RuntimeError("no display")
        return np.full((40, 60, 3), self.left % 256, dtype=np.uint8)


@pytest.fixture(autouse=True)
def _registered() -> Iterator[None]:
    gymnasium.register("test/Drawn-v0", entry_point=lambda **options: Drawn(**options))
    yield
    del gymnasium.registry["test/Drawn-v0"]


def actor() -> Any:
    return new_actor(Drawn.observation_space, Drawn.action_space, seed=1)


def test_episodes_are_those_of_the_evaluation() -> None:
    section, policy = TasksSection(gymnasium="test/Drawn-v0"), actor()
    found = filmed(policy, section, 3)["episodes"]
    earned, lengths = episodes(policy, make_world(section, EVALUATION_SEED), 3, EVALUATION_SEED, greedy=True)
    assert [episode["return"] for episode in found] == earned.tolist()
    assert [episode["length"] for episode in found] == lengths.tolist()
    assert len(set(lengths.tolist())) > 1
    for episode in found:
        steps = episode["length"]
        assert [value for (value,) in episode["observations"]] == [steps - n for n in range(steps + 1)]
        assert episode["rewards"] == [1.0 + action for (action,) in episode["actions"]]
        assert [step for step, _ in episode["frames"]] == list(range(steps + 1))
        assert all(frame.startswith("data:image/png;base64,") for _, frame in episode["frames"])
        assert episode["finish"] == "stopped"


def test_long_episodes_are_thinned_evenly_and_keep_their_last_frame() -> None:
    film = Filmed(Drawn("rgb_array", length=500))
    film.reset(seed=0)
    while film.ending == "running":
        film.step(1)
    steps = [step for step, _ in film.frames]
    assert len(steps) <= FRAMES
    assert steps[0] == 0
    assert steps[-1] == len(film.actions)
    assert len(set(np.diff(steps[:-1]))) == 1
    assert [int(frame[0, 0, 0]) for _, frame in film.frames[-2:]] == [(len(film.actions) - steps[-2]) % 256, 0]


def test_what_can_not_be_drawn_is_kept_without_frames(caplog: pytest.LogCaptureFixture) -> None:
    broken = TasksSection(gymnasium="test/Drawn-v0", options={"broken": True})
    with caplog.at_level(logging.WARNING, "policyopt"):
        found = filmed(actor(), broken, 2)["episodes"]
    assert "no display" in caplog.text
    assert [episode["frames"] for episode in found] == [[], []]
    assert all(episode["length"] == len(episode["rewards"]) > 0 for episode in found)


def cheetah() -> tuple[TasksSection, Any]:
    section = TasksSection(gymnasium="HalfCheetah-v5", limit=3)
    env = make_world(section, 0).build()
    return section, new_actor(env.observation_space, env.action_space, seed=1)


def test_mujoco_is_drawn_without_a_display_or_says_what_is_missing(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    for name in ("DISPLAY", "WAYLAND_DISPLAY", "MUJOCO_GL"):
        monkeypatch.delenv(name, raising=False)
    section, policy = cheetah()
    with caplog.at_level(logging.WARNING, "policyopt"):
        (film,) = filmed(policy, section, 1)["episodes"]
    assert film["length"] == 3
    if film["frames"]:
        assert [step for step, _ in film["frames"]] == [0, 1, 2, 3]
        assert len({frame for _, frame in film["frames"]}) > 1
        assert not caplog.text
    else:
        assert "apt-get install libegl1" in caplog.text


def test_mujoco_that_can_not_be_drawn_names_the_remedy(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def fails(*given: Any, **options: Any) -> Any:
        raise RuntimeError("no EGL")

    monkeypatch.setattr("gymnasium.envs.mujoco.mujoco_rendering.MujocoRenderer.render", fails)
    section, policy = cheetah()
    with caplog.at_level(logging.WARNING, "policyopt"):
        (film,) = filmed(policy, section, 1)["episodes"]
    assert film["frames"] == []
    assert "HalfCheetah-v5 can not be drawn here (RuntimeError: no EGL)" in caplog.text
    assert "apt-get install libegl1 libgl1-mesa-dri" in caplog.text


def test_a_display_or_a_choice_of_the_user_is_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.platform", "linux")
    for given, expected in (
        ({}, "egl"),
        ({"DISPLAY": ":0"}, None),
        ({"MUJOCO_GL": "osmesa"}, "osmesa"),
    ):
        for name in ("DISPLAY", "WAYLAND_DISPLAY", "MUJOCO_GL"):
            monkeypatch.delenv(name, raising=False)
        for name, value in given.items():
            monkeypatch.setenv(name, value)
        draw_off_screen()
        assert os.environ.get("MUJOCO_GL") == expected
