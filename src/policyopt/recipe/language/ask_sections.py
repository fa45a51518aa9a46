"""What a recipe may say of questions about answers: to oracles, judges, users and critics."""

from __future__ import annotations

from pydantic import Field

from policyopt.recipe.base import Section


class PreferSection(Section):
    """Who says which of two answers is preferred: an oracle of the user's, `module:function` of (prompt, first, second)
    -> the probability that the first is; without one the verifier, by sigma(difference of scores / temperature), at
    temperature 0 the larger score."""

    oracle: str | None = None
    temperature: float = Field(default=0.0, ge=0)


class JudgePromptSection(Section):
    """How a judge is asked which of two answers is better (`worlds.asking.JudgePrompt`)."""

    template: str  # over {prompt}, {first} and {second}
    aided: str | None = None  # the same with {own}, the judge's own answer
    words: tuple[str, str] = ("A", "B")  # if the first is better, or the second


class FollowUpsSection(Section):
    """What pleased and displeased users say next (`worlds.asking.FollowUps`)."""

    pleased: tuple[str, ...]
    displeased: tuple[str, ...]
    between: str = "\n"  # in front of it, behind plain text


class CritiqueSection(Section):
    """Tasks become solutions to be judged: field 'solution' of every record, right or wrong as the verifier says."""

    template: str  # the critic's prompt, over {prompt} and {solution}
    refine: str  # the solver's prompt, over {prompt}, {solution} and {critique}
    words: tuple[str, str] = ("right", "wrong")  # verdicts; a critique's last one counts


class AskSection(Section):
    """What tasks can be asked about answers, for methods that need it."""

    prefer: PreferSection | None = None
    judge: JudgePromptSection | None = None
    follow_ups: FollowUpsSection | None = None
    corrupt: str | None = None  # a mistake by name, where the answer stands in the text
    critique: CritiqueSection | None = None
