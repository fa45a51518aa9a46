r"""The ``reasoning_gym`` verifier: the scorer of the generator that made an entry, kept from evaluating
model text.

Scorers of reasoning-gym 0.1.25 that evaluate text, found by searching the package for ``eval``, ``exec``,
``parse_expr``, ``sympify``, ``literal_eval``, ``compile`` and ``ast.parse``. Model text reaches the scorer
only when it equals a right answer of the data or passes the screen; otherwise the score is the floor. All
of them also run in a guarded worker.

=========================== ============================ ==================== =====
data set                    evaluates model text with    screen               floor
=========================== ============================ ==================== =====
countdown                   ``sympy.parse_expr`` (eval)  ``is_arithmetic``    0.01
puzzle24                    ``sympy.parse_expr`` (eval)  ``is_arithmetic``    0.01
polynomial_multiplication   ``sympy.parse_expr`` (eval)  ``is_algebra``       0.0
simple_integration          ``sympy.parse_expr`` (eval)  ``is_algebra``       0.0
intermediate_integration    ``sympy.parse_expr`` (eval)  ``is_algebra``       0.0
binary_matrix               ``eval``                     ``is_plain_list``    0.0
n_queens                    ``eval``                     ``is_plain_list``    0.0
spiral_matrix               ``eval``                     ``is_plain_list``    0.0
string_insertion            ``eval``                     ``is_plain_list``    0.0
=========================== ============================ ==================== =====

Looked at and left unscreened, because what they evaluate is the generator's own text: number_sorting
(``eval`` of the entry's answer), bitwise_arithmetic (``eval`` of the problem), codeio, gsm_symbolic and
basic_arithmetic (while generating), decimal_arithmetic (``ast.parse`` while generating). They and all
others not named in ``INLINE_SCORERS`` still run in a worker: coin_flip's ``Fraction("1e999999999")`` shows
that a scorer need not evaluate anything to hang. The screens also close a hole of the integration tasks,
whose scorer accepts the unevaluated ``Integral(...)`` of the question as its own solution.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from policyopt.worlds.screens import is_algebra, is_arithmetic, is_plain_list
from policyopt.worlds.tasks import Entry, Verifier, VerifierError


@dataclass(frozen=True)
class _Screen:
    """What model text must satisfy before a scorer that evaluates sees it, and the score otherwise."""

    admits: Callable[[str], bool]
    floor: float


EVALUATING_SCORERS: Mapping[str, _Screen] = {
    "countdown": _Screen(is_arithmetic, 0.01),
    "puzzle24": _Screen(is_arithmetic, 0.01),
    "polynomial_multiplication": _Screen(is_algebra, 0.0),
    "simple_integration": _Screen(is_algebra, 0.0),
    "intermediate_integration": _Screen(is_algebra, 0.0),
    "binary_matrix": _Screen(is_plain_list, 0.0),
    "n_queens": _Screen(is_plain_list, 0.0),
    "spiral_matrix": _Screen(is_plain_list, 0.0),
    "string_insertion": _Screen(is_plain_list, 0.0),
}

# Scorers read and found to compare strings in time linear in the text: the library's default one, then own
# ones.
INLINE_SCORERS = frozenset(
    {
        "acre",
        "aiw",
        "arc_1d",
        "base_conversion",
        "basic_arithmetic",
        "bf",
        "binary_alternation",
        "caesar_cipher",
        "count_bits",
        "count_primes",
        "course_schedule",
        "gcd",
        "isomorphic_strings",
        "largest_island",
        "lcm",
        "leg_counting",
        "letter_counting",
        "list_functions",
        "mahjong_puzzle",
        "maze",
        "modulo_grid",
        "number_filtering",
        "number_sequence",
        "ransom_note",
        "rotate_matrix",
        "rotten_oranges",
        "simple_equations",
        "simple_geometry",
        "string_manipulation",
        "string_splitting",
        "string_synthesis",
        "syllogism",
        "word_sequence_reversal",
        "ab",
        "circuit_logic",
        "color_cube_rotation",
        "dice",
        "emoji_mystery",
        "family_relationships",
        "figlet_font",
        "needle_haystack",
        "path_star",
        "self_reference",
        "sentence_reordering",
        "spell_backward",
        "zebra_puzzles",
    }
)

# Scorers that raise, rather than score, when they cannot read the model's text: such a text gets 0, not a
# fault.
UNREADABLE: Mapping[str, tuple[type[Exception], ...]] = {
    "boxnet": (AttributeError, KeyError, TypeError, ValueError),
    "coin_flip": (OverflowError,),
    "game_of_life": (KeyError,),
    "prime_factorization": (ValueError,),
}


@dataclass(frozen=True)
class ReasoningGym(Verifier):
    """The score of the generator that made the entry; with ``threshold``, 1 iff that score reaches it, else
    0.

    Many scorers pay for near misses (spell_backward pays 0.8 for the right word followed by anything),
    which a policy learns to collect; so the default asks for the full score. None gives the raw score.
    """

    threshold: float | None = 1.0
    trusted: ClassVar[bool] = False

    def __call__(self, text: str, entry: Entry) -> float:
        name = _source(entry)
        screen = EVALUATING_SCORERS.get(name)
        if screen is not None:
            text = text.strip()
            if not (_is_given_answer(text, entry) or screen.admits(text)):
                return self._reward(screen.floor)
        # Some scorers write into the metadata they are given.
        judged = {"question": entry.prompt, "answer": entry.answer, "metadata": dict(entry.metadata)}
        try:
            return self._reward(_mended(name, _scorer(entry).score_answer(text, judged), text, entry))
        except UNREADABLE.get(name, ()):
            return self._reward(0.0)

    def inline(self, entry: Entry) -> bool:
        return _source(entry) in INLINE_SCORERS

    def prepare(self, entries: Iterable[Entry]) -> None:
        for entry in entries:
            _scorer(entry)

    def _reward(self, score: float) -> float:
        return score if self.threshold is None else float(score >= self.threshold)


def _mended(name: str, score: float, text: str, entry: Entry) -> float:
    """The score, without a rounding fault of spell_backward's scorer.

    It adds 1/n for each of n letters, and takes 0.2 off a sum of 1.0: that of the right word followed by anything.
    For some n (9, say) the sum is 1.0000000000000002, which escapes and would count as the full score.
    """
    if name != "spell_backward" or text.lower() == entry.answer.lower() or score < 1 - 1e-9:
        return score
    return score - 0.2


def _source(entry: Entry) -> str:
    name = entry.metadata.get("source_dataset")
    if not isinstance(name, str) or "source_options" not in entry.metadata:
        raise VerifierError(
            "the reasoning_gym verifier needs entries made by reasoning_gym_entries (metadata source_dataset "
            f"and source_options), got metadata fields {sorted(entry.metadata)}; use another verifier"
        )
    return name


def _is_given_answer(text: str, entry: Entry) -> bool:
    """Whether the text is, letter for letter, an answer the data itself gives (and so safe to hand on)."""
    return text == entry.answer.strip() or text in entry.metadata.get("valid_answers", ())


_SCORERS: dict[tuple[str, str], Any] = {}


def _scorer(entry: Entry) -> Any:
    """The entry's generator, rebuilt once per process from its recorded options."""
    name, options = _source(entry), entry.metadata["source_options"]
    key = (name, repr(options))
    if key not in _SCORERS:
        from reasoning_gym.factory import create_dataset

        _SCORERS[key] = create_dataset(name, **options)
    return _SCORERS[key]
