"""AEPO: `reduces_to` of specification 51, each identity a test."""

from dataclasses import replace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from policyopt.compose import CompositionError, Program, Stage
from policyopt.engines.plain import generate
from policyopt.methods import load
from policyopt.options import override
from policyopt.policies.tabular import Table
from policyopt.reward.parts import Verified
from policyopt.run import Run
from policyopt.sampling.heated import ENTROPY, EntropyControlled
from policyopt.sampling.samplers import Group
from policyopt.train import _draw, _judge, rounds
from policyopt.types import Source
from policyopt.worlds.sequences import SequenceWorld
from support import close, context, method, numbers

pytestmark = pytest.mark.usefixtures("float64")

INJECTED = int(Source.INJECTED)


def world(share: int = 3) -> SequenceWorld:
    return SequenceWorld(6, 9, 2, lambda strings, task: (strings[:, 0] % share == task % share).double())


def trained(made, count=2, policy=None):
    run = Run({"policy": policy or Table(numbers(12, 9, seed=4))}, world(), generate, 0)
    return list(rounds(run, Program((Stage(made, count),)))), run


def small(**options):
    made = override(load("aepo_entropy"), {"selection.count": 6, "update.learning_rate": 0.1, **options})
    return made


def test_without_a_second_pass_it_is_grpo() -> None:
    aepo = small(**{"sampling.most": 0})
    grpo = override(replace(load("grpo"), constraint=(), roles=aepo.roles, models={}), {"selection.count": 6})
    grpo = override(grpo, {"update.learning_rate": 0.1})
    ours, theirs = trained(aepo)[1], trained(grpo)[1]
    assert isinstance(grpo.sampling, Group)
    close(ours.models["policy"].logits, theirs.models["policy"].logits)


def test_good_rows_of_the_second_pass_replace_as_many_and_get_one() -> None:
    done, _ = trained(small(**{"sampling.most": 5, "sampling.target": 9.0}))
    rows = done[1].credited
    injected = rows.row["source"] == INJECTED
    assert int(injected.sum()) == 5
    assert len(rows) == 48 + 5
    assert int(rows.trained.any(1).sum()) == 48
    close(rows.step["advantage"][injected], torch.ones(5, 2))
    close(rows.step["reward"][injected].sum(1), torch.ones(5))
    close(rows.row["temperature"], torch.ones(53))
    # The replaced rows stay in the statistics: advantages of a group's own rows add up to 0.
    own = rows[~injected]
    for group in own.row["group"].unique():
        close(own.step["advantage"][own.row["group"] == group][:, 0].sum(), 0.0)


def test_injected_rows_are_scored_at_temperature_one() -> None:
    """Ratio 1 at the first step, though the sampler's log-probability was tempered."""
    done, _ = trained(small(**{"sampling.target": 9.0}))
    kept = done[1].kept
    injected = kept.row["source"] == INJECTED
    assert int(injected.sum()) > 0
    gap = (kept.scores["old"].logp - kept.step["behaviour"])[injected]
    assert float(gap.abs().max()) > 0.05
    assert done[1].metrics["policy/ratio"] == pytest.approx(1.0)


@pytest.mark.parametrize(("entropy", "hot"), [(0.4, True), (0.5, True), (0.6, False), (None, False)])
def test_the_temperature_follows_the_last_entropy(entropy: float | None, hot: bool) -> None:
    """And above the target at most half of the good rows are taken."""
    part, seen = EntropyControlled(4, 4, 60, target=0.5), []

    def engine(policy, world, batch, keys, temperature, version, **pause):
        seen.append(temperature)
        return generate(policy, world, batch, keys, temperature, version, **pause)

    ctx = context(method(sampling=part, reward=Verified()), {"policy": Table(numbers(12, 9))}, world(), engine)
    ctx[ENTROPY] = entropy
    rows = part(ctx, _draw(ctx), _judge(ctx))
    assert seen == [1.0, 1.5 if hot else 0.6]
    taken = int((rows.row["source"] == INJECTED).sum())
    assert taken > 2
    full = replace(part, cold=1.5, hot=1.5)
    ctx = context(method(sampling=full, reward=Verified()), {"policy": Table(numbers(12, 9))}, world(), generate)
    ctx[ENTROPY] = 0.0
    if not hot:
        assert taken < int((full(ctx, _draw(ctx), _judge(ctx)).row["source"] == INJECTED).sum())


@pytest.mark.parametrize(("most", "found", "taken"), [(6, 9, 3), (60, 9, 4), (6, 3, 1)])
def test_above_the_target_half_of_what_may_be_taken_is(most: int, found: int, taken: int) -> None:
    """min(most, found) // 2, as in the release; not min(most, found // 2)."""
    part = EntropyControlled(4, 4, most, target=0.5)
    better = torch.arange(24) < found
    ctx = context(method(sampling=part, reward=Verified()), {"policy": Table(numbers(12, 9))}, world(), generate)
    ctx[ENTROPY] = 0.6
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(EntropyControlled, "ahead", lambda self, batch: better[: len(batch)])
        rows = part(ctx, _draw(ctx), _judge(ctx))
    assert int((rows.row["source"] == INJECTED).sum()) == taken


def test_the_entropy_is_that_of_the_round_before() -> None:
    done, run = trained(small(), 3)
    assert run.cells[ENTROPY.name] == done[-1].metrics["entropy"]


@given(st.integers(0, 60), st.sampled_from([0.5, 0.8, 1.25, 2.0]))
def test_the_auxiliary_direction_raises_entropy_when_hot(seed: int, heat: float) -> None:
    """All rewards 1: E_{pi^T}[grad log pi] = pi^T - pi by the logits, and a natural step along it changes the entropy
    by sum_a (pi^T - pi)(-log pi), which has the sign of T - 1."""
    logits = numbers(6, seed=seed).requires_grad_()
    tempered, plain = (logits / heat).softmax(-1).detach(), logits.softmax(-1).detach()
    (slope,) = torch.autograd.grad((tempered * logits.log_softmax(-1)).sum(), logits)
    close(slope, tempered - plain)
    change = ((tempered - plain) * -plain.log()).sum()
    assert float(change) * (heat - 1) > 0


def test_options_out_of_range_are_refused() -> None:
    for options in ({"extra": 0}, {"most": -1}, {"cold": 0.0}, {"hot": 0.5}):
        with pytest.raises(CompositionError):
            EntropyControlled(**options)
