"""HDF5 files with things in them that should not be there; and a process of its own for what C may end."""

from __future__ import annotations

import io
import os
import pickle
import resource
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import numpy as np


def planted(blob: bytes, plant: Callable[[h5py.File, Path], None], folder: Path) -> bytes:
    """A file's bytes after something was planted in it."""
    held = io.BytesIO(blob)
    with h5py.File(held, "r+") as file:
        plant(file, folder)
    return held.getvalue()


def _put(file: Any, name: str, **options: Any) -> None:
    del file["episode_0"][name]
    file["episode_0"].create_dataset(name, **options)


def _link(file: Any, name: str, link: Any) -> None:
    del file["episode_0"][name]
    file["episode_0"][name] = link


def _virtual(file: Any, folder: Path) -> None:
    layout = h5py.VirtualLayout((1,), "f8")
    layout[:] = h5py.VirtualSource("/etc/passwd", "x", (1,))
    del file["episode_0"]["rewards"]
    file["episode_0"].create_virtual_dataset("rewards", layout)


def _deep(file: Any, folder: Path) -> None:
    group = file["episode_0"]
    for _ in range(400):
        group = group.create_group("g")


def _ring(file: Any, folder: Path) -> None:
    """A group that is within itself, twice."""
    for name in ("again", "infos"):
        file["episode_0"][name] = file["episode_0"]


PLANTS: dict[str, Callable[[h5py.File, Path], None]] = {
    "a link to another file": lambda file, _: _link(file, "rewards", h5py.ExternalLink("/etc/passwd", "x")),
    "a link to itself": lambda file, _: _link(file, "rewards", h5py.SoftLink("/episode_0/rewards")),
    "numbers of another file": lambda file, _: _put(
        file, "rewards", shape=(8,), dtype="u1", external=[("/etc/passwd", 0, 8)]
    ),
    "numbers of other files by a view": _virtual,
    "a terabyte that is not there": lambda file, _: _put(file, "rewards", shape=(1 << 37,), dtype="f8", chunks=(1024,)),
    "a terabyte, deflated": lambda file, _: _put(
        file, "observations", shape=(2, 1 << 37), dtype="f4", chunks=(1, 1024), compression="gzip"
    ),
    "groups in groups": _deep,
    "a group within itself": _ring,
    "texts for numbers": lambda file, _: _put(file, "rewards", data=np.array(["a"], dtype="S1")),
    "objects for numbers": lambda file, _: _put(
        file, "actions", data=np.array([pickle.dumps(1)], dtype=h5py.special_dtype(vlen=bytes))
    ),
    "not a number": lambda file, _: _put(file, "rewards", data=np.array([np.nan])),
    "no episode": lambda file, _: file.__delitem__("episode_1"),
    "empty": lambda file, _: _put(file, "rewards", shape=(0,), dtype="f8"),
    "nothing at all": lambda file, _: _put(file, "rewards", data=h5py.Empty("f8")),
}


class EndedError(Exception):
    """A process did not come to an end of its own."""


def apart(act: Callable[[], Any], seconds: int = 10) -> None:
    """In a fork. Raises what that raised, and EndedError if it was ended."""
    end, begin = os.pipe()
    child = os.fork()
    if child == 0:
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        signal.alarm(seconds)
        try:
            act()
            told = None
        except BaseException as error:  # noqa: BLE001 - told to the parent
            told = (type(error), str(error))
        os.write(begin, pickle.dumps(told)[:60_000])
        os._exit(0)
    os.close(begin)
    with os.fdopen(end, "rb") as pipe:
        told = pipe.read()
    status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    if status:
        raise EndedError(f"ended with {signal.Signals(-status).name if status < 0 else status}")
    if (wrong := pickle.loads(told)) is not None:
        kind, text = wrong
        found = kind.__new__(kind)
        found.args = (text,)
        raise found
