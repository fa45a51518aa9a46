"""Files of one JSON object a line that grow round by round and can be cut back to a round."""

from __future__ import annotations

import json
import logging
import math
from collections.abc import Iterator, Mapping
from io import FileIO
from pathlib import Path
from typing import Any

from policyopt.runtime.atomic import flush_to_disk, write_atomic, writing

logger = logging.getLogger(__name__)


class Journal:
    """Append-only lines `{"step": round, ...}`, keys sorted, floats in full: equal records are equal bytes.

    JSON has no nan and no infinities; they are written as the strings "nan", "inf" and "-inf", which `float` reads.
    """

    def __init__(self, path: Path):
        self.path = Path(path)
        self._file: FileIO | None = None

    def append(self, step: int, record: Mapping[str, Any]) -> None:
        """One line, in the hands of the operating system when this returns. Raises `DiskFullError`."""
        line = _encode({**record, "step": step})
        with writing(self.path):
            if self._file is None:
                # Unbuffered, so that bytes a full disk refused are not tried again when the file is closed.
                self._file = self.path.open("ab", buffering=0)
            while line:
                line = line[self._file.write(line) :]

    def sync(self) -> None:
        """Return only when every line would survive a power cut."""
        if self._file is not None:
            with writing(self.path):
                flush_to_disk(self._file)

    def cut(self, step: int) -> int:
        """Drop the lines of rounds >= `step`, a half-written last line and damaged ones, atomically. Returns lines
        kept."""
        self.close()
        if not self.path.exists():
            return 0
        old = self.path.read_bytes()
        whole = list(_lines(old))
        if (lost := old.count(b"\n") - len(whole)) > 0:
            logger.warning("%s: %d damaged lines are left out", self.path, lost)
        kept = [line for line, record in whole if record["step"] < step]
        content = b"".join(kept)
        if content != old:
            write_atomic(self.path, content)
        return len(kept)

    def close(self) -> None:
        if self._file is not None:
            self._file.close()
            self._file = None


def read(path: Path) -> list[dict[str, Any]]:
    """The whole lines of a journal, also of one that is being written; [] if there is none."""
    return [record for _, record in _lines(Path(path).read_bytes())] if Path(path).exists() else []


def read_metrics(path: Path) -> list[dict[str, Any]]:
    """`read`, with "nan", "inf" and "-inf" as the floats they were."""
    return [{name: _number(value) for name, value in record.items()} for record in read(path)]


def _number(value: Any) -> Any:
    return float(value) if value in ("nan", "inf", "-inf") else value


def _lines(content: bytes) -> Iterator[tuple[bytes, dict[str, Any]]]:
    """Whole lines and their records. Passed over: one that was never finished (killed), never reached the disk (a power
    cut leaves zeros there) or was damaged since."""
    for line in content.split(b"\n")[:-1]:
        try:
            record = json.loads(line)
        except (ValueError, RecursionError):
            continue
        if isinstance(record, dict) and type(record.get("step")) is int:
            yield line + b"\n", record


def _encode(record: Mapping[str, Any]) -> bytes:
    text = json.dumps(_finite(record), sort_keys=True, ensure_ascii=False, allow_nan=False)
    # Half of a surrogate pair (a token cut in two) has no UTF-8; its escape is also its JSON.
    return (text + "\n").encode("utf-8", "backslashreplace")


def _finite(value: Any) -> Any:
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    if isinstance(value, Mapping):
        return {name: _finite(item) for name, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_finite(item) for item in value]
    return value
