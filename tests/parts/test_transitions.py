"""Steps as rows of one step, the state that follows, the store of transitions, periods and hooks of an update."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from policyopt.compose import CompositionError, Part, Role, Scalar, Term
from policyopt.objective.surrogates import PolicyGradient
from policyopt.ops.masked import masked_sum
from policyopt.run import Run
from policyopt.seen import SeenBatch, collect_roles
from policyopt.train import _own_hooks
from policyopt.types import Batch, Finish, Round
from policyopt.update.averaging import SequenceSum, TokenMean
from policyopt.update.following import Average, Refresh
from policyopt.update.gradient import GradientSteps
from policyopt.update.optimizers import SGD
from policyopt.update.replay import STORE, ReplaySteps, insert
from support import ROLES, close, context, grid, grids, method, numbers, ragged

pytestmark = pytest.mark.usefixtures("float64")


def with_state(batch: Batch) -> Batch:
    """State 100 b + t before step t of row b, 100 b + 50 after its last."""
    rows, steps = torch.arange(len(batch)), torch.arange(batch.steps)
    batch = batch.with_steps({"_at": (100 * rows[:, None] + steps).double()})
    return batch.with_rows({"_at": (100 * rows + 50).double()})


def test_the_state_that_follows_is_the_next_one_or_the_rows() -> None:
    batch = with_state(ragged((3, 1), tools=False))
    assert batch.following("_at")[0].tolist() == [1, 2, 50]
    assert batch.following("_at")[1, 0] == 150


def test_rewound_rows_stand_where_they_stood() -> None:
    """The row's state is the one before the first step that is gone; rows that are shorter keep all they have."""
    batch = with_state(ragged((3, 1, 4), tools=False))
    back = batch.rewound(torch.tensor([1, 9, 0]))
    assert back.own.tolist() == [[True], [True], [False]]
    assert back.row["_at"].tolist() == [1, 150, 200]
    assert bool((back.row["finish"] == Finish.RUNNING).all())
    close(back.step["behaviour"][:2, 0], batch.step["behaviour"][:2, 0])
    assert back.step["behaviour"][2, 0] == back.step["_at"][2, 0] == 0
    assert batch.row["_at"].tolist() == [50, 150, 250]


@given(st.lists(st.integers(0, 4), min_size=3, max_size=3), st.lists(st.integers(0, 3), min_size=3, max_size=3))
def test_steps_go_behind_those_a_row_has(had: list[int], more: list[int]) -> None:
    """Row by row: what stays of it, then its new entries, then nothing."""
    batch = with_state(ragged((4, 4, 4), tools=False)).rewound(torch.tensor(had))
    live = torch.arange(3) < torch.tensor(more)[:, None]
    new = {"_at": 7.0 + torch.arange(9.0).view(3, 3).double(), "kind": torch.ones(3, 3, dtype=torch.uint8)}
    longer = batch.behind(new, live)
    assert longer.own.sum(1).tolist() == [a + b for a, b in zip(had, more, strict=True)]
    for b in range(3):
        expected = [100.0 * b + t for t in range(had[b])] + new["_at"][b, : more[b]].tolist()
        assert longer.step["_at"][b][longer.valid[b]].tolist() == expected
        assert bool((longer.step["_at"][b][~longer.valid[b]] == 0).all())


def test_what_a_batch_has_computed_follows_its_columns() -> None:
    batch = ragged((3, 1))
    before = (batch.own, batch.valid, batch.trained, batch.heat)
    scored = batch.with_steps({"advantage": torch.ones(2, batch.steps)}).with_rows({"more": torch.ones(2)})
    for now, was in zip((scored.own, scored.valid, scored.trained, scored.heat), before, strict=True):
        assert now is was
    held = batch.with_steps({"train": torch.zeros_like(batch.step["train"])})
    assert not held.trained.any()
    assert held.own is batch.own
    assert not batch.with_steps({"kind": torch.zeros_like(batch.step["kind"])}).own.any()
    assert batch.with_rows({"temperature": torch.full((2,), 0.5)}).heat == 0.5


def test_what_is_said_without_gradient_is_not_kept_for_those_who_need_one() -> None:
    """A statistic that a loss takes of the policy under no_grad must not make the loss a constant."""
    models = {**grids(), "critic": grids()["critic"]}
    seen = SeenBatch(context(method(roles=ROLES), models), ragged())
    with torch.no_grad():
        assert not seen["policy"].logp.requires_grad
        assert not seen.value("critic").requires_grad
    assert seen["policy"].logp.requires_grad
    assert seen.value("critic").requires_grad
    with torch.no_grad():
        assert seen["policy"] is seen["policy"]
    assert not seen["old"].logp.requires_grad


def test_flat_by_hand() -> None:
    """Two rows of 3 and 1 steps: four rows of one step; only a row's last step may have ended it."""
    batch = with_state(ragged((3, 1), tools=False))
    batch = batch.with_rows({"finish": torch.tensor([int(Finish.TRUNCATED), int(Finish.STOPPED)])})
    flat = batch.flat()
    assert flat.steps == 1
    assert flat.step["_at"][:, 0].tolist() == [0, 1, 2, 100]
    assert flat.row["_at"].tolist() == [1, 2, 50, 150]
    assert flat.row["finish"].tolist() == [0, 0, int(Finish.TRUNCATED), int(Finish.STOPPED)]
    close(flat.step["behaviour"][:, 0], batch.step["behaviour"][batch.own])
    assert flat.row["task"].tolist() == [0, 0, 0, 1]


@given(st.lists(st.integers(1, 15), min_size=1, max_size=6))
def test_flat_has_each_own_step_once_with_its_scores(lengths: list[int]) -> None:
    batch = ragged(tuple(lengths))[: len(lengths)]
    scored = batch.with_scores({"old": grid(3).score(batch)}) if batch.steps <= 15 and len(lengths) <= 4 else batch
    flat = scored.flat()
    assert len(flat) == int(batch.own.sum())
    assert bool(flat.own.all())
    close(flat.step["behaviour"][:, 0], batch.step["behaviour"][batch.own])
    for name, scores in flat.scores.items():
        close(scores.logp[:, 0], scored.scores[name].logp[batch.own])
    ended = torch.zeros(len(flat), dtype=torch.bool)
    ended[batch.own.sum(1).cumsum(0) - 1] = True
    assert torch.equal(flat.row["finish"] != Finish.RUNNING, ended & (flat.row["finish"] != Finish.RUNNING))


def test_steps_in_minibatches_see_every_trained_step_once_an_epoch() -> None:
    counted = []

    class Spy(PolicyGradient):
        def __call__(self, seen, batch):
            counted.extend(batch.step["advantage"][:, 0].tolist())
            return super().__call__(seen, batch)

    update = GradientSteps({"policy": SGD(0.0)}, epochs=2, minibatches=3, unit="step")
    ctx = context(method(Term("a", Spy(), TokenMean()), update=update), grids())
    batch = ragged((13, 2, 7))
    update(ctx, collect_roles(ctx, batch))
    expected = batch.step["advantage"][batch.trained].tolist()
    assert sorted(counted) == sorted(2 * expected)
    assert ctx.updates == 6


# -- the store --------------------------------------------------------------------------------------------------------
@given(st.lists(st.integers(1, 9), min_size=1, max_size=6), st.integers(1, 12))
def test_the_store_is_a_ring_of_the_newest(sizes: list[int], capacity: int) -> None:
    store, seen = STORE.initial(), 0
    for size in sizes:
        flat = ragged((1,) * size, tools=False).with_rows({"id": torch.arange(seen, seen + size)})
        store, seen = insert(store, flat, capacity), seen + size
    kept = store["row"]["id"][: store["count"]].tolist()
    assert sorted(kept) == list(range(max(0, seen - capacity), seen))


def test_replay_takes_ratio_updates_a_step_once_the_store_has_enough() -> None:
    update = ReplaySteps({"policy": SGD(0.1)}, capacity=8, size=4, ratio=0.5, starts=5)
    ctx = context(method(Term("a", PolicyGradient(), TokenMean()), update=update, roles={}), grids())
    for done, expected in ((4, 0), (4, 2), (6, 5)):
        update(ctx, ragged((1,) * done, tools=False))
        assert ctx.updates == expected
    assert ctx[STORE]["count"] == 8


def test_rounds_too_short_for_an_update_add_up_to_one() -> None:
    update = ReplaySteps({"policy": SGD(0.1)}, size=4, ratio=0.3, starts=1)
    ctx = context(method(Term("a", PolicyGradient(), TokenMean()), update=update, roles={}), grids())
    counts = []
    for _ in range(10):
        update(ctx, ragged((1,), tools=False))
        counts.append(ctx.updates)
    assert counts == [0, 0, 0, 1, 1, 1, 2, 2, 2, 3]


def test_replay_refuses_scores_of_the_time_of_collection() -> None:
    update = ReplaySteps({"policy": SGD(0.1)})
    roles = {"old": Role(when="collected")}
    ctx = context(method(Term("a", PolicyGradient(), TokenMean()), update=update, roles=roles), grids())
    with pytest.raises(CompositionError, match=r"\['old'\] are scored when rows are collected"):
        update(ctx, ragged((1,)))


# -- periods and hooks ------------------------------------------------------------------------------------------------
def test_trap_55_delayed_models_step_at_every_nth_update() -> None:
    """7 updates: the critic steps 7 times, the policy at updates 3 and 6, the average after each policy step."""
    update = GradientSteps(
        {"critic": SGD(0.1), "policy": SGD(0.1)}, epochs=7, every={"policy": 3}, after_step=(Average("old", every=3),)
    )
    steps = {"critic": 0, "policy": 0}

    class Counting(GradientSteps):
        def apply(self, ctx, models):
            for model in models:
                steps[model] += 1
            super().apply(ctx, models)

    terms = (Term("a", PolicyGradient(), TokenMean()),)
    ctx = context(method(*terms, update=update), grids())
    before = ctx.models["old"].logp.detach().clone()
    Counting(**vars(update))(ctx, ragged((3, 1), tools=False))
    assert steps == {"critic": 7, "policy": 2}
    assert not torch.equal(ctx.models["old"].logp, before)


def test_trap_55_polyak_weights_after_n_updates_equal_the_formula() -> None:
    """A leader that is constant: after n updates the follower's distance to it is decay^n of what it was."""
    update = GradientSteps({"policy": SGD(0.0)}, epochs=5, after_step=(Average("old", decay=0.8),))
    ctx = context(method(Term("a", PolicyGradient(), TokenMean()), update=update), grids())
    gap = (ctx.models["old"].logp - ctx.models["policy"].logp).detach().clone()
    update(ctx, ragged((3, 1), tools=False))
    close(ctx.models["old"].logp - ctx.models["policy"].logp, gap * 0.8**5)


def test_hooks_of_an_update_count_updates_and_hooks_of_a_round_rounds() -> None:
    ctx = context(method(), grids())
    hook = Refresh("old", every=2)
    ctx.run.updates = 1
    hook(ctx)
    assert not torch.equal(ctx.models["old"].logp, ctx.models["policy"].logp)
    ctx.run.updates = 2
    hook(ctx)
    assert torch.equal(ctx.models["old"].logp, ctx.models["policy"].logp)


def test_a_stop_ends_the_rounds_updates() -> None:
    update = GradientSteps({"policy": SGD(0.1)}, epochs=9, stop=lambda seen, batch: seen.ctx.updates >= 4)
    ctx = context(method(Term("a", PolicyGradient(), TokenMean()), update=update), grids())
    update(ctx, ragged((3, 1), tools=False))
    assert ctx.updates == 4


def test_a_period_of_a_model_that_is_not_trained_is_refused() -> None:
    with pytest.raises(CompositionError, match="period of at least 1 for models that are trained"):
        GradientSteps({"policy": SGD()}, every={"critic": 2})
    with pytest.raises(CompositionError, match="period of at least 1"):
        GradientSteps({"policy": SGD()}, every={"policy": 0})


def test_parts_inside_parts_are_told_of_the_round() -> None:
    told = []

    class Inner(Part):
        def after(self, ctx, done):
            told.append(done)

    from policyopt.selection.tasks import Selection

    made = method(Term("a", PolicyGradient(), SequenceSum()))
    made = type(made)(**{**vars(made), "selection": Selection(rows=Inner())})
    done = Round(ragged(), ragged(), ragged(), {})
    for hook in _own_hooks(made):
        hook(context(made, grids()), done)
    assert told == [done]


# -- what a model can not give -----------------------------------------------------------------------------------------
def test_a_scalar_is_positive_and_trained() -> None:
    run = Run({"policy": grid(0)}, None, lambda *a: None)
    model = Scalar(0.5).build(run, "temperature")
    close(model.scalar(), 0.5)
    (slope,) = torch.autograd.grad(3 * model.scalar(), model.log)
    close(slope, 1.5)
    with pytest.raises(CompositionError, match="above 0"):
        Scalar(0.0)


def test_what_a_model_can_not_give_is_said() -> None:
    ctx = context(method(Term("a", PolicyGradient(), TokenMean()), roles=ROLES), grids())
    seen = SeenBatch(ctx, ragged())
    for ask, what in (
        (lambda: seen.at("policy"), "distributions"),
        (lambda: seen.q("critic"), "action values"),
        (lambda: seen.q_all("critic"), "every choice"),
        (lambda: seen.scalar("policy"), "a number"),
        (lambda: seen.taken(), "steps that were taken"),
    ):
        with pytest.raises(CompositionError, match=what):
            ask()


def test_masked_sum_of_flat_rows_is_the_step() -> None:
    batch = ragged((4, 2), tools=False)
    flat = batch.flat()
    x = numbers(len(flat), 1)
    close(masked_sum(x, flat.own), x[:, 0])
