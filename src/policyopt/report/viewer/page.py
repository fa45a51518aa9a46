"""One HTML file with everything in it. Data are compressed and base64, so no text of a model is ever markup; scripts
and styles run by their digest alone."""

from __future__ import annotations

import base64
import gzip
import hashlib
import json
from importlib.resources import files
from pathlib import Path
from string import Template
from typing import Any

from policyopt.report.viewer.collect import Collected
from policyopt.runtime.atomic import write_atomic

SCRIPTS = ("data", "dom", "charts", "curves", "search", "scenes", "steps", "rollouts", "objective", "main")


def page(collected: Collected | None) -> str:
    """The page with its data, or (None) one that asks its server for them."""
    style = "\n".join((_asset("uplot.min.css"), _asset("style.css")))
    own = "\n".join(_asset(f"{name}.js") for name in SCRIPTS)
    script = f"{_asset('uplot.min.js')}\n(() => {{\n'use strict';\n{own}\n}})();\n"
    policy = {
        "default-src": "'none'",
        "img-src": "data:",
        "style-src": _digest(style),
        "script-src": _digest(script),
        "base-uri": "'none'",
        "form-action": "'none'",
        **({} if collected else {"connect-src": "'self'"}),
    }
    return Template(_asset("page.html")).substitute(
        policy="; ".join(f"{name} {value}" for name, value in policy.items()),
        style=style,
        script=script,
        data="\n".join(_embedded(collected)) if collected else "",
    )


def write_page(collected: Collected, path: Path) -> None:
    """Raises `DiskFullError`."""
    write_atomic(path, page(collected))


def packed(value: Any) -> bytes:
    """JSON, compressed; equal for equal values."""
    return gzip.compress(json.dumps(value, separators=(",", ":")).encode(), 6, mtime=0)


def _embedded(collected: Collected) -> list[str]:
    parts = {"index": collected.index} | {f"chunk-{n}": chunk for n, chunk in enumerate(collected.chunks)}
    return [
        f'<script type="application/octet-stream" id="data-{name}">{base64.b64encode(packed(part)).decode()}</script>'
        for name, part in parts.items()
    ]


def _digest(text: str) -> str:
    return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"


def _asset(name: str) -> str:
    return (files("policyopt.report.viewer") / "assets" / name).read_text(encoding="utf-8")
