"""SPO: `reduces_to` of specification 61, each identity a test."""

from dataclasses import replace

import pytest
import torch

from enumeration import first_step
from policyopt.credit.groups import GroupCentred, GroupStandardised
from policyopt.credit.trees import NodeDifference
from policyopt.engines.plain import generate
from policyopt.methods import load
from policyopt.policies.tabular import Table
from policyopt.reward.parts import FromWorld
from policyopt.sampling.trees import ProbedGroup, TreeGroup
from policyopt.selection.tasks import Selection
from policyopt.train import _draw, _judge
from policyopt.worlds.sequences import SequenceWorld
from support import close, context, grids, method, ragged, with_row

pytestmark = pytest.mark.usefixtures("float64")


def one_segment(group=(0, 0, 0, 1)):
    """Every row is one segment of its own."""
    batch = with_row(ragged(), group=group)
    node = torch.where(batch.own, torch.arange(1, 5)[:, None], 0)
    reward = torch.where(batch.own, batch.step["reward"], 0.0)
    return batch.with_steps({"node": node, "reward": reward})


def small(**parts):
    return replace(load("spo_segment"), reward=FromWorld(), **parts)


def test_one_segment_is_the_centred_reward_and_scaled_it_is_grpo() -> None:
    batch, ctx = one_segment(), context(method(), grids())
    found = NodeDifference()(ctx, batch).step["advantage"]
    close(found, GroupCentred()(ctx, batch).step["advantage"])
    scaled = NodeDifference(scaled=True, epsilon=1e-8)(ctx, batch).step["advantage"]
    close(scaled, GroupStandardised(1e-8, ddof=0)(ctx, batch).step["advantage"])
    assert float(scaled.abs().max()) > 0.5


def test_the_gradient_is_the_masked_mean_of_whitened_advantages() -> None:
    """First step, by hand: - whitened A / number of masked steps, on unsure steps of segments that count."""
    batch = one_segment((0, 0, 0, 0))
    found = first_step(small(), grids(), batch)
    worth = [sum(float(batch.step["reward"][b, t]) for t in range(13) if batch.own[b, t]) for b in range(4)]
    mean = sum(worth) / 4
    places = [
        (b, t) for b in range(4) for t in range(13) if batch.trained[b, t] and batch.step["behaviour"][b, t].exp() < 0.9
    ]
    raw = [worth[b] - mean for b, _ in places]
    centre = sum(raw) / len(raw)
    spread = (sum((x - centre) ** 2 for x in raw) / len(raw) + 1e-8) ** 0.5
    expected = torch.zeros(4, 13)
    for (b, t), x in zip(places, raw, strict=True):
        expected[b, t] = -(x - centre) / spread / len(places)
    close(found.gradient[:4, :13], expected, 1e-10)
    assert float(expected.abs().max()) > 1e-2


def exact_values(world, policy, prefix):
    """Expected reward from a prefix, by the sum over all endings."""
    left = world.limit - len(prefix)
    if not left:
        return float(world.reward(torch.tensor([prefix]), torch.zeros(1, dtype=torch.long))[0])
    chance = policy.logits.detach()[len(prefix)].softmax(-1).tolist()
    return sum(p * exact_values(world, policy, [*prefix, a]) for a, p in enumerate(chance))


def test_one_step_a_segment_is_the_exact_advantage_of_every_step_in_the_limit() -> None:
    """Many probes: value_after - value_before against sums over all strings."""
    table = torch.tensor([0.3, 0.9, 0.1, 0.7, 0.2, 0.5])
    world = SequenceWorld(
        1, 3, 3, lambda strings, task: table[(strings[:, 0] + 2 * strings[:, 1]) % 6] * (strings[:, 2] > 0)
    )
    policy = Table(0.5 * torch.tensor([[1.0, 0.0, -1.0], [0.0, 1.0, 0.0], [0.5, 0.0, 0.0]]))
    part = ProbedGroup(size=2, probes=4000, every=1, most=1.0)
    made = method(sampling=part, reward=load("grpo").reward, selection=Selection(1))
    ctx = context(made, {"policy": policy}, world, generate)
    batch = part(ctx, _draw(ctx), _judge(ctx))
    for b in range(2):
        string = batch.step["_step"][b].tolist()
        for t in range(3):
            exact = exact_values(world, policy, string[: t + 1]) - exact_values(world, policy, string[:t])
            found = float(batch.step["value_after"][b, t] - batch.step["value_before"][b, t])
            assert found == pytest.approx(exact, abs=0.03)


def test_every_edge_is_one_training_episode_in_expectation() -> None:
    """The tree's update is that of the segments: a shared first segment is trained once, with V(child) - V(root)."""
    world = SequenceWorld(1, 2, 2, lambda strings, task: (strings[:, 0] == 1).double())
    made = replace(load("spo_segment"), selection=Selection(1), sampling=TreeGroup((4, 3), 1))
    made = replace(made, credit=replace(made.credit, parts=made.credit.parts[:2]))
    ctx = context(made, {"policy": Table(torch.zeros(2, 2))}, world, generate)
    batch = made.credit(ctx, made.sampling(ctx, _draw(ctx), _judge(ctx)))
    assert len(batch) == 12
    first = batch.trained[:, 0]
    share = float((batch.step["_step"][:, 0] == 1).double().mean())
    assert int(first.sum()) == (4 if 0 < share < 1 else 0)
    for b in first.nonzero()[:, 0].tolist():
        close(batch.step["advantage"][b, 0], float(batch.step["_step"][b, 0] == 1) - share)
    # The second symbol decides nothing: its edges have advantage 0 and are dropped.
    assert not bool(batch.trained[:, 1].any())


def test_published_settings() -> None:
    tree, chain = load("spo_segment"), load("spo_segment:spo_segment_chain")
    assert tree.sampling.branching == (6, 6, 6)
    assert (chain.sampling.probes, chain.sampling.every, chain.sampling.most) == (9, 5, 0.9)
    assert (tree.update.epochs, chain.update.epochs) == (1, 2)
