"""The folder of a run: everything it was told, measured and saved.

recipe.yaml     the full resolved recipe            objective.txt   the executed objective, also as .json
metrics.jsonl   one object a round, no clock in it  timing.jsonl    seconds and rates, one object a round
samples.jsonl   rows as text                        results/        what is computed once: evaluations, summaries
cost.jsonl      what each round generated       alarms.jsonl    what looked wrong, with rows of the round
checkpoints/    the state, to go on from            tensorboard/    event files
model/          the trained policy                  summary.json, plot.png
best/           the policy that was best along the way, if the recipe has it kept
started_in.json  the folder that relative paths of the recipe start from
models/         every named stage's policy and reward models; report.md compares them
"""

from __future__ import annotations

import itertools
import json
import os
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from policyopt.runtime.atomic import write_atomic, writing
from policyopt.runtime.checkpoint import CheckpointStore
from policyopt.runtime.journal import Journal
from policyopt.runtime.trackers import Trackers

_REMEDY = "put back a copy of it, or delete it: what can be computed again will be"


class RunFolderError(ValueError):
    """A folder that is no run, or a name that can not be one."""


@dataclass(frozen=True)
class RunFolder:
    """Names of what lies in a run's folder. Make one with `create` (new run) or `open` (existing run)."""

    path: Path

    @classmethod
    def create(cls, path: Path | str, recipe: str, objective: str) -> RunFolder:
        """A new run. An existing run is never touched: if `path` is not empty, `path-2`, `path-3` ... is taken."""
        wanted = Path(path)
        if not wanted.name:
            raise RunFolderError(f"a run folder needs a name of its own, not {str(path)!r}; give runs/NAME")
        names = itertools.chain([wanted], (wanted.with_name(f"{wanted.name}-{n}") for n in itertools.count(2)))
        try:
            wanted.parent.mkdir(parents=True, exist_ok=True)
            folder = cls(next(name for name in names if _claim(name)))
        except OSError as error:
            raise RunFolderError(f"the run folder {path} can not be made: {error}; choose another") from error
        write_atomic(folder.objective, objective)
        here = os.getcwd()
        write_json(folder.started_in, {"folder": here, "from_run": os.path.relpath(here, folder.path.resolve())})
        write_atomic(folder.recipe, recipe)  # last: a folder with a recipe is a run
        return folder

    @classmethod
    def open(cls, path: Path | str) -> RunFolder:
        """An existing run."""
        folder = cls(Path(path))
        if not folder.recipe.is_file():
            raise RunFolderError(f"{folder.path} is no run: it has no {folder.recipe.name}; give the folder of a run")
        return folder

    # -- where things are ----------------------------------------------------------------------------------
    @property
    def recipe(self) -> Path:
        return self.path / "recipe.yaml"

    @property
    def started_in(self) -> Path:
        return self.path / "started_in.json"

    @property
    def objective(self) -> Path:
        return self.path / "objective.txt"

    @property
    def metrics(self) -> Path:
        return self.path / "metrics.jsonl"

    @property
    def timing(self) -> Path:
        return self.path / "timing.jsonl"

    @property
    def samples(self) -> Path:
        return self.path / "samples.jsonl"

    @property
    def cost(self) -> Path:
        return self.path / "cost.jsonl"

    @property
    def alarms(self) -> Path:
        return self.path / "alarms.jsonl"

    @property
    def results(self) -> Path:
        return self.path / "results"

    @property
    def checkpoints(self) -> Path:
        return self.path / "checkpoints"

    @property
    def tensorboard(self) -> Path:
        return self.path / "tensorboard"

    @property
    def model(self) -> Path:
        return self.path / "model"

    @property
    def best(self) -> Path:
        return self.path / "best"

    @property
    def models(self) -> Path:
        return self.path / "models"

    @property
    def report(self) -> Path:
        return self.path / "report.md"

    @property
    def summary(self) -> Path:
        return self.path / "summary.json"

    @property
    def plot(self) -> Path:
        return self.path / "plot.png"

    @property
    def resume(self) -> str:
        """What the user types to go on with this run."""
        return f"policyopt resume {self.path}"

    # -- reading and writing -------------------------------------------------------------------------------
    def store(self, keep: int = 2) -> CheckpointStore:
        return CheckpointStore(self.checkpoints, keep, f"go on with: {self.resume}")

    def once(self, name: str, compute: Callable[[], Mapping[str, Any]]) -> dict[str, Any]:
        """The result `results/NAME.json`, computed if it is not there yet.

        A run that is stopped inside `compute` computes it again when resumed; one that is stopped later never does.
        """
        path = self.results / f"{name}.json"
        if not path.exists():
            write_json(path, compute())
        return read_json(path)


def write_json(path: Path, value: Mapping[str, Any]) -> None:
    """Atomically, keys sorted, for people and machines. Raises ValueError for nan and infinities."""
    write_atomic(path, json.dumps(value, indent=2, sort_keys=True, allow_nan=False) + "\n")


def read_json(path: Path) -> dict[str, Any]:
    """An object that `write_json` wrote. Raises RunFolderError."""
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise RunFolderError(f"{path} can not be read: {error}; {_REMEDY}") from error
    if not isinstance(found, dict):
        raise RunFolderError(f"{path} holds no JSON object, but {str(found)[:80]!r}; {_REMEDY}")
    return found


def _claim(path: Path) -> bool:
    """Make the folder ours: new, or there and empty. Of runs started together only one gets it."""
    try:
        path.mkdir()
    except FileExistsError:
        if not path.is_dir() or any(path.iterdir()):
            return False
    try:
        RunFolder(path).checkpoints.mkdir()
    except FileExistsError:
        return False
    return True


class Record:
    """The open files of a run while it trains: metrics, timing, samples and event files; and trackers, by name.

    start: the round at which training goes on. Lines of that round and later are dropped: the rounds are run again,
    so the files of a run that was stopped end equal to those of one that was not.
    """

    def __init__(self, folder: RunFolder, start: int = 0, trackers: Sequence[str] = ()):
        # Imported here because it takes a second that commands without training need not wait.
        from torch.utils.tensorboard import SummaryWriter

        self.metrics, self.timing, self.samples = (
            Journal(path) for path in (folder.metrics, folder.timing, folder.samples)
        )
        self.lines = self.metrics.cut(start)
        self.timing.cut(start)
        self.samples.cut(start)
        self._tensorboard, self._hook = folder.tensorboard, threading.excepthook
        threading.excepthook = self._thread_failed
        self._events = SummaryWriter(str(folder.tensorboard), purge_step=start)
        self._trackers = Trackers(folder, trackers)

    def round(self, step: int, metrics: Mapping[str, float], timing: Mapping[str, float]) -> None:
        """What one round measured."""
        self.metrics.append(step, metrics)
        self.timing.append(step, timing)
        values = {**metrics, **{f"time/{name}": value for name, value in timing.items()}}
        with writing(self._tensorboard):
            for name, value in values.items():
                self._events.add_scalar(name, value, step)
        self._trackers.round(step, values)

    def sync(self) -> None:
        """Before a checkpoint: no checkpoint may be newer than the lines of its rounds."""
        with writing(self._tensorboard):
            self._events.flush()
        for journal in (self.metrics, self.timing, self.samples):
            journal.sync()

    def close(self) -> None:
        for journal in (self.metrics, self.timing, self.samples):
            journal.close()
        try:
            with writing(self._tensorboard):
                self._events.close()
        finally:
            threading.excepthook = self._hook
            self._trackers.close()

    def _thread_failed(self, failed: threading.ExceptHookArgs) -> None:
        """What TensorBoard's thread can not write its writer raises again in this one, where it is told in words."""
        if not (type(failed.thread).__name__ == "_AsyncWriterThread" and isinstance(failed.exc_value, OSError)):
            self._hook(failed)

    def __enter__(self) -> Record:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()
