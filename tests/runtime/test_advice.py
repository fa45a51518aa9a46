"""Options that are told because hardly anybody means them, and ranks of adapters above what a layer can have."""

import logging

import pytest
import tiny

from policyopt.recipe.base import RecipeError
from policyopt.recipe.build import build
from policyopt.recipe.schema import load_recipe
from policyopt.worlds.once import warn_once


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return str(tiny.folder(tmp_path_factory.mktemp("models") / "policy"))


@pytest.fixture
def told(tmp_path, model, caplog):
    """Warnings about the recipe with changes."""

    def tell(*changes):
        warn_once.cache_clear()
        caplog.clear()
        tasks = {"jsonl": str(tiny.jsonl(tmp_path / "tasks.jsonl", tiny.sums())), "verifier": "exact"}
        path = tiny.recipe(tmp_path / "r.yaml", {"model": model}, tasks)
        with caplog.at_level(logging.WARNING, "policyopt"):
            build(load_recipe(path, ["evaluation=null", *changes])).close()
        return [record.getMessage() for record in caplog.records if record.levelno == logging.WARNING]

    return tell


def test_a_usual_stage_is_told_nothing(told):
    assert told() == []
    assert told("method=reinforce", "stages.0.options={sampling.size: 1}") == []


@pytest.mark.parametrize(
    ("method", "part"), [("grpo", "GroupStandardised"), ("rloo", "LeaveOneOut"), ("dapo", "GroupStandardised")]
)
def test_a_group_of_one_compares_nothing(told, method, part):
    options = "{selection.count: 3, sampling.size: 1}"
    (said,) = told(f"stages=[{{method: {method}, steps: 1, options: {options}}}]")
    assert "sampling.size=1" in said
    assert f"advantages of {part} are all 0" in said
    assert "the gradient of ['policy'] vanishes" in said
    assert "reinforce" in said


def test_rows_compared_beyond_the_group_are_not_meant(told):
    within = "credit.within=[source]"
    assert told("sampling.size=1", within) == []


def test_a_warmup_longer_than_its_stage(told):
    schedule = "update.schedule={part: linear, warmup: %d}"
    (said,) = told("steps=10", schedule % 40)
    assert "warmup=40 rounds is longer" in said
    assert "steps=10" in said
    assert "ends at 0.25 of" in said
    assert told("steps=10", schedule % 10) == []


def test_a_negative_weight_of_divergence(told):
    (said,) = told("constraint.kl.weight=-0.04")
    assert "constraint.kl.weight=-0.04" in said
    assert "rewards divergence from the model 'reference'" in said
    assert told("constraint.kl.weight=0.04") == []


def test_ranks_above_the_sides_of_layers(told):
    """Layers of 16 x 16, 16 x 8 (keys and values) and 16 x 32."""
    assert told("policy.lora.rank=8") == []
    (said,) = told("policy.lora.rank=16")
    assert "4 of 14 layers" in said
    assert "use 8 or less" in said
    with pytest.raises(RecipeError, match=r"rank=17 is above the smallest side of every layer .* \(at most 16\)"):
        told("policy.lora.rank=17")
    with pytest.raises(RecipeError, match=r"at most 8"):
        told("policy.lora={rank: 16, target_modules: [k_proj]}")
