"""The optimistic actor-critic: `reduces_to` of specification 54, each identity a test."""

import math
from dataclasses import replace

import pytest
import torch
from torch import nn

from policyopt.compose import CompositionError, Program, Stage
from policyopt.engines.plain import generate
from policyopt.evaluation.experiments.locks import lock
from policyopt.methods import load
from policyopt.options import override
from policyopt.policies.tabular import Table
from policyopt.run import Run
from policyopt.train import rounds
from policyopt.update.optimistic import COUNTED, OptimisticWeights, counted, nothing_counted, optimistic_values
from policyopt.worlds import oracles
from policyopt.worlds.tables import RecordedEpisodes
from support import close, context, method

pytestmark = pytest.mark.usefixtures("float64")

CODE = torch.tensor([1, 0, 1])
MDP = lock(CODE)


def runs(count: int, seed: int = 0, logits=None, **options):
    made = override(load("optimistic_actor_critic"), {"update.horizon": 3, **options})
    start = torch.zeros(MDP.states, 2) if logits is None else logits
    run = Run({"policy": Table(start)}, MDP, generate, seed)
    return run, list(rounds(run, Program((Stage(made, count),))))


def loop_counts(batches, states=7, choices=2):
    """Visits, reward sums and successors, in loops."""
    visits = [[0] * choices for _ in range(states)]
    paid = [[0.0] * choices for _ in range(states)]
    reached = [[[] for _ in range(choices)] for _ in range(states)]
    when = [None] * states
    for batch in batches:
        for b in range(len(batch)):
            own = [t for t in range(batch.steps) if batch.own[b, t]]
            for number, t in enumerate(own):
                s, a = int(batch.step["_state"][b, t]), int(batch.step["_step"][b, t])
                visits[s][a] += 1
                paid[s][a] += float(batch.step["reward"][b, t])
                when[s] = number
                if number + 1 < len(own):
                    reached[s][a].append(int(batch.step["_state"][b, own[number + 1]]))
    return visits, paid, reached, when


def test_counts_and_values_equal_the_loops() -> None:
    """Backward induction in the order of time."""
    run, done = runs(9)
    visits, paid, reached, when = loop_counts([d.judged for d in done])
    held = run.cells[COUNTED.name]
    close(held["visits"], visits)
    close(held["rewards"], paid)
    expected = [[0.0, 0.0] for _ in range(7)]
    for s in sorted(range(7), key=lambda s: -(when[s] if when[s] is not None else 99)):
        for a in range(2):
            n = visits[s][a]
            goes = sum(max(expected[x]) for x in reached[s][a])
            mean = (paid[s][a] + goes) / n if n else 0.0
            most = 3 - (when[s] or 0)
            expected[s][a] = min(most, mean + 0.7 / math.sqrt(1 + n))
    close(optimistic_values(held, 3, 0.7), expected)


def test_without_resets_the_actor_is_the_softmax_of_the_sum_of_critics() -> None:
    """Between two fits logits grow by rate Q a round; a fit begins again at the uniform policy."""
    held, total, fits = None, torch.zeros(7, 2), 0
    made = OptimisticWeights(rate=0.5, bonus=0.0, horizon=3)
    run = Run({"policy": Table(torch.zeros(7, 2))}, MDP, generate)
    for done in rounds(run, Program((Stage(replace(load("optimistic_actor_critic"), update=made), 30),))):
        now = run.cells[COUNTED.name]
        if held is None or not torch.equal(now["fitted"], held):
            held, total, fits = now["fitted"], torch.zeros(7, 2), fits + 1
        total = total + 0.5 * now["values"]
        close(run.models["policy"].logits, total, 1e-9)
        assert done.metrics["refits"] in (0.0, 1.0)
    assert 1 < fits < 30


def test_a_fit_comes_only_when_a_count_has_doubled() -> None:
    _, done = runs(25)
    visits = torch.zeros(7, 2)
    fitted = torch.zeros(7, 2)
    for d in done:
        rows = d.judged
        for s, a in zip(rows.step["_state"][rows.own].tolist(), rows.step["_step"][rows.own].tolist(), strict=True):
            visits[s, a] += 1
        due = bool(((visits >= 2 * fitted) & (visits > 0)).any())
        assert d.metrics["refits"] == float(due)
        fitted = visits.clone() if due else fitted


def test_a_large_rate_is_greedy_in_the_optimistic_values() -> None:
    run, _ = runs(20, **{"update.rate": 1e6})
    values = run.cells[COUNTED.name]["values"]
    best = run.models["policy"].logits.detach().argmax(1)
    differ = (values[:, 0] - values[:, 1]).abs() > 1e-9
    assert torch.equal(best[differ], values.argmax(1)[differ])


def test_every_choice_counted_many_times_gives_the_best_values() -> None:
    """Recorded episodes of the uniform policy, no bonus: fitted value iteration, then a softmax."""
    world = RecordedEpisodes(MDP, torch.full((7, 2), 0.5), 400)
    first = override(load("optimistic_actor_critic:optimistic_recorded"), {"update.horizon": 3})
    first = replace(first, selection=replace(first.selection, count=400))
    run = Run({"policy": Table(torch.zeros(7, 2))}, world, generate)
    list(rounds(run, Program((Stage(first, 1),))))
    best = oracles.optimum(MDP)[1]
    close(run.cells[COUNTED.name]["values"][:-1], best[:-1])
    close(run.models["policy"].logits[:-1], best[:-1])


def test_rows_that_end_reach_nothing_and_unseen_choices_keep_the_bonus() -> None:
    counts = nothing_counted(7, 2)
    close(optimistic_values(counts, 3, 1.0), torch.ones(7, 2))
    _, done = runs(1)
    after = counted(counts, done[0].judged)
    close(after["visits"].sum(), 3.0)
    close(after["reached"].sum(), 2.0)
    close(counts["visits"].sum(), 0.0)


def test_only_tables_of_logits_are_moved() -> None:
    made = replace(load("optimistic_actor_critic"), update=OptimisticWeights(horizon=3))
    _, done = runs(1)
    ctx = context(method(), {"policy": nn.Linear(2, 2)})
    with pytest.raises(CompositionError, match="mdpo"):
        made.update(ctx, done[0].judged)
    with pytest.raises(CompositionError, match="rate"):
        OptimisticWeights(rate=0.0)
