"""The unit tests of a task, read from its data: scripts' outputs, calls of functions, test code.

Accepted, as an object, a list of them, or JSON text of these (the conventions of HumanEval, MBPP, APPS and others):

* ``{"stdin": "1 2\\n", "stdout": "3\\n"}``: the program as a script; its output, but for white space at the ends of
  lines.
* ``{"call": "add", "args": [1, 2], "kwargs": {}, "returns": 3}`` or ``"raises": "ValueError"``: a function, or
  ``Class.method`` of an object made without arguments.
* ``{"code": "def check(candidate): ...", "entry_point": "add"}``, or the code alone: it runs, then its ``check``, if it
  defines one. Without an entry point (here or in the record) the program's are the names that the code calls and
  nobody else defines.
* ``{"inputs": [...], "outputs": [...]}``: scripts' inputs and outputs; with ``"fn_name"`` calls' arguments and results.
"""

from __future__ import annotations

import ast
import builtins
import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from policyopt.sandbox import wire
from policyopt.worlds.tasks import Entry, VerifierError, nearest

_MOST = 10_000


@dataclass(frozen=True)
class Script:
    stdin: str
    stdout: str


@dataclass(frozen=True)
class Call:
    """``question`` is for the program, as ``sandbox.program`` reads it; ``returns`` (encoded) or ``raises`` is not."""

    question: Mapping[str, Any]
    returns: Any
    raises: str | None


@dataclass(frozen=True)
class Code:
    code: str
    entry_points: tuple[str, ...]


@dataclass(frozen=True)
class UnitTests:
    scripts: tuple[Script, ...]
    calls: tuple[Call, ...]
    codes: tuple[Code, ...]

    @property
    def count(self) -> int:
        return len(self.scripts) + len(self.calls) + len(self.codes)


def unit_tests(entry: Entry, column: str) -> UnitTests:
    """The tests in a column of the entry's record; VerifierError if they can not be run."""
    if column not in entry.metadata:
        hint = nearest(column, entry.metadata) if entry.metadata else "it has no further columns"
        raise VerifierError(f"the task has no column {column!r} of tests; {hint}")
    given = entry.metadata[column]
    if isinstance(given, str) and given.lstrip()[:1] in ("[", "{"):
        try:
            given = json.loads(given)
        except (ValueError, RecursionError) as error:
            raise VerifierError(f"the tests in column {column!r} begin like JSON but are none: {error}") from error
    listed = given if isinstance(given, list | tuple) else [given]
    default = entry.metadata.get("entry_point")
    found = [test for item in listed for test in _tests(item, default)]
    if not 0 < len(found) <= _MOST:
        raise VerifierError(f"a task needs 1 to {_MOST} tests, got {len(found)} in column {column!r}")
    return UnitTests(
        tuple(test for test in found if isinstance(test, Script)),
        tuple(test for test in found if isinstance(test, Call)),
        tuple(test for test in found if isinstance(test, Code)),
    )


def _tests(item: Any, entry_point: Any) -> list[Script | Call | Code]:
    if isinstance(item, str):
        return [_code(item, entry_point)]
    if not isinstance(item, Mapping):
        raise VerifierError(f"a test is an object or test code, got {type(item).__name__}")
    # A saved data set has every field in every object; an absent value is None there.
    given = {name for name in item if item[name] is not None}
    for fields, needed, read in _FORMS:
        if all(item.get(name) is not None for name in needed):
            unknown = sorted(given - set(fields))
            if unknown:
                raise VerifierError(
                    f"a test with {needed[0]!r} has no field {unknown[0]!r}; {nearest(unknown[0], fields)}"
                )
            return read(item, entry_point)
    raise VerifierError(
        "a test has 'stdin' and 'stdout', 'call' and 'returns' or 'raises', 'code', or 'inputs' and 'outputs'; got "
        f"{sorted(given)}"
    )


def _script(item: Mapping[str, Any], _: Any) -> list[Script | Call | Code]:
    return [Script(_text(item, "stdin"), _text(item, "stdout"))]


def _call(item: Mapping[str, Any], _: Any) -> list[Script | Call | Code]:
    raises = item.get("raises")
    if ("returns" not in item) if raises is None else (item.get("returns") is not None):
        raise VerifierError("a test of a call has exactly one of 'returns' and 'raises'")
    arguments, named = item.get("args") or [], item.get("kwargs") or {}
    if not isinstance(arguments, list | tuple) or not isinstance(named, Mapping):
        raise VerifierError("'args' of a test is a list and 'kwargs' an object")
    return [_called(_text(item, "call"), arguments, named, item.get("returns"), raises)]


def _called(name: str, arguments: Any, named: Mapping[str, Any], returns: Any, raises: Any) -> Call:
    if raises is not None and not _is_exception(raises):
        raise VerifierError(f"'raises' names a builtin exception, got {raises!r}")
    try:
        question = {
            "name": name,
            "args": [wire.encode(value) for value in arguments],
            "kwargs": {key: wire.encode(value) for key, value in named.items()},
        }
        return Call(question, wire.encode(returns), raises)
    except wire.Unreadable as error:
        raise VerifierError(f"a test of {name!r} can not be handed over: {error}") from error


def _is_exception(name: Any) -> bool:
    kind = getattr(builtins, name, None) if isinstance(name, str) else None
    return isinstance(kind, type) and issubclass(kind, BaseException)


def _coded(item: Mapping[str, Any], entry_point: Any) -> list[Script | Call | Code]:
    own = item.get("entry_point")
    return [_code(_text(item, "code"), entry_point if own is None else own)]


def _code(code: str, entry_point: Any) -> Code:
    if entry_point is None:
        names = called_names(code)
        if not names:
            raise VerifierError("test code calls nothing that it does not define; name the 'entry_point'")
        return Code(code, names)
    names = (entry_point,) if isinstance(entry_point, str) else tuple(entry_point)
    if not names or not all(isinstance(name, str) for name in names):
        raise VerifierError(f"'entry_point' is the name of a function or a list of names, got {entry_point!r}")
    return Code(code, names)


def _table(item: Mapping[str, Any], _: Any) -> list[Script | Call | Code]:
    inputs, outputs, name = item["inputs"], item["outputs"], item.get("fn_name")
    if not isinstance(inputs, list | tuple) or not isinstance(outputs, list | tuple) or len(inputs) != len(outputs):
        raise VerifierError("'inputs' and 'outputs' are lists of equal length")
    pairs = list(zip(inputs, outputs, strict=True))
    if name is None:
        return [Script(_text({"inputs": i}, "inputs"), _text({"outputs": o}, "outputs")) for i, o in pairs]
    if not all(isinstance(arguments, list | tuple) for arguments in inputs):
        raise VerifierError("with 'fn_name' each of 'inputs' is the list of a call's arguments")
    return [_called(str(name), arguments, {}, returns, None) for arguments, returns in pairs]


def _text(item: Mapping[str, Any], name: str) -> str:
    if not isinstance(item[name], str):
        raise VerifierError(f"{name!r} of a test is a text, got {type(item[name]).__name__}")
    return item[name]


_FORMS = (
    (("stdin", "stdout"), ("stdin", "stdout"), _script),
    (("call", "args", "kwargs", "returns", "raises"), ("call",), _call),
    (("code", "entry_point"), ("code",), _coded),
    (("inputs", "outputs", "fn_name"), ("inputs", "outputs"), _table),
)


def called_names(code: str) -> tuple[str, ...]:
    """The names that some code calls and neither defines nor imports, builtins apart."""
    try:
        tree = ast.parse(code)
    except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
        raise VerifierError(f"test code is no Python: {error}") from error
    called: dict[str, None] = {}
    known = {"candidate", *dir(builtins)}
    for node in ast.walk(tree):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name):
            called[node.func.id] = None
        elif isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            known.add(node.id)
        elif isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            known.add(node.name)
        elif isinstance(node, ast.arg):
            known.add(node.arg)
        elif isinstance(node, ast.alias):
            known.add((node.asname or node.name).partition(".")[0])
    return tuple(name for name in called if name not in known)
