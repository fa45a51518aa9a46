"""What the README and CONTRIBUTING show works as they say."""

from __future__ import annotations

import re
import runpy
from collections import Counter
from pathlib import Path

import pytest
import torch

import policyopt
from policyopt.evaluation.methods import list_methods
from policyopt.methods import keys
from policyopt.policies.tabular import Table
from policyopt.recipe.build import build
from policyopt.recipe.schema import load_recipe
from policyopt.worlds.sequences import SequenceWorld

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text(encoding="utf-8")


def test_the_composed_method_learns(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (code,) = re.findall(r"```python\n(.*?)```", README, re.S)
    assert len(code.splitlines()) <= 30
    script = tmp_path / "mine.py"
    script.write_text(code, encoding="utf-8")
    runpy.run_path(str(script))
    rewards = [float(line) for line in capsys.readouterr().out.split()]
    assert rewards[0] < 0.5 < 0.9 < rewards[-1]


def test_the_table_of_methods_counts_what_is_there() -> None:
    """| families | what they are | methods | shown | not shown | contradicted |, "-" for methods of no family."""
    rows = re.findall(r"^\| ([A-D][12]?|-) \| .*? \| (\d+) \| (\d+) \| (\d+) \| (\d+) \|$", README, re.M)
    found: dict[str, Counter[str]] = {}
    for method in list_methods():
        found.setdefault(method["family"] or "-", Counter())[method["verdict"]] += 1
    assert {family: tuple(map(int, counts)) for family, *counts in rows} == {
        family: (count.total(), count["shown"], count["not shown"], count["contradicted"])
        for family, count in found.items()
    }
    for key in re.findall(r"\]\(docs/methods/(\w+)\.md\)", README):
        assert key == "index" or key in keys(), key


@pytest.mark.parametrize(
    "change", re.findall(r"^policyopt train recipes/demo\.yaml (method=.*?)(?:\s+#.*)?$", README, re.M)
)
def test_the_methods_of_the_commands_build(change: str) -> None:
    small = ["tasks.size=200", "evaluation.tasks=10", "stages.0.steps=1"]
    with build(load_recipe(ROOT / "recipes" / "demo.yaml", [*change.split(), *small])) as built:
        assert built.program.stages[-1].method.key != "grpo"


@pytest.mark.parametrize("name", ["rloo", "dr_grpo", "dapo", "gspo", "reinforce", "grpo"])
def test_methods_can_be_exchanged_in_the_demo(name: str) -> None:
    small = ["tasks.size=200", "evaluation.tasks=10"]
    with build(load_recipe(ROOT / "recipes" / "demo.yaml", [f"method={name}", *small])) as built:
        assert built.program.stages[-1].method.key == name


def test_the_worked_example_is_short_and_learns() -> None:
    path = ROOT / "examples" / "cispo.py"
    assert len(path.read_text(encoding="utf-8").splitlines()) < 60
    cispo = policyopt.override(policyopt.load(str(path)), {"update.learning_rate": 0.1, "update.epochs": 2})
    target = torch.tensor([[1, 2, 3], [3, 0, 0]])
    world = SequenceWorld(2, 4, 3, lambda steps, task: (steps == target[task]).float().mean(1))
    found = list(policyopt.train(cispo, policy=Table(torch.zeros(world.states, 4)), world=world, steps=30))
    assert found[0]["reward"] < 0.5 < 0.9 < found[-1]["reward"]
