"""A recipe from start to end: train, evaluate before and after, save the model, sum up."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

from policyopt.compose import Method, Program, Stage
from policyopt.engines.choose import engine_for
from policyopt.recipe.along import Best, as_metrics, saving, untouched
from policyopt.recipe.branches import Branches, wearing
from policyopt.recipe.budget import Budget, Ledger
from policyopt.recipe.build import Built, build
from policyopt.recipe.cluster import hand_over
from policyopt.recipe.kinds import Evaluation
from policyopt.recipe.outcome import Outcome, training_seconds
from policyopt.recipe.places import check_there
from policyopt.recipe.schema import Recipe, RecipeError, load_recipe, make_recipe
from policyopt.recipe.stamps import Stamps
from policyopt.report.objective_stamp import executed
from policyopt.report.rollouts import Rollouts
from policyopt.run import Run
from policyopt.runtime.ahead import Ahead
from policyopt.runtime.folder import RunFolder
from policyopt.runtime.invariants import Rules
from policyopt.runtime.lock import alone
from policyopt.runtime.memory import keep_freed
from policyopt.runtime.progress import Display
from policyopt.runtime.session import Hooks, Session
from policyopt.runtime.trackers import missing
from policyopt.runtime.watch import Watch
from policyopt.train import rounds
from policyopt.types import Batch, Round

log = logging.getLogger("policyopt")

SHOWN_ROUNDS = 50  # whose rows are written to samples.jsonl, about
ALARMED_ROWS = 32  # that are written beside an alarm
SNAPSHOT_PARAMETERS = 50_000_000  # larger models are not copied in memory before every round


class Training:
    """A run of a recipe in its folder, which it locks. Use as a context manager: graders have worker processes."""

    def __init__(self, built: Built, folder: RunFolder, display: Display | None = None):
        keep_freed()
        self.built, self.folder, self.opened = built, folder, ExitStack()
        self.opened.callback(built.close)
        self.stamps = Stamps(built.program.stages, folder, built.recipe)
        kept = self.stamps.hooks
        if built.recipe.runtime.on == "ray":
            hand_over(built)
        self.ledger, self.budget = Ledger(folder, built.run), None
        if (allowed := built.recipe.stages[-1].budget) is not None:
            self.budget = Budget(allowed, built.program, self.ledger, display)
            built.program = self.budget.program
        self.branches = Branches(built, folder)
        asked = built.recipe.evaluation
        self._every: int | None = None if asked is None else asked.every
        self._best = Best(folder, asked.keep_best, built.subject.save) if asked and asked.keep_best else None
        self._found: tuple[int, Mapping[str, Any]] | None = None
        self.rollouts = Rollouts(built.recipe.samples.rows, built.recipe.samples.steps)
        self.session = Session(
            built.run,
            built.program,
            folder,
            built.recipe.checkpoint_every,
            hooks=Hooks(
                self._stage_start,
                self._samples,
                self._counted,
                rows=self._alarming,
                watch=watch_of(built),
                trackers=built.recipe.trackers,
                evaluated=None if self._every is None else self._evaluated,
                saved=None if self._best is None else self._best.settle,
                **kept,
            ),
            display=display,
            # Of a round that fails in one of several processes, the others do not know the state before it.
            snapshot=sum(p.numel() for p in built.policy.parameters()) <= SNAPSHOT_PARAMETERS
            and built.recipe.runtime.trainers == 1,
        )
        self.ahead: Ahead | None = None
        if (rounds_ahead := built.recipe.runtime.staleness) > 0:
            self.ahead = Ahead(built.run, built.program, rounds_ahead, built.recipe.runtime.deadline)
            self.session.sampled = self.ahead

    @classmethod
    def start(cls, recipe: Recipe, display: Display | None = None, *, together: bool = False) -> Training:
        """A new run in a folder of its own (an existing one is never touched). together: this process is one of
        several (`recipe.trainers`)."""
        _check_trainers(recipe, together=together)
        for name in missing(recipe.trackers):
            raise RecipeError(f"trackers: {name} is not installed: pip install 'policyopt[{name}]', or leave it out")
        with ExitStack() as opened:
            built = opened.enter_context(build(recipe))
            printed = "\n\n".join(executed(stage.method) for stage in built.program.stages)
            folder = RunFolder.create(recipe.folder or f"runs/{recipe.name}", recipe.yaml(), printed)
            opened.enter_context(alone(folder.path))
            training = cls(built, folder, display)
            training.stamps.write()
            training.opened = opened.pop_all()
            return training

    @classmethod
    def resume(
        cls, path: str | Path, display: Display | None = None, *, accept: bool = False, trainers: int | None = None
    ) -> Training:
        """Go on with a run from its newest good checkpoint. accept: also if what it minimises has changed since.
        trainers: another number of processes than the recipe's; if not 1, this process is one of them."""
        folder = RunFolder.open(path)
        with ExitStack() as opened:
            opened.enter_context(alone(folder.path))
            recipe = load_recipe(folder.recipe, [] if trainers is None else [f"runtime.trainers={trainers}"])
            _check_trainers(recipe, together=trainers is not None)
            check_there(recipe, folder)
            training = cls(opened.enter_context(build(recipe)), folder, display)
            training.stamps.accept = accept
            training.opened = opened.pop_all()
            return training

    def __enter__(self) -> Training:
        return self

    def __exit__(self, *error: object) -> None:
        self.opened.close()

    @property
    def interrupted(self) -> bool:
        return self.session.interrupted

    def rounds(self) -> Iterator[Round]:
        self.ledger.open(self.session.resume(), whole=self.budget is not None)
        if self._best is not None:
            self._best.settle(self.built.run.step)
        self._keep_budget()
        with contextlib.closing(self.ledger), self.ahead or contextlib.nullcontext():
            for done in self.session.rounds():
                yield done
                self.ledger.restart()

    def _counted(self, step: int, done: Round) -> None:
        self.ledger.write(step, done)
        self._keep_budget()
        self.ledger.restart()

    def _keep_budget(self) -> None:
        if self.budget is not None:
            self.budget.pace()
            self.budget.evaluate(self.folder, self._now)

    def finish(self) -> Outcome:
        """After the last round: evaluate, save the model, write the summary."""
        before, after = self._before(), self._kept(self.folder.once("after", self._now))
        if self.built.subject.film is not None:
            self.folder.once("episodes", self.built.subject.film)
        self._save_model()
        report = self.branches.report() if self.branches else {}
        seconds = training_seconds(self.folder)
        draw = self.built.subject.draw
        best = None if self._best is None else self._best.kept
        outcome = Outcome(self.folder, before, after, seconds, self.built.recipe.seed, draw, report, best)
        outcome.write()
        return outcome

    def _save_model(self) -> None:
        with saving(self.folder, self.folder.model):
            self.built.subject.save(self.folder.model)
            self.branches.save()

    def _before(self) -> Evaluation | None:
        last = len(self.built.program.stages) - 1
        trained = self.built.program.stages[last].steps > 0
        if trained and not (self.folder.results / f"stage-{last}.json").exists():
            log.warning("the evaluation before the last stage is not in %s any more; left out", self.folder.results)
            return None
        return self._kept(self.folder.once(f"stage-{last}", lambda: self._stage_start(last, self.built.run)))

    @staticmethod
    def _kept(result: Mapping[str, Any]) -> Evaluation | None:
        return Evaluation(**result) if result else None

    def _stage_start(self, index: int, run: Run) -> Mapping[str, Any]:
        """`before` is the policy as it enters the last stage."""
        stage = self.built.program.stages[index]
        if index != len(self.built.program.stages) - 1:
            return {}
        if not stage.begins:
            return self._measure()
        with wearing(self.built.policy, run.models[stage.begins]):
            return self._measure()

    def _measure(self) -> Mapping[str, Any]:
        with untouched():
            found = self.built.subject.measure()
        return {} if found is None else asdict(found)

    def _now(self) -> Mapping[str, Any]:
        """The evaluation of the policy as the last round left it, made once however many ask for it."""
        step = self.built.run.step
        if self._found is None or self._found[0] != step:
            self._found = step, self._measure()
        return self._found[1]

    def _evaluated(self, done: Round) -> Mapping[str, float]:
        """The metrics of an evaluation along the way, if one is due."""
        rounds = self.built.run.step
        if self._every is None or rounds % self._every:
            return {}
        with self.ledger.aside():
            found = self._now()
            values = as_metrics(found["measured"])
            if self._best is not None:
                self._best.offer(rounds, values)
        if found["remark"]:
            log.warning("evaluation after %d rounds: %s", rounds, found["remark"])
        return values

    def _samples(self, done: Round) -> Iterable[Mapping[str, Any]]:
        """A few rows for people, now and then, and of the last round of every stage."""
        run, program, asked = self.built.run, self.built.program, self.built.recipe.samples
        step = run.step - 1
        stage = program.at(step)
        every = asked.every or max(1, sum(each.steps for each in self.built.recipe.stages) // SHOWN_ROUNDS)
        if not asked.rows or (step % every and step + 1 != stage.start + stage.steps):
            return []
        world = run.worlds[stage.method.world]

        def told(rows: Batch, steps: int) -> Sequence[Mapping[str, Any]]:
            return self.built.subject.shown(rows, steps, world)

        with self.ledger.aside():
            return list(self.rollouts.records(run, stage, done, told))

    def _alarming(self, step: int, batch: Batch) -> Iterable[Mapping[str, Any]]:
        """The rows beside an alarm."""
        run, asked = self.built.run, self.built.recipe.samples
        world = run.worlds[self.built.program.at(step).method.world]
        rows = batch[:ALARMED_ROWS]
        with torch.no_grad():
            words = self.built.subject.shown(rows, asked.steps, world)
        kept = zip(words, rows.row["task"].tolist(), rows.step["reward"].sum(1).tolist(), strict=True)
        return [{**told, "task": task, "reward": reward} for told, task, reward in kept]


def _check_trainers(recipe: Recipe, *, together: bool) -> None:
    if recipe.runtime.trainers > 1 and not together:
        raise RecipeError(
            f"runtime.trainers={recipe.runtime.trainers} processes are started by `policyopt train` or torchrun; here "
            "use runtime.trainers=1"
        )


def watch_of(built: Built) -> Watch:
    """The watch that a recipe asks for."""
    sections = zip(built.program.stages, built.recipe.stages, strict=True)
    given = {
        stage.start: (*section.options, *section.options_for.get(section.method, {})) for stage, section in sections
    }
    return Watch(Rules(**built.recipe.invariants.model_dump()), given)


def train(
    what: str | Path | Recipe | Mapping[str, Any] | Method | Program,
    changes: Sequence[str] = (),
    *,
    policy: Any = None,
    world: Any = None,
    models: Mapping[str, Any] | None = None,
    steps: int | None = None,
    seed: int = 0,
) -> Iterator[dict[str, float]]:
    """Train, yielding the metrics of every round.

    A recipe (path, `Recipe` or mapping), with `key=value` changes, is run as `policyopt train` runs it: with a folder,
    checkpoints, evaluation and a saved model. A `Method` (with `steps`) or `Program` trains `policy` in `world`, in
    memory; `models` are further models it needs.
    """
    if isinstance(what, (Method, Program)):
        yield from _in_memory(what, policy, world, models or {}, steps, seed)
        return
    if isinstance(what, Recipe):
        if changes:
            raise RecipeError("changes apply to recipes as paths or mappings; a Recipe object is final")
        recipe = what
    elif isinstance(what, Mapping):
        recipe = make_recipe(what, changes)
    else:
        recipe = load_recipe(what, changes)
    with Training.start(recipe) as training:
        for done in training.rounds():
            yield dict(done.metrics)
        if not training.interrupted:
            training.finish()


def _in_memory(
    what: Method | Program, policy: Any, world: Any, models: Mapping[str, Any], steps: int | None, seed: int
) -> Iterator[dict[str, float]]:
    if policy is None or world is None:
        raise RecipeError("training a Method needs policy=... and world=...; a recipe brings its own")
    if isinstance(what, Method):
        if steps is None:
            raise RecipeError("training a Method needs steps=..., the number of rounds")
        what = Program((Stage(what, steps),))
    run = Run({"policy": policy, **models}, world, engine_for(policy, world), seed)
    for done in rounds(run, what, Watch()):
        yield dict(done.metrics)
