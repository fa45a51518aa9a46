"""B2-DiffuRL: `reduces_to` of specification 160, each identity a test."""

from dataclasses import replace

import pytest
import torch

from chains import TASKS, denoiser, one_step, world
from policyopt.compose import Chain, Program, Stage
from policyopt.credit.history import SignWeighted, TaskStandardised
from policyopt.engines.plain import generate
from policyopt.methods import load
from policyopt.run import Run
from policyopt.sampling.branches import Branched
from policyopt.sampling.progress import BackwardProgress
from policyopt.sampling.samplers import Group
from policyopt.selection.extremes import ClearExtremes
from policyopt.selection.tasks import Selection
from policyopt.train import rounds
from support import close

pytestmark = pytest.mark.usefixtures("float64")


def small(first: int = 2, last: int = 5, branches: int = 5, high: float = 0.5, low: float = -0.5, count: int = TASKS):
    made = load("b2_diffurl")
    return replace(
        made,
        selection=Selection(count, rows=ClearExtremes(high, low)),
        sampling=Branched(BackwardProgress(first, last, 8), branches),
    )


def test_all_steps_one_branch_and_no_thresholds_is_ddpo() -> None:
    """Every sample is kept exactly once: z >= 0 as the best, z < 0 as the worst of its branch group of one."""
    made = small(5, 5, 1, 0.0, 0.0, count=2 * TASKS)
    ddpo = replace(
        load("ddpo"),
        selection=Selection(2 * TASKS),
        sampling=Group(1),
        credit=TaskStandardised(past=8, bound=5.0),
        objective=made.objective,
    )
    ours, theirs = (one_step(m, denoiser(), world(denoiser(), size=TASKS)) for m in (made, ddpo))
    assert len(ours.round.kept) == 2 * TASKS
    assert float(theirs.gradient.abs().max()) > 1e-3
    # The stem is the draw of the initial noise: a stream of its own, so samples differ unless it is the same.
    same = replace(ddpo, sampling=made.sampling)
    close(ours.gradient, one_step(same, denoiser(), world(denoiser(), size=TASKS)).gradient)


def test_equal_rewards_keep_nothing() -> None:
    policy = denoiser()
    done = one_step(small(), policy, world(policy, lambda points, task: torch.ones(len(points))))
    assert len(done.round.kept) == 0
    assert float(done.gradient.abs().max()) == 0.0


def test_branches_are_equal_before_the_interval_and_only_it_is_trained() -> None:
    policy = denoiser()
    batch = one_step(small(2), policy, world(policy)).round.judged
    for g in batch.row["group"].unique():
        rows = batch.row["group"] == g
        stem, rest = batch.step["_next"][rows, :4], batch.step["_next"][rows, 4:]
        assert bool((stem == stem[0]).all())
        assert len(rest.flatten(1).unique(dim=0)) == 5
    assert not batch.trained[:, :4].any()
    # The last transition of a flow is deterministic: of the last two, one is trained.
    assert batch.trained[:, 4].all()
    assert not batch.trained[:, 5].any()


def test_gradient_reaches_no_step_of_the_stem() -> None:
    """Whatever the network says at the stem's times, the gradient is the same."""
    found = []
    for nudge in (0.0, 1.0):
        policy = denoiser()
        batch = one_step(small(2, 2), policy, world(policy)).round.kept
        fresh = denoiser()
        shifted = batch.with_steps(
            {"_next": torch.where(batch.trained[..., None], batch.step["_next"], batch.step["_next"] + nudge)}
        )
        scored = fresh.score(shifted).logp
        torch.where(batch.trained, scored, 0.0).sum().backward()
        found.append(torch.cat([p.grad.flatten() for p in fresh.parameters() if p.grad is not None]))
    close(found[0], found[1])


def test_the_interval_grows_to_the_whole_chain() -> None:
    """m_j = m_0 + floor(j (m_max - m_0 + 1) / J), written out for m_0 = 14, m_max = 20, J = 100."""
    progress = load("b2_diffurl").sampling.stem
    found = [progress.interval(j) for j in (0, 14, 15, 28, 29, 85, 86, 99, 500)]
    assert found == [14, 14, 15, 15, 16, 19, 20, 20, 20]
    policy = denoiser()
    run = Run({"policy": policy}, world(policy), generate, 0)
    stems = [int(done.judged.row["stem"][0]) for done in rounds(run, Program((Stage(small(), 8),)))]
    assert stems == [4, 4, 3, 3, 2, 2, 1, 1]


def test_clear_best_and_worst_of_every_branch_group_are_kept() -> None:
    policy = denoiser()
    done = one_step(small(high=1.0, low=-0.7), policy, world(policy)).round
    z = done.credited.step["advantage"][:, 0]
    expected = []
    for g in done.credited.row["group"].unique():
        rows = (done.credited.row["group"] == g).nonzero()[:, 0].tolist()
        best, worst = max(rows, key=lambda b: z[b]), min(rows, key=lambda b: z[b])
        expected += [b for b, keep in ((best, z[best] >= 1.0), (worst, z[worst] < -0.7)) if keep]
    close(done.kept.step["advantage"][:, 0].sort().values, z[sorted(expected)].sort().values)
    assert 0 < len(expected) < 2 * TASKS


def test_weights_of_signs() -> None:
    made = small()
    weighted = replace(made, credit=Chain((made.credit.parts[0], SignWeighted(2.0, 0.5))))
    plain, heavy = (one_step(m, denoiser(), world(denoiser())).round.credited for m in (made, weighted))
    a = plain.step["advantage"]
    close(heavy.step["advantage"], torch.where(a > 0, 2 * a, 0.5 * a))
