"""Returns of PPO at equal steps against Stable-Baselines3 and CleanRL, with intervals over seeds.

    make peers
    .venv/bin/python benchmarks/control_returns.py --runs runs/control_returns.jsonl [--only cartpole ...] [--jobs 2]

Sides: `ours` against `sb3` (the same settings, nothing normalised), and, with `--against cleanrl` (after `make
peers-cleanrl`), `ours_as_cleanrl` against `cleanrl` (its scripts for discrete and continuous actions). Every run is a
process of one thread; finished runs are read from the file, so that the benchmark can be stopped and go on. A run's
score is the mean return of the training episodes of the rounds that end in the last tenth of its steps.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import statistics
import subprocess
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict
from pathlib import Path
from threading import Lock

from control_settings import SETTINGS, Setting
from rich.console import Console
from rich.table import Table
from scipy import stats

from policyopt.evaluation.statistics import seed_interval

HERE = Path(__file__).parent
ENVIRONMENTS = ("cartpole", "pendulum", "halfcheetah", "hopper")
SIDES = {"sb3": ("ours", "sb3"), "cleanrl": ("ours_as_cleanrl", "cleanrl")}
OLDER = {"HalfCheetah-v5": "HalfCheetah-v4", "Hopper-v5": "Hopper-v4"}  # what CleanRL's Gymnasium has


def command(side: str, setting: Setting, seed: int, asked: argparse.Namespace) -> list[str]:
    if side == "cleanrl":
        kind = "ppo" if setting.env == "CartPole-v1" else "ppo_continuous_action"
        script = Path(asked.cleanrl) / "cleanrl" / f"{kind}.py"
        options = {
            "env-id": OLDER.get(setting.env, setting.env),
            "seed": seed,
            "total-timesteps": setting.steps,
            "num-envs": setting.count,
            "num-steps": setting.horizon,
            "learning-rate": setting.learning_rate,
            "gamma": setting.gamma,
            "gae-lambda": setting.lam,
            "num-minibatches": setting.batch // setting.minibatch,
            "update-epochs": setting.epochs,
            "ent-coef": 0,
        }
        return [asked.cleanrl_python, str(script), *[f"--{k}={v}" for k, v in options.items()], "--no-cuda"]
    given = {"setting": asdict(setting), "seed": seed, "as_cleanrl": side == "ours_as_cleanrl"}
    python, script = (asked.peer, "sb3_returns.py") if side == "sb3" else (sys.executable, "ours_returns.py")
    return [python, str(HERE.absolute() / "peers" / script), json.dumps(given)]


def episodes(side: str, output: str) -> list[tuple[int, float]]:
    if side == "cleanrl":
        found = re.findall(r"global_step=(\d+), episodic_return=\[?([-\d.e+]+)", output)
        return [(int(step), float(earned)) for step, earned in found]
    return json.loads(output.strip().splitlines()[-1])["episodes"]


def one(side: str, name: str, seed: int, asked: argparse.Namespace) -> dict:
    """One run: its score and where it came from."""
    setting = SETTINGS[name]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}
    # CleanRL's scripts write a folder of logs where they are started.
    with tempfile.TemporaryDirectory() as here:
        done = subprocess.run(
            command(side, setting, seed, asked), capture_output=True, text=True, env=environment, cwd=here
        )
    if done.returncode:
        raise SystemExit(f"{side} on {name} with seed {seed} failed:\n{done.stderr[-2000:]}")
    # Counted in whole rounds on every side: ours knows of an episode only in which round it ended.
    ended = [(-(-step // setting.batch) * setting.batch, earned) for step, earned in episodes(side, done.stdout)]
    late = [earned for step, earned in ended if step > 0.9 * setting.steps]
    return {"side": side, "name": name, "seed": seed, "steps": setting.steps, "score": statistics.fmean(late)}


def show(kept: dict, names: list[str], sides: list[tuple[str, str]], seeds: list[int]) -> None:
    table = Table("environment", "steps", "side", "mean return [95 %]", "difference [95 %]", "")
    for name in names:
        steps = SETTINGS[name].steps
        for ours, theirs in sides:
            scores = {
                side: [kept[side, name, s, steps] for s in seeds if (side, name, s, steps) in kept]
                for side in (ours, theirs)
            }
            if min(map(len, scores.values())) < 2:
                continue
            found = stats.ttest_ind(scores[ours], scores[theirs], equal_var=False).confidence_interval()
            apart = "cannot tell apart" if found.low <= 0 <= found.high else "ours" if found.low > 0 else theirs
            gap = statistics.fmean(scores[ours]) - statistics.fmean(scores[theirs])
            for side in (ours, theirs):
                i = seed_interval(scores[side])
                mine = side == ours
                table.add_row(
                    f"{name} ({len(scores[side])} seeds)" if mine else "",
                    f"{steps}" if mine else "",
                    side,
                    f"{i.estimate:.0f} [{i.low:.0f}, {i.high:.0f}]",
                    f"{gap:.0f} [{found.low:.0f}, {found.high:.0f}]" if mine else "",
                    apart if mine else "",
                )
    Console(width=140).print(table)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--runs", type=Path, default=Path("runs/control_returns.jsonl"), help="finished runs")
    parser.add_argument("--only", nargs="*", choices=ENVIRONMENTS, default=list(ENVIRONMENTS))
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2, 3, 4])
    parser.add_argument("--jobs", type=int, default=2)
    parser.add_argument("--peer", default=".peers/bin/python", help="Python of the peers' environment")
    parser.add_argument("--against", nargs="+", choices=list(SIDES), default=["sb3"])
    parser.add_argument("--cleanrl", default=".peers-cleanrl/source", help="folder of a clone of CleanRL")
    parser.add_argument("--cleanrl-python", default=".peers-cleanrl/bin/python")
    asked = parser.parse_args()
    # Runs start in folders of their own.
    asked.peer, asked.cleanrl_python = (str(Path(python).absolute()) for python in (asked.peer, asked.cleanrl_python))
    asked.cleanrl = str(Path(asked.cleanrl).absolute())
    asked.runs.parent.mkdir(parents=True, exist_ok=True)
    lines = asked.runs.read_text().splitlines() if asked.runs.exists() else []
    kept = {(r["side"], r["name"], r["seed"], r["steps"]): r["score"] for r in map(json.loads, lines)}
    sides = [SIDES[peer] for peer in asked.against]
    todo = [
        (side, name, seed)
        for seed in asked.seeds
        for name in asked.only
        for pair in sides
        for side in pair
        if (side, name, seed, SETTINGS[name].steps) not in kept
    ]
    lock = Lock()

    def work(task: tuple[str, str, int]) -> None:
        result = one(*task, asked)
        with lock, asked.runs.open("a") as file:
            file.write(json.dumps(result) + "\n")
            kept[result["side"], result["name"], result["seed"], result["steps"]] = result["score"]
            print(f"{len(kept)} runs: {result}", flush=True)

    with ThreadPoolExecutor(asked.jobs) as pool:
        list(pool.map(work, todo))
    show(kept, asked.only, sides, asked.seeds)


if __name__ == "__main__":
    main()
