"""EgoVLM: `reduces_to` of specification 65."""

import pytest
import torch

import loops
from enumeration import first_step
from policyopt.evaluation.experiments.named_grades import Frames
from policyopt.methods import load
from policyopt.ops.metrics import jaccard
from policyopt.ops.sequences import total_reward
from policyopt.options import override
from policyopt.worlds.sequences import SequenceWorld
from said import Said
from support import close, grids, ragged

pytestmark = pytest.mark.usefixtures("float64")

RIGHT, FORMAT = [0.0, 1.0, 0.0, 1.0], [1.0, 0.0, 1.0, 1.0]
NAMED, SALIENT = [{1, 2}, {3}, {4, 5}, set()], {2, 4}
FRAMES = [jaccard(one, SALIENT) for one in NAMED]
GROUPS = [7, 3, 7, 3]


def stepped(made, grade=RIGHT):
    world = Said(heads={"accuracy": RIGHT, "format": FORMAT, "frames": FRAMES}, grade=grade)
    return first_step(made, grids(), ragged(), world)


def test_overlap_of_frames() -> None:
    close(torch.tensor(FRAMES), [1 / 3, 0.0, 1 / 3, 0.0])
    assert jaccard(set(), set()) == 0.0
    assert jaccard({1}, {1}) == 1.0


def test_rewards_and_advantages_by_hand() -> None:
    done = stepped(load("egovlm"))
    expected = [a + 0.5 * f + k for a, f, k in zip(RIGHT, FORMAT, FRAMES, strict=True)]
    close(total_reward(done.round.judged), expected)
    close(done.advantage, loops.standardised(expected, GROUPS, [True] * 4))


def test_without_frames_it_is_grpo_with_accuracy_and_format() -> None:
    found = stepped(override(load("egovlm"), {"reward.weights.frames": 0.0}))
    grades = [a + 0.5 * f for a, f in zip(RIGHT, FORMAT, strict=True)]
    close(found.gradient, stepped(load("grpo"), grades).gradient)
    assert float(found.gradient.abs().max()) > 1e-2


def test_a_row_without_named_frames_is_no_error() -> None:
    assert float(stepped(load("egovlm")).round.judged.row["scored"].sum()) == 4


def test_states_of_the_world_of_frames() -> None:
    inner = SequenceWorld(8, 20, 3, lambda strings, task: torch.zeros(len(strings)))
    world = Frames(inner, torch.tensor([[3, 7], [1, 2]]))
    batch = world.start(world.tasks(torch.tensor([2, 2, 2, 6])))
    live, logp = torch.ones(4, dtype=torch.bool), torch.zeros(4)
    seen = [batch.row["_state"].tolist()]
    for step in ([3, 7, 5, 2], [7, 7, 3, 1], [16, 16, 16, 16]):
        batch = world.append(batch, torch.tensor(step), logp, live, 0)
        seen.append(batch.row["_state"].tolist())
    # One salient frame named, then the other; the second twice; none first; kind 1 in the other order.
    assert seen[:3] == [[0, 0, 0, 9], [2, 3, 1, 12], [7, 4, 4, 16]]
    assert batch.step["_state"].T.tolist() == seen[:3]
