"""Published methods as data: what they are made of, how well they are checked, how two of them differ."""

from __future__ import annotations

import dataclasses
import functools
import inspect
import json
import re
from collections import Counter
from pathlib import Path
from typing import Any

import policyopt
from policyopt.compose import AXES, Chain, CompositionError, Method, Nothing, Part, Term
from policyopt.evaluation.costs import costs
from policyopt.evaluation.statistics import Verdict
from policyopt.evaluation.verify import Verification, stored
from policyopt.methods import keys, load
from policyopt.options import options, snake
from policyopt.reward.parts import Verified
from policyopt.sampling.samplers import Group
from policyopt.selection.tasks import Epochs, EveryRow, Selection
from policyopt.update.gradient import GradientSteps

VECTORS = Path(__file__).parent / "vectors"
REPOSITORY = Path(policyopt.__file__).parents[2]
"""Root of the checkout that the package runs from; of an installed package, a folder without our tests."""


_TESTS = re.compile(r"^ *def test_\w+", re.MULTILINE)
UNUSED = "-"


def text(part: Any) -> str:
    """A part with its options on one line; functions by name."""
    if isinstance(part, Chain):
        return " then ".join(text(item) for item in part.parts)
    if inspect.isfunction(part):
        return part.__name__
    if isinstance(part, tuple):
        return f"({', '.join(text(item) for item in part)})"
    if isinstance(part, dict):
        return "{" + ", ".join(f"{key}: {text(value)}" for key, value in part.items()) + "}"
    if dataclasses.is_dataclass(part) and not isinstance(part, type):
        fields = ((f.name, getattr(part, f.name)) for f in dataclasses.fields(part) if f.repr)
        return f"{type(part).__name__}({', '.join(f'{name}={text(value)}' for name, value in fields)})"
    return f"{part:g}" if isinstance(part, float) else str(part)


def composition(method: Method) -> dict[str, str]:
    """Every slot of a method and what fills it: one entry per axis, term field, update option, role and model."""
    slots = {axis: text(getattr(method, axis)) for axis in ("sampling", "reward", "feedback", "credit")}
    slots |= {f"selection.{f.name}": text(getattr(method.selection, f.name)) for f in _fields(method.selection)}
    for axis in ("objective", "constraint"):
        for term in getattr(method, axis):
            slots |= _term(f"{axis}.{term.name}", term)
    slots["update"] = type(method.update).__name__
    slots |= {f"update.{f.name}": text(getattr(method.update, f.name)) for f in _fields(method.update)}
    slots |= {f"role {name}": text(role) for name, role in method.roles.items()}
    slots |= {f"model {name}": text(model) for name, model in method.models.items()}
    for when in ("before", "after"):
        slots |= {f"{when} every round": ", ".join(text(hook) for hook in getattr(method, when)) or UNUSED}
    return slots


def _fields(part: Any) -> tuple[dataclasses.Field[Any], ...]:
    return dataclasses.fields(part) if dataclasses.is_dataclass(part) else ()


def _term(where: str, term: Term) -> dict[str, str]:
    slots = {
        where: text(term.loss),
        f"{where}.average": text(term.average),
        f"{where}.mask": text(term.mask),
        f"{where}.weight": text(term.weight),
        f"{where}.trains": term.trains,
    }
    if term.couples:
        slots[f"{where}.couples"] = ", ".join(term.couples)
    if term.limit is not None:
        slots[f"{where}.limit"] = text(term.limit)
    return slots


def diff(first: str | Method, second: str | Method) -> list[tuple[str, str, str]]:
    """(slot, in the first, in the second) wherever two compositions differ; "-" where a slot is not used. Of a term
    that only one has, its loss alone is named."""
    one, two = (composition(load(m) if isinstance(m, str) else m) for m in (first, second))
    terms = {slot for slot in {*one, *two} if slot.startswith(("objective.", "constraint.")) and slot.count(".") == 1}
    lonely = tuple(f"{term}." for term in terms if term not in one or term not in two)
    slots = [slot for slot in dict.fromkeys((*one, *two)) if not slot.startswith(lonely)]
    rows = [(slot, one.get(slot, UNUSED), two.get(slot, UNUSED)) for slot in slots]
    return [row for row in rows if row[1] != row[2]]


def axes_of(method: Method) -> list[str]:
    """Axes on which a method is not the plain loop: tasks in order of epochs and every row kept; independent
    attempts; the world's own grade; one pass of gradient steps over the rows."""
    plain = {
        "selection": isinstance(method.selection, Selection)
        and (method.selection.tasks, method.selection.rows) == (Epochs(), EveryRow()),
        "sampling": isinstance(method.sampling, Group),
        "reward": isinstance(method.reward, Nothing) or method.reward == Verified(),
        "feedback": isinstance(method.feedback, Nothing),
        "credit": isinstance(method.credit, Nothing),
        "objective": not method.objective,
        "constraint": not method.constraint,
        "update": isinstance(method.update, GradientSteps)
        and (method.update.epochs, method.update.minibatches) == (1, 1),
    }
    return [axis for axis in AXES if not plain[axis]]


def parts_of(method: Method) -> set[tuple[str, str]]:
    """(axis, name) of every part of a method, as conformance vectors name them."""
    found = {(option.path[0], snake(type(option.value).__name__)) for option in _part_options(method)}
    for axis in ("selection", "sampling", "reward", "feedback", "credit", "update"):
        top = getattr(method, axis)
        found |= {(axis, snake(type(part).__name__)) for part in (top.parts if isinstance(top, Chain) else (top,))}
    # An averaging part lives in the folder of `update`, wherever a term uses it.
    return found | {("update", snake(type(term.average).__name__)) for term in method.terms}


def _part_options(method: Method) -> list[Any]:
    return [option for option in options(method) if isinstance(option.value, Part)]


@functools.cache
def _vector_parts() -> Counter[tuple[str, str]]:
    """How many of the conformance cases that ship with the package are of an (axis, part)."""
    cases = [case for file in VECTORS.glob("*.json") for case in json.loads(file.read_text(encoding="utf-8"))["cases"]]
    return Counter((case["axis"], case["part"]) for case in cases)


def conformance(key: str) -> int:
    """Tests that pin a method down: cases of the conformance vectors of its parts and, in a checkout, the test
    functions of its own test file."""
    vectors = _vector_parts()
    count = sum(vectors[part] for part in parts_of(load(key)))
    own = REPOSITORY / "tests" / "methods" / f"test_{key}.py"
    if own.is_file():
        count += len(_TESTS.findall(own.read_text(encoding="utf-8")))
    return count


def summary(key: str) -> dict[str, Any]:
    """One published method as an object of `policyopt methods list --json`. conformance: tests that pin it down.
    effect: of its claim, in units of the smallest effect that counts, above 0 in the claimed direction. cost: rows a
    seed of the claim's experiment. Both None without a result. cpu_seconds: of the last test of the claim, all seeds
    and arms; None if it was not measured."""
    method, result = load(key), stored(key)
    return {
        "key": key,
        "title": method.about.title,
        "seed": method.about.seed,
        "family": method.about.family,
        "axes": axes_of(method),
        "policies": list(method.about.policies),
        "conformance": conformance(key),
        "verdict": str(Verdict.UNVERIFIED if result is None else result.verdict),
        "effect": None if result is None else _effect(result),
        "cost": None if result is None else sum(result.treated.rows) / len(result.treated.rows),
        "cpu_seconds": costs().get(key),
    }


def _effect(result: Verification) -> float:
    """The difference in the claimed direction, in units of the smallest effect that counts."""
    sign = 1 if result.criterion["direction"] == "higher" else -1
    return sign * result.difference.estimate / result.criterion["smallest_effect"]


ORDERS = ("key", "family", "verdict", "effect", "cost")
VERDICTS = [str(verdict) for verdict in (Verdict.SHOWN, Verdict.NOT_SHOWN, Verdict.CONTRADICTED, Verdict.UNVERIFIED)]


def list_methods(order: str = "key") -> list[dict[str, Any]]:
    """Every published method (see `summary`) in the order of one of `ORDERS`: large effects, good verdicts and low
    costs first, methods without a family or a result last, keys among equals."""
    if order not in ORDERS:
        raise CompositionError(f"methods are sorted by one of {', '.join(ORDERS)}, not by {order!r}")

    def place(method: dict[str, Any]) -> tuple[Any, ...]:
        value = method[order]
        if order == "verdict":
            return (VERDICTS.index(value), method["key"])
        return (value in (None, ""), -value if order == "effect" and value is not None else value, method["key"])

    return sorted((summary(key) for key in keys()), key=place)


def show(key: str) -> dict[str, Any]:
    """Everything known of one method: its summary, what was published, its composition."""
    method = load(key)
    about = {f.name: getattr(method.about, f.name) for f in dataclasses.fields(method.about)}
    return {**summary(key), "about": about, "composition": composition(method)}
