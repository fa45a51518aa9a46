"""Hostile inputs: values that are nearly right, and bytes that were damaged."""

from __future__ import annotations

import copy
import json
from typing import Any

from hypothesis import strategies as st
from hypothesis.strategies import SearchStrategy

NUMBERS = (0, -1, 1, 2**31, -(2**63), 10**30, 0.5, -0.0, 1e308, float("nan"), float("inf"))
TEXTS = (
    "",
    " ",
    "\0",
    "\ud800",
    "é" * 50,
    "a" * 5000,
    "../../etc/passwd",
    "{a.__class__}",
    "{",
    "%s",
    "nan",
    "1e999",
    "true",
    "null",
    "__import__('os').system('touch /tmp/policyopt-planted')",
    "policyopt.plain:from_json",
    "~",
    "-",
    "a: b",
    "hub:x/y",
)
LEAVES: SearchStrategy[Any] = st.one_of(
    st.none(),
    st.booleans(),
    st.sampled_from(NUMBERS),
    st.integers(-3, 300),
    st.sampled_from(TEXTS),
    st.text(max_size=8),
)
VALUES: SearchStrategy[Any] = st.recursive(
    LEAVES,
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=6) | st.sampled_from(TEXTS), inner, max_size=3)
    ),
    max_leaves=6,
)


@st.composite
def changed(draw: st.DrawFn, trees: list[Any]) -> Any:
    """One of some trees of JSON with up to three places changed: replaced, taken out, doubled, renamed, wrapped."""
    tree = copy.deepcopy(draw(st.sampled_from(trees)))
    for _ in range(draw(st.integers(1, 3))):
        holder, key = draw(st.sampled_from(_places(tree) or [([tree], 0)]))
        how = draw(st.sampled_from(("replace", "replace", "replace", "remove", "add", "rename", "wrap")))
        if how == "replace":
            holder[key] = draw(VALUES)
        elif how == "wrap":
            holder[key] = [holder[key]]
        elif how == "remove":
            del holder[key]
        elif isinstance(holder, list):
            holder.insert(key, draw(VALUES) if how == "add" else copy.deepcopy(holder[key]))
        else:
            name = draw(st.sampled_from(TEXTS) | st.text(max_size=6))
            holder[name] = draw(VALUES) if how == "add" else holder.pop(key)
    return tree


def _places(tree: Any) -> list[tuple[Any, Any]]:
    """Every (holder, key) of a tree."""
    found, waiting = [], [tree]
    while waiting:
        one = waiting.pop()
        keys = list(one) if isinstance(one, dict) else range(len(one)) if isinstance(one, list) else ()
        found += [(one, key) for key in keys]
        waiting += [one[key] for key in keys]
    return found


PIECES = (
    b"",
    b"\0",
    b"\xff",
    b"\n",
    b"[" * 3000,
    b"{" * 1200,
    b"9" * 5000,
    b'"',
    b"&a [*a, *a]",
    b"!!python/object:os.system x",
    b"\xef\xbb\xbf",
    b"\\ud800",
    b"- " * 300,
    b"!!timestamp x",
    b"!!int ''",
    b"1e999",
    b": ",
    b"NaN",
)


@st.composite
def damaged(draw: st.DrawFn, contents: list[bytes]) -> bytes:
    """One of some files with bits flipped, a part cut out or repeated, or something put in."""
    content = bytearray(draw(st.sampled_from(contents)))
    for _ in range(draw(st.integers(1, 3))):
        at = draw(st.integers(0, max(0, len(content) - 1)))
        how = draw(st.sampled_from(("flip", "cut", "truncate", "insert", "repeat")))
        if how == "flip" and content:
            content[at] ^= 1 << draw(st.integers(0, 7))
        elif how == "cut":
            del content[at : at + draw(st.integers(1, 64))]
        elif how == "truncate":
            del content[at:]
        elif how == "insert":
            content[at:at] = draw(st.sampled_from(PIECES) | st.binary(max_size=8))
        else:
            content[at:at] = content[at : at + 64]
    return bytes(content)


def as_json(tree: Any) -> bytes:
    return json.dumps(tree).encode()


def as_lines(rows: Any) -> bytes:
    """JSONL of a list; anything else as one line."""
    return b"".join(as_json(row) + b"\n" for row in (rows if isinstance(rows, list) else [rows]))
