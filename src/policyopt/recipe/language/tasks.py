"""From a recipe's tasks to entries, verifiers and worlds."""

from __future__ import annotations

import logging
import random
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from policyopt.recipe.base import RecipeError
from policyopt.recipe.language.preferences import prepared
from policyopt.recipe.language.sections import EvaluationSection, TasksSection
from policyopt.worlds.demonstrations import demonstrate
from policyopt.worlds.grading import Grader, Limits
from policyopt.worlds.prompts import Instruction, token_world
from policyopt.worlds.sources import folder_entries, jsonl_entries, reasoning_gym_entries
from policyopt.worlds.tasks import Entry, Verifier
from policyopt.worlds.tokens import TokenWorld
from policyopt.worlds.verifiers import verifier

log = logging.getLogger("policyopt")

# Held-out tasks do not depend on the run's seed, so that seeds and methods are compared on the same ones.
HELD_OUT_SEED = 20_000_003


class Judging:
    """Scores answers with a verifier in guarded processes; says once per kind of fault what went wrong."""

    def __init__(self, grader: Grader):
        self.grader, self.faults = grader, Counter[str]()

    def __call__(self, texts: list[str], ids: list[int]) -> list[float | None]:
        grades = self.grader.grade(texts, ids)
        for text, grade in zip(texts, grades, strict=True):
            if grade.fault is not None:
                if grade.fault not in self.faults:
                    log.warning(
                        "an answer could not be scored and is left out of all statistics: %s; answer %r",
                        grade.fault,
                        text[:80],
                    )
                self.faults[grade.fault] += 1
        return [grade.score for grade in grades]

    def close(self) -> None:
        self.grader.close()


def load_entries(tasks: TasksSection, size: int, seed: int) -> list[Entry]:
    """Entries of a source; generated ones depend on the seed."""
    if tasks.reasoning_gym is not None:
        source: Any = tasks.reasoning_gym
        return reasoning_gym_entries(
            source if isinstance(source, str) else list(source), tasks.options, size, seed, tasks.prompt
        )
    if tasks.jsonl is not None:
        return jsonl_entries(tasks.jsonl, tasks.columns)
    return folder_entries(str(tasks.folder), tasks.split, tasks.columns)


def held_out_entries(tasks: TasksSection, evaluation: EvaluationSection | None) -> list[Entry]:
    """Tasks for evaluation only, no prompt twice. They are taken out of the training tasks (`training_entries`).

    None, with a warning, if nothing could be measured on them.
    """
    if evaluation is None:
        return []
    found = _candidates(tasks, evaluation)
    if verifier_name(tasks) is None and not all(len(entry.candidates) > 1 for entry in found):
        log.warning(
            "no evaluation: the tasks have neither a verifier nor preference pairs; set tasks.verifier, or say "
            "evaluation=null"
        )
        return []
    distinct = list({entry.key: entry for entry in found}.values())
    if evaluation.jsonl is None and tasks.reasoning_gym is None and evaluation.tasks >= len(distinct):
        raise RecipeError(
            f"evaluation.tasks={evaluation.tasks} would leave no task to train on: there are {len(distinct)} "
            "different ones. Lower it, give evaluation.jsonl, or turn evaluation off with evaluation=null"
        )
    return distinct[: evaluation.tasks]


def _candidates(tasks: TasksSection, evaluation: EvaluationSection) -> list[Entry]:
    """What the held-out tasks are chosen from, in their order."""
    if evaluation.jsonl is not None:
        return jsonl_entries(evaluation.jsonl, tasks.columns)
    if tasks.reasoning_gym is not None:
        # Twice as many as needed, because prompts may repeat.
        return load_entries(tasks, 2 * evaluation.tasks, HELD_OUT_SEED)
    found = load_entries(tasks, 0, 0)
    random.Random(HELD_OUT_SEED).shuffle(found)
    return found


def training_entries(tasks: TasksSection, held_out: Sequence[Entry], seed: int) -> list[Entry]:
    """Tasks to train on, without those of the evaluation; with demonstrations if the recipe asks for them."""
    excluded = {entry.key for entry in held_out}
    entries = [entry for entry in load_entries(tasks, tasks.size, seed) if entry.key not in excluded]
    if not entries:
        raise RecipeError("all training tasks are held-out tasks too; use more tasks or fewer for evaluation")
    if tasks.demonstrations is not None:
        entries = demonstrate(entries, tasks.demonstrations.reliability, tasks.demonstrations.mistake, seed)
    return prepared(tasks, entries, seed)


def close_world(world: TokenWorld) -> None:
    """End the processes of its judges."""
    for judge in (world.judge, *world.heads.values(), *world.checkers.values()):
        if isinstance(judge, Judging):
            judge.close()


def verifier_name(tasks: TasksSection) -> str | None:
    """The verifier of some tasks; None if they have no reward."""
    return tasks.verifier or ("reasoning_gym" if tasks.reasoning_gym is not None else None)


def make_world(tasks: TasksSection, entries: Sequence[Entry], tokenizer: Any, positions: int | None) -> TokenWorld:
    """The world of some entries, with a judge if the recipe names a verifier."""
    name = verifier_name(tasks)
    rule = None if name is None else verifier(name, tasks.verifier_options)
    by_name = [
        {name: verifier(said.verifier, said.options) for name, said in section.items()}
        for section in (tasks.heads, tasks.checks)
    ]
    instructions = {
        name: Instruction(said.template, said.value, said.texts) for name, said in tasks.instructions.items()
    }
    world = token_world(entries, tokenizer, tasks.limit, None, positions, instructions)

    def judging(rule: Verifier) -> Judging:
        return Judging(Grader(rule, list(entries), Limits(deadline=tasks.deadline)))

    # Last, because graders must be closed.
    heads, checkers = ({name: judging(rule) for name, rule in rules.items()} for rules in by_name)
    return replace(world, judge=None if rule is None else judging(rule), heads=heads, checkers=checkers)
