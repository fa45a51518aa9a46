"""Studies: arms on the same seeds, what can be told apart, and the worlds they are run in."""

import json
from dataclasses import dataclass, replace

import pytest
import torch

from policyopt.claim import Arm, ClaimError, Study
from policyopt.evaluation import study as studies
from policyopt.evaluation.experiments._aligned import FeatureReward, Tilted, divergence, fitted, pair_loss, win_rate
from policyopt.evaluation.experiments._common import Outcome
from policyopt.evaluation.experiments.horizons import failure_rate, narrow_path
from policyopt.evaluation.study import SAME, finding, run_study, study_of
from policyopt.report.study import markdown
from policyopt.types import Tasks
from policyopt.worlds.sequences import bandit
from policyopt.worlds.tables import RecordedEpisodes

SMALL = Study(
    question="Which is higher?",
    experiment="preference_bandit",
    observable="a number",
    higher_is_better=True,
    smallest_effect=0.5,
    arms=tuple(Arm("dpo", {}, {"level": level}, label) for label, level in (("a: low", 0.0), ("a: high", 1.0))),
    rounds=3,
)


@dataclass
class Numbers:
    """An experiment whose values are told: the level, and noise that is shared by the arms of a seed."""

    noise: float = 1.0

    def __call__(self, method, seed, rounds, level):
        value = level + self.noise * seed
        return Outcome(value, value, 10 * rounds, (value,), "level", {"seed": float(seed)})


def ran(monkeypatch, asked, experiment, **options):
    monkeypatch.setattr(studies, "experiment_of", lambda claim: experiment)
    monkeypatch.setattr(studies, "study_of", lambda key: asked)
    return run_study("dpo", **options)


def test_arms_are_paired_by_seed(monkeypatch):
    """Seeds differ by far more than arms do, and by the same in both."""
    found = ran(monkeypatch, SMALL, Numbers(100.0))
    assert [arm["mean"] for arm in found["arms"]] == [200.0, 201.0]
    (said,) = found["differences"]
    assert said["difference"] == pytest.approx(-1.0)
    assert said["finding"] == "a: high is better"
    assert found["arms"][0]["rows"] == 30
    assert found["arms"][0]["notes"] == {"seed": 2.0}
    page = markdown(json.loads(json.dumps(found)), "Title")
    assert "| a: low | 200.000 [" in page
    assert "a: low - a: high: -1.000 [-1.000, -1.000]: a: high is better" in page


def test_only_arms_of_a_group_are_compared_and_equal_ones_are_not_told_apart(monkeypatch):
    arms = (*SMALL.arms, *(replace(arm, label=f"b{arm.label[1:]}", given={"level": 0.0}) for arm in SMALL.arms))
    found = ran(monkeypatch, replace(SMALL, arms=arms), Numbers(), seeds=3)
    assert [(said["first"], said["second"]) for said in found["differences"]] == [
        ("a: low", "a: high"), ("b: low", "b: high"),
    ]  # fmt: skip
    assert found["differences"][1]["finding"] == SAME
    assert found["seeds"] == 3


@pytest.mark.parametrize(
    ("low", "high", "said"),
    [(-1, 1, SAME), (0, 1, SAME), (0.6, 1, "x is better"), (0.1, 1, "x is better, perhaps by less than 0.5"),
     (-2, -0.7, "y is better"), (-2, -0.1, "y is better, perhaps by less than 0.5")],
)  # fmt: skip
def test_findings_are_read_from_intervals(low, high, said):
    assert finding("x", "y", low, high, 0.5) == said


def test_studies_that_compare_nothing_are_refused():
    with pytest.raises(ClaimError, match="two arms or more"):
        replace(SMALL, arms=SMALL.arms[:1])
    with pytest.raises(ClaimError, match="different names"):
        replace(SMALL, arms=(SMALL.arms[0], SMALL.arms[0]))
    with pytest.raises(ClaimError, match=r"'grpo' has no study; there are \[.*'online_offline_gap'"):
        study_of("grpo")


# -- the worlds --------------------------------------------------------------------------------------------------------
def test_a_bradley_terry_model_is_fitted_where_its_loss_is_flat():
    generator = torch.Generator().manual_seed(0)
    better, worse = torch.randn(60, 4, generator=generator), torch.randn(60, 4, generator=generator)
    weights = fitted(better, worse).double().requires_grad_()
    pair_loss(weights, better, worse).backward()
    assert float(weights.grad.abs().max()) < 1e-3


def test_win_rates_and_divergences_are_those_of_hand():
    gold = torch.tensor([[0.0, 1.0]])
    first, second = torch.tensor([[0.25, 0.75]]), torch.tensor([[0.5, 0.5]])
    ahead = 1 / (1 + torch.e**-1)
    expected = 0.25 * 0.5 * 0.5 + 0.25 * 0.5 * (1 - ahead) + 0.75 * 0.5 * ahead + 0.75 * 0.5 * 0.5
    assert win_rate(first, second, gold) == pytest.approx(expected)
    assert win_rate(first, second, gold) + win_rate(second, first, gold) == pytest.approx(1.0)
    assert divergence(first, second) == pytest.approx(0.25 * torch.tensor(0.5).log() + 0.75 * torch.tensor(1.5).log())


def test_a_tilted_policy_begins_as_its_base_and_says_what_it_samples():
    features, base = torch.randn(2, 3, 4), torch.randn(2, 3)
    policy, world = Tilted(features, base), bandit(torch.zeros(2, 3))
    torch.testing.assert_close(policy.logits, base)
    policy.weights.data = torch.randn(4)
    rows = world.complete(world.tasks(torch.tensor([0, 1])), torch.tensor([[2], [0]]))
    expected = (base + features @ policy.weights).log_softmax(1)
    said = policy.score(rows).logp[:, 0]
    torch.testing.assert_close(said, torch.stack([expected[0, 2], expected[1, 0]]))
    reward = FeatureReward(features)
    reward.weights.data = torch.ones(4)
    torch.testing.assert_close(reward.worth(rows), torch.stack([features[0, 2].sum(), features[1, 0].sum()]))


def test_failing_on_a_narrow_path_is_what_can_be_counted_by_hand():
    """Always ahead: aside with 10% at each of the first steps, where going ahead falls."""
    mdp = narrow_path(3, 0.1)
    ahead, expert, lost = (torch.zeros(mdp.states, 3) for _ in range(3))
    ahead[:, 0] = 1.0
    expert[torch.arange(mdp.states), torch.tensor([0, 1, 0]).repeat(4)] = 1.0
    lost[:, 2] = 1.0
    # Slips of the last step are not punished any more.
    assert failure_rate(mdp, 3, ahead) == pytest.approx(1 - 0.9**2)
    assert failure_rate(mdp, 3, expert) == 0
    assert failure_rate(mdp, 3, lost) == 1


def test_a_demonstration_that_is_drawn_twice_is_one_demonstration():
    mdp = narrow_path(6, 0.5)
    world = RecordedEpisodes(mdp, torch.full((mdp.states, 3), 1 / 3), 8)
    rows = world.recorded(Tasks(torch.tensor([2, 0, 2, 1, 2, 0, 3, 4, 5, 6, 7])))
    states = rows.step["_state"].tolist()
    assert states[0] == states[2] == states[4]
    assert states[1] == states[5]
    assert len({str(row) for row in states}) > 1
