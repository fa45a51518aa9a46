"""Tests written as code, in a process of their own: the program's functions are proxies that ask the program's process.

Only plain values cross (``wire``), so nothing that the program returns can pretend to be equal, and nothing that it
does to its own process is seen here. A value that can not be handed over is an error of the call; an argument that is
changed in place changes in the program's process only.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from typing import Any

from policyopt.sandbox import warden, wire


class Gone(BaseException):
    """The program ended, or sent what is no answer; no test that it is asked in can pass any more."""


class Program:
    """The program behind a descriptor."""

    def __init__(self, handle: int):
        self.handle, self.kept, self.gone = handle, b"", False

    def ask(self, name: str, arguments: tuple[Any, ...], named: dict[str, Any]) -> Any:
        """What the function returns; raises what it raised."""
        question = {
            "name": name,
            "args": [wire.encode(value) for value in arguments],
            "kwargs": {key: wire.encode(value) for key, value in named.items()},
        }
        line = wire.dumps(question)
        try:
            answer = self._answer(line)
        except (OSError, wire.Unreadable, Gone) as error:
            self.gone = True
            raise Gone(str(error)) from None
        if answer[0] == "error":
            raise wire.exception(answer[1], answer[2])
        return wire.decode(answer[1])

    def _answer(self, question: bytes) -> list[Any]:
        if self.gone:
            raise Gone("it ended before")
        while question:
            question = question[os.write(self.handle, question) :]
        while b"\n" not in self.kept:
            piece = os.read(self.handle, 1 << 16)
            if not piece or len(self.kept) > wire.LONGEST:
                raise Gone("it ended" if not piece else "an answer without an end")
            self.kept += piece
        line, _, self.kept = self.kept.partition(b"\n")
        if self.kept:
            raise Gone("it answered what was not asked")
        answer = wire.loads(line)
        if not isinstance(answer, list) or not answer:
            raise Gone("no answer")
        if answer[0] == "value" and len(answer) == 2:
            return ["value", wire.checked(answer[1])]
        if answer[0] == "error" and len(answer) == 3:
            return answer
        raise Gone("no answer")


def _proxy(program: Program, name: str) -> Callable[..., Any]:
    def candidate(*arguments: Any, **named: Any) -> Any:
        return program.ask(name, arguments, named)

    candidate.__name__ = candidate.__qualname__ = name.rpartition(".")[2]
    return candidate


def run(job: dict[str, Any]) -> None:
    """Run every test and say after each how it went: ``[passed | failed | invalid, why]``."""
    program = Program(warden.ASKED)
    for test in job["tests"]:
        line = json.dumps(_verdict(program, test)).encode() + b"\n"
        while line:
            line = line[os.write(warden.ANSWERS, line) :]


def _verdict(program: Program, test: dict[str, Any]) -> list[str]:
    names: dict[str, Any] = {name.partition(".")[0]: _proxy(program, name) for name in test["entry_points"]}
    names |= {"candidate": _proxy(program, test["entry_points"][0]), "__name__": "tests"}
    try:
        code = compile(test["code"], "<tests>", "exec", dont_inherit=True)
    except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
        return ["invalid", f"{type(error).__name__}: {error}"[:500]]
    try:
        exec(code, names)
        if callable(names.get("check")):
            names["check"](names["candidate"])
    except BaseException as error:  # noqa: BLE001 - whatever stops a test fails it
        return ["failed", f"{type(error).__name__}: {error}"[:500]]
    return ["failed", "the program ended"] if program.gone else ["passed", ""]
