"""CPL: `reduces_to` of specification 240."""

import math

import pytest
import torch

from enumeration import first_step
from policyopt.methods import load
from policyopt.objective.listwise import PairsOfStated
from policyopt.objective.pairwise import PairPreference
from policyopt.options import override
from ranked_rows import lists, step
from support import close, grids, ragged

pytestmark = pytest.mark.usefixtures("float64")


def gradient_of(made):
    return first_step(made, grids(), ragged()).gradient


def test_with_a_reference_and_no_bias_it_is_dpo() -> None:
    made = override(load("cpl:cpl_kl"), {"objective.rejected": 1.0, "objective.beta": 0.1})
    close(gradient_of(made), gradient_of(load("dpo")))


def test_with_a_bias_of_0_only_preferred_segments_are_imitated() -> None:
    """-log sigma(S+): the slope of a step is -alpha sigma(-S+) on the preferred row and 0 on the other."""
    batch, models = ragged(), grids()
    score = 0.1 * torch.where(batch.trained, models["policy"].logp.detach()[:4, :13], 0.0).sum(1)
    slope = torch.where((batch.row["rank"] == 0), -0.1 * torch.sigmoid(-score) / 2, 0.0)
    found = gradient_of(override(load("cpl"), {"objective.rejected": 0.0}))
    close(found[:4, :13], torch.where(batch.trained, slope[:, None], 0.0))


def test_the_margin_by_hand() -> None:
    """S+ - lam S- with alpha 0.1, gamma 0.5, on rows of two steps of log 1/2 and log 1/4."""
    batch = ragged((2, 2, 2, 2))
    models = grids()
    with torch.no_grad():
        models["policy"].logp[:2] = math.log(0.5)
        models["policy"].logp[2:] = math.log(0.25)
    made = override(load("cpl"), {"objective.discount": 0.5})
    done = first_step(made, models, batch)
    margin = 0.1 * 1.5 * (math.log(0.5) - 0.5 * math.log(0.25))
    close(done.round.metrics["loss/preference"], math.log1p(math.exp(-margin)))


def test_cloning_is_the_mean_over_all_steps_of_both_sides() -> None:
    batch = ragged()
    found = gradient_of(load("cpl:cpl_cloning"))
    close(found[:4, :13], torch.where(batch.trained, -1.0 / batch.trained.sum(), 0.0))


def test_ranked_segments_are_the_mean_over_their_pairs() -> None:
    batch, loss = lists(), PairsOfStated(anchor=None, beta=0.1, rejected=0.5, averaged=True)
    value, _ = step(loss, batch)
    pair = PairPreference(0.1, anchor=None, rejected=0.5)
    expected = 0.0
    for rows in ([2, 6, 0, 4], [1, 5, 3]):
        found = []
        for i, w in enumerate(rows):
            for l in rows[i + 1 :]:  # noqa: E741
                if batch.row["label"][w] > batch.row["label"][l]:
                    two = batch[torch.tensor([w, l])].with_rows(
                        {"pair": torch.zeros(2).long(), "rank": torch.arange(2)}
                    )
                    found.append(step(pair, two, mask=lambda seen, b: b.row["rank"] == 0)[0])
        expected += float(torch.stack(found).mean()) / 2
    close(value, expected)
