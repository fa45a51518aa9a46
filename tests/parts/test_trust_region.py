"""The update with a hard limit: known solutions, the natural gradient, rollback, what it refuses."""

import math
from dataclasses import dataclass, replace
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from policyopt.compose import CompositionError, Loss, Role, Stage, Term
from policyopt.constraint.divergence import ExactKL
from policyopt.objective.decoupled import RatioSurrogate
from policyopt.objective.value import SquaredValueError
from policyopt.policies.tabular import Table, TableCritic
from policyopt.run import Run, StageContext
from policyopt.seen import collect_roles
from policyopt.types import Batch, Categorical, Tasks
from policyopt.update.averaging import TokenMean
from policyopt.update.gradient import GradientSteps, NonFiniteGradientError
from policyopt.update.optimizers import SGD
from policyopt.update.trust_region import TrustRegion, conjugate_gradient
from policyopt.worlds.oracles import fisher, natural_gradient
from policyopt.worlds.tables import TabularMDP, contextual_bandit
from support import close, context, grids, method, numbers, ragged

pytestmark = pytest.mark.usefixtures("float64")

FULL = {"policy": Role(grad=True, full=True), "old": Role(when="collected", full=True)}


# -- the linear solver -------------------------------------------------------------------------------------------------
@given(st.integers(1, 6), st.integers(0, 50))
def test_conjugate_gradients_solve_in_as_many_iterations_as_unknowns(size: int, seed: int) -> None:
    a, b = numbers(size, size, seed=seed), numbers(size, seed=seed + 1)
    matrix = a @ a.T + 0.5 * torch.eye(size).double()
    close(conjugate_gradient(lambda v: matrix @ v, b, 3 * size), torch.linalg.solve(matrix, b), atol=1e-7)


def test_a_singular_system_is_solved_with_the_least_norm() -> None:
    matrix = torch.diag(torch.tensor([2.0, 0.0, 0.5]))
    close(conjugate_gradient(lambda v: matrix @ v, torch.tensor([2.0, 0.0, 1.0]), 9), [1.0, 0.0, 2.0])


# -- a quadratic problem, solved by hand -----------------------------------------------------------------------------
class Point(nn.Module):
    def __init__(self, place: list[float]):
        super().__init__()
        self.place = nn.Parameter(torch.tensor(place))


@dataclass(frozen=True)
class Along(Loss):
    """-g . (place - start) + bend |place - start|^2, on one row of one step."""

    slope: tuple[float, ...] = (3.0, 4.0)
    bend: float = 0.0
    wrong: float = 0.0  # beyond this distance from the start the loss is as high as can be

    def __call__(self, seen: Any, batch: Batch) -> Tensor:
        moved = seen.ctx.models["policy"].place - 1.0
        value = -(torch.tensor(self.slope) * moved).sum() + self.bend * (moved**2).sum()
        if self.wrong and float(moved.detach().norm()) > self.wrong:
            value = value * 0 + 1e6
        return value.expand(1, 1)


@dataclass(frozen=True)
class Quartic(Loss):
    """m^2 / 2 + 2 m^4 of the distance m: beyond its quadratic model everywhere."""

    def __call__(self, seen: Any, batch: Batch) -> Tensor:
        squares = ((seen.ctx.models["policy"].place - 1.0) ** 2).sum()
        return (0.5 * squares + 2 * squares**2).expand(1, 1)


@dataclass(frozen=True)
class Squares(Loss):
    """sum_i c_i (place_i - 1)^2 / 2: the Hessian is diag(c)."""

    curvature: tuple[float, ...] = (1.0, 4.0)

    def __call__(self, seen: Any, batch: Batch) -> Tensor:
        moved = seen.ctx.models["policy"].place - 1.0
        return (0.5 * torch.tensor(self.curvature) * moved**2).sum().expand(1, 1)


def problem(goal: Loss, distance: Loss, limit: float, **options: Any) -> tuple[StageContext, TrustRegion, Batch]:
    # Not quite 0: the full step would lie on the limit, where rounding decides.
    update = TrustRegion(**{"damping": 1e-9, **options})
    terms = (Term("goal", goal, TokenMean()), Term("trust", distance, TokenMean(), limit=limit))
    return context(method(*terms, update=update), {"policy": Point([1.0, 1.0])}), update, ragged((1,))


def place(ctx: StageContext) -> Tensor:
    return ctx.models["policy"].place.detach()


def test_a_linear_goal_in_an_ellipse_by_hand() -> None:
    """max 3 x + 4 y, (x^2 + 4 y^2) / 2 <= 0.5: F^-1 g = (3, 1), x F x = 13, the step sqrt(1 / 13) (3, 1)."""
    ctx, update, batch = problem(Along(), Squares(), 0.5)
    update(ctx, batch)
    close(place(ctx) - 1.0, [3 / math.sqrt(13), 1 / math.sqrt(13)], atol=1e-8)
    found = ctx.meter.result()
    close(found["trust_region/kl"], 0.5, atol=1e-8)
    close(found["trust_region/improvement"], math.sqrt(13), atol=1e-8)
    assert (found["trust_region/accepted"], found["trust_region/shrunk"]) == (1.0, 0.0)
    assert ctx.updates == 1


def test_damping_is_added_to_the_curvature_and_shortens_the_step() -> None:
    """(F + 1) x = g: x = (1.5, 0.8); its length counts the damping: 2 * 0.5 / (1.5^2 * 2 + 0.8^2 * 5)."""
    ctx, update, batch = problem(Along(), Squares(), 0.5, damping=1.0)
    update(ctx, batch)
    length = math.sqrt(1.0 / (2 * 1.5**2 + 5 * 0.8**2))
    close(place(ctx) - 1.0, [1.5 * length, 0.8 * length])
    assert ctx.meter.result()["trust_region/kl"] < 0.5


def test_few_iterations_are_steepest_ascent() -> None:
    """One iteration from 0: x = (g g / g F g) g, so the step is along g and F only sets its length."""
    ctx, update, batch = problem(Along(), Squares(), 0.5, iterations=1)
    update(ctx, batch)
    moved = place(ctx) - 1.0
    close(moved / moved.norm(), [0.6, 0.8])


def test_the_search_takes_the_first_step_that_helps_and_is_allowed() -> None:
    """Without curvature in the goal's model: a goal that is bad beyond 0.3 rejects the lengths 0.88, 0.44."""
    ctx, update, batch = problem(Along(wrong=0.3), Squares(), 0.5)
    update(ctx, batch)
    full = torch.tensor([3.0, 1.0]) / math.sqrt(13)
    close(place(ctx) - 1.0, full / 4, atol=1e-8)
    assert ctx.meter.result()["trust_region/shrunk"] == 2.0
    ctx, update, batch = problem(Along(wrong=0.3), Squares(), 0.5, shrink=0.2)
    update(ctx, batch)
    close(place(ctx) - 1.0, full / 5, atol=1e-8)


def test_a_step_beyond_the_limit_is_halved() -> None:
    """The model's full length 1 has D = 2.5, a half 0.25: the first within 0.5."""
    ctx, update, batch = problem(Along(), Quartic(), 0.5)
    update(ctx, batch)
    close(place(ctx) - 1.0, [0.3, 0.4], atol=1e-8)
    close(ctx.meter.result()["trust_region/kl"], 0.25, atol=1e-8)


def test_a_step_that_is_not_taken_leaves_every_bit() -> None:
    """The goal is bad everywhere but at the start, whose numbers no sum of halves gives back."""
    ctx, update, batch = problem(Along(wrong=1e-9), Squares(), 0.5)
    update(ctx, batch)
    assert place(ctx).tolist() == [1.0, 1.0]
    assert ctx.meter.result()["trust_region/accepted"] == 0.0


def test_a_share_of_the_promised_improvement() -> None:
    """Goal 5 t - bend t^2 along a circle of radius 1: at t = 1 a bend of 4 leaves 1 / 5 of the promise, at 1/2 3/5."""
    for share, expected in ((0.0, 1.0), (0.19, 1.0), (0.21, 0.5), (0.61, 0.25)):
        ctx, update, batch = problem(Along(bend=4.0), Squares((1.0, 1.0)), 0.5, share=share)
        update(ctx, batch)
        close((place(ctx) - 1.0).norm(), expected, atol=1e-8, what=f"share {share}")


@pytest.mark.parametrize(
    "goal",
    [Along(slope=(0.0, 0.0)), Along(wrong=1e-9), Along(slope=(0.0, 0.0), bend=1.0)],
    ids=["no slope", "no step is accepted", "at the best point"],
)
def test_nothing_to_gain_leaves_every_bit(goal: Loss) -> None:
    ctx, update, batch = problem(goal, Squares(), 0.5)
    with torch.no_grad():
        ctx.models["policy"].place.copy_(torch.tensor([1.0, 1.0]))
    before = place(ctx).clone()
    update(ctx, batch)
    assert torch.equal(place(ctx), before)
    found = ctx.meter.result()
    assert found["trust_region/accepted"] == 0.0
    assert "trust_region/kl" not in found


def test_a_distance_that_is_not_finite_is_no_step() -> None:
    class Broken(Squares):
        def __call__(self, seen: Any, batch: Batch) -> Tensor:
            value = super().__call__(seen, batch)
            return value if float(value.detach().max()) == 0 else value * float("nan")

    ctx, update, batch = problem(Along(), Broken(), 0.5)
    update(ctx, batch)
    close(place(ctx), [1.0, 1.0], atol=0.0)


def test_a_gradient_that_is_not_finite_is_refused_before_anything_moves() -> None:
    ctx, update, batch = problem(Along(slope=(float("inf"), 1.0)), Squares(), 0.5)
    with pytest.raises(NonFiniteGradientError, match="goal"):
        update(ctx, batch)
    close(place(ctx), [1.0, 1.0], atol=0.0)


# -- policies ------------------------------------------------------------------------------------------------------
def every_choice(mdp: TabularMDP, policy: Table) -> Batch:
    """Every choice in every context once, as rows of one step; advantages of the policy times its probability, so that
    sums over rows are expectations."""
    contexts, actions = len(mdp.start_at), mdp.actions
    ids = torch.arange(contexts).repeat_interleave(actions)
    batch = mdp.start(Tasks(ids))
    step = torch.arange(actions).repeat(contexts)
    every = torch.zeros(len(ids))
    batch = mdp.append(batch, step, every, torch.ones(len(ids), dtype=torch.bool), 0)
    p = policy.logits.detach().softmax(-1)[:contexts]
    worth = mdp.mean_reward[:contexts]
    advantage = p * (worth - (p * worth).sum(1, keepdim=True))
    return batch.with_steps({"advantage": advantage.flatten()[:, None], "return": advantage.flatten()[:, None]})


def natural(limit: float, **options: Any) -> tuple[Table, Tensor, TabularMDP, dict[str, float]]:
    mdp = contextual_bandit(numbers(3, 4, seed=1))
    policy = Table(numbers(4, 4, seed=2))
    start = policy.logits.detach().clone()
    update = TrustRegion(**{"damping": 0.0, "iterations": 12, **options})
    terms = (
        Term("policy", RatioSurrogate(), TokenMean()),
        Term("trust", ExactKL("old", "policy"), TokenMean(), limit=limit),
    )
    ctx = context(method(*terms, update=update, roles=FULL), {"policy": policy}, mdp)
    batch = collect_roles(ctx, every_choice(mdp, policy))
    update(ctx, batch)
    return policy, start, mdp, ctx.meter.result()


def test_a_softmax_table_moves_along_the_natural_gradient() -> None:
    """The logits move by the advantage, up to a number a state (Kakade 2001), and not by its product with pi."""
    policy, start, mdp, found = natural(1e-3)
    moved = policy.logits.detach() - start
    natural_ = natural_gradient(mdp, start)
    close(moved / moved.norm(), natural_ / natural_.norm(), atol=1e-9)
    p = start.softmax(-1)[:3]
    worth = mdp.mean_reward[:3]
    advantage = worth - (p * worth).sum(1, keepdim=True)
    close((moved[:3] - moved[:3].mean(1, keepdim=True)) / moved.norm(),
          (advantage - advantage.mean(1, keepdim=True)) / natural_.norm(), atol=1e-9)  # fmt: skip
    assert found["trust_region/kl"] <= 1e-3


def test_without_fisher_information_the_direction_is_another() -> None:
    policy, start, mdp, _ = natural(1e-3, damping=1e6)
    moved, natural_ = policy.logits.detach() - start, natural_gradient(mdp, start)
    cosine = float((moved * natural_).sum() / moved.norm() / natural_.norm())
    assert cosine < 0.99


def test_a_small_limit_is_the_quadratic_model() -> None:
    """delta -> 0: the full step, along F^-1 g, with D / delta -> 1 and J / sqrt(2 delta g F^-1 g) -> 1."""
    ratios = []
    for limit in (1e-2, 1e-4, 1e-6):
        policy, start, mdp, found = natural(limit)
        moved = policy.logits.detach() - start
        blocks = fisher(mdp, start)  # of one visit to a random context: the batch's weights
        quadratic = 0.5 * torch.einsum("sa,sab,sb->", moved, blocks, moved) * (4 ** found["trust_region/shrunk"])
        close(quadratic / limit, 1.0, atol=1e-6)
        ratios.append(found["trust_region/kl"] * 4 ** found["trust_region/shrunk"] / limit)
    assert abs(ratios[2] - 1) < abs(ratios[0] - 1)
    close(ratios[2], 1.0, atol=1e-2)


@given(st.integers(0, 30), st.sampled_from([1e-3, 1e-2, 0.3]), st.sampled_from([None, 1, 2, 3]))
def test_accepted_steps_are_within_the_limit_and_better(seed: int, limit: float, micro_rows: int | None) -> None:
    """D <= limit and J > J_old, evaluated again from outside."""
    models = grids(full=True)
    batch = ragged(seed=seed)
    update = TrustRegion(micro_rows=micro_rows)
    terms = (
        Term("policy", RatioSurrogate(), TokenMean()),
        Term("trust", ExactKL("old", "policy"), TokenMean(), limit=limit),
    )
    ctx = context(method(*terms, update=update, roles=FULL), {"policy": models["policy"]})
    start = models["policy"].logits.detach().clone()
    update(ctx, collect_roles(ctx, batch))
    now, found = models["policy"].logits.detach(), ctx.meter.result()
    own = batch.trained
    before, after = (Categorical.of(x[:4, :13]) for x in (start, now))
    kl = before.kl(after)[own].mean()
    step = batch.step["_step"]
    ratio = (after.log_prob(step) - before.log_prob(step)).exp()
    gain = ((ratio - 1) * batch.step["advantage"])[own].mean()
    assert found["trust_region/accepted"] == 1.0
    assert 0 < float(kl) <= limit
    assert float(gain) > 0
    close(found["trust_region/kl"], kl, atol=1e-12)
    close(found["trust_region/improvement"], gain, atol=1e-12)


def test_micro_batches_change_memory_only() -> None:
    found = []
    for micro_rows in (None, 1, 3):
        models = grids(full=True)
        update = TrustRegion(micro_rows=micro_rows)
        terms = (
            Term("policy", RatioSurrogate(), TokenMean()),
            Term("trust", ExactKL("old", "policy"), TokenMean(), limit=0.01),
        )
        ctx = context(method(*terms, update=update, roles=FULL), {"policy": models["policy"]})
        update(ctx, collect_roles(ctx, ragged()))
        found.append(models["policy"].logits.detach())
    for other in found[1:]:
        close(other, found[0], atol=1e-9)


# -- other models, and what is refused ---------------------------------------------------------------------------------
def test_then_trains_the_critic_by_its_own_terms_only() -> None:
    """The critic's steps are those of gradient steps alone; no term of the policy is seen by them, nor the reverse."""
    terms = (
        Term("policy", RatioSurrogate(), TokenMean()),
        Term("value", SquaredValueError(), TokenMean(), trains="critic"),
        Term("trust", ExactKL("old", "policy"), TokenMean(), limit=0.01),
    )
    fit = GradientSteps({"critic": SGD(0.5)}, epochs=3, clip_norm=None)
    both = context(method(*terms, update=TrustRegion(then=fit), roles=FULL), grids(full=True))
    alone = context(method(terms[1], update=fit), grids(full=True))
    policy_alone = context(method(terms[0], terms[2], update=TrustRegion(), roles=FULL), grids(full=True))
    for ctx in (both, alone, policy_alone):
        ctx.stage.update(ctx, collect_roles(ctx, ragged()))
    close(both.models["critic"].values, alone.models["critic"].values, atol=0.0)
    close(both.models["policy"].logits, policy_alone.models["policy"].logits, atol=0.0)
    assert both.updates == 4
    assert both.meter.result()["loss/value"] > 0


def test_a_hard_limit_needs_this_update() -> None:
    term = Term("trust", ExactKL("old", "policy"), TokenMean(), limit=0.01)
    with pytest.raises(CompositionError, match="hard limit"):
        method(term, update=GradientSteps({"policy": SGD()}), roles=FULL)
    method(term, update=TrustRegion(), roles=FULL)
    with pytest.raises(CompositionError, match="optimisers for"):
        method(Term("value", SquaredValueError(), TokenMean(), trains="critic"), update=TrustRegion())


@pytest.mark.parametrize("limits", [(), (0.1, 0.1)], ids=["none", "two"])
def test_exactly_one_limit(limits: tuple[float, ...]) -> None:
    kinds = (ExactKL("old", "policy"), ExactKL("policy", "old"))
    terms = [Term(str(n), kinds[n], TokenMean(), limit=limit) for n, limit in enumerate(limits)]
    goal = Term("goal", RatioSurrogate(), TokenMean())
    if len(limits) == 2:  # one distance is charged once, so the second is to another policy
        terms[1] = replace(terms[1], loss=ExactKL("policy", "reference"))
    roles = {**FULL, "reference": Role("old", full=True)}
    ctx = context(method(goal, *terms, update=TrustRegion(), roles=roles), grids(full=True))
    with pytest.raises(CompositionError, match="exactly one term with a limit"):
        ctx.stage.update(ctx, collect_roles(ctx, ragged()))


@pytest.mark.parametrize(
    "options",
    [{"iterations": 0}, {"backtracks": 0}, {"micro_rows": 0}, {"damping": -1.0}, {"shrink": 1.0}, {"share": 1.0}],
)
def test_options_out_of_range_are_refused(options: dict[str, Any]) -> None:
    with pytest.raises(CompositionError):
        TrustRegion(**options)


def test_the_run_goes_on_from_its_state() -> None:
    """The update itself keeps nothing; with the critic's optimiser restored, two rounds are two rounds."""
    fit = GradientSteps({"critic": SGD(0.1, momentum=0.9)}, epochs=2)
    terms = (
        Term("policy", RatioSurrogate(), TokenMean()),
        Term("value", SquaredValueError(), TokenMean(), trains="critic"),
        Term("trust", ExactKL("old", "policy"), TokenMean(), limit=0.01),
    )
    made = method(*terms, update=TrustRegion(then=fit), roles=FULL)

    def new() -> Run:
        return Run({"policy": Table(numbers(4, 5, seed=1)), "critic": TableCritic(4, torch.float64)}, None, None)

    def one(run: Run, seed: int) -> None:
        ctx = StageContext(run, Stage(made, 10))
        state = torch.arange(13).expand(4, 13) % 4
        batch = ragged(seed=seed).with_steps({"_state": state}).with_rows({"_state": state[:, 0]})
        made.update(ctx, collect_roles(ctx, batch))
        run.tick()

    straight, first, second = new(), new(), new()
    one(straight, 0)
    one(straight, 1)
    one(first, 0)
    for name, model in second.models.items():
        model.load_state_dict(first.models[name].state_dict())
    second.step, second.updates = first.step, first.updates
    second._saved_optimizers = first.state()["optimizers"]
    one(second, 1)
    for name, model in second.models.items():
        for own, other in zip(model.parameters(), straight.models[name].parameters(), strict=True):
            assert torch.equal(own, other), name
