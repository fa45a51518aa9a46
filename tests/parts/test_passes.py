"""Micro-batches by tokens, rows without gradient, the sampler's log-probabilities as the old ones."""

from __future__ import annotations

import pytest
import torch

from policyopt.compose import CompositionError, Role, Term, trained_rows
from policyopt.engines.native import NativeEngine
from policyopt.objective.surrogates import ClippedSurrogate, ProductSequenceSurrogate
from policyopt.ops.random import new_keys
from policyopt.policies.checkpoint import new_language
from policyopt.policies.language import Language
from policyopt.seen import collect_roles
from policyopt.types import Batch, Source
from policyopt.update.averaging import RowMean, SequenceMean, TokenMean
from policyopt.update.gradient import GradientSteps, plan, planned_losses
from policyopt.update.micro_batches import Passes, idle_rows, sizes
from policyopt.update.optimizers import SGD
from policyopt.worlds.tokens import TokenWorld
from support import context, method

PROMPTS = [[3, 1, 4], [5], [2, 6]]


def policy_and_rows() -> tuple[Language, Batch]:
    """A float64 model and 12 rows of three prompts that it sampled, of uneven lengths, in groups of four."""
    policy = new_language(9, "gpt_neox", hidden_size=16, layers=1, heads=2, seed=3, dtype=torch.float64)
    world = TokenWorld(PROMPTS, eos=0, limit=6, decode=str)
    batch = world.start(world.tasks(torch.arange(3)).with_rows({"group": torch.arange(3)}).repeat(4))
    batch = NativeEngine()(policy, world, batch, new_keys(12, torch.Generator().manual_seed(1)), 1.0, 0)
    advantage = torch.tensor([0.5, -1.0, 0.5, 2.0, 0.0, 0.0, 0.0, 0.0, 1.0, 0.0, -1.0, 0.0], dtype=torch.float64)
    return policy, batch.with_steps({"advantage": advantage[:, None].expand(12, batch.steps).clone()})


def surrogate(average=None) -> Term:
    return Term("policy", ClippedSurrogate(), average or SequenceMean())


def slopes(policy: Language, batch: Batch, passes: Passes | None, *terms: Term) -> list[torch.Tensor]:
    ctx = context(method(*(terms or (surrogate(),)), roles={"old": Role(when="collected")}), {"policy": policy})
    batch = collect_roles(ctx, batch)
    parameters = list(policy.parameters())
    total = [torch.zeros_like(p) for p in parameters]
    value = torch.zeros((), dtype=torch.float64)
    for loss in planned_losses(ctx, batch, plan(ctx, batch, ctx.stage.terms), passes):
        value = value + loss.detach()
        if loss.requires_grad:
            for held, part in zip(total, torch.autograd.grad(loss, parameters, allow_unused=True), strict=True):
                held += 0 if part is None else part
    metrics = ctx.meter.result()
    return [value, torch.tensor([metrics[name] for name in sorted(metrics)]), *total]


@pytest.mark.parametrize("passes", [Passes(tokens=1), Passes(tokens=20), Passes(3), Passes(skip_idle=True)])
@pytest.mark.parametrize("term", [surrogate(), surrogate(TokenMean())])
def test_traps_1_to_7_passes_change_no_value_gradient_or_metric(passes, term):
    policy, batch = policy_and_rows()
    plain = slopes(policy, batch, None, term)
    assert float(plain[2].abs().max()) > 1e-6
    for part, whole in zip(slopes(policy, batch, passes, term), plain, strict=True):
        torch.testing.assert_close(part, whole, rtol=0, atol=1e-12)


def test_a_pass_has_no_more_tokens_than_it_may_unless_rows_are_coupled():
    _, batch = policy_and_rows()
    size = sizes(batch)
    prompts = torch.tensor([len(PROMPTS[group]) for group in batch.row["group"]])
    assert size.equal(prompts + batch.valid.sum(1))
    found = list(Passes(tokens=20).of(batch, [], ()))
    assert len(found) > 2
    assert all(int(size[rows].sum()) <= 20 for rows, _ in found)
    assert torch.cat([rows for rows, _ in found]).sort().values.equal(torch.arange(12))
    coupled = list(Passes(tokens=1).of(batch, [], ("group",)))
    assert [batch.row["group"][rows].unique().tolist() for rows, _ in coupled] == [[0], [1], [2]]


def test_idle_rows_are_those_no_term_moves():
    policy, batch = policy_and_rows()
    zero = (batch.step["advantage"] == 0).all(1)

    def idle(*terms: Term, couples=()) -> torch.Tensor:
        ctx = context(method(*terms, roles={"old": Role(when="collected")}), {"policy": policy})
        scored = collect_roles(ctx, batch)
        return idle_rows(scored, plan(ctx, scored, terms), couples)

    assert idle(surrogate()).equal(zero)
    assert idle(surrogate(), couples=("group",)).equal(batch.row["group"] == 1)
    rows = Term("rows", ProductSequenceSurrogate(), RowMean(), trained_rows)
    assert idle(rows).equal(zero)
    # A term that moves every row, or whose idle rows are not known.
    entropy = Term("kl", Unknown(), SequenceMean())
    assert not idle(surrogate(), entropy).any()


class Unknown(ClippedSurrogate):
    """A loss that says nothing of its gradient."""

    def idle(self, batch: Batch) -> None:
        return None


def test_rows_without_gradient_are_not_back_propagated(monkeypatch):
    policy, batch = policy_and_rows()
    graphs = []
    score = Language.score
    monkeypatch.setattr(
        Language,
        "score",
        lambda self, rows, *a, **k: graphs.append((len(rows), torch.is_grad_enabled())) or score(self, rows, *a, **k),
    )
    slopes(policy, batch, Passes(skip_idle=True))
    assert graphs[-2:] == [(6, True), (6, False)]


def trusting(batch: Batch, policy: Language, bound: float | None):
    update = GradientSteps({"policy": SGD(1.0)}, trust_sampler=bound)
    ctx = context(method(surrogate(), update=update, roles={"old": Role(when="collected")}), {"policy": policy})
    return collect_roles(ctx, batch).scores["old"], ctx.meter.result()


def test_old_log_probabilities_are_the_samplers_while_they_agree():
    policy, batch = policy_and_rows()
    exact, nothing = trusting(batch, policy, None)
    taken, metrics = trusting(batch, policy, 1e-5)
    assert taken.logp is batch.step["behaviour"]
    torch.testing.assert_close(taken.logp.double(), exact.logp, rtol=0, atol=1e-5)
    assert metrics["sampler_mismatch"] < 1e-5
    assert metrics["entropy"] > 0
    assert nothing == {}
    off = batch.with_steps({"behaviour": batch.step["behaviour"] + 1e-3})
    older = batch.with_steps({"version": batch.step["version"] - 1})
    replayed = batch.with_rows({"source": torch.full((12,), int(Source.REPLAY))})
    unknown = batch.with_steps({"behaviour": torch.full_like(batch.step["behaviour"], torch.nan)})
    for rows in (off, older, replayed, unknown):
        scored, metrics = trusting(rows, policy, 1e-5)
        assert scored.logp.equal(exact.logp)
        assert metrics == {}


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"micro_rows": 1, "micro_tokens": 9}, "not both"),
        ({"micro_tokens": 0}, "at least 1"),
        ({"trust_sampler": -1.0}, "at least 0"),
    ],
)
def test_options_that_make_no_sense(options, message):
    with pytest.raises(CompositionError, match=message):
        GradientSteps(**options)
