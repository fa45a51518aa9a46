"""One of the faults that `benchmarks/faults.py` has: broken on purpose, a run ends with the right result."""

import sys
import warnings
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks"))

import faults
from faulting import acts

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="signals processes and reads /proc")


@pytest.fixture(scope="module")
def stage(tmp_path_factory):
    """Runs are forked from this process, whose warnings are errors."""
    patch = pytest.MonkeyPatch()
    patch.setattr(acts, "own_mounts", lambda: False)  # mounts are for a process that ends soon
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        faults.preload()
        yield faults.Stage(tmp_path_factory.mktemp("faults"), 0)
    patch.undo()


def number(workload, kind, what):
    return next(n for n, f in enumerate(faults.FAULTS) if (f.workload, f.kind, f.what) == (workload, kind, what))


def broken(stage, workload, kind, what):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return stage(number(workload, kind, what))


def test_a_run_that_was_killed_and_damaged_is_resumed_exactly(stage):
    seen = broken(stage, "poles", "trainer", "kill -9, truncate the newest checkpoint")
    assert (seen.end, seen.well) == ("resumed", True), seen


@pytest.mark.slow
def test_a_run_that_loses_a_worker_ends_right(stage):
    seen = broken(stage, "words", "grading worker", "kill -9")
    assert (seen.end, seen.well) == ("right", True), seen


def test_there_are_enough_faults_of_every_kind():
    found = [fault for fault in faults.FAULTS if not fault.place]
    assert len(found) >= 50
    assert {"trainer", "grading worker", "sandbox", "compare worker", "judge server", "trainer rank"} <= {
        fault.kind for fault in found
    }


def test_a_wrong_result_and_a_lost_line_are_seen(stage, tmp_path):
    (tmp_path / "results").mkdir()
    (tmp_path / "metrics.jsonl").write_text('{"step": 0}\n{"st')
    (tmp_path / "results" / "a.json").write_text("{}")
    before = faults.recorded(tmp_path)
    assert faults.lost(before, tmp_path) == []
    (tmp_path / "metrics.jsonl").write_text('{"step": 1}\n')
    (tmp_path / "results" / "a.json").unlink()
    assert len(faults.lost(before, tmp_path)) == 2
    first = faults.result(tmp_path)
    (tmp_path / "metrics.jsonl").write_text('{"step": 2}\n')
    assert faults.result(tmp_path) != first
