"""Verifiers: what they score, what they refuse, and that no model text reaches an evaluating scorer unscreened."""

import ast
import importlib
import inspect
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from policyopt.worlds.reasoning_scorers import EVALUATING_SCORERS, INLINE_SCORERS, UNREADABLE
from policyopt.worlds.screens import is_algebra, is_arithmetic, is_plain_list
from policyopt.worlds.sources import reasoning_gym_entries
from policyopt.worlds.tasks import Entry, VerifierError
from policyopt.worlds.verifiers import verifier


def entry(answer: str) -> Entry:
    return Entry("question", None, answer)


@pytest.mark.parametrize(
    ("text", "answer", "score"),
    [(" drow\n", "drow", 1.0), ("drow", " drow ", 1.0), ("Drow", "drow", 0.0), ("drow.", "drow", 0.0)],
)
def test_exact(text, answer, score):
    assert verifier("exact")(text, entry(answer)) == score


@pytest.mark.parametrize(
    ("text", "answer", "score"),
    [
        ("first 3, then 42.", "42", 1.0),
        ("42, or rather 3", "42", 0.0),
        ("so it costs $1,234.50", "1234.5", 1.0),
        ("1,2345", "2345", 1.0),
        ("5-3", "3", 1.0),
        ("5 - -3", "-3", 1.0),
        ("x = -3", "-3", 1.0),
        ("x=-3", "3", 0.0),
        ("2.50", "2.5", 1.0),
        ("1e3", "1,000", 1.0),
        ("9007199254740993", "9007199254740992", 0.0),
        ("1e9999", "1e9998", 0.0),
        ("no number", "1", 0.0),
        ("", "0", 0.0),
    ],
)
def test_numeric(text, answer, score):
    assert verifier("numeric")(text, entry(answer)) == score


def test_numeric_tolerance_is_relative_and_opt_in():
    assert verifier("numeric")("100.9", entry("100")) == 0.0
    close = verifier("numeric", {"relative_tolerance": 0.01})
    assert close("100.9", entry("100")) == 1.0
    assert close("101.1", entry("100")) == 0.0
    assert close("0.1009", entry("0.1")) == 1.0
    assert close("1e9999", entry("5")) == 0.0
    with pytest.raises(VerifierError, match=r"\[0, 1\), got 1\.5"):
        verifier("numeric", {"relative_tolerance": 1.5})


def test_numeric_needs_a_numeric_answer():
    with pytest.raises(VerifierError, match="needs a number as the entry's answer, got 'four'"):
        verifier("numeric")("4", entry("four"))


@pytest.mark.parametrize(
    ("text", "answer", "score"),
    [
        (r"thus \boxed{\frac{2}{4}}", "1/2", 1.0),
        ("the answer is 0.5", r"\frac{1}{2}", 1.0),
        (r"$1 + x^2$", "$x^2+1$", 1.0),
        (r"\boxed{\frac{2}{5}}", "1/2", 0.0),
        ("I do not know", "1/2", 0.0),
    ],
)
def test_math_verify(text, answer, score):
    assert verifier("math_verify")(text, entry(answer)) == score


def test_math_verify_refuses_an_answer_it_cannot_read():
    with pytest.raises(VerifierError, match="cannot read the entry's answer"):
        verifier("math_verify")("1", entry(""))


def test_regex_matches_the_whole_text():
    rule = verifier("regex")
    assert rule(" yes!\n", entry("yes[.!]")) == 1.0
    assert rule("yes! no", entry("yes[.!]")) == 0.0
    assert not rule.trusted


def test_only_harmless_verifiers_are_trusted():
    trusted = {name: verifier(name).trusted for name in ("exact", "numeric", "math_verify", "regex", "reasoning_gym")}
    assert trusted == {"exact": True, "numeric": True, "math_verify": False, "regex": False, "reasoning_gym": False}
    spell, count = (reasoning_gym_entries(name, {}, 1, 0)[0] for name in ("spell_backward", "countdown"))
    assert verifier("reasoning_gym").inline(spell)
    assert not verifier("reasoning_gym").inline(count)
    assert not verifier("math:floor").trusted


def test_reasoning_gym_threshold_closes_the_prefix_loophole():
    task = reasoning_gym_entries("spell_backward", {}, 1, 3)[0]
    raw, full = verifier("reasoning_gym", {"threshold": None}), verifier("reasoning_gym")
    half = verifier("reasoning_gym", {"threshold": 0.5})
    junk = task.answer + " and more"
    assert (raw(task.answer, task), full(task.answer, task), half(task.answer, task)) == (1.0, 1.0, 1.0)
    assert raw(junk, task) == pytest.approx(0.8)
    assert (full(junk, task), half(junk, task)) == (0.0, 1.0)


def test_reasoning_gym_threshold_closes_the_prefix_loophole_for_every_length():
    """1/9 added nine times is 1.0000000000000002, which the generator's scorer takes for neither 1.0 nor junk."""
    tasks = reasoning_gym_entries("spell_backward", {"min_word_len": 3, "max_word_len": 20}, 300, 3)
    assert {len(task.answer) for task in tasks} >= {4, 5, 6, 7, 8, 9, 10}
    for task in tasks:
        assert verifier("reasoning_gym")(task.answer.upper(), task) == 1.0
        assert verifier("reasoning_gym")(task.answer + "!", task) == 0.0
        assert verifier("reasoning_gym", {"threshold": None})(task.answer + "!", task) == pytest.approx(0.8)


def test_reasoning_gym_needs_its_own_entries():
    with pytest.raises(VerifierError, match=r"made by reasoning_gym_entries .* got metadata fields \['a'\]"):
        verifier("reasoning_gym")("x", Entry("p", None, "x", {"a": 1}))


def test_reasoning_gym_leaves_the_entry_as_it_is(monkeypatch):
    """A scorer may write into the metadata it is given, as knight_swap's does."""

    class Writing:
        def score_answer(self, answer, entry):
            entry["metadata"]["board_states"] = answer
            return 1.0

    task = reasoning_gym_entries("spell_backward", {}, 1, 5)[0]
    before = dict(task.metadata)
    monkeypatch.setattr("policyopt.worlds.reasoning_scorers._scorer", lambda entry: Writing())
    assert verifier("reasoning_gym")(task.answer, task) == 1.0
    assert task.metadata == before


@pytest.mark.parametrize(
    ("name", "text"),
    [("prime_factorization", "hello"), ("boxnet", "[1,2]"), ("coin_flip", "9" * 500), ("game_of_life", "{}")],
)
def test_text_a_scorer_cannot_read_is_wrong_rather_than_a_fault(name, text):
    task = reasoning_gym_entries(name, {}, 1, 1)[0]
    assert name in UNREADABLE
    assert verifier("reasoning_gym")(text, task) == 0.0


def test_unknown_names_and_options_name_the_nearest():
    with pytest.raises(VerifierError, match="unknown verifier 'numerical'; did you mean 'numeric'"):
        verifier("numerical")
    with pytest.raises(VerifierError, match="no option 'treshold'; did you mean 'threshold'"):
        verifier("reasoning_gym", {"treshold": 1})
    with pytest.raises(VerifierError, match="no option 'strip'; it has none"):
        verifier("exact", {"strip": True})


@pytest.mark.parametrize(
    ("target", "said"),
    [
        ("no_such_module:f", "cannot be imported: No module named"),
        ("math:no_such", "cannot be imported: module 'math' has no attribute"),
        ("math:pi", "must be callable, got float"),
        ("__main__:f", "importable by other processes"),
        (":f", "is written module:function"),
    ],
)
def test_a_callable_is_checked_when_built(target, said):
    with pytest.raises(VerifierError, match=re.escape(said)):
        verifier(target)


def test_a_callable_gets_text_entry_and_options(tmp_path, monkeypatch):
    (tmp_path / "reward_of_a_user.py").write_text(
        "def score(text, entry, scale):\n    return scale * (text == entry.answer)\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    importlib.invalidate_caches()
    assert verifier("reward_of_a_user:score", {"scale": 0.25})("a", entry("a")) == 0.25


# --- no evaluation of model text ------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", sorted(EVALUATING_SCORERS))
def test_trap_50_model_text_is_never_evaluated(name, tmp_path):
    """The plant works on the bare scorer (so the test can fail) and does nothing through the verifier."""
    from reasoning_gym.factory import create_dataset

    task = reasoning_gym_entries(name, {}, 1, 2)[0]
    planted = tmp_path / "planted"
    attack = f"__import__('pathlib').Path('{planted}').touch()"
    bare = create_dataset(name, **task.metadata["source_options"])
    bare.score_answer(attack, {"question": "", "answer": task.answer, "metadata": dict(task.metadata)})
    assert planted.exists()
    planted.unlink()
    spaced = attack.replace("(", " (").replace(".", " .")
    for text in (attack, spaced, f"[{attack}]", f"1+({attack})", f"{task.answer}\n{attack}", f"sin({attack})"):
        assert verifier("reasoning_gym")(text, task) == 0.0
        assert verifier("reasoning_gym", {"threshold": None})(text, task) == EVALUATING_SCORERS[name].floor
    assert not planted.exists()


@pytest.mark.parametrize("name", sorted(EVALUATING_SCORERS))
def test_screens_let_right_answers_through(name):
    tasks = reasoning_gym_entries(name, {}, 24, 4)
    # Where the generator failed to integrate it gives the question back; the screen does not take that for an answer.
    answers = [(task.answer, task) for task in tasks if "Integral" not in task.answer]
    assert len(answers) > 15
    judge = verifier("reasoning_gym")
    assert [text for text, task in answers if judge(text, task) != 1.0] == []
    if EVALUATING_SCORERS[name].admits is not is_plain_list:
        assert [text for text, _ in answers if not EVALUATING_SCORERS[name].admits(text)] == []


def test_an_equivalent_answer_passes_the_screen():
    task = reasoning_gym_entries("countdown", {}, 1, 4)[0]
    rewritten = f" ({task.answer}) * 1".removesuffix(" * 1") + " \n"
    assert rewritten.strip() != task.answer
    assert verifier("reasoning_gym")(rewritten, task) == 1.0
    lists = reasoning_gym_entries("string_insertion", {}, 1, 4)[0]
    assert verifier("reasoning_gym", {"threshold": None})(str(list(lists.answer)), lists) == 0.1


def test_a_new_evaluating_scorer_would_be_noticed():
    """Every reasoning-gym module that evaluates anything is screened, or was read and found harmless."""
    from reasoning_gym.factory import DATASETS

    harmless = {"basic_arithmetic", "bitwise_arithmetic", "codeio", "number_sorting", "propositional_logic"}
    call = re.compile(r"(?<!def )\b(?:eval|exec|parse_expr|sympify|literal_eval)\(")
    found = {
        name
        for name, (kind, _) in DATASETS.items()
        if call.search(inspect.getsource(importlib.import_module(kind.__module__)))
    }
    assert found == set(EVALUATING_SCORERS) | harmless
    assert set(DATASETS) >= INLINE_SCORERS | set(UNREADABLE)
    assert not INLINE_SCORERS & set(EVALUATING_SCORERS)
    imports = re.compile(r"parse_expr|\beval\b|\bexec\b|json|Fraction|\bint\(|float\(|Decimal|re\.|sympy")
    assert [name for name in INLINE_SCORERS if imports.search(inspect.getsource(DATASETS[name][0].score_answer))] == []


@pytest.mark.parametrize(
    ("text", "admitted"),
    [
        ("8*(45 - 17 - 2) - 14", True),
        (" -3 + +4/(2) ", True),
        ("5 - -3", True),
        ("9**9**9**9", False),
        ("9 * * 9", False),
        ("9//2", False),
        ("1e9", False),
        ("0x10", False),
        ("1_000", False),
        ("1.5", False),
        ("1" * 13, False),
        ("x", False),
        ("(1", False),
        ("1)", False),
        ("1 2", False),
        ("1,2", False),
        ("1\n+2", False),
        ("", False),
        ("٣+1", False),
        ("(" * 40 + "1" + ")" * 40, False),
        ("1+" * 3000 + "1", False),
    ],
)
def test_arithmetic_screen(text, admitted):
    assert is_arithmetic(text) is admitted


@pytest.mark.parametrize(
    ("text", "admitted"),
    [
        ("-5*X**8/7 + 3*X**7 - 0.5*x + C", True),
        ("exp(x)*sin(2*x)/2 - (x + 1)**(-3/2) + pi*sqrt(x)**-1", True),
        ("x**101", False),
        ("x**1000", False),
        ("9**9**9", False),
        ("9**x", False),
        ("x(3)", False),
        ("sin", False),
        ("Integral(x, x)", False),
        ("lambda", False),
        ("__import__", False),
        ("x.real", False),
        ("1.real", False),
        ("x[0]", False),
        ("'x'", False),
        ("x; y", False),
        ("x!", False),
        ("open(x)", False),
    ],
)
def test_algebra_screen(text, admitted):
    assert is_algebra(text) is admitted


@pytest.mark.parametrize(
    ("text", "admitted"),
    [
        ("[[1, -2], (3,)]", True),
        ("['A', \"_\", 'Q']", True),
        ("[]", True),
        ("[1, 2", False),
        ("[1 2]", False),
        ("[x]", False),
        ("[f'{x}']", False),
        ("['a' 'b']", False),
        ("['\\x41']", False),
        ("[1][0]", False),
        ("[*[1]]", False),
        ("[i for i in [1]]", False),
        ("1, 2", False),
        ("[" * 100, False),
    ],
)
def test_list_screen(text, admitted):
    assert is_plain_list(text) is admitted


_HARMLESS = (
    ast.Expression,
    ast.BinOp,
    ast.UnaryOp,
    ast.Constant,
    ast.Add,
    ast.Sub,
    ast.Mult,
    ast.Div,
    ast.USub,
    ast.UAdd,
)


@given(st.text("0123456789+-*/() x.e_,", max_size=24))
def test_arithmetic_screen_admits_only_arithmetic(text):
    if is_arithmetic(text):
        # Leading zeros are no Python, but no danger either.
        tree = ast.parse(re.sub(r"\b0+(?=\d)", "", text.strip()), mode="eval")
        assert all(isinstance(node, _HARMLESS) for node in ast.walk(tree))


@given(st.text("0123456789+-*/() xysincopgel._[]'", max_size=24))
def test_algebra_screen_admits_no_attribute_and_no_tower(text):
    if is_algebra(text):
        tree = ast.parse(re.sub(r"(?<![\d.])0+(?=\d)", "", text.strip()), mode="eval")
        kinds = (*_HARMLESS, ast.Name, ast.Load, ast.Call, ast.Pow)
        assert all(isinstance(node, kinds) for node in ast.walk(tree))
        powers = [node for node in ast.walk(tree) if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Pow)]
        assert not any(isinstance(inner, ast.Pow) for node in powers for inner in ast.walk(node.right))
        calls = [node.func for node in ast.walk(tree) if isinstance(node, ast.Call)]
        assert all(isinstance(function, ast.Name) and len(function.id) > 1 for function in calls)
