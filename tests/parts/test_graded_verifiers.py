"""Verifiers that grade, and worlds of texts with several of them."""

import random

import pytest
import torch

from policyopt.ops.metrics import UNREADABLE, relative_error
from policyopt.types import Tasks
from policyopt.worlds import numbers
from policyopt.worlds.demonstrations import near_number
from policyopt.worlds.tasks import Entry, VerifierError
from policyopt.worlds.tokens import TokenWorld, WorldError
from policyopt.worlds.verifiers import verifier
from support import close

pytestmark = pytest.mark.usefixtures("float64")


def entry(answer: str) -> Entry:
    return Entry("?", None, answer)


def test_relative_errors_of_texts_are_those_of_numbers() -> None:
    rule = verifier("relative_error")
    cases = (("about 90", "100", 90.0, 100.0), ("1,100", "1000", 1100.0, 1000.0), ("0", "0", 0.0, 0.0))
    cases += (("3", "0", 3.0, 0.0), ("none", "7", float("nan"), 7.0), ("-50", "100", -50.0, 100.0))
    for text, answer, said, wanted in cases:
        expected = relative_error(torch.tensor([said]), torch.tensor([wanted]))
        assert rule(text, entry(answer)) == pytest.approx(float(expected)), text
    assert numbers.UNREADABLE == UNREADABLE
    assert rule.trusted
    with pytest.raises(VerifierError, match="needs a number"):
        rule("1", entry("one"))


def test_spans_of_the_answer_in_any_order() -> None:
    rule = verifier("answer_spans", {"width": 2})
    assert rule("noen", entry("noen")) == 1.0
    assert rule("en..no", entry("noen")) == pytest.approx(2 / 3)
    assert rule("", entry("noen")) == 0.0
    assert rule("xax", entry("a")) == 1.0
    assert verifier("answer_spans", {"width": 3})("oen", entry("noen")) == 0.5
    with pytest.raises(VerifierError, match="at least 1"):
        verifier("answer_spans", {"width": 0})


def test_forms_do_not_look_at_the_answer() -> None:
    rule = verifier("form", {"pattern": "[0-9]{1,2}"})
    assert [rule(text, entry("5")) for text in ("7", " 12 ", "123", "a")] == [1.0, 1.0, 0.0, 0.0]
    assert not rule.trusted, "a pattern may take exponential time"
    with pytest.raises(VerifierError, match="no regular expression"):
        verifier("form", {"pattern": "("})


def test_mistaken_numbers_are_near_and_never_right() -> None:

    for answer in ("0", "1", "12"):
        found = {int(near_number(answer, random.Random(seed))) for seed in range(60)}
        assert found == {n for n in range(int(answer) - 3, int(answer) + 4) if n >= 0 and n != int(answer)}


def test_answers_of_equal_text_mean_the_same() -> None:
    world = TokenWorld([[1]], eos=9, limit=4, decode=lambda tokens: "".join(" ab"[t] for t in tokens))
    tasks = world.tasks(torch.zeros(5, dtype=torch.int64))
    keys = world.answer_keys(world.complete(tasks, [[1, 2], [0, 1, 2], [2], [2, 0], [0]])).tolist()
    assert keys[0] == keys[1] >= 0
    assert keys[2] == keys[3] >= 0
    assert keys[0] != keys[2]
    assert keys[4] == -1


def test_texts_are_graded_by_several_names() -> None:
    def judge(scores):
        return lambda texts, ids: [None if text == "?" else scores * len(text) for text in texts]

    world = TokenWorld(
        [[1], [1]],
        eos=0,
        limit=3,
        decode=lambda tokens: "".join("?ab"[t] for t in tokens),
        heads={"one": judge(1.0), "two": judge(2.0)},
        checkers={"first": judge(0.5), "second": judge(0.25)},
    )
    batch = world.complete(Tasks(torch.tensor([0, 1]), world.tasks(torch.tensor([0, 1])).row), [[1, 2], [0]])
    texts = world.texts(batch)
    assert texts == ["ab", ""]
    found = world.grade_heads(batch)
    close(found["one"], [2.0, 0.0])
    close(found["two"], [4.0, 0.0])
    close(world.checks(batch), [[1.0, 0.5], [0.0, 0.0]])
    assert world.answer_keys(batch).tolist() == [1, -1]
    bare = TokenWorld([[1]], eos=0, limit=3, decode=lambda tokens: "")
    for ask, name in ((bare.grade_heads, "heads"), (bare.checks, "checks")):
        with pytest.raises(WorldError, match=rf"tasks\.{name}\.NAME\.verifier"):
            ask(batch)


def test_overlaps_by_hand() -> None:
    rule = verifier("overlap")
    assert rule("frames 3, 6", entry("3,6")) == pytest.approx(2 / 3)
    assert rule("6 3 3", entry("3,6")) == 1.0
    assert rule("", entry("3,6")) == 0.0
    assert rule("!", entry("")) == 1.0
    assert rule.trusted


def test_sections_are_judged_by_themselves() -> None:
    task = Entry("?", None, "XY", {"salient": "3,6", "count": 2})
    second = verifier("section", {"part": 1})
    assert [second(text, task) for text in ("3,6|XY", "3|XY", "XY", "3|x|XY", "")] == [1.0, 1.0, 0.0, 0.0, 0.0]
    first = verifier("section", {"of": "overlap", "against": "salient"})
    assert [first(text, task) for text in ("3,6|XY", "6|", "3,6", "|3,6")] == [1.0, 0.5, 1.0, 0.0]
    with pytest.raises(VerifierError, match="compares with the text 'count' of every record; it is 2"):
        verifier("section", {"against": "count"})("3", task)
    with pytest.raises(VerifierError, match=r"judged by one of exact, .* not by 'regex'"):
        verifier("section", {"of": "regex"})
    with pytest.raises(VerifierError, match="a part from 0 on and a separator, got -1"):
        verifier("section", {"part": -1})
