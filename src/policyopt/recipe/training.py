"""A recipe from start to end: train, evaluate before and after, save the model, sum up."""

from __future__ import annotations

import logging
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from safetensors import SafetensorError

from policyopt.compose import Method, Program, Stage
from policyopt.engines.choose import engine_for
from policyopt.evaluation.pairs import agreement
from policyopt.evaluation.passes import passes
from policyopt.policies.checkpoint import save_language
from policyopt.recipe.build import Built, build
from policyopt.recipe.outcome import Outcome, training_seconds
from policyopt.recipe.schema import Recipe, RecipeError, load_recipe, make_recipe
from policyopt.report.objective import describe
from policyopt.run import Run
from policyopt.runtime.folder import RunFolder, RunFolderError
from policyopt.runtime.progress import Display
from policyopt.runtime.session import Hooks, Session
from policyopt.train import rounds
from policyopt.types import Round

log = logging.getLogger("policyopt")

EVALUATION_SEED = 7_000_001  # of the samples, the same in every run
SHOWN_EVERY = 10  # rounds between rows written to samples.jsonl
SNAPSHOT_PARAMETERS = 50_000_000  # larger models are not copied in memory before every round


class Training:
    """A run of a recipe in its folder. Use as a context manager: graders have worker processes."""

    def __init__(self, built: Built, folder: RunFolder, display: Display | None = None):
        self.built, self.folder = built, folder
        self.session = Session(
            built.run,
            built.program,
            folder,
            built.recipe.checkpoint_every,
            hooks=Hooks(self._stage_start, self._samples),
            display=display,
            snapshot=sum(p.numel() for p in built.policy.parameters()) <= SNAPSHOT_PARAMETERS,
        )

    @classmethod
    def start(cls, recipe: Recipe, display: Display | None = None) -> Training:
        """A new run in a folder of its own (an existing one is never touched)."""
        with ExitStack() as opened:
            built = opened.enter_context(build(recipe))
            printed = "\n\n".join(describe(stage.method) for stage in built.program.stages)
            folder = RunFolder.create(recipe.folder or f"runs/{recipe.name}", recipe.yaml(), printed)
            training = cls(built, folder, display)
            opened.pop_all()  # the training closes what was built
            return training

    @classmethod
    def resume(cls, path: str | Path, display: Display | None = None) -> Training:
        """Go on with a run from its newest good checkpoint."""
        folder = RunFolder.open(path)
        return cls(build(load_recipe(folder.recipe)), folder, display)

    def __enter__(self) -> Training:
        return self

    def __exit__(self, *error: object) -> None:
        self.built.close()

    @property
    def interrupted(self) -> bool:
        return self.session.interrupted

    def rounds(self) -> Iterator[Round]:
        return self.session.rounds()

    def finish(self) -> Outcome:
        """After the last round: evaluate, save the model, write the summary."""
        before, after = self._before(), self._evaluate("after")
        self._save_model()
        outcome = Outcome(
            self.folder,
            None if before is None else before["measured"],
            None if after is None else after["measured"],
            () if after is None else tuple((p, a, s) for p, a, s in after["answers"]),
            training_seconds(self.folder),
            self.built.recipe.seed,
        )
        outcome.write()
        return outcome

    def _save_model(self) -> None:
        try:
            save_language(self.built.policy, self.folder.model, self.built.tokenizer)
        except (OSError, SafetensorError) as error:
            raise RunFolderError(
                f"the model can not be saved in {self.folder.model}: {error}. It is safe in the last checkpoint: free "
                f"some space or choose another disk, then {self.folder.resume}"
            ) from error

    def _before(self) -> Mapping[str, Any] | None:
        last = len(self.built.program.stages) - 1
        trained = self.built.program.stages[last].steps > 0
        if trained and not (self.folder.results / f"stage-{last}.json").exists():
            log.warning("the evaluation before the last stage is not in %s any more; left out", self.folder.results)
            return None
        found = self.folder.once(f"stage-{last}", lambda: self._stage_start(last, self.built.run))
        return found or None

    def _evaluate(self, name: str) -> Mapping[str, Any] | None:
        return self.folder.once(name, self._measure) or None

    def _stage_start(self, index: int, run: Run) -> Mapping[str, Any]:
        """`before` is the policy as it enters the last stage."""
        return self._measure() if index == len(self.built.program.stages) - 1 else {}

    def _measure(self) -> Mapping[str, Any]:
        held_out, section = self.built.held_out, self.built.recipe.evaluation
        if held_out is None or section is None:
            return {}
        if held_out.judge is None:
            return {"measured": agreement(self.built.policy, held_out).summary(), "answers": ()}
        result = passes(
            self.built.policy,
            held_out,
            self.built.engine,
            EVALUATION_SEED,
            section.samples,
            section.temperature,
            section.success,
        )
        answers = [(p, a, None if math.isnan(score) else score) for p, a, score in result.answers]
        return {"measured": result.summary(), "answers": answers}

    def _samples(self, done: Round) -> Iterable[Mapping[str, Any]]:
        """A few rows as text, now and then."""
        step = self.built.run.step - 1
        if step % SHOWN_EVERY:
            return []
        world = self.built.run.worlds[self.built.program.at(step).method.world]
        rows = done.judged[:2]
        reward = rows.step["reward"].sum(1).tolist()
        prompts = [world.decode(world.prompts[task]) for task in rows.row["task"].tolist()]
        shown = zip(prompts, world.texts(rows), reward, strict=True)
        return [{"prompt": p, "answer": a, "reward": r} for p, a, r in shown]


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
    for done in rounds(run, what):
        yield dict(done.metrics)
