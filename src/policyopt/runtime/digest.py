"""What a file or folder holds, as a size and a digest that take bounded time, however large it is."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path

WHOLE = 256 * 2**20  # bytes: so much is read to the last byte; of more, samples of as much in all
SAMPLES = 64  # of a file that is not read whole, evenly spread, its first and last bytes among them
READ = 10_000  # files of a folder, evenly spread; of all of them, names and sizes count


def digest(path: Path | str) -> str:
    """Size and blake2b of a file, or of the names, sizes and contents of a folder's files, whatever it is called.

    Up to `WHOLE` bytes are read whole. What is larger shares them equally among its files, and a file that is larger
    than its share is read at `SAMPLES` places: a change between them that keeps the size is not seen. Hidden files and
    caches of `datasets` (cache-*) do not count. OSError: it can not be read.
    """
    path = Path(path)
    files = [("", path)] if path.is_file() else _files(path)
    sizes = [file.stat().st_size for _, file in files]
    total = sum(sizes)
    every = max(1, -(-len(files) // READ))
    share = WHOLE if total <= WHOLE else max(SAMPLES, WHOLE * every // len(files))
    found = hashlib.blake2b(digest_size=16)
    for index, ((name, file), size) in enumerate(zip(files, sizes, strict=True)):
        found.update(f"{name}\0{size}\0".encode(errors="surrogateescape"))
        if index % every == 0:
            _read(file, size, share, found)
    return f"{total} bytes, blake2b {found.hexdigest()}"


def _files(folder: Path) -> list[tuple[str, Path]]:
    """(path in the folder, path), sorted."""
    found = []
    for here, folders, names in os.walk(folder):
        folders[:] = [name for name in folders if name[0] != "."]
        kept = [Path(here, name) for name in names if name[0] != "." and not name.startswith("cache-")]
        found += [(file.relative_to(folder).as_posix(), file) for file in kept if file.is_file()]
    return sorted(found)


def _read(file: Path, size: int, share: int, found: hashlib.blake2b) -> None:
    with file.open("rb") as opened:
        if size <= share:
            while part := opened.read(2**20):
                found.update(part)
            return
        length = share // SAMPLES
        for sample in range(SAMPLES):
            opened.seek((size - length) * sample // (SAMPLES - 1))
            found.update(opened.read(length))
