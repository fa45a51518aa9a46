"""Recorded episodes in the format of the Minari library (the extra `minari`)."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from gymnasium import spaces

from policyopt.worlds.recordings import Episode, Recording, RecordingError

LARGEST = 1 << 24  # numbers of one observation or action; episodes
PACKED = 1032  # times a file's size that its numbers can be, at most: what deflate can do
DEPTH = 16  # of groups


def read_minari(where: str | Path, unit: str = "transition") -> Recording:
    """A Minari data set: the folder that holds it (or its `data` folder), or the id of one that is installed under
    MINARI_DATASETS_PATH. Nothing is downloaded. Observations and actions of composite spaces become vectors."""
    minari = _library()
    try:
        folder = _folder(minari, where)
        _check_metadata(json.loads((folder / "metadata.json").read_bytes()), folder)
        for path in folder.glob("*.hdf5"):
            _check_numbers(path)
        return _read(minari.MinariDataset(folder), unit, str(where))
    except RecordingError:
        raise
    except Exception as error:
        # The library raises anything for files that are damaged.
        raise RecordingError(
            f"{str(where)!r} can not be read as a Minari data set: {type(error).__name__}: {str(error)[:500]}"
        ) from error


def _read(found: Any, unit: str, name: str) -> Recording:
    seen, done = found.observation_space, found.action_space
    return Recording([_episode(one, seen, done) for one in found.iterate_episodes()], unit, name)


def _folder(minari: Any, where: str | Path) -> Path:
    path = Path(where)
    if not path.is_dir():
        from minari.storage.datasets_root_dir import get_dataset_path

        path = get_dataset_path(str(where))
    if not path.is_dir():
        known = ", ".join(sorted(minari.list_local_datasets())) or "none"
        raise RecordingError(
            f"no Minari data set {str(where)!r}: it is neither a folder nor installed. Installed are {known}; "
            f"`minari download {where}` fetches one"
        )
    return path / "data" if (path / "data").is_dir() else path


# -- what the library would do if a file said so -----------------------------------------------------------------------
def _check_metadata(said: Any, folder: Path) -> None:
    """RecordingError: without spaces of its own, the library would make the environment that the file names, which
    imports and calls whatever that says; numbers of episodes and sizes of spaces are memory that it takes."""
    spaces_said = [said.get(f"{name}_space") if isinstance(said, dict) else None for name in ("observation", "action")]
    if not all(isinstance(one, str) for one in spaces_said):
        raise RecordingError(
            f"{folder / 'metadata.json'} does not say observation_space and action_space; they are not taken from an "
            "environment, because making one would run what the file names. Write both with `minari`"
        )
    _check_space([json.loads(str(one)) for one in spaces_said])
    episodes = said.get("total_episodes")
    if not isinstance(episodes, int) or not 0 < episodes <= LARGEST:
        raise RecordingError(f"{folder / 'metadata.json'}: total_episodes is 1 to {LARGEST}, not {episodes!r:.50}")


def _check_space(said: Any) -> None:
    if isinstance(said, list):
        for one in said:
            _check_space(one)
    elif isinstance(said, dict):
        sides = said.get("shape", said.get("n", 1)) if said.get("type") != "Discrete" else 1
        numbers = math.prod(abs(side) for side in (sides if isinstance(sides, list) else [sides]))
        if numbers > LARGEST:
            raise RecordingError(f"a space of {numbers:.3g} numbers is too large; at most {LARGEST}")
        _check_space(list(said.values()))


def _check_numbers(path: Path) -> None:
    """RecordingError: an HDF5 file reads other files, or unpacks to more than its bytes can hold."""
    import h5py

    unpacked = 0
    with h5py.File(path, "r") as file:
        waiting: list[Any] = [file]
        met = set(waiting)
        while waiting:
            group = waiting.pop()
            for name in group:
                if not isinstance(group.get(name, getlink=True), h5py.HardLink):
                    raise RecordingError(f"{path}: {group.name}/{name:.50} is a link, which is not followed")
                one = group[name]
                if isinstance(one, h5py.Group):
                    if one in met or str(one.name).count("/") > DEPTH:
                        raise RecordingError(f"{path}: groups within themselves, or more than {DEPTH} deep")
                    met.add(one)
                    waiting.append(one)
                elif isinstance(one, h5py.Dataset):
                    if one.is_virtual or one.external:
                        raise RecordingError(f"{path}: {one.name} has its numbers in other files, which are not read")
                    unpacked += one.nbytes
    most = PACKED * path.stat().st_size
    if unpacked > most:
        raise RecordingError(f"{path} would unpack to {unpacked:.3g} bytes, more than {PACKED} times its size")


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
