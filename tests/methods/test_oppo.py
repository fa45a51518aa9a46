"""OPPO: `reduces_to` of specification 37."""

from dataclasses import replace

import pytest
import torch

from policyopt.compose import CompositionError, Program, Stage, Term, trained_rows
from policyopt.evaluation.experiments.segments import Segments
from policyopt.methods import load
from policyopt.objective.reward_models import RowTarget
from policyopt.policies.hindsight import HindsightActor, Landmark
from policyopt.policies.tabular import Table
from policyopt.run import Run
from policyopt.train import rounds
from policyopt.update.averaging import RowMean
from policyopt.update.gradient import GradientSteps, losses
from policyopt.update.optimizers import SGD
from references_alignment import REFERENCES
from references_reward_models import said, training
from support import close, context, full_step, grids, numbers, ragged

pytestmark = pytest.mark.usefixtures("float64")


def windows(pairs=6, turned=False):
    """Pairs of windows of 5 steps in the plane; the better ones go up, the others down."""
    path, taken = numbers(pairs, 2, 5, 2, seed=1, scale=0.3), numbers(pairs, 2, 5, 2, seed=2, scale=0.1)
    taken[:, 0, :, 1] += 1.0
    taken[:, 1, :, 1] -= 1.0
    order = [1, 0] if turned else [0, 1]
    return Segments(path[:, order], taken[:, order], names=("_obs", "_action"))


def actor(size=3):
    return HindsightActor(2, 2, size, width=8, seed=4).double()


def begun(size=3, turned=False, steps=1, **fields):
    """A run, its policy, and the parts of a first round."""
    made = replace(load("oppo"), **fields)
    made = replace(made, selection=replace(made.selection, count=6))
    run = Run({"policy": actor(size)}, windows(turned=turned), None, 0)
    program = Program((Stage(made, steps),))
    return run, rounds(run, program)


def terms_by_hand(run, batch):
    policy, wish = run.models["policy"], run.models["wish"]
    phi = policy.embed(batch)
    chosen, rejected = phi[batch.row["rank"] == 0], phi[batch.row["rank"] == 1]
    mean = policy.out(policy.decoder(torch.cat([batch.step["_obs"], phi[:, None].expand(-1, 5, -1)], -1)))
    error = ((mean - batch.step["_action"]) ** 2).mean(-1).mean(1)  # of dimensions, of steps
    hindsight = error.view(-1, 2).sum(1).mean()
    apart = (wish.place - chosen).norm(dim=1) - (wish.place - rejected).norm(dim=1)
    triplet = (apart + 1.0).clamp(min=0).mean()
    length = ((phi.norm(dim=1) - 1) ** 2).view(-1, 2).sum(1).mean()
    return hindsight, triplet, length


def test_both_updates_are_those_of_the_paper() -> None:
    sgd = GradientSteps({"policy": SGD(1.0), "wish": SGD(1.0)}, clip_norm=None)
    run, going = begun(update=sgd)
    # What the first round will find: models are made when the stage begins.
    twin, other = begun(update=sgd)
    batch = next(other).kept
    fresh = Run({"policy": actor()}, windows(), None, 0)
    fresh.enter(Program((Stage(load("oppo"), 1),)).at(0))
    policy, wish = fresh.models["policy"], fresh.models["wish"]
    hindsight, triplet, length = terms_by_hand(fresh, batch)
    slopes = torch.autograd.grad(hindsight + 0.1 * triplet + 0.1 * length, list(policy.parameters()))
    before = [p.detach().clone() for p in policy.parameters()]
    next(going)
    for now, was, slope in zip(run.models["policy"].parameters(), before, slopes, strict=True):
        close(was - now.detach(), slope, 1e-10)
    # z* moves second, by the triplet alone, with the new embeddings.
    policy.load_state_dict(run.models["policy"].state_dict())
    _, triplet, _ = terms_by_hand(fresh, batch)
    (slope,) = torch.autograd.grad(triplet, wish.place)
    close(wish.place.detach() - run.models["wish"].place.detach(), slope, 1e-10)
    assert torch.equal(run.models["origin"].place, torch.zeros(3))
    assert twin.models["wish"].place.shape == (3,)


def test_the_triplet_is_flat_where_it_is_satisfied_and_is_the_margin_where_codes_are_alike() -> None:
    run, going = begun()
    batch = next(going).kept
    ctx = context(load("oppo"), run.models, windows())
    term = [t for t in load("oppo").objective if t.name == "wish"]

    def value():
        return sum(losses(ctx, batch, term))

    policy, wish = run.models["policy"], run.models["wish"]
    phi = policy.embed(batch).detach()
    away = phi[batch.row["rank"] == 0].mean(0) - phi[batch.row["rank"] == 1].mean(0)
    with torch.no_grad():
        policy.embedding.weight.mul_(50.0)
        wish.place.copy_(500.0 * away)
    loss = value()
    close(loss, 0.0)
    with torch.no_grad():
        policy.embedding.weight.zero_()
    close(value(), 1.0)


def test_a_constant_encoder_is_behaviour_cloning() -> None:
    """size 0: the hindsight term is the squared error of cloning, over both windows."""
    batch = windows().recorded(windows().tasks(torch.arange(6)))
    policy = actor(0)
    ctx = context(load("bc:bc_squared"), {"policy": policy}, windows())
    cloned = sum(losses(ctx, batch, load("bc:bc_squared").objective))
    ctx = context(load("oppo"), {"policy": policy}, windows())
    close(sum(losses(ctx, batch, load("oppo").objective[:1])), 2 * cloned.detach())


def test_the_length_of_codes_equals_the_loop() -> None:
    worth = (-0.4, -1.0, -2.5, 0.3)
    term = Term("length", RowTarget("reward", target=-1.5), RowMean(), trained_rows, trains="reward")
    ctx = context(training(ragged(), term), {**grids(), "reward": said(*worth)})
    value, slope = full_step(ctx, ragged(), model="reward")
    by_row = [REFERENCES[RowTarget](x, -1.5) for x in worth]
    close(value, sum(v for v, _ in by_row) / 4)
    close(slope, [g / 4 for _, g in by_row])


def test_turned_labels_send_the_wish_to_the_other_side() -> None:
    update = GradientSteps({"policy": SGD(0.05), "wish": SGD(0.2)}, clip_norm=None)

    def sides(turned):
        run, going = begun(turned=turned, steps=15, update=update)
        for _ in going:
            pass
        rows = windows().recorded(windows().tasks(torch.arange(6)))
        with torch.no_grad():
            far = (run.models["wish"].place - run.models["policy"].embed(rows)).norm(dim=1).view(-1, 2).mean(0)
        return far

    up, down = sides(turned=False), sides(turned=True)
    assert up[0] < up[1]
    assert down[0] > down[1]


def test_no_gradient_is_infinite_where_a_code_is_the_place() -> None:
    run, going = begun()
    batch = next(going).kept
    policy, wish = run.models["policy"], run.models["wish"]
    with torch.no_grad():
        policy.embedding.weight.zero_()
        wish.place.copy_(policy.embedding.bias)
    (slope,) = torch.autograd.grad(wish.worth(batch).sum(), wish.place)
    close(slope, torch.zeros(3))


def test_it_acts_under_the_wish_and_recorded_rows_under_themselves() -> None:
    run, going = begun()
    batch = next(going).kept
    policy, wish = run.models["policy"], run.models["wish"]
    names = [name for name, _ in policy.named_parameters()]
    assert not [name for name in names if "place" in name]
    close(policy.next(batch).mean, policy.act(batch.row["_obs"], wish.place.expand(len(batch), -1)).mean)
    with torch.no_grad():
        wish.place.add_(1.0)
    apart = policy.at(batch).mean[:, 0] - policy.next(batch).mean
    assert float(apart.detach().abs().max()) > 1e-3
    with pytest.raises(CompositionError, match="it has none yet"):
        actor().next(batch)
    with pytest.raises(CompositionError, match="HindsightActor"):
        Landmark().build(Run({"policy": Table(torch.zeros(1, 2))}, None, None, 0), "wish")
