"""PPO's updates against Stable-Baselines3's: the same rows, the same initial weights, round after round.

    make peers
    .venv/bin/python benchmarks/control_oracle.py [--env CartPole-v1 ...] [--rounds 8]

This library collects and updates; Stable-Baselines3 is given the rows, advantages and returns of every round and makes
its own updates from the same initial weights, with an Adam of its own that goes on from round to round. A round is one
minibatch, which leaves no shuffling to differ. Advantages are also compared with the peer's recursion over each
environment's steps. Printed: the largest difference of any weight, how far weights have moved, and of advantages.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
from control_ours import made
from control_settings import Setting
from rich.console import Console
from rich.table import Table

from policyopt.compose import Program, Stage
from policyopt.credit.returns import GeneralisedAdvantage
from policyopt.train import rounds

HERE = Path(__file__).parent
CREDIT = {"obs": "_obs", "action": "_action", "logp": "behaviour", "reward": "reward"}
CREDIT |= {"advantage": "advantage", "return": "return", "value": "value"}


@dataclass(frozen=True)
class Watched(GeneralisedAdvantage):
    """Keeps what it made, and what the weights were before the first update."""

    kept: list[Any] = field(default_factory=list, repr=False, compare=False)

    def __call__(self, ctx: Any, batch: Any) -> Any:
        if not self.kept:
            self.kept.append(weights(ctx.models))
        credited = super().__call__(ctx, batch)
        self.kept.append((credited, self.values(ctx, batch).detach()))
        return credited


def weights(models: Any) -> dict[str, np.ndarray]:
    """Layer by layer, under the names that the peer's script uses."""
    policy, network = models["policy"], models["critic"].estimator.network
    found = {}
    for number, layer in enumerate((*policy.body.layers, policy.out)):
        found |= {f"policy_weight_{number}": layer.weight, f"policy_bias_{number}": layer.bias}
    for number, (weight, bias) in enumerate(zip(network.weights, network.biases, strict=True)):
        found |= {f"value_weight_{number}": weight[0].T, f"value_bias_{number}": bias[0, 0]}
    if policy.log_std is not None:
        found["log_std"] = policy.log_std
    return {name: tensor.detach().numpy().copy() for name, tensor in found.items()}


def by_environment(batch: Any, values: Any, count: int) -> dict[str, np.ndarray]:
    """Columns (N, H, ...) of every environment's steps in time; `done` where an episode ended; `beyond`, the value that
    a cut episode is worth after its last step (N, H); `last`, of the state after the horizon (N,)."""
    columns: dict[str, list[list[Any]]] = {n: [[] for _ in range(count)] for n in (*CREDIT, "done", "beyond")}
    last = [0.0] * count
    for row, env in enumerate(batch.row["_env"].tolist()):
        steps = int(batch.valid[row].sum())
        ended, stopped = int(batch.row["episode_length"][row]) > 0, int(batch.row["finish"][row]) == 1
        for name, column in CREDIT.items():
            columns[name][env] += list(batch.step[column][row, :steps].numpy())
        after = float(values[row, steps])
        columns["done"][env] += [False] * (steps - 1) + [ended]
        columns["beyond"][env] += [0.0] * (steps - 1) + [after if ended and not stopped else 0.0]
        last[env] = after
    return {**{name: np.array(column) for name, column in columns.items()}, "last": np.array(last)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--env", nargs="+", default=["CartPole-v1", "Pendulum-v1", "HalfCheetah-v5"])
    parser.add_argument("--rounds", type=int, default=8)
    parser.add_argument("--peer", default=".peers/bin/python", help="Python of the peers' environment")
    asked = parser.parse_args()
    table = Table("environment", "rounds", "largest difference of weights", "they moved by", "of advantages")
    for env in asked.env:
        setting = Setting(env, 4, 256, minibatch=1024, learning_rate=1e-3, gamma=0.98, lam=0.9)
        run, program = made(setting, 0, asked.rounds, "eager")
        kept: list[Any] = []
        method = program.stages[0].method
        credit = Watched(setting.gamma, setting.lam, whitened=False, kept=kept)
        program = Program((Stage(replace(method, credit=credit), asked.rounds),))
        data: dict[str, np.ndarray] = {}
        for number, _ in enumerate(rounds(run, program)):
            found = by_environment(*kept[-1], setting.count)
            data |= {f"{number}/{name}": column for name, column in found.items()}
            data |= {f"{number}/after/{name}": value for name, value in weights(run.models).items()}
        data |= {f"initial/{name}": value for name, value in kept[0].items()}
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "rounds.npz"
            np.savez(path, setting=np.array(str(asdict(setting))), **data)
            script = str(HERE / "peers" / "sb3_oracle.py")
            done = subprocess.run([asked.peer, script, str(path)], capture_output=True, text=True)
        if done.returncode:
            sys.exit(f"the peer failed on {env}:\n{done.stderr[-2000:]}")
        weight, moved, advantage = done.stdout.split()
        table.add_row(env, str(asked.rounds), weight, moved, advantage)
    Console(width=120).print(table)


if __name__ == "__main__":
    main()
