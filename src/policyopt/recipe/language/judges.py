"""Judges behind an API, from what a recipe says of them."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Any

from policyopt.policies.endpoint import Endpoint
from policyopt.policies.judges import PairJudge, ScoringJudge, judge
from policyopt.recipe.language.sections import JudgeSection

_READING = {"score": {"template", "lowest", "highest"}, "pair": {"template"}}


def judges_of(said: Mapping[str, JudgeSection], tokenizer: Any) -> dict[str, ScoringJudge | PairJudge]:
    """By name; they read rows as clean text."""
    decode = partial(tokenizer.decode, skip_special_tokens=True)
    return {name: judge(name, endpoint_of(one), decode, one.ask, **reading_of(one)) for name, one in said.items()}


def endpoint_of(said: JudgeSection) -> Endpoint:
    return Endpoint(**said.model_dump(exclude={"ask", *_READING["score"]}))


def reading_of(said: JudgeSection) -> dict[str, Any]:
    """What the judge is asked and how its replies are read."""
    return {key: value for key, value in said.model_dump(include=_READING[said.ask]).items() if value is not None}
