"""INPO: `reduces_to` of specification 76, each identity a test."""

from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from contests import BIASED, FIRST, answers, descended, every_pair, table
from policyopt.compose import CompositionError, Role
from policyopt.evaluation.experiments.games import exploitability, regularised_equilibrium
from policyopt.feedback.duels import Duels
from policyopt.methods import load
from policyopt.objective.games import MirrorPreference
from policyopt.ops.pairs import pair_rows
from policyopt.policies.tabular import Table
from support import close, context, full_step, grids, method, numbers, ragged, with_row

pytestmark = pytest.mark.usefixtures("float64")

ROLES = {"reference": Role("reference"), "old": Role("old")}


def stepped(loss, batch=None, models=None, weight=1.0):
    (term,) = load("inpo").objective
    made = method(replace(term, loss=loss, weight=weight), roles=ROLES)
    return full_step(context(made, models or grids()), ragged() if batch is None else batch)


def gaps(models, batch):
    logp = {
        n: torch.where(batch.trained, m.logp[:4, :13], 0.0).sum(1).detach() for n, m in models.items() if n != "critic"
    }
    return {name: torch.stack([x[0] - x[2], x[1] - x[3]]) for name, x in logp.items()}


def test_at_tau_equal_eta_it_is_ipo_to_the_reference() -> None:
    batch, models = ragged(), grids()
    gap = gaps(models, batch)
    ipo = (gap["policy"] - gap["reference"] - 1 / (2 * 0.4)) ** 2
    close(stepped(MirrorPreference(0.4, 0.4), batch, models)[0], ipo.mean())


def test_without_tau_it_is_ipo_to_the_last_policy() -> None:
    batch, models = ragged(), grids()
    gap = gaps(models, batch)
    error = gap["policy"] - gap["old"] - 1 / (2 * 0.4)
    value, gradient = stepped(MirrorPreference(0.4, 0.0), batch, models)
    close(value, (error**2).mean())
    by_row = torch.cat([error, -error])[:, None]
    close(gradient[:4, :13], torch.where(batch.trained, by_row, 0.0))


def exact(policy, old, loss, eta=0.3, tau=0.05):
    """Loss and gradient over all pairs of the last policy, each label with its probability."""
    batch = every_pair(BIASED)
    answer = batch.step["_step"][:, 0].view(-1, 2)
    first, second = answer.T
    drawn = old[first] * old[second]
    if loss.target == "label":
        weight = 2 * drawn * BIASED[first, second]  # the first of the pair has won
    else:
        weight = drawn
        rate = BIASED @ old
        batch = batch.with_steps({"reward": rate[batch.step["_step"]]})
    scale = lambda seen, part: len(first) * weight[part.row["pair"]]  # noqa: E731
    models = {"policy": table(policy), "reference": table(FIRST), "old": table(old)}
    return stepped(loss, batch, models, scale)


@settings(max_examples=10)
@given(st.integers(0, 50), st.sampled_from(["label", "win_rates"]))
def test_the_population_minimiser_is_the_mirror_descent_step(seed: int, target: str) -> None:
    """Gradient 0 at the closed form, to rounding, and nowhere near it."""
    old, loss = numbers(3, seed=seed).softmax(-1), MirrorPreference(0.3, 0.05, target)
    goal = descended(BIASED, old, FIRST, 0.3, 0.05)
    close(exact(goal, old, loss)[1], torch.zeros(1, 3))
    assert float(exact(old, old, loss)[1].abs().max()) > 1e-3
    assert float(exact(goal, old, loss)[0]) < float(exact(old, old, loss)[0])


def test_steps_lead_to_the_regularised_equilibrium() -> None:
    goal, policy, distance = regularised_equilibrium(BIASED, FIRST, 0.05), FIRST, []
    for _ in range(100):
        policy = descended(BIASED, policy, FIRST, 0.3, 0.05)
        distance.append(float((policy * (policy / goal).log()).sum()))
    assert distance[49] == pytest.approx(0.0016, abs=2e-4)
    assert distance[99] < 1e-4
    assert 0.03 < float(exploitability(BIASED, policy)) < 0.06
    assert min(float(exploitability(BIASED, arm)) for arm in torch.eye(3)) >= 0.2 - 1e-12


def group_of(count):
    return with_row(ragged((1, 2, 3, 2, 1, 4)[:count], tools=False), group=(5,) * count)


def test_duels_pair_every_row_once_and_draw_the_winner() -> None:
    world = answers(BIASED)
    answer = torch.tensor([0, 1] * 2000 + [2])
    rows = world.complete(world.tasks(torch.zeros(4001, dtype=torch.int64)), answer[:, None])
    rows = rows.with_rows({"group": torch.zeros_like(answer)})
    ctx = context(method(), {"policy": torch.nn.Identity()}, world)
    found = Duels()(ctx, rows)
    assert int(found.row["rank"][-1]) == -1
    chosen, rejected = pair_rows(found[:-1]).T
    assert torch.equal((chosen - rejected).abs(), torch.ones(2000, dtype=torch.int64))
    assert float((answer[chosen] == 0).double().mean()) == pytest.approx(0.8, abs=0.03)
    sure = Duels(drawn=False)(ctx, rows)
    assert bool((answer[pair_rows(sure[:-1])[:, 0]] == 0).all())


def test_duels_of_equals_of_groups_of_one_and_of_unscored_rows() -> None:
    world = answers(torch.full((3, 3), 0.5))
    rows = world.complete(world.tasks(torch.zeros(5, dtype=torch.int64)), torch.tensor([[0], [1], [2], [0], [1]]))
    rows = with_row(rows, group=(3, 8, 3, 3, 3), scored=(1, 1, 0, 1, 1))
    found = Duels(drawn=False)(context(method(), {"policy": torch.nn.Identity()}, world), rows)
    assert found.row["rank"].tolist() == [0, -1, -1, 1, -1]
    none = Duels()(context(method(), {"policy": torch.nn.Identity()}, world), rows[1:3])
    assert none.row["rank"].tolist() == [-1, -1]


def test_the_method_ranks_a_group_by_its_tournament() -> None:
    made = load("inpo")
    assert type(made.feedback).__name__ == "BestVersusWorst"
    assert type(made.reward).__name__ == "WinRate"
    assert made.roles["old"].when == "collected"
    assert isinstance(table(FIRST), Table)


def test_refusals() -> None:
    for eta, tau in ((0.0, 0.0), (0.1, 0.2), (0.1, -0.1)):
        with pytest.raises(CompositionError, match="eta"):
            MirrorPreference(eta, tau)
