"""Gymnasium environments by id: made, wrapped and checked; their spaces as the steps and states of a policy."""

from __future__ import annotations

import difflib
import importlib
import logging
import traceback
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any

import gymnasium
import numpy as np
from gymnasium import spaces, wrappers

logger = logging.getLogger(__name__)


class UnsuitableEnvironmentError(ValueError):
    """An environment that can not be made, or whose spaces no policy here can act in."""


class EnvironmentFailedError(RuntimeError):
    """An environment that raised; the error it raised is the `__cause__`."""


@dataclass(frozen=True)
class Blaming:
    """A context in which what an environment raises becomes an `EnvironmentFailedError` that names it and its method.
    May be entered again and again. failed: called first when that happens."""

    name: str
    method: str
    failed: Callable[[], None] | None = None

    def __enter__(self) -> None:
        pass

    def __exit__(self, kind: object, error: BaseException | None, trace: TracebackType | None) -> None:
        ours = EnvironmentFailedError | UnsuitableEnvironmentError | MemoryError
        if not isinstance(error, Exception) or isinstance(error, ours):
            return
        if self.failed is not None:
            self.failed()
        *_, last = traceback.extract_tb(trace)
        where, told = f"{last.filename}, line {last.lineno}", error
        if last.filename.endswith("async_vector_env.py"):
            # Gymnasium's worker processes log the traceback; what comes from them is the error in one of its type.
            where, told = "in a worker process", next((e for e in error.args if isinstance(e, Exception)), error)
        raise EnvironmentFailedError(
            f"the environment {self.name} failed: its {self.method} raised {type(error).__name__}: {str(told)[:500]} "
            f"({where}). Mend the environment, or leave out the options that it can not do"
        ) from error


Wrapper = Callable[[gymnasium.Env], gymnasium.Env]


@dataclass(frozen=True)
class Recipe:
    """How one environment is made.

    limit: the policy's steps of an episode (None: the id's own). frame_stack: the last so many observations as one.
    atari: preprocess as gymnasium.wrappers.AtariPreprocessing does (84 x 84 grey frames, 4 frames a step, up to 30
    no-ops), with these options; {} for its defaults. wrappers: applied after that, in order. options: of the
    environment itself.
    """

    id: str
    limit: int | None = None
    frame_stack: int = 1
    atari: Mapping[str, Any] | None = None
    wrappers: tuple[Wrapper, ...] = ()
    options: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.limit is not None and self.limit < 1:
            raise UnsuitableEnvironmentError(f"limit is a number of steps, at least 1, or None; got {self.limit}")
        if self.frame_stack < 1:
            raise UnsuitableEnvironmentError(f"frame_stack is at least 1, got {self.frame_stack}")

    def __call__(self) -> gymnasium.Env:
        options = dict(self.options)
        if self.atari is not None:
            options.setdefault("frameskip", 1)  # AtariPreprocessing skips frames itself
        env = registered(self.id, options, limited=self.limit is None)
        if self.atari is not None:
            env = wrappers.AtariPreprocessing(env, **self.atari)
        if self.frame_stack > 1:
            env = wrappers.FrameStackObservation(env, self.frame_stack)
        for wrap in self.wrappers:
            env = wrap(env)
        if self.limit is not None:  # last, so that it counts the policy's steps
            env = wrappers.TimeLimit(env, self.limit)
        return flattened(env, self.id)


def registered(name: str, options: Mapping[str, Any], *, limited: bool = True) -> gymnasium.Env:
    """`gymnasium.make`, without its checker of every step. limited: with the id's own limit of steps. An unknown id
    names near ones."""
    register_atari(name)
    try:
        own = None if limited else -1
        with _quiet(name):
            return gymnasium.make(name, max_episode_steps=own, disable_env_checker=True, **options)
    except gymnasium.error.UnregisteredEnv as error:
        raise UnsuitableEnvironmentError(unknown(name)) from error
    except gymnasium.error.DependencyNotInstalled as error:
        raise UnsuitableEnvironmentError(f"{name} needs a package that is not installed: {error}") from error
    except gymnasium.error.Error as error:
        raise UnsuitableEnvironmentError(f"Gymnasium can not make {name!r}: {error}") from error


@contextmanager
def _quiet(name: str) -> Iterator[None]:
    """MuJoCo's notices about the model files of Gymnasium's own environments, which are not the user's, go to the log;
    by default each environment made prints them and adds them to a file MUJOCO_LOG.TXT."""
    if "mujoco" not in str(getattr(gymnasium.registry.get(name), "entry_point", "")):
        yield
        return
    try:
        mujoco: Any = importlib.import_module("mujoco")
    except ImportError:  # which gymnasium.make reports
        yield
        return
    before = mujoco.get_mju_user_warning()
    mujoco.set_mju_user_warning(lambda notice: logger.debug("MuJoCo on %s: %s", name, notice))
    try:
        yield
    finally:
        mujoco.set_mju_user_warning(before)


def unknown(name: str) -> str:
    near = difflib.get_close_matches(name, gymnasium.registry, n=3, cutoff=0.5)
    newest = f"; near ones are {', '.join(near)}" if near else ""
    return f"no Gymnasium environment has the id {name!r}{newest}. `gymnasium.pprint_registry()` lists all"


def register_atari(name: str) -> None:
    """Make the ids of the Arcade Learning Environment known, when one of them is asked for."""
    if not (name.startswith("ALE/") or "NoFrameskip" in name):
        return
    try:
        import ale_py
    except ImportError as error:
        raise UnsuitableEnvironmentError(f"{name} needs ale-py: pip install 'policyopt[atari]'") from error
    ale_py.ALEInterface.setLoggerMode(ale_py.LoggerMode.Error)
    gymnasium.register_envs(ale_py)


def flattened(env: gymnasium.Env, name: str) -> gymnasium.Env:
    """Observations as one array: Box and Discrete stay what they are, what gymnasium can flatten becomes a vector."""
    space = env.observation_space
    if isinstance(space, spaces.Box) or (isinstance(space, spaces.Discrete) and space.start == 0):
        return env
    if not space.is_np_flattenable:
        raise UnsuitableEnvironmentError(
            f"observations of {name} are {space}, which has no fixed size as an array; give a wrapper that turns them "
            "into a Box"
        )
    return wrappers.FlattenObservation(env)


@dataclass(frozen=True)
class Actions:
    """An action space as steps: (N,) for Discrete, (N, M) for MultiDiscrete and MultiBinary, (N, D) for Box."""

    space: spaces.Space
    shape: tuple[int, ...]  # of one step
    continuous: bool

    @staticmethod
    def of(space: spaces.Space, name: str) -> Actions:
        if isinstance(space, spaces.Discrete):
            return Actions(space, (), continuous=False)
        if isinstance(space, spaces.MultiDiscrete | spaces.MultiBinary):
            return Actions(space, (int(np.prod(space.shape)),), continuous=False)
        if isinstance(space, spaces.Box):
            return Actions(space, (int(np.prod(space.shape)),), continuous=True)
        raise UnsuitableEnvironmentError(
            f"actions of {name} are {space}; a policy acts in Discrete, MultiDiscrete, MultiBinary or Box spaces. Give "
            "a wrapper that turns them into one of these"
        )

    def send(self, emitted: np.ndarray) -> np.ndarray:
        """(N, ...) as the environments take it: in the space's own shape and type."""
        return emitted.astype(self.space.dtype, copy=False).reshape(len(emitted), *(self.space.shape or ()))

    def singles(self, sent: np.ndarray) -> list[Any]:
        """One action per environment: numbers for a Discrete space, arrays else."""
        return list(sent) if self.shape else sent.tolist()
