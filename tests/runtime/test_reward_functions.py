"""Reward functions in TRL's convention as verifiers: what they are called with, and what they return."""

import importlib
import re

import pytest

from policyopt.worlds.grading import Grader, Limits
from policyopt.worlds.records import entry_from_record
from policyopt.worlds.tasks import Entry, VerifierError
from policyopt.worlds.verifiers import verifier

REWARDS = """
import time
import numpy

def plain(completions, solution, **kwargs):
    return [float(text == right) for text, right in zip(completions, solution)]

def chat(prompts, completions, **kwargs):
    return [len(prompt) + (message[0]["content"] == prompt[-1]["content"]) / 4
            for prompt, message in zip(prompts, completions)]

def told(completions, **kwargs):
    assert kwargs.pop("prompts") == ["q"] and completions == ["x"], completions
    return [float(sorted(kwargs) == ["answer", "level"])]

def bare(prompts, completions, level): return numpy.array(level) * 0.5
def scaled(completions, scale=1.0): return [scale for _ in completions]
def sometimes(completions, **kwargs): return [None if "no" in text else 1.0 for text in completions]
def one(completions, **kwargs): return 1.0
def many(completions, **kwargs): return [1.0, 2.0]
def slow(completions, **kwargs):
    if completions == ["slow"]: time.sleep(600)
    return [0.5]
def writing(completions, **kwargs):
    if completions == ["write"]: open("planted", "w")
    return [0.5]

class Held:
    def score(self, completions, **kwargs): return [0.25]

held = Held()
"""


@pytest.fixture
def rewards(tmp_path, monkeypatch):
    (tmp_path / "rewards_of_trl.py").write_text(REWARDS)
    monkeypatch.syspath_prepend(tmp_path)
    importlib.invalidate_caches()
    return lambda name, **options: verifier(f"rewards_of_trl:{name}", options)


TASK = Entry("q", None, "x", {"level": 3})


def test_completions_are_texts_and_columns_are_lists(rewards):
    assert rewards("told")("x", TASK) == 1.0
    assert rewards("bare")("x", TASK) == 1.5
    assert rewards("scaled")("x", TASK) == 1.0
    assert rewards("scaled", scale=0.5)("x", TASK) == 0.5
    assert rewards("held.score")("x", TASK) == 0.25


def test_completions_of_a_conversation_are_lists_of_one_message(rewards):
    messages = ({"role": "system", "content": "be brief"}, {"role": "user", "content": "hello"})
    task = Entry(None, messages, "x")
    assert rewards("chat")("hello", task) == 2.25
    assert rewards("chat")("bye", task) == 2.0


def test_an_answer_has_its_own_name_as_well(rewards):
    task = entry_from_record({"problem": "q", "solution": "4"}, {"prompt": "problem", "answer": "solution"})
    assert (task.prompt, task.answer, task.metadata) == ("q", "4", {"solution": "4"})
    assert rewards("plain")("4", task) == 1.0
    assert rewards("plain")("5", task) == 0.0
    # a field that means something by itself is not read twice
    told = entry_from_record({"prompt": "q", "completion": "4"}, {"answer": "completion"})
    assert (told.answer, told.demonstration, told.metadata) == ("4", None, {})


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("plain", "takes the columns ['solution'], the task has ['answer', 'level']"),
        ("one", "returns a list of one number for every answer (here: 1), got float"),
        ("many", "got 2 items"),
    ],
)
def test_what_is_wrong_with_a_function_is_said(rewards, name, said):
    with pytest.raises(VerifierError, match=re.escape(said)):
        rewards(name)("x", TASK)


def test_a_fault_is_that_answers_alone(rewards, tmp_path):
    with Grader(rewards("sometimes"), [TASK], Limits(workers=1)) as grader:
        grades = grader.grade(["yes", "no", "yes"], [0, 0, 0])
    assert [grade.score for grade in grades] == [1.0, None, 1.0]
    assert "does not apply to this answer (it returned None)" in (grades[1].fault or "")
    with Grader(rewards("slow"), [TASK], Limits(deadline=1.0, workers=1)) as grader:
        grades = grader.grade(["slow", "quick"], [0, 0])
    assert [(grade.score, grade.fault) for grade in grades] == [(None, "deadline 1.0 s"), (0.5, None)]
    with Grader(rewards("writing"), [TASK], Limits(workers=1)) as grader:
        grades = grader.grade(["write", "read"], [0, 0])
    assert [grade.score for grade in grades] == [None, 0.5]
    assert "refused writing to 'planted'" in (grades[0].fault or "")
