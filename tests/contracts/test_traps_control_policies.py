"""Traps 52 and 53: log-densities of squashed actions, and statistics of observations."""

import copy
import tempfile

import pytest
import torch
from torch import Tensor

from control_policies import actor, observed, rollout
from policyopt.compose import CompositionError, Copy, Critic, Role, Term
from policyopt.distributions import Gaussian, SquashedGaussian, tanh_log_slope
from policyopt.objective.surrogates import ClippedSurrogate
from policyopt.objective.value import SquaredValueError
from policyopt.policies.bodies import MLP
from policyopt.policies.control_checkpoint import load_control, save_control
from policyopt.policies.tabular import Table
from policyopt.run import StageContext
from policyopt.seen import SeenBatch, collect_roles
from policyopt.types import Batch, Round
from policyopt.update.averaging import TokenMean
from policyopt.update.normalise import UpdateNormaliser
from support import close, context, method, numbers

pytestmark = pytest.mark.usefixtures("float64")


# -- 52 ---------------------------------------------------------------------------------------------------------
def test_trap_52_the_density_of_squashed_actions_integrates_to_one() -> None:
    """Over the action, in one and in two dimensions, for narrow, wide and shifted bases; float32 as well."""
    for dtype, atol in ((torch.float64, 1e-5), (torch.float32, 1e-4)):
        for mean, std in ((0.0, 0.3), (0.5, 1.0), (-1.0, 0.7)):
            base = Gaussian(torch.tensor([mean], dtype=dtype), torch.tensor([std], dtype=dtype))
            u = torch.linspace(-9, 9, 180_001, dtype=dtype)
            density = SquashedGaussian(base).log_prob(u[:, None]).exp()
            close(torch.trapezoid(density.double(), u.double().tanh()), 1.0, atol, f"{dtype} {mean} {std}")
    u = torch.linspace(-7, 7, 1401)
    grid = torch.cartesian_prod(u, u).view(1401, 1401, 2)
    flat = SquashedGaussian(Gaussian(torch.tensor([0.3, -0.5]), torch.tensor([0.6, 0.9])))
    inner = torch.trapezoid(flat.log_prob(grid).exp(), u.tanh(), dim=1)
    close(torch.trapezoid(inner, u.tanh()), 1.0, 1e-5)


def test_trap_52_density_and_gradient_are_finite_at_the_edge() -> None:
    """|a| = 1 - 1e-7 and far beyond what tanh can tell from 1; the log-determinant against float64."""
    for dtype in (torch.float64, torch.float32):
        edge = torch.tensor(1 - 1e-7, dtype=torch.float64).atanh().to(dtype)
        for u in (edge, -edge, torch.tensor(40.0, dtype=dtype), torch.tensor(-300.0, dtype=dtype)):
            mean, log_std = (torch.zeros(1, dtype=dtype, requires_grad=True) for _ in range(2))
            step = u[None].clone().requires_grad_()
            logp = SquashedGaussian(Gaussian(mean, log_std.exp())).log_prob(step)
            gradients = torch.autograd.grad(logp, (mean, log_std, step))
            assert bool(logp.isfinite())
            assert all(bool(g.isfinite().all()) for g in gradients)
            wide = u.double().abs()  # log(1 - tanh^2) = log 4 - 2 |u| - 2 log(1 + exp(-2 |u|))
            exact = torch.log(torch.tensor(4.0)) - 2 * wide - 2 * torch.log1p(torch.exp(-2 * wide))
            close(tanh_log_slope(u), exact, 1e-12 if dtype == torch.float64 else 1e-4)
            # d log-determinant / du = -2 tanh(u), and the normal's part is -u
            close(gradients[2], (-u + 2 * u.tanh())[None], 1e-5)


def test_trap_52_stored_samples_give_ratio_exactly_one() -> None:
    """The sample before the tanh is what the batch holds: scoring it again under the same weights gives the ratio 1
    bit for bit, saturated actions included; atanh of the action does not."""
    for dtype in (torch.float64, torch.float32):
        policy = actor("squashed", "mlp").to(dtype)
        with torch.no_grad():
            policy.out.bias[:3] = 6.0  # actions at 1 - 1e-5 and nearer
            policy.out.bias[3:] = 1.0
        batch = _in(rollout(actor("squashed"), (40,) * 8), dtype)
        batch = batch.with_steps({"_action": policy.at(batch).sample(torch.rand(8, 40, 3)).detach()})
        made = method(Term("policy", ClippedSurrogate(), TokenMean()), roles={"old": Role(when="collected")})
        ctx = context(made, {"policy": policy})
        batch = collect_roles(ctx, batch.with_steps({"advantage": numbers(8, 40, seed=3)}))
        ratio = (SeenBatch(ctx, batch)["policy"].logp - batch.scores["old"].logp).exp()
        assert torch.equal(ratio, torch.ones_like(ratio))
        action = policy.emit(policy.taken(batch))
        assert float(((action - policy.low) / (policy.high - policy.low)).max()) > 1 - 1e-5
        through = batch.with_steps({"_action": policy.receive(action)})
        assert float((policy.score(through).logp - policy.score(batch).logp).abs().max().detach()) > 0.01


def test_trap_52_clipped_actions_are_scored_before_the_clip() -> None:
    """A gaussian policy's density is that of its sample; the world alone sees it clipped."""
    policy = actor("gaussian")
    batch = rollout(policy, (40,) * 8)
    raw, sent = policy.taken(batch), policy.emit(policy.taken(batch))
    outside = (raw != sent).any(-1)
    assert 0.2 < float(outside.double().mean()) < 1
    close(policy.score(batch).logp, batch.step["behaviour"], 1e-10)
    dist = policy.at(batch)
    assert float((dist.log_prob(sent) - batch.step["behaviour"])[outside].abs().min().detach()) > 1e-6


def test_trap_52_sample_averages_need_the_determinant() -> None:
    """E[f(a)] by importance from a uniform over actions equals the mean of samples; without log-det it does not."""
    dist = SquashedGaussian(Gaussian(torch.tensor([0.8]), torch.tensor([0.6])))
    action = torch.linspace(-1, 1, 400_001)[1:-1, None]
    weight = dist.log_prob(action.atanh()).exp()
    share = torch.linspace(0, 1, 20_001)[1:-1, None]
    samples = dist.sample(share).tanh()
    for f in (torch.sin, torch.square):
        integral = torch.trapezoid(weight * f(action[:, 0]), action[:, 0])
        close(integral, f(samples).mean(), 1e-3)
        bare = dist.base.log_prob(action.atanh()).exp()
        assert abs(float(torch.trapezoid(bare * f(action[:, 0]), action[:, 0]) - integral)) > 0.01


def _in(batch: Batch, dtype: torch.dtype) -> Batch:
    return batch.with_steps({name: batch.step[name].to(dtype) for name in ("_obs", "_action")}).with_rows(
        {"_obs": batch.row["_obs"].to(dtype)}
    )


# -- 53 ---------------------------------------------------------------------------------------------------------
HOOK = UpdateNormaliser(also=("critic",))


def _run(*, normalise: bool = True) -> StageContext:
    """A normalising policy, its critic and a frozen reference, none of which has seen anything."""
    policy = actor("squashed", normalise=normalise, critic=MLP((8,)))
    made = method(
        Term("policy", ClippedSurrogate(), TokenMean()),
        Term("value", SquaredValueError(), TokenMean(), trains="critic"),
        roles={"old": Role(when="collected"), "reference": Role("reference", when="collected")},
    )
    models = {"policy": policy, "critic": policy.make_critic(torch.Generator())}
    ctx = context(made, models)
    ctx.run.models["reference"] = Copy().build(ctx.run, "reference")
    return ctx


def _done(batch: Batch) -> Round:
    return Round(batch, batch, batch, {})


def _statistics(model: object) -> list[Tensor]:
    return [buffer.clone() for buffer in model.normaliser.buffers()]  # pyright: ignore[reportAttributeAccessIssue]


def _same(first: list[Tensor], second: list[Tensor]) -> bool:
    return all(torch.equal(a, b) for a, b in zip(first, second, strict=True))


def test_trap_53_statistics_are_those_of_own_steps_of_all_rounds() -> None:
    """Rows of uneven lengths over three rounds, against all observations at once; padding holds other numbers."""
    ctx = _run()
    seen = []
    for number in range(3):
        batch = rollout(ctx.models["policy"], (1, 4, 2 + number), seed=number)
        batch = batch.with_steps({"_obs": torch.where(batch.own[..., None], 7 + 3 * batch.step["_obs"], 1e9)})
        seen.append(batch.step["_obs"][batch.own])
        HOOK(ctx, _done(batch))
    every, norm = torch.cat(seen), ctx.models["policy"].normaliser
    assert int(norm.count) == len(every) == 24
    close(norm.mean, every.mean(0), 1e-12)
    close(norm.variance, every.var(0, correction=0), 1e-10)


def test_trap_53_critics_follow_and_frozen_copies_do_not() -> None:
    ctx = _run()
    before = _statistics(ctx.models["reference"])
    HOOK(ctx, _done(rollout(ctx.models["policy"])))
    policy = _statistics(ctx.models["policy"])
    assert not _same(policy, before)
    assert _same(_statistics(ctx.models["critic"]), policy)
    assert _same(_statistics(ctx.models["reference"]), before)
    late = Critic().build(ctx.run, "late")
    assert _same(_statistics(late), policy), "a critic made later begins with the policy's statistics"
    UpdateNormaliser()(ctx, _done(rollout(ctx.models["policy"], seed=1)))
    assert not _same(_statistics(ctx.models["critic"]), _statistics(ctx.models["policy"])), "`also` names who follows"


def test_trap_53_acting_scoring_and_training_leave_statistics_unchanged() -> None:
    ctx = _run()
    policy = ctx.models["policy"]
    HOOK(ctx, _done(rollout(policy)))
    before = _statistics(policy)
    batch = rollout(policy, seed=5)
    policy.train()
    policy.score(batch)
    policy.at(batch, following=True)
    ctx.models["critic"].value(batch)
    policy.fast()(observed(policy, 3, 1).numpy())
    copy.deepcopy(policy)
    assert _same(_statistics(policy), before)
    assert _same(_statistics(ctx.models["critic"]), before)


def test_trap_53_the_first_updates_ratio_is_one_in_every_round() -> None:
    """Statistics move after the round whose rows they saw, so rows are scored as they were acted."""
    ctx = _run()
    for number in range(3):
        batch = collect_roles(ctx, rollout(ctx.models["policy"], seed=number))
        close(batch.scores["old"].logp[batch.own], batch.step["behaviour"][batch.own], 1e-10)
        HOOK(ctx, _done(batch))
        moved = ctx.models["policy"].score(batch).logp - batch.step["behaviour"]
        assert float(moved[batch.own].abs().max().detach()) > 1e-3, "the statistics matter"


def test_trap_53_saved_loaded_and_resumed_policies_act_the_same() -> None:
    ctx = _run()
    policy = ctx.models["policy"]
    HOOK(ctx, _done(rollout(policy)))
    batch = rollout(policy, seed=9)
    expected = policy.score(batch).logp
    with tempfile.TemporaryDirectory() as folder:
        save_control(policy, folder)
        assert torch.equal(load_control(folder).score(batch).logp, expected)
    resumed = _run()
    for name, model in resumed.run.models.items():
        model.load_state_dict(ctx.run.state()["models"][name])
    assert torch.equal(resumed.models["policy"].score(batch).logp, expected)
    assert torch.equal(resumed.models["critic"].value(batch), ctx.models["critic"].value(batch))
    assert _same(_statistics(resumed.models["policy"]), _statistics(policy))


def test_trap_53_policies_without_statistics() -> None:
    """Nothing to do for a policy that was made without; refused for one that can not have any."""
    ctx = _run(normalise=False)
    HOOK(ctx, _done(rollout(ctx.models["policy"])))
    assert ctx.models["policy"].normaliser is None
    table = context(method(), {"policy": Table(torch.zeros(2, 3))})
    with pytest.raises(CompositionError, match="'policy' is Table"):
        HOOK(table, _done(rollout(actor())))
