"""The catalogue of some families: which parts each paper is made of, and which parts several papers share."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence

from policyopt.compose import AXES
from policyopt.evaluation.methods import axes_of, parts_of
from policyopt.methods import keys, load

FAMILIES = ("A1", "A2")
SHARED = 2  # methods that make a part a shared one
SLOTS = (*AXES, "before", "after")


def catalogue(families: Sequence[str] = FAMILIES) -> str:
    """The page in Markdown, from the compositions alone."""
    methods = {key: load(key) for key in keys()}
    listed = [key for key, method in methods.items() if method.about.family in families]
    users: dict[tuple[str, str], list[str]] = defaultdict(list)
    for key in listed:
        for part in _real_parts(key):
            users[part].append(key)
    lines = [
        "# On-policy catalogue",
        "",
        "Which parts every paper is made of, and which parts several papers share. Made from the compositions,",
        "whenever `policyopt verify` writes a card.",
        "",
        "## Papers",
        "",
        "*Own parts*: those that the method beside it does not use. Cards: [methods](methods/index.md).",
        "",
        "| method | paper | beside | changes | own parts |",
        "|---|---|---|---|---|",
    ]
    for key in sorted(listed, key=lambda key: (methods[key].about.family, key)):
        about = methods[key].about
        beside = _real_parts(about.nearest) if about.nearest in methods else set()
        own = ", ".join(f"`{name}`" for name in _ordered(_real_parts(key) - beside)) or "-"
        axes = ", ".join(axes_of(methods[key])) or "-"
        lines.append(
            f"| [{key}](methods/{key}.md) | {about.title} ({about.paper}) | {about.nearest or '-'} | {axes} | {own} |"
        )
    lines += ["", "## Shared parts", "", "| axis | part | methods | which |", "|---|---|---:|---|"]
    shared = {part: found for part, found in users.items() if len(found) >= SHARED}
    for axis, name in sorted(shared, key=lambda part: (SLOTS.index(part[0]), -len(shared[part]), part[1])):
        found = shared[axis, name]
        which = ", ".join(found) if len(found) <= len(listed) // 2 else "most"
        lines.append(f"| {axis} | `{name}` | {len(found)} | {which} |")
    return "\n".join(lines) + "\n"


def _real_parts(key: str) -> set[tuple[str, str]]:
    """Parts of a method, averages once, without what only joins others."""
    parts = parts_of(load(key))
    return {
        (axis, name)
        for axis, name in parts
        if name not in ("nothing", "chain", "selection") and (axis == "update" or ("update", name) not in parts)
    }


def _ordered(parts: set[tuple[str, str]]) -> list[str]:
    return [name for _, name in sorted(parts, key=lambda part: (SLOTS.index(part[0]), part[1]))]
