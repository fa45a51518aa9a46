"""Metrics sent to trackers of the user's choice as well. Each is configured by its own environment variables.

wandb    WANDB_PROJECT (default policyopt), WANDB_MODE=offline to keep files, WANDB_DIR (default: the run's folder)
mlflow   MLFLOW_TRACKING_URI (default: a database in the run's folder), MLFLOW_EXPERIMENT_NAME (default policyopt)
trackio  TRACKIO_PROJECT (default policyopt), TRACKIO_DIR (default: its own), TRACKIO_SPACE_ID
"""

from __future__ import annotations

import importlib
import importlib.util
import logging
import os
import queue
import threading
import time
import uuid
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, Protocol

import yaml

logger = logging.getLogger(__name__)

TrackerName = Literal["wandb", "mlflow", "trackio"]
PROJECT = "policyopt"
PATIENCE = 60.0  # seconds that a tracker may take for one round


class Tracker(Protocol):
    """Where metrics go besides the run's own files."""

    def round(self, step: int, values: Mapping[str, float]) -> None: ...
    def close(self) -> None: ...


def missing(names: Sequence[str]) -> list[str]:
    """Trackers whose packages are not installed."""
    return [name for name in names if importlib.util.find_spec(name) is None]


class Guarded:
    """A tracker that can do no harm: what fails or does not answer is left out from then on, with one warning.

    It works in a thread of its own, so that a server that is gone costs `PATIENCE` seconds once.
    """

    def __init__(self, name: str, start: Callable[[], Tracker]):
        self.name = name
        self._asked: queue.SimpleQueue[Callable[[], Any] | None] = queue.SimpleQueue()
        self._answers: queue.SimpleQueue[tuple[Any, BaseException | None]] = queue.SimpleQueue()
        threading.Thread(target=self._work, name=f"policyopt-{name}", daemon=True).start()
        self._tracker: Tracker | None = self._try("start", start)

    def round(self, step: int, values: Mapping[str, float]) -> None:
        if (tracker := self._tracker) is not None:
            self._try(f"round {step}", lambda: tracker.round(step, values))

    def close(self) -> None:
        if (tracker := self._tracker) is not None:
            self._try("close", tracker.close)
            self._tracker = None
            self._asked.put(None)

    def _try(self, phase: str, act: Callable[[], Any]) -> Any:
        self._asked.put(act)
        try:
            value, error = self._answers.get(timeout=PATIENCE)
        except queue.Empty:
            value, error = None, TimeoutError(f"no answer within {PATIENCE:g} s")
        if error is None:
            return value
        self._tracker = None
        self._asked.put(None)
        logger.warning(
            "tracker %s, phase %s: left out from here on (%s: %s); the run's own metrics.jsonl and TensorBoard have "
            "everything",
            self.name,
            phase,
            type(error).__name__,
            error,
        )
        return None

    def _work(self) -> None:
        while (act := self._asked.get()) is not None:
            try:
                self._answers.put((act(), None))
            except (Exception, SystemExit) as error:  # noqa: BLE001 - networks, servers and their clients raise anything
                self._answers.put((None, error))


class Wandb:
    """Weights & Biases."""

    def __init__(self, folder: Path, key: str, config: Mapping[str, Any]):
        self._run: Any = importlib.import_module("wandb").init(
            project=os.environ.get("WANDB_PROJECT", PROJECT),
            name=folder.name,
            id=key,
            resume="allow",
            dir=os.environ.get("WANDB_DIR", str(folder)),
            config=dict(config),
            reinit="create_new",
        )

    def round(self, step: int, values: Mapping[str, float]) -> None:
        self._run.log(dict(values), step=step)

    def close(self) -> None:
        self._run.finish()


class Mlflow:
    """MLflow, by a client of its own: what the program does with `mlflow` itself is not touched."""

    def __init__(self, folder: Path, key: str, config: Mapping[str, Any]):
        mlflow: Any = importlib.import_module("mlflow")
        own = f"sqlite:///{(folder / 'mlflow.db').resolve()}"
        self._client = mlflow.MlflowClient(tracking_uri=os.environ.get("MLFLOW_TRACKING_URI", own))
        name = os.environ.get("MLFLOW_EXPERIMENT_NAME", PROJECT)
        found = self._client.get_experiment_by_name(name)
        experiment = self._client.create_experiment(name) if found is None else found.experiment_id
        before = self._client.search_runs([experiment], f"tags.policyopt = '{key}'")
        if before:
            self._id = before[0].info.run_id
            self._client.update_run(self._id, "RUNNING")
        else:
            made = self._client.create_run(experiment, tags={"policyopt": key}, run_name=folder.name)
            self._id = made.info.run_id
            for param, value in _flat(config).items():
                self._client.log_param(self._id, param, str(value)[:500])
        self._metric = importlib.import_module("mlflow.entities").Metric

    def round(self, step: int, values: Mapping[str, float]) -> None:
        now = int(1000 * time.time())
        self._client.log_batch(self._id, [self._metric(name, value, now, step) for name, value in values.items()])

    def close(self) -> None:
        self._client.set_terminated(self._id)


class Trackio:
    """Trackio."""

    def __init__(self, folder: Path, key: str, config: Mapping[str, Any]):
        self._run: Any = importlib.import_module("trackio").init(
            project=os.environ.get("TRACKIO_PROJECT", PROJECT),
            name=f"{folder.name}-{key[:6]}",  # names are its identities
            config=dict(config),
            resume="allow",
            embed=False,
            auto_log_gpu=False,
            auto_log_cpu=False,
        )

    def round(self, step: int, values: Mapping[str, float]) -> None:
        self._run.log(dict(values), step=step)

    def close(self) -> None:
        self._run.finish()


TRACKERS: Mapping[str, Callable[[Path, str, Mapping[str, Any]], Tracker]] = {
    "wandb": Wandb, "mlflow": Mlflow, "trackio": Trackio,
}  # fmt: skip


class Trackers:
    """Those that a run asks for. A run that is resumed goes on under the names it had."""

    def __init__(self, folder: Any, names: Sequence[str] = ()):
        self._held: list[Guarded] = []
        if not names:
            return
        key = folder.once("trackers", lambda: {"key": uuid.uuid4().hex})["key"]
        config = yaml.safe_load(folder.recipe.read_text(encoding="utf-8"))
        for name in names:
            made = TRACKERS[name]
            self._held.append(Guarded(name, lambda made=made: made(folder.path, key, config)))

    def round(self, step: int, values: Mapping[str, float]) -> None:
        for tracker in self._held:
            tracker.round(step, values)

    def close(self) -> None:
        for tracker in self._held:
            tracker.close()


def _flat(config: Any, place: str = "") -> dict[str, Any]:
    """Nested sections as `a.b.0.c`."""
    items = config.items() if isinstance(config, Mapping) else enumerate(config) if isinstance(config, list) else None
    if items is None:
        return {place: config}
    found: dict[str, Any] = {}
    for name, value in items:
        found |= _flat(value, f"{place}.{name}" if place else str(name))
    return found
