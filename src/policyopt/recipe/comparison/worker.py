"""One process of a comparison: runs that it is told of, one after another, on one core.

It reads a JSON object a line from its input (recipe, folder, base) and answers with lines of JSON: how far the run is,
then how it ended; between them empty objects, which say that it runs. When the input ends, whoever asked is gone, and
the process ends at once.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import logging
import os
import queue
import shutil
import sys
import threading
import time
import traceback
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch

from policyopt.recipe.base import Recipe
from policyopt.recipe.budget import share
from policyopt.recipe.schema import make_recipe
from policyopt.recipe.training import Training
from policyopt.runtime.atomic import write_atomic
from policyopt.runtime.folder import RunFolder, write_json

Tell = Callable[[Mapping[str, Any]], None]
TOLD_EVERY = 0.5  # seconds
ALIVE_EVERY = 5.0  # seconds between signs of life


def perform(recipe: Recipe, folder: Path, base: Path | None, tell: Tell) -> bool:
    """Train in a folder, or go on there; from the end of another run, if one is given. False: stopped before the end.

    A run that is finished is only read. The result lies in the folder, as after `policyopt train`.
    """
    path = RunFolder(folder)
    if path.summary.is_file():
        return True
    with _open(recipe, path, base) as training:
        _know_beginning(training)
        told = time.monotonic()
        for done in training.rounds():
            if training.budget is not None and time.monotonic() - told >= TOLD_EVERY:
                told = time.monotonic()
                spent = training.ledger.since(training.built.program.stages[-1].start)
                tell({"share": min(1.0, share(training.budget.section, spent)), **_telling(done.metrics)})
        if training.interrupted:
            return False
        training.finish()
    if base is not None or recipe.stages[-1].budget is not None:
        shutil.rmtree(path.checkpoints, ignore_errors=True)  # nothing goes on from here; the model is saved
    return True


def _open(recipe: Recipe, folder: RunFolder, base: Path | None) -> Training:
    if folder.recipe.is_file():
        return Training.resume(folder.path)
    if folder.path.exists():  # stopped while it was made
        shutil.rmtree(folder.path)
    training = Training.start(recipe.model_copy(update={"folder": str(folder.path)}))
    if base is not None:
        _fork(RunFolder.open(base), folder, len(recipe.stages) - 1)
    return training


def _fork(base: RunFolder, folder: RunFolder, stage: int) -> None:
    """Give a new run the past of another one. The checkpoint comes last: without it the run would train that past
    itself, with the same result."""
    for source, target in (
        (base.metrics, folder.metrics),
        (base.timing, folder.timing),
        (base.samples, folder.samples),
        (base.cost, folder.cost),
        (base.results / "after.json", folder.results / f"stage-{stage}.json"),
    ):
        if source.is_file():
            write_atomic(target, source.read_bytes())
    if base.best.is_dir() and not folder.best.exists():
        shutil.copytree(base.best, folder.best)
    store = base.store()
    last = store.steps()[-1]
    write_atomic(folder.store().path(last), store.path(last).read_bytes())


def _know_beginning(training: Training) -> None:
    """A digest of the policy that the last stage begins with, so that a report can say that all arms began alike."""
    stage = training.built.program.stages[-1]
    if training.session.resume() == stage.start:
        digest = hashlib.blake2b(digest_size=16)
        for name, value in training.built.policy.state_dict().items():
            digest.update(name.encode())
            digest.update(value.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes())
        training.folder.once("beginning", lambda: {"policy": digest.hexdigest()})


def _telling(metrics: Mapping[str, float]) -> dict[str, float]:
    """The metric that says most."""
    return next(({"value": metrics[name]} for name in ("return", "reward") if name in metrics), {})


# -- the process ---------------------------------------------------------------------------------------------------
def main() -> None:
    torch.set_num_threads(1)
    logging.basicConfig(stream=sys.stderr, level=logging.INFO)
    answers = os.fdopen(os.dup(1), "w", buffering=1, encoding="utf-8")
    os.dup2(2, 1)  # what libraries print is no answer
    asked: queue.Queue[str] = queue.Queue()
    turns = threading.Lock()

    def tell(message: Mapping[str, Any]) -> None:
        with turns:
            answers.write(json.dumps(message) + "\n")

    threading.Thread(target=_listen, args=(asked,), daemon=True).start()
    threading.Thread(target=_live, args=(tell,), daemon=True).start()
    with contextlib.suppress(KeyboardInterrupt, BrokenPipeError):
        while True:
            _answer(json.loads(asked.get()), tell)


def _listen(asked: queue.Queue[str]) -> None:
    for line in sys.stdin:
        asked.put(line)
    os._exit(1)  # at once: a run that nobody asked for any more goes on from its last checkpoint


def _live(tell: Tell) -> None:
    with contextlib.suppress(OSError, ValueError):  # nobody listens any more
        while True:
            tell({})
            time.sleep(ALIVE_EVERY)


def _answer(job: Mapping[str, Any], tell: Tell) -> None:
    folder, base = Path(job["folder"]), job["base"] and Path(job["base"])
    try:
        finished = perform(make_recipe(job["recipe"]), folder, base, tell)
    except Exception as error:
        # A run that fails is a result of the comparison; the others go on.
        logging.getLogger("policyopt").exception("the run in %s failed", folder)
        if folder.is_dir():
            write_json(folder / "failed.json", {"error": str(error), "trace": traceback.format_exc()})
        tell({"end": "failed", "error": f"{type(error).__name__}: {error}"})
        return
    tell({"end": "finished" if finished else "stopped"})


if __name__ == "__main__":
    main()
