"""Conformance: published input/output vectors against our parts, and our own vectors for other libraries.

A file is {"version": 1, "cases": [{"name", "axis", "part", "options": {}, "reduction": null, "reduction_options": {},
"inputs": {}, "expect": {}, "atol": 1e-8, "note": ""}]}; unused keys are left out. `vector_inputs` names the inputs,
`vector_runs` what can be expected, `parts` the parts and their common names. reduction: "token_mean",
"sequence_mean", "sequence_sum" (reduction_options: {"constant": ...}), "row_mean", "mean", "sum" or null. null among
expected numbers is not compared. All arithmetic is in float64.
"""

from __future__ import annotations

import contextlib
import math
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from policyopt.evaluation.parts import PartInfo, list_parts, to_json
from policyopt.evaluation.vector_inputs import VectorError, nearest, tensor
from policyopt.evaluation.vector_runs import Reduction, outputs
from policyopt.plain import PlainError, from_json

__all__ = ["SHIPPED", "CaseResult", "VectorFileError", "conformance_main", "list_parts", "run_file", "to_json"]

SHIPPED = Path(__file__).parent / "vectors"
"""Our own vectors, one file per axis."""

CASE_KEYS = (
    "name", "axis", "part", "options", "reduction", "reduction_options", "inputs", "expect", "atol", "note",
)  # fmt: skip
NEEDED = ("name", "axis", "part", "inputs", "expect")
TOLERANCE = 1e-8

# What a case with wrong shapes or options can raise in a part. Nothing is swallowed: the message is the result.
# Whatever a case holds costs that case alone.
CASE_ERRORS = (ValueError, TypeError, LookupError, AttributeError, ArithmeticError, RuntimeError)


class VectorFileError(ValueError):
    """A file that holds no conformance cases."""


@dataclass(frozen=True)
class CaseResult:
    """One case. difference: the largest among everything expected (infinite for a nan or a wrong shape), or None if
    the case could not be run; `detail` says where it is, or why."""

    file: str
    name: str
    axis: str
    part: str
    passed: bool
    difference: float | None
    detail: str

    def line(self) -> str:
        verdict = "ok  " if self.passed else "FAIL"
        number = "" if self.difference is None else f"  {self.difference:.1e}"
        return f"{verdict} {self.axis}/{self.part}: {self.name}{number}  {self.detail}"


@dataclass(frozen=True)
class Gap:
    """The largest difference in one output."""

    size: float
    place: str
    values: str = ""


def run_file(path: str | Path) -> list[CaseResult]:
    """Run every case of a file. A case that can not be run fails; the others still run."""
    path = Path(path)
    cases = _cases(path)
    with _float64():
        return [_run(path.name, case) for case in cases]


def conformance_main(path: str | Path | None = None, *, list_only: bool = False, as_json: bool = False) -> int:
    """Print the parts, or a line per case of a file, of a folder of files, or of our own vectors. Returns the exit
    status: 0 if all cases pass, 1 if any fails, 2 if a file holds no cases."""
    if list_only:
        parts = list_parts()
        print(to_json(parts) if as_json else "\n".join(_listing(parts)))
        return 0
    try:
        results = [result for file in _files(SHIPPED if path is None else Path(path)) for result in run_file(file)]
    except VectorFileError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    if as_json:
        print(to_json(results))
    else:
        for result in results:
            print(result.line())
        print(f"{sum(r.passed for r in results)} of {len(results)} cases pass")
    return 0 if all(result.passed for result in results) else 1


# -- reading ---------------------------------------------------------------------------------------------------
def _files(path: Path) -> list[Path]:
    files = sorted(path.glob("*.json")) if path.is_dir() else [path]
    if not files:
        raise VectorFileError(f"there is no .json file in {path}")
    return files


def _cases(path: Path) -> list[Any]:
    try:
        held = from_json(path.read_bytes())
    except (OSError, PlainError) as error:
        raise VectorFileError(f"{path} can not be read as JSON: {error}") from error
    if not isinstance(held, dict) or held.get("version") != 1:
        seen = held.get("version") if isinstance(held, dict) else type(held).__name__
        raise VectorFileError(f'{path} must hold {{"version": 1, "cases": [...]}}; its version is {seen!r}')
    cases = held.get("cases")
    if not isinstance(cases, list) or not cases:
        raise VectorFileError(f'{path} has no "cases"')
    return cases


@contextlib.contextmanager
def _float64() -> Iterator[None]:
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)
    try:
        yield
    finally:
        torch.set_default_dtype(before)


# -- one case --------------------------------------------------------------------------------------------------
def _run(file: str, case: Any) -> CaseResult:
    told = case if isinstance(case, dict) else {}
    name, axis, part = (str(told.get(key, "?")) for key in ("name", "axis", "part"))
    try:
        tolerance = _checked(case)
        gaps = _gaps(case)
    except CASE_ERRORS as error:
        return CaseResult(file, name, axis, part, passed=False, difference=None, detail=_message(error))
    worst = max(gaps, key=lambda gap: gap.size)
    passed = worst.size <= tolerance
    detail = worst.place if passed else f"{worst.place}{worst.values} (tolerance {tolerance:g})"
    return CaseResult(file, name, axis, part, passed, worst.size, detail)


def _message(error: Exception) -> str:
    text = " ".join(str(error).split())
    return text if isinstance(error, ValueError) else f"{type(error).__name__}: {text}"


def _checked(case: Any) -> float:
    """The tolerance of a case whose keys are right."""
    if not isinstance(case, dict):
        raise VectorError(f"a case must be an object, not {type(case).__name__}")
    for key in case:
        if key not in CASE_KEYS:
            raise VectorError(nearest("key", key, CASE_KEYS))
    missing = [key for key in NEEDED if key not in case]
    if missing:
        raise VectorError(f"a case needs {', '.join(NEEDED)}; this one lacks {', '.join(missing)}")
    for key in ("options", "reduction_options", "inputs", "expect"):
        if not isinstance(case.get(key, {}), dict):
            raise VectorError(f"{key} must be an object, not {type(case[key]).__name__}")
    if not case["expect"]:
        raise VectorError("the case expects nothing")
    tolerance = case.get("atol", TOLERANCE)
    if isinstance(tolerance, bool) or not isinstance(tolerance, int | float) or not 0 <= tolerance < math.inf:
        raise VectorError(f"atol must be a number >= 0, not {tolerance!r}")
    return float(tolerance)


def _gaps(case: Mapping[str, Any]) -> list[Gap]:
    named = case.get("reduction")
    reduction: Reduction = None if named is None else (str(named), case.get("reduction_options", {}))
    made = outputs(str(case["axis"]), str(case["part"]), case.get("options", {}), case["inputs"], reduction)
    found = []
    for name, expected in case["expect"].items():
        wanted = tensor(f"expect.{name}", expected).double()
        found.append(compare(name, made.get(name, wanted.dim()), wanted))
    return found


def compare(name: str, got: Tensor, wanted: Tensor) -> Gap:
    """The largest difference over the numbers that are expected; null is not compared."""
    got = got.double()
    if got.numel() == wanted.numel() == 0:
        return Gap(0.0, name)
    if got.shape != wanted.shape:
        return Gap(math.inf, name, f" has the shape {list(got.shape)}, expected {list(wanted.shape)}")
    counted = ~wanted.isnan()
    if not counted.any():
        raise VectorError(f"expect.{name} holds nothing but null")
    difference = torch.where(counted & (got != wanted), (got - wanted).abs(), torch.zeros(()))
    difference = torch.where(difference.isnan(), torch.full((), math.inf), difference)
    place = int(difference.argmax())
    index = [int(i) for i in torch.unravel_index(torch.tensor(place), got.shape)] if got.dim() else []
    size = float(difference.flatten()[place])
    values = f": got {got.flatten()[place]:.12g}, expected {wanted.flatten()[place]:.12g}"
    return Gap(size, f"{name}{index or ''}", values)


# -- listing ---------------------------------------------------------------------------------------------------
def _listing(parts: list[PartInfo]) -> Iterator[str]:
    axis = ""
    for part in parts:
        if part.axis != axis:
            axis = part.axis
            yield f"{axis}"
        also = f" (also {', '.join(part.aliases)})" if part.aliases else ""
        yield f"  {part.name}{also}: {part.about}"
        if part.formula:
            yield f"      {part.formula}"
        if part.options:
            yield f"      options: {', '.join(map(str, part.options))}"
        if part.refused:
            yield f"      no cases: {part.refused}"
        else:
            optional = f" [{', '.join(part.optional_inputs)}]" if part.optional_inputs else ""
            yield f"      inputs: {', '.join(part.inputs) or 'any with rows'}{optional}"
