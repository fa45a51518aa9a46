"""What tests of several processes share: a rank that is lost on purpose, and the marks of modules that start Ray."""

from __future__ import annotations

import os
import time

import pytest

from policyopt.runtime.ranks import Ranks

# Ray's own: handles that its processes close late, and its plans for later versions.
RAY_WARNINGS = [
    pytest.mark.filterwarnings(f"ignore::{name}")
    for name in ("ResourceWarning", "FutureWarning", "DeprecationWarning", "pytest.PytestUnraisableExceptionWarning")
]


def is_lost(ranks: Ranks, signal: int) -> None:
    """Rank 1 ends or freezes in the middle of a phase that it has told of."""
    with ranks.phase("gradients of round 3"):
        ranks.gather(ranks.rank)
        if ranks.rank == 1:
            time.sleep(2)  # so that its phase has been told
            os.kill(os.getpid(), signal)
        ranks.gather(ranks.rank)
