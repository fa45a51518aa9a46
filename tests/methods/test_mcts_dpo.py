"""MCTS-DPO: `reduces_to` of specification 142."""

import math
from dataclasses import replace

import pytest
import torch

from asked import asking, resumed, sampled
from enumeration import first_step
from policyopt.compose import CompositionError, Nothing
from policyopt.methods import load
from policyopt.objective.pairwise import PairPreference
from policyopt.policies.tabular import Table
from policyopt.sampling.siblings import JudgedSiblings, Place, doubt, puct, siblings
from policyopt.train import _draw, _judge
from policyopt.worlds.sequences import SequenceWorld
from support import close, context, full_step, grid, grids, method, numbers, ragged

pytestmark = pytest.mark.usefixtures("float64")
SEARCH = JudgedSiblings(iterations=3, first=2, branching=(3, 2), depth=4, steps=1)


def chains(limit=4):
    """Strings of 3 symbols, worth 1 if they hold no 0; the judge likes 2."""
    return SequenceWorld(
        3, 3, limit, lambda s, t: (s > 0).all(1).double(), judge=lambda s, t: 0.2 + 0.3 * s.clamp(min=0).double()
    )


def doubted(value):
    batch = ragged()
    return batch.with_rows({"doubt": torch.full((len(batch),), value)})


def test_without_doubt_it_is_dpo_and_half_a_doubt_has_no_gradient_at_the_reference() -> None:
    made = replace(load("mcts_dpo"), reward=Nothing())
    found = first_step(made, grids(), doubted(0.0)).gradient
    close(found, first_step(load("dpo"), grids(), ragged()).gradient)
    half = first_step(made, {"policy": grid(0)}, doubted(0.5))
    close(half.gradient, torch.zeros_like(half.gradient))
    close(half.round.metrics["loss/preference"], math.log(2))


def test_the_loss_is_the_mixture_of_both_labels_pair_by_pair() -> None:
    batch = ragged().with_rows({"doubt": torch.tensor([0.1, 0.4, 0.9, 0.9])})  # rows 0 and 1 are preferred
    models = grids()
    term = replace(load("mcts_dpo").objective[0], loss=PairPreference(0.7, doubt="doubt"))
    made = method(term, sampling=SEARCH)
    value, gradient = full_step(context(made, models), batch)
    change = models["policy"].logp[:4, :13] - models["reference"].logp[:4, :13]
    rho = torch.where(batch.trained, change, 0.0).sum(1)
    z, e = 0.7 * (rho[:2] - rho[2:]), torch.tensor([0.1, 0.4])
    log = torch.nn.functional.logsigmoid
    loss = (-(1 - e) * log(z) - e * log(-z)).mean()
    close(value, loss.detach())
    close(gradient, torch.autograd.grad(loss, models["policy"].logp)[0])
    with pytest.raises(CompositionError, match="in place of"):
        PairPreference(wrong=0.1, doubt="doubt")


def test_a_label_is_believed_as_far_as_its_winner_was_visited() -> None:
    close(torch.tensor([doubt(3, 1), doubt(2, 2), doubt(0, 0), doubt(0, 5)]), [0.25, 0.5, 0.0, 0.5])


def walked(world, walks=7, part=SEARCH):
    """The roots of the trees, with everything below them, after some walks."""
    ctx = asking(part, world, Table(numbers(world.states, 3, seed=2)), count=3)
    begun = world.start(_draw(ctx)())
    roots = [Place(begun, n) for n in range(len(begun))]
    for _ in range(walks):
        part.walk(ctx, roots, _judge(ctx))
    return roots


def below(place):
    return [place] + [p for child in place.children for p in below(child)]


@pytest.mark.parametrize("depth", [4, 6])
def test_the_search_keeps_the_papers_recursions(depth) -> None:
    """V = sum max(1, N) Q / sum max(1, N) over all children, Q = r + V of visited ones, v = C / max(d - 3, 1) + O with
    the depth d of the parent."""
    world = chains(depth)
    roots = walked(world, part=replace(SEARCH, depth=depth))
    assert [root.visits for root in roots] == [7, 7, 7]
    places = [p for root in roots for p in below(root)]
    assert max(p.depth for p in places) == depth
    for place in places:
        if place.parent is None:
            continue
        string = world.strings(place.row)
        judged = 0.2 + 0.3 * float(string[0, place.depth - 1])
        outcome = (1.0 if bool((string > 0).all()) else -1.0) if place.done else 0.0
        close(place.worth, judged / max(place.depth - 1 - 3, 1) + outcome)
        close(place.gain, place.worth - place.parent.worth)
        assert place.visits <= place.parent.visits
        if place.visits:
            close(place.q, place.gain + place.value)
        if place.children:
            weight = torch.tensor([max(1.0, c.visits) for c in place.children])
            close(place.value, (weight * torch.tensor([c.q for c in place.children])).sum() / weight.sum())
        taken = {tuple(c.row.step["_step"][0].tolist()) for c in place.children}
        assert len(taken) == len(place.children)  # repetitions of a sibling are dropped


def test_selection_is_puct() -> None:
    parent = Place(ragged(), 0)
    parent.visits = 9
    child = Place(ragged(), 0, parent, prior=0.5)
    child.q, child.visits = 0.2, 3
    close(puct(child, 2.0), 0.2 + 2.0 * 0.5 * 3.0 / 4)
    parent.children = [child]
    assert siblings(parent, 0.0) == []  # alike: no pair


def test_pairs_are_siblings_and_train_what_differs_alone() -> None:
    batch = sampled(asking(SEARCH, chains(), Table(numbers(12, 3, seed=2)), count=3))
    pairs = batch.row["pair"].unique()
    assert len(pairs) >= 3
    for one in pairs:
        won, lost = (batch.row["pair"] == one).nonzero()[:, 0].tolist()
        assert batch.row["rank"][[won, lost]].tolist() == [0, 1]
        length = int(batch.lengths[won])
        assert torch.equal(batch.step["_step"][won, : length - 1], batch.step["_step"][lost, : length - 1])
        assert batch.step["_step"][won, length - 1] != batch.step["_step"][lost, length - 1]
        for row in (won, lost):
            assert batch.trained[row].nonzero()[:, 0].tolist() == [length - 1]
    assert bool(((batch.row["doubt"] >= 0) & (batch.row["doubt"] <= 0.5)).all())


def test_rows_that_are_over_before_they_begin_make_no_tree() -> None:
    class Over(SequenceWorld):
        def start(self, tasks):
            begun = super().start(tasks)
            return begun.with_rows({"finish": torch.ones_like(begun.row["finish"])})

    world = Over(3, 3, 2, lambda s, t: torch.zeros(len(t)), judge=lambda s, t: torch.zeros(s.shape))
    batch = sampled(asking(SEARCH, world, Table(numbers(6, 3, seed=2)), count=3))
    assert batch.row["rank"].tolist() == [-1] * 3


def test_where_all_is_alike_there_is_nothing_to_learn() -> None:
    flat = SequenceWorld(3, 3, 2, lambda s, t: torch.zeros(len(t)), judge=lambda s, t: torch.zeros(s.shape))
    part = replace(SEARCH, depth=1)
    batch = sampled(asking(part, flat, Table(numbers(6, 3, seed=2)), count=3))
    assert batch.row["rank"].tolist() == [-1] * len(batch)
    kept = load("mcts_dpo").selection.keep(None, batch)
    assert len(kept) == 0


def test_it_goes_on_bitwise_after_a_restart() -> None:
    changes = {"selection.count": 3, "sampling.steps": 1, "sampling.iterations": 1}
    resumed(load("mcts_dpo"), chains(2), lambda: Table(numbers(6, 3, seed=2)), changes=changes)
