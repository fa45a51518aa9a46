"""RPO: `reduces_to` of specification 41."""

from dataclasses import replace

import pytest
import torch

from enumeration import first_step
from policyopt.methods import load
from policyopt.methods.rpo import BETA, ETA
from policyopt.options import override
from support import close, context, full_step, grid, grids, method, ragged

pytestmark = pytest.mark.usefixtures("float64")


def gradient_of(made, batch=None, models=None):
    return first_step(made, models or grids(), ragged() if batch is None else batch).gradient


def test_without_the_supervised_term_it_is_dpo() -> None:
    rpo = override(load("rpo"), {"objective.imitation.weight": 0.0})
    dpo = override(load("dpo"), {"objective.beta": BETA})
    close(gradient_of(rpo), gradient_of(dpo))


def test_the_supervised_term_is_a_sum_over_chosen_rows() -> None:
    batch = ragged()
    added = gradient_of(load("rpo")) - gradient_of(override(load("rpo"), {"objective.imitation.weight": 0.0}))
    chosen = batch.trained & (batch.row["rank"] == 0)[:, None]
    close(added[:4, :13], torch.where(chosen, -ETA * BETA / 2, 0.0))


def test_the_average_variant_divides_by_the_length() -> None:
    batch = ragged()
    without = override(load("rpo:rpo_average"), {"objective.imitation.weight": 0.0})
    added = gradient_of(load("rpo:rpo_average")) - gradient_of(without)
    chosen = batch.trained & (batch.row["rank"] == 0)[:, None]
    length = batch.trained.sum(1, keepdim=True)
    close(added[:4, :13], torch.where(chosen, -0.2 / length / 2, 0.0))


def test_for_small_beta_it_is_imitation() -> None:
    """beta -> 0 with eta beta fixed: the preference's gradient vanishes."""
    rpo = override(load("rpo"), {"objective.beta": 1e-9, "objective.imitation.weight": 0.2})
    only = replace(rpo, objective=(rpo.objective[1],))
    close(gradient_of(rpo), gradient_of(only), atol=1e-8)


def test_values_by_hand() -> None:
    """At the reference: log 2 and minus the mean summed log-probability of the chosen rows."""
    batch, models = ragged(), {"policy": grid(0)}
    done = first_step(load("rpo"), models, batch)
    chosen = torch.where(batch.trained, grid(0).logp.detach()[:4, :13], 0.0).sum(1)[:2].mean()
    close(done.round.metrics["loss/preference"], torch.log(torch.tensor(2.0)))
    close(done.round.metrics["loss/imitation"], -ETA * BETA * chosen)


def test_micro_batches_change_nothing() -> None:
    rpo = load("rpo")
    ctx = context(method(*rpo.objective), grids())
    whole, parts = full_step(ctx, ragged()), full_step(ctx, ragged(), 2)
    close(parts[0], whole[0])
    close(parts[1], whole[1])
