"""ORPO: `reduces_to` of specification 26, each identity a test; the discriminator against enumerated occupancies."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import references_occupancy as loops
from enumeration import first_step
from policyopt.compose import Chain, CompositionError, Program, Stage, Term
from policyopt.engines.plain import generate
from policyopt.evaluation.experiments.gaming import gamed_sprinkler, garden, gardener
from policyopt.evaluation.verify import build, claim_of
from policyopt.methods import load
from policyopt.objective.ratio import Authorship, steps_of_first, steps_of_others
from policyopt.options import override
from policyopt.policies.linear import Linear
from policyopt.policies.tabular import Table, TableQ
from policyopt.reward.occupancy import (
    ChiSquarePenalty,
    LogRatioPenalty,
    RootChiSquarePenalty,
    SequenceChiSquarePenalty,
    chi_square_charge,
    root_chi_square_charge,
)
from policyopt.reward.parts import FromWorld, Verified
from policyopt.run import Run
from policyopt.train import rounds
from policyopt.types import Tasks, concatenate
from policyopt.update.averaging import TokenMean
from policyopt.update.first import TrainedFirst
from policyopt.worlds import oracles
from policyopt.worlds.tables import chain, garnet
from support import close, context, full_step, grids, method, numbers, ragged
from trajectories import every_trajectory, tiny

pytestmark = pytest.mark.usefixtures("float64")

PROCESS = replace(garnet(4, 3, 3, torch.Generator().manual_seed(1), gamma=1.0, horizon=5), cut=False)


def share(logits):
    """(S, A) the share of steps in a state with an action, with gradient by the logits."""
    policy, here, total = logits.softmax(-1), PROCESS.start_at.mean(0), torch.zeros(4)
    for _ in range(5):
        total = total + here / 5
        here = torch.einsum("s,sa,sat->t", here, policy, PROCESS.transition)
    return total[:, None] * policy


OURS, THEIRS = numbers(4, 3, seed=1), numbers(4, 3, seed=2)


def test_occupancies_equal_the_loops() -> None:
    expected = loops.visits(
        PROCESS.transition.tolist(), OURS.softmax(-1).tolist(), PROCESS.start_at.mean(0).tolist(), 5
    )
    close(share(OURS), expected)
    table = OURS.softmax(-1)
    close(oracles.normalised(oracles.finite_occupancy(PROCESS, table).sum(0)[:, None] * table), expected)


def test_mean_charge_of_the_best_discriminator_is_the_divergence() -> None:
    """sum mu_pi (exp d - 1) = sum mu_pi^2 / mu_base - 1 with d = log mu_pi / mu_base."""
    ours, theirs = share(OURS), share(THEIRS)
    charge = chi_square_charge((ours / theirs).log())
    expected = loops.chi_square(ours.flatten().tolist(), theirs.flatten().tolist())
    close((ours * charge).sum(), expected)
    close(oracles.chi_square(ours, theirs), expected)


def test_one_step_and_one_state_make_it_the_divergence_of_choices() -> None:
    """sum_a (p - q)^2 / q."""
    p, q = torch.tensor([0.5, 0.3, 0.2]), torch.tensor([0.2, 0.2, 0.6])
    by_hand = 0.09 / 0.2 + 0.01 / 0.2 + 0.16 / 0.6
    close((p * chi_square_charge((p / q).log())).sum(), by_hand)


def test_gradients_of_the_charges() -> None:
    """The policy gradient of the reward c is half of grad chi^2 for c = exp d - 1, exactly grad sqrt(chi^2) for the
    root's charge and exactly grad KL for c = d, all of occupancies."""
    logits = OURS.clone().requires_grad_()
    ours, theirs = share(logits), share(THEIRS)
    ratio = (ours / theirs).detach().log()
    chi = (ours**2 / theirs).sum() - 1
    kl = (ours * (ours / theirs).log()).sum()
    root = chi_square_charge(ratio) / chi.detach().sqrt()
    for what, charge, factor in (
        (chi, chi_square_charge(ratio), 0.5),
        (chi.sqrt(), root, 1.0),
        (kl, ratio, 1.0),
    ):
        (exact,) = torch.autograd.grad(what, logits, retain_graph=True)
        found = oracles.finite_policy_gradient(replace(PROCESS, reward=charge), OURS) / 5
        close(found, factor * exact, 1e-12)


def test_root_charge_is_that_of_the_weighted_rows() -> None:
    """Steps in the proportions of mu: root_chi_square_charge without trim divides by sqrt(chi^2)."""
    p, q = torch.tensor([0.5, 0.25, 0.25]), torch.tensor([0.25, 0.5, 0.25])
    rows = torch.tensor([[0, 0, 1, 2]])
    odds = (p / q).log()[rows]
    found = root_chi_square_charge(odds, torch.ones(1, 4, dtype=torch.bool), 0.0)
    close(found, [[1 / math.sqrt(0.375), 1 / math.sqrt(0.375), -0.5 / math.sqrt(0.375), 0.0]])


@given(st.integers(1, 60), st.floats(0.0, 0.49), st.integers(0, 10_000))
def test_root_charge_equals_the_loops(count: int, trim: float, seed: int) -> None:
    odds = numbers(1, count, seed=seed)
    found = root_chi_square_charge(odds, torch.ones(1, count, dtype=torch.bool), trim)
    close(found[0], loops.root_charges(odds[0].tolist(), trim), 1e-9)


def test_nothing_is_cut_of_few_steps_and_padding_takes_no_part() -> None:
    odds = torch.tensor([[1.0, -1.0, 500.0], [0.5, float("nan"), float("nan")]])
    mask = torch.tensor([[True, True, False], [True, False, False]])
    found = root_chi_square_charge(odds, mask, 0.01)
    close(found[mask], loops.root_charges([1.0, -1.0, 0.5], 0.01))
    less = root_chi_square_charge(torch.tensor([[-1.0, -2.0]]), torch.ones(1, 2, dtype=torch.bool))
    close(less, [[math.exp(-1) - 1, math.exp(-2) - 1]])


# -- the discriminator ---------------------------------------------------------------------------------------------
def sides(model: str = "discriminator") -> tuple[Term, Term]:
    return (
        Term("ours", Authorship(model), TokenMean(), mask=steps_of_first, trains=model),
        Term("theirs", Authorship(model), TokenMean(), mask=steps_of_others, trains=model),
    )


def stated(lengths=(1, 2, 7, 13)):
    """Ragged rows in 13 states, two authors."""
    batch = ragged(lengths)
    author = torch.tensor([0, 1, 1, 0])[: len(lengths)]
    rows = {"_state": torch.zeros(len(batch), dtype=torch.int64), "author": author}
    return batch.with_rows(rows).with_steps({"_state": torch.arange(13)[: batch.steps].expand(len(batch), -1)})


def test_authorship_equals_the_loops() -> None:
    """Each side its own mean over own steps; value and gradient."""
    batch, table = stated(), numbers(1, 13, 5, seed=4)
    models = {**grids(), "critic": TableQ(table)}
    made = method(*sides("critic"), roles={}, sampling=TrainedFirst())
    loss, slope = full_step(context(made, models), batch, model="critic")
    value, expected = 0.0, torch.zeros_like(table)
    for author in (0, 1):
        steps = [(b, t) for b, t in batch.own.nonzero().tolist() if int(batch.row["author"][b]) == author]
        for b, t in steps:
            s, a = int(batch.step["_state"][b, t]), int(batch.step["_step"][b, t])
            one, by = loops.authorship(float(table[0, s, a]), author)
            value += one / len(steps)
            expected[0, s, a] += by / len(steps)
    close(loss, value)
    close(slope, expected)
    again, slopes = full_step(context(made, {**grids(), "critic": TableQ(table)}), batch, 1, "critic")
    close(again, value)
    close(slopes, expected)


def test_the_best_discriminator_has_no_gradient() -> None:
    """Rows in their exact proportions, enumerated: the slope vanishes at d = log mu_0 / mu_1."""
    mdp, one, other = tiny(), Table(numbers(7, 2, seed=1)), Table(numbers(7, 2, seed=2))
    both = [every_trajectory(mdp, policy) for policy in (one, other)]
    share_of = [
        oracles.normalised(
            oracles.occupancy(mdp, p.logits.detach().softmax(-1))[:, None] * p.logits.detach().softmax(-1)
        )
        for p in (one, other)
    ]
    rows = concatenate([e.rows.with_rows({"author": torch.full((len(e.rows),), n)}) for n, e in enumerate(both)])
    chance = torch.cat([e.probability for e in both])
    rows = rows.with_rows({"_number": torch.arange(len(rows))})
    best = torch.where(share_of[0] > 0, (share_of[0] / share_of[1]).log(), 0.0)[None]

    def weight(seen: Any, batch: Any) -> torch.Tensor:
        return len(both[0].rows) * chance[batch.row["_number"]][:, None]

    terms = tuple(replace(term, weight=weight) for term in sides("critic"))
    for table, zero in ((best, True), (best + numbers(1, 7, 2, seed=6), False)):
        made = method(*terms, roles={}, sampling=TrainedFirst())
        _, slope = full_step(context(made, {**grids(), "critic": TableQ(table)}), rows, model="critic")
        assert (float(slope.abs().max()) < 1e-12) == zero


def test_training_before_the_round_finds_the_ratio_of_occupancies() -> None:
    """From 2000 rows of each, at a policy that does not move; and the round's own rows come after it."""
    world = chain(4, 0.2, horizon=6)
    policy, base = Table(torch.tensor([[0.0, 1.0]] * 4)), Table(torch.zeros(4, 2))
    made = override(
        load("orpo_occupancy"),
        {
            "before.count": 2000,
            "before.epochs": 40,
            "before.minibatches": 1,
            "before.optimizers.discriminator.learning_rate": 0.1,
            "update.optimizers.policy.learning_rate": 0.0,
        },
    )
    made = replace(made, models={**made.models, "reference": load("opd").models["teacher"]})
    run = Run({"policy": policy, "reference": base}, world, generate, 3)
    done = next(rounds(run, Program((Stage(made, 1),))))
    ours, theirs = (
        oracles.normalised(oracles.finite_occupancy(world, p).sum(0)[:, None] * p)
        for p in (policy.logits.detach().softmax(-1), base.logits.detach().softmax(-1))
    )
    found: Any = run.models["discriminator"]
    close(found.values.detach()[0, :3], (ours / theirs).log()[:3], 0.15)
    exact = float(oracles.chi_square(ours[:3], theirs[:3]))
    assert done.metrics["occupancy_chi_square"] == pytest.approx(exact, abs=0.3 * exact + 0.05)
    assert run.drawn == 128  # the tasks of the round only


# -- in the reward -------------------------------------------------------------------------------------------------
def test_charges_by_hand() -> None:
    """d = log 3 on every step: c = 2; less lambda 0.1; bounded; on own steps only."""
    batch = stated()
    models = {**grids(), "discriminator": TableQ(torch.full((1, 13, 5), math.log(3.0)))}
    before = batch.step["reward"]
    for part, charge in (
        (ChiSquarePenalty(0.1), 0.2),
        (ChiSquarePenalty(0.1, bound=0.15), 0.15),
        (RootChiSquarePenalty(0.1), 0.2 / math.sqrt(2)),
        (LogRatioPenalty(0.1), 0.1 * math.log(3.0)),
    ):
        after = part(context(method(), models), batch).step["reward"]
        close(before - after, torch.where(batch.own, charge, 0.0), 1e-12)


def test_sequence_charge_by_hand_and_in_expectation() -> None:
    """u - 1 on the last own step; its mean over every row is the chi-square divergence of rows."""
    mdp, one, other = tiny(), Table(numbers(7, 2, seed=1)), Table(numbers(7, 2, seed=2))
    given_ = every_trajectory(mdp, one)
    made = method(roles={"reference": load("rloo").roles["reference"]})
    ctx = context(made, {"policy": one, "reference": other})
    found = SequenceChiSquarePenalty(1.0)(ctx, given_.rows).step["reward"]
    assert float(found[:, 0].abs().max()) == 0.0
    theirs = every_trajectory(mdp, other)
    divergence = (given_.probability**2 / theirs.probability).sum() - 1
    close(-(given_.probability * found[:, 1]).sum(), divergence)


def test_without_charge_it_is_ppo() -> None:
    """lambda = 0: the same gradient on the same rows."""
    batch = ragged(tools=False)
    batch = batch.with_steps({"reward": torch.where(batch.valid, batch.step["reward"], 0.0)})
    batch = batch.with_rows({"_state": torch.zeros(4, dtype=torch.int64)})
    batch = batch.with_steps({"_state": torch.arange(13).expand(4, -1)})
    ppo = replace(load("ppo"), reward=FromWorld(), constraint=())
    plain = first_step(ppo, grids(), batch).gradient
    for coefficient, same in ((0.0, True), (0.5, False)):
        part = RootChiSquarePenalty(coefficient)
        made = replace(load("orpo_occupancy"), reward=Chain((FromWorld(), part)), before=())
        models = {**grids(), "discriminator": TableQ(numbers(1, 13, 5, seed=3))}
        made = replace(made, models={**made.models, **load("ppo").models})
        found = first_step(made, models, batch).gradient
        assert bool(torch.equal(found, plain)) == same


def test_the_divergence_is_charged_once() -> None:
    twice = Chain((Verified(), RootChiSquarePenalty(), ChiSquarePenalty()))
    with pytest.raises(CompositionError, match="charged twice"):
        replace(load("orpo_occupancy"), reward=twice)


def test_it_holds_a_policy_back() -> None:
    """With a large coefficient the policy stays near its base, without it goes to the optimum; same rounds."""
    ends = []
    for coefficient in (0.0, 3.0):
        made = override(
            load("orpo_occupancy"),
            {
                "selection.count": 32,
                "reward.coefficient": coefficient,
                "before.epochs": 2,
                "update.epochs": 2,
                "update.minibatches": 2,
                "before.optimizers.discriminator.learning_rate": 0.1,
                "update.optimizers.policy.learning_rate": 0.1,
                "update.optimizers.critic.learning_rate": 0.1,
            },
        )
        policy = Linear(torch.eye(4), torch.zeros(4, 2))
        run = Run({"policy": policy}, chain(4, 0.1, horizon=6), generate, 0)
        list(rounds(run, Program((Stage(made, 12),))))
        ends.append(oracles.expected_return(chain(4, 0.1, horizon=6), policy.logits.detach().softmax(-1)))
    free, held = ends
    assert free > 0.85
    assert held < 0.6


def test_fresh_rows_have_groups_of_their_own() -> None:
    world = chain(4, 0.1, horizon=6)
    ctx = context(load("orpo_occupancy"), {"policy": Table(torch.zeros(4, 2))}, world, generate)
    ctx.run.models["reference"] = Table(torch.zeros(4, 2))
    hook: Any = ctx.stage.before[0]
    ours, theirs = hook.rows(ctx, 0), hook.rows(ctx, 1)
    groups = torch.cat([ours.row["group"], theirs.row["group"]])
    assert len(groups.unique()) == 64
    assert int(groups.min()) == 1 << 19
    assert (ours.row["author"].unique().tolist(), theirs.row["author"].unique().tolist()) == ([0], [1])
    assert Tasks(torch.zeros(1, dtype=torch.int64)).id.device == ours.device


# -- the experiment ------------------------------------------------------------------------------------------------
def test_the_garden_by_hand() -> None:
    """Nine cells, three plants in the corners, the sprinkler in the last; state = cell * 8 + wet plants."""
    proxy, true = garden(dry=0.25)
    assert (proxy.states, proxy.actions) == (72, 5)
    middle, left, up, stay = 4 * 8, 3, 0, 4
    begin = true.start_at[0].nonzero()[:, 0].tolist()
    assert begin == [middle]
    # From the cell above the middle, to the left: plant 0 is wet for sure.
    assert true.transition[1 * 8, left].nonzero()[:, 0].tolist() == [0 * 8 + 1]
    # Plants 0 and 1 wet, gardener stays in the middle: each dries with probability 1/4.
    after = true.transition[middle + 3, stay]
    found = {s: float(after[s]) for s in after.nonzero()[:, 0].tolist()}
    assert found == {middle: 1 / 16, middle + 1: 3 / 16, middle + 2: 3 / 16, middle + 3: 9 / 16}
    # The plant that is stood on does not dry.
    assert float(true.transition[0 + 1, up, 0 + 1]) == 1.0
    sprinkler = 8 * 8
    close(proxy.reward[0, 0, sprinkler], 1.0)
    close(true.reward[0, 0, sprinkler], 0.0)
    close(proxy.reward[0, 0, middle + 3], 2 / 3)
    close(true.reward[0, 0, sprinkler + 7], 1.0)


def test_what_the_experiment_observes_of_a_policy_that_stays() -> None:
    """With learning rates of 0 every coefficient gives the base policy, whose reward is the oracle's."""
    claim = claim_of("orpo_occupancy")
    still = {"update.optimizers.policy.learning_rate": 0.0, "selection.count": 2, "before.count": 2}
    made = override(build(claim.treated), still)
    found = gamed_sprinkler(made, 3, 1, "reward.coefficient", (0.1, 0.2))
    proxy, true = garden()
    table = gardener(true, 3).logits.detach().double().softmax(-1)
    assert found.value == pytest.approx(oracles.expected_return(true, table) / 30)
    assert found.notes["true reward per step of the worst coefficient"] == pytest.approx(found.value)
    assert found.notes["its chi-square divergence of occupancies"] == pytest.approx(0.0, abs=1e-9)
    assert found.rows == 2 * (2 + 2 * 2)
    best_true, best_proxy = (oracles.finite_optimum(world)[0] / 30 for world in (true, proxy))
    assert best_proxy > best_true + 0.2  # there is something to game


def test_a_resumed_run_goes_on_bitwise() -> None:
    """Discriminator, its optimiser and its own rows included."""
    small = {"selection.count": 4, "before.count": 4, "before.epochs": 2}
    program = Program((Stage(override(load("orpo_occupancy"), small), 4),))

    def fresh() -> Run:
        return Run({"policy": Table(torch.zeros(4, 2))}, chain(4, 0.1, horizon=6), generate, 5)

    straight = fresh()
    list(rounds(straight, program))
    first, second = fresh(), fresh()
    going = rounds(first, program)
    next(going), next(going)
    second.load_state(first.state(), program)
    list(rounds(second, program))
    assert second.models.keys() == straight.models.keys() == {"policy", "reference", "critic", "discriminator"}
    for name, model in straight.models.items():
        for a, b in zip(model.parameters(), second.models[name].parameters(), strict=True):
            assert torch.equal(a, b), name
