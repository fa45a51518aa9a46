"""Small runs whose processes are to be broken, the commands that make them, and what they leave."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

ROUNDS = 10

RULES = '''"""A verifier that takes a moment; and, if told to, breaks its own process as a fault would."""

import os, time

def score(text, entry):
    time.sleep(0.02)
    try:
        number, act = open(entry.metadata["fault"]).read().split()
    except (OSError, ValueError):
        number, act = "0", ""
    if int(number) == os.getpid() and act == "disconnect":
        os.closerange(3, 64)
        time.sleep(60)
    if int(number) == os.getpid() and act == "corrupt":
        for handle in range(3, 64):
            try:
                os.write(handle, b"\\x00{]\\n")
            except OSError:
                pass
    return (len(set(text)) + 1) / (len(text) + 2)
'''


@dataclass(frozen=True)
class Workload:
    """A kind of run. steps of its method; changes to the recipe all share; command: train or compare; separate: its
    processes start others of the same program, so that it is started as a user does and not by a fork. needs: a
    package."""

    name: str
    recipe: Mapping[str, Any]
    command: str = "train"
    separate: bool = False
    arguments: tuple[str, ...] = field(default=())
    needs: str | None = None

    def prepare(self, base: Path, judge: str = "", slower: float = 1.0) -> None:
        """Files of the run in an empty folder. judge: the URL of the judge server. slower: factor of the deadlines."""
        (base / "broken_rules.py").write_text(RULES)
        tasks = [
            {
                "prompt": "abcdefgh"[i % 8] * (1 + i % 3),
                "answer": "a",
                "fault": str(base / "fault"),
                "tests": [{"stdin": "", "stdout": ""}],
            }
            for i in range(12)
        ]
        (base / "tasks.jsonl").write_text("".join(json.dumps(task) + "\n" for task in tasks))
        recipe = json.loads(json.dumps(self.recipe).replace("JUDGE", judge).replace("BASE", str(base)))
        for section, names in (
            (recipe["tasks"], ("deadline",)),
            (recipe.get("judges", {}).get("far"), ("timeout", "deadline")),
            (recipe.get("runtime"), ("deadline",)),
        ):
            for name in names if section else ():
                if name in section:
                    section[name] *= slower
        (base / "recipe.yaml").write_text(yaml.safe_dump(recipe))

    def start(self, base: Path) -> list[str]:
        """Arguments of `policyopt` for the run from its beginning."""
        return [self.command, str(base / "recipe.yaml"), *self.arguments, "--folder", str(base / "run")]

    def resume(self, base: Path) -> list[str]:
        return self.start(base) if self.command == "compare" else ["resume", str(base / "run")]

    def progress(self, base: Path) -> Path:
        """The journal that tells how far it is: of a comparison, that of its first run."""
        return base / "run" / ("runs/grpo/seed-0/" if self.command == "compare" else "") / "metrics.jsonl"


def _language(name: str, tasks: Mapping[str, Any], alphabet: str = "abcdefgh", **changes: Any) -> dict[str, Any]:
    new = {"hidden_size": 16, "layers": 1, "heads": 2, "positions": 16, "alphabet": alphabet}
    options = {"selection.count": 3, "sampling.size": 4, "constraint.kl.weight": 0, "update.learning_rate": 0.01}
    return {
        "name": name,
        "seed": 3,
        "policy": {"new": new, "device": "cpu"},
        "tasks": {"jsonl": "BASE/tasks.jsonl", "limit": 6, "deadline": 3, **tasks},
        "stages": [{"method": "grpo", "steps": ROUNDS, "options": options}],
        "evaluation": None,
        "samples": {"rows": 2, "every": 2},
        "checkpoint_every": 2,
        **changes,
    }


def _poles(**changes: Any) -> dict[str, Any]:
    options = {"sampling": {"part": "stream", "horizon": 64, "count": 2}, "constraint.kl.weight": 0}
    return {
        "name": "poles",
        "seed": 3,
        "policy": {"control": {"hidden": [8]}},
        "tasks": {"gymnasium": "CartPole-v1", "limit": 40},
        "stages": [{"method": "ppo", "steps": ROUNDS, "options": options}],
        "evaluation": {"episodes": 3},
        "samples": {"rows": 2, "every": 2},
        "checkpoint_every": 2,
        **changes,
    }


_judge = {
    "url": "JUDGE",
    "model": "m",
    "lowest": 0.0,
    "highest": 9.0,
    "timeout": 1.0,
    "pause": 0.05,
    "retries": 7,
    "deadline": 15.0,
    "most_failed": 0.0,
    "concurrency": 4,
}
_judged = _language("judged", {}, "abcdefgh", judges={"far": _judge})
_judged["stages"][0]["options"] |= {"reward": {"part": "model_reward", "models": ["far"]}}
_compared = _poles(stages=[{"method": "grpo", "steps": 8, "options": {"selection.count": 2, "sampling.size": 3}}])
_arms = ("--methods", "grpo,rloo", "--seeds", "2", "--budget", "samples=48", "--evaluations", "2", "--jobs", "2")

_spread = _language(
    "spread", {"verifier": "broken_rules:score"}, runtime={"on": "ray", "samplers": 2, "deadline": 10.0}
)

WORKLOADS = {
    workload.name: workload
    for workload in (
        Workload("words", _language("words", {"verifier": "broken_rules:score"})),
        Workload("programs", _language("programs", {"verifier": "python_tests"}, "abcdefgh1+")),
        Workload("judged", _judged),
        Workload("poles", _poles()),
        Workload("compared", _compared, "compare", separate=True, arguments=_arms),
        Workload("ranks", _poles(runtime={"trainers": 2}), separate=True),
        Workload("spread", _spread, separate=True, needs="ray"),
        Workload("placed", _poles(runtime={"on": "ray", "trainers": 2}), separate=True, needs="ray"),
    )
}


# -- what a run leaves -------------------------------------------------------------------------------------------------
def _without_clocks(path: Path) -> bytes:
    """A file's content without what a clock or a folder's name put into it."""
    if path.name == "report.json":
        data = json.loads(path.read_text())
        for run in data["runs"]:
            del run["seconds"]
        del data["command"]
        return json.dumps(data, sort_keys=True).encode()
    if path.name == "summary.json":
        data = json.loads(path.read_text())
        del data["seconds"]
        return json.dumps(data, sort_keys=True).encode()
    return path.read_bytes()


def result(run: Path) -> dict[str, str]:
    """Digests of everything that must be equal between runs: metrics, samples, alarms, results, models, reports."""
    patterns = (
        "metrics.jsonl",
        "samples.jsonl",
        "alarms.jsonl",
        "objective.txt",
        "summary.json",
        "report.json",
        "after.json",
        "stage-*.json",
        "beginning.json",
        "*.safetensors",
    )
    found = sorted({path for pattern in patterns for path in run.rglob(pattern) if "checkpoints" not in path.parts})
    return {str(path.relative_to(run)): hashlib.sha256(_without_clocks(path)).hexdigest()[:16] for path in found}


def recorded(run: Path) -> dict[str, Any]:
    """What is recorded as done: whole lines of journals, results, checkpoints."""
    lines = {str(p.relative_to(run)): p.read_bytes() for p in run.rglob("*.jsonl") if p.name in JOURNALS}
    lines = {name: content[: content.rfind(b"\n") + 1] for name, content in lines.items()}
    results = {str(p.relative_to(run)): p.read_bytes() for p in run.rglob("results/*.json")}
    # The first folder of a comparison's checkpoints goes when its run is finished.
    steps = [int(p.stem.removeprefix("round-")) for p in run.glob("checkpoints/round-*.ckpt")]
    return {"lines": lines, "results": results, "checkpoint": max(steps, default=0)}


JOURNALS = ("metrics.jsonl", "samples.jsonl")


def lost(before: Mapping[str, Any], run: Path) -> list[str]:
    """What was recorded as done and is not there any more, or has changed."""
    after = recorded(run)
    missing = [
        f"{name}: lines" for name, old in before["lines"].items() if not after["lines"].get(name, b"").startswith(old)
    ]
    missing += [name for name, old in before["results"].items() if after["results"].get(name) != old]
    return missing
