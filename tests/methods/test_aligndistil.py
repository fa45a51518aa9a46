"""AlignDistil: `reduces_to` of specification 20, each identity a test."""

from dataclasses import replace
from typing import Any

import pytest
import torch

from enumeration import first_step
from policyopt.compose import CompositionError, Role
from policyopt.feedback.swapped import Swapped
from policyopt.methods import load
from policyopt.objective.implicit_rewards import ExtrapolatedTeacher
from policyopt.ops.pairs import pair_rows
from support import close, grid, logit_grid, ragged, rewarded, with_row

pytestmark = pytest.mark.usefixtures("float64")


def gradient(loss: ExtrapolatedTeacher, **seeds: int) -> torch.Tensor:
    """Of the method's term by the policy's logits, on rows of uneven length."""
    made = load("aligndistil")
    names = {"preferred": 1, "reversed": 2, "reference": 3, **seeds}
    roles = {"policy": made.roles["policy"]}
    roles |= {name: Role(name, when="collected", full=True) for name in loss.roles}
    models = {**made.models, "reference": made.models["preferred"]}
    made = replace(made, objective=(replace(made.objective[0], loss=loss),), roles=roles, models=models)
    grids = {"policy": logit_grid(0), **{name: logit_grid(seed) for name, seed in names.items()}}
    return first_step(made, grids, ragged()).gradient[:4, :13]


def per_step() -> torch.Tensor:
    """Weight of every step: a mean over rows of means over a row's trained steps."""
    trained = ragged().trained.double()
    return trained / trained.sum(1, keepdim=True) / 4


@pytest.mark.parametrize("anchor", ["reference", "preferred"])
def test_the_gradient_is_that_of_the_regularised_reward_state_by_state(anchor: str) -> None:
    """-beta E_pi[log p_dpo - log p_against] + (beta / w) KL(pi || p_anchor), forms (1) and (2)."""
    beta, scale = 0.4, 1.7
    against = "reference" if anchor == "reference" else "reversed"
    found = gradient(ExtrapolatedTeacher(beta, scale, adaptive=False, against=against, anchor=anchor))
    seeds = {"preferred": 1, "reversed": 2, "reference": 3}
    made: Any = logit_grid
    logp = {n: made(s).logits.detach()[:4, :13].log_softmax(-1) for n, s in seeds.items()}
    free = made(0).logits.detach()[:4, :13].clone().requires_grad_()
    now = free.log_softmax(-1)
    reward = (now.exp() * beta * (logp["preferred"] - logp[against])).sum(-1)
    penalty = beta / scale * (now.exp() * (now - logp[anchor])).sum(-1)
    (per_step() * (penalty - reward)).sum().backward()
    assert float(found.abs().max()) > 1e-3
    close(found, free.grad, atol=1e-12)


def test_with_one_dpo_model_and_weight_one_it_is_plain_reverse_kl_to_it() -> None:
    found = gradient(ExtrapolatedTeacher(1.0, 1.0, adaptive=False, against="reference", anchor="reference"))
    made = load("opd")
    grids = {"policy": logit_grid(0), "teacher": logit_grid(1)}
    close(found, first_step(made, grids, ragged()).gradient[:4, :13])


def test_equal_teachers_are_plain_reverse_kl_scaled_by_a_thousand() -> None:
    found = gradient(ExtrapolatedTeacher(0.2), preferred=1, reversed=1)
    grids = {"policy": logit_grid(0), "teacher": logit_grid(1)}
    close(found, 0.2 / 1e-3 * first_step(load("opd"), grids, ragged()).gradient[:4, :13], atol=1e-9)


def test_the_extrapolation_follows_the_distance_of_the_teachers() -> None:
    loss = ExtrapolatedTeacher(scale=2.0)
    p, q = torch.tensor([[0.5, 0.3, 0.2], [0.2, 0.2, 0.6]]), torch.tensor([[0.1, 0.3, 0.6], [0.2, 0.2, 0.6]])
    close(loss.extrapolation(p.log(), q.log()), [2 * 0.8 + 1e-3, 1e-3])
    close(replace(loss, adaptive=False).extrapolation(p.log(), q.log()), [2.0, 2.0])
    with pytest.raises(CompositionError, match="scale > 0"):
        ExtrapolatedTeacher(scale=0.0)


def test_the_reversed_stage_is_dpo_with_the_labels_swapped() -> None:
    batch = rewarded(ragged(), [0.0] * 4)
    turned = with_row(batch, rank=(1 - batch.row["rank"]).tolist())
    made: Any = load("aligndistil:aligndistil_reversed")
    models = ({"policy": grid(0), "reference": grid(2)} for _ in range(2))
    found, expected = (
        first_step(m, g, rows).gradient for m, g, rows in zip((made, load("dpo")), models, (batch, turned), strict=True)
    )
    assert float(expected.abs().max()) > 1e-3
    close(found, expected)
    aside: Any = Swapped()(None, with_row(batch, rank=[-1, 0, -1, 1]))  # pyright: ignore
    assert pair_rows(aside).tolist() == [[3, 1]]
    assert aside.row["rank"].tolist() == [-1, 1, -1, 0]


def test_published_settings() -> None:
    own: Any = load("aligndistil").objective[0].loss
    given: Any = load("aligndistil:aligndistil_offline").objective[0].loss
    assert (own.scale, given.scale) == (15.0, 10.0)
    assert own.beta == 0.1
