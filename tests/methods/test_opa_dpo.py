"""OPA-DPO: `reduces_to` of specification 209."""

import math
from dataclasses import replace

import pytest
import torch

from enumeration import Fixed, first_step
from policyopt.compose import Role, chosen_rows
from policyopt.methods import load
from policyopt.options import override
from policyopt.sampling.samplers import RecordedPairs
from support import close, context, full_step, grid, grids, method, numbers, ragged

pytestmark = pytest.mark.usefixtures("float64")


def severe(weights=1.0):
    batch = ragged()
    return batch.with_steps({"severity": torch.as_tensor(weights).expand(len(batch), batch.steps).clone()})


def stage(**changes):
    """The second stage without the copy of its start."""
    return override(load("opa_dpo"), changes)


def test_without_anchor_and_with_equal_weights_it_is_dpo_on_both_kinds_of_pairs() -> None:
    made = stage(**{"objective.anchor.weight": 0.0})
    found = first_step(made, grids(), severe()).gradient
    close(found, 2 * first_step(load("dpo"), grids(), ragged()).gradient)
    assert float(found.abs().max()) > 1e-3


def test_a_step_counts_as_much_as_it_was_severe() -> None:
    batch, weight = severe(numbers(13, seed=7).abs()), numbers(13, seed=7).abs()
    models = grids()
    term = replace(load("opa_dpo").objective[0], weight=1.0)
    value, gradient = full_step(context(method(term, sampling=RecordedPairs(("severity",))), models), batch)
    change = models["policy"].logp[:4, :13] - models["reference"].logp[:4, :13]
    rho = torch.where(batch.trained, weight * change, 0.0).sum(1)
    loss = -torch.nn.functional.logsigmoid(0.1 * (rho[:2] - rho[2:])).mean()
    close(value, loss.detach())
    close(gradient, torch.autograd.grad(loss, models["policy"].logp)[0])


def test_a_severity_of_whole_answers_is_that_of_all_their_steps() -> None:
    severity = torch.tensor([0.5, 2.0, 1.5, 0.7])
    of_rows = ragged().with_rows({"severity": severity})
    of_steps = severe().with_steps({"severity": severity[:, None].expand(-1, 13).clone()})
    found = first_step(stage(), grids(), of_rows).gradient
    close(found, first_step(stage(), grids(), of_steps).gradient)


def test_the_anchor_raises_both_chosen_answers_by_their_plain_sums() -> None:
    batch, models = severe(3.0), grids()
    term = replace(load("opa_dpo").objective[1], weight=1.0)
    value, gradient = full_step(context(method(term, sampling=RecordedPairs(("severity",))), models), batch)
    change = models["policy"].logp[:4, :13] - models["reference"].logp[:4, :13]
    rho = torch.where(batch.trained, change, 0.0).sum(1)[:2]  # chosen rows come first
    loss = -torch.nn.functional.logsigmoid(0.1 * rho).mean()
    close(value, loss.detach())
    close(gradient, torch.autograd.grad(loss, models["policy"].logp)[0])
    assert bool((gradient[:2][batch.trained[:2].nonzero(as_tuple=True)] < 0).all())


def test_it_begins_at_log_two_three_times() -> None:
    """At the reference every logistic is log 2: 2 of pairs and 2 of the anchor."""
    done = first_step(stage(), {"policy": grid(0)}, severe(0.3)).round.metrics
    close(done["loss/preference"], 2 * math.log(2))
    close(done["loss/anchor"], 2 * math.log(2))


def test_the_first_stage_is_the_sum_over_both_expert_answers() -> None:
    made, models, batch = load("opa_dpo:opa_dpo_alignment"), grids(), ragged()
    value, _ = full_step(context(method(*made.objective), models), batch)
    rows = torch.where(batch.trained, models["policy"].logp[:4, :13], 0.0).sum(1)
    close(value, -2 * rows.mean().detach())


def images():
    roles = {"reference": Role("reference"), "blind": Role("old", grad=True), "blind_reference": Role("teacher")}
    return replace(load("opa_dpo:opa_dpo_images").objective[2], weight=1.0), roles


def test_a_masked_input_that_is_the_input_is_log_two_without_gradient() -> None:
    term, _ = images()
    roles = {"reference": Role("reference"), "blind": Role(grad=True), "blind_reference": Role("reference")}
    value, gradient = full_step(
        context(method(term, roles=roles, sampling=RecordedPairs(("severity",))), grids()), severe()
    )
    close(value, math.log(2))
    close(gradient, torch.zeros_like(gradient))


def test_the_image_term_counts_chosen_rows_under_both_inputs() -> None:
    term, roles = images()
    assert term.mask is chosen_rows
    models, batch = grids(), severe()
    value, _ = full_step(context(method(term, roles=roles, sampling=RecordedPairs(("severity",))), models), batch)
    said = {name: models[name].logp[:4, :13] for name in ("policy", "reference", "old", "teacher")}
    gain = said["policy"] - said["reference"] - said["old"] + said["teacher"]
    margin = 0.1 * torch.where(batch.trained, gain, 0.0).sum(1)[:2]
    close(value, torch.nn.functional.softplus(-margin).mean().detach())


def test_the_masked_context_is_written_for_it() -> None:
    made = load("opa_dpo:opa_dpo_images")
    assert made.roles["blind"] == Role(context=made.feedback.name, grad=True)
    assert made.roles["blind_reference"].context == made.feedback.name
    assert "severity" in made.sampling.writes
    with pytest.raises(Exception, match="severity"):
        replace(made, sampling=Fixed(ragged()))
