"""Cloning and a reward learned from demonstrations: the identities of specification 235."""

from dataclasses import replace

import torch

from policyopt.compose import Program, Stage
from policyopt.engines.plain import generate
from policyopt.evaluation.experiments.horizons import imitation_horizon, narrow_path
from policyopt.evaluation.verify import build, claim_of
from policyopt.methods import load
from policyopt.methods.rl_view_of_rlhf import study
from policyopt.policies.tabular import Table
from policyopt.run import Run
from policyopt.train import rounds
from policyopt.types import Source
from policyopt.update.first import RECORDED, TrainedFirst
from policyopt.worlds.tables import RecordedEpisodes

KEY = "rl_view_of_rlhf"


def path(steps=3):
    mdp = narrow_path(steps, 0.1)
    expert = torch.zeros(mdp.states, 3)
    expert[torch.arange(mdp.states), torch.tensor([0, 1, 0]).repeat(steps + 1)] = 1.0
    return mdp, RecordedEpisodes(mdp, expert.clamp(min=1e-12), 5)


def trained(count, steps=3):
    mdp, world = path(steps)
    run = Run({"policy": Table(torch.zeros(mdp.states, 3))}, world, generate)
    method = replace(load(KEY), selection=replace(load(KEY).selection, count=16))
    return run, list(rounds(run, Program((Stage(method, count),))))


def test_the_discriminator_reads_own_rows_and_demonstrations():
    mdp, world = path()
    run = Run({"policy": Table(torch.zeros(mdp.states, 3))}, world, generate)
    method = load(KEY)
    stage = Stage(method, 1)
    run.enter(stage)
    from policyopt.run import StageContext

    ctx = StageContext(run, stage)
    (hook,) = method.before
    assert isinstance(hook, TrainedFirst)
    assert hook.authors == ("policy", RECORDED)
    own, shown = hook.rows(ctx, 0), hook.rows(ctx, 1)
    assert set(own.row["source"].tolist()) == {int(Source.POLICY)}
    assert set(shown.row["source"].tolist()) == {int(Source.DATASET)}
    assert (own.row["author"].unique().tolist(), shown.row["author"].unique().tolist()) == ([0], [1])
    # The expert never falls: every third state is that of who has fallen.
    assert not bool((shown.step["_state"] % 3 == 2).any())


def test_steps_that_no_demonstration_takes_are_charged():
    run, done = trained(12)
    odds = run.models["discriminator"].values.detach()[0]
    taken = {(int(s), int(a)) for one in done for s, a in zip(
        one.judged.step["_state"].flatten(), one.judged.step["_step"].flatten(), strict=True)}  # fmt: skip
    wrong = [odds[s, a] for s, a in taken if s % 3 == 0 and a == 2]
    right = [odds[s, a] for s, a in taken if s == 0 and a == 0]
    assert min(wrong) > max(right)
    assert float(run.models["policy"].logits.detach()[0].argmax()) == 0


def test_with_a_horizon_of_one_step_nobody_falls():
    """Cloning and reward optimisation have the same optimum; who strays at the last step is not punished."""
    for arm in study.groups()["5 steps"]:
        assert imitation_horizon(build(arm, KEY), 1_000_000, 2, steps=1).value == 0


def test_arms_have_equal_budgets_and_clone_alike_at_first():
    claim = claim_of(KEY)
    found = [imitation_horizon(build(arm, KEY), 1_000_000, 4, steps=5) for arm in (claim.treated, claim.baseline)]
    assert found[0].rows == found[1].rows
    assert found[0].curve[:2] == found[1].curve[:2]
    assert found[0].curve[2:] != found[1].curve[2:]
