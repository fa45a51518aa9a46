"""Claims, their verification, stored results and cards."""

from __future__ import annotations

import dataclasses
import json
import math
import shutil
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from policyopt import methods
from policyopt.claim import MINIMUM_SEEDS, Arm, Claim, ClaimError, Tuning
from policyopt.evaluation import experiments as experiment_package
from policyopt.evaluation import statistics
from policyopt.evaluation.costs import costs, keep
from policyopt.evaluation.experiments import experiment_of, experiments
from policyopt.evaluation.experiments._common import Outcome
from policyopt.evaluation.statistics import Interval, Verdict, absolute_verdict, paired_difference, verdict
from policyopt.evaluation.verify import (
    STORE,
    TUNING_SEED,
    build,
    claim_of,
    from_json,
    judge,
    save,
    stored,
    stored_verdict,
    to_json,
    verify,
)
from policyopt.methods import keys, load, module
from policyopt.ops.random import generator
from policyopt.options import OptionError, override
from policyopt.report.cards import card, plot
from policyopt.report.catalogue import catalogue
from policyopt.report.listing import list_methods, markdown
from policyopt.report.verification import UnknownFamilyError, UntestedError, in_families, side_by_side
from policyopt.update.gradient import GradientSteps
from policyopt.update.optimizers import SGD, Constant

CARDS = Path(__file__).parents[2] / "docs" / "methods"
# Enough rounds for every experiment to have something to average; far too few to learn.
TINY = {"rloo": 30}
BETTER, WORSE = Arm("grpo", given={"shift": 1.0}, label="better"), Arm("grpo", label="worse")


def noisy(method, seed, rounds, shift=0.0, stream="same"):
    """A fake experiment: normal noise of the seed around `shift`."""
    noise = float(torch.randn((), generator=generator(stream, seed)))
    return Outcome(shift + 0.1 * noise, shift + 0.1 * noise, rounds * 4, (noise,), "noise")


FAKE = Claim(
    statement="One arm is larger.",
    source="this test",
    experiment=noisy,
    observable="a number",
    higher_is_better=True,
    smallest_effect=0.3,
    treated=BETTER,
    baseline=WORSE,
    rounds=3,
)


# Methods with a claim; the published ones of the first release must have one.
CLAIMED = [key for key in keys() if hasattr(module(key), "claim")]


def test_the_first_methods_have_claims():
    first = {"reinforce", "rloo", "grpo", "dr_grpo", "dapo", "gspo", "ppo", "dpo", "opd", "sft"}
    assert first <= set(CLAIMED)


# -- claims as data ----------------------------------------------------------------------------------------------
@pytest.mark.parametrize("key", CLAIMED)
def test_every_method_has_a_claim_that_can_be_run(key):
    claim = claim_of(key)
    treated, baseline = build(claim.treated, key), build(claim.baseline, key)
    assert treated.key == key
    assert (treated, claim.treated.given) != (baseline, claim.baseline.given)
    assert experiment_of(claim) in experiments().values()
    if claim.tuning:
        for method in (treated, baseline):
            override(method, {claim.tuning.option: claim.tuning.candidates[0]})
    assert len(claim.statement.split()) > 5
    assert claim.source
    # Data: what the verdict depends on survives being written down.
    assert json.loads(json.dumps(claim.criterion())) == claim.criterion()


@pytest.mark.parametrize(
    "broken",
    [{"seeds": 4}, {"smallest_effect": 0.0}, {"smallest_effect": float("inf")}, {"rounds": 0}, {"baseline": BETTER}],
)
def test_malformed_claims_are_refused(broken):
    with pytest.raises(ClaimError):
        replace(FAKE, **broken)


def test_tuning_needs_a_choice():
    with pytest.raises(ClaimError, match="two or more"):
        Tuning("update.learning_rate", (0.1,))


def test_a_criterion_names_only_what_differs_from_the_defaults():
    """So an option that a part gains changes no criterion."""
    part = GradientSteps({"policy": SGD(0.5)}, clip_norm=None)
    told = replace(FAKE, treated=Arm("grpo", {"update": part, "after": (Constant(),)}, label="better")).criterion()
    assert told["treated"]["overrides"] == {
        "update": "GradientSteps(optimizers={'policy': SGD(learning_rate=0.5)}, clip_norm=None)",
        "after": "(Constant(),)",
    }


def test_a_criterion_is_the_same_in_every_process():
    """Parts that hold functions are written without addresses."""
    told = replace(FAKE, treated=Arm("grpo", {"objective": (noisy, [noisy])}, label="better")).criterion()
    assert told["treated"]["overrides"]["objective"] == "(<function noisy>, [<function noisy>])"


def test_claims_and_verdicts_agree_on_the_fewest_seeds():
    assert MINIMUM_SEEDS == statistics.MINIMUM_SEEDS


def test_unknown_experiments_and_missing_claims_say_so(tmp_path):
    with pytest.raises(ClaimError, match="did you mean 'offset_rewards'"):
        experiment_of(replace(FAKE, experiment="offset_reward"))
    with pytest.raises(OptionError):
        build(Arm("grpo", {"objective.clip_hihg": 0.3}))
    own = tmp_path / "own.py"
    own.write_text("from policyopt.methods.grpo import grpo as own\n")
    with pytest.raises(ClaimError, match="has no claim"):
        claim_of(str(own))


def test_two_experiments_of_one_name_are_refused(tmp_path, monkeypatch):
    (tmp_path / "zz_again.py").write_text(
        "from policyopt.evaluation.experiments._common import Outcome\n"
        "def combination_lock(method, seed, rounds) -> Outcome: ...\n"
    )
    monkeypatch.setattr(experiment_package, "__path__", [*experiment_package.__path__, str(tmp_path)])
    with pytest.raises(ClaimError, match=r"'combination_lock' stands in .*locks and in .*zz_again; rename one"):
        experiments()


# -- verification ------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("key", CLAIMED)
def test_both_arms_of_a_claim_run_and_use_the_same_rows(key):
    claim, outcomes = claim_of(key), []
    for arm in (claim.treated, claim.baseline):
        method = build(arm, key)
        if claim.tuning is not None:
            method = override(method, {claim.tuning.option: claim.tuning.candidates[-1]})
        outcomes.append(experiment_of(claim)(method, TUNING_SEED, TINY.get(key, 2), **arm.given))
    treated, baseline = outcomes
    assert all(math.isfinite(x) for one in outcomes for x in (one.value, one.score, *one.notes.values()))
    assert treated.rows > 0
    assert treated.rows == baseline.rows or claim.budget != "rows"
    assert treated.notes.keys() == baseline.notes.keys()


@pytest.mark.parametrize("key", ["rloo", "dapo", "gspo", "dpo"])
def test_a_tiny_verification_computes_its_verdict(key):
    steps: list[tuple[int, int]] = []
    claim = claim_of(key)
    one_rate = claim.tuning and replace(claim.tuning, candidates=claim.tuning.candidates[:2], seeds=1)
    result = verify(
        key,
        rounds=TINY.get(key, 2),
        claim=replace(claim, tuning=one_rate),
        progress=lambda done, total, what: steps.append((done, total)),
    )
    assert steps[-1][0] == steps[-1][1] == len(steps)
    assert len(result.treated.values) == len(result.baseline.values) == len(result.seeds) == claim.seeds
    if claim.budget == "rows":
        assert result.treated.rows == result.baseline.rows
    assert min(result.treated.rows) > 0
    if one_rate:
        assert result.treated.chosen in one_rate.candidates
    assert result.difference == paired_difference(result.treated.values, result.baseline.values)
    sign = 1 if claim.higher_is_better else -1
    bounds = sorted((sign * result.difference.low, sign * result.difference.high))
    if result.verdict is Verdict.SHOWN:
        assert bounds[0] >= claim.smallest_effect
    if claim.threshold is None:
        expected = verdict(result.difference, claim.smallest_effect, higher_is_better=claim.higher_is_better)
        assert result.verdict is expected
    assert from_json(to_json(result)) == replace(result, seconds=0.0, cpu=0.0)


def test_a_null_experiment_is_not_shown():
    """The same method under other noise: no difference to be found."""
    null = replace(FAKE, treated=Arm("grpo", given={"stream": "other"}, label="same"), smallest_effect=0.05)
    result = verify("grpo", claim=null)
    assert result.treated.values != result.baseline.values
    assert result.verdict is Verdict.NOT_SHOWN
    same = verify("grpo", claim=replace(null, treated=Arm("grpo", label="itself")))
    assert (same.difference.low, same.difference.high) == (0.0, 0.0)
    assert same.verdict is Verdict.NOT_SHOWN


def test_a_real_null_through_the_loop_is_not_shown():
    """reinforce against reinforce whose baseline differs by nothing but its name."""
    claim = claim_of("reinforce")
    null = replace(claim, baseline=replace(claim.treated, label="again"), tuning=None, rounds=5)
    result = verify("reinforce", claim=null)
    assert result.treated.values == result.baseline.values
    assert result.verdict is Verdict.NOT_SHOWN


def test_swapping_the_arms_contradicts():
    assert verify("grpo", claim=FAKE).verdict is Verdict.SHOWN
    assert verify("grpo", claim=replace(FAKE, treated=WORSE, baseline=BETTER)).verdict is Verdict.CONTRADICTED
    assert verify("grpo", claim=replace(FAKE, higher_is_better=False)).verdict is Verdict.CONTRADICTED
    assert verify("grpo", claim=replace(FAKE, smallest_effect=2.0)).verdict is Verdict.NOT_SHOWN


@pytest.mark.parametrize(
    ("threshold", "expected"),
    [(0.5, Verdict.SHOWN), (1.0, Verdict.NOT_SHOWN), (1.5, Verdict.CONTRADICTED)],
)
def test_a_threshold_must_be_reached_as_well(threshold, expected):
    claim = replace(FAKE, threshold=threshold)
    values = (0.9, 1.0, 1.1, 0.95, 1.05)
    assert absolute_verdict(values, threshold, higher_is_better=True) is expected
    assert judge(claim, values, Interval(1.0, 0.9, 1.1, 0.95, seeds=5)) is expected
    # Either half alone is not enough.
    assert judge(replace(claim, threshold=0.5), values, Interval(0.1, -0.1, 0.2, 0.95, seeds=5)) is Verdict.NOT_SHOWN


def test_both_arms_are_tuned_alike_on_seeds_of_their_own():
    calls: list[tuple[str, int, float]] = []

    def watched(method, seed, rounds, arm="a"):
        rate = method.update.optimizers["policy"].learning_rate
        calls.append((arm, seed, rate))
        # Arm a likes 0.1 best; arm b finds 0.1 and 0.3 equal and takes the first.
        score = {"a": {0.03: 0.0, 0.1: 1.0, 0.3: 0.5}, "b": {0.03: 0.0, 0.1: 1.0, 0.3: 1.0}}[arm][rate]
        return Outcome(float(seed % 7), score, 8)

    rates = Tuning("update.learning_rate", (0.03, 0.1, 0.3), seeds=2)
    arms = (Arm("grpo", given={"arm": "a"}, label="a"), Arm("grpo", given={"arm": "b"}, label="b"))
    claim = replace(FAKE, experiment=watched, treated=arms[0], baseline=arms[1], tuning=rates)
    result = verify("grpo", claim=claim)
    tuned = {arm: [(s, r) for a, s, r in calls if a == arm and s >= TUNING_SEED] for arm in "ab"}
    assert tuned["a"] == tuned["b"]
    assert len(tuned["a"]) == 6
    final = {arm: [(s, r) for a, s, r in calls if a == arm and s < TUNING_SEED] for arm in "ab"}
    assert final["a"] == final["b"] == [(seed, 0.1) for seed in range(5)]
    assert (result.treated.chosen, result.baseline.chosen) == (0.1, 0.1)
    assert result.treated.tried == {"0.03": 0.0, "0.1": 1.0, "0.3": 0.5}


def test_unequal_budgets_are_refused():
    claim = claim_of("grpo")
    more = replace(claim.baseline, overrides={**claim.baseline.overrides, "sampling.size": 9})
    with pytest.raises(ClaimError, match="same number of rows"):
        verify("grpo", claim=replace(claim, baseline=more, tuning=None, rounds=1))


def test_an_observable_that_is_a_cost_needs_no_equal_budgets():
    claim = claim_of("grpo")
    more = replace(claim.baseline, overrides={**claim.baseline.overrides, "sampling.size": 9})
    asked = replace(claim, baseline=more, tuning=None, rounds=1, budget="cost")
    result = verify("grpo", claim=asked)
    assert result.treated.rows != result.baseline.rows
    assert "the observable is itself what is paid" in card(load("grpo"), result)
    with pytest.raises(ClaimError, match="'rows' or 'cost'"):
        replace(claim, budget="tokens")


def test_families_narrow_what_is_verified():
    assert in_families("") == keys()
    assert (
        set(in_families("A1, B1")) == {key for key in keys() if load(key).about.family in ("A1", "B1")} != set(keys())
    )
    assert "gspo" in in_families("A1")
    with pytest.raises(UnknownFamilyError, match="Z9"):
        in_families("A1,Z9")


def test_rows_that_a_sampler_throws_away_count():
    """One draw of 4 tasks x 16 attempts a round, whatever dynamic sampling keeps."""
    claim = replace(claim_of("dapo"), tuning=None, rounds=2)
    assert verify("dapo", claim=claim).treated.rows == (128,) * 5


# -- observables are what they are called --------------------------------------------------------------------------
def still(key, changes=None):
    """A method whose learning rate is 0: the policy stays what it was."""
    method = load(key)
    rates = {f"update.optimizers.{name}.learning_rate": 0.0 for name in method.update.optimizers}
    return override(method, rates | (changes or {}))


def test_expected_length_of_a_wrong_row():
    """The end symbol has probability 1/4 from the second of 24 positions on."""
    outcome = experiments()["wrong_lengths"](still("dr_grpo", {"selection.count": 2}), 3, 1)
    assert outcome.value == pytest.approx(1 + (1 - 0.75**23) / 0.25, rel=1e-5)
    assert outcome.score == pytest.approx(1 / 3, rel=1e-5)


def test_shares_of_a_uniform_policy():
    found = experiments()
    assert found["offset_rewards"](still("reinforce"), 0, 1).value == pytest.approx(1 / 4, rel=1e-5)
    assert found["mixed_scales"](still("grpo"), 0, 1).value == pytest.approx(1 / 4, rel=1e-5)
    assert found["rare_success"](still("sft"), 0, 1).value == pytest.approx(6**-4, rel=1e-4)
    assert found["largest_change"](still("ppo"), 0, 2).value == pytest.approx(0.0, abs=1e-9)


def test_gradients_at_a_fixed_policy_are_unbiased():
    for key in ("rloo", "reinforce"):
        outcome = experiments()["bandit_gradients"](
            build(claim_of("rloo").treated if key == "rloo" else Arm(key)), 11, 150
        )
        bias = outcome.notes["root mean square bias in standard errors (1 if unbiased)"]
        assert 0.7 < bias < 1.3, key


def test_error_at_the_students_own_states_against_simulation():
    """The exact propagation of places against 4000 simulated walks of the same student."""
    exact = experiments()["exposure"](still("opd", {"selection.count": 1}), 5, 1)
    logits = 1.5 * torch.tanh(1.5 * torch.randn(21, 3, generator=generator(5, "policy")) / 1.5)
    student = logits.log_softmax(-1).double()
    place = torch.arange(21)
    best = torch.where(place > 10, 0, torch.where(place < 10, 2, 1))
    teacher = (5.0 * torch.nn.functional.one_hot(best, 3)).log_softmax(-1).double()
    error = (student.exp() * (student - teacher)).sum(1)
    here, total, rng = torch.full((4000,), 10), 0.0, generator("walks")
    for _ in range(20):
        total += float(error[here].mean()) / 20
        step = torch.multinomial(student[here].exp(), 1, generator=rng)[:, 0] - 1
        here = (here + step).clamp(0, 20)
    assert exact.value == pytest.approx(total, rel=0.03)


# -- stored results and cards --------------------------------------------------------------------------------------
@pytest.mark.parametrize("key", CLAIMED)
def test_committed_cards_are_made_from_the_stored_results(key):
    result = stored(key)
    assert result is not None, f"no result of {key}'s present claim; run policyopt verify {key}"
    assert result.criterion["seeds"] == len(result.seeds) == claim_of(key).seeds
    assert judge(claim_of(key), result.treated.values, result.difference) is result.verdict
    assert paired_difference(result.treated.values, result.baseline.values).low == pytest.approx(result.difference.low)
    assert (CARDS / f"{key}.md").read_text(encoding="utf-8") == card(load(key), result)
    assert (CARDS / f"{key}.png").stat().st_size < 60_000


def test_the_index_is_up_to_date():
    claimed = [method for method in list_methods("family") if method["key"] in CLAIMED]
    assert (CARDS / "index.md").read_text(encoding="utf-8") == markdown(claimed)


def test_the_catalogue_is_up_to_date():
    page = (CARDS.parent / "catalogue.md").read_text(encoding="utf-8")
    assert page == catalogue()
    # Hand-checked: what gspo has that grpo has not, and who shares its ratio.
    assert "| grpo | credit, objective, update | `geometric_sequence_surrogate`, `row_mean` |" in page
    assert "| objective | `geometric_sequence_surrogate` | 2 | gspo, iterresearch_eapo |" in page


def test_a_method_without_a_claim_is_unverified_and_no_error(tmp_path, monkeypatch):
    shutil.copy(Path(__file__).parents[2] / "examples" / "cispo.py", tmp_path / "cispo.py")
    monkeypatch.setattr(methods, "__path__", [*methods.__path__, str(tmp_path)])
    listed = {method["key"]: method for method in list_methods()}
    assert listed["cispo"]["verdict"] == "unverified"
    assert listed["cispo"]["axes"]
    assert methods.load("cispo").key == "cispo"


@pytest.mark.parametrize("key", ["reinforce", "grpo", "sft", "opd"])
def test_stored_numbers_can_be_had_again(key):
    """Seed 0 of both arms, within half the effect that counts: a part that changed shows here."""
    claim, result = claim_of(key), stored(key)
    assert result is not None
    for arm, was in ((claim.treated, result.treated), (claim.baseline, result.baseline)):
        method = override(build(arm, key), {claim.tuning.option: was.chosen})
        again = experiment_of(claim)(method, 0, claim.rounds, **arm.given)
        assert again.value == pytest.approx(was.values[0], abs=claim.smallest_effect / 2)
        assert again.rows == was.rows[0]


def test_a_result_of_another_criterion_does_not_count(tmp_path, monkeypatch):
    result = stored("grpo")
    assert result is not None
    save(result, tmp_path)
    assert stored("grpo", tmp_path) == result
    save(replace(result, criterion={**result.criterion, "smallest_effect": 0.01}), tmp_path)
    assert stored("grpo", tmp_path) is None
    (tmp_path / "grpo.json").unlink()
    monkeypatch.setattr("policyopt.evaluation.verify.stored", lambda key, folder=STORE: None)
    assert stored_verdict("grpo") is Verdict.UNVERIFIED
    assert "Not tested yet" in card(load("grpo"), None)


def test_stored_results_hold_no_clock():
    """Regenerating must be diffable: the same text from the same run, and nothing of when or how long."""
    claim = replace(claim_of("reinforce"), rounds=2, tuning=None)
    results = [verify("reinforce", claim=claim) for _ in range(2)]
    assert all(result.cpu > 0 for result in results)
    texts = {to_json(result) for result in results}
    assert len(texts) == 1
    assert not {"seconds", "cpu"} & json.loads(texts.pop()).keys()


def test_costs_are_kept_beside_the_results(tmp_path):
    path = tmp_path / "costs.json"
    assert costs(path) == {}
    keep("grpo", 123.4, path)
    keep("dapo", 0.0456, path)
    assert list(costs(path).items()) == [("dapo", 0.046), ("grpo", 120.0)]
    keep("grpo", 2.0, path)
    assert costs(path)["grpo"] == 2.0
    assert set(costs()) <= set(keys())
    unmeasured = {**list_methods()[0], "cpu_seconds": None}
    assert markdown([unmeasured]).splitlines()[-1].endswith("| - |")
    assert markdown([{**unmeasured, "cpu_seconds": 46.0}]).splitlines()[-1].endswith("| 46 |")


def test_several_methods_are_tested_side_by_side(monkeypatch):
    def threads(workers, context, **start):
        assert context.get_start_method() == "spawn"
        return ThreadPoolExecutor(workers)

    monkeypatch.setattr("policyopt.report.verification.ProcessPoolExecutor", threads)
    told = []
    run = side_by_side(
        ["dapo", "reinforce"], None, 2, tell=lambda done, running: told.append((done, *running)), rounds=1
    )
    found = {result.key: result for result in run}
    assert set(found) == {"dapo", "reinforce"}
    assert found["dapo"].criterion["rounds"] == 1
    assert told[0] == (0, "dapo", "reinforce")
    assert told[-1] == (2,)
    with pytest.raises(ClaimError, match="at least 5 seeds"):
        list(side_by_side(["dapo"], 2, 1, tell=lambda done, running: None))


def test_a_claim_that_can_not_be_tested_does_not_stop_the_others(monkeypatch):
    def half(key, seeds, rounds):
        if key == "dapo":
            raise AttributeError("planted")
        return key

    threads = "policyopt.report.verification.ProcessPoolExecutor"
    monkeypatch.setattr(threads, lambda *_, **__: ThreadPoolExecutor(1))
    monkeypatch.setattr("policyopt.report.verification.verify", half)
    results = side_by_side(["ppo", "dapo", "grpo"], None, 2, tell=lambda *_: None)
    assert [next(results), next(results)] == ["ppo", "grpo"]
    with pytest.raises(UntestedError, match=r"1 of 3 claims .*dapo: AttributeError: planted.* others are stored"):
        next(results)


def test_a_plot_depends_on_the_numbers_alone(tmp_path):
    result = stored("rloo")
    assert result is not None
    plot(result, tmp_path / "one.png")
    plot(dataclasses.replace(result, seconds=9.0), tmp_path / "two.png")
    assert (tmp_path / "one.png").read_bytes() == (tmp_path / "two.png").read_bytes()
