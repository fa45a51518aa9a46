"""From a recipe's tasks to entries, verifiers and worlds."""

from __future__ import annotations

import logging
import random
from collections import Counter
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import replace
from typing import Any

from policyopt.recipe.base import RecipeError
from policyopt.recipe.language.ask import asking_of, solutions_to_judge
from policyopt.recipe.language.preferences import prepared
from policyopt.recipe.language.sections import Demonstrations, EvaluationSection, TasksSection
from policyopt.types import REFERENCE_ANSWER
from policyopt.worlds.asking import check_template, rewritten
from policyopt.worlds.demonstrations import Demonstrator, compare, demonstrate
from policyopt.worlds.grading import Grader, Limits
from policyopt.worlds.prompts import Instruction, render_prompts, token_world
from policyopt.worlds.sources import folder_entries, jsonl_entries, reasoning_gym_entries
from policyopt.worlds.tasks import Entry, Verifier
from policyopt.worlds.tokens import TokenWorld
from policyopt.worlds.verdicts import Verdict
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
    return _with_pairs(tasks, distinct[: evaluation.tasks], HELD_OUT_SEED)


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
        entries = _with_pairs(tasks, demonstrate(entries, _demonstrator(tasks.demonstrations), seed), seed)
    return prepared(tasks, entries, seed)


def _demonstrator(said: Demonstrations) -> Demonstrator:
    mistakes = (said.mistake,) if isinstance(said.mistake, str) else said.mistake
    return Demonstrator(said.reliability, mistakes, said.again)


def _with_pairs(tasks: TasksSection, entries: list[Entry], seed: int) -> list[Entry]:
    """With preference pairs, if the recipe asks for them."""
    if tasks.preferences is None or tasks.demonstrations is None:
        return entries
    name = verifier_name(tasks)
    assert name is not None  # demonstrations are of generated tasks, which have one
    judge = Judging(Grader(verifier(name, tasks.verifier_options), entries, Limits(deadline=tasks.deadline)))
    try:
        return compare(entries, _demonstrator(tasks.demonstrations), judge, tasks.preferences.temperature, seed)
    finally:
        judge.close()


def close_world(world: TokenWorld) -> None:
    """End the processes of its judges."""
    if world.close is not None:
        world.close()


def verifier_name(tasks: TasksSection) -> str | None:
    """The verifier of some tasks; None if they have no reward."""
    return tasks.verifier or ("reasoning_gym" if tasks.reasoning_gym is not None else None)


def fitting(tasks: TasksSection, entries: Sequence[Entry], tokenizer: Any, positions: int | None) -> Sequence[Entry]:
    """The entries, without those that do not fit a model's positions where the recipe has them dropped. RecipeError:
    none is left."""
    if tasks.overlong == "refuse" or positions is None:
        return entries
    world = token_world(entries, tokenizer, tasks.limit)
    world = beside_answers(world, tasks.reference_answer, entries, tokenizer)
    long = [task for task in range(world.size) if not world.fits(task, positions)]
    if not long:
        return entries
    most = max(len(world.longest_prompt(task)) for task in long)
    said = (
        f"{len(long)} of {len(entries)} tasks do not fit the model's {positions} positions with {tasks.limit} tokens "
        f"of an answer or their recorded ones (the longest prompt of them has {most} tokens)"
    )
    if len(long) == len(entries):
        raise RecipeError(
            f"tasks.overlong=drop leaves no task: {said}; lower tasks.limit or use a model with more positions"
        )
    log.warning("tasks.overlong=drop: %s and are left out", said)
    without = set(long)
    return [entry for task, entry in enumerate(entries) if task not in without]


def make_world(tasks: TasksSection, entries: Sequence[Entry], tokenizer: Any, positions: int | None) -> TokenWorld:
    """The world of some entries, with a judge if the recipe names a verifier. To be closed: see `close_world`."""
    name = verifier_name(tasks)
    rule = None if name is None else verifier(name, tasks.verifier_options)
    by_name = [
        {name: verifier(said.verifier, said.options) for name, said in section.items()}
        for section in (tasks.heads, tasks.checks)
    ]
    instructions = {
        name: Instruction(said.template, said.value, said.texts) for name, said in tasks.instructions.items()
    }
    with ExitStack() as opened:

        def judging(rule: Verifier, over: Sequence[Entry]) -> Judging:
            made = Judging(Grader(rule, list(over), Limits(deadline=tasks.deadline)))
            opened.callback(made.close)
            return made

        critiques = None
        if tasks.ask is not None and tasks.ask.critique is not None:
            of_solutions = None if rule is None else judging(rule, entries)
            entries, critiques = solutions_to_judge(tasks.ask.critique, entries, of_solutions)
            rule = Verdict(tasks.ask.critique.words)
        world = token_world(entries, tokenizer, tasks.limit, None, positions, instructions)
        heads, checkers = ({name: judging(rule, entries) for name, rule in rules.items()} for rules in by_name)
        judge = None if rule is None else judging(rule, entries)
        asking = None if tasks.ask is None else asking_of(tasks.ask, entries, tokenizer, judge, judging, critiques)
        world = replace(world, judge=judge, heads=heads, checkers=checkers, asking=asking)
        world = beside_answers(world, tasks.reference_answer, entries, tokenizer)
        return replace(world, close=opened.pop_all().close)


def beside_answers(world: TokenWorld, template: str | None, entries: Sequence[Entry], tokenizer: Any) -> TokenWorld:
    """The world with the context `REFERENCE_ANSWER` of every task: its prompt and its own answer, in the words of a
    template over {prompt} and {answer}. RecipeError: a task has no answer, or segments with prompts of their own."""
    if template is None:
        return world
    check_template("reference answers", template, {"prompt", "answer"})
    missing = sum(not entry.answer for entry in entries)
    if missing:
        raise RecipeError(
            f"tasks.reference_answer needs an 'answer' in every record; {missing} of {len(entries)} tasks have none"
        )
    if any(candidate.start is not None for entry in entries for candidate in entry.candidates):
        raise RecipeError("tasks.reference_answer has no place in segments with prompts of their own; remove it")
    asked = [rewritten(entry, template, {"answer": entry.answer}) for entry in entries]
    return replace(world, contexts={**world.contexts, REFERENCE_ANSWER: render_prompts(asked, tokenizer)})
