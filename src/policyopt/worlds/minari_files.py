"""Recorded episodes in the format of the Minari library (the extra `minari`)."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from gymnasium import spaces

from policyopt.worlds.recordings import Episode, Recording, RecordingError


def read_minari(where: str | Path, unit: str = "transition") -> Recording:
    """A Minari data set: the folder that holds it (or its `data` folder), or the id of one that is installed under
    MINARI_DATASETS_PATH. Nothing is downloaded. Observations and actions of composite spaces become vectors."""
    minari = _library()
    try:
        return _read(minari, where, unit)
    except RecordingError:
        raise
    except Exception as error:
        # The library raises anything for files that are damaged.
        raise RecordingError(
            f"{str(where)!r} can not be read as a Minari data set: {type(error).__name__}: {error}"
        ) from error


def _read(minari: Any, where: str | Path, unit: str) -> Recording:
    path = Path(where)
    if path.is_dir():
        found = minari.MinariDataset(path / "data" if (path / "data").is_dir() else path)
    else:
        try:
            found = minari.load_dataset(str(where), download=False)
        except FileNotFoundError as error:
            known = ", ".join(sorted(minari.list_local_datasets())) or "none"
            raise RecordingError(
                f"no Minari data set {str(where)!r}: it is neither a folder nor installed. Installed are {known}; "
                f"`minari download {where}` fetches one"
            ) from error
    seen, done = found.observation_space, found.action_space
    return Recording([_episode(one, seen, done) for one in found.iterate_episodes()], unit, str(where))


def write_minari(
    folder: str | Path,
    episodes: Sequence[Episode],
    observation_space: spaces.Space,
    action_space: spaces.Space,
    environment: Any = None,
    name: str | None = None,
) -> Path:
    """Episodes as a Minari data set of one folder, which `minari.MinariDataset(folder / "data")` opens; under
    MINARI_DATASETS_PATH also `minari.load_dataset(name)`, if the folder ends with the name.

    environment: the `EnvSpec` they come from. name: its id in Minari's form, by default the folder's name.
    """
    minari = _library()
    from minari.data_collector import EpisodeBuffer
    from minari.dataset.minari_storage import MinariStorage

    folder = Path(folder)
    if (folder / "data").exists():
        raise RecordingError(f"{folder} holds a data set already; write to another folder")
    folder.mkdir(parents=True, exist_ok=True)
    storage = MinariStorage.new(folder / "data", observation_space, action_space, environment, jpeg_encoding=False)
    buffers = []
    for number, episode in enumerate(episodes):
        steps = len(episode.rewards)
        ended = np.arange(steps) == steps - 1
        buffers.append(
            EpisodeBuffer(
                id=number,
                observations=_cast(episode.observations, observation_space),
                actions=_cast(episode.actions, action_space),
                rewards=np.asarray(episode.rewards, dtype=np.float64),  # pyright: ignore[reportArgumentType]
                terminations=ended & episode.terminated,
                truncations=ended & (not episode.terminated),
            )
        )
    storage.update_episodes(buffers)
    storage.update_metadata({"dataset_id": name or folder.name, "minari_version": minari.__version__})
    return folder


def _library() -> Any:
    try:
        import minari
    except ImportError as error:
        raise RecordingError("Minari data sets need the extra: pip install 'policyopt[minari]'") from error
    return minari


def _cast(values: np.ndarray, space: spaces.Space) -> Any:
    return np.asarray(values).astype(space.dtype)


def _episode(one: Any, seen: spaces.Space, done: spaces.Space) -> Episode:
    rewards = np.asarray(one.rewards)
    return Episode(
        _array(one.observations, seen, len(rewards) + 1),
        _array(one.actions, done, len(rewards)),
        rewards,
        bool(np.asarray(one.terminations)[-1]),
    )


def _array(values: Any, space: spaces.Space, count: int) -> np.ndarray:
    """(count, ...) of a simple space as it is, of a composite one flattened by gymnasium."""
    if isinstance(space, spaces.Box | spaces.Discrete | spaces.MultiDiscrete | spaces.MultiBinary):
        return np.asarray(values)
    if not space.is_np_flattenable:
        raise RecordingError(f"data of the space {space} has no fixed size as an array")
    return np.stack([np.asarray(spaces.flatten(space, _at(values, index))) for index in range(count)])


def _at(values: Any, index: int) -> Any:
    """One step of nested dicts and tuples of arrays."""
    if isinstance(values, dict):
        return {name: _at(part, index) for name, part in values.items()}
    if isinstance(values, tuple):
        return tuple(_at(part, index) for part in values)
    return values[index]
