"""What a recipe says of where and when it runs; a run that samples ahead, stopped and gone on with as a user does."""

from __future__ import annotations

from pathlib import Path

import pytest
import tiny

from policyopt.compose import RECORDED, CompositionError
from policyopt.recipe.base import RecipeError
from policyopt.recipe.build import build
from policyopt.recipe.schema import load_recipe, make_recipe
from policyopt.recipe.training import Training

NEW = {"hidden_size": 8, "layers": 1, "heads": 2}
SPELL = {"reasoning_gym": "spell_backward", "prompt": "{word} =", "size": 40}
BASE = {
    "name": "x",
    "policy": {"new": NEW},
    "tasks": SPELL,
    "stages": [{"method": "grpo", "steps": 1}],
    "evaluation": None,
}


def ahead(path: Path, **changes: object) -> Path:
    path.mkdir()
    return tiny.recipe(
        path / "r.yaml",
        {"new": NEW},
        SPELL,
        stages=[tiny.stage("grpo", 6)],
        evaluation=None,
        runtime={"staleness": 2},
        checkpoint_every=2,
        **changes,
    )


def test_short_forms() -> None:
    assert make_recipe(BASE, ["runtime=ray", "runtime.samplers=2"]).runtime.on == "ray"
    assert make_recipe({**BASE, "runtime": "ray"}, ["runtime.graders=2"]).runtime.graders == 2
    assert make_recipe(BASE).runtime.staleness == 0


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        (["runtime.samplers=2"], r"runtime\.samplers.*no effect with runtime\.on=local"),
        (["runtime.trainers=2", "runtime.staleness=1"], "in step"),
        (["runtime=slurm"], "local.*ray"),
        (["runtime.stale=1"], "did you mean 'staleness'"),
    ],
)
def test_wrong_sections(changes: list[str], said: str) -> None:
    with pytest.raises(RecipeError, match=said):
        make_recipe(BASE, changes)


def test_methods_that_can_not_run_ahead_are_refused_before_anything_is_trained() -> None:
    with pytest.raises(CompositionError, match=r"veripo.*selection.*runtime\.staleness=0"):
        build(make_recipe(BASE, ["method=veripo", "runtime.staleness=1"]))


def test_a_method_without_a_ratio_is_trained_with_a_warning(caplog: pytest.LogCaptureFixture) -> None:
    with build(make_recipe(BASE, ["method=reinforce", "runtime.staleness=1"])):
        assert "no term of reinforce compares" in caplog.text
    with build(make_recipe(BASE, ["runtime.staleness=1"])) as built:
        assert built.program.stages[0].method.roles["old"] == RECORDED


def test_a_stopped_run_goes_on_bitwise(tmp_path: Path) -> None:
    with Training.start(load_recipe(ahead(tmp_path / "straight"))) as straight:
        done = list(straight.rounds())
    lines = tiny.lines(straight.folder.cost)
    # A round's account is of its own rows, not of those that were sampled while it was trained.
    assert [line["tokens"] for line in lines] == [int(one.judged.lengths.sum()) for one in done]
    assert [line["samples"] for line in lines] == [9] * 6
    assert [one.metrics["staleness"] for one in done] == [0, 1, 2, 2, 2, 2]
    with Training.start(load_recipe(ahead(tmp_path / "stopped"))) as stopped:
        going = stopped.rounds()
        for _ in range(3):
            next(going)
        going.close()
    with Training.resume(tmp_path / "stopped" / "run") as resumed:
        list(resumed.rounds())
    assert resumed.folder.metrics.read_text() == straight.folder.metrics.read_text()
    again = tiny.lines(resumed.folder.cost)
    assert [line["tasks"] for line in again] == [line["tasks"] for line in lines]
