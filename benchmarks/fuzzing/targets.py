"""Whatever of policyopt reads what others wrote: each target makes hostile inputs and opens them."""

from __future__ import annotations

import copy
import functools
import json
import shutil
import struct
import threading
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import yaml
from chat import Handler, Server, completion
from gymnasium import spaces
from hypothesis import strategies as st
from hypothesis.strategies import SearchStrategy

from fuzzing.hdf5 import PLANTS, apart, planted
from fuzzing.inputs import TEXTS, VALUES, as_json, as_lines, changed, damaged
from policyopt.evaluation import comparison_record, verify
from policyopt.evaluation.conformance import run_file
from policyopt.policies import control_checkpoint, denoising_checkpoint, endpoint, judges
from policyopt.recipe.comparison import asked
from policyopt.recipe.comparison.plan import Plan
from policyopt.recipe.outcome import Outcome
from policyopt.recipe.schema import load_recipe, make_recipe
from policyopt.recipe.stamps import stamps_of
from policyopt.report.viewer.collect import collect
from policyopt.runtime import checkpoint
from policyopt.runtime.folder import RunFolder
from policyopt.runtime.journal import read, read_metrics
from policyopt.types import Batch
from policyopt.worlds.minari_files import read_minari, write_minari
from policyopt.worlds.recordings import Episode
from policyopt.worlds.reward_bench import read_items
from policyopt.worlds.sources import jsonl_entries

HERE = Path(__file__).resolve().parents[2]
VERIFICATIONS = Path(verify.__file__).parent / "verifications"


@dataclass(frozen=True)
class Target:
    """inputs(folder): a strategy of inputs. opened(folder, input): reads one; may raise the library's errors alone."""

    name: str
    inputs: Callable[[Path], SearchStrategy[Any]]
    opened: Callable[[Path, Any], Any]


# -- recipes -----------------------------------------------------------------------------------------------------------
def _recipes(folder: Path) -> SearchStrategy[bytes]:
    paths = (
        "demo.yaml",
        "countdown.yaml",
        "control/ppo_cartpole.yaml",
        "denoising/ddpo_points.yaml",
        "control/iql_pendulum.yaml",
    )
    texts = [(HERE / "recipes" / path).read_bytes() for path in paths if (HERE / "recipes" / path).is_file()]
    trees = changed([yaml.safe_load(text) for text in texts])
    return damaged(texts) | trees.map(lambda tree: yaml.safe_dump(tree, allow_unicode=True).encode("utf-8", "replace"))


def _open_recipe(folder: Path, content: bytes) -> None:
    (folder / "r.yaml").write_bytes(content)
    load_recipe(folder / "r.yaml")


def _changes(folder: Path) -> SearchStrategy[str]:
    keys = st.sampled_from(
        (
            "steps",
            "policy.model",
            "tasks.limit",
            "stages.0.steps",
            "stages.9.steps",
            "objective.clip_high",
            "",
            "method",
            "stages",
            "tasks",
            "a.b",
            "sampling.size",
            "stages.x",
            "policy.new.x.y",
            ".",
        )
    )
    values = st.sampled_from(TEXTS) | VALUES.map(repr) | st.text(max_size=20)
    return st.builds("{}={}".format, keys, values) | st.text(max_size=12)


DEMO = yaml.safe_load((HERE / "recipes" / "demo.yaml").read_text())
ARMS = [
    {
        "arms": {
            "grpo": None,
            "wide": {"method": "grpo", "options": {"sampling.size": 5}},
            "bare": {"method": "rloo", "without": ["x"]},
        }
    }
]


def _open_arms(folder: Path, content: bytes) -> None:
    (folder / "a.yaml").write_bytes(content)
    asked.read_arms(str(folder / "a.yaml"))


# -- data --------------------------------------------------------------------------------------------------------------
PROMPTS = [
    {"prompt": "What is 1 + 1?", "answer": "2", "metadata": {"a": 1}},
    {"messages": [{"role": "user", "content": "hi"}], "answer": "x", "demonstration": "y"},
    {"prompt": "a", "chosen": "b", "rejected": "c", "margin": 0.5, "score_chosen": 1.0, "score_rejected": 0.0},
    {"prompt": "a", "responses": ["b", "c", "d"], "scores": [1, 2, 3]},
    {"prompt": "a", "completion": "b", "label": True},
    {
        "chosen": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}],
        "rejected": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "c"}],
    },
    {"prompt": "a", "answer": "b", "tests": [{"call": "f", "args": [1], "returns": 2}]},
]
BENCH = [
    {"prompt": "a", "chosen": "b", "rejected": ["c", "d"], "subset": "s", "id": 3},
    {
        "prompt": [{"role": "user", "content": "a"}],
        "chosen": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}],
        "rejected": "c",
        "answer": "d",
    },
]


def _lines(rows: list[Any]) -> Callable[[Path], SearchStrategy[bytes]]:
    return lambda folder: damaged([as_lines(rows)]) | changed([rows, *([row] for row in rows)]).map(as_lines)


def _open_prompts(folder: Path, content: bytes) -> None:
    (folder / "t.jsonl").write_bytes(content)
    jsonl_entries(folder / "t.jsonl")


def _open_bench(folder: Path, content: bytes) -> None:
    (folder / "b.jsonl").write_bytes(content)
    read_items(folder / "b.jsonl")


# -- files of ours, changed by others ----------------------------------------------------------------------------------
def _vectors(folder: Path) -> SearchStrategy[bytes]:
    files = sorted((Path(verify.__file__).parent / "vectors").glob("*.json"))[:6]
    held = [json.loads(path.read_text()) for path in files]
    trees = [{"version": 1, "cases": one["cases"][:2]} for one in held]
    return changed(trees).map(as_json) | damaged([as_json(tree) for tree in trees])


def _open_vectors(folder: Path, content: bytes) -> None:
    (folder / "v.json").write_bytes(content)
    run_file(folder / "v.json")


def _verifications(folder: Path) -> SearchStrategy[bytes]:
    texts = [path.read_bytes() for path in sorted(VERIFICATIONS.glob("*.json"))[:4]]
    return damaged(texts) | changed([json.loads(text) for text in texts]).map(as_json)


PLAN = {
    "name": "x",
    "recipe": DEMO,
    "arms": {"grpo": {}, "rloo": {"options": {"sampling.size": 4}}},
    "seeds": 2,
    "budget": {"samples": 10, "evaluations": 2},
}


def _open_plan(folder: Path, content: bytes) -> None:
    (folder / "plan.json").write_bytes(content)
    Plan.read(folder / "plan.json")


STATE = {
    "seed": 1,
    "step": 3,
    "models": {"policy": {"w": torch.arange(6.0).reshape(2, 3)}},
    "cells": {"a": [1, 2.5, "x", None, {3}]},
    "rows": Batch(
        {"task": torch.zeros(2, dtype=torch.int64)},
        {"kind": torch.zeros(2, 3, dtype=torch.int64), "reward": torch.zeros(2, 3)},
    ),
    "flag": True,
    "name": b"bytes",
}


def _states(folder: Path) -> SearchStrategy[bytes]:
    path = folder / "whole.ckpt"
    checkpoint.save(STATE, path)
    content = path.read_bytes()
    header = len(content) - _length(content)
    return damaged([content]) | damaged([content[header:]]).map(_sealed)


def _length(content: bytes) -> int:
    return struct.unpack_from(">8sIQ", content)[2]


def _sealed(payload: bytes) -> bytes:
    """A file with a right digest around any payload, as an attacker would make it."""
    import hashlib

    digest = checkpoint._seal(hashlib.blake2b(payload, digest_size=32), checkpoint.VERSION, len(payload))
    return checkpoint._HEADER.pack(checkpoint.MAGIC, checkpoint.VERSION, len(payload), digest) + payload


def _open_state(folder: Path, content: bytes) -> None:
    (folder / "s.ckpt").write_bytes(content)
    checkpoint.load(folder / "s.ckpt")


def _policy_folders(make: Callable[[Path], None], spec: str, weights: str) -> Callable[[Path], SearchStrategy[Any]]:
    def inputs(folder: Path) -> SearchStrategy[Any]:
        make(folder / "policy")
        text, blob = (folder / "policy" / spec).read_bytes(), (folder / "policy" / weights).read_bytes()
        texts = damaged([text]) | changed([json.loads(text)]).map(as_json)
        return st.tuples(st.just(spec), texts, st.just(blob)) | st.tuples(
            st.just(weights), damaged([blob]), st.just(text)
        )

    return inputs


def _open_policy(load: Callable[[Path], Any], spec: str, weights: str) -> Callable[[Path, Any], None]:
    def opened(folder: Path, given: tuple[str, bytes, bytes]) -> None:
        name, content, other = given
        (folder / "policy" / name).write_bytes(content)
        (folder / "policy" / (weights if name == spec else spec)).write_bytes(other)
        load(folder / "policy")

    return opened


def _control(folder: Path) -> None:
    data = {
        "name": "p",
        "policy": {"control": {"hidden": [4]}},
        "tasks": {"gymnasium": "CartPole-v1", "limit": 5},
        "stages": [{"method": "reinforce", "steps": 1}],
        "evaluation": None,
    }
    from policyopt.recipe.build import build

    with build(make_recipe(data)) as built:
        control_checkpoint.save_control(built.policy, folder)


def _denoiser(folder: Path) -> None:
    spec = denoising_checkpoint.DenoiserSpec((2,), chain=denoising_checkpoint.ChainSpec())
    denoising_checkpoint.save_denoiser(spec.make(), spec, folder)


# -- the folder of a run -----------------------------------------------------------------------------------------------
RUN = {
    "recipe.yaml": b"name: x\n",
    "objective.txt": b"L = 1\n",
    "objective.json": as_json({"stages": [{"method": "grpo", "slots": {}}], "changed": []}),
    "metrics.jsonl": as_lines([{"step": n, "reward": n / 3, "loss/policy": "nan", "stage": 0} for n in range(4)]),
    "timing.jsonl": as_lines([{"step": n, "seconds": 0.5, "steps_per_second": 3.0} for n in range(4)]),
    "cost.jsonl": as_lines([{"step": n, "tokens": 5, "samples": 2, "seconds": 0.1, "tasks": "ab"} for n in range(4)]),
    "samples.jsonl": as_lines([{"step": 1, "prompt": "a", "answer": "b", "reward": 1.0, "group": 0}]),
    "alarms.jsonl": as_lines([{"step": 1, "name": "x", "value": 1.0, "remedy": "y", "rows": [{"prompt": "a"}]}]),
    "summary.json": as_json(
        {"before": {"greedy": 0.1, "greedy_interval": [0, 0.2]}, "after": None, "seconds": 3.0, "seed": 1}
    ),
    "results/after.json": as_json(
        {"over": "20 tasks", "measured": {"greedy": 0.5, "greedy_interval": [0.2, 0.7]}, "answers": [["a", "b", 1.0]]}
    ),
    "results/episodes.json": as_json({"episodes": []}),
}


def _runs(folder: Path) -> SearchStrategy[Any]:
    def one(name: str) -> SearchStrategy[tuple[str, bytes]]:
        content = RUN[name]
        found = damaged([content])
        if name.endswith(".jsonl"):
            found |= changed([[json.loads(line) for line in content.splitlines()]]).map(as_lines)
        elif name.endswith(".json"):
            found |= changed([json.loads(content)]).map(as_json)
        return st.tuples(st.just(name), found)

    return st.sampled_from(sorted(RUN)).flatmap(one)


def _open_run(folder: Path, given: tuple[str, bytes]) -> None:
    for name, content in {**RUN, given[0]: given[1]}.items():
        (folder / "run" / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / "run" / name).write_bytes(content)
    run = RunFolder.open(folder / "run")
    for name in ("metrics", "timing", "samples"):
        read(folder / "run" / f"{name}.jsonl")
    read_metrics(run.metrics)
    first = None
    for act in (lambda: stamps_of(run.path), lambda: Outcome.read(run), lambda: collect([run], None)):
        try:
            act()
        except Exception as error:
            if not type(error).__module__.startswith("policyopt."):
                raise
            first = first or error
    if first is not None:
        raise first


# -- recorded episodes -------------------------------------------------------------------------------------------------
def _minari(folder: Path) -> SearchStrategy[Any]:
    """metadata.json changed or damaged, main_data.hdf5 damaged or with things in it that should not be there."""
    names = ("metadata.json", "main_data.hdf5")
    shutil.rmtree(folder / "set", ignore_errors=True)
    box, choice = spaces.Box(-1.0, 1.0, (2,)), spaces.Discrete(3)
    episodes = [Episode(np.zeros((n + 1, 2), np.float32), np.zeros(n, np.int64), np.ones(n), True) for n in (1, 3)]
    data = write_minari(folder / "set", episodes, box, choice) / "data"
    text, blob = ((data / name).read_bytes() for name in names)
    called = {"id": "X-v0", "entry_point": "os:system", "kwargs": {"command": "touch /tmp/policyopt-planted"}}
    whole = json.loads(text)
    trees = [whole, {**whole, "env_spec": json.dumps({**called, "additional_wrappers": []})}]
    trees += [{key: value for key, value in tree.items() if key != "action_space"} for tree in trees]
    open_spaces = {**whole, **{f"{n}_space": json.loads(whole[f"{n}_space"]) for n in ("observation", "action")}}

    def closed(tree: Any) -> Any:
        told = {"observation_space", "action_space"} & set(tree) if isinstance(tree, dict) else ()
        return {**tree, **{name: json.dumps(tree[name]) for name in told}} if told else tree

    texts = damaged([text]) | changed(trees).map(as_json) | changed([open_spaces]).map(closed).map(as_json)
    blobs = damaged([blob]) | st.sampled_from(sorted(PLANTS)).map(lambda name: planted(blob, PLANTS[name], folder))
    return st.tuples(texts, st.just(blob)) | st.tuples(st.just(text), blobs)


def _open_minari(folder: Path, given: tuple[bytes, bytes]) -> None:
    """In a process of its own: HDF5 is C, and what ends it is to be seen."""
    for name, content in zip(("metadata.json", "main_data.hdf5"), given, strict=True):
        (folder / "set" / "data" / name).write_bytes(content)
    apart(lambda: read_minari(folder / "set"))


# -- answers -----------------------------------------------------------------------------------------------------------
def _answers(folder: Path) -> SearchStrategy[Any]:
    bodies = damaged([as_json(completion("7"))]) | changed([completion("7")]).map(as_json) | st.binary(max_size=40)
    return st.tuples(st.sampled_from((200, 200, 200, 201, 204, 301, 400, 429, 500, 503)), bodies)


class _Said(Handler):
    """Answers whatever it is told to."""

    answer: tuple[int, bytes] = (200, b"")

    def do_POST(self) -> None:
        self.question()
        self.send(*self.answer)


@functools.cache
def _server() -> str:
    server = Server(("127.0.0.1", 0), _Said)
    threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
    return f"http://127.0.0.1:{server.server_port}/v1"


def _open_answer(folder: Path, given: tuple[int, bytes]) -> None:
    _Said.answer = given
    asked = endpoint.Endpoint(_server(), "m", retries=1, pause=0.0, timeout=2.0, deadline=4.0)
    for value in judges.ScoringJudge(endpoint.Peer("far", asked), str, lowest=0.0).scores([("a", "b")]):
        assert value is None or 0 <= value <= 1


def _open_reply(folder: Path, text: str) -> None:
    peer = endpoint.Peer("far", endpoint.Endpoint("http://127.0.0.1:9/v1", "m"))
    value, verdict = judges.ScoringJudge(peer, str).read(text), judges.verdict(text)
    assert value is None or 0 <= value <= 1
    assert verdict in (None, 0.0, 0.5, 1.0)


def _memory(folder: Path, content: bytes) -> None:
    (folder / "cache.jsonl").write_bytes(content)
    endpoint.Memory(folder / "cache.jsonl")


def _read_text(act: Callable[[str], Any]) -> Callable[[Path, bytes], None]:
    return lambda folder, content: act(content.decode("utf-8", "replace"))


REPLIES = (
    st.text(max_size=60)
    | st.sampled_from(TEXTS)
    | st.sampled_from(("9" * 5000, "1e999", "-" * 9000 + "1", "7/10", "[[B]]", "A B"))
)
_spec, _denoising = ("policy.json", "policy.safetensors"), ("denoiser.json", "denoiser.safetensors")

REPORT = {
    "name": "x",
    "measure": "greedy",
    "label": "greedy",
    "over": "5",
    "higher_is_better": True,
    "unit": "samples",
    "amount": 5,
    "evaluations": 1,
    "shared_rounds": 0,
    "seeds": [0],
    "baseline": None,
    "tuning": None,
    "began_alike": True,
    "other_tasks": [],
    "command": "",
    "versions": {},
    "findings": None,
    "arms": [{"name": "a", "method": "grpo", "title": "G", "options": {}, "tuned": None, "tried": {}, "failed": {}}],
    "runs": [
        {
            "arm": "a",
            "seed": 0,
            "curve": [[0.0, 0.1], [1.0, 0.5]],
            "measured": {"greedy": 0.5},
            "rounds": 1,
            "tokens": 1,
            "samples": 1,
            "seconds": 1.0,
            "beginning": "x",
            "tasks": [],
        }
    ],
}

TARGETS = {
    target.name: target
    for target in (
        Target("recipe", _recipes, _open_recipe),
        Target("change", _changes, lambda folder, text: make_recipe(copy.deepcopy(DEMO), [text])),
        Target(
            "arms of a comparison",
            lambda folder: damaged([yaml.safe_dump(ARMS[0]).encode()]) | changed(ARMS).map(as_json),
            _open_arms,
        ),
        Target("tasks and preferences (JSONL)", _lines(PROMPTS), _open_prompts),
        Target("RewardBench (JSONL)", _lines(BENCH), _open_bench),
        Target("conformance vectors", _vectors, _open_vectors),
        Target("verification", _verifications, _read_text(verify.from_json)),
        Target(
            "plan of a comparison", lambda folder: damaged([as_json(PLAN)]) | changed([PLAN]).map(as_json), _open_plan
        ),
        Target(
            "report of a comparison",
            lambda folder: changed([REPORT]).map(as_json) | damaged([as_json(REPORT)]),
            _read_text(comparison_record.from_json),
        ),
        Target("checkpoint", _states, _open_state),
        Target(
            "control policy", _policy_folders(_control, *_spec), _open_policy(control_checkpoint.load_control, *_spec)
        ),
        Target(
            "denoising policy",
            _policy_folders(_denoiser, *_denoising),
            _open_policy(denoising_checkpoint.load_denoiser, *_denoising),
        ),
        Target("recorded episodes (Minari, HDF5)", _minari, _open_minari),
        Target("run folder", _runs, _open_run),
        Target("API answer", _answers, _open_answer),
        Target("judge's words", lambda folder: REPLIES, _open_reply),
        Target("remembered answers", _lines([{"key": "a", "reply": "b"}]), _memory),
    )
}
