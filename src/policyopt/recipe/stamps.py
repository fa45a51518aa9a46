"""The executed objective of a run, kept beside its numbers and in its checkpoints; noticing when it has changed."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from policyopt.compose import Stage
from policyopt.evaluation.methods import UNUSED
from policyopt.recipe.base import Recipe, RecipeError
from policyopt.recipe.places import contents, without_paths
from policyopt.report.objective_stamp import Change, changes, compare_runs, stamp
from policyopt.runtime.folder import RunFolder, RunFolderError, read_json, write_json

log = logging.getLogger("policyopt")

SECTIONS = ("policy", "tasks", "judges", "models", "evaluation")
HOW = {f"policy.{name}" for name in ("device", "engine", "reading", "native", "vllm")} | {
    "tasks.deadline", "evaluation.every",
}  # fmt: skip
"""Fields that say how or where something is computed, not what."""


class ChangedObjectiveError(RecipeError):
    """A checkpoint was made under another objective, or with other tasks, another policy or seed, than the one it would
    go on with."""


def surroundings(recipe: Recipe, held: Mapping[str, str] | None = None) -> dict[str, Any]:
    """What a recipe says beside its methods, by place: tasks, rewards, models, seed, evaluation (JSON data).

    held: what its files hold (`places.contents`), which then counts instead of where they are; None: their paths count,
    as in checkpoints of earlier versions.
    """
    told = recipe.model_dump(mode="json")
    found = {"seed": told["seed"]}
    if held is not None:
        without_paths(told, held, type(recipe))
        found |= {place: value for place, value in held.items() if place.startswith("stages.")}
    for name in SECTIONS:
        inside = told.get(name)
        found |= {f"{name}.{key}": value for key, value in inside.items()} if inside else {name: inside}
    return {place: value for place, value in found.items() if place not in HOW}


def other_surroundings(before: Mapping[str, Any], after: Mapping[str, Any]) -> list[Change]:
    """In what they differ. What an earlier version did not know of is of no account."""
    gone = [place for place in before if before[place] != after.get(place, UNUSED)]
    return [Change(place, str(before[place]), str(after.get(place, UNUSED))) for place in gone]


class Stamps:
    """Of all stages of a run: `objective.json` in its folder, and in every checkpoint.

    A checkpoint goes on only with the objective, the tasks, the models, the contents of their files and the seed that
    it was made with, unless `accept` says so; changes of how rows are drawn and steps are taken, which users make on
    purpose (a learning rate, a number of epochs), are told and noted.
    """

    def __init__(self, stages: Sequence[Stage], folder: RunFolder, recipe: Recipe | None = None):
        self.accept = False
        self._recipe, self._files = recipe, {} if recipe is None else contents(recipe)
        self._said = {} if recipe is None else surroundings(recipe, self._files)
        self._folder, self._stages = folder, stages
        self._now = [stamp(stage.method) for stage in stages]

    @property
    def hooks(self) -> dict[str, Any]:
        """What a checkpoint is stamped with, and who is told when a run goes on from one; see `Hooks`."""
        kept = {"stages": self._now, "recipe": self._said, "files": self._files}
        return {"stamp": kept, "restored": self._restored}

    def write(self, changed: Sequence[Mapping[str, Any]] = ()) -> None:
        said = {"stages": self._now, "files": self._files, "changed": list(changed)}
        write_json(self._folder.path / "objective.json", said)

    def _restored(self, step: int, kept: Mapping[str, Any]) -> None:
        """Stages that are over are of no account any more."""
        found = [
            (stage.method.key, change)
            for stage, old, new in zip(self._stages, kept["stages"], self._now, strict=False)
            if step < stage.start + stage.steps
            for change in changes(old, new)
        ]
        others = [("recipe", change) for change in self._others(step, kept)]
        if not found and not others:
            return
        told = "; ".join(f"{method}: {change}" for method, change in (*others, *found))
        if (others or any(change.vital for _, change in found)) and not self.accept:
            raise ChangedObjectiveError(
                f"the checkpoint of round {step} in {self._folder.path} was trained on another objective or other "
                f"tasks than those it would go on with ({told}). Use the recipe, its files and the version of "
                f"policyopt that it was made with, or go on with the new ones: {self._folder.resume} --accept-objective"
            )
        log.warning("round %d goes on with what has changed since its checkpoint: %s", step, told)
        said = [{"round": step, "stage": method, **_plain(change)} for method, change in (*others, *found)]
        self.write([*_changed(self._folder.path), *said])

    def _others(self, step: int, kept: Mapping[str, Any]) -> list[Change]:
        now = self._said
        if self._recipe is not None and "files" not in kept:
            now = surroundings(self._recipe)
        over = [f"stages.{n}." for n, stage in enumerate(self._stages) if step >= stage.start + stage.steps]
        found = other_surroundings(kept.get("recipe", {}), now)
        return [change for change in found if not change.slot.startswith(tuple(over))]


def _plain(change: Change) -> dict[str, str]:
    return {"slot": change.slot, "before": change.before, "after": change.after}


def _changed(folder: Path) -> list[dict[str, Any]]:
    """Changes that a run has gone through, oldest first."""
    path = folder / "objective.json"
    return read_json(path)["changed"] if path.is_file() else []


def stamps_of(folder: Path | str) -> list[dict[str, Any]]:
    """What a run executes, stage by stage. RunFolderError: a run of before it was stored."""
    path = Path(folder) / "objective.json"
    if not path.is_file():
        raise RunFolderError(f"{folder} has no objective.json; it is no run, or one of an earlier version")
    stages = read_json(path).get("stages")
    if not isinstance(stages, list):
        raise RunFolderError(f"{path} has no list of stages; put back a copy of it")
    return stages


def difference_of_runs(first: Path | str, second: Path | str) -> list[tuple[str, list[Change]]]:
    """How the executed objectives of two runs differ: (methods of a stage, changes), their last stages side by side."""
    one, two = stamps_of(first), stamps_of(second)
    found = compare_runs(one, two)
    count = len(found)
    names = [[""] * (count - len(side)) + [each["method"] for each in side] for side in (one, two)]
    titles = [f"{a or '-'} | {b or '-'}" for a, b in zip(*names, strict=True)]
    return list(zip(titles, found, strict=True))
