"""Tasks that do not fit the model's positions: refused, or left out where the recipe says so."""

import logging

import pytest
import tiny

from policyopt.recipe.base import RecipeError
from policyopt.recipe.build import build
from policyopt.recipe.schema import load_recipe
from policyopt.worlds.tokens import WorldError


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return str(tiny.folder(tmp_path_factory.mktemp("models") / "policy"))


def made(path, model, records, **change):
    tasks = {"jsonl": str(tiny.jsonl(path / "tasks.jsonl", records)), "verifier": "exact", "limit": 8, **change}
    tiny.recipe(path / "r.yaml", {"model": model}, tasks)
    return load_recipe(path / "r.yaml", ["evaluation=null"])


LONG = {"prompt": "What is 1 + 1? " * 40, "answer": "2"}


def test_tasks_that_do_not_fit_are_left_out_and_judged_by_their_own_answers(tmp_path, model, caplog):
    sums = list(tiny.sums())
    with pytest.raises(WorldError, match=r"1 of \d+ prompts leave no room .*tasks\.overlong=drop"):
        build(made(tmp_path, model, [LONG, *sums]))
    with (
        caplog.at_level(logging.WARNING, "policyopt"),
        build(made(tmp_path, model, [LONG, *sums], overlong="drop")) as built,
    ):
        world = built.run.worlds["world"]
        assert world.size == len(sums)
        assert world.decode(world.prompts[0]).endswith(sums[0]["prompt"])
        assert world.judge([one["answer"] for one in sums], list(range(len(sums)))) == [1.0] * len(sums)
    (said,) = [record.getMessage() for record in caplog.records if "overlong" in record.getMessage()]
    assert f"1 of {len(sums) + 1} tasks do not fit the model's 96 positions with 8 tokens" in said
    assert "the longest prompt of them has" in said


def test_recorded_answers_that_do_not_fit_are_left_out(tmp_path, model):
    short = {"prompt": "What is 1 + 1?", "demonstration": "2", "answer": "2"}
    with build(made(tmp_path, model, [short, {**short, "demonstration": "2 " * 90}, short], overlong="drop")) as built:
        assert built.run.worlds["world"].size == 2


def test_a_set_that_is_empty_then_is_an_error(tmp_path, model):
    with pytest.raises(RecipeError, match="leaves no task: 2 of 2 tasks do not fit"):
        build(made(tmp_path, model, [LONG, LONG], overlong="drop"))
