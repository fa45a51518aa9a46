"""Tables in Markdown."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

_RULES = {"l": "---", "r": "---:"}


def table(header: Sequence[str], rows: Iterable[Sequence[str]], sides: str) -> str:
    """sides: "l" or "r" for every column; numbers stand on the right. The last one holds for all that follow."""
    rule = [_RULES[side] for side in sides.ljust(len(header), sides[-1])]
    return "\n".join(f"| {' | '.join(row)} |" for row in (header, rule, *rows))
