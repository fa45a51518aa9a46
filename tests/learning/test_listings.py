"""Methods as data: summaries, comparisons and the printed objective."""

from __future__ import annotations

import io
import json

import pytest
from rich.console import Console

from policyopt.compose import CompositionError
from policyopt.evaluation import methods
from policyopt.evaluation.methods import axes_of, conformance, diff, list_methods, parts_of, show
from policyopt.evaluation.verify import stored_verdict
from policyopt.methods import keys, load
from policyopt.options import override
from policyopt.report.listing import difference, table
from policyopt.report.objective import describe


def test_every_method_is_listed_with_all_that_is_known_of_it():
    found = list_methods()
    assert [method["key"] for method in found] == keys()
    for method in found:
        assert set(method) == {
            "key", "title", "seed", "family", "axes", "policies", "conformance", "verdict", "effect", "cost",
            "cpu_seconds",
        }  # fmt: skip
        assert method["conformance"] > 0
        assert method["verdict"] == str(stored_verdict(method["key"]))
        assert method["axes"]
    assert json.loads(json.dumps(found)) == found
    assert {m["key"]: m["seed"] for m in found}["gspo"] == 69


def test_methods_can_be_sorted():
    by = {order: list_methods(order) for order in ("family", "verdict", "effect", "cost")}
    assert all({m["key"] for m in found} == set(keys()) for found in by.values())
    families = [method["family"] for method in by["family"]]
    assert families == [*sorted(f for f in families if f), *(f for f in families if not f)]
    assert by["verdict"][0]["verdict"] == "shown"
    effects = [m["effect"] for m in by["effect"] if m["effect"] is not None]
    assert effects == sorted(effects, reverse=True)
    costs = [m["cost"] for m in by["cost"] if m["cost"] is not None]
    assert costs == sorted(costs)
    shown = [m["effect"] for m in by["verdict"] if m["verdict"] == "shown"]
    assert min(shown) >= 1
    assert max(m["effect"] for m in by["verdict"] if m["verdict"] == "contradicted") < 1
    with pytest.raises(CompositionError, match="sorted by one of key, family"):
        list_methods("speed")


def test_axes_are_those_that_leave_the_plain_loop():
    assert axes_of(load("dr_grpo")) == ["credit", "objective"]
    assert axes_of(load("dapo")) == ["sampling", "reward", "credit", "objective"]
    assert "update" in axes_of(override(load("dr_grpo"), {"update.epochs": 2}))
    assert "constraint" not in axes_of(override(load("grpo"), {"constraint.kl.weight": 0}))


def test_conformance_counts_vectors_of_its_parts_and_its_own_tests(tmp_path, monkeypatch):
    parts = parts_of(load("dapo"))
    assert {("credit", "group_standardised"), ("objective", "clipped_surrogate"), ("update", "token_mean")} <= parts
    assert {("reward", "verified"), ("reward", "overlong_penalty"), ("sampling", "dynamic_sampling")} <= parts
    assert ("update", "sequence_mean") not in parts
    (tmp_path / "tests" / "methods").mkdir(parents=True)
    monkeypatch.setattr(methods, "REPOSITORY", tmp_path)
    vectors = conformance("dapo")
    assert vectors == sum(count for pair, count in methods._vector_parts().items() if pair in parts)
    assert vectors > 0
    own = "def test_one():\n    pass\n\nclass TestMore:\n    def test_two(self):\n        pass\n\ndef helper(): ...\n"
    (tmp_path / "tests" / "methods" / "test_dapo.py").write_text(own)
    assert conformance("dapo") == vectors + 2


def test_a_comparison_names_every_slot_that_differs_and_no_other():
    rows = {slot: (one, two) for slot, one, two in diff("dapo", "grpo")}
    assert "clip_high=0.28" in rows["objective.policy"][0]
    assert "clip_high=0.2," in rows["objective.policy"][1]
    assert rows["objective.policy.average"] == ("TokenMean()", "SequenceMean()")
    assert rows["constraint.kl"] == ("-", "KLToReference()")
    # Of a term that only one side has, the loss alone; what both share, not at all.
    assert not {"constraint.kl.average", "constraint.kl.weight", "credit", "objective.policy.mask"} & set(rows)
    assert diff("grpo", "grpo") == []
    assert "same composition" in difference("grpo", "grpo")
    said = difference("dapo", "grpo")
    assert said.index("objective.policy\n") < said.index("dapo  ClippedSurrogate")
    assert diff("grpo", override(load("grpo"), {"update.epochs": 2})) == [("update.epochs", "1", "2")]


def test_the_printed_objective_has_formula_average_mask_weight_and_roles():
    printed = describe(load("grpo"))
    assert "minimise over policy:  policy + 0.04 * kl" in printed
    assert "-min(r A, clip(r, 1 - clip_low, 1 + clip_high) A)" in printed
    assert "mean_b (sum_t m_bt x_bt / sum_t m_bt)" in printed
    assert "A_b = (R_b - mean_g R) / (std_g R + epsilon)" in printed
    assert "reference    model reference, scored once, before the update, no gradient" in printed
    assert "epsilon=1e-06" in printed
    ppo = describe(load("ppo"))
    assert "minimise over critic:  value" in ppo
    assert "minimise over policy:  policy + 0.01 * kl" in ppo
    assert "epochs       4" in ppo
    dpo = describe(load("dpo"))
    assert "rows with one pair are never separated" in dpo
    assert "reward " not in dpo.split("how the rows come about")[1]


def test_the_printed_objective_is_the_executed_one():
    """Overrides show, and a term that is not computed is not printed."""
    changed = override(load("grpo"), {"objective.clip_high": 0.31, "constraint.kl.weight": 0})
    printed = describe(changed)
    assert "clip_high=0.31" in printed
    assert "kl" not in printed.split("log-probabilities")[0].split("minimise")[1]
    assert "reference" not in printed


@pytest.mark.parametrize("key", keys())
def test_every_objective_can_be_printed_in_full(key):
    method = load(key)
    printed = describe(method)
    assert "(no formula given)" not in printed
    assert " at 0x" not in printed
    for term in method.terms:
        assert term.loss.formula in printed
        assert term.average.formula in printed


def test_show_and_table_tell_the_same():
    shown = show("gspo")
    assert shown["about"]["paper"] == "arXiv 2507.18071"
    assert shown["composition"]["objective.policy.average"] == "RowMean()"
    console = Console(width=200, record=True, file=io.StringIO())
    console.print(table(list_methods()))
    text = console.export_text()
    assert all(key in text for key in keys())
    with pytest.raises(CompositionError, match="did you mean 'gspo'"):
        show("gsop")
