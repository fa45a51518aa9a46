"""A run in its folder: continues from the newest checkpoint, records every round, stops in order."""

from __future__ import annotations

import copy
import logging
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from policyopt.compose import CompositionError, Program, Stage
from policyopt.run import Run
from policyopt.runtime.checkpoint import CheckpointError
from policyopt.runtime.folder import Record, RunFolder
from policyopt.runtime.interrupt import Interrupt
from policyopt.runtime.invariants import Alarm
from policyopt.runtime.journal import Journal
from policyopt.runtime.progress import Display, Silent
from policyopt.runtime.watch import Watch
from policyopt.train import Sampled, rounds, sample
from policyopt.types import Batch, Round

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Hooks:
    """What a run does besides training. Hooks look at the run and leave it unchanged.

    stage_start(index, run): before the first round of a stage; its JSON result is kept in `results/stage-INDEX.json`.
    A resumed run does not call it again, unless the run was stopped inside it.
    samples(round): records to add to samples.jsonl, a function of the round alone.
    evaluated(round): further metrics of a round, measured of the models as it leaves them (`run.step` is the next one).
    counted(step, round): after every round and before any checkpoint of what follows it: what it writes down of round
    `step` is there whenever a resumed run does not train that round again.
    watch: invariants and alarms (None: with the usual rules); what they say is kept in alarms.jsonl.
    rows(step, batch): some rows of round `step` for people, kept beside an alarm.
    trackers: who is told the metrics of every round (`runtime.trackers`).
    stamp: JSON data kept with every checkpoint. restored(step, stamp): before a run goes on from a checkpoint, with
    what that was stamped with; may refuse by raising. saved(step): there is a checkpoint of so many rounds.
    """

    stage_start: Callable[[int, Run], Mapping[str, Any]] | None = None
    samples: Callable[[Round], Iterable[Mapping[str, Any]]] | None = None
    counted: Callable[[int, Round], None] | None = None
    rows: Callable[[int, Batch], Iterable[Mapping[str, Any]]] | None = None
    watch: Watch | None = None
    trackers: Sequence[str] = ()
    stamp: Mapping[str, Any] | None = None
    restored: Callable[[int, Mapping[str, Any]], None] | None = None
    evaluated: Callable[[Round], Mapping[str, float]] | None = None
    saved: Callable[[int], None] | None = None


class Session:
    """Trains `run` through `program`, with everything worth keeping in `folder`.

    checkpoint_every: rounds; there is also a checkpoint at the end of every stage and when the run stops early.
    keep: newest checkpoints that stay. snapshot: copy the state in memory before every round, so that a round that
    fails loses nothing; without it (a model too large for two) the rounds since the last checkpoint are run again.
    """

    def __init__(
        self,
        run: Run,
        program: Program,
        folder: RunFolder,
        checkpoint_every: int = 20,
        keep: int = 2,
        hooks: Hooks | None = None,
        display: Display | None = None,
        *,
        snapshot: bool = True,
    ):
        if checkpoint_every < 1:
            raise CompositionError(f"checkpoint_every must be at least 1 round, not {checkpoint_every}")
        self.run, self.program, self.folder = run, program, folder
        self.sampled: Sampled = sample  # see `train.rounds`
        self.begin: Callable[[], None] = lambda: None  # called before every round
        self.checkpoint_every = checkpoint_every
        self.store = folder.store(keep)
        self.hooks = Hooks() if hooks is None else hooks
        self.display: Display = Silent() if display is None else display
        self.interrupted = False  # the user stopped the run before its end
        self.watch = self.hooks.watch or Watch()
        self._alarms = Journal(folder.alarms)
        self.watch.told = self._told
        self._snapshot = snapshot
        self._saved = -1  # the round whose state can be had again without this process; -1: not looked yet

    @property
    def finished(self) -> bool:
        return self.run.step >= self.program.steps

    def resume(self) -> int:
        """Load the newest good checkpoint, if there is one. Returns the round at which training goes on."""
        if self._saved < 0:
            found = self.store.latest()
            if found is not None:
                self._load(*found)
                logger.info("resumed at round %d of %d", self.run.step, self.program.steps)
            # A new run needs no checkpoint of its beginning: the recipe makes it again.
            self._saved = self.run.step
        return self.run.step

    def _load(self, step: int, state: dict[str, Any]) -> None:
        try:
            stamp = state.pop("stamp", None)
            if stamp is not None and self.hooks.restored is not None:
                self.hooks.restored(step, stamp)
            self.run.load_state(state, self.program)
            if "watch" in state:  # not in checkpoints of earlier versions
                self.watch.load_state(state["watch"])
        except (LookupError, TypeError, AttributeError, RuntimeError) as error:
            raise CheckpointError(
                f"the checkpoint of round {step} in {self.folder.path} does not hold the state of this run: "
                f"{type(error).__name__}: {error}. Use the recipe and the version of policyopt that wrote it"
            ) from error

    def rounds(self) -> Iterator[Round]:
        """Train from where the run stands to the end of the program, or until the user interrupts.

        A yielded round is recorded already. Afterwards `interrupted` says which end it was. Raises `DiskFullError`,
        and what a round raises once the state before it is saved.
        """
        start = self.resume()
        with Record(self.folder, start, self.hooks.trackers) as record, Interrupt() as stop:
            self._alarms.cut(start)
            if record.lines != start:
                logger.warning("%s has %d rounds before round %d", self.folder.metrics, record.lines, start)
            self.display.begin(start, self.program.steps)
            try:
                yield from self._train(record, stop)
            finally:
                self.display.end()
                self._alarms.close()

    def _state(self) -> dict[str, Any]:
        return {**self.run.state(), "watch": self.watch.state()}

    def _told(self, step: int, alarm: Alarm, rows: Batch) -> None:
        """An alarm and the rows it is about."""
        shown = [] if self.hooks.rows is None else [dict(row) for row in self.hooks.rows(step, rows)]
        self._alarms.append(step, {"name": alarm.name, "value": alarm.value, "remedy": alarm.remedy, "rows": shown})

    def _train(self, record: Record, stop: Interrupt) -> Iterator[Round]:
        loop = rounds(self.run, self.program, self.watch, self.sampled)
        while not self.finished:
            index, stage = self._stage()
            self._start_stage(index, stage)
            if stop.requested:
                break
            done, seconds = self._round(loop, stage)
            self._record(record, index, done, seconds)
            if self.run.step % self.checkpoint_every == 0 or self.run.step == stage.start + stage.steps:
                self._checkpoint(record)
            yield done
        self.interrupted = not self.finished
        self._checkpoint(record)

    def _stage(self) -> tuple[int, Stage]:
        stage = self.program.at(self.run.step)
        return next(i for i, other in enumerate(self.program.stages) if other is stage), stage

    def _start_stage(self, index: int, stage: Stage) -> None:
        hook = self.hooks.stage_start
        if hook is not None and self.run.step == stage.start:
            self.folder.once(f"stage-{index}", lambda: hook(index, self.run))

    def _round(self, loop: Iterator[Round], stage: Stage) -> tuple[Round, float]:
        """One round, evaluated, and its seconds without that; if it fails, the state before it goes to disk, because a
        failed round may have changed some."""
        began = time.perf_counter()
        safe = self._saved == self.run.step
        before = copy.deepcopy(self._state()) if self._snapshot and not safe else None
        step = self.run.step
        try:
            self.begin()
            done = next(loop)
            self.watch.after(self.run, stage, done)
            seconds = time.perf_counter() - began
            if self.hooks.evaluated is not None:
                done = replace(done, metrics={**done.metrics, **self.hooks.evaluated(done)})
            return done, seconds
        except Exception as error:
            if before is not None:
                self._write(step, before)
            if before is not None or safe:
                error.add_note(f"Nothing before round {step} is lost; to go on from there: {self.folder.resume}")
            raise

    def _record(self, record: Record, index: int, done: Round, seconds: float) -> None:
        step = self.run.step - 1  # the loop has moved on to the next round
        rate = float(done.judged.lengths.sum()) / max(seconds, 1e-9)
        timing = {"seconds": seconds, "steps_per_second": rate}
        record.round(step, {**done.metrics, "stage": index}, timing)
        if self.hooks.samples is not None:
            for sample in self.hooks.samples(done):
                record.samples.append(step, sample)
        if self.hooks.counted is not None:
            self.hooks.counted(step, done)
        name = self.program.stages[index].method.key
        self.display.round(f"{index + 1}/{len(self.program.stages)} {name}", done.metrics, timing)

    def _checkpoint(self, record: Record) -> None:
        if self._saved != self.run.step:
            record.sync()
            self._alarms.sync()
            self._write(self.run.step, self._state())
            self._saved = self.run.step
            if self.hooks.saved is not None:
                self.hooks.saved(self.run.step)

    def _write(self, step: int, state: Mapping[str, Any]) -> None:
        self.store.write(step, state if self.hooks.stamp is None else {**state, "stamp": dict(self.hooks.stamp)})
