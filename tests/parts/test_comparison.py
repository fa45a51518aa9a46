"""Statistics of comparisons: against hand-worked numbers, textbook power tables, and what must not matter."""

import importlib.util
import itertools
import json
import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from policyopt.evaluation.comparison import ComparisonError, Finding, compare, detectable, holm, paired_p, seeds_needed
from policyopt.evaluation.comparison_record import (
    ArmRecord,
    ComparisonRecord,
    RunRecord,
    began_alike,
    from_json,
    other_tasks,
    to_json,
)
from policyopt.evaluation.exchange import exchange_p, reaches
from policyopt.evaluation.statistics import proportion_interval
from policyopt.report.comparison import answer, markdown
from policyopt.report.comparison_plot import draw

FOUR = 4


def student_4(t):
    """Distribution function of Student's t with 4 degrees of freedom, in closed form."""
    return 0.5 + 3 / 8 * t / math.sqrt(1 + t * t / 4) * (1 - t * t / 12 / (1 + t * t / 4))


# -- two arms --------------------------------------------------------------------------------------------------------
def test_paired_t_by_hand():
    # Differences 1..5: mean 3, deviation sqrt(2.5), t = 3 / sqrt(2.5 / 5) = 4.2426.
    p = paired_p([2.0, 4.0, 6.0, 8.0, 10.0], [1.0, 2.0, 3.0, 4.0, 5.0])
    assert p == pytest.approx(2 * (1 - student_4(3 / math.sqrt(0.5))), abs=1e-12)
    assert p == pytest.approx(0.0132, abs=5e-5)


def test_differences_without_spread_are_judged_by_their_signs():
    assert paired_p([0.3, 0.5, 0.7], [0.3, 0.5, 0.7]) == 1.0
    assert paired_p([0.0] * 5, [0.0] * 5) == 1.0
    assert paired_p([1.0] * 5, [0.5] * 5) == 2.0**-4
    assert paired_p([0.0] * 10, [0.1] * 10) == 2.0**-9


def test_holm_by_hand():
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm([0.5, 0.9]) == pytest.approx([1.0, 1.0])


@given(st.lists(st.floats(0, 1), min_size=1, max_size=12))
def test_holm_lies_between_p_and_bonferroni_and_keeps_the_order(p):
    adjusted = holm(p)
    for one, two in zip(p, adjusted, strict=True):
        assert one <= two <= min(1.0, one * len(p)) + 1e-15
    order = np.argsort(p, kind="stable")
    assert all(adjusted[a] <= adjusted[b] for a, b in itertools.pairwise(order))


@pytest.mark.parametrize(("effect", "enough"), [(0.5, 34), (0.8, 15), (1.0, 10)])
def test_seeds_needed_are_those_of_the_textbook(effect, enough):
    # Cohen 1988 (table 2.4.1, one sample): two-sided level 0.05, power 0.8.
    unit = np.array([-1.0, -1.0, 1.0, 1.0])
    seen = unit / unit.std(ddof=1) + effect
    assert seeds_needed(seen.tolist(), [0.0] * FOUR) == enough


@pytest.mark.parametrize(("effect", "enough"), [(0.5, 34), (0.8, 15), (1.0, 10)])
def test_what_seeds_find_is_what_needs_them(effect, enough):
    assert detectable(enough) <= effect < detectable(enough - 1)
    assert detectable(enough, comparisons=45) > detectable(enough)


def test_seeds_needed_grow_with_the_comparisons_and_end_somewhere():
    seen = [0.9, 1.4, 0.2, 1.6, 0.4]
    needed = [seeds_needed(seen, [0.0] * 5, comparisons=count) for count in (1, 6, 45)]
    assert needed == sorted(needed)
    assert len(set(needed)) == 3
    assert seeds_needed([1.0, -1.0, 1.0, -1.0, 0.01], [0.0] * 5) is None
    assert seeds_needed([1.0] * 5, [1.0] * 5) is None
    assert seeds_needed([1.0] * 5, [0.5] * 5) == 6  # signs alone: 2^(1 - 6) < 0.05
    assert seeds_needed([100.0, 100.1, 99.9, 100.05, 99.95], [0.0] * 5) == 6  # one more than there are


# -- several arms ------------------------------------------------------------------------------------------------------
RNG = np.random.default_rng(3)
COMMON = RNG.normal(0, 5, 8)
VALUES = {
    name: (COMMON + mean + RNG.normal(0, 0.2, 8)).tolist() for name, mean in (("a", 0.0), ("b", 2.0), ("c", 2.05))
}


def findings(found):
    return {(pair.first, pair.second): pair.finding for pair in found.pairs}


def test_arms_that_differ_are_told_apart_through_what_seeds_share():
    # Seeds vary by 5, arms of a seed by 0.2: only pairing shows the difference of 2.
    found = compare(VALUES)
    best, next_one = (place.arm for place in found.places[:2])
    assert {best, next_one} == {"b", "c"}
    assert findings(found) == {
        (best, next_one): Finding.OPEN,
        (best, "a"): Finding.BETTER,
        (next_one, "a"): Finding.BETTER,
    }
    assert [place.rank for place in found.places] == [(1, 2), (1, 2), (3, 3)]
    assert found.places[0].mean.low < 0 < found.places[0].mean.high


@settings(max_examples=20)
@given(st.permutations(list(VALUES)), st.floats(0.1, 10), st.floats(-5, 5))
def test_order_scale_and_origin_do_not_matter(order, scale, origin):
    moved = {name: (scale * np.array(VALUES[name]) + origin).tolist() for name in order}
    assert findings(compare(moved)) == findings(compare(VALUES))


def test_lower_can_be_better():
    negative = {name: [-value for value in found] for name, found in VALUES.items()}
    assert findings(compare(negative, higher_is_better=False)) == findings(compare(VALUES))
    assert compare(VALUES, higher_is_better=False).places[0].arm == "a"


def test_a_baseline_makes_a_smaller_family():
    noise = np.random.default_rng(5).normal(size=(3, 8))
    values = {arm: (noise[n] + mean).tolist() for n, (arm, mean) in enumerate((("a", 0.0), ("b", 2.0), ("c", 2.0)))}
    whole, small = compare(values), compare(values, baseline="a")
    assert len(small.pairs) == 2
    pair = next(pair for pair in small.pairs if pair.first == "b")
    other = next(p for p in whole.pairs if (p.first, p.second) == ("b", "a"))
    assert 1e-4 < pair.p < other.p < 0.05
    assert small.places[0].rank == (1, 2)  # b and c were not compared


def test_few_seeds_tell_nothing_apart():
    found = compare({"a": [0.0, 0.01, 0.02, 0.01], "b": [9.0, 9.011, 9.02, 9.012]})
    assert found.pairs[0].p < 1e-6
    assert found.pairs[0].finding == Finding.OPEN


@pytest.mark.parametrize(
    ("values", "baseline", "message"),
    [
        ({"a": [1.0, 2.0]}, None, "two arms"),
        ({"a": [1.0, 2.0], "b": [1.0]}, None, "same seeds"),
        ({"a": [1.0, 2.0], "b": [1.0, 3.0]}, "c", "baseline 'c'"),
    ],
)
def test_what_can_not_be_compared(values, baseline, message):
    with pytest.raises(ComparisonError, match=message):
        compare(values, baseline=baseline)


@pytest.mark.parametrize("seeds", [5, 10])
def test_equal_arms_are_seldom_told_apart(seeds):
    """What benchmarks/aa_test.py measures at length: any of 4 equal arms, at most 5 % of the time."""
    values = np.random.default_rng(0).normal(size=(400, FOUR, seeds))
    declared = 0
    for one in values:
        p = [paired_p(one[i], one[j]) for i, j in itertools.combinations(range(FOUR), 2)]
        declared += min(holm(p)) <= 0.05
    assert declared > 0
    assert proportion_interval(declared, len(values)).low <= 0.05


def test_all_arms_are_equal_by_every_rearrangement():
    """Against all 6^3 orders of three arms on three seeds."""
    values = np.array([[1.0, 2.5, 0.3], [0.2, 1.1, 0.4], [0.9, 0.2, 0.1]])
    pairs = [(0, 1), (0, 2), (1, 2)]

    def largest(columns):
        differences = [np.subtract(*np.array(columns).T[list(pair)]) for pair in pairs]
        return max(abs(d.mean()) / d.std(ddof=1) for d in differences)

    orders = itertools.product(*(itertools.permutations(column) for column in values.T))
    found = [largest(columns) for columns in orders]
    expected = np.mean(np.array(found) >= largest(values.T) * (1 - 1e-9))
    assert 0.1 < expected < 0.9
    assert exchange_p(values, pairs) == pytest.approx(expected, abs=0.02)
    assert exchange_p(10 * values + [5.0, -3.0, 0.5], pairs) == exchange_p(values, pairs)
    assert exchange_p(np.ones((3, 5)), pairs) == 1.0


def test_runs_that_succeed_or_fail_do_not_fool_the_t_test():
    """Ten equal arms that solve a task or not. Where one arm has solved what another has not on all of five seeds, the
    paired t test is sure of a difference; among 45 pairs that is no wonder."""
    rng = np.random.default_rng(0)
    values = (rng.random((400, 10, 5)) < 0.5) + rng.normal(0, 0.02, (400, 10, 5))
    pairs = list(itertools.combinations(range(10), 2))
    first, second = np.array(pairs).T
    difference = values[:, first] - values[:, second]
    t = np.sqrt(5) * difference.mean(2) / difference.std(2, ddof=1)
    fooled = values[(np.abs(t) > 8.4).any(1)]  # 5 % / 45 on both sides, with 4 degrees of freedom
    assert min(holm([paired_p(fooled[0][one], fooled[0][two]) for one, two in pairs])) <= 0.05
    believed = sum(exchange_p(one, pairs, 499) <= 0.05 for one in fooled)
    assert believed < len(fooled)
    assert believed <= 0.05 * len(values)


def test_two_arms_of_five_seeds_are_left_to_the_t_test():
    assert [reaches(arms, seeds, 0.95) for arms, seeds in ((2, 5), (2, 6), (3, 5))] == [False, True, True]
    close = {"a": [1.0, 1.1, 0.9, 1.2, 1.0], "b": [0.0, 0.1, 0.1, 0.0, 0.2]}
    assert compare(close).pairs[0].p == paired_p(*close.values())
    more = {arm: [*found, found[0] + 0.05] for arm, found in close.items()}
    assert compare(more).pairs[0].p == pytest.approx(2 / 2**6, rel=0.2)  # one of the two extreme signs


# -- records and reports ------------------------------------------------------------------------------------------
def run(arm, seed, value, **changes):
    curve = ((0.0, 0.1), (0.5, value - 0.1), (1.0, value))
    made = RunRecord(arm, seed, curve, {"pass_at_1": value}, 10, 1000, 80, 1.5, f"start {seed}", ("x", "y"))
    return replace(made, **changes)


def record(**changes):
    runs = [run(arm, seed, VALUES[arm][seed]) for arm in VALUES for seed in range(8)]
    made = ComparisonRecord(
        name="demo",
        measure="pass_at_1",
        label="pass@1",
        over="20 held-out tasks",
        higher_is_better=True,
        unit="samples",
        amount=80,
        evaluations=2,
        shared_rounds=7,
        seeds=tuple(range(8)),
        arms=tuple(
            ArmRecord(arm, arm, arm.upper(), {}, tuned="1e-3", tried={"1e-3": 0.5, "1e-2": 0.2}) for arm in VALUES
        ),
        runs=tuple(runs),
        baseline=None,
        tuning={"option": "update.learning_rate", "values": ["1e-3", "1e-2"], "seeds": 2},
        began_alike=True,
        other_tasks=(),
        command="policyopt compare demo.yaml",
        versions={"policyopt": "0"},
    )
    return replace(made, **changes)


def test_a_record_survives_json_and_says_the_same():
    written = to_json(record())
    again = from_json(written)
    assert to_json(again) == written
    assert json.loads(written)["findings"]["ranking"][0]["rank"] == [1, 2]
    assert markdown(again) == markdown(record())


def test_the_report_says_what_was_found_and_what_was_not():
    said = markdown(record())
    assert "can not be told apart from" in said
    assert "2 of 3 differences are told apart" in said
    assert "| 3 | a |" in said
    assert "| a | 10 | 80 | 1,000 | 1.5 | 100.00 % |" in said
    assert "| b | 0.5 | 0.2 | 1e-3 |" in said
    assert "7 rounds that all arms share" in said
    assert "same policy" in said


def test_the_report_admits_other_beginnings_and_tasks():
    said = markdown(record(began_alike=False, other_tasks=("b",)))
    assert "**different policies**" in said
    assert "but for b" in said


def test_an_arm_that_failed_is_told_and_not_compared():
    runs = tuple(run for run in record().runs if (run.arm, run.seed) != ("c", 3))
    arms = tuple(replace(arm, failed={"3": "it broke"} if arm.name == "c" else {}) for arm in record().arms)
    broken = record(runs=runs, arms=arms)
    assert broken.complete == ["a", "b"]
    assert "| c | seed 3 failed: it broke |" in markdown(broken)
    assert len(broken.compare().pairs) == 1
    alone = record(runs=tuple(run for run in runs if run.arm != "a"))
    assert "No ranking" in markdown(alone)
    assert json.loads(to_json(alone))["findings"] is None


def test_an_answer_without_a_difference_names_no_best_method():
    equal = {arm: [run(arm, seed, 0.5 + 0.01 * ((seed + n) % 3)) for seed in range(8)] for n, arm in enumerate("ab")}
    made = record(runs=tuple(run for found in equal.values() for run in found))
    assert "does not say which method is best" in answer(made.compare())


def test_beginnings_and_tasks_are_compared_by_digests():
    alike = [run(arm, seed, 0.5) for arm in "abc" for seed in range(2)]
    assert began_alike(alike)
    assert not began_alike([*alike, run("d", 1, 0.5, beginning="other")])
    assert other_tasks(alike) == ()
    assert other_tasks([*alike, run("d", 0, 0.5, tasks=("x", "z"))]) == ("d",)
    assert other_tasks([*alike, run("d", 0, 0.5, tasks=("x",))]) == ()  # fewer rounds of the same tasks


def test_the_picture_is_a_function_of_the_record(tmp_path):
    draw(record(), tmp_path / "one.svg")
    draw(from_json(to_json(record())), tmp_path / "two.svg")
    first = (tmp_path / "one.svg").read_bytes()
    assert first == (tmp_path / "two.svg").read_bytes()
    assert b"<svg" in first
    assert b"http" not in first.replace(b"http://www.w3.org", b"").replace(b"http://purl.org", b"").replace(
        b"http://creativecommons.org", b""
    )  # nothing is fetched


def test_the_study_is_the_page_of_its_records():
    path = Path(__file__).parents[2] / "benchmarks" / "study_page.py"
    spec = importlib.util.spec_from_file_location("study_page", path)
    study = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(study)
    records = study.read(study.DOCS / study.NAME)
    assert list(records) == list(study.TASKS)
    assert all(len(record.arms) == 10 and record.began_alike for record in records.values())
    assert (study.DOCS / f"{study.NAME}.md").read_text(encoding="utf-8") == study.page(records)
