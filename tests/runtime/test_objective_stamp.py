"""The executed objective is stored with a run and its checkpoints, and a change of it is noticed."""

import json
from dataclasses import replace

import pytest
import tiny

from policyopt.compose import Stage
from policyopt.methods import load
from policyopt.objective.surrogates import ClippedSurrogate
from policyopt.options import override
from policyopt.recipe.schema import load_recipe
from policyopt.recipe.stamps import ChangedObjectiveError, Stamps, difference_of_runs, stamps_of
from policyopt.recipe.training import Training
from policyopt.report.objective_stamp import changes, executed, stamp, used_parts
from policyopt.runtime.folder import RunFolder, RunFolderError


# -- stamps ----------------------------------------------------------------------------------------------------------
def test_equal_methods_have_equal_stamps_and_any_option_changes_the_fingerprint():
    grpo = load("grpo")
    assert stamp(grpo) == stamp(load("grpo"))
    for option, value in (("objective.clip_high", 0.3), ("update.learning_rate", 1e-3), ("sampling.size", 9)):
        other = stamp(override(grpo, {option: value}))
        assert other["fingerprint"] != stamp(grpo)["fingerprint"]
        assert len(changes(stamp(grpo), other)) == 1


@pytest.mark.parametrize(
    ("option", "value", "vital"),
    [
        ("objective.clip_high", 0.3, True),
        ("constraint.kl.weight", 0.5, True),
        ("credit.ddof", 0, True),
        ("update.learning_rate", 1e-3, False),
        ("sampling.size", 9, False),
        ("selection.count", 3, False),
    ],
)
def test_what_is_minimised_is_told_from_how(option, value, vital):
    grpo = load("grpo")
    (change,) = changes(stamp(grpo), stamp(override(grpo, {option: value})))
    assert change.vital is vital
    assert f"{value:g}" in change.after


def test_a_part_that_raises_its_version_changes_the_stamp(monkeypatch):
    before = stamp(load("grpo"))
    monkeypatch.setattr(ClippedSurrogate, "version", 2)
    (change,) = changes(before, stamp(load("grpo")))
    assert (change.slot, change.before, change.after) == ("version ClippedSurrogate", "1", "2")
    assert change.vital


def test_a_formula_that_changes_is_seen():
    before = stamp(load("grpo"))
    after = {**before, "slots": {**before["slots"], "formula credit": "A_b = R_b"}}
    (change,) = changes(before, after)
    assert change.slot == "formula credit"
    assert change.vital


def test_of_a_term_that_one_method_lacks_the_loss_alone_is_named():
    found = [change.slot for change in changes(stamp(load("grpo")), stamp(load("dapo")))]
    assert "constraint.kl" in found
    assert not [slot for slot in found if slot.startswith(("constraint.kl.", "formula kl."))]


def test_the_printed_objective_names_every_part_with_its_source():
    printed = executed(load("ppo"))
    for name in used_parts(load("ppo")):
        assert f"  {name} 1: " in printed
    assert "GAE (arXiv 1506.02438)" in printed
    assert stamp(load("ppo"))["fingerprint"] in printed


# -- runs ------------------------------------------------------------------------------------------------------------
def stopped(tmp_path):
    """A run of four rounds with a checkpoint after two."""
    data = {"jsonl": str(tiny.jsonl(tmp_path / "sums.jsonl", tiny.sums())), "verifier": "exact"}
    policy = {"new": {"hidden_size": 16, "layers": 1, "heads": 2, "positions": 64}}
    path = tiny.recipe(
        tmp_path / "r.yaml", policy, data, stages=[tiny.stage("grpo", 4)], checkpoint_every=2, evaluation=None
    )
    with Training.start(load_recipe(path)) as training:
        rounds = training.rounds()
        for _ in range(3):
            next(rounds)
        rounds.close()
        return training.folder


def edit(folder, before, after):
    text = folder.recipe.read_text()
    assert before in text
    folder.recipe.write_text(text.replace(before, after))


def test_a_run_that_is_unchanged_goes_on(tmp_path):
    folder = stopped(tmp_path)
    with Training.resume(folder.path) as training:
        assert len(list(training.rounds())) == 2
    assert json.loads((folder.path / "objective.json").read_text())["changed"] == []


def test_another_objective_is_refused_with_what_changed_and_taken_on_request(tmp_path):
    folder = stopped(tmp_path)
    edit(folder, "selection.count: 3", "selection.count: 3\n    objective.clip_high: 0.3")
    with (
        pytest.raises(ChangedObjectiveError, match=r"clip_high=0.2.* -> .*clip_high=0.3.*--accept-objective"),
        Training.resume(folder.path) as training,
    ):
        list(training.rounds())
    with Training.resume(folder.path, accept=True) as training:
        assert len(list(training.rounds())) == 2
    (changed,) = json.loads((folder.path / "objective.json").read_text())["changed"]
    assert (changed["round"], changed["slot"]) == (2, "objective.policy")


def test_another_learning_rate_is_told_and_noted(tmp_path, caplog):
    folder = stopped(tmp_path)
    edit(folder, "selection.count: 3", "selection.count: 3\n    update.learning_rate: 0.5")
    with Training.resume(folder.path) as training:
        assert len(list(training.rounds())) == 2
    assert "learning_rate=1e-06" in caplog.text
    (changed,) = json.loads((folder.path / "objective.json").read_text())["changed"]
    assert changed["slot"] == "update.optimizers"


@pytest.mark.parametrize(
    ("before", "after", "told"),
    [
        ("verifier: exact", "verifier: numeric", "tasks.verifier: exact -> numeric"),
        ("sums.jsonl", "more.jsonl", "tasks.jsonl: "),
        ("limit: 6", "limit: 5", "tasks.limit: 6 -> 5"),
        ("seed: 1", "seed: 2", "seed: 1 -> 2"),
        ("dtype: float32", "dtype: float64", "policy.dtype: float32 -> float64"),
        ("evaluation: null", "evaluation: {tasks: 4, samples: 8}", "evaluation: None -> -"),
    ],
)
def test_other_tasks_policies_and_seeds_are_refused_as_well(tmp_path, before, after, told):
    folder = stopped(tmp_path)
    tiny.jsonl(tmp_path / "more.jsonl", tiny.sums(23))
    edit(folder, before, after)
    with pytest.raises(ChangedObjectiveError) as error, Training.resume(folder.path) as training:
        list(training.rounds())
    assert told in str(error.value)
    assert "--accept-objective" in str(error.value)


def test_where_and_how_a_run_is_computed_may_change(tmp_path):
    folder = stopped(tmp_path)
    edit(folder, "deadline: 5.0", "deadline: 6.0")
    edit(folder, "engine: auto", "engine: plain")
    with Training.resume(folder.path) as training:
        assert len(list(training.rounds())) == 2


def test_other_tasks_are_taken_on_request_and_noted(tmp_path):
    folder = stopped(tmp_path)
    edit(folder, "limit: 6", "limit: 5")
    with Training.resume(folder.path, accept=True) as training:
        assert len(list(training.rounds())) == 2
    (changed,) = json.loads((folder.path / "objective.json").read_text())["changed"]
    assert changed == {"round": 2, "stage": "recipe", "slot": "tasks.limit", "before": "6", "after": "5"}


def test_stages_that_are_over_may_change(tmp_path):
    folder = RunFolder(tmp_path)
    grpo, sft = load("grpo"), load("sft")
    kept = Stamps((Stage(sft, 2, 0), Stage(grpo, 2, 2)), folder).hooks["stamp"]
    other = override(sft, {"selection.count": 7})
    Stamps((Stage(other, 2, 0), Stage(grpo, 2, 2)), folder).hooks["restored"](2, kept)
    changed = replace(grpo, credit=load("rloo").credit)
    with pytest.raises(ChangedObjectiveError, match="credit"):
        Stamps((Stage(sft, 2, 0), Stage(changed, 2, 2)), folder).hooks["restored"](2, kept)


def test_runs_are_compared_from_their_last_stages(tmp_path):
    grpo, dapo, sft = load("grpo"), load("dapo"), load("sft")
    for name, stages in (("one", (sft, grpo)), ("two", (dapo,))):
        (tmp_path / name).mkdir()
        Stamps([Stage(method, 1) for method in stages], RunFolder(tmp_path / name)).write()
    assert [made["method"] for made in stamps_of(tmp_path / "one")] == ["sft", "grpo"]
    found = difference_of_runs(tmp_path / "one", tmp_path / "two")
    assert [title for title, _ in found] == ["sft | -", "grpo | dapo"]
    assert "objective.policy.average" in [change.slot for change in found[1][1]]
    assert difference_of_runs(tmp_path / "two", tmp_path / "two")[0][1] == []
    with pytest.raises(RunFolderError, match=r"no objective\.json"):
        stamps_of(tmp_path)
