"""Trackers get the numbers of metrics.jsonl and can not harm a run. Real ones are asked back by their own readers."""

from __future__ import annotations

import importlib.util
import json
import logging
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import tiny

from policyopt.runtime import trackers
from policyopt.runtime.folder import Record, RunFolder
from policyopt.runtime.journal import read_metrics

ROUNDS = ({"reward": 0.25, "loss/policy": -1e-9, "length": 7.0}, {"reward": float("nan"), "loss/policy": 3.5})


@pytest.fixture
def folder(tmp_path: Path) -> RunFolder:
    return RunFolder.create(tmp_path / "run", "name: run\nstages:\n- method: grpo\n  steps: 2\n", "loss\n")


class Fake:
    """A tracker in memory that breaks where it is told to."""

    def __init__(self, breaks: str = ""):
        self.breaks, self.told, self.asked = breaks, [], 0
        self._maybe("start")

    def _maybe(self, where: str) -> None:
        if self.breaks == where:
            raise ConnectionError(f"no network at {where}")

    def round(self, step: int, values: Any) -> None:
        self.asked += 1
        self._maybe(f"round {step}")
        self.told.append((step, dict(values)))

    def close(self) -> None:
        self._maybe("close")


def recorded(folder: RunFolder, names: tuple[str, ...]) -> None:
    with Record(folder, 0, names) as record:
        for step, metrics in enumerate(ROUNDS):
            record.round(step, metrics, {"seconds": 1.0})


def test_trackers_are_told_what_the_journal_keeps(folder: RunFolder, monkeypatch: pytest.MonkeyPatch) -> None:
    fake = Fake()
    monkeypatch.setitem(trackers.TRACKERS, "fake", lambda path, key, config: fake)
    recorded(folder, ("fake",))
    for step, (line, (told_at, told)) in enumerate(zip(read_metrics(folder.metrics), fake.told, strict=True)):
        assert told_at == line.pop("step") == step
        assert told.pop("time/seconds") == 1.0
        assert repr(sorted(told.items())) == repr(sorted(line.items()))


@pytest.mark.parametrize("where", ["start", "round 0", "round 1", "close"])
def test_a_tracker_that_fails_is_left_out_with_one_warning(
    where: str, folder: RunFolder, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    made: list[Fake] = []

    def start(path: Path, key: str, config: Any) -> Fake:
        made.append(Fake(where))
        return made[-1]

    good = Fake()
    monkeypatch.setitem(trackers.TRACKERS, "bad", start)
    monkeypatch.setitem(trackers.TRACKERS, "good", lambda path, key, config: good)
    with caplog.at_level(logging.WARNING, "policyopt"):
        recorded(folder, ("bad", "good"))
    assert [f"no network at {where}" in record.getMessage() for record in caplog.records] == [True]
    assert len(good.told) == len(read_metrics(folder.metrics)) == 2
    assert sum(fake.asked for fake in made) == {"start": 0, "round 0": 1, "round 1": 2, "close": 2}[where]


def test_a_run_goes_on_under_its_name(folder: RunFolder, monkeypatch: pytest.MonkeyPatch) -> None:
    keys: list[str] = []
    configs: list[Any] = []

    def start(path: Path, key: str, config: Any) -> Fake:
        keys.append(key)
        configs.append(config)
        return Fake()

    monkeypatch.setitem(trackers.TRACKERS, "fake", start)
    for _ in range(2):
        recorded(folder, ("fake",))
    assert len(set(keys)) == 1
    assert len(keys) == 2
    assert configs[0]["stages"] == [{"method": "grpo", "steps": 2}]


def test_unknown_and_missing_trackers_are_errors_before_training(
    tmp_path: Path, command: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, tasks = tiny.folder(tmp_path / "model"), tiny.jsonl(tmp_path / "sums.jsonl", tiny.sums())
    made = tiny.recipe(tmp_path / "r.yaml", {"model": str(model)}, {"jsonl": str(tasks), "verifier": "exact"})
    called = command("train", made, "trackers=[wandbb]")
    assert called.code == 2
    assert "trackers" in called.err
    assert "wandb" in called.err
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    called = command("train", made, "trackers=[mlflow]")
    assert called.code == 2
    assert "pip install 'policyopt[mlflow]'" in called.err
    assert not (tmp_path / "run").exists()


# -- the real ones -------------------------------------------------------------------------------------------------
RECORD = """
import sys
from policyopt.runtime.folder import Record, RunFolder
folder, first, name = RunFolder.open(sys.argv[1]), int(sys.argv[2]), sys.argv[3]
rounds = ({"reward": 0.25, "loss/policy": -1e-9, "length": 7.0}, {"reward": 1.5, "loss/policy": 3.5}, {"reward": 2.5})
with Record(folder, first, (name,)) as record:
    for step in range(first, len(rounds) if first else 2):
        record.round(step, rounds[step], {"seconds": 1.0})
"""
# One line of JSON: {metric: [[step, value], ...]}, read by the tracker's own reader.
READ = {
    "wandb": """
import glob, json, struct, sys
from wandb.proto import wandb_internal_pb2

def records(data):  # LevelDB's log format behind a header of 7 bytes: blocks of 32 kB, records that may span them
    assert data[:4] == b":W&B", data[:8]
    at, whole = 7, b""
    while at + 7 <= len(data):
        if 32768 - at % 32768 < 7:
            at += 32768 - at % 32768
            continue
        _, length, part = struct.unpack("<IHB", data[at : at + 7])
        whole += data[at + 7 : at + 7 + length]
        at += 7 + length
        if part in (1, 4):
            yield whole
            whole = b""

found = {}
for path in sorted(glob.glob(sys.argv[1] + "/wandb/offline-run-*/*.wandb")):
    for data in records(open(path, "rb").read()):
        record = wandb_internal_pb2.Record()
        record.ParseFromString(data)
        if record.WhichOneof("record_type") == "history":
            items = {item.key or "/".join(item.nested_key): json.loads(item.value_json) for item in record.history.item}
            for name, value in items.items():
                if not name.startswith("_"):
                    found.setdefault(name, []).append([items["_step"], value])
print(json.dumps(found))
""",
    "mlflow": """
import json, sys, mlflow
client = mlflow.MlflowClient(tracking_uri="sqlite:///" + sys.argv[1] + "/mlflow.db")
(run,) = client.search_runs([client.get_experiment_by_name("policyopt").experiment_id])
assert run.info.status == "FINISHED" and run.data.params["stages.0.method"] == "grpo", run
names = run.data.metrics
print(json.dumps({n: [[m.step, m.value] for m in client.get_metric_history(run.info.run_id, n)] for n in names}))
""",
    "trackio": """
import json, trackio
from trackio.sqlite_storage import SQLiteStorage
(run,) = trackio.Api().runs("policyopt")
assert run.config["stages"][0]["method"] == "grpo", run.config
found = {}
for line in SQLiteStorage.get_logs("policyopt", run.name, run_id=run.id):
    for name, value in line.items():
        if name not in ("step", "timestamp"):
            found.setdefault(name, []).append([line["step"], value])
print(json.dumps(found))
""",
}


@pytest.mark.parametrize("name", list(READ))
def test_the_real_tracker_holds_the_same_numbers_after_a_resumed_run(name: str, folder: RunFolder) -> None:
    if importlib.util.find_spec(name) is None:
        pytest.skip(f"{name} is not installed: pip install 'policyopt[{name}]'")
    silent = {
        "WANDB_MODE": "offline", "WANDB_SILENT": "true", "WANDB_ERROR_REPORTING": "false",
        "TRACKIO_DIR": str(folder.path / "trackio"), "HF_HUB_OFFLINE": "1", "MLFLOW_DISABLE_TELEMETRY": "true",
        "DO_NOT_TRACK": "1",
    }  # fmt: skip
    given = {key: value for key, value in os.environ.items() if not key.startswith(("WANDB", "MLFLOW", "TRACKIO"))}

    def run(code: str, *arguments: str) -> str:
        done = subprocess.run(
            [sys.executable, "-W", "ignore", "-c", code, str(folder.path), *arguments],
            env={**given, **silent}, capture_output=True, text=True, timeout=300, check=False,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr[-3000:]
        assert "left out" not in done.stderr, done.stderr[-3000:]
        return done.stdout

    run(RECORD, "0", name)
    run(RECORD, "2", name)
    found = json.loads(run(READ[name]).strip().splitlines()[-1])
    expected: dict[str, list[list[float]]] = {}
    for line in read_metrics(folder.metrics):
        for metric, value in line.items():
            if metric != "step":
                expected.setdefault(metric, []).append([line["step"], value])
    assert {metric: values for metric, values in found.items() if metric in expected} == expected
    assert found["time/seconds"] == [[step, 1.0] for step in range(3)]
