"""One loss in three regimes of data: the identities of specification 217."""

from dataclasses import replace

import pytest
import torch

from policyopt.compose import Program, Stage
from policyopt.engines.plain import generate
from policyopt.evaluation.experiments.alignment import _pairs_of, preference_regimes
from policyopt.evaluation.verify import build, claim_of
from policyopt.methods import load
from policyopt.methods.online_offline_gap import study
from policyopt.options import override
from policyopt.policies.tabular import Table
from policyopt.run import Run
from policyopt.train import rounds
from policyopt.worlds.sequences import SequenceWorld

pytestmark = pytest.mark.usefixtures("float64")


def compared(choices=3, size=2):
    """The larger number is always preferred."""
    return SequenceWorld(
        size, choices, 1, lambda s, t: torch.zeros(len(t)), compare=lambda a, b, t: (a[:, 0] > b[:, 0]).double()
    )


def trained(steps, changes=None):
    options = {"selection.count": 8, "update.learning_rate": 0.1, "update.schedule": "constant", **(changes or {})}
    run = Run({"policy": Table(torch.zeros(2, 3))}, compared(), generate, 1)
    return run, list(rounds(run, Program((Stage(override(load("online_offline_gap"), options), steps),))))


def test_the_first_loss_is_the_squared_target():
    """At pi = pi_ref every rho is 0, so L = (1 / (2 beta))^2."""
    for beta in (0.1, 0.5):
        _, done = trained(1, {"objective.beta": beta})
        assert done[0].metrics["loss/preference"] == pytest.approx((1 / (2 * beta)) ** 2)


def test_pairs_are_fresh_and_labelled_by_who_is_preferred():
    run, done = trained(6)
    for one in done:
        rows = one.kept
        chosen, rejected = (rows.step["_step"][rows.row["rank"] == rank, 0] for rank in (0, 1))
        pair = [rows.row["pair"][rows.row["rank"] == rank].argsort() for rank in (0, 1)]
        assert bool((chosen[pair[0]] >= rejected[pair[1]]).all())
    assert int(run.models["policy"].logits.detach().sum(0).argmax()) == 2


def test_what_was_trained_on_is_read_back_as_pairs():
    _, done = trained(3)
    pairs, tasks = _pairs_of([one.kept for one in done])
    assert len(pairs) == 3 * 8
    assert bool((pairs[:, 0] >= pairs[:, 1]).all())
    assert set(tasks.tolist()) <= {0, 1}


def test_regimes_read_as_many_rows_and_replay_reads_the_online_pairs():
    claim = claim_of("online_offline_gap")
    small = replace(build(claim.treated, "online_offline_gap"), selection=replace(load("dpo").selection, count=8))
    small = replace(small, selection=replace(small.selection, rows=load("online_offline_gap").selection.rows))
    found = {data: preference_regimes(small, 1_000_000, 3, data=data) for data in ("online", "offline", "replay")}
    assert len({outcome.rows for outcome in found.values()}) == 1
    assert all(len(outcome.curve) == 3 for outcome in found.values())
    assert found["replay"].value != found["offline"].value
    assert len(study.groups()) == 3
