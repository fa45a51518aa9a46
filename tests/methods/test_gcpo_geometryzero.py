"""GCPO of GeometryZero: `reduces_to` of specification 105."""

import pytest
import torch

import loops
from enumeration import first_step
from policyopt.compose import CompositionError
from policyopt.engines.plain import generate
from policyopt.evaluation.experiments.named_grades import Forced
from policyopt.methods import load
from policyopt.ops.sequences import total_reward
from policyopt.options import override
from policyopt.policies.tabular import Table
from policyopt.reward.contrast import contrast
from policyopt.sampling.contrast import Contrasted
from policyopt.train import _draw, _judge
from policyopt.types import StepKind
from policyopt.worlds.sequences import SequenceWorld
from said import Said
from support import close, context, grids, method, ragged

pytestmark = pytest.mark.usefixtures("float64")

ACCURACY = [1.0, 1.0, 0.0, 0.0, 0.0, 0.0, 1.0, 1.0]
SHOWS = [1.0, 1.0, 1.0, 0.0, 0.0, 0.0, 1.0, 1.0]
TOLD = [1, 0, 1, 0, 0, -1, 0, -1]
GROUPS = [0, 1, 0, 1, 0, 1, 0, 1]
LENGTHS = (2, 3, 4, 2, 3, 4, 2, 3)


def batch(told=TOLD):
    rows = ragged(LENGTHS, tools=False)
    return rows.with_rows({"group": torch.tensor(GROUPS), "told": torch.tensor(told)})


def stepped(made, rows=None, accuracy=ACCURACY):
    heads = {"accuracy": accuracy, "format": [1.0] * 8, "behaviour": SHOWS}
    made = override(made, {"reward.length_bonus.limit": 4}) if made.about.key == "gcpo_geometryzero" else made
    world = Said(heads=heads, grade=torch.tensor(accuracy) + 1.0)
    return first_step(made, grids(), rows or batch(), world)


def bare(**options):
    return override(load("gcpo_geometryzero"), {"reward.contrast_bonus.weight": 0.0, **options})


def test_without_the_terms_it_is_grpo_with_accuracy_and_format() -> None:
    found = stepped(bare(**{"reward.length_bonus.weight": 0.0}))
    close(found.gradient, stepped(load("grpo")).gradient)
    assert float(found.gradient.abs().max()) > 1e-2


def test_rewards_by_hand() -> None:
    """Group 0: told 1 of rows 0, 2 (mean 1/2), told 0 of rows 4, 6 (1/2): nothing. Group 1: nobody was told to."""
    done = stepped(load("gcpo_geometryzero"))
    length = [0.1 * n / 4 for n in LENGTHS]
    plain = [a + 1.0 + x for a, x in zip(ACCURACY, length, strict=True)]
    close(total_reward(done.round.judged), plain)
    helpful = stepped(load("gcpo_geometryzero"), accuracy=[1.0, 1.0, 1.0, 0.0, 0.0, 0.0, 0.0, 1.0])
    expected = [a + 1.0 + x for a, x in zip([1.0, 1.0, 1.0, 0.0, 0.0, 0.0, 0.0, 1.0], length, strict=True)]
    for row in (0, 2, 6):  # those of group 0 that show it
        expected[row] += 0.5
    close(total_reward(helpful.round.judged), expected)
    close(helpful.advantage, loops.standardised(expected, GROUPS, [True] * 8))
    harmful = stepped(load("gcpo_geometryzero"), accuracy=[0.0, 1.0, 0.0, 0.0, 1.0, 0.0, 1.0, 1.0])
    assert float(total_reward(harmful.round.judged)[0]) == pytest.approx(0.0 + 1.0 + length[0] - 0.5)


def test_equal_accuracies_or_a_small_difference_pay_nothing() -> None:
    both = torch.tensor([True] * 2 + [False] * 2), torch.tensor([False] * 2 + [True] * 2)
    ids = torch.zeros(4, dtype=torch.int64)
    close(contrast(torch.tensor([1.0, 0.0, 0.0, 1.0]), ids, *both), torch.zeros(4))
    close(contrast(torch.tensor([1.0, 0.0, 0.0, 0.0]), ids, *both), torch.full((4,), 0.5))
    nobody = torch.zeros(4, dtype=torch.bool)
    close(contrast(torch.ones(4), ids, both[0], nobody), torch.zeros(4))
    helpful = [1.0, 1.0, 1.0, 0.0, 0.0, 0.0, 1.0, 1.0]
    wide = override(load("gcpo_geometryzero"), {"reward.margin": 0.5})
    without = stepped(bare(), accuracy=helpful)
    close(total_reward(stepped(wide, accuracy=helpful).round.judged), total_reward(without.round.judged))


def test_the_unconditional_bonus_pays_everyone_who_shows_it() -> None:
    done = stepped(override(load("gcpo_geometryzero"), {"reward.conditional": False}))
    plain = stepped(bare())
    close(total_reward(done.round.judged) - total_reward(plain.round.judged), [0.5 * s for s in SHOWS])


def test_groups_hold_rows_of_all_three_kinds() -> None:
    world = Forced(SequenceWorld(2, 3, 2, lambda strings, task: (strings[:, 1] == task).double()))
    sampler = Contrasted(size=5, told=0.4)
    ctx = context(method(sampling=sampler), {"policy": Table(torch.zeros(4, 3))}, world, generate)
    rows = sampler(ctx, _draw(ctx), _judge(ctx))
    for group in rows.row["group"].unique():
        assert rows.row["told"][rows.row["group"] == group].tolist() == [1, 1, 0, 0, -1]
    told, first = rows.row["told"], rows.step["_step"][:, 0]
    assert torch.equal(first[told >= 0], told[told >= 0])
    assert bool((rows.step["kind"][told >= 0, 0] == int(StepKind.HINT)).all())
    assert bool((rows.step["kind"][told < 0, 0] == int(StepKind.OWN)).all())
    assert not bool(rows.trained[told >= 0, 0].any())


def test_a_world_without_the_instruction_is_refused() -> None:
    world = SequenceWorld(2, 3, 2, lambda strings, task: torch.zeros(len(strings)))
    sampler = Contrasted()
    ctx = context(method(sampling=sampler), {"policy": Table(torch.zeros(4, 3))}, world, generate)
    with pytest.raises(CompositionError, match="construction"):
        sampler(ctx, _draw(ctx), _judge(ctx))
    for wrong in ({"size": 1}, {"told": 0.6}, {"told": 0.0}):
        with pytest.raises(CompositionError, match="at most 1/2"):
            Contrasted(**wrong)
