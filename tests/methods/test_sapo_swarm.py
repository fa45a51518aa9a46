"""SAPO: `reduces_to` of specification 146."""

from dataclasses import replace

import pytest
import torch

from policyopt.compose import CompositionError, Program, Stage
from policyopt.engines.plain import generate
from policyopt.evaluation.experiments.swarm import Node
from policyopt.methods import load
from policyopt.ops.sequences import total_reward
from policyopt.options import override
from policyopt.policies.tabular import Table
from policyopt.run import Run
from policyopt.sampling.exchange import Exchanged
from policyopt.sampling.samplers import Group
from policyopt.train import rounds
from policyopt.types import Source
from policyopt.update.gradient import GradientSteps
from policyopt.update.optimizers import SGD
from policyopt.worlds.sequences import SequenceWorld
from support import close, numbers

pytestmark = pytest.mark.usefixtures("float64")

WORLD = SequenceWorld(3, 4, 2, lambda strings, task: (strings[:, 0] == task).double() + 0.1 * strings[:, 1])


def small(**options):
    made = override(load("sapo_swarm"), {"selection.count": 2, "sampling.size": 3, "sampling.external": 2, **options})
    return replace(made, update=GradientSteps({"policy": SGD(0.5)}, clip_norm=None))


def played(made, world, count=1, seed=0, logits=None):
    run = Run({"policy": Table(numbers(6, 4) if logits is None else logits)}, world, generate, seed)
    return list(rounds(run, Program((Stage(made, count),)))), run


def published(pool, name, tasks, strings, group):
    pool[name] = (torch.tensor(tasks), torch.tensor(strings), torch.tensor(group))


def test_without_external_groups_it_is_isolated_grpo() -> None:
    made = small(**{"sampling.external": 0})
    base = replace(made, sampling=Group(size=3))
    _, one = played(made, WORLD, 3)
    _, other = played(base, WORLD, 3)
    close(one.models["policy"].logits, other.models["policy"].logits)
    assert float((one.models["policy"].logits.detach() - numbers(6, 4)).abs().max()) > 1e-2


def test_rows_of_others_are_learned_as_own_ones() -> None:
    """Rows that the same policy wrote elsewhere: the update is GRPO's on all rows with their true log-probabilities."""
    pool = {}
    (theirs,), _ = played(small(), Node(WORLD, 1, pool), seed=7)
    assert set(pool) == {1}
    (done,), run = played(small(), Node(WORLD, 0, pool))
    rows = done.judged
    assert rows.row["source"].tolist().count(int(Source.DATASET)) == 6
    assert done.metrics["external_groups"] == 2.0
    close(done.metrics["policy/ratio"], 1.0)
    table, expected = numbers(6, 4), torch.zeros(6, 4)
    advantage = done.credited.step["advantage"]
    for b, t in rows.own.nonzero().tolist():
        state, taken = int(rows.step["_state"][b, t]), int(rows.step["_step"][b, t])
        slope = torch.nn.functional.one_hot(torch.tensor(taken), 4) - table[state].softmax(-1)
        expected[state] += 0.5 * float(advantage[b, t]) * slope / 2 / len(rows)
    close(run.models["policy"].logits.detach() - table, expected)
    assert len(theirs.judged) == 12, "alone in the swarm, a node fills the round itself"


def test_only_groups_that_differ_are_taken_and_judged_here() -> None:
    pool = {}
    alike, mixed, other = [[0, 1]] * 3, [[1, 0], [0, 0], [1, 2]], [[2, 3], [1, 3], [3, 3]]
    published(pool, 1, [0] * 3 + [1] * 3, alike + mixed, [5] * 3 + [6] * 3)
    published(pool, 2, [2] * 3, other, [5] * 3)
    (done,), _ = played(small(), Node(WORLD, 0, pool))
    found = done.judged[done.judged.row["source"] == Source.DATASET]
    assert sorted(map(tuple, WORLD.strings(found).tolist())) == sorted(map(tuple, mixed + other))
    close(total_reward(found), WORLD.grade(found))
    groups = done.judged.row["group"].unique(return_counts=True)
    assert groups[1].tolist() == [3, 3, 3, 3]
    assert found.row["group"].unique(return_counts=True)[1].tolist() == [3, 3]
    assert bool(found.step["behaviour"][found.own].isnan().all())


def test_a_node_is_never_offered_its_own_rows() -> None:
    pool = {}
    node = Node(WORLD, 1, pool)
    published(pool, 1, [0] * 3, [[0, 1]] * 3, [5] * 3)
    assert node.offered() is None
    published(pool, 0, [1, 1], [[1, 2], [0, 2]], [3, 3])
    offered = node.offered()
    assert offered is not None
    assert WORLD.strings(offered).tolist() == [[1, 2], [0, 2]]
    assert offered.row["task"].tolist() == [1, 1]


def test_the_choice_is_a_function_of_the_seed_and_uniform() -> None:
    chosen = set()
    for seed in range(12):
        pool = {}
        published(pool, 1, [0, 0, 1, 1, 2, 2], [[0, 0], [1, 1]] * 3, [1, 1, 2, 2, 3, 3])
        made = small(**{"sampling.external": 1})
        found = [played(made, Node(WORLD, 0, dict(pool)), seed=seed)[0][0].judged for _ in range(2)]
        assert torch.equal(found[0].row["task"], found[1].row["task"])
        chosen |= set(found[0].row["task"][found[0].row["source"] == Source.DATASET].tolist())
    assert chosen == {0, 1, 2}


def test_a_world_without_exchange_is_refused() -> None:
    with pytest.raises(CompositionError, match="publish"):
        played(small(), WORLD)
    with pytest.raises(CompositionError, match="0 or more"):
        Exchanged(external=-1)
