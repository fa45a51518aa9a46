"""What a preference set is like, on sets small enough to be counted by hand; and `policyopt data stats`."""

import json
import math

import numpy as np
import pytest
import tiny
from scipy import stats

from policyopt.evaluation.preference_data import Asked, mean_of, measures
from policyopt.worlds.records import entry_from_record


def entries(*records):
    return [entry_from_record(record) for record in records]


def said(records, **asked):
    """Measures by key."""
    return {measure.key: measure for measure in measures(entries(*records), Asked(**asked) if asked else None)}


def pair(prompt, chosen, rejected, **more):
    return {"prompt": prompt, "chosen": chosen, "rejected": rejected, **more}


SMALL = [
    pair("p", "aaaa", "b", score_chosen=3, score_rejected=1),  # longer by 3
    pair("p", "b", "aaaa", score_chosen=2, score_rejected=2),  # the other way, tied; shorter by 3
    pair("q", "cc", "d", score_chosen=1, score_rejected=2),  # the scores say the opposite; longer by 1
    pair("q", "cc", "d", score_chosen=1, score_rejected=2),  # again
    pair("r", " ", "eeeee", score_chosen=5, score_rejected=1),  # empty; shorter by 4
    pair("s", "ff", "ff", score_chosen=4, score_rejected=3),  # equal texts
]


def test_a_small_set_is_counted_by_hand():
    found = said(SMALL, limit=5)
    value = {key: measure.value for key, measure in found.items()}
    assert (value["records"], value["prompts"], value["compared_pairs"]) == (6, 4, 6)
    assert value["better_is_longer"] == 3 / 5
    assert value["length_difference"] == pytest.approx((3 - 3 + 1 + 1 - 4 + 0) / 6)
    assert (value["equal_texts"], value["equal_labels"], value["better_has_the_lower_score"]) == (1 / 6, 1 / 6, 2 / 6)
    assert value["exact_duplicates"] == 1 / 6
    assert value["records_that_share_a_prompt"] == 4 / 6
    assert value["contradictory"] == 1 / 3  # of p, q and r; equal texts are no comparison
    assert (value["mean_answer"], value["longest_answer"]) == ((5 + 5 + 3 + 3 + 6 + 4) / 12, 5)
    assert value["longer_than_the_limit"] == 1 / 12  # five characters and an end do not fit
    assert value["empty_answers"] == 1 / 12
    gaps = [2, 0, -1, -1, 4, 1]
    assert [value[f"strength_{name}"] for name in ("least", "25", "50", "75", "largest")] == pytest.approx(
        [-1, -0.75, 0.5, 1.75, 4]
    )
    assert value["strengths_below_0"] == sum(gap < 0 for gap in gaps) / 6
    lengths = [1.5, -1.5, -1.5, 1.5, 0.5, -0.5, 0.5, -0.5, -2, 2, 0, 0]
    labels = [1, -1, 0, 0, -0.5, 0.5, -0.5, 0.5, 2, -2, 0.5, -0.5]
    expected = sum(a * b for a, b in zip(lengths, labels, strict=True)) / math.sqrt(
        sum(a * a for a in lengths) * sum(b * b for b in labels)
    )
    assert value["correlation_of_length_and_label"] == pytest.approx(expected)
    alarming = {key for key, measure in found.items() if measure.remedy}
    assert alarming == {
        "compared_pairs", "equal_texts", "equal_labels", "better_has_the_lower_score", "exact_duplicates",
        "contradictory", "longer_than_the_limit", "empty_answers", "strength_25", "strengths_below_0",
    }  # fmt: skip


def test_intervals_are_those_of_the_textbook():
    sample = [1.0, 2.0, 4.0, 9.0]
    half = stats.t.ppf(0.975, 3) * np.std(sample, ddof=1) / 2
    found = mean_of(sample)
    assert (found.estimate, found.low, found.high) == pytest.approx((4.0, 4 - half, 4 + half))
    assert mean_of([3.0]).high == math.inf
    longer = said([pair(str(n), "aa" if n < 90 else "a", "aa" if n >= 90 else "a") for n in range(100)])[
        "better_is_longer"
    ]
    wilson = stats.binomtest(90, 100).proportion_ci(0.95, method="wilson")
    assert (longer.low, longer.high) == pytest.approx((wilson.low, wilson.high))
    assert "simpo" in longer.remedy


def test_a_clean_set_alarms_nobody():
    records = [pair(str(n), f"{n} yes" if n % 2 else f"{n} yes it is", f"{n} no, no") for n in range(200)]
    found = said(records, limit=50, held_out=entries(pair("another", "x", "y")))
    assert not [measure for measure in found.values() if measure.remedy]
    assert found["prompts_that_are_trained_on"].value == 0
    assert found["better_is_longer"].value == 0.5


def test_prompts_that_answers_repeat_are_seen():
    records = [pair("a long question?", "a long question? yes", "no"), pair("short", "short", "no")]
    found = said(records)["answers_that_begin_with_their_prompt"]
    assert (found.value, found.of) == (0.5, "answers to plain prompts")
    assert "leave 'prompt' out" in found.remedy
    assert "answers_that_begin_with_their_prompt" not in said(SMALL)  # all prompts are short


def test_leakage_is_seen_through_case_and_white_space():
    long = "an answer that is long enough to be no accident"
    trained = [pair("What  is it?", long, "no"), pair("other", "x", "y")]
    held_out = entries(pair("what is IT?", "a", "b"), pair("new", long.upper() + " ", "c"), pair("third", "x", "y"))
    found = said(trained, held_out=held_out)
    assert found["prompts_that_are_trained_on"].value == pytest.approx(1 / 3)
    assert found["answers_that_are_trained_on"].value == 1.0  # short ones may be equal by accident
    assert found["prompts_that_are_trained_on"].remedy
    assert found["answers_that_are_trained_on"].remedy


def test_lists_count_what_differs_and_weigh_alike():
    records = [
        {"prompt": "a", "completions": ["xxx", "yy", "z"], "scores": [3, 2, 2]},  # better longer: 2 of 2
        {"prompt": "b", "completions": ["x", "yy", "zzz"], "scores": [3, 2, 1]},  # 0 of 3
    ]
    found = said(records)
    assert (found["compared_pairs"].value, found["longest_list"].value) == (5, 3)
    assert found["better_is_longer"].value == 0.5
    assert found["length_difference"].value == pytest.approx(((1 + 2) / 2 + (-1 - 2 - 1) / 3) / 2)
    assert found["equal_labels"].value == 1 / 6


def test_single_answers_have_a_balance():
    records = [{"prompt": str(n), "completion": "x" * (1 + n % 3), "label": n < 90} for n in range(100)]
    found = said([*records, {"prompt": "0", "completion": "x", "label": False}])
    assert found["good_answers"].value == 90 / 101
    assert "objective.bad = 8.18 x objective.good" in found["good_answers"].remedy
    assert found["contradictory"].value == 1 / 100
    assert "better_is_longer" not in found
    balanced = said([{"prompt": str(n), "completion": "x" * n, "label": n >= 5} for n in range(1, 11)])
    lengths, labels = np.arange(1, 11), np.arange(1, 11) >= 5
    expected = np.corrcoef(lengths, labels)[0, 1]
    assert balanced["correlation_of_length_and_label"].value == pytest.approx(expected)


def test_nothing_to_measure_is_an_error():
    with pytest.raises(ValueError, match="no preferences to measure"):
        measures(entries({"prompt": "a", "answer": "b"}))


# -- the command ---------------------------------------------------------------------------------------------------


def test_the_command_prints_a_page_or_json(tmp_path, command):
    path = tiny.jsonl(tmp_path / "p.jsonl", SMALL)
    called = command("data", "stats", path, "--limit", 5, "--held-out", path)
    assert called.code == 0, called.err
    assert "better is longer" in called.out.replace("\n", " ")
    assert "remove them from one of both" in called.out.replace("\n", " ")
    called = command("data", "stats", path, "--json", "--columns", "label=score")
    found = json.loads(called.out)
    assert found["records"] == {"value": 6}
    assert found["contradictory"]["value"] == 1 / 3
    assert set(found["contradictory"]) == {"value", "interval", "of", "remedy"}


def test_a_recipe_says_what_is_trained_on_what_is_held_out_and_what_a_token_is(tmp_path, command):
    path = tiny.jsonl(tmp_path / "p.jsonl", tiny.preferences())
    model = tiny.folder(tmp_path / "model")
    recipe = tiny.recipe(tmp_path / "r.yaml", {"model": str(model)}, {"jsonl": str(path), "limit": 5})
    called = command("data", "stats", recipe, "--json")
    assert called.code == 0, called.err
    found = json.loads(called.out)
    assert found["records"]["value"] == 20  # four are held out
    assert found["prompts_that_are_trained_on"]["value"] == 0
    assert found["longest_answer"]["of"] == "tokens"
    words = tiny.tokenizer("llama")
    texts = {side for record in tiny.preferences() for side in (record["chosen"], record["rejected"])}
    assert found["longest_answer"]["value"] <= max(len(words(t, add_special_tokens=False).input_ids) for t in texts)
    assert "raise tasks.limit" in found["longer_than_the_limit"]["remedy"]


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (("p.jsonl", "--split", "train"), "no folder, so it has no split"),
        (("p.jsonl", "--columns", "label=honest"), "p.jsonl, line 1: the record has no numbers 'honest'"),
        (("sums.jsonl",), "holds no preferences"),
        (("missing.jsonl",), "does not exist"),
        (("r.yaml", "--split", "train"), "have no effect beside a recipe"),
    ],
)
def test_what_can_not_be_measured_is_refused(arguments, told, tmp_path, command):
    tiny.jsonl(tmp_path / "p.jsonl", SMALL)
    tiny.jsonl(tmp_path / "sums.jsonl", tiny.sums())
    tiny.recipe(tmp_path / "r.yaml", {"model": "none"}, {"jsonl": str(tmp_path / "p.jsonl")})
    called = command("data", "stats", tmp_path / arguments[0], *arguments[1:])
    assert called.code == 2
    assert told in called.err.replace("\n", " ")
