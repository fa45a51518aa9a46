"""Search over lines: what is backed up, what is selected, what a value model is trained on, what it finds."""

import math
from dataclasses import replace

import pytest
import torch

from policyopt.compose import CompositionError, Program, Stage
from policyopt.engines.plain import generate
from policyopt.evaluation.experiments._worlds import Automaton
from policyopt.methods import load
from policyopt.policies.tabular import Table, TableCritic
from policyopt.reward.parts import Verified
from policyopt.run import Run
from policyopt.sampling.search import LineSearch, Node, chosen, promise
from policyopt.selection.tasks import Selection
from policyopt.train import _draw, _judge, rounds
from policyopt.update.gradient import GradientSteps
from policyopt.update.optimizers import AdamW
from policyopt.worlds.sequences import SequenceWorld
from support import close, context, method, numbers

pytestmark = pytest.mark.usefixtures("float64")

SMALL = LineSearch(iterations=12, branching=3, beam=2, steps=1, temperature=1.0, exploration=0.5)


def strings():
    """Strings of 3 of 3 symbols that a table sees whole: state = 0, then 1 + s1, 4 + 3 s1 + s2, then the end."""
    worth = torch.rand(27, generator=torch.Generator().manual_seed(3), dtype=torch.float64)
    inner = SequenceWorld(1, 3, 3, lambda s, t: worth[s[:, 0] * 9 + s[:, 1] * 3 + s[:, 2]])
    follow = lambda state, symbol: (state * 3 + 1 + symbol).clamp(max=39)  # noqa: E731
    return Automaton(inner, 40, lambda task: 0 * task, follow), worth


def parts(part, models=None, seed=0):
    world, worth = strings()
    made = method(sampling=part, reward=Verified(), selection=Selection(1))
    models = {"policy": Table(numbers(40, 3, seed=1)), **(models or {})}
    return context(made, models, world, generate, seed), worth


def tree(part=SMALL, seed=0):
    ctx, worth = parts(part, seed=seed)
    start = ctx.world.start(_draw(ctx)())
    return part.grown(ctx, Node(start), _judge(ctx)), worth


def prefix(node):
    return node.row.step["_step"][0][node.row.valid[0]].tolist()


def test_visits_and_totals_are_those_of_the_nodes_below() -> None:
    """Every node counts its own evaluation (the root none) and all of its children's; finished ones what they got."""
    nodes, worth = tree()
    for node in nodes:
        own = 0 if node.parent is None else 1
        if not node.done:
            assert node.visits == own + sum(child.visits for child in node.children)
        assert all(child.parent is node for child in node.children)
        assert len(node.children) in (0, 3)
    for node in [node for node in nodes if node.done]:
        a, b, c = prefix(node)
        assert node.value == pytest.approx(float(worth[a * 9 + b * 3 + c]))


def test_the_search_is_the_loops() -> None:
    """Selection, expansion and backup again over paths in dictionaries, given the values that rollouts had."""
    nodes, _ = tree(replace(SMALL, beam=3))
    total, visits, children, value = {(): 0.0}, {(): 0}, {(): []}, {}
    names, order = {id(nodes[0]): ()}, {}
    for node in nodes[1:]:
        path = (*names[id(node.parent)], node.parent.children.index(node))
        names[id(node)], order[path] = path, node
        value[path] = float(node.finished.step["reward"].sum())
    for _ in range(12):
        path = ()
        while children.get(path):
            path = max(
                children[path],
                key=lambda c, n=visits[path]: (
                    total[c] / visits[c] + 0.5 * math.sqrt((1 + math.log(n)) / (0.1 + visits[c]))
                ),
            )
        if path and order[path].done:
            new, count = total[path] / visits[path], 1
        else:
            children[path] = [(*path, n) for n in range(3)]
            for child in children[path]:
                total[child], visits[child] = value[child], 1
            new, count = sum(value[child] for child in children[path]), 3
        for depth in range(len(path) + 1):
            total[path[:depth]] += new
            visits[path[:depth]] += count
    assert set(total) == set(names.values())
    for node in nodes:
        assert node.visits == visits[names[id(node)]]
        assert node.total == pytest.approx(total[names[id(node)]])


def test_promise_by_hand_and_pruned_children_are_never_selected() -> None:
    root = Node(tree()[0][0].row, total=3.0, visits=5)
    root.children = [Node(root.row, root, None, 0.9, 1), Node(root.row, root, None, 1.6, 2)]
    first, second = root.children
    assert promise(first, 0.2, 0.1) == pytest.approx(0.9 + 0.2 * math.sqrt((1 + math.log(5)) / 1.1))
    assert chosen(root, 0.0, 0.1) is first
    second.total = 1.9
    assert chosen(root, 0.0, 0.1) is second
    second.selectable = False
    assert chosen(root, 0.0, 0.1) is first
    nodes, _ = tree(replace(SMALL, beam=1, iterations=9))
    for node in nodes:
        if node.children:
            open_ = [child for child in node.children if child.selectable]
            firsts = [float(child.finished.step["reward"].sum()) for child in node.children]
            assert len(open_) == 1
            assert firsts[node.children.index(open_[0])] == max(firsts)
        assert node.selectable or not node.children


def test_targets_are_the_values_of_prefixes_at_the_step_that_leaves_them() -> None:
    ctx, _ = parts(SMALL)
    batch = SMALL(ctx, _draw(ctx), _judge(ctx))
    nodes, _ = tree()
    expected = sorted((len(prefix(n)), round(n.value, 12)) for n in nodes[1:] if not n.done)
    assert bool((batch.trained.sum(1) == 1).all())
    place = batch.trained.long().argmax(1)
    found = sorted((int(p), round(float(batch.step["return"][b, p]), 12)) for b, p in enumerate(place))
    assert found == expected


def exact(policy, worth, state=0, depth=0, code=0):
    """(40,) expected reward from every state."""
    values = torch.zeros(40)

    def of(state, depth, code):
        if depth == 3:
            return float(worth[code])
        p = policy.logits.detach()[state].softmax(-1).tolist()
        values[state] = sum(q * of(state * 3 + 1 + a, depth + 1, code * 3 + a) for a, q in enumerate(p))
        return float(values[state])

    of(state, depth, code)
    return values


def test_the_value_stage_learns_what_prefixes_are_worth() -> None:
    world, worth = strings()
    made = load("rest_rl:rest_rl_value")
    part = replace(made.sampling, iterations=8, steps=1, branching=4, exploration=3.0, temperature=1.0)
    update = GradientSteps({"critic": AdamW(learning_rate=0.1)}, clip_norm=None)
    made = replace(made, selection=Selection(1), sampling=part, update=update)
    policy = Table(0.3 * numbers(40, 3, seed=1))
    run = Run({"policy": policy}, world, generate, 0)
    before = policy.logits.detach().clone()
    list(rounds(run, Program((Stage(made, 6),))))
    values, true = run.models["critic"].values.detach(), exact(policy, worth)
    error = (values[1:4] - true[1:4]).abs().mean()  # the prefixes of one symbol
    assert float(error) < 0.15 < float(true[1:4].mean())
    close(policy.logits, before)


def test_search_with_exact_values_beats_as_many_samples_valued_alike() -> None:
    """Mean reward of the row it finds, against single samples; no rollout is judged on the way."""
    policy = Table(0.3 * numbers(40, 3, seed=1))
    world, worth = strings()
    critic = TableCritic(40, torch.float64)
    with torch.no_grad():
        critic.values.copy_(exact(policy, worth))  # 0 at the end: the prefixes decide
    judged, found = [], []
    for seed in range(8):
        part = LineSearch(8, 3, 3, 0.1, 0.1, 1, "critic", 1.0)
        ctx, _ = parts(part, {"critic": critic, "policy": policy}, seed)
        plain = _judge(ctx)
        batch = part(ctx, _draw(ctx), lambda rows: (judged.append(len(rows)), plain(rows))[1])  # noqa: B023
        found.append(float(batch.step["reward"].sum()))
    assert judged == [1] * 8
    assert sum(found) / 8 > float(exact(policy, worth)[0])
    assert world.size == 1


def test_refusals() -> None:
    for broken in ({"iterations": 0}, {"beam": 0}, {"smooth": 0.0}, {"exploration": -1.0}):
        with pytest.raises(CompositionError):
            LineSearch(**broken)
