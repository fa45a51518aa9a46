"""Direct advantage policy optimization: `reduces_to` of specification 113."""

from itertools import pairwise

import pytest
import torch

from enumeration import Grades, first_step
from policyopt.credit.success import PrefixSuccess, SuccessGain
from policyopt.engines.plain import generate
from policyopt.evaluation.experiments.segments import Tree
from policyopt.methods import load
from policyopt.objective.successors import SuccessCrossEntropy
from policyopt.policies.tabular import Table
from policyopt.seen import SeenBatch
from policyopt.types import Tasks
from policyopt.worlds.sequences import SequenceWorld
from references_success import REFERENCES
from support import Grid, close, context, grid, grids, method, numbers, ragged, rewarded

pytestmark = pytest.mark.usefixtures("float64")

WORTH = [1.0, 0.0, 1.0, 0.0]


def turns():
    """Rows of 2, 3, 7 and 13 steps; a turn is two steps."""
    batch = ragged((2, 3, 7, 13))
    place = torch.arange(13).expand(4, -1)
    return batch.with_steps({"turn": place // 2})


def chances(models, batch):
    return torch.sigmoid(models["critic"].values[batch.row["_row"]][:, : batch.steps]).detach()


def test_gains_telescope_and_end_with_the_reward() -> None:
    """A_k = V(s_k+1) - V(s_k); over a row they sum to R - V(s_0)."""
    models, batch = grids(), rewarded(turns(), WORTH)
    done = SuccessGain()(context(method(), models), batch)
    chance = chances(models, batch)
    for b in range(4):
        own = batch.own[b].nonzero()[:, 0].tolist()
        turn = batch.step["turn"][b].tolist()
        firsts = [t for n, t in enumerate(own) if n == 0 or turn[t] != turn[own[n - 1]]]
        gains = [float(done.step["advantage"][b, t]) for t in firsts]
        close(sum(gains), WORTH[b] - float(chance[b, firsts[0]]))
        for k, (here, after) in enumerate(pairwise(firsts)):
            close(gains[k], float(chance[b, after] - chance[b, here]))
    assert bool((done.step["advantage"][~batch.own] == 0).all())


def test_at_the_reference_it_is_the_policy_gradient_of_the_advantages() -> None:
    """Gradient -(1 / beta) A grad log pi of a turn, mean over all turns."""
    batch, models = turns(), {"policy": grid(0), "critic": grids()["critic"]}
    done = first_step(load("dapo_direct_advantage"), models, batch, Grades(WORTH))
    credited = done.round.credited
    number = sum(len(set(batch.step["turn"][b][batch.trained[b]].tolist())) for b in range(4))
    slope = torch.where(batch.trained, -credited.step["advantage"] / 0.1 / number, 0.0)
    close(done.gradient[:4, :13], slope)


def test_off_the_reference_it_is_the_squared_error_of_sums_over_turns() -> None:
    batch, models = turns(), grids()
    done = first_step(load("dapo_direct_advantage"), models, batch, Grades(WORTH))
    policy, reference = grids()["policy"].logp, grids()["reference"].logp.detach()
    advantage, losses = done.round.credited.step["advantage"], []
    for b in range(4):
        for turn in set(batch.step["turn"][b][batch.trained[b]].tolist()):
            steps = (batch.trained[b] & (batch.step["turn"][b] == turn)).nonzero()[:, 0]
            change = (policy[b, steps] - reference[b, steps]).sum()
            losses.append(0.5 * (change - advantage[b, steps[0]] / 0.1) ** 2)
    loss = torch.stack(losses).mean()
    close(done.round.metrics["loss/policy"], loss)
    close(done.gradient, torch.autograd.grad(loss, policy)[0])


def test_the_critics_loss_is_a_cross_entropy_at_the_starts_of_turns() -> None:
    batch, models = turns(), grids()
    share = numbers(4, 13, seed=9).sigmoid()
    labelled = batch.trained & (torch.arange(13) % 2 == 0)
    (term,) = load("dapo_direct_advantage:dapo_direct_advantage_critic").objective
    ctx, rows = context(method(), models), batch.with_steps({"label": share, "labelled": labelled})
    value = term.loss(SeenBatch(ctx, rows), rows)
    slope = torch.autograd.grad(value[term.mask(None, rows)].sum(), models["critic"].values)[0]
    for b, t in labelled.nonzero().tolist():
        one, by_logit = REFERENCES[SuccessCrossEntropy](models["critic"].values[b, t].item(), share[b, t].item())
        close(value[b, t].detach(), one)
        close(slope[b, t], by_logit)


def test_shares_of_success_are_those_of_completions() -> None:
    """A tree of depth 2: below symbol 0 all is right, below 1 nothing, and the first turn is half right."""
    inner = SequenceWorld(9, 2, 2, lambda s, t: (s[:, 0] == 0).double())
    world = Tree(inner, 3, lambda task: torch.zeros_like(task), lambda s, a: (2 * s + 1 + a).clamp(max=2))
    ctx = context(method(), {"policy": Table(torch.zeros(3, 2))}, world, generate)
    batch = ctx.extend(world.start(Tasks(torch.arange(9))))
    done = PrefixSuccess(count=64)(ctx, batch)
    first = batch.step["_step"][:, 0]
    assert bool(done.step["labelled"].all())
    close(done.step["label"][:, 1], (first == 0).double())
    close(done.step["label"][:, 0], torch.full((9,), 0.5), atol=0.25)


def test_completions_without_a_grade_are_neither_right_nor_wrong() -> None:
    """The grader fails on every second symbol 1 and on all of task 0: below symbol 0 the others are all right."""

    def grade(strings: torch.Tensor, task: torch.Tensor) -> torch.Tensor:
        fails = (task == 0) | (strings[:, 1] == 1)
        return torch.where(fails, torch.nan, (strings[:, 0] == 0).double())

    world = Tree(
        SequenceWorld(9, 2, 2, grade), 3, lambda task: torch.zeros_like(task), lambda s, a: (2 * s + 1 + a) % 3
    )
    ctx = context(method(), {"policy": Table(torch.zeros(3, 2))}, world, generate)
    batch = ctx.extend(world.start(Tasks(torch.arange(9))))
    done = PrefixSuccess(count=32)(ctx, batch)
    first = batch.step["_step"][:, 0]
    close(done.step["label"][1:, 1], (first[1:] == 0).double())
    assert not bool(done.step["labelled"][0].any())
    assert bool(done.step["labelled"][1:].all())


def test_what_comes_before_is_not_changed_by_completions() -> None:
    model = Grid(values=numbers(8, 14))
    batch = rewarded(turns(), WORTH)
    done = SuccessGain()(context(method(), {**grids(), "critic": model}), batch)
    assert all(torch.equal(done.step[name], batch.step[name]) for name in ("reward", "kind", "turn"))
