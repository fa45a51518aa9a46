"""Implicit process rewards: `reduces_to` of specification 25, each identity a test."""

import math
from dataclasses import replace
from typing import Any

import pytest
import torch

from enumeration import every_group, first_step, row_logp, tiny_world
from policyopt.compose import CompositionError
from policyopt.engines.plain import generate
from policyopt.methods import load
from policyopt.objective.implicit import ImplicitClassifier
from policyopt.objective.preference import PairLogistic
from policyopt.ops.kept import truncated
from policyopt.ops.random import new_keys
from policyopt.policies.implicit import ImplicitReward
from policyopt.policies.tabular import Table
from policyopt.reward.implicit_rewards import ImplicitProcess, of_pieces
from policyopt.truncation import Truncation
from support import close, context, grid, grids, method, numbers, ragged, rewarded

pytestmark = pytest.mark.usefixtures("float64")


def turns():
    """Rows whose turns are of four steps, with tool and hint steps among them."""
    return ragged().with_steps({"turn": (torch.arange(13) // 4).expand(4, -1)})


def paid(**options: Any) -> torch.Tensor:
    rows = turns()
    part = ImplicitProcess(beta=0.7, model="teacher", against="reference", **options)
    return part(context(method(), grids()), rows).step["reward"] - rows.step["reward"]


def log_ratio(row: int, step: int) -> float:
    models: Any = grids()
    return 0.7 * float((models["teacher"].logp - models["reference"].logp).detach()[row, step])


def test_process_rewards_by_hand_and_their_sum_is_the_outcome() -> None:
    """The longest row has own steps 0-2, 6-12; its turns end at steps 2, 6 (of 4..7: 6 and 7), 11 and 12."""
    rows, found = turns(), paid()
    for b in range(4):
        own = [t for t in range(13) if rows.own[b, t]]
        for turn in range(4):
            inside = [t for t in own if t // 4 == turn]
            if inside:
                close(found[b, inside[-1]], sum(log_ratio(b, t) for t in inside))
        close(found[b].sum(), sum(log_ratio(b, t) for t in own))
    assert int((found != 0).sum()) == 1 + 1 + 2 + 4
    close(paid(paid="sum").sum(1), found.sum(1))


def test_the_score_of_a_response_is_its_lowest_process_reward() -> None:
    rows, each = turns(), paid()
    steps = paid(piece="step")
    for b in range(4):
        ends = each[b][each[b] != 0]
        close(paid(paid="min")[b].sum(), ends.min())
        close(paid(paid="mean")[b].sum(), ends.mean())
        close(paid(paid="min", piece="step")[b].sum(), steps[b][rows.own[b]].min())
    assert int((paid(paid="min") != 0).sum()) == 4
    with pytest.raises(CompositionError, match="beta > 0"):
        ImplicitProcess(beta=0.0)


def test_a_model_that_is_its_reference_pays_nothing() -> None:
    part = ImplicitProcess(model="reference", against="reference")
    rows = turns()
    close(part(context(method(), grids()), rows).step["reward"], rows.step["reward"])


def test_rewards_do_not_depend_on_how_rows_were_sampled() -> None:
    """The model was trained at temperature 1, and so it is asked, whatever the rows' own or what was cut off."""
    world = tiny_world()
    models: Any = {name: Table(numbers(2, 3, seed=n)) for n, name in enumerate(("policy", "teacher", "reference"))}
    part, ctx = ImplicitProcess(0.7, "teacher", piece="step"), context(method(), models, world)
    tasks = world.tasks(torch.zeros(20, dtype=torch.int64))
    for begun, heat in ((world.start(tasks), 0.5), (truncated(world.start(tasks), Truncation(top_k=2)), 1.0)):
        begun = begun.with_rows({"temperature": torch.full((20,), heat)})
        rows = generate(models["policy"], world, begun, new_keys(20, torch.Generator().manual_seed(3)), heat, 0)
        said = [models[name].logits.detach().log_softmax(-1) for name in ("teacher", "reference")]
        gap = 0.7 * (said[0] - said[1])[rows.step["_state"], rows.step["_step"]].masked_fill(~rows.own, 0.0)
        found = part(ctx, rows)
        close(found.step["reward"], gap)
        assert not found.scores  # roles of the loss are those of the rows as they were sampled
        close(ImplicitReward(models["teacher"], models["reference"], 0.7).worth(rows), gap.sum(1))
        scores = [models[name].score(rows).logp.detach() for name in ("teacher", "reference")]
        assert float((0.7 * (scores[0] - scores[1]) - gap)[rows.own].abs().max()) > 0.02


def test_prefix_sums_are_soft_values_under_the_reference() -> None:
    """q_k = beta log E_{y ~ pi_ref | prefix} exp(r(y) / beta), for any model, by every string that goes on."""
    world, beta = tiny_world(), 0.3
    model, reference = Table(numbers(2, 3, seed=1)), Table(numbers(2, 3, seed=2))
    rows = every_group(world, 1)
    with torch.no_grad():
        gap = beta * (model.score(rows).logp - reference.score(rows).logp)
        whole, prior = row_logp(reference, rows), gap.masked_fill(~rows.own, 0.0).sum(1)
    process, ends = of_pieces(gap, rows, "step")
    assert torch.equal(ends, rows.own)
    prefix = process.cumsum(1)
    first = rows.step["_step"][:, 0]
    for symbol in range(3):
        same = first == symbol
        weight = whole[same].exp() / whole[same].exp().sum()
        expected = beta * math.log(float((weight * (prior[same] / beta).exp()).sum()))
        close(prefix[same][:, 0], torch.full((int(same.sum()),), expected), atol=1e-12)


def test_the_loss_is_cross_entropy_of_the_scaled_log_ratio() -> None:
    batch, models = ragged(), grids()
    made = load("implicit_prm")
    (term,) = made.objective
    made = replace(made, objective=(replace(term, loss=ImplicitClassifier(0.4, comparison="none", balanced=False)),))
    labels = [1.0, 0.0, 0.0, 1.0]
    done = first_step(replace(made, reward=load("rto").reward.parts[0]), models, batch, _Labels(labels))
    expected = torch.zeros(4, 13)
    for b, label in enumerate(labels):
        steps = batch.trained[b].nonzero()[:, 0]
        fresh: Any = grids()
        r = 0.4 * float((fresh["policy"].logp - fresh["reference"].logp).detach()[b, steps].sum())
        expected[b, steps] = 0.4 * (1 / (1 + math.exp(-r)) - label) / 4
    close(done.gradient[:4, :13], expected)


class _Labels:
    def __init__(self, labels: list[float]):
        self.labels = torch.tensor(labels)

    def grade(self, batch: Any) -> torch.Tensor:
        return self.labels[batch.row["_row"]]


def test_from_pairs_it_is_dpo() -> None:
    batch = rewarded(ragged(), [0.0] * 4)
    made, dpo = load("implicit_prm:implicit_prm_dpo"), load("dpo")
    dpo = replace(dpo, objective=(replace(dpo.objective[0], loss=PairLogistic(0.05)),))
    found, expected = (
        first_step(m, {"policy": grid(0), "reference": grid(2)}, batch, None).gradient for m in (made, dpo)
    )
    assert float(expected.abs().max()) > 1e-3
    close(found, expected)
