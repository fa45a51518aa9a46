"""URPO: `reduces_to` of specification 18, each identity a test."""

from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from policyopt.compose import CompositionError, Copy, Program, Stage
from policyopt.engines.plain import generate
from policyopt.evaluation.experiments._referees import LEVELS, Items
from policyopt.methods import load
from policyopt.options import override
from policyopt.policies.tabular import Table
from policyopt.reward.parts import Verified
from policyopt.reward.referee import Refereed, rank_agreement
from policyopt.run import Run
from policyopt.selection.kinds import OfKinds
from policyopt.selection.tasks import Selection
from policyopt.train import rounds
from policyopt.types import Tasks
from policyopt.update.gradient import GradientSteps
from policyopt.update.optimizers import SGD
from support import close, context, method, numbers

pytestmark = pytest.mark.usefixtures("float64")


def world(players=3):
    return Items(torch.linspace(0, 1, 8), torch.tensor([[0, 7], [3, 2], [5, 1], [6, 4]]), players)


def policy(sharp=1.0, players=3):
    return Table(sharp * numbers(players + 8, 8, seed=1))


@settings(max_examples=30)
@given(st.integers(0, 100), st.integers(2, 5))
def test_rank_agreement_is_kendalls_tau(seed: int, count: int) -> None:
    rng = torch.Generator().manual_seed(seed)
    scores = torch.randint(4, (6, count), generator=rng).double()
    true = torch.rand(6, count, generator=rng, dtype=torch.float64)
    for b in range(6):
        total = 0
        for i in range(count):
            for j in range(i + 1, count):
                ds, dt = float(scores[b, i] - scores[b, j]), float(true[b, i] - true[b, j])
                total += ((ds > 0) - (ds < 0)) * ((dt > 0) - (dt < 0))
        close(rank_agreement(scores, true)[b], 2 * total / count / (count - 1))


def test_two_candidates_are_right_wrong_or_tied_and_unreadable_scores_are_wrong() -> None:
    scores = torch.tensor([[0.5, 0.1], [0.1, 0.5], [0.3, 0.3], [float("nan"), 0.2]])
    close(rank_agreement(scores, torch.tensor([[0.9, 0.2]]).expand(4, 2)), [1.0, -1.0, 0.0, -1.0])


def played(made, of, models=None, seed=0, items=None):
    run = Run({"policy": of, **(models or {})}, items or world(), generate, seed)
    return list(rounds(run, Program((Stage(made, 1),)))), run


def small(kinds=("preference", "open"), calls=2, model="policy"):
    made = load("urpo")
    made = replace(made, reward=replace(made.reward, parts=(Verified(), Refereed(calls, model))), constraint=())
    update = GradientSteps({"policy": SGD(1.0)}, clip_norm=None)
    sampling = replace(made.sampling, size=4)
    return replace(made, selection=Selection(6, OfKinds(kinds)), sampling=sampling, update=update)


def test_without_preference_and_open_tasks_it_is_grpo_with_the_rule() -> None:
    """Only pairs, whose reward is the world's rule here."""
    made, ours, theirs = small(("preference",)), policy(), policy()
    played(made, ours)
    played(replace(made, reward=Verified()), theirs)
    close(ours.logits, theirs.logits)
    assert float((ours.logits.detach() - policy().logits.detach()).abs().max()) > 1e-2


def test_a_sure_referee_gives_the_score_of_the_item_whatever_the_order() -> None:
    """A table that scores item c with level c LEVELS / 8: rewards are these levels."""
    sure = policy()
    with torch.no_grad():
        sure.logits[3:] = 60.0 * torch.eye(8)
    (done,), _ = played(small(("open",), calls=3), sure)
    batch = done.judged
    item = batch.step["_step"][:, 0]
    close(batch.step["reward"].sum(1), (item * LEVELS // 8) / (LEVELS - 1))
    assert len(item.unique()) > 1


def test_rewards_are_the_mean_over_calls_of_what_the_referee_rows_say() -> None:
    """The referee's rows caught: one per group and call, each a permutation of the group's items."""
    caught = []

    class Watched(Items):
        def scores(self, batch):
            found = super().scores(batch)
            caught.append((batch, found))
            return found

    plain = world()
    (done,), _ = played(small(("open",), calls=2), policy(), items=Watched(plain.quality, plain.pairs, plain.players))
    rows, said = caught[-1]
    batch = done.judged
    assert len(rows) == 2 * len(batch.row["group"].unique())
    reward = batch.step["reward"].sum(1)
    for group in batch.row["group"].unique():
        mine = batch.row["group"] == group
        items = batch.step["_step"][mine, 0]
        calls = (rows.row["group"] == group).nonzero()[:, 0].tolist()
        total = 0.0
        for call in calls:
            order = (rows.step["_state"][call] - 3).tolist()
            assert sorted(order) == sorted(items.tolist())
            total += float(said[call].sum())
        assert float(reward[mine].sum()) == pytest.approx(total / len(calls))


def test_with_a_frozen_referee_it_is_grpo_with_a_generative_reward_model() -> None:
    """The copy judges; the policy's own scores are not asked."""
    sure, other = policy(), policy()
    with torch.no_grad():
        other.logits[3:] = 60.0 * torch.eye(8).flip(1)
    made = small(("open",), model="judge")
    made = replace(made, models={**made.models, "judge": Copy()})
    (done,), _ = played(made, sure, {"judge": other})
    item = done.judged.step["_step"][:, 0]
    close(done.judged.step["reward"].sum(1), ((7 - item) * LEVELS // 8) / (LEVELS - 1))


def test_referee_rows_are_not_trained() -> None:
    """Only open-ended tasks: the referee's states keep their preferences."""
    of = policy()
    played(small(("open",)), of)
    close(of.logits[3:], policy().logits[3:])
    assert float((of.logits[:3] - policy().logits[:3]).detach().abs().max()) > 1e-3


def test_kinds_share_a_round_and_are_drawn_in_epochs() -> None:
    ctx = context(method(), {"policy": policy()}, world())
    found = OfKinds(("preference", "open"))(ctx, 7).id.tolist()
    assert [task >= 4 for task in found] == [False] * 4 + [True] * 3
    assert sorted(found[:4]) == [0, 1, 2, 3]
    assert sorted(found[4:]) == [4, 5, 6]
    warm = override(load("urpo:urpo_warm_up"), {"selection.count": 4})
    assert max(warm.selection.draw(ctx).id.tolist()) < 4


def test_every_task_of_a_kind_comes_once_an_epoch_whatever_a_round_draws() -> None:
    """Three tasks of two kinds a round: neither kind repeats a task before all of its four (or three) were drawn."""
    ctx, drawn = context(method(), {"policy": policy()}, world()), []
    for count in (3, 3, 3, 1, 5, 3, 3, 3):
        found = OfKinds(("preference", "open"))(ctx, count).id.tolist()
        assert abs(2 * sum(task < 4 for task in found) - count) <= 1
        drawn += found
        ctx.run.drawn += count
    kinds = [task for task in drawn if task < 4], [task for task in drawn if task >= 4]
    assert [len(tasks) for tasks in kinds] == [12, 12]
    for tasks, size in zip(kinds, (4, 3), strict=True):
        for begin in range(0, len(tasks), size):
            assert len(set(tasks[begin : begin + size])) == size


def test_scores_that_no_call_could_give_leave_the_row_unscored() -> None:
    class Silent(Items):
        def scores(self, batch):
            return torch.full((len(batch), batch.steps), torch.nan)

    plain = world()
    (done,), _ = played(small(("open",)), policy(), items=Silent(plain.quality, plain.pairs, plain.players))
    assert not bool(done.judged.row["scored"].any())
    assert len(done.kept) == 0 or not bool(done.kept.trained.any())


def test_refusals() -> None:
    with pytest.raises(CompositionError, match="call"):
        Refereed(0)
    with pytest.raises(CompositionError, match="kind"):
        OfKinds(())
    ctx = context(method(), {"policy": policy()}, world())
    with pytest.raises(CompositionError, match="none of"):
        OfKinds(("verifiable",))(ctx, 4)
    ctx = context(method(), {"policy": policy()}, SimpleNamespace())
    batch = world().start(Tasks(torch.tensor([4])))
    with pytest.raises(CompositionError, match="open_ended"):
        Refereed()(ctx, batch)
