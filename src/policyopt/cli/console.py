"""Where commands write, and what they end with."""

from __future__ import annotations

from rich.console import Console

console = Console(highlight=False)
errors = Console(stderr=True, highlight=False)

FAILED = 1
WRONG_INPUT = 2
INTERRUPTED = 130
