"""What testing each method's claim costs: CPU seconds, beside the stored results because they depend on the machine."""

from __future__ import annotations

import json
from pathlib import Path

from policyopt.runtime.atomic import write_atomic

FILE = Path(__file__).parent / "costs.json"


def costs(path: Path = FILE) -> dict[str, float]:
    """By method; methods whose cost was not measured are left out."""
    return json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}


def keep(key: str, seconds: float, path: Path = FILE) -> None:
    """Two significant digits: more would only show what else the machine did."""
    known = {**costs(path), key: float(f"{seconds:.2g}")}
    write_atomic(path, json.dumps(dict(sorted(known.items())), indent=1) + "\n")
