"""Recipes whose preferences and rewards come from others: scores, reward models, judges, oracles, users, critics."""

import math

import pytest
import tiny
import torch

from policyopt.policies.checkpoint import load_language
from policyopt.policies.reward_checkpoint import save_reward

JUDGE = {"template": "{prompt} A:{first} B:{second}", "aided": "{prompt} I say {own} A:{first} B:{second}"}
ONLINE = {"selection.count": 3, "sampling.size": 4}
FEW = {"selection.count": 3}


@pytest.fixture(scope="module")
def given(tmp_path_factory):
    """A policy's folder, another one's, and a reward model's."""
    base = tmp_path_factory.mktemp("models")
    found = {name: str(tiny.folder(base / name, "llama", seed, 160)) for seed, name in enumerate(("policy", "other"))}
    reward = load_language(found["policy"]).make_reward(torch.Generator().manual_seed(1))
    save_reward(reward, base / "reward", tiny.tokenizer("llama"))
    return {**found, "reward": str(base / "reward")}


def solutions():
    return [{**record, "solution": record["answer"] if n % 2 else "0"} for n, record in enumerate(tiny.sums())]


def judgments():
    """Critiques of comparisons in both orders; those of the first half are right."""
    return [
        {"prompt": f"{n} or {n + 1}? {'B' if swapped else 'A'} is more.", "answer": "AB"[swapped],
         "demonstration": f" {'AB'[swapped]}" if n < 6 else " C", "comparison": n, "swapped": swapped}
        for n in range(12) for swapped in (False, True)
    ]  # fmt: skip


PAIRED = {"selection.count": 8, "selection.tasks": "paired_tasks"}
SIMILAR = {"verifier": "similarity"}  # graded, and judged in this process
LONGER = {"ask": {"prefer": {"oracle": "oracles:longer"}}}
USERS = {"ask": {"follow_ups": {"pleased": ["yes"], "displeased": ["no", "not"]}}}
CRITIC = {"template": "{prompt} {solution}?", "refine": "{prompt} not {solution}: {critique}"}
LISTS = {"sampling": {"part": "group", "size": 4}, "reward": "verified", "feedback": "ranked_rows"}
BY_JUDGE = {**ONLINE, "reward": {"part": "win_rate", "judge": "judge"}}
ASKED = {
    "a reward model": ("dpo:dpo_online", {**ONLINE, "reward": "model_reward"}, tiny.sums, {}, {"reward": "reward"}),
    "a judge": ("dpo:dpo_online", BY_JUDGE, tiny.sums, {"ask": {"judge": JUDGE}}, {"judge": "other"}),
    "an oracle": ("inpo", {**ONLINE, "reward": "from_world", "feedback": "duels"}, tiny.sums, LONGER, {}),
    "scores": ("spo", ONLINE, tiny.sums, {**SIMILAR, "ask": {"prefer": {"temperature": 0.5}}}, {}),
    "scores against a mixture": ("nash_md", FEW, tiny.sums, {**SIMILAR, "ask": {"prefer": {"temperature": 0.5}}}, {}),
    "a tournament": ("osp", ONLINE, tiny.sums, {**SIMILAR, "ask": {"prefer": {}}}, {}),
    "ranked lists": ("lipo_lambda", LISTS, tiny.sums, SIMILAR, {}),
    "users": ("flr", ONLINE, tiny.chats, USERS, {"user": "other"}),
    "an annotator": ("self_ref_feedback", FEW, tiny.sums, {"ask": {"judge": JUDGE}}, {"annotator": "other"}),
    "wrong copies": ("cooper", ONLINE, tiny.sums, {**SIMILAR, "ask": {"corrupt": "drop_one"}}, {}),
    "a critic": (
        "refcritic",
        ONLINE,
        solutions,
        {"verifier": "exact", "ask": {"critique": CRITIC}},
        {"solver": "other"},
    ),
    "both orders": ("rise_judge:rise_judge_warm_up", PAIRED, judgments, {"verifier": "verdict"}, {}),
}


@pytest.mark.parametrize("case", ASKED)
def test_a_recipe_asks(case, given, tmp_path, command):
    method, options, records, tasks, models = ASKED[case]
    path = tiny.recipe(
        tmp_path / "r.yaml",
        {"model": given["policy"]},
        {"jsonl": str(tiny.jsonl(tmp_path / "tasks.jsonl", records())), **tasks},
        stages=[{"method": method, "steps": 1, "options": options}],
        models={name: given[folder] for name, folder in models.items()},
        evaluation=None,
    )
    called = command("train", path, "update.learning_rate=0.01" if method != "cooper" else "seed=2")
    assert called.code == 0, called.err
    found = tiny.lines(tmp_path / "run" / "metrics.jsonl")
    assert len(found) == 1
    assert all(math.isfinite(value) for line in found for value in line.values())
    moved = [value for line in found for name, value in line.items() if name.startswith("gradient_norm/")]
    # Random text holds no verdict, so a critic earns nothing here.
    assert max(moved) > 0 or case == "a critic"


ABSENT = {"ask": {"prefer": {"oracle": "oracles:shorter"}}}
REFUSED = {
    "no follow-ups": ("flr", {}, {"user": "other"}, "(FollowUpLikelihood); give tasks.ask.follow_ups"),
    "no preferences": ("spo", {}, {}, "(WinRate); give tasks.ask.prefer"),
    "no mistake": ("cooper", SIMILAR, {}, "(GroupAndCorrupted); give tasks.ask.corrupt"),
    "no aid": ("self_ref_feedback", {"ask": {"judge": {"template": JUDGE["template"]}}}, {}, "tasks.ask.judge.aided"),
    "no comparisons": ("rise_judge:rise_judge_warm_up", {"verifier": "verdict"}, {}, "'comparison' and 'swapped'"),
    "no verifier": ("osp", {"ask": {"prefer": {}}}, {}, "tasks.ask.prefer compares by the scores"),
    "no function": ("osp", ABSENT, {}, "cannot be imported"),
    "no solution": ("refcritic", {**SIMILAR, "ask": {"critique": CRITIC}}, {"solver": "other"}, "record; 24 of 24"),
    "another field": ("osp", {"ask": {"judge": {"template": "{prompt}{question}"}}}, {}, "holds the fields"),
    "a near key": ("flr", {"ask": {"follow_up": {}}}, {"user": "other"}, "did you mean 'follow_ups'"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_a_question_that_can_not_be_put_is_refused(case, given, tmp_path, command):
    method, tasks, models, told = REFUSED[case]
    records = [{**record, "demonstration": record["answer"]} for record in tiny.sums()]
    path = tiny.recipe(
        tmp_path / "r.yaml",
        {"model": given["policy"]},
        {"jsonl": str(tiny.jsonl(tmp_path / "tasks.jsonl", records)), **tasks},
        stages=[{"method": method, "steps": 1, "options": FEW}],
        models={name: given[folder] for name, folder in models.items()},
        evaluation=None,
    )
    called = command("train", path)
    assert called.code == 2
    assert told in called.err, called.err
    assert not (tmp_path / "run").exists()
