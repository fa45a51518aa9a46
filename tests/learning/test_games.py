"""The page of games says what was measured: equilibria are reached, and not by scores."""

from pathlib import Path

import pytest

from policyopt.evaluation.statistics import Verdict
from policyopt.evaluation.verify import stored

PAGE = (Path(__file__).parents[2] / "docs" / "games.md").read_text(encoding="utf-8")


@pytest.mark.parametrize("key", ["spo", "dno", "nash_md", "inpo"])
def test_a_game_is_nearly_unexploitable_and_scores_are_not(key):
    result = stored(key)
    assert result is not None
    assert result.verdict is Verdict.SHOWN
    level, limit, scored = result.level, result.criterion["threshold"], result.baseline.values
    assert level.high < limit <= 0.06
    assert min(scored) > 2 * limit
    mean = sum(scored) / len(scored)
    assert f"{level.estimate:.3f} [{level.low:.3f}, {level.high:.3f}] | {limit:g} | {mean:.3f} |" in PAGE
