"""Episodes of an environment with what happened at every step, and frames where it renders."""

from __future__ import annotations

import os
import sys
from typing import Any

import gymnasium
import numpy as np

FRAMES = 48  # of an episode at most
DISPLAYS = ("DISPLAY", "WAYLAND_DISPLAY")


def draw_off_screen() -> None:
    """Where Linux has no display, MuJoCo draws by EGL: its own default is GLFW, which needs one. MUJOCO_GL in the
    environment is left as it is."""
    if sys.platform.startswith("linux") and not any(map(os.environ.get, DISPLAYS)):
        os.environ.setdefault("MUJOCO_GL", "egl")


def remedy(env: gymnasium.Env) -> str:
    """What helps if an environment can not be drawn."""
    if env.spec is None or "mujoco" not in str(env.spec.entry_point):
        return ""
    return (
        "MuJoCo draws without a display by EGL (Debian: apt-get install libegl1 libgl1-mesa-dri), or by OSMesa "
        "(libosmesa6, with MUJOCO_GL=osmesa)"
    )


class Filmed(gymnasium.Wrapper):
    """Keeps the last episode: `observations` (one more than steps), `actions`, `rewards`, `frames` as (step, (H, W, 3)
    bytes). Every frame is kept until there are too many, then every second, every fourth ..."""

    def __init__(self, env: gymnasium.Env):
        super().__init__(env)
        self.renders = env.render_mode == "rgb_array"
        self._forget()

    def _forget(self) -> None:
        self.observations: list[np.ndarray] = []
        self.actions: list[Any] = []
        self.rewards: list[float] = []
        self.frames: list[tuple[int, np.ndarray]] = []
        self.ending = "running"
        self._every = 1

    def reset(self, **options: Any) -> Any:
        self._forget()
        found = self.env.reset(**options)
        self._saw(found[0])
        return found

    def step(self, action: Any) -> Any:
        found = self.env.step(action)
        self.actions.append(np.asarray(action).copy())
        self.rewards.append(float(found[1]))
        self.ending = "stopped" if found[2] else "truncated" if found[3] else "running"
        self._saw(found[0])
        return found

    def _saw(self, observation: Any) -> None:
        self.observations.append(np.asarray(observation).copy())
        step = len(self.actions)
        if not self.renders or (step % self._every and self.ending == "running"):
            return
        frame: Any = self.env.render()
        self.frames.append((step, np.asarray(frame, dtype=np.uint8).copy()))
        if len(self.frames) > FRAMES:
            self._every *= 2
            self.frames = [(at, kept) for at, kept in self.frames if at % self._every == 0 or at == step]
