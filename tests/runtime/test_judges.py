"""Judges behind an OpenAI-compatible API: what they say, and what becomes of what they do not say."""

import json
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

import pytest
import tiny
import torch

from chat_server import completion, serving, waited
from policyopt.compose import CompositionError
from policyopt.feedback.judged import JudgedPairs
from policyopt.ops.pairs import pair_rows
from policyopt.policies.endpoint import Endpoint, JudgeError, Peer
from policyopt.policies.judges import PairJudge, ScoringJudge, verdict
from policyopt.reward.reward_models import ModelReward
from policyopt.types import Batch, Finish
from references_reward_models import training
from support import context, grids, ragged

QUICK = {"timeout": 2.0, "pause": 0.01, "retries": 2, "deadline": 20.0}


def peer(server, **options):
    return Peer("helpful", Endpoint(server.url, "m", **{**QUICK, **options}))


def ask(one, *questions, read=lambda text: text):
    return one.ask([[{"role": "user", "content": question}] for question in questions], read)


def letters(tokens):
    return "".join(chr(97 + token) for token in tokens)


def rows(*answers, prompts=None):
    """Finished rows of letters; the token 25 ends them."""
    width = max(map(len, answers)) + 1
    token = torch.zeros(len(answers), width, dtype=torch.int64)
    own = torch.zeros(len(answers), width, dtype=torch.bool)
    for row, answer in enumerate(answers):
        said = [ord(c) - 97 for c in answer] + [25]
        token[row, : len(said)], own[row, : len(said)] = torch.tensor(said), True
    size = (len(answers),)
    prompt = [[ord(c) - 97 for c in one] for one in prompts or ["q"] * len(answers)]
    return Batch(
        {
            "task": torch.zeros(size, dtype=torch.int64),
            "group": torch.zeros(size, dtype=torch.int64),
            "source": torch.zeros(size, dtype=torch.int64),
            "finish": torch.full(size, int(Finish.STOPPED)),
            "scored": torch.ones(size, dtype=torch.bool),
            "temperature": torch.ones(size),
            "_prompt": torch.tensor(prompt),
        },
        {
            "_token": token,
            "kind": own.long(),
            "train": own,
            "behaviour": torch.zeros(own.shape),
            "reward": torch.zeros(own.shape),
            "turn": torch.zeros(own.shape, dtype=torch.int64),
            "version": torch.zeros(own.shape, dtype=torch.int64),
        },
    )


# -- one question ------------------------------------------------------------------------------------------------------
FAULTS = {
    "server": 500,
    "busy": 429,
    "no JSON": b"<html>oops</html>",
    "another object": b'{"hello": []}',
    "a list": b"[1, 2]",
    "no choices": b'{"choices": []}',
    "no text": completion(None),
    "no string": completion({"a": 1}),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_fault_is_counted_and_the_question_asked_again(fault):
    with serving(lambda question, before: "fine" if before else FAULTS[fault]) as server:
        one = peer(server)
        assert ask(one, "how?") == ["fine"]
        assert server.questions == ["how?", "how?"]
    assert one.faults == {"server" if isinstance(FAULTS[fault], int) else "malformed": 1}


def test_what_can_not_be_read_is_asked_again_and_then_unanswered():
    with serving(lambda question, before: "seven") as server:
        one = peer(server, most_failed=1.0)
        assert ask(one, "how?", read=lambda text: None) == [None]
        assert len(server.questions) == 3
    assert one.faults == {"malformed": 3}


def test_silence_costs_its_timeout_and_no_more():
    with serving(lambda question, before: 30.0 if question == "hang" else "fine") as server:
        one = peer(server, timeout=0.3, retries=1, most_failed=0.5)
        began = time.monotonic()
        assert ask(one, "hang", "well") == [None, "fine"]
        assert time.monotonic() - began < 8
    assert one.faults == {"timeout": 2}


def test_too_many_failures_are_refused_naming_peer_and_phase():
    with serving(lambda question, before: 503 if question != "well" else "fine") as server:
        with pytest.raises(JudgeError, match=r"judge 'helpful' \(m at http://.*phase answer: 2 of 3 .*status 503"):
            ask(peer(server, retries=0), "one", "two", "well")
        with pytest.raises(JudgeError, match="phase answer"):
            ask(peer(server, retries=0, most_failed=0.0), "one", "well", "well", "well")
    gone = Peer("gone", Endpoint(server.url, "m", retries=1, pause=0.01))
    with pytest.raises(JudgeError, match=r"'gone'.*connection"):
        ask(gone, "anyone?")
    assert gone.faults == {"connection": 2}


@pytest.mark.parametrize("status", [400, 401, 404])
def test_questions_that_are_refused_are_not_repeated(status):
    with serving(lambda question, before: status) as server:
        with pytest.raises(JudgeError, match=f"phase question: it refuses with status {status}"):
            ask(peer(server, most_failed=1.0), "how?")
        assert len(server.questions) == 1


def test_a_batch_has_a_deadline():
    with serving(lambda question, before: 0.25) as server:
        one = peer(server, concurrency=1, deadline=0.7, most_failed=1.0, retries=0)
        began = time.monotonic()
        found = ask(one, *(f"question {n}" for n in range(20)))
        assert time.monotonic() - began < 6
    assert found.count(None) >= 15
    assert one.faults["deadline"] >= 15


def test_few_questions_are_under_way_at_once_and_equal_ones_are_asked_once():
    with serving(lambda question, before: 0.05) as server:
        found = ask(peer(server, concurrency=3), *(f"question {n % 10}" for n in range(30)))
        assert found == ["late"] * 30
        assert len(server.questions) == 10
        assert server.most_busy <= 3


def test_answers_are_remembered_in_a_file_that_may_be_damaged(tmp_path):
    memory = tmp_path / "deep" / "memory.jsonl"
    with serving(lambda question, before: 500 if question == "bad" else f"{question}!") as server:
        assert ask(peer(server, cache=str(memory), retries=0), "a", "bad") == ["a!", None]
        memory.write_text("no JSON\n[1]\n" + '{"key": 1, "reply": "x"}\n' + memory.read_text())
        again = peer(server, cache=str(memory))
        assert ask(again, "a") == ["a!"]
        assert server.questions.count("a") == 1
        # Another model, or another temperature, is another question.
        assert ask(peer(server, cache=str(memory), temperature=0.5), "a") == ["a!"]
        assert server.questions.count("a") == 2


@pytest.mark.parametrize("options", [{"timeout": 0}, {"most_failed": 2.0}, {"retries": -1}, {"concurrency": 0}])
def test_wrong_endpoints_are_refused(options):
    with pytest.raises(JudgeError, match="above 0"):
        Endpoint("http://x/v1", "m", **options)
    with pytest.raises(JudgeError, match="starts with http"):
        Endpoint("x", "m")


def test_a_missing_key_is_named():
    with pytest.raises(JudgeError, match="'NO_SUCH_KEY', which is not set"):
        ask(Peer("x", Endpoint("http://127.0.0.1:1/v1", "m", key="NO_SUCH_KEY")), "a")


# -- judges of rows ----------------------------------------------------------------------------------------------------
def test_scores_are_read_strictly():
    one = ScoringJudge(Peer("x", Endpoint("http://x/v1", "m")), letters, lowest=1, highest=5)
    read = {"3": 0.5, "I say 5.": 1.0, "1/5 or rather 2": 0.25, "6": None, "0": None, "none": None, "": None}
    assert {text: one.read(text) for text in read} == read
    assert [verdict(text) for text in ("A", "Answer B.", "TIE", "A or B", "", "a", "BA")] == [
        1.0, 0.0, 0.5, None, None, None, None,
    ]  # fmt: skip
    with pytest.raises(JudgeError, match="lower to a higher"):
        ScoringJudge(one.peer, letters, lowest=3, highest=3)


def test_a_row_without_an_answer_is_unscored_and_never_worth_nothing():
    def reply(question, before):
        return (
            "I can not say"
            if "Answer: bb\n" in question
            else str(question.split("Answer: ")[1].split("\n")[0].count("a"))
        )

    batch = rows("aaa", "bb", "aaaaa", "a", prompts=["zx", "zx", "zy", "zy"])
    with serving(reply) as server:
        one = ScoringJudge(peer(server, retries=1), letters, lowest=1, highest=5)
        found = one.worth(batch)
        ctx = context(training(ragged()), {**grids(), "reward": one})
        judged = ModelReward(weight=2.0)(ctx, batch)
        assert any("Question: zy\n" in question for question in server.questions)
    assert found[[0, 2, 3]].tolist() == pytest.approx([0.5, 1.0, 0.0])
    assert bool(found[1].isnan())
    assert judged.row["scored"].tolist() == [True, False, True, True]
    assert judged.step["reward"].sum(1).tolist() == pytest.approx([1.0, 0.0, 2.0, 0.0])
    metrics = ctx.meter.result()
    assert metrics["model_reward"] == pytest.approx(0.5)  # of three rows, not of four
    assert metrics["unanswered"] == 0.25


def test_pairs_are_asked_in_both_orders_and_places_are_no_reasons():
    def reply(question, before):
        first, second = (question.split(f"Answer {name}: ")[1].split("\n")[0] for name in "AB")
        if "d" in first + second:
            return "cannot"
        if len(first) == len(second):
            return "A"  # whatever stands first
        return "A" if len(first) > len(second) else "B"

    first, second = rows("aaa", "b", "ab", "d"), rows("a", "bbb", "ba", "a")
    with serving(reply) as server:
        one = PairJudge(peer(server, retries=0, most_failed=1.0), letters)
        found = one.prefers(first, second)
        assert found[:3].tolist() == [1.0, 0.0, 0.5]
        assert bool(found[3].isnan())
        batch = rows("aaa", "a", "b", "bbb", "ab", "ba", "d", "a").with_rows({"group": torch.arange(8) // 2})
        ctx = context(training(ragged()), {**grids(), "judge": one})
        judged = JudgedPairs()(ctx, batch)
    assert judged.row["rank"].tolist() == [0, 1, 1, 0, -1, -1, -1, -1]
    assert pair_rows(judged).tolist() == [[0, 1], [3, 2]]
    metrics = ctx.meter.result()
    assert metrics["judge_unanswered"] == 0.25
    assert metrics["judge_decided"] == pytest.approx(2 / 3)


def test_a_model_that_compares_nothing_is_no_judge():
    ctx = context(training(ragged()), {**grids(), "judge": torch.nn.Identity()})
    with pytest.raises(CompositionError, match="can not say which of two rows is better"):
        JudgedPairs()(ctx, ragged())


# -- from a recipe -----------------------------------------------------------------------------------------------------
def test_recipes_reward_and_prefer_by_judges_without_a_verifier(tmp_path, command):
    def reply(question, before):
        return "A" if "Answer B" in question else 500 if before == 0 and len(question) % 3 == 0 else "4"

    tasks = {"jsonl": str(tiny.jsonl(tmp_path / "tasks.jsonl", tiny.sums()))}
    model = str(tiny.folder(tmp_path / "policy"))
    with serving(reply) as server:
        shared = {"url": server.url, "model": "m", "pause": 0.01}
        made = tiny.recipe(
            tmp_path / "r.yaml",
            {"model": model},
            tasks,
            judges={"helpful": {**shared, "highest": 7}, "referee": {**shared, "ask": "pair"}},
            stages=[
                tiny.stage("grpo", 1, reward={"part": "model_reward", "models": ["helpful"]}),
                tiny.stage(
                    "dpo:dpo_online", 1, reward="from_world", feedback={"part": "judged_pairs", "judge": "referee"}
                ),
            ],
            evaluation=None,
        )
        called = command("train", made)
    assert called.code == 0, called.err
    first, second = tiny.lines(tmp_path / "run" / "metrics.jsonl")
    assert first["model_reward"] == pytest.approx(0.5)
    assert first["unanswered"] == 0.0
    assert second["judge_decided"] == 0.0  # it always prefers the first place
    changed = tiny.recipe(tmp_path / "r.yaml", {"model": model}, tasks, judges={"helpful": shared}, evaluation=None)
    assert "have no effect" in command("train", changed).err


# -- a real server -----------------------------------------------------------------------------------------------------
def taught(path: Path) -> Path:
    """A tiny chat model that replies 9 to "good?" and 2 to "bad?"."""
    folder = tiny.folder(path)
    from transformers import AutoModelForCausalLM, AutoTokenizer

    words, model = AutoTokenizer.from_pretrained(folder), AutoModelForCausalLM.from_pretrained(folder)
    examples = []
    for text, reply in (("good?", "9"), ("bad?", "2")):
        chat = [{"role": "user", "content": text}]
        asked = words.apply_chat_template(chat, add_generation_prompt=True, tokenize=True, return_dict=False)
        said = [*words(reply, add_special_tokens=False).input_ids, words.eos_token_id]
        examples.append((torch.tensor([asked + said]), len(said)))
    optimizer = torch.optim.Adam(model.parameters(), 0.02)
    for _ in range(60):
        loss = torch.zeros(())
        for tokens, size in examples:
            logits = model(tokens).logits[0, -size - 1 : -1]
            loss = loss + torch.nn.functional.cross_entropy(logits, tokens[0, -size:])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    model.generation_config.eos_token_id = words.eos_token_id
    model.save_pretrained(folder)
    return folder


def test_a_real_server_of_transformers_judges_rows(tmp_path):
    folder = taught(tmp_path / "judge")
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    tool = Path(sys.executable).with_name("transformers")
    environment = {**os.environ, "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"}
    with (tmp_path / "log").open("w") as log:
        process = subprocess.Popen(
            [tool, "serve", str(folder), "--host", "127.0.0.1", "--port", str(port), "--device", "cpu"],
            stdout=log,
            stderr=log,
            env=environment,
            start_new_session=True,
        )
    try:

        def ready():
            assert process.poll() is None, (tmp_path / "log").read_text()[-2000:]
            try:
                with urllib.request.urlopen(f"http://127.0.0.1:{port}/health", timeout=1) as reply:
                    return reply.status == 200
            except OSError:
                return False

        assert waited(ready, 300), (tmp_path / "log").read_text()[-2000:]
        endpoint = Endpoint(f"http://127.0.0.1:{port}/v1", str(folder), timeout=60, tokens=4, concurrency=2)
        one = ScoringJudge(Peer("real", endpoint), letters, template="{answer}?", lowest=1, highest=9)
        assert one.worth(rows("good", "bad", "good")).tolist() == pytest.approx([1.0, 0.125, 1.0])
        assert one.peer.faults == {}
    finally:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
    # The peer is gone: what is remembered still counts, what is not is refused by name.
    assert one.worth(rows("bad")).tolist() == pytest.approx([0.125])
    with pytest.raises(JudgeError, match=rf"127.0.0.1:{port}.*phase answer"):
        one.worth(rows("worse"))
    assert json.dumps(dict(one.peer.faults))
