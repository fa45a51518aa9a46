"""Several policies, each with a run of its own, that share what they write."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from policyopt.compose import Method, Program, Stage
from policyopt.evaluation.experiments._common import CountingEngine, Outcome, probabilities, uniform_table
from policyopt.evaluation.experiments._common import numbers as stream
from policyopt.evaluation.experiments._worlds import all_right, strings_with_target, target_probability
from policyopt.run import Run
from policyopt.train import rounds as train_rounds
from policyopt.types import Batch, Source, Tasks
from policyopt.worlds.sequences import SequenceWorld


@dataclass(frozen=True)
class Node:
    """A world of strings in which what is published is offered to the other nodes: the latest of each, by its strings
    alone. `pool` is shared by all nodes."""

    inner: SequenceWorld
    name: int
    pool: dict[int, tuple[Tensor, Tensor, Tensor]]

    def __getattr__(self, name: str) -> Any:
        return getattr(self.inner, name)

    def publish(self, rows: Batch) -> None:
        strings = self.inner.strings(rows)
        padded = torch.full((len(rows), self.inner.limit), -1)
        padded[:, : strings.shape[1]] = strings
        self.pool[self.name] = (rows.row["task"], padded, rows.row["group"])

    def offered(self) -> Batch | None:
        others = [(name, rows) for name, rows in sorted(self.pool.items()) if name != self.name]
        if not others:
            return None
        task, strings = (torch.cat([rows[k] for _, rows in others]) for k in (0, 1))
        # Groups of different nodes may have the same number.
        group = torch.cat([len(others) * rows[2] + k for k, (_, rows) in enumerate(others)])
        return self.inner.complete(Tasks(task, {"group": group}), strings)


def shared_experience(method: Method, seed: int, rounds: int, nodes: int = 8) -> Outcome:
    """As many kinds of tasks (2 of each) as nodes: strings of 3 of 6 symbols, reward 1 for the whole target. Every node
    begins with one kind that it knows (logit 3 for the right symbols), and all are asked all kinds.

    value: probability of a right string, mean over nodes, tasks and rounds, exact.
    """
    target = strings_with_target(2 * nodes, 6, 3, stream(seed, "shared experience"))
    world, pool = SequenceWorld(2 * nodes, 6, 3, all_right(target)), {}
    runs, engines = [], []
    for node in range(nodes):
        start = uniform_table(world.states, 6)
        known = torch.nn.functional.one_hot(target[2 * node : 2 * node + 2].reshape(-1), 6)
        with torch.no_grad():
            start.logits[6 * node : 6 * node + 6] += 3.0 * known
        engines.append(CountingEngine())
        runs.append(Run({"policy": start}, Node(world, node, pool), engines[-1], 1000 * seed + node))
    going = [train_rounds(run, Program((Stage(method, rounds),))) for run in runs]
    curve, read = [], 0
    for _ in range(rounds):
        done = [next(one) for one in going]
        read += sum(int((one.judged.row["source"] == Source.DATASET).sum()) for one in done)
        success = [target_probability(probabilities(run), target).prod(1).mean() for run in runs]
        curve.append(float(torch.stack(success).mean()))
    spread = torch.stack([target_probability(probabilities(run), target).prod(1).mean() for run in runs])
    notes = {
        "success after training, mean over nodes": curve[-1],
        "success after training, worst node": float(spread.min()),
    }
    mean = sum(curve) / rounds
    rows = read + sum(engine.rows for engine in engines)
    return Outcome(mean, mean, rows, tuple(curve), "probability of a right string", notes)
