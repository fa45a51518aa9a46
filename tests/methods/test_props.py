"""PROPS: `reduces_to` of specification 137, each identity a test."""

from dataclasses import replace

import pytest
import torch

from policyopt.compose import Program, Role, Stage, Term
from policyopt.engines.plain import generate
from policyopt.methods import load
from policyopt.objective.surrogates import ClippedSurrogate
from policyopt.options import override
from policyopt.policies.tabular import Table
from policyopt.run import Run
from policyopt.sampling.collected import RECENT, UnderSampled
from policyopt.sampling.samplers import Group
from policyopt.train import rounds
from policyopt.types import Tasks
from policyopt.update.apart import Apart
from policyopt.update.averaging import TokenMean
from policyopt.update.gradient import GradientSteps
from policyopt.update.optimizers import SGD
from policyopt.update.stopping import ApproximateKL
from policyopt.worlds.sequences import SequenceWorld, bandit
from support import close, context, numbers

pytestmark = pytest.mark.usefixtures("float64")

WORTH = numbers(3, 4, seed=5)


def world() -> SequenceWorld:
    return bandit(WORTH)


def run_of(made, count: int = 1, seed: int = 0):
    run = Run({"policy": Table(numbers(3, 4, seed=1))}, world(), generate, seed)
    done = list(rounds(run, Program((Stage(made, count),))))
    return run, done


def small(**changes):
    rates = {"selection.count": 8, "update.minibatches": 2, "update.optimizers.policy.learning_rate": 0.1}
    return override(load("props"), {**rates, "update.optimizers.critic.learning_rate": 0.1, **changes})


def test_without_behaviour_updates_and_with_one_batch_it_is_ppo() -> None:
    made = replace(small(), sampling=UnderSampled(batches=1, pieces=1, model="policy"))
    run, done = run_of(made, 3)
    other, again = run_of(replace(made, sampling=Group(size=1)), 3)
    assert made.objective == load("ppo").objective
    close(run.models["policy"].logits, other.models["policy"].logits, 0.0)
    assert [len(d.judged) for d in (*done, *again)] == [8] * 6
    assert float((run.models["policy"].logits.detach() - numbers(3, 4, seed=1)).abs().max()) > 0.01


def adapted(clip: float, rate: float, steps: int, stop=None, count: int = 6):
    """The sampler after some steps on rows of task 0 that all took choice 0 or 1."""
    term = Term("rarer", ClippedSurrogate(clip, clip), TokenMean(), trains="sampler")
    update = GradientSteps({"sampler": SGD(rate)}, epochs=steps, clip_norm=None, stop=stop)
    roles = {"policy": Role("sampler", grad=True), "old": Role(when="collected")}
    made = replace(load("props"), sampling=UnderSampled(adapt=Apart((term,), update, roles)))
    logits = numbers(3, 4, seed=1)
    ctx = context(made, {"policy": Table(logits), "sampler": Table(logits)}, world())
    strings = (torch.arange(count) % 3 == 0).long()[:, None]
    rows = world().complete(Tasks(torch.zeros(count, dtype=torch.int64)), strings)
    rows = rows.with_steps({"advantage": -torch.ones(count, 1)})
    made.sampling.adapt(ctx, rows)
    return logits, ctx, rows


def test_the_first_step_descends_the_likelihood_of_the_buffer() -> None:
    """ROS: at phi = theta the gradient is mean_D grad log pi_theta."""
    logits, ctx, rows = adapted(0.3, 0.5, 1)
    free = logits.clone().requires_grad_()
    (slope,) = torch.autograd.grad(Table(free).score(rows).logp.mean(), [free], allow_unused=True)
    table = Table(logits)
    table.score(rows).logp.mean().backward()
    close(ctx.models["sampler"].logits, logits - 0.5 * table.logits.grad)
    close(ctx.models["policy"].logits, logits, 0.0)
    assert slope is None


def test_nothing_is_pushed_below_the_clip() -> None:
    """Steps go on until every ratio of the buffer is just below 1 - e; there the gradient is 0."""
    logits, ctx, rows = adapted(0.3, 0.5, 150)
    ratio = (ctx.models["sampler"].score(rows).logp - Table(logits).score(rows).logp).exp()
    assert float(ratio.detach().max()) < 0.7
    assert float(ratio.detach().min()) > 0.55


def test_updates_stop_at_the_divergence_that_is_allowed() -> None:
    logits, ctx, rows = adapted(0.9, 0.2, 500, ApproximateKL(0.01))
    change = (ctx.models["sampler"].score(rows).logp - Table(logits).score(rows).logp).detach()
    far = float((change.exp() - 1 - change).mean())
    assert 0.01 < far < 0.05


def test_rows_of_the_last_batches_are_trained_on_with_present_log_probabilities() -> None:
    made = small(**{"sampling.batches": 3, "sampling.pieces": 2, "sampling.adapt.epochs": 2})
    run, done = run_of(made, 4)
    assert [len(d.judged) for d in done] == [8, 16, 24, 24]
    last = done[3].kept
    assert sorted(set((last.row["group"] >> 20).tolist())) == [1, 2, 3]
    assert [len(batch) for batch in run.cells[RECENT.name]] == [8, 8]
    # `old` is the policy before the update of this round, for old rows too.
    assert "old" in last.scores
    again, _ = run_of(made, 4)
    close(run.models["policy"].logits, again.models["policy"].logits, 0.0)


def test_the_next_piece_takes_what_is_missing() -> None:
    """A policy of two equal choices: adapted rows balance within a few draws, free ones wander."""
    table = torch.zeros(1, 2)
    changes = {"selection.count": 32, "sampling.pieces": 8, "sampling.adapt.learning_rate": 0.3}
    still = small(**changes, **{"update.optimizers.policy.learning_rate": 0.0})
    gaps = {}
    for name, made in (("adapted", still), ("free", replace(still, sampling=UnderSampled(1, 2, 8)))):
        counts = []
        for seed in range(4):
            run = Run({"policy": Table(table)}, bandit(torch.zeros(1, 2)), generate, seed)
            (done,) = rounds(run, Program((Stage(made, 1),)))
            counts.append(abs(float(done.judged.step["_step"].double().mean()) - 0.5))
        gaps[name] = sum(counts)
    assert gaps["adapted"] < 0.6 * gaps["free"]
