"""Planted bugs of the guarded grader: its trap tests must reject each. The worker is a script, so a bug is planted in a
copy of it."""

from __future__ import annotations

import shutil
import sys
from pathlib import Path

import pytest

from policyopt.worlds import grading_worker
from policyopt.worlds.grading import Grade, Grader, GradingError

sys.path[:0] = [str(Path(__file__).parent)]

import test_grading  # noqa: E402
from test_grading import hostile  # noqa: E402, F401 - a fixture

# What stands in the worker, and what the bug puts there.
PLANTED = {
    "nothing is refused": ("        sys.addaudithook(self._audit)\n", ""),
    "swallowed refusals are forgiven": ("            if guard.refusals:\n", "            if False:\n"),
    "nan is a score": ("math.isfinite(", "bool("),
}


def copied(folder: Path) -> Path:
    """The worker in a copy of the package."""
    package = Path(grading_worker.__file__).parents[1]
    shutil.copytree(package, folder / "copy", ignore=shutil.ignore_patterns("__pycache__"))
    return folder / "copy" / "worlds" / "grading_worker.py"


@pytest.mark.parametrize("name", PLANTED)
def test_a_leaking_worker_is_rejected(name, hostile, tmp_path, monkeypatch):  # noqa: F811
    right, wrong = PLANTED[name]
    script = copied(tmp_path)
    source = script.read_text(encoding="utf-8")
    assert right in source
    script.write_text(source.replace(right, wrong), encoding="utf-8")
    monkeypatch.setattr(grading_worker, "__file__", str(script))
    with pytest.raises(AssertionError):
        test_grading.test_trap_50_forbidden_acts_and_faults_are_contained(hostile)


def test_a_copy_without_a_bug_is_accepted(hostile, tmp_path, monkeypatch):  # noqa: F811
    monkeypatch.setattr(grading_worker, "__file__", str(copied(tmp_path)))
    test_grading.test_trap_50_forbidden_acts_and_faults_are_contained(hostile)


def test_a_failed_start_that_passes_for_unscored_rows_is_rejected(tmp_path, monkeypatch):
    right = Grader.grade

    def wrong(self, texts, indices):
        try:
            return right(self, texts, indices)
        except GradingError as error:
            return [Grade(None, str(error), 0.0) for _ in texts]

    monkeypatch.setattr(Grader, "grade", wrong)
    with pytest.raises(pytest.fail.Exception):
        test_grading.test_trap_47_a_worker_that_does_not_start_is_named(
            tmp_path, monkeypatch, "raise OSError('no licence')", "no licence"
        )
