"""The conformance runner: shipped vectors, their independent generator, planted errors, names and coverage."""

import json

import make_vectors
import pytest
import torch

from policyopt.evaluation import parts
from policyopt.evaluation.conformance import SHIPPED, VectorFileError, conformance_main, run_file
from policyopt.evaluation.vector_batch import VectorContext, batch_of
from policyopt.options import part_classes, snake
from policyopt.seen import SeenBatch

FEWEST_CASES_A_PART = 3

NO_VECTORS = {
    *parts.NOT_ON_VECTORS.values(),  # samplers, task orders, hooks, joins of two rules, optimisers, schedules
    parts.MOVES_MODELS,  # gradient steps
    "it noises finished samples again",  # regression of a denoiser on its forward process
    parts.NEEDS_MORE,  # action values, reparameterised steps, denoising errors: tests/references_*.py
}
"""The reasons for which a part needs no cases."""

CASE = {
    "name": "by hand",
    "axis": "objective",
    "part": "clipped_surrogate",
    "options": {"clip_low": 0.2, "clip_high": 0.2},
    "reduction": "token_mean",
    "inputs": {
        # Ratios 2, 1 and 0.5.
        "logprobs": [[-1.0, -0.5], [-1.0, None]],
        "old_logprobs": [[-1.0 - 0.6931471805599453, -0.5], [-1.0 + 0.6931471805599453, None]],
        "advantages": [[1.0, -3.0], [-2.0, None]],
        "mask": [[1, 1], [1, 0]],
    },
    # -min(2, 1.2), -min(-3, -3), -min(-1, -1.6)
    "expect": {
        "per_step": [[-1.2, 3.0], [1.6, None]],
        "loss": 3.4 / 3,
        "grad_logprobs": [[0.0, 1.0], [0.0, 0.0]],
    },
}
MISSING = object()


def changed(**changes):
    """CASE with other values, by dotted path; MISSING removes one."""
    case = json.loads(json.dumps(CASE))
    for path, value in changes.items():
        *way, last = path.split("__")
        place = case
        for key in way:
            place = place[key]
        if value is MISSING:
            del place[last]
        else:
            place[last] = value
    return case


@pytest.fixture
def run(tmp_path):
    def run(*cases):
        path = tmp_path / "cases.json"
        path.write_text(json.dumps({"version": 1, "cases": list(cases)}))
        return run_file(path)

    return run


def shipped():
    return [case for path in sorted(SHIPPED.glob("*.json")) for case in json.loads(path.read_text())["cases"]]


def test_shipped_vectors_pass(capsys):
    assert conformance_main() == 0
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == len(shipped()) + 1
    assert all(line.startswith("ok") for line in lines[:-1])


def test_shipped_vectors_agree_far_below_their_tolerance():
    for path in SHIPPED.glob("*.json"):
        assert max(result.difference for result in run_file(path)) < 1e-13


def assert_near(made, held, where=""):
    if isinstance(made, dict):
        assert made.keys() == held.keys(), where
        for key, value in made.items():
            assert_near(value, held[key], f"{where}.{key}")
    elif isinstance(made, list):
        assert len(made) == len(held), where
        for number, value in enumerate(made):
            assert_near(value, held[number], f"{where}[{number}]")
    elif isinstance(made, float):
        assert abs(made - held) <= 1e-12, where
    else:
        assert made == held, where


def test_generator_gives_the_shipped_files():
    assert {f"{name}.json" for name in make_vectors.FILES} == {path.name for path in SHIPPED.glob("*.json")}
    for name in make_vectors.FILES:
        held = json.loads((SHIPPED / f"{name}.json").read_text())
        assert_near(json.loads(make_vectors.text(name)), held, name)


def test_shipped_files_are_plain_json_with_names_of_their_own():
    def refuse(constant):
        raise AssertionError(f"{constant} is not JSON")

    for path in SHIPPED.glob("*.json"):
        json.loads(path.read_text(), parse_constant=refuse)
    names = [(case["axis"], case["part"], case["name"]) for case in shipped()]
    assert len(set(names)) == len(names)


def test_every_part_has_cases_or_a_reason():
    counts = {}
    for case in shipped():
        counts[case["axis"], case["part"]] = counts.get((case["axis"], case["part"]), 0) + 1
    for part in parts.list_parts():
        if part.refused:
            assert part.refused in NO_VECTORS, f"{part.axis}/{part.name}: {part.refused}; say why in NO_VECTORS"
        else:
            assert counts.get((part.axis, part.name), 0) >= FEWEST_CASES_A_PART, f"{part.axis}/{part.name} needs cases"


def test_cases_of_a_part_pin_every_option():
    """An option that no case sets could change its meaning unseen."""
    used = {}
    for case in shipped():
        used.setdefault((case["axis"], case["part"]), set()).update(case.get("options", {}))
    for part in parts.list_parts():
        if not part.refused:
            names = {option.name for option in part.options} - {"critic"}
            assert names <= used[part.axis, part.name], f"{part.axis}/{part.name}"


def test_parts_declare_what_they_read():
    for axis in parts.AXES:
        for name, kind in part_classes(axis).items():
            if parts.refusal(kind) or parts.signature(kind) == parts.AVERAGE:
                continue
            part = kind()
            inputs = parts.probe(part)
            ctx = VectorContext(inputs)
            batch = batch_of(inputs, part.reads)
            part(SeenBatch(ctx, batch) if parts.signature(kind) == parts.LOSS else ctx, batch)
            roles = {read.rsplit("_", 1)[0] for read in inputs.used if read.endswith(("_logprobs", "_logits"))}
            assert roles <= {*part.roles, "behaviour"}, f"{axis}/{name}"
            declared = {parts.input_of(column) for column in part.reads}
            assert {"advantages", "returns", "old_values", "pairs"} & inputs.used.keys() <= declared, f"{axis}/{name}"
            assert "values" not in inputs.used or part.critics, f"{axis}/{name}"


def test_a_case_by_hand_passes(run):
    (result,) = run(CASE)
    assert result.passed
    assert result.difference < 1e-15


@pytest.mark.parametrize(
    ("changes", "where", "difference"),
    [
        ({"expect__loss": 3.5 / 3}, "loss", 0.1 / 3),
        ({"expect__per_step": [[-1.2, 3.0], [1.61, None]]}, "per_step[1, 0]", 0.01),
        ({"expect__grad_logprobs": [[0.0, 1.0], [0.0, 0.5]]}, "grad_logprobs[1, 1]", 0.5),
        ({"expect__loss": 3.4 / 3 + 1e-7}, "loss", 1e-7),
    ],
)
def test_a_wrong_number_fails_and_is_shown(run, tmp_path, capsys, changes, where, difference):
    results = run(changed(**changes), CASE)
    assert [result.passed for result in results] == [False, True]
    assert results[0].difference == pytest.approx(difference)
    assert conformance_main(tmp_path / "cases.json") == 1
    first, second, last = capsys.readouterr().out.splitlines()
    assert first.startswith("FAIL objective/clipped_surrogate: by hand")
    assert where in first
    assert f"{difference:.1e}" in first
    assert second.startswith("ok")
    assert last == "1 of 2 cases pass"


def test_the_tolerance_is_the_cases_own(run):
    wrong = changed(expect__loss=3.4 / 3 + 1e-7)
    assert run({**wrong, "atol": 1e-6})[0].passed
    assert not run({**wrong, "atol": 1e-8})[0].passed


def test_a_nan_or_another_shape_is_no_agreement(run):
    nan = changed(inputs__advantages=[[1.0, None], [-2.0, None]])
    shape = changed(expect__per_step=[[-1.2], [1.6]])
    for result in run(nan, shape):
        assert not result.passed
        assert result.difference == float("inf")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"axis": "objectve"}, "did you mean 'objective'"),
        ({"part": "clipped_surogate"}, "did you mean 'clipped_surrogate'"),
        ({"options": {"clip_hihg": 0.2}}, "did you mean 'clip_high'"),
        ({"options": {"clip_low": 2.0}}, "clip_low must be above 0 and at most 1"),
        ({"reduction": "token_maen"}, "did you mean 'token_mean'"),
        ({"reduction": "adam_w"}, "is no average"),
        ({"reduction": MISSING}, "needs a reduction"),
        ({"inputs__old_logprob": [[0.0, 0.0], [0.0, 0.0]]}, "did you mean 'old_logprobs'"),
        ({"inputs__old_logprobs": MISSING}, "needs the input 'old_logprobs'"),
        ({"inputs__advantages": MISSING}, "needs the input 'advantages'"),
        ({"inputs__logprobs": [[-1.0, -0.5], [-1.0]]}, "differ in length"),
        ({"inputs__logprobs": [[-1.0, "a"], [-1.0, None]]}, "must be a number"),
        ({"inputs__advantages": [[1.0], [2.0]]}, "disagree about the number of steps"),
        ({"inputs__mask": [[1, 2], [1, 0]]}, "0 and 1 only"),
        ({"expect__los": 1.0}, "did you mean 'loss'"),
        ({"expect": {}}, "expects nothing"),
        ({"expct": {}}, "did you mean 'expect'"),
        ({"name": MISSING}, "lacks name"),
        ({"atol": -1}, "atol must be"),
        ({"axis": "sampling", "part": "group"}, "a sampler generates rows"),
    ],
)
def test_what_is_wrong_with_a_case_is_said_and_others_still_run(run, changes, message):
    broken, fine = run(changed(**changes), CASE)
    assert not broken.passed
    assert broken.difference is None
    assert message in broken.detail
    assert fine.passed


@pytest.mark.parametrize("text", ["", "[]", '{"version": 2, "cases": []}', '{"version": 1, "cases": []}', None])
def test_a_file_without_cases_is_an_error_of_its_own(tmp_path, capsys, text):
    path = tmp_path / "cases.json"
    if text is not None:
        path.write_text(text)
    with pytest.raises(VectorFileError, match=r"cases\.json"):
        run_file(path)
    assert conformance_main(path) == 2
    assert "error" in capsys.readouterr().err


def test_common_names_mean_parts(run):
    for axis, names in parts.ALIASES.items():
        known = part_classes(axis)
        assert set(names.values()) <= known.keys()
        assert not names.keys() & known.keys()
    assert run(changed(part="ppo_clip"))[0].passed


def test_reductions_differ_as_published(run):
    losses = [[-1.2, 3.0], [1.6, None]]
    sequence = (0.9 + 1.6) / 2
    cases = [
        changed(reduction="sequence_mean", expect={"loss": sequence}),
        changed(reduction="sequence_sum", reduction_options={"constant": 4}, expect={"loss": (1.8 + 1.6) / 2 / 4}),
        changed(reduction="sum", expect={"loss": 3.4}),
        changed(reduction="mean", expect={"loss": 3.4 / 3}),
        changed(reduction=MISSING, expect={"per_step": losses, "grad_logprobs": [[0.0, 3.0], [0.0, 0.0]]}),
    ]
    for result in run(*cases):
        assert result.passed, result.line()


def test_float64_only_while_it_runs(run):
    before = torch.get_default_dtype()
    run(CASE)
    assert torch.get_default_dtype() == before


def test_listing_shows_every_part(capsys):
    assert conformance_main(list_only=True) == 0
    text = capsys.readouterr().out
    for part in parts.list_parts():
        assert f"  {part.name}" in text
    assert "clip_high: float = 0.2" in text
    assert "ppo_clip" in text
    assert conformance_main(list_only=True, as_json=True) == 0
    listed = {(p["axis"], p["name"]): p for p in json.loads(capsys.readouterr().out)}
    surrogate = listed["objective", "clipped_surrogate"]
    assert surrogate["inputs"] == ["logprobs", "old_logprobs", "advantages"]
    assert surrogate["options"][0] == {"name": "clip_low", "type": "float", "default": 0.2, "required": False}
    assert listed["credit", "group_standardised"]["inputs"] == ["rewards", "group"]
    assert listed["credit", "generalised_advantage"]["inputs"] == ["values", "rewards"]


def test_results_as_json(run, tmp_path, capsys):
    run(CASE, changed(expect__per_step=[[1.0]]))
    assert conformance_main(tmp_path / "cases.json", as_json=True) == 1
    good, bad = json.loads(capsys.readouterr().out)
    assert (good["passed"], good["part"]) == (True, "clipped_surrogate")
    assert (bad["passed"], bad["difference"]) == (False, None)


def test_names_in_snake_case():
    names = ["ClippedSurrogate", "KLToReference", "K1Loss", "ExactKL", "SGD", "AdamW"]
    wanted = ["clipped_surrogate", "kl_to_reference", "k1_loss", "exact_kl", "sgd", "adam_w"]
    assert [snake(name) for name in names] == wanted
