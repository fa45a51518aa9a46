"""Answers written to stop or crash whoever reads them: verifiers, and processes that do not trust each other."""

import json
import time
from decimal import Decimal

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from policyopt.sandbox import wire
from policyopt.worlds.grading import Grader, Limits
from policyopt.worlds.numbers import _NUMBER, last_number
from policyopt.worlds.sources import reasoning_gym_entries
from policyopt.worlds.tasks import Entry
from policyopt.worlds.verifiers import verifier

MANY = 10**7
LONG = {
    "digits": "9" * MANY,
    "letters": "a" * MANY,
    "groups": "1" + ",111" * (MANY // 4) + "1",
    "numbers": "1," * (MANY // 2),
    "exponents": "1e1" * (MANY // 3),
    "signs": "-" * MANY,
    "spaces": " " * MANY,
    "words": "a " * (MANY // 2),
    "not characters": "\ud800\0" * 1000,
}


@pytest.mark.parametrize(
    ("name", "options", "answer"),
    [
        ("exact", {}, "7"),
        ("numeric", {"relative_tolerance": 0.01}, "7"),
        ("relative_error", {}, "7"),
        ("answer_spans", {}, "7x"),
        ("similarity", {}, "7x"),
        ("verdict", {"words": ["7", "8"]}, "7"),
    ],
)
def test_trusted_verifiers_read_ten_megabytes_in_no_time(name, options, answer):
    rule, entry = verifier(name, options), Entry("?", None, answer)
    assert rule.trusted
    right = 0.0 if name == "relative_error" else 1.0
    assert rule(answer, entry) == right
    began = time.process_time()
    scores = {kind: rule(text, entry) for kind, text in LONG.items()}
    assert time.process_time() - began < 5
    assert right not in scores.values()


@given(st.text(st.sampled_from("0123456789,.eE+- ax)]"), max_size=30))
def test_the_last_number_is_the_last_of_all_numbers(text):
    found = _NUMBER.findall(text)
    assert last_number(text) == (Decimal(found[-1].replace(",", "")) if found else None)


def test_towers_nests_and_lengths_cost_math_verify_one_row_each():
    texts = ["9**9**9**9", "(" * 100_000, r"$" + r"\frac{" * 20_000, r"\boxed{" * 100_000 + "1", "9" * MANY, "a" * MANY]
    rows = [text for hostile in texts for text in (hostile, r"so \boxed{7}")]
    with Grader(verifier("math_verify"), [Entry("?", None, "7")], Limits(deadline=2, workers=1)) as grader:
        # The first judgement of a worker is slow; a machine that is busy must not fail the good rows.
        grades = grader.grade(rows, [0] * len(rows))
    assert all(grade.score in (0.0, None) for grade in grades[::2])
    assert grades[0].score is None
    assert [grade.score for grade in grades[1::2]] == [1.0] * len(texts)


def test_a_pattern_that_explodes_costs_its_row():
    with Grader(verifier("form", {"pattern": "(a+)+b"}), [Entry("?", None)], Limits(deadline=0.7, workers=1)) as grader:
        grades = grader.grade(["a" * 60, "ab", "a" * 60], [0, 0, 0])
    assert [(grade.score, grade.fault) for grade in grades] == [
        (None, "deadline 0.7 s"),
        (1.0, None),
        (None, "deadline 0.7 s"),
    ]


def test_nests_and_lengths_in_evaluated_tasks_score_0():
    tasks = reasoning_gym_entries("countdown", {}, 1, 0)
    texts = ["(" * 50_000 + "1" + ")" * 50_000, "9" * MANY, "1+" * 10_000 + "1", "-" * 100_000 + "1", "\ud800\0"]
    with Grader(verifier("reasoning_gym"), tasks, Limits(deadline=30, workers=1)) as grader:
        grades = grader.grade([*texts, tasks[0].answer], [0] * 6)
    assert all(grade.score is None or grade.score < 1 for grade in grades[:-1]), grades
    assert grades[-1].score == 1.0


SCALARS = st.none() | st.booleans() | st.integers() | st.floats() | st.text() | st.binary() | st.complex_numbers()
HASHABLE = st.recursive(SCALARS, lambda inner: st.tuples(inner, inner), max_leaves=4)
VALUES = st.recursive(
    HASHABLE,
    lambda inner: st.lists(inner) | st.tuples(inner) | st.dictionaries(HASHABLE, inner) | st.sets(HASHABLE),
    max_leaves=12,
)
TREES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=6),
    lambda inner: (
        st.lists(inner) | st.tuples(st.sampled_from(["list", "dict", "set", "bytes", "complex"]), inner).map(list)
    ),
    max_leaves=20,
)


@settings(max_examples=50)
@given(VALUES)
def test_plain_values_cross_unchanged(value):
    tree = wire.checked(wire.loads(wire.dumps(wire.encode(value))))
    assert repr(wire.decode(tree)) == repr(value) or wire.decode(tree) == value
    assert wire.same(tree, wire.encode(value), 0.0) or "nan" in repr(value)


@settings(max_examples=200)
@given(st.binary(max_size=200) | TREES.map(lambda tree: json.dumps(tree).encode()))
def test_anything_else_is_refused_as_unreadable(line):
    try:
        tree = wire.checked(wire.loads(line))
    except wire.Unreadable:
        return
    wire.same(tree, tree, 0.0)
    try:
        value = wire.decode(tree)
    except TypeError:  # a set of lists
        return
    assert type(value) in (type(None), bool, int, float, str, list, tuple, set, dict, bytes, complex)


@pytest.mark.parametrize(
    "line",
    [
        b"[" * 100_000,
        b"[[" * 40 + b"]]" * 40,
        b'["list",' * 70 + b"1" + b"]" * 70,
        b"9" * 5000,
        b'["bytes","zz"]',
        b'["bytes","a"]',
        b'["dict",[1]]',
        b'["object"]',
        b'{"a":1}',
        b"\xff",
        b'"' + b"x" * (1 << 20) + b'"',
        b"[" + b"1," * 250_000 + b"1]",
        b'["list"' + b",1" * 250_000 + b"]",
    ],
    ids=lambda line: repr(line[:12]),
)
def test_lengths_depths_and_forms_are_checked_before_anything_is_built(line):
    with pytest.raises(wire.Unreadable):
        wire.checked(wire.loads(line))


class Odd:
    pass


def test_only_plain_values_in_bounds_are_handed_over():
    for value in (Odd(), Odd, len, range(3), (x for x in ""), 10**5000, [[]] * 300_000):
        with pytest.raises(wire.Unreadable):
            wire.encode(value)


@pytest.mark.parametrize(
    ("got", "wanted", "equal"),
    [
        (1, 1.0, True),
        (1, True, False),
        (0.1 + 0.2, 0.3, True),
        (1.001, 1.0, False),
        ((1, 2), [1, 2], True),
        ({1, 2}, {2, 1}, True),
        ({1, 2}, [1, 2], False),
        ({"a": (1,)}, {"a": [1]}, True),
        ({"a": 1}, {"a": 2}, False),
        ({"a": 1}, {"a": 1, "b": 2}, False),
        (float("nan"), float("nan"), False),
        (float("inf"), float("inf"), True),
        (10**400, 1.0, False),
        (10**20 + 1, 10**20, False),
        (b"a", "a", False),
        (b"a", b"a", True),
        ("1", 1, False),
        (None, False, False),
    ],
)
def test_equal_values(got, wanted, equal):
    assert wire.same(wire.encode(got), wire.encode(wanted), 1e-9) is equal


def test_comparing_values_that_collide_costs_no_more_than_sorting_them():
    numbers = [i * (2**61 - 1) for i in range(50_000)]
    tree = ["set", *numbers]
    began = time.process_time()
    assert wire.same(tree, ["set", *reversed(numbers)], 0.0)
    assert time.process_time() - began < 5


@pytest.mark.parametrize(
    ("name", "kind"), [("ValueError", ValueError), ("SystemExit", RuntimeError), ("print", RuntimeError)]
)
def test_only_ordinary_builtin_exceptions_are_raised_for_a_program(name, kind):
    error = wire.exception(name, "x" * 1000)
    assert type(error) is kind
    assert len(str(error)) <= 500
    assert type(wire.exception("UnicodeDecodeError", "x")) is RuntimeError
    assert type(wire.exception(["list"], None)) is RuntimeError
