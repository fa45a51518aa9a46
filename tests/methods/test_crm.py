"""CRM: `reduces_to` of specification 5, each identity a test."""

from dataclasses import replace
from typing import Any

import pytest
import torch

from policyopt.compose import CompositionError, Program, Stage
from policyopt.engines.plain import generate
from policyopt.feedback.peers import PeerReview, keep_rate, largest_margins
from policyopt.methods import load
from policyopt.ops.pairs import pair_rows
from policyopt.options import override
from policyopt.policies.tabular import Table
from policyopt.run import Run
from policyopt.selection.margins import SORTED, easiest_first
from policyopt.selection.tasks import Selection
from policyopt.train import rounds
from policyopt.types import Round
from policyopt.update.gradient import GradientSteps
from policyopt.update.optimizers import SGD
from policyopt.worlds.sequences import PairedWorld, SequenceWorld
from references_reward_models import said, training
from support import close, context, grids, numbers, ragged, with_row

pytestmark = pytest.mark.usefixtures("float64")
WORLD = {"selection.count": 4}


def pairs() -> PairedWorld:
    """Twelve pairs of choices of one task of 5."""
    order = torch.stack([torch.randperm(5, generator=torch.Generator().manual_seed(i))[:2] for i in range(12)])
    task = torch.zeros(12, dtype=torch.int64)
    return PairedWorld(SequenceWorld(1, 5, 1, lambda s, t: s[:, 0], pairs=order[:, :, None], pair_tasks=task))


def trained(changes: dict[str, Any], count: int = 6, rate: float = 0.5, seed: int = 0) -> tuple[Run, list[Round]]:
    update = GradientSteps({"first": SGD(rate), "second": SGD(rate)}, clip_norm=None)
    fields = {name: changes.pop(name) for name in ("before", "selection") if name in changes}
    made = override(replace(load("crm"), update=update, **fields), changes)
    run = Run({"policy": Table(torch.zeros(1, 5))}, pairs(), generate, seed)
    return run, list(rounds(run, Program((Stage(made, count),))))


def test_each_model_learns_what_the_other_finds_clean() -> None:
    """Pairs (0, 2) and (1, 3): the first model finds the second pair clean, the second model the first pair."""
    rows = with_row(ragged((2, 2, 2, 2)), pair=[0, 1, 0, 1], rank=[0, 0, 1, 1])
    models = {**grids(), "first": said(0.5, 1.0, 0.0, 0.0), "second": said(2.0, 1.0, 0.0, 0.0)}
    world: Any = type("World", (), {"size": 2})()
    ctx = context(training(rows, models=("first", "second")), models, world)
    ctx.run.drawn = 22
    found = PeerReview(noise=0.5, ramp=10)(ctx, rows).row
    assert found["taught:second"].tolist() == [False, True, False, False]
    assert found["taught:first"].tolist() == [True, False, False, False]
    ctx.run.drawn = 2
    for column in ("taught:first", "taught:second"):
        assert PeerReview()(ctx, rows).row[column].tolist() == [True, True, False, False]
    ctx.run.drawn = 4  # the last batch of epoch 1, not the first of epoch 2: 0.55 of both are both
    assert PeerReview(noise=0.9, ramp=2)(ctx, rows).row["taught:first"].sum() == 2


def test_kept_pairs_are_the_largest_margins_rounded_up_and_the_first_among_equals() -> None:
    margin = torch.tensor([0.5, 2.0, 0.5, -1.0, 0.5])
    assert largest_margins(margin, 0.6).tolist() == [True, True, True, False, False]
    assert largest_margins(margin, 0.41).sum() == 3
    assert largest_margins(margin, 1.0).all()
    assert [round(keep_rate(e, 0.4, 10), 3) for e in (0, 5, 10, 30)] == [1.0, 0.8, 0.6, 0.6]
    with pytest.raises(CompositionError, match="noise in"):
        PeerReview(noise=1.0)


def test_without_noise_and_order_it_is_two_reward_models_of_their_own() -> None:
    changes = {"before": (), "selection": Selection(4)}
    both, _ = trained({**changes, "feedback.noise": 0.0})
    for name in ("first", "second"):
        one = load("crm")
        own = [replace(term, mask=load("dpo").objective[0].mask) for term in one.objective if term.name == name]
        update = GradientSteps({name: SGD(0.5)}, clip_norm=None)
        parts = {"feedback": load("dpo").feedback, "before": (), "selection": Selection(4)}
        made = replace(one, objective=tuple(own), update=update, **parts)
        run = Run({"policy": Table(torch.zeros(1, 5))}, pairs(), generate, 0)
        list(rounds(run, Program((Stage(made, 6),))))
        found: Any = both.models[name]
        expected: Any = run.models[name]
        close(found.values, expected.values)
    first, second = (next(both.models[name].parameters()) for name in ("first", "second"))
    assert not torch.equal(first, second)


def test_equal_models_select_for_themselves() -> None:
    """Peer review of two models with the same weights and data is the small-loss rule: both move alike."""
    made = override(load("crm"), WORLD)
    made = replace(made, update=GradientSteps({"first": SGD(0.5), "second": SGD(0.5)}, clip_norm=None))
    shared = numbers(1, 5, seed=3)
    models = {"first": Table(shared).make_reward(torch.Generator().manual_seed(1))}
    models["second"] = Table(shared).make_reward(torch.Generator().manual_seed(1))
    run = Run({"policy": Table(torch.zeros(1, 5)), **models}, pairs(), generate, 0)
    before = models["first"].values.detach().clone()
    for _ in rounds(run, Program((Stage(made, 9),))):
        close(models["first"].values, models["second"].values)
    assert float((models["first"].values.detach() - before).abs().max()) > 1e-2


def test_batches_are_sorted_not_pairs() -> None:
    margin = torch.tensor([0.0, 1.0, 5.0, -9.0, 2.0, 3.0])
    assert easiest_first(margin, 2).tolist() == [4, 5, 0, 1, 2, 3]
    assert easiest_first(margin, 2, "pair").tolist() == [2, 5, 4, 1, 0, 3]
    run, done = trained(dict(WORLD), count=3)
    assert run.cells[SORTED.name]["epoch"] == 0
    seen = torch.cat([one.kept.row["pair"].unique() for one in done])
    assert len(seen.unique()) == 12  # every pair once an epoch
    _, done = trained(dict(WORLD), count=7)
    assert done[-1].metrics["kept_share"] == pytest.approx(1 - 0.4 * 2 / 10)


def test_an_epoch_goes_on_after_a_restart_and_odd_batches_are_refused() -> None:
    program = Program((Stage(override(load("crm"), WORLD), 5),))

    def fresh() -> Run:
        return Run({"policy": Table(torch.zeros(1, 5))}, pairs(), generate, 5)

    straight, first, second = fresh(), fresh(), fresh()
    list(rounds(straight, program))
    going = rounds(first, program)
    for _ in range(2):
        next(going)
    second.load_state(first.state(), program)
    list(rounds(second, program))
    for a, b in zip(straight.models["second"].parameters(), second.models["second"].parameters(), strict=True):
        assert torch.equal(a, b)
    with pytest.raises(CompositionError, match="must divide"):
        trained({"selection.count": 5})


def test_the_policy_is_paid_the_mean_of_both_models() -> None:
    rows, part = ragged((2, 2, 2, 2)), load("crm:crm_policy").reward.parts[0]
    models = {**grids(), "first": said(0.5, 1.0, 0.0, 0.0), "second": said(2.5, 1.0, -1.0, 0.0)}
    found = part(context(training(rows, models=("first", "second")), models), rows).step["reward"] - rows.step["reward"]
    close(found.sum(1), [1.5, 1.0, -0.5, 0.0])


def test_batches_go_by_the_mean_margin_of_both_models() -> None:
    world, made = pairs(), override(load("crm"), {"selection.count": 2})
    models: Any = {name: Table(numbers(1, 5, seed=n)) for n, name in ((5, "first"), (6, "second"))}
    rewards = {name: table.make_reward(torch.Generator().manual_seed(0)) for name, table in models.items()}
    for name, table in models.items():
        rewards[name].values.data.copy_(9 * table.logits.detach())
    ctx = context(made, {**grids(), **rewards}, world)
    made.before[0](ctx)
    rows = world.recorded_pairs(world.tasks(torch.arange(12)).with_rows({"group": torch.arange(12)}))
    worth = sum(model.worth(rows).detach() for model in rewards.values()) / 2
    chosen, rejected = pair_rows(rows).T
    means = (worth[chosen] - worth[rejected])[ctx[SORTED]["ids"]].view(-1, 2).mean(1)
    assert bool((means[:-1] > means[1:]).all())


def test_pairs_are_sorted_where_the_models_are() -> None:
    class Asked(Exception):
        pass

    def everything(tasks: Any) -> Any:
        raise Asked(tasks.id.device.type)

    world: Any = type("World", (), {"size": 12, "recorded_pairs": staticmethod(everything), "tasks": pairs().tasks})()
    models: Any = {**grids(), "first": torch.nn.Linear(1, 1, device="meta"), "second": torch.nn.Linear(1, 1)}
    made = override(load("crm"), WORLD)
    with pytest.raises(Asked, match="meta"):
        made.before[0](context(made, models, world))
