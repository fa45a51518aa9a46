"""Evaluation while a run trains, every so many rounds, and the model that was the best so far.

What is found is part of the round's metrics (`eval/NAME`), so a resumed run drops it with the rounds after its
checkpoint and finds it again with them. A model that is the best yet waits beside `best` until there is a checkpoint of
its round, so `best` is never of rounds that a resumed run does not know.
"""

from __future__ import annotations

import contextlib
import os
import random
import shutil
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError

from policyopt.recipe.base import Recipe, RecipeError
from policyopt.recipe.kinds import Subject
from policyopt.recipe.outcome import measures
from policyopt.runtime.atomic import flush_folder, flush_to_disk, writing
from policyopt.runtime.folder import RunFolder, RunFolderError, read_json, write_json

PREFIX = "eval/"


@contextlib.contextmanager
def untouched() -> Iterator[None]:
    """The global random numbers, which environments and verifiers may use, go on behind the block as before it."""
    torches, arrays, plain = torch.get_rng_state(), np.random.get_state(), random.getstate()
    try:
        yield
    finally:
        torch.set_rng_state(torches)
        np.random.set_state(arrays)
        random.setstate(plain)


@contextlib.contextmanager
def saving(run: RunFolder, path: Path) -> Iterator[None]:
    """RunFolderError: the system refuses to write a model."""
    try:
        yield
    except (OSError, SafetensorError) as error:
        raise RunFolderError(
            f"the model can not be saved in {path}: {error}. It is safe in the last checkpoint: free "
            f"some space or choose another disk, then {run.resume}"
        ) from error


def check_evaluation(recipe: Recipe, subject: Subject) -> None:
    """RecipeError: nothing is measured along the way, or not what the best model is chosen by."""
    asked = recipe.evaluation
    if asked is None or asked.every is None:
        return
    known = list(subject.measured)
    if not known:
        raise RecipeError("evaluation.every has no effect: nothing can be measured of these tasks; remove it")
    if asked.keep_best is not None and asked.keep_best not in known:
        raise RecipeError(f"evaluation.keep_best={asked.keep_best!r} is not measured of these tasks; there are {known}")


def as_metrics(measured: Mapping[str, Any]) -> dict[str, float]:
    """The measures of an evaluation by the names that they have among a round's metrics."""
    return {f"{PREFIX}{name}": float(measured[name]) for name in measures(measured)}


class Best:
    """The folder `best` of a run: the model of the highest value so far of one measure (of equal ones the first), and
    `evaluation.json`, which says the value and after how many rounds it was found (`kept`)."""

    def __init__(self, run: RunFolder, measure: str, save: Callable[[Path], None]):
        self._run, self._measure, self._save = run, measure, save
        self._making, self._next, self._old = (run.path / f".best-{state}" for state in ("making", "next", "old"))
        self.kept: dict[str, Any] | None = None

    def offer(self, rounds: int, values: Mapping[str, float]) -> None:
        """The model as it is, after so many rounds."""
        value = values.get(f"{PREFIX}{self._measure}")
        if value is None or (self.kept is not None and not value > self.kept["value"]):
            return
        found = {"round": rounds, "measure": self._measure, "value": value}
        with saving(self._run, self._making):
            shutil.rmtree(self._making, ignore_errors=True)
            self._save(self._making)
            write_json(self._making / _MARK, found)
            _flush(self._making)
            self._drop_next()
            os.replace(self._making, self._next)
        self.kept = found

    def settle(self, rounds: int) -> None:
        """A checkpoint of so many rounds is what a resumed run goes on from: a best model of them takes its place, one
        of later ones is dropped, to be found again."""
        with writing(self._run.best):
            if self._next.is_dir() and read_json(self._next / _MARK)["round"] > rounds:
                self._drop_next()
            if self._next.is_dir():
                # A folder takes the place of another in two steps; between them `_next` says how to go on.
                shutil.rmtree(self._old, ignore_errors=True)
                if self._run.best.is_dir():
                    os.replace(self._run.best, self._old)
                os.replace(self._next, self._run.best)
                flush_folder(self._run.path)
            elif self._old.is_dir() and not self._run.best.is_dir():
                os.replace(self._old, self._run.best)
            for left in (self._old, self._making):
                shutil.rmtree(left, ignore_errors=True)
        found = read_json(self._run.best / _MARK) if self._run.best.is_dir() else None
        self.kept = found if found is not None and found["measure"] == self._measure else None

    def _drop_next(self) -> None:
        """Renamed first: half of a folder must not be taken for one."""
        if self._next.is_dir():
            dropped = self._next.with_name(".best-dropped")
            shutil.rmtree(dropped, ignore_errors=True)
            os.replace(self._next, dropped)
            shutil.rmtree(dropped, ignore_errors=True)


_MARK = "evaluation.json"


def _flush(folder: Path) -> None:
    for path in folder.rglob("*"):
        if path.is_file():
            with path.open("rb+") as file:
                flush_to_disk(file)
