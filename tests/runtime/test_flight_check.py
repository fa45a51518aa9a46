"""The flight check: every check fires on its fault and none on healthy recipes; numbers by hand; the command."""

import copy
import json
import math
import random
from pathlib import Path

import pytest
import tiny
import torch
import yaml

import planted_faults
from planted_faults import CHAT, FIRES, TEXT, conversations
from policyopt.evaluation.flight import CHECKS, Flight, Leg, Verdict, findings
from policyopt.evaluation.flight.collect import Sizes
from policyopt.evaluation.flight.gradients import estimate, noise
from policyopt.evaluation.flight.record import Cost, Forecast, Gradient, Probe
from policyopt.evaluation.flight.rows import within
from policyopt.evaluation.flight.scores import surprise, tails
from policyopt.evaluation.flight.tasks import forecast, plain
from policyopt.options import OptionError
from policyopt.recipe.build import build
from policyopt.recipe.flight import flown
from policyopt.recipe.schema import load_recipe, make_recipe
from policyopt.train import rounds

SMALL = Sizes(batches=1, rows=512)
LETTERS = "abcde"
WEIGHTS: dict[str, torch.Tensor] = {}  # of the taught policy


@pytest.fixture(scope="module")
def texts(tmp_path_factory):
    """A healthy recipe, without the first stage that taught its policy: tasks that it solves sometimes, answers that
    end."""
    rng, path = random.Random(0), tmp_path_factory.mktemp("texts") / "tasks.jsonl"

    def shown(letter: str) -> str:
        return rng.choice([letter, letter, rng.choice(LETTERS)]) + "".join(rng.choices(LETTERS, k=rng.randrange(4)))

    letters = [LETTERS[n % 5] for n in range(200)]
    records = [{"prompt": f"{n}{a}=", "answer": a, "demonstration": shown(a)} for n, a in enumerate(letters)]
    tiny.jsonl(path, records)
    recipe = {
        "name": "healthy",
        "policy": {"new": {"hidden_size": 16, "layers": 1, "heads": 2, "positions": 128, "model_type": "llama"}},
        "tasks": {"jsonl": str(path), "limit": 12, "verifier": "answer_spans", "verifier_options": {"width": 1}},
        "stages": [{"method": "grpo", "steps": 5, "options": {"selection.count": 12, "sampling.size": 16}}],
        "evaluation": {"tasks": 8, "samples": 8},
    }
    lessons = {"selection.count": 32, "update.learning_rate": 0.02}
    taught = {**recipe, "stages": [{"method": "sft", "steps": 120, "options": lessons}], "evaluation": None}
    with build(make_recipe(taught)) as built:
        for _ in rounds(built.run, built.program):
            pass
        WEIGHTS.update(copy.deepcopy(built.policy.state_dict()))
    return recipe


@pytest.fixture(scope="module")
def chats(tmp_path_factory):
    """A healthy recipe of conversations."""
    return conversations(tmp_path_factory.mktemp("chats"))


def fly(recipe, changes=(), plant=None, sizes=SMALL) -> Flight:
    with build(make_recipe(recipe, changes)) as built:
        if not built.recipe.policy.model:
            built.policy.load_state_dict(WEIGHTS)
        if plant is not None:
            plant(built)
        return flown(built, sizes)


def verdicts(flight: Flight) -> dict[str, Verdict]:
    return {one.check: one.said.verdict for one in findings(flight)}


# -- planted faults ----------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("seed", range(3))
def test_nothing_fires_on_a_healthy_recipe(texts, seed):
    found = findings(fly(texts, [f"seed={seed}"]))
    assert not [one for one in found if one.said.verdict in FIRES["warn"]]
    # And it is not silent because it did not look.
    asked = {one.check for one in found if one.said.verdict is Verdict.OK}
    assert len(asked) >= 16


@pytest.mark.parametrize("name", TEXT)
def test_every_fault_is_seen(texts, name):
    fault = TEXT[name]
    found = verdicts(fly(texts, fault.changes, fault.plant))
    assert {check: found[check] for check in fault.sees if found[check] not in FIRES[fault.least]} == {}


@pytest.mark.parametrize("name", CHAT)
def test_faults_of_conversations_are_seen(chats, name):
    fault = CHAT[name]
    sizes = Sizes(batches=1, rows=8)
    healthy = verdicts(fly(chats, sizes=sizes))
    assert [healthy[check] for check in fault.sees] == [Verdict.OK] * len(fault.sees)
    found = verdicts(fly(chats, fault.changes, fault.plant, sizes))
    assert {check: found[check] for check in fault.sees if found[check] not in FIRES[fault.least]} == {}


def test_every_check_has_a_fault_that_it_sees():
    seen = {check for fault in (*TEXT.values(), *CHAT.values()) for check in fault.sees}
    assert {check.name for check in CHECKS} - seen == {"time, memory and tokens"}  # see the next test


def test_memory_beyond_the_machine_is_a_fault():
    leg = Leg(0, "grpo", "language", cost=Cost(100, 2.0, 1.0, 500.0, 8.0))
    small = Flight("x", "language", (leg,), forecast=Forecast(20.0, 3 * 2**30, 2 * 2**30))
    said = forecast(small)
    assert said.verdict is Verdict.FAULT
    assert said.measured["seconds"] == 100 * 3 + 20
    assert said.measured["steps"] == 100 * 500
    assert forecast(Flight("x", "language", (leg,), forecast=Forecast(20.0, 2**30, 2 * 2**30))).verdict is Verdict.OK


def test_a_truncation_that_keeps_nothing_is_refused_by_recipes(texts):
    with (
        pytest.raises(OptionError, match=r"sampling.top_p is the mass to keep, above 0 and at most 1 .*, not 0.0"),
        build(make_recipe(texts, ["sampling.top_p=0.0"])),
    ):
        pass


# -- numbers by hand ---------------------------------------------------------------------------------------------------
def pieces_of(g: torch.Tensor, count: int) -> Gradient:
    """The record of per-row gradients (rows, D) in `count` pieces."""
    parts = g.view(count, -1, g.shape[1]).mean(1)
    whole = g.mean(0)
    norms, products = (tuple(float(x) for x in found) for found in (parts.norm(dim=1), parts @ whole))
    return Gradient("policy", len(g), float(whole.norm()), norms, products, None)


def test_noise_scale_of_known_gradients():
    """Two pieces of 4 rows with gradients (1, 2) and (1, -2): <h1, h2> = -3, mean |h|^2 = 5."""
    two = torch.tensor([[1.0, 2.0]] * 4 + [[1.0, -2.0]] * 4, dtype=torch.float64)
    signal, spread, error = estimate(pieces_of(two, 2))
    assert (signal, spread, error) == pytest.approx((-3, 4 * (5 + 3), math.inf))
    # Three of one row: (1, 1), (1, -1), (1, 0). Pairs: 0, 1, 1; without one: 1, 1, 0.
    three = torch.tensor([[1.0, 1.0], [1.0, -1.0], [1.0, 0.0]], dtype=torch.float64)
    signal, spread, error = estimate(pieces_of(three, 3))
    assert (signal, spread) == pytest.approx((2 / 3, 5 / 3 - 2 / 3))
    assert error == pytest.approx(math.sqrt(2 / 3 * (2 * (1 / 3) ** 2 + (2 / 3) ** 2)))


def test_noise_scale_is_that_of_a_model_of_gradients():
    """g_row = G + noise of variance 1: the estimates are unbiased, and the error is that of the signal."""
    rng = torch.Generator().manual_seed(0)
    mean, dims, rows = torch.ones(20) * 0.5, 20, 64
    found = torch.tensor([estimate(pieces_of(mean + torch.randn(rows, dims, generator=rng), 8)) for _ in range(400)])
    signal, spread, error = found.mean(0).tolist()
    assert signal == pytest.approx(float(mean @ mean), rel=0.03)
    assert spread == pytest.approx(dims, rel=0.03)
    assert error == pytest.approx(float(found[:, 0].std()), rel=0.2)


def test_noise_is_only_called_noise_where_it_is_seen_to_be():
    """10 times the rows must be sure: pure noise in many dimensions is, in two it is not."""
    rng = torch.Generator().manual_seed(0)

    def said(dims: int) -> Verdict:
        leg = Leg(0, "grpo", "language", gradients=(pieces_of(torch.randn(64, dims, generator=rng), 8),))
        return noise(leg, Flight("x", "language", (leg,))).verdict

    assert [said(100_000) for _ in range(5)] == [Verdict.WARN] * 5
    assert Verdict.WARN not in [said(2) for _ in range(5)]


def test_rank_correlation_within_groups():
    import numpy as np

    group = np.array([0, 0, 0, 1, 1, 1])
    x = np.array([1.0, 2, 3, 30, 20, 10])
    assert within(x, x, group) == pytest.approx(1.0)
    assert within(x, -x, group) == pytest.approx(-1.0)
    # Between groups both differ much; within them, not together.
    assert within(x, np.array([0.0, 0, 0, 9, 9, 9]), group) == 0.0
    assert within(np.array([1.0, 2, 3, 1, 2, 3]), np.array([1.0, 2, 3, 3, 2, 1]), group) == pytest.approx(0.0)


def test_surprise_is_in_standard_errors():
    """-log p is 0 or 2 in equal parts, the entropy 1: no surprise. With 3 in place of 2 it is 0.5 per step."""
    plain_ = -torch.tensor([[0.0, 2.0] * 50], dtype=torch.float64)
    own, flat = torch.ones(1, 100, dtype=torch.bool), torch.ones(1, 100, dtype=torch.float64)
    probe = Probe(own, plain_, plain_, plain_, flat, None, 1.0, repeated=True, tolerance=1e-7)
    assert surprise(probe) == pytest.approx(0.0)
    shifted = Probe(own, plain_, 1.5 * plain_, plain_, flat, None, 1.0, repeated=True, tolerance=1e-7)
    error = math.sqrt(1.5**2 * 100 / 99) / 10
    assert surprise(shifted) == pytest.approx(0.5 / error)


def test_tails_that_are_never_drawn_are_improbable():
    found = tails(torch.linspace(0.21, 1, 1000, dtype=torch.float64))
    assert found is not None
    q, seen, chance = found
    assert (q, seen) == (0.2, 0.0)
    assert chance < 1e-80
    even = tails(torch.linspace(0, 1, 1000, dtype=torch.float64))
    assert even is not None
    assert even[2] > 0.4
    assert tails(torch.rand(50)) is None


def test_tasks_are_compared_without_what_does_not_tell_them_apart():
    assert plain("What  is 2 + 2?\n") == plain(" What is\n2 + 2") == plain("What is 2 + 2")
    assert plain("What is 2 + 2") != plain("What is 2 - 2")
    assert plain("Polish it") != plain("polish it")


# -- the command -------------------------------------------------------------------------------------------------------
def test_the_command_prints_a_line_a_check_and_exits_1_on_a_fault(texts, tmp_path, command):
    path = tmp_path / "recipe.yaml"
    path.write_text(yaml.safe_dump(texts))
    called = command("check", path, "--batches", "1")
    assert called.code == 0
    for check in CHECKS:
        assert check.name in called.out
    assert "0 faults" in called.out
    called = command("check", path, "tasks.limit=2", "--batches", "1", "--json")
    assert called.code == 1
    shown = json.loads(called.out)
    (cut,) = [one for one in shown["findings"] if one["check"] == "truncated answers"]
    assert (cut["verdict"], shown["faults"]) == ("fault", 1)
    assert cut["measured"]["share"] > 0.5
    assert "tasks.limit" in cut["remedy"]
    assert not list(tmp_path.glob("runs*"))


def test_later_stages_are_judged_once_they_are_reached(texts, tmp_path, command):
    """A stage whose policy an earlier one trains says nothing of behaviour; in a run that stands there it does."""
    stages = [{**texts["stages"][0], "steps": 1}, {**texts["stages"][0], "steps": 2}]
    recipe = {**texts, "stages": stages, "evaluation": None, "checkpoint_every": 1}
    found = {(one.stage, one.check): one.said.verdict for one in findings(fly(recipe))}
    assert found[0, "truncated answers"] is Verdict.OK
    assert found[1, "truncated answers"] is Verdict.SKIPPED
    path = tmp_path / "recipe.yaml"
    path.write_text(yaml.safe_dump({**recipe, "stages": [stages[0], {**stages[1], "steps": 1}]}))
    assert command("train", path, "--folder", tmp_path / "run").code == 0
    (tmp_path / "run" / "checkpoints" / "round-00000002.ckpt").unlink()
    called = command("check", tmp_path / "run", "--json")
    shown = json.loads(called.out)
    assert [leg["stage"] for leg in shown["stages"]] == [1]
    (cut,) = [one for one in shown["findings"] if one["check"] == "truncated answers"]
    assert cut["verdict"] in ("ok", "fault")  # nobody taught this policy to end


@pytest.mark.parametrize("name", ["control/ppo_cartpole.yaml", "denoising/ddpo_points.yaml"])
def test_other_kinds_are_asked_what_applies_to_them(name):
    with build(load_recipe(Path(__file__).parents[2] / "recipes" / name)) as built:
        flight = flown(built, Sizes(batches=1, rows=32))
    found = {(one.stage, one.check): one.said.verdict for one in findings(flight)}
    assert Verdict.FAULT not in found.values()
    last = flight.legs[-1].index
    for check in (planted_faults.AGREES, planted_faults.RATIO, "sampling is reproducible", "gradient"):
        assert found[last, check] is Verdict.OK
    assert found[last, "EOS is learnable"] is found[last, "truncated answers"] is Verdict.SKIPPED
    assert found[None, "time, memory and tokens"] is Verdict.OK


def test_stages_that_go_back_are_flown_from_what_they_go_back_to(texts):
    one = texts["stages"][0]
    stages = [{**one, "name": "first"}, {**one, "name": "left"}, {**one, "start_from": "first"}]
    flight = fly({**texts, "stages": stages, "evaluation": None})
    assert [leg.index for leg in flight.legs] == [0, 1, 2]
    assert Verdict.FAULT not in verdicts(flight).values()


def test_planted_parts_are_themselves_sound(texts):
    """A cut that keeps everything and a heat of 1 are no faults: the faults are in the values."""
    for wrap in (lambda e: planted_faults.Cut(reports=True), lambda e: planted_faults.Heated(e, 1.0, reports=False)):
        found = verdicts(fly(texts, plant=planted_faults.engine(wrap), sizes=SMALL))
        assert found[planted_faults.AGREES] is found[planted_faults.FROM] is Verdict.OK
