"""Best-of-n imitation by whoever writes the samples: the identities of specification 141."""

import pytest
import torch

from policyopt.compose import Program, Stage
from policyopt.engines.plain import generate
from policyopt.evaluation.experiments.alignment import relocated_peak
from policyopt.evaluation.verify import build, claim_of
from policyopt.methods import load
from policyopt.methods.suboptimal_onpolicy import study
from policyopt.options import override
from policyopt.policies.tabular import Table
from policyopt.run import Run
from policyopt.train import rounds
from policyopt.worlds.sequences import bandit

pytestmark = pytest.mark.usefixtures("float64")
RATE = {"update.schedule": "constant", "update.learning_rate": 0.3, "update.clip_norm": None}


def trained(changes, steps=3, seed=0):
    run = Run({"policy": Table(torch.zeros(2, 4))}, bandit(torch.arange(8.0).view(2, 4)), generate, seed)
    made = override(load("suboptimal_onpolicy"), {"selection.count": 2, **RATE, **changes})
    return run, list(rounds(run, Program((Stage(made, steps),))))


def test_only_the_best_of_a_group_is_imitated():
    """One update moves each task's best sampled answer up and no other above it."""
    run, (done,) = trained({"sampling.size": 4}, steps=1)
    logits = run.models["policy"].logits.detach()
    for task in range(2):
        taken = done.judged.step["_step"][done.judged.row["task"] == task, 0]
        best = int(taken.max())
        if int(taken.min()) < best:
            assert int(logits[task].argmax()) == best
            others = torch.cat([logits[task, :best], logits[task, best + 1 :]])
            torch.testing.assert_close(others, others[:1].expand(3))


def test_before_the_first_update_both_writers_are_the_same():
    """K = 1 inner step: samples of the first policy are those of the present one as long as it is the first one."""
    own, first = (trained({"sampling.model": name}, steps=1)[1][0].judged for name in ("policy", "reference"))
    assert len(own) == len(first) == 20
    run, done = trained({"sampling.model": "reference"}, steps=4)
    kept = run.models["reference"].logits.detach()
    assert torch.equal(kept, torch.zeros(2, 4))
    assert not torch.equal(run.models["policy"].logits.detach(), kept)
    # Behaviour is what the writer says, uniform to the last round.
    torch.testing.assert_close(done[-1].judged.step["behaviour"], torch.full((20, 1), 0.25).log())


def test_groups_of_equal_rewards_teach_nothing():
    run = Run({"policy": Table(torch.zeros(1, 4))}, bandit(torch.ones(1, 4)), generate)
    done = next(rounds(run, Program((Stage(override(load("suboptimal_onpolicy"), {"selection.count": 1}), 1),))))
    assert done.metrics["kept_rows"] == 0
    assert torch.equal(run.models["policy"].logits.detach(), torch.zeros(1, 4))


def test_arms_have_equal_budgets_and_begin_alike():
    claim = claim_of("suboptimal_onpolicy")
    outcomes = [relocated_peak(build(arm), 1_000_000, 2, **arm.given) for arm in (claim.treated, claim.baseline)]
    assert outcomes[0].rows == outcomes[1].rows == 2 * 80
    start = "expected reward of the reference"
    assert outcomes[0].notes[start] == outcomes[1].notes[start]
    assert list(study.groups()) == ["far peak", "near peak"]
