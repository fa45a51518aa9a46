"""The executed objective as data: what a run stores beside its numbers, and how two of them differ.

A stamp holds every slot of a method with its options, the formulas of its parts and their versions. Stamps of equal
fingerprints compute the same numbers; a part whose numbers change for equal options raises its `version`.
"""

from __future__ import annotations

import hashlib
import inspect
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from policyopt.compose import AXES, Chain, Method, Nothing, Part, parts_of
from policyopt.evaluation.methods import UNUSED, composition
from policyopt.report.objective import describe, formula

FORMAT = 1
OBJECTIVE = ("objective.", "constraint.", "reward", "feedback", "credit", "role ", "formula ", "version ")
"""Slots that say what is minimised; the others say from which rows and by which steps."""

_SOURCE = re.compile(
    r"\b(?:arXiv|Nature|JMLR|JASA|ICML|ICLR|NeurIPS)\b|\bet al\b|\bal\. (?:19|20)\d\d|\b(?:19|20)\d\d\b"
)


@dataclass(frozen=True)
class Change:
    """A slot in which two stamps differ; UNUSED where one has none."""

    slot: str
    before: str
    after: str

    @property
    def vital(self) -> bool:
        """Whether what is minimised differs."""
        return self.slot.startswith(OBJECTIVE)

    def __str__(self) -> str:
        return f"{self.slot}: {self.before} -> {self.after}"


def used_parts(method: Method) -> dict[str, Part]:
    """Parts by the name of their class, once each, in the order of the axes; without what only says "nothing"."""
    found = [part for slot in (*AXES, "before", "after") for part in parts_of(getattr(method, slot))]
    return {type(part).__name__: part for part in found if not isinstance(part, (Chain, Nothing))}


def stamp(method: Method) -> dict[str, Any]:
    """JSON data."""
    slots = composition(method)
    for axis in ("reward", "feedback", "credit", "sampling"):
        if equation := formula(getattr(method, axis)):
            slots[f"formula {axis}"] = equation
    for term in method.terms:
        slots[f"formula {term.name}"] = formula(term.loss)
        slots[f"formula {term.name}.average"] = formula(term.average)
    slots |= {f"version {name}": str(type(part).version) for name, part in used_parts(method).items()}
    about = method.about
    made = {"format": FORMAT, "method": about.key, "paper": about.paper, "equation": about.equation, "slots": slots}
    return {**made, "fingerprint": fingerprint(slots)}


def fingerprint(slots: Mapping[str, str]) -> str:
    """12 hexadecimal digits; equal for equal slots."""
    text = json.dumps(dict(slots), sort_keys=True, ensure_ascii=False)
    return hashlib.blake2b(text.encode(), digest_size=6).hexdigest()


def changes(before: Mapping[str, Any], after: Mapping[str, Any]) -> list[Change]:
    """In what two stamps differ, what is minimised first."""
    one = {"method": before["method"], **before["slots"]}
    two = {"method": after["method"], **after["slots"]}
    terms = {slot for slot in {*one, *two} if slot.startswith(("objective.", "constraint.")) and slot.count(".") == 1}
    lonely = {slot for slot in terms if slot not in one or slot not in two}
    told = tuple(f"{slot}." for slot in lonely) + tuple(f"formula {slot.partition('.')[2]}." for slot in lonely)
    slots = [slot for slot in dict.fromkeys((*one, *two)) if one.get(slot) != two.get(slot)]
    # Of a term that only one has, its loss says enough; of a part that only one has, its options do.
    alone = [slot for slot in slots if slot.startswith("version ") and (slot not in one or slot not in two)]
    slots = [slot for slot in slots if slot not in alone and not slot.startswith(told)]
    found = [Change(slot, one.get(slot, UNUSED), two.get(slot, UNUSED)) for slot in slots]
    return sorted(found, key=lambda change: not change.vital)


def executed(method: Method) -> str:
    """The printed objective of a run: `describe`, then where every part comes from and its version."""
    lines = [describe(method), "sources and versions of the parts"]
    for name, part in used_parts(method).items():
        lines.append(f"  {name} {type(part).version}: {_source(type(part))}")
    lines += ["", f"fingerprint  {stamp(method)['fingerprint']}"]
    return "\n".join(lines) + "\n"


def _source(part: type[Part]) -> str:
    """The first sentence of a part that names a paper; else its first one."""
    text = " ".join((inspect.getdoc(part) or "").split())
    sentences = re.split(r"(?<=\.) (?=[A-Z])", text)
    return next((found for found in sentences if _SOURCE.search(found)), sentences[0])


# -- of two runs -----------------------------------------------------------------------------------------------------
def compare_runs(first: Sequence[Mapping[str, Any]], second: Sequence[Mapping[str, Any]]) -> list[list[Change]]:
    """Stage by stage, the last stages beside each other (what comes before them is preparation)."""
    count = max(len(first), len(second))
    absent = {"method": UNUSED, "slots": {}}
    one = [absent] * (count - len(first)) + list(first)
    two = [absent] * (count - len(second)) + list(second)
    return [changes(a, b) for a, b in zip(one, two, strict=True)]
