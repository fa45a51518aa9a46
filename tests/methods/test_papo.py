"""PAPO: `reduces_to` of specification 70, each identity a test."""

from dataclasses import replace

import pytest
import torch

from policyopt.compose import CompositionError, Program, Role, Stage, Term
from policyopt.constraint.contexts import ContextDependence, Surprise
from policyopt.engines.plain import generate
from policyopt.evaluation.experiments._cues import TwoStreams, cues
from policyopt.feedback.contexts import MaskedContext
from policyopt.methods import load
from policyopt.run import Run, StageContext
from policyopt.selection.tasks import Selection
from policyopt.train import rounds
from policyopt.types import NO_TOKEN, Batch
from policyopt.update.averaging import SequenceMean, TokenMean
from policyopt.update.gradient import GradientSteps, losses
from policyopt.update.optimizers import SGD
from support import close, context, grids, method, numbers, ragged

pytestmark = pytest.mark.usefixtures("float64")


def policy() -> TwoStreams:
    made = TwoStreams(3, 0.0).double()
    with torch.no_grad():
        made.question.copy_(numbers(3, 3, seed=1))
        made.input.copy_(numbers(4, 3, seed=2))
    return made


def every_choice() -> Batch:
    """One row for each task and choice."""
    world = cues(3)
    tasks = world.tasks(torch.arange(world.size).repeat_interleave(3))
    rows = world.complete(tasks, (torch.arange(len(tasks)) % 3)[:, None])
    rows = rows.with_steps({"advantage": torch.zeros(len(rows), 1)})
    masked = torch.stack([rows.context()[:, 0], torch.full((len(rows),), 3)], 1)
    return rows.with_context(masked, "masked")


def gradient(term: Term, weigh, roles, of=None):
    """Of a term over every choice, each weighted by its probability."""
    of = of or policy()
    batch = every_choice()
    chance = of.of(batch.context()).softmax(-1).detach().gather(1, batch.step["_step"])
    weighted = replace(term, weight=lambda seen, rows: chance[rows.row["_row"]] * weigh)
    made = method(weighted, roles=roles)
    batch = batch.with_rows({"_row": torch.arange(len(batch))})
    for loss in losses(context(made, {"policy": of}), batch, made.terms):
        loss.backward()
    return [p.grad.clone() if p.grad is not None else torch.zeros_like(p) for p in of.parameters()]


BLIND = {"blind": Role(context="masked")}


def test_on_policy_the_expected_gradient_is_the_forward_divergences() -> None:
    """E grad k3 = grad KL(pi(. | mask I) || pi(. | I)), the masked side held."""
    found = gradient(Term("a", ContextDependence(), TokenMean()), 3.0, BLIND)
    of, batch = policy(), every_choice()[::3]
    told, blind = (of.of(batch.context(name)).log_softmax(-1) for name in (None, "masked"))
    (blind.detach().exp() * (blind.detach() - told)).sum(1).mean().backward()
    for a, b in zip(found, of.parameters(), strict=True):
        close(a, b.grad, 1e-12)
    assert float(found[0].abs().max()) > 1e-2


def test_on_policy_the_expected_gradient_of_the_entropy_term_is_zero() -> None:
    for slope in gradient(Term("a", Surprise(), TokenMean()), 3.0, BLIND):
        close(slope, torch.zeros_like(slope), 1e-14)


def test_a_mask_that_hides_nothing_has_no_divergence() -> None:
    of, batch = policy(), every_choice()
    batch = batch.with_context(batch.context(), "masked")
    made = method(Term("a", ContextDependence(), TokenMean()), roles=BLIND)
    (loss,) = losses(context(made, {"policy": of}), batch, made.terms)
    loss.backward()
    assert float(loss.detach()) == 0.0
    assert all(float(p.grad.abs().max()) == 0.0 for p in of.parameters())


def played(made, of):
    run = Run({"policy": of}, cues(3), generate, 0)
    list(rounds(run, Program((Stage(made, 1),))))
    return [p.detach().clone() for p in of.parameters()]


def small(key="papo", **weights):
    made = load(key)
    constraint = tuple(replace(t, weight=weights.get(t.name, t.weight)) for t in made.constraint)
    update = GradientSteps({"policy": SGD(1.0)}, clip_norm=None)
    parts = {"feedback": MaskedContext(share=1.0, patch=1, filler=3), "selection": Selection(10)}
    return replace(made, constraint=constraint, update=update, **parts)


def test_without_the_new_terms_it_is_grpo() -> None:
    none = small(dependence=0.0, entropy=0.0, blind_entropy=0.0)
    grpo = replace(load("grpo"), constraint=none.constraint[:1], update=none.update, selection=none.selection)
    for a, b in zip(played(none, policy()), played(grpo, policy()), strict=True):
        close(a, b)
    assert float((played(small(), policy())[1] - played(none, policy())[1]).abs().max()) > 1e-6


def test_the_masked_entropy_acts_only_where_masked_scores_have_a_gradient() -> None:
    """The row of the masked input is moved by the active form alone."""
    quiet, active = (played(small(key), policy())[1][3] for key in ("papo", "papo:papo_active"))
    close(quiet, policy().input.detach()[3])
    assert float((active - policy().input.detach()[3]).abs().max()) > 1e-4


def test_the_masked_input_is_another_stream_of_the_same_rows() -> None:
    """Only the input is masked; scores under both contexts differ, and steps were taken under the whole one."""
    ctx = StageContext(Run({"policy": policy()}, cues(3), generate, 0), Stage(load("papo"), 1))
    batch = MaskedContext(share=1.0, patch=1, filler=3)(ctx, every_choice())
    assert torch.equal(batch.context("masked")[:, 0], batch.context()[:, 0])
    assert bool((batch.context("masked")[:, 1] == 3).all())
    of = policy()
    assert float((of.score(batch).logp - of.score(batch, "masked").logp).detach().abs().max()) > 0.1


def test_patches_are_runs_of_places_and_padding_stays() -> None:
    prompt = torch.arange(1, 41).repeat(200, 1)
    prompt[:, :4] = NO_TOKEN
    batch = ragged().with_rows({})[torch.zeros(200, dtype=torch.int64)].with_context(prompt)
    ctx = context(method(), grids())
    masked = MaskedContext(share=0.6, patch=6, filler=0)(ctx, batch).context("masked")
    assert bool((masked[:, :4] == NO_TOKEN).all())
    black = masked[:, 4:] == 0
    assert torch.equal(masked[:, 4:][~black], prompt[:, 4:][~black])
    runs = black.view(200, 6, 6)
    assert bool((runs.all(2) | ~runs.any(2)).all())
    assert float(runs[..., 0].double().mean()) == pytest.approx(0.6, abs=0.05)
    none = MaskedContext(share=0.0)(ctx, batch)
    assert torch.equal(none.context("masked"), prompt)


def test_the_clamp_takes_the_gradient_of_steps_beyond_it() -> None:
    models = grids()
    with torch.no_grad():
        models["teacher"].logp.copy_(models["policy"].logp + 5.0)  # e^5 - 6 > 10
    term = Term("a", ContextDependence("teacher"), SequenceMean())
    ctx = context(method(term), models)
    (loss,) = losses(ctx, ragged(), ctx.stage.terms)
    loss.backward()
    close(loss, 10.0)
    assert float(models["policy"].logp.grad.abs().max()) == 0.0


def test_published_settings_and_refusals() -> None:
    made = load("papo")
    assert {t.name: t.weight for t in made.constraint} == {
        "kl": 0.01, "dependence": -0.02, "entropy": 0.03, "blind_entropy": 0.03,
    }  # fmt: skip
    assert (made.feedback.share, made.feedback.patch) == (0.6, 14)
    refused = ((ContextDependence, {"share": 0.0}), (ContextDependence, {"most": 0.0}), (MaskedContext, {"patch": 0}))
    for part, broken in refused:
        with pytest.raises(CompositionError):
            part(**broken)
