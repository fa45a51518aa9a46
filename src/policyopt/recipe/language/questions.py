"""Which questions about answers a method puts to its world, checked before anything is trained."""

from __future__ import annotations

from collections.abc import Collection

from policyopt.compose import Method, Part, parts_of
from policyopt.feedback.annotator import AnnotatedPairs
from policyopt.feedback.duels import Duels
from policyopt.feedback.lists import SoftTournament
from policyopt.recipe.base import RecipeError
from policyopt.reward.follow_ups import FollowUpLikelihood
from policyopt.reward.refinement import RefinementReward
from policyopt.reward.wins import WinRate
from policyopt.sampling.corrupted import GroupAndCorrupted
from policyopt.selection.agreement import RightBothWays
from policyopt.worlds.tokens import TokenWorld

QUESTIONS = {
    FollowUpLikelihood: "follow_ups",
    RefinementReward: "critique",
    GroupAndCorrupted: "corrupt",
    AnnotatedPairs: "judge",
    Duels: "prefer",
    SoftTournament: "prefer",
}
"""What parts ask, by its key in tasks.ask."""


def check_questions(method: Method, world: TokenWorld, comparing: Collection[str] = ()) -> None:
    """RecipeError: the tasks have no words for what a part of the method asks. comparing: models that need none."""
    for part in parts_of((method.selection, method.sampling, method.reward, method.feedback)):
        asked = _question(part, comparing)
        if asked is not None and getattr(world.asking, asked, None) is None:
            raise RecipeError(
                f"method {method.key!r} asks what the tasks have no words for ({type(part).__name__}); give "
                f"tasks.ask.{asked}"
            )
        if isinstance(part, AnnotatedPairs) and part.reference and world.asking.judge.aided is None:
            raise RecipeError(
                f"the annotator of method {method.key!r} reads an answer of its own; give tasks.ask.judge.aided, or "
                "set feedback.reference=false"
            )
        if isinstance(part, RightBothWays) and world.judgments is None:
            raise RecipeError(
                f"method {method.key!r} judges comparisons in both orders; use data with 'comparison' and 'swapped' in "
                "every record"
            )


def _question(part: Part, comparing: Collection[str]) -> str | None:
    judge = getattr(part, "judge", None)
    if isinstance(part, (WinRate, Duels, SoftTournament)) and judge is not None:
        # Of a group's winner alone a language model can be asked in words.
        return None if judge in comparing or not isinstance(part, WinRate) else "judge"
    if isinstance(part, WinRate):
        return "prefer"
    return QUESTIONS.get(type(part))
