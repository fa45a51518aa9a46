"""The state of a run in one file that is either whole or recognised as damaged; the newest good one of a folder.

Several processes that train one run write a folder of the same name instead (`runtime.sharded_checkpoint`).

File: magic (8 bytes), format version (u32), payload length (u64), BLAKE2b digest (32 bytes) of payload, version and
length; then the payload, a torch archive that loads without running code.
"""

from __future__ import annotations

import hashlib
import logging
import re
import struct
from collections import Counter, OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import IO, Any, BinaryIO, cast

import torch

from policyopt.runtime.atomic import DiskFullError, atomic_file, remove_temporary
from policyopt.types import Batch, Categorical, Gaussian, Scores, Tasks

logger = logging.getLogger(__name__)

# Like PNG's: a byte above 127 and both line ends, so that a transfer as text is noticed.
MAGIC = b"\x89POPT\r\n\x1a"
VERSION = 1
_HEADER = struct.Struct(">8sIQ32s")
_CHUNK = 1 << 20
_RECORDS = (Batch, Scores, Categorical, Gaussian, Tasks)
_VALUES = (type(None), bool, int, float, complex, str, bytes, torch.dtype, torch.device, torch.Size)


class CheckpointError(ValueError):
    """A checkpoint that can not be written, read or continued from."""


class DamagedCheckpointError(CheckpointError):
    """A file that was cut short or changed after it was written."""


# -- one file --------------------------------------------------------------------------------------------------
def save(state: Mapping[str, Any], path: Path) -> None:
    """Write nested dicts, lists and tuples of tensors, numbers, strings and batches to one file, atomically.

    Raises CheckpointError for a value that could not be read back, `DiskFullError` if there is no space.
    """
    check(state)
    with atomic_file(Path(path)) as file:
        file.write(bytes(_HEADER.size))
        payload = _Payload(file)
        torch.save(dict(state), cast(IO[bytes], payload))  # it only writes
        payload.finish()
        file.seek(0)
        file.write(_HEADER.pack(MAGIC, VERSION, payload.length, payload.digest(VERSION)))


def load(path: Path) -> dict[str, Any]:
    """Read what `save` wrote. Tensors return to the device they were on, or to the CPU where it does not exist.

    Raises DamagedCheckpointError if a single byte is missing, added or changed.
    """
    if Path(path).is_dir():
        return load_shards(Path(path))
    with Path(path).open("rb") as file:
        _verify(file, Path(path))
        try:
            with torch.serialization.safe_globals(list(_RECORDS)):
                return torch.load(file, map_location=_place, weights_only=True)
        except Exception as error:
            # The library raises anything for files that are damaged.
            raise CheckpointError(
                f"{path} is whole, but holds something this program does not read: {error}. It was written by "
                "another version; use that one"
            ) from error


def load_shards(folder: Path, allocate: Any = None) -> dict[str, Any]:
    """Read what several processes wrote (`runtime.sharded_checkpoint`): whole, or by `allocate` this one's shards."""
    # Imported here because it takes a second that runs of one process need not wait.
    from policyopt.runtime.sharded_checkpoint import read_shards, united, whole

    rest = _whole_shards(folder)
    return united(rest, read_shards(folder, allocate or whole))


def _whole_shards(folder: Path) -> dict[str, Any]:
    """What a folder of shards holds beside them, once every file is as it was written."""
    from policyopt.runtime.sharded_checkpoint import STATE, digests

    if not (folder / STATE).is_file():
        raise DamagedCheckpointError(f"{folder} is no whole checkpoint: it has no {STATE}")
    rest = load(folder / STATE)
    written, found = rest.pop("files"), digests(folder)
    if written != found:
        wrong = sorted(name for name in written | found if written.get(name) != found.get(name))
        raise DamagedCheckpointError(f"{folder} is damaged: {', '.join(wrong)} is not as it was written")
    return rest


def check(value: Any, where: str = "state") -> None:
    """Refuse a value that could be written but not read back; names its place."""
    if isinstance(value, torch.Tensor) or type(value) in _VALUES:
        return
    if isinstance(value, _RECORDS):
        for entry in fields(value):
            check(getattr(value, entry.name), f"{where}.{entry.name}")
    elif type(value) in (dict, OrderedDict, Counter):
        for key, item in value.items():
            check(key, f"a key of {where}")
            check(item, f"{where}[{key!r}]")
    elif type(value) in (list, tuple, set):
        for index, item in enumerate(value):
            check(item, f"{where}[{index}]")
    else:
        raise CheckpointError(
            f"{where} is a {type(value).__name__}, which a checkpoint can not hold; keep tensors, numbers, strings, "
            "batches, and dicts, lists, tuples or sets of them"
        )


class _Payload:
    """Passes torch's writes on to a file, digesting them.

    torch's archive writer does not survive an exception from the file. So the first error is kept, everything after
    it is dropped, and `finish` raises it once the writer is done.
    """

    def __init__(self, file: BinaryIO):
        self._file, self._hash, self._error = file, hashlib.blake2b(digest_size=32), None
        self.length = 0

    def write(self, data: Any) -> int:
        size = memoryview(data).nbytes
        if self._error is None:
            try:
                self._file.write(data)
            except OSError as error:
                self._error = error
            else:
                self._hash.update(data)
                self.length += size
        return size

    def flush(self) -> None:
        """The whole file is flushed once, at its end."""

    def finish(self) -> None:
        if self._error is not None:
            raise self._error

    def digest(self, version: int) -> bytes:
        return _seal(self._hash, version, self.length)


def _seal(payload: Any, version: int, length: int) -> bytes:
    payload.update(struct.pack(">IQ", version, length))
    return payload.digest()


def _verify(file: BinaryIO, path: Path) -> None:
    """Leave the file at its payload, or raise."""
    header = file.read(_HEADER.size)
    if len(header) < _HEADER.size:
        raise DamagedCheckpointError(f"{path} is no whole checkpoint: it ends after {len(header)} bytes")
    magic, version, length, digest = _HEADER.unpack(header)
    if magic != MAGIC:
        raise DamagedCheckpointError(f"{path} is no checkpoint: it begins with {magic!r}, not {MAGIC!r}")
    payload, size = hashlib.blake2b(digest_size=32), 0
    while chunk := file.read(_CHUNK):
        payload.update(chunk)
        size += len(chunk)
    if size != length:
        raise DamagedCheckpointError(f"{path} is damaged: its payload has {size} bytes instead of {length}")
    if _seal(payload, version, length) != digest:
        raise DamagedCheckpointError(f"{path} is damaged: its content does not match its digest")
    if version != VERSION:
        raise CheckpointError(
            f"{path} has checkpoint format {version}, this program reads {VERSION}; use the version that wrote it"
        )
    file.seek(_HEADER.size)


def _place(storage: Any, location: str) -> Any:
    """None (torch's own choice, the saved device) where that exists, else the storage as it is: on the CPU."""
    kind, _, index = location.partition(":")
    counts = {"cuda": torch.cuda.device_count, "mps": torch.backends.mps.is_available}
    return storage if kind in counts and int(index or 0) >= int(counts[kind]()) else None


# -- a folder of them ------------------------------------------------------------------------------------------
@dataclass
class CheckpointStore:
    """The checkpoints of one run, by round. Keeps at least the `keep` newest good ones.

    resume: what the user types to go on after an error.
    """

    folder: Path
    keep: int = 2
    resume: str = "start the run again from its folder"
    _good: set[int] = field(default_factory=set, init=False, repr=False)

    def __post_init__(self) -> None:
        if self.keep < 1:
            raise CheckpointError(f"a run keeps at least 1 checkpoint, not {self.keep}")
        self.folder = Path(self.folder)

    def path(self, step: int) -> Path:
        return self.folder / f"round-{step:08d}.ckpt"

    def steps(self) -> list[int]:
        """Rounds that have a file, good or not, oldest first."""
        if not self.folder.is_dir():
            return []
        names = (re.fullmatch(r"round-(\d{8,})\.ckpt", path.name) for path in self.folder.iterdir())
        return sorted(int(name[1]) for name in names if name)

    def write(self, step: int, state: Mapping[str, Any]) -> Path:
        """Save the state before round `step` and delete what is older than needed."""
        path = self.path(step)
        self._good.discard(step)
        try:
            self._save(state, path)
        except DiskFullError as error:
            kept = [str(self.path(good)) for good in self.steps()]
            intact = f"The earlier checkpoints are intact: {', '.join(kept)}" if kept else "There is no earlier one"
            raise DiskFullError(
                error.errno,
                f"no space left for the checkpoint of round {step} at {path}. {intact}. Free some space, then "
                f"{self.resume}",
            ) from error
        self._good.add(step)
        self._prune()
        return path

    def _save(self, state: Mapping[str, Any], path: Path) -> None:
        save(state, path)

    def _load(self, path: Path) -> dict[str, Any]:
        return load(path)

    def latest(self) -> tuple[int, dict[str, Any]] | None:
        """The newest good checkpoint; None if there is none at all. Damaged ones are skipped with a warning.

        Raises DamagedCheckpointError if there are some and all are damaged.
        """
        steps = self.steps()
        for step in reversed(steps):
            try:
                state = self._load(self.path(step))
            except DamagedCheckpointError as error:
                logger.warning("skipping a checkpoint: %s", error)
                self._good.discard(step)
                continue
            self._good.add(step)
            return step, state
        if steps:
            raise DamagedCheckpointError(
                f"all {len(steps)} checkpoints in {self.folder} are damaged (rounds {steps}); put back a copy of one, "
                "or delete them to start the run from its first round"
            )
        return None

    def _prune(self) -> None:
        """Delete what is older than the `keep` newest good files. Damaged files do not count as kept."""
        remove_temporary(self.folder)
        good = 0
        for step in reversed(self.steps()):
            if good >= self.keep:
                _remove(self.path(step))
                self._good.discard(step)
            elif self._is_good(step):
                good += 1

    def _is_good(self, step: int) -> bool:
        if step not in self._good:
            path = self.path(step)
            try:
                if path.is_dir():
                    _whole_shards(path)
                else:
                    with path.open("rb") as file:
                        _verify(file, path)
            except CheckpointError:
                return False
            self._good.add(step)
        return True


def _remove(path: Path) -> None:
    """A checkpoint, file or folder; of a folder first what makes it whole."""
    if not path.is_dir():
        path.unlink(missing_ok=True)
        return
    for inner in sorted(path.iterdir(), key=lambda inner: inner.suffix != ".ckpt"):
        inner.unlink(missing_ok=True)
    path.rmdir()
