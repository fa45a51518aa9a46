"""DR-PO: `reduces_to` of specification 38, each identity a test."""

from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch

from asked import as_group, asking, sampled
from policyopt.compose import CompositionError, Program, Stage
from policyopt.engines.plain import generate
from policyopt.methods import load
from policyopt.options import override
from policyopt.policies.tabular import Table
from policyopt.run import Run
from policyopt.sampling.resets import ResetGroup
from policyopt.train import rounds
from policyopt.types import Source, StepKind
from policyopt.worlds.sequences import SequenceWorld
from support import close, numbers

pytestmark = pytest.mark.usefixtures("float64")

SHOWN = torch.tensor([[1, 2, 0, 1, 2], [2, 2, 1, 0, 0], [1, 1, -1, -1, -1], [0, 1, 2, 2, 1]])


def keys(limit=5):
    return SequenceWorld(
        4, 3, limit, lambda s, t: (s == SHOWN[t][:, : s.shape[1]]).double().mean(1), recordings=SHOWN[:, :limit]
    )


def policy(limit=5):
    return Table(numbers(4 * limit, 3, seed=2))


def test_without_resets_it_is_a_plain_group() -> None:
    """Same rows, bit for bit; and the method is PPO with the penalty in the reward."""
    as_group(ResetGroup(0.0, 3), 3)
    made, ppo = load("dr_po"), load("ppo")
    assert made.credit == ppo.credit
    assert made.objective[0] == ppo.objective[0]


def test_resets_begin_as_the_data_and_are_not_trained() -> None:
    rows = sampled(asking(ResetGroup(1.0, 50), keys(), policy()))
    hint = rows.step["kind"] == StepKind.HINT
    assert bool(hint[:, 0].all())  # every recorded row here has at least two steps
    shown = SHOWN[rows.row["task"]]
    assert torch.equal(rows.step["_step"][hint], shown[hint])
    assert not bool((rows.trained & hint).any())
    assert bool((rows.trained == (rows.own)).all())
    close(rows.valid.sum(1), torch.full((200,), 5))
    assert bool((rows.row["source"] == Source.POLICY).all())


def test_lengths_of_prefixes_are_uniform_and_leave_a_step() -> None:
    rows = sampled(asking(ResetGroup(1.0, 2000), keys(), policy(), count=4))
    length = (rows.step["kind"] == StepKind.HINT).sum(1)
    for task in (0, 1, 3):
        share = torch.bincount(length[rows.row["task"] == task], minlength=5) / 2000
        close(share, [0, 0.25, 0.25, 0.25, 0.25], 0.04)
    assert length[rows.row["task"] == 2].unique().tolist() == [1]  # its recorded row has two steps
    half = sampled(asking(ResetGroup(0.3, 2000), keys(), policy(), count=4))
    reset = (half.step["kind"] == StepKind.HINT).any(1).double().mean()
    assert float(reset) == pytest.approx(0.3, abs=0.02)


def test_recorded_rows_of_one_step_are_not_used() -> None:
    rows = sampled(asking(ResetGroup(1.0, 5), keys(1), policy(1)))
    assert bool(rows.own.all())


def trained(share, seed=0, table=None, rounds_=1):
    made = override(load("dr_po"), {"selection.count": 4, "sampling.size": 4, "sampling.share": share})
    rates = {f"update.optimizers.{name}.learning_rate": 0.05 for name in ("policy", "critic")}
    made = override(made, rates)
    run = Run({"policy": table or policy()}, keys(), generate, seed)
    done = list(rounds(run, Program((Stage(made, rounds_),))))
    return done, run


def test_states_that_are_only_forced_are_not_moved() -> None:
    """At share 1 the first step of every row is forced: its preferences, and its value, stay."""
    before = policy().logits.detach().clone()
    _, run = trained(1.0, rounds_=3)
    first = torch.arange(4) * 5
    close(run.models["policy"].logits[first], before[first])
    close(run.models["critic"].values[first], torch.zeros(4))
    others = torch.tensor([3, 4, 8, 9, 18, 19])
    assert float((run.models["policy"].logits[others] - before[others]).detach().abs().max()) > 1e-3


def test_advantages_are_those_of_the_generated_steps() -> None:
    """GAE with gamma 1, lambda 0.95 by hand from the reward at the end, over t > h; critic at 0, reference equal."""
    done, _ = trained(1.0)
    rows = done[0].credited
    raw = torch.zeros(len(rows), 5)
    for b in range(len(rows)):
        steps = rows.own[b].nonzero()[:, 0].tolist()
        for back, t in enumerate(reversed(steps)):
            raw[b, t] = 0.95**back * float(rows.step["reward"][b].sum())
    own = raw[rows.own]
    expected = (own - own.mean()) / (own.std() + 1e-8)
    close(rows.step["advantage"][rows.own], expected)
    close(rows.step["return"][rows.own], own)


def test_the_reward_sees_the_whole_row() -> None:
    done, _ = trained(1.0)
    rows = done[0].judged
    close((rows.step["reward"] * rows.own).sum(1), keys().grade(rows))


def test_losses_of_the_paper() -> None:
    made = load("dr_po")
    assert made.terms[1].weight == 0.1
    assert made.terms[1].loss.clip == 0.2
    assert made.update.epochs == 4
    assert made.reward.parts[1].beta == 0.05


def test_refusals() -> None:
    with pytest.raises(CompositionError, match="share"):
        ResetGroup(1.2)
    world = SimpleNamespace(**{name: getattr(keys(), name) for name in ("size", "tasks", "start", "recorded", "grade")})
    with pytest.raises(CompositionError, match="rewind"):
        sampled(asking(ResetGroup(1.0), world, policy()))
    assert replace(ResetGroup(), share=0.5).data == "rows"
