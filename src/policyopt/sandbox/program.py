"""What a confined process does: run a program as a script, call its functions, or (``tester``) run tests that call it.

Nothing here can be relied on once the program runs: it shares the process and may change all of it. So nothing here
decides anything, and what is to be compared with its answers never comes here.
"""

from __future__ import annotations

import atexit
import json
import os
import random
import sys
import threading
import traceback
from collections.abc import Callable, Iterator
from types import ModuleType
from typing import Any

from policyopt.sandbox import tester, warden, wire

NAME = "<program>"


def run() -> None:
    """Do the job on descriptor 5 and end the process."""
    with open(warden.JOB, "rb") as file:
        job = json.loads(file.read())
    random.seed(0)  # a program that draws has the same luck every time
    atexit._clear()
    os.environ.clear()
    sys.argv[:] = ["program.py"]
    sys.path[:] = [path for path in sys.path if path and os.path.exists(path)]
    sys.dont_write_bytecode = True
    kinds: dict[str, Callable[[dict[str, Any]], None]] = {
        "script": _script,
        "calls": _calls,
        "serve": _serve,
        "tests": tester.run,
    }
    os._exit(_finished(kinds[job["kind"]], job))


def _finished(act: Callable[[dict[str, Any]], None], job: dict[str, Any]) -> int:
    """The exit code, as Python's own."""
    code = _code(lambda: act(job))
    return max(code, _code(threading._shutdown), _code(atexit._run_exitfuncs), _code(_flush), key=abs)  # pyright: ignore[reportAttributeAccessIssue]


def _code(act: Callable[[], object]) -> int:
    try:
        act()
    except SystemExit as leaving:
        if leaving.code is None or isinstance(leaving.code, int):
            return (leaving.code or 0) & 0xFF
        print(leaving.code, file=sys.stderr)
        return 1
    except BaseException:  # noqa: BLE001 - a program may raise anything
        traceback.print_exc()
        return 1
    return 0


def _flush() -> None:
    sys.stdout.flush()
    sys.stderr.flush()


def _load(source: str, name: str) -> dict[str, Any]:
    """Run the program as a module; its names."""
    module = ModuleType(name)
    sys.modules[name] = module
    exec(compile(source, NAME, "exec", dont_inherit=True), module.__dict__)
    return module.__dict__


def _script(job: dict[str, Any]) -> None:
    _load(job["source"], "__main__")


def _calls(job: dict[str, Any]) -> None:
    names = _load(job["source"], "program")
    for call in job["calls"]:
        _answer(names, call)


def _serve(job: dict[str, Any]) -> None:
    names = _load(job["source"], "program")
    for line in lines(warden.ASKED):
        _answer(names, json.loads(line))


def _answer(names: dict[str, Any], call: dict[str, Any]) -> None:
    """Call a function and say what it returned or raised."""
    try:
        arguments = [wire.decode(tree) for tree in call["args"]]
        named = {name: wire.decode(tree) for name, tree in call["kwargs"].items()}
        value = _found(names, call["name"])(*arguments, **named)
        try:
            line = wire.dumps(["value", wire.encode(value)])
        except wire.Unreadable as error:
            line = wire.dumps(["error", "", str(error)])  # no exception's name: the function raised nothing
    except BaseException as error:  # noqa: BLE001 - a program may raise anything
        line = wire.dumps(["error", wire.exception_name(error), _message(error)])
    write(warden.ANSWERS, line)


def _message(error: BaseException) -> str:
    try:
        alone = error.args[0] if len(error.args) == 1 else None  # KeyError's text would be quoted
        return (alone if isinstance(alone, str) else str(error))[:500]
    except Exception:  # noqa: BLE001 - the program's own code too
        return ""


def _found(names: dict[str, Any], name: str) -> Any:
    """``function``, or ``Class.method`` of an object made without arguments; what is not defined may be a method of a
    ``Solution``, as in programming contests."""
    first, *rest = name.split(".")
    if first not in names and "Solution" in names:
        first, rest = "Solution", [first, *rest]
    if first not in names:
        raise NameError(f"the program defines no {first!r}")
    found = names[first]
    for attribute in rest:
        found = getattr(found() if isinstance(found, type) else found, attribute)
    return found


def write(handle: int, data: bytes) -> None:
    while data:
        data = data[os.write(handle, data) :]


def lines(handle: int) -> Iterator[bytes]:
    """Lines of a descriptor without their ends, until it closes; Unreadable for one that is too long."""
    kept = b""
    while piece := os.read(handle, 1 << 16):
        *whole, kept = (kept + piece).split(b"\n")
        yield from whole
        if len(kept) > wire.LONGEST:
            raise wire.Unreadable("a line without an end")
