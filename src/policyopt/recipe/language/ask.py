"""From the questions of a recipe to worlds that put them."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar

from policyopt.recipe.base import RecipeError
from policyopt.recipe.language.ask_sections import AskSection, CritiqueSection, PreferSection
from policyopt.worlds.asking import Asking, Critiques, FollowUps, JudgePrompt, Prefer, rewritten
from policyopt.worlds.tasks import Entry, Verifier
from policyopt.worlds.tokens import Judge
from policyopt.worlds.verifiers import PythonCallable

Judging = Callable[[Verifier, Sequence[Entry]], Judge]


@dataclass(frozen=True)
class PairOracle(Verifier):
    """The user's function of (prompt, first, second) as a verifier of a text that holds both answers, so that it runs
    under a deadline as verifiers do."""

    target: str
    trusted: ClassVar[bool] = False

    def __post_init__(self) -> None:
        PythonCallable(self.target)  # it can be imported

    def __call__(self, text: str, entry: Entry) -> float:
        first, second = json.loads(text)
        chance = PythonCallable(self.target)._function()(entry.key, first, second)
        if not 0 <= chance <= 1:
            raise ValueError(f"an oracle gives the probability that the first answer is preferred, not {chance}")
        return chance


def asking_of(
    said: AskSection,
    entries: Sequence[Entry],
    tokenizer: Any,
    judge: Judge | None,
    judging: Judging,
    critiques: Critiques | None,
) -> Asking:
    """judge: of the tasks' answers; judging: makes one of another verifier."""
    follow_ups, prompt = said.follow_ups, said.judge
    return Asking(
        entries=entries,
        tokenizer=tokenizer,
        prefer=None if said.prefer is None else preferring(said.prefer, entries, judge, judging),
        judge=None if prompt is None else JudgePrompt(**prompt.model_dump()),
        follow_ups=None if follow_ups is None else FollowUps(**follow_ups.model_dump()),
        corrupt=said.corrupt,
        critique=critiques,
    )


def preferring(said: PreferSection, entries: Sequence[Entry], judge: Judge | None, judging: Judging) -> Prefer:
    if said.oracle is not None:
        if said.temperature:
            raise RecipeError("tasks.ask.prefer.temperature has no effect beside an oracle; remove it")
        oracle = judging(PairOracle(said.oracle), entries)
        return lambda first, second, ids: oracle(
            [json.dumps(pair) for pair in zip(first, second, strict=True)], list(ids)
        )
    if judge is None:
        raise RecipeError(
            "tasks.ask.prefer compares by the scores of a verifier, and the tasks have none; set tasks.verifier, or "
            "tasks.ask.prefer.oracle=module:function"
        )
    return ByScores(judge, said.temperature)


@dataclass(frozen=True)
class ByScores:
    """Preferences by scores: sigma(difference / temperature), at temperature 0 the larger one; a tie is 1/2."""

    judge: Judge
    temperature: float = 0.0

    def __call__(self, first: Sequence[str], second: Sequence[str], ids: Sequence[int]) -> list[float | None]:
        one, other = (self.judge(list(texts), list(ids)) for texts in (first, second))
        return [self.chance(a, b) for a, b in zip(one, other, strict=True)]

    def chance(self, first: float | None, second: float | None) -> float | None:
        if first is None or second is None:
            return None
        gap = first - second
        if self.temperature == 0:
            return 0.5 + 0.5 * ((gap > 0) - (gap < 0))
        return 1 / (1 + math.exp(min(700.0, max(-700.0, -gap / self.temperature))))


def solutions_to_judge(
    said: CritiqueSection, problems: Sequence[Entry], judge: Judge | None
) -> tuple[list[Entry], Critiques]:
    """Tasks whose right answer is the verdict on a recorded solution, and what its refinement needs. RecipeError: no
    verifier of solutions, a record without one, or a solution that the verifier can not judge."""
    if judge is None:
        raise RecipeError("tasks.ask.critique needs a verifier of solutions; set tasks.verifier")
    recorded = [entry.metadata.get("solution") for entry in problems]
    solutions = [solution for solution in recorded if isinstance(solution, str)]
    missing = len(problems) - len(solutions)
    if missing:
        raise RecipeError(
            f"tasks.ask.critique needs a text 'solution' in every record; {missing} of {len(problems)} have none"
        )
    scores = judge(solutions, list(range(len(problems))))
    found = []
    for entry, solution, score in zip(problems, solutions, scores, strict=True):
        if score is None:
            raise RecipeError(f"the verifier can not judge the recorded solution {solution!r:.80}; remove the record")
        verdict = said.words[0] if score > 0.5 else said.words[1]
        asked = rewritten(entry, said.template, {"solution": solution})
        found.append(replace(asked, answer=verdict))
    return found, Critiques(said.refine, said.words, problems, solutions, judge)
