r"""Verifiers: ``(text, entry) -> float``, how well a model's text solves an entry's task.

``verifier(name, options)`` builds one by name: ``exact``, ``numeric``, ``relative_error``, ``math_verify``, ``regex``,
``form``, ``answer_spans``, ``similarity``, ``overlap``, ``section``, ``verdict``, ``python_tests``, ``reasoning_gym``,
or ``module:function`` for the user's own callable, of one text or a reward function in TRL's convention.

Where they may run. A verifier that can neither hang nor evaluate is *trusted* and may run in the caller's
process; every other one runs in a guarded worker process (see ``grading``). reasoning-gym decides per entry
(see ``reasoning_scorers``).
"""

from __future__ import annotations

import functools
import importlib
import re
import typing
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, fields, replace
from typing import Any, ClassVar

from policyopt.wording import rule
from policyopt.worlds.numbers import Numeric, RelativeError
from policyopt.worlds.python_tests import PythonTests
from policyopt.worlds.reasoning_scorers import ReasoningGym
from policyopt.worlds.reward_functions import in_lists, reward_of
from policyopt.worlds.tasks import Entry, Verifier, VerifierError, nearest
from policyopt.worlds.verdicts import Verdict


@dataclass(frozen=True)
class Exact(Verifier):
    """1 iff the text equals the answer, both without surrounding white space."""

    trusted: ClassVar[bool] = True

    def __call__(self, text: str, entry: Entry) -> float:
        return float(text.strip() == entry.answer.strip())


@dataclass(frozen=True)
class AnswerSpans(Verifier):
    """The share of the answer's runs of ``width`` characters that occur in the text, in any order: key steps of a task
    whose answer is spelt out. An answer shorter than that is one run."""

    width: int = 2
    trusted: ClassVar[bool] = True

    def __post_init__(self) -> None:
        if self.width < 1:
            raise VerifierError(f"width must be at least 1, got {self.width}")

    def __call__(self, text: str, entry: Entry) -> float:
        answer = entry.answer.strip()
        runs = {answer[i : i + self.width] for i in range(max(len(answer) - self.width, 0) + 1)}
        return sum(run in text for run in runs) / len(runs)


LONGEST = 2000
"""Characters of which `Similarity` reads texts at most: its time grows with the product of two lengths."""


@dataclass(frozen=True)
class Similarity(Verifier):
    """1 − edit distance / length of the longer one, of text and answer without surrounding white space: how many
    characters need not be inserted, deleted or replaced (Levenshtein 1966). Both are cut at ``LONGEST`` characters."""

    trusted: ClassVar[bool] = True

    def __call__(self, text: str, entry: Entry) -> float:
        said, wanted = text.strip()[:LONGEST], entry.answer.strip()[:LONGEST]
        longer = max(len(said), len(wanted))
        return 1.0 if longer == 0 else 1 - edit_distance(said, wanted) / longer


def edit_distance(one: str, other: str) -> int:
    """Fewest insertions, deletions and replacements of a character that make one text the other."""
    row = list(range(len(other) + 1))
    for i, a in enumerate(one, start=1):
        diagonal, row[0] = row[0], i
        for j, b in enumerate(other, start=1):
            diagonal, row[j] = row[j], min(row[j] + 1, row[j - 1] + 1, diagonal + (a != b))
    return row[-1]


@dataclass(frozen=True)
class Form(Verifier):
    """1 iff ``pattern``, a regular expression, matches the whole text (without surrounding white space), whatever the
    answer: a reward for the format. Never trusted, see `Regex`."""

    pattern: str = ".*"
    trusted: ClassVar[bool] = False

    def __post_init__(self) -> None:
        try:
            re.compile(self.pattern)
        except re.error as error:
            raise VerifierError(f"pattern {self.pattern!r} is no regular expression: {error}") from error

    def __call__(self, text: str, entry: Entry) -> float:
        return float(re.fullmatch(self.pattern, text.strip()) is not None)


_LONGEST_ARGUMENT = 50_000


_WORD = re.compile(r"\w+")


@dataclass(frozen=True)
class Overlap(Verifier):
    """|A & B| / |A | B| of the different words (or numbers) of text and answer, in any order: places that are to be
    named (Jaccard). Texts are cut at ``LONGEST`` characters."""

    trusted: ClassVar[bool] = True

    def __call__(self, text: str, entry: Entry) -> float:
        said, wanted = (set(_WORD.findall(words[:LONGEST])) for words in (text, entry.answer))
        return len(said & wanted) / len(said | wanted) if said | wanted else 1.0


OF_SECTIONS = ("exact", "numeric", "relative_error", "answer_spans", "similarity", "overlap")


@dataclass(frozen=True)
class Section(Verifier):
    """What another verifier says of one part of the text: the `part`-th (from 0) of those that `separator` parts; a
    part that is not there is empty. against: the field of the record to compare with; None is the answer."""

    of: str = "exact"
    part: int = 0
    separator: str = "|"
    against: str | None = None
    trusted: ClassVar[bool] = True

    def __post_init__(self) -> None:
        if self.of not in OF_SECTIONS:
            raise VerifierError(f"parts of a text are judged by one of {', '.join(OF_SECTIONS)}, not by {self.of!r}")
        if self.part < 0 or not self.separator:
            raise VerifierError(f"need a part from 0 on and a separator, got {self.part} and {self.separator!r}")

    def __call__(self, text: str, entry: Entry) -> float:
        parts = text.split(self.separator, self.part + 1)
        if self.against is not None:
            said = entry.metadata.get(self.against)
            if not isinstance(said, str):
                raise VerifierError(
                    f"section compares with the text {self.against!r} of every record; it is {said!r:.40}"
                )
            entry = replace(entry, answer=said)
        return verifier(self.of)(parts[self.part] if self.part < len(parts) else "", entry)


@dataclass(frozen=True)
class MathVerify(Verifier):
    """1 iff math-verify finds the text's final expression equal to the answer (LaTeX or plain). It reads the last
    ``_LONGEST_ARGUMENT`` characters."""

    float_rounding: int = 6
    trusted: ClassVar[bool] = False

    def __call__(self, text: str, entry: Entry) -> float:
        import math_verify

        # The library's own time-outs are off: they use signals or child processes, and the worker has a
        # deadline.
        parsed = math_verify.parse(text[-_LONGEST_ARGUMENT:], parsing_timeout=None)  # pyright: ignore[reportArgumentType]
        gold = list(_gold(entry.answer))
        return float(math_verify.verify(gold, parsed, float_rounding=self.float_rounding, timeout_seconds=None))

    def prepare(self, entries: Iterable[Entry]) -> None:
        for entry in entries:
            self(entry.answer, entry)


@functools.lru_cache(maxsize=4096)
def _gold(answer: str) -> tuple[Any, ...]:
    import math_verify

    for written in (answer, f"${answer}$"):
        parsed = math_verify.parse(written, parsing_timeout=None)  # pyright: ignore[reportArgumentType]
        if parsed:
            return tuple(parsed)
    raise VerifierError(f"math_verify cannot read the entry's answer {answer!r}; use another verifier")


@dataclass(frozen=True)
class Regex(Verifier):
    """1 iff the answer, a regular expression, matches the whole text (without surrounding white space).

    Never trusted: a pattern such as ``(a+)+b`` takes exponential time.
    """

    trusted: ClassVar[bool] = False

    def __call__(self, text: str, entry: Entry) -> float:
        return float(re.fullmatch(entry.answer, text.strip()) is not None)


@dataclass(frozen=True)
class PythonCallable(Verifier):
    """The user's ``module:function``, called as ``function(text, entry, **options)``; one with a parameter
    ``completions`` is called as TRL calls reward functions (see ``reward_functions``).

    The code is the user's own and its import is trusted; it runs in a worker because it may raise, hang or
    return something that is no number.
    """

    target: str
    options: Mapping[str, Any] = field(default_factory=dict)
    trusted: ClassVar[bool] = False

    def __post_init__(self) -> None:
        self._function()

    def __call__(self, text: str, entry: Entry) -> float:
        function = self._function()
        if in_lists(function):
            return reward_of(self.target, function, self.options, text, entry)
        return function(text, entry, **self.options)

    def prepare(self, entries: Iterable[Entry]) -> None:
        del entries
        self._function()

    def _function(self) -> Callable[..., float]:
        module_name, _, path = self.target.partition(":")
        if not module_name or not path or module_name == "__main__":
            raise VerifierError(
                f"a callable verifier is written module:function, importable by other processes, got {self.target!r}"
            )
        try:
            found = functools.reduce(getattr, path.split("."), importlib.import_module(module_name))
        except (ImportError, AttributeError) as error:
            raise VerifierError(f"verifier {self.target!r} cannot be imported: {error}; check its name") from error
        if not callable(found):
            raise VerifierError(f"verifier {self.target!r} must be callable, got {type(found).__name__}")
        return found


VERIFIERS: Mapping[str, type[Verifier]] = {
    "exact": Exact,
    "numeric": Numeric,
    "relative_error": RelativeError,
    "answer_spans": AnswerSpans,
    "similarity": Similarity,
    "form": Form,
    "overlap": Overlap,
    "section": Section,
    "math_verify": MathVerify,
    "regex": Regex,
    "reasoning_gym": ReasoningGym,
    "verdict": Verdict,
    "python_tests": PythonTests,
}


def verifier(name: str, options: Mapping[str, Any] | None = None) -> Verifier:
    """The verifier of that name with its options; for ``module:function`` they are its keyword arguments."""
    given = dict(options or {})
    if ":" in name:
        return PythonCallable(name, given)
    if name not in VERIFIERS:
        raise VerifierError(f"unknown verifier {name!r}; {nearest(name, VERIFIERS)}; or give module:function")
    kind = VERIFIERS[name]
    allowed = {option.name for option in fields(kind)}  # pyright: ignore[reportArgumentType]
    for option in given.keys() - allowed:
        hint = nearest(option, allowed) if allowed else "it has none"
        raise VerifierError(f"verifier {name!r} has no option {option!r}; {hint}")
    return kind(**_typed(name, kind, given))


def _typed(name: str, kind: type[Verifier], given: Mapping[str, Any]) -> dict[str, Any]:
    """Options in the types their fields have."""
    # Imported here: grading workers do not need it.
    from pydantic import TypeAdapter, ValidationError

    hints, found = typing.get_type_hints(kind), {}
    for option, value in given.items():
        try:
            found[option] = TypeAdapter(hints[option]).validate_python(value)
        except ValidationError as error:
            wanted = rule(error.errors()[0])
            raise VerifierError(f"option {option!r} of verifier {name!r} can not be {value!r}: it {wanted}") from error
    return found
