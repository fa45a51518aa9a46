"""What a method is made of, found by one walk."""

from __future__ import annotations

from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import Any

from policyopt.compose import Part, named_by, names_of, parts_of, walk
from policyopt.methods import load
from policyopt.update.optimizers import AdamW


@dataclass(frozen=True)
class Held(Part):
    inner: Any = None


@dataclass(frozen=True)
class Plain:
    inner: Any


def test_everything_inside_is_found_outermost_first() -> None:
    inside = Held("a")
    value = (Plain(MappingProxyType({"b": [inside]})), frozenset({"c"}), Held)
    assert list(parts_of(value)) == [inside]
    assert list(names_of(value)) == ["b", "a", "c"]
    assert list(walk(value)) == [
        *(value, value[0], value[0].inner, "b", [inside], inside, "a"),
        *(value[1], "c", Held),  # a class is no part
    ]


def test_models_with_an_optimiser_are_trained_wherever_it_stands() -> None:
    ppo = load("ppo")
    assert ppo.trained == {"policy", "critic"}
    term = replace(ppo.objective[0], name="own", trains="judge")
    hook = Plain((Plain({"terms": (term,)}), replace(ppo.update, optimizers={"other": AdamW(0.1)})))
    assert replace(ppo, after=(hook,)).trained == {"policy", "critic", "judge", "other"}


def test_names_are_those_that_options_hold() -> None:
    @dataclass(frozen=True)
    class Read(Part):
        first: str = "a"
        other: str | None = None

        critics = named_by("first", "other")

    assert Read().critics == ("a",)
    assert Read(other="b").critics == ("a", "b")
