"""Files that are written whole or not at all, on any system."""

from __future__ import annotations

import contextlib
import errno
import os
import sys
from collections.abc import Iterator
from io import FileIO
from pathlib import Path
from typing import BinaryIO

# Out of space, over a quota, over a size limit of the process or the file system.
_FULL = (errno.ENOSPC, errno.EFBIG, *([errno.EDQUOT] if hasattr(errno, "EDQUOT") else []))
_TEMPORARY = ".tmp"


class NotWrittenError(OSError):
    """The system refused to write a file. Says which."""


class DiskFullError(NotWrittenError):
    """There was no space for a file. Says which, what is safe and how to go on."""


def is_full(error: OSError) -> bool:
    return error.errno in _FULL


@contextlib.contextmanager
def writing(path: Path) -> Iterator[None]:
    """Turn what the system says of a file that it does not write into an error that names the file."""
    try:
        yield
    except NotWrittenError:
        raise
    except OSError as error:
        if is_full(error):
            raise DiskFullError(error.errno, f"no space left to write {path}: {error.strerror}") from error
        raise NotWrittenError(
            error.errno, f"{path} can not be written: {error.strerror}; see to it, or choose another folder"
        ) from error


def flush_to_disk(file: BinaryIO | FileIO) -> None:
    """Return only when the bytes would survive a power cut."""
    file.flush()
    if sys.platform == "darwin":
        import fcntl

        # fsync on macOS leaves the bytes in the drive's own cache.
        fcntl.fcntl(file.fileno(), fcntl.F_FULLFSYNC)
    else:
        os.fsync(file.fileno())


def flush_folder(folder: Path) -> None:
    """Make a rename durable. Windows has no such call: there a rename is journaled by the file system."""
    if os.name != "posix":
        return
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


@contextlib.contextmanager
def atomic_file(path: Path) -> Iterator[BinaryIO]:
    """A file open for writing (and seeking) that takes its place at `path` when the block ends without an error.

    Until then whatever was at `path` stays; on an error (of any kind) the temporary file is removed.
    Raises `NotWrittenError`.
    """
    path = Path(path)
    temporary = path.with_name(f".{path.name}.{os.getpid()}{_TEMPORARY}")
    with writing(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            with temporary.open("w+b") as file:
                yield file
                flush_to_disk(file)
            os.replace(temporary, path)
        except BaseException:
            with contextlib.suppress(OSError):
                temporary.unlink(missing_ok=True)
            raise
        flush_folder(path.parent)


def write_atomic(path: Path, content: str | bytes) -> None:
    """Write a whole small file, text as UTF-8 with line ends as given."""
    with atomic_file(path) as file:
        file.write(content.encode("utf-8", "backslashreplace") if isinstance(content, str) else content)


def remove_temporary(folder: Path) -> None:
    """Delete what processes that were killed while writing have left behind."""
    for path in folder.glob(f".*{_TEMPORARY}"):
        path.unlink(missing_ok=True)
