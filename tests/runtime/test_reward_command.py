"""`policyopt reward`: reward models of every form on benchmarks of RewardBench's form and against gold rewards."""

import json
import math

import numpy as np
import pytest
import tiny
import torch
import yaml

from chat_server import serving
from policyopt.evaluation.reward_bench import benchmark, curve, is_right
from policyopt.evaluation.reward_models import best_of_n_exact, pair_quality
from policyopt.policies.checkpoint import load_language
from policyopt.policies.reward_checkpoint import load_reward, save_reward
from policyopt.policies.tokenizer import load_tokenizer
from policyopt.recipe.language.rewards import Completion, on_benchmark, open_scorer
from policyopt.worlds.prompts import token_world
from policyopt.worlds.reward_bench import Item, item_of, read_items, write_items
from policyopt.worlds.tasks import Entry, SourceError

ITEMS = [
    Item("What is 1 + 1?", (" 2.",), (" 3.",), "math", "a", "someone", "another"),
    Item("What is 2 + 1?", (" 3.",), (" 2.", " 7."), "math"),
    Item(({"role": "user", "content": "What is 5 + 1?"},), ("6",), ("apple",), "chat"),
]


# -- the format --------------------------------------------------------------------------------------------------------
def test_files_are_read_as_they_were_written(tmp_path):
    write_items(ITEMS, tmp_path / "bench.jsonl")
    assert read_items(tmp_path / "bench.jsonl") == ITEMS
    first = json.loads((tmp_path / "bench.jsonl").read_text().splitlines()[0])
    assert first == {
        "prompt": "What is 1 + 1?", "chosen": " 2.", "rejected": " 3.", "subset": "math", "id": "a",
        "chosen_model": "someone", "rejected_model": "another",
    }  # fmt: skip


def test_records_of_both_benchmarks_are_read():
    user = {"role": "user", "content": "Hi"}
    whole = {name: [user, {"role": "assistant", "content": name}] for name in ("chosen", "rejected")}
    assert item_of({**whole, "id": 3, "extra": 1}) == Item((user,), ("chosen",), ("rejected",), id="3")
    assert item_of({**whole, "prompt": "Hi"}).prompt == "Hi"
    second = {"prompt": "Hi", "chosen": ["a"], "rejected": ["b", "c", "d"], "subset": "Focus"}
    assert item_of(second) == Item("Hi", ("a",), ("b", "c", "d"), "Focus")
    assert item_of({**second, "subset": None}).subset == "all"


@pytest.mark.parametrize(
    ("record", "said"),
    [
        ([], "named fields"),
        ({"prompt": "Hi", "chosen": "a"}, "'rejected' is missing"),
        ({"prompt": "Hi", "chosen": "a", "rejected": []}, "at least one chosen and one rejected"),
        ({"chosen": "a", "rejected": "b"}, "give 'prompt'"),
        ({"prompt": "Hi", "chosen": [[{"role": "user", "content": "Ho"}, {"role": "assistant", "content": "a"}]],
          "rejected": "b"}, "one prompt"),
        ({"prompt": 3, "chosen": "a", "rejected": "b"}, "must be a string"),
    ],
)  # fmt: skip
def test_wrong_records_are_named_with_their_line(record, said, tmp_path):
    path = tmp_path / "bench.jsonl"
    path.write_text('{"prompt": "Hi", "chosen": "a", "rejected": "b"}\n\n' + json.dumps(record) + "\n")
    with pytest.raises(SourceError, match=rf"line 3: .*{said}"):
        read_items(path)


# -- numbers -----------------------------------------------------------------------------------------------------------
def test_accuracies_are_those_of_hand():
    assert [is_right([1.0], [0.0]), is_right([1.0], [1.0]), is_right([2.0, 1.0], [1.5])] == [True, False, False]
    assert is_right([math.nan], [0.0]) is None
    right = [True, True, False, None]
    found = benchmark(["a", "a", "b", "b"], [[0.9], [0.8], [0.3], [math.nan]], right)
    assert found["accuracy"] == pytest.approx(2 / 3)
    assert found["mean_over_subsets"] == 0.5
    assert found["unanswered"] == 1
    assert found["subsets"]["b"]["items"] == 1
    # Each probability in a bin of its own, in both orders: |p - right|, mean of (.1, .2, .7).
    assert found["calibration_error"] == pytest.approx(1 / 3)
    low, high = found["accuracy_interval"]
    assert low < 2 / 3 < high
    with pytest.raises(ValueError, match="no item"):
        benchmark(["a"], [[math.nan]], [None])


def test_pairs_are_calibrated_where_sigma_of_the_difference_is_the_share_preferred():
    gap = torch.linspace(-3, 3, 4001, dtype=torch.float64)
    ahead = torch.rand(4001, generator=torch.Generator().manual_seed(0), dtype=torch.float64) < gap.sigmoid()
    odds = torch.where(ahead, gap, -gap)
    assert pair_quality(odds)["calibration_error"] < 0.02
    assert pair_quality(5 * odds)["calibration_error"] > 0.1
    assert pair_quality(torch.zeros(3))["accuracy"] == 0


def test_a_proxy_that_is_right_at_first_is_over_optimised_later():
    """The proxy is the gold reward, but for one candidate in eight that it overrates."""
    generator = np.random.default_rng(0)
    gold = generator.random((300, 16))
    overrated = generator.random((300, 16)) < 0.05
    proxy, gold = np.where(overrated, 2.0, gold), np.where(overrated, 0.0, gold)
    found = curve(proxy, gold, [1, 2, 4, 16])
    assert [point["n"] for point in found] == [1, 2, 4, 16]
    assert found[1]["kl"] == pytest.approx(math.log(2) - 0.5)
    assert found[0]["gold"] == pytest.approx(gold.mean())
    assert found[1]["gold"] > found[0]["gold"]
    assert found[3]["gold"] < found[2]["gold"]
    assert found[3]["proxy"] == pytest.approx(proxy.max(1).mean())
    exact = best_of_n_exact(torch.tensor(proxy), torch.tensor(gold), 4)
    assert (found[2]["proxy"], found[2]["gold"]) == pytest.approx(exact)
    gold[0, 0] = math.nan
    assert curve(proxy, gold, [2])[0]["prompts"] == 299


# -- the command -------------------------------------------------------------------------------------------------------
@pytest.fixture(scope="module")
def given(tmp_path_factory):
    """A policy, another one, a reward model and a benchmark."""
    base = tmp_path_factory.mktemp("reward")
    paths = {name: tiny.folder(base / name, "llama", seed, 160) for seed, name in enumerate(("policy", "other"))}
    reward = load_language(paths["policy"]).make_reward(torch.Generator().manual_seed(1))
    save_reward(reward, base / "reward", load_tokenizer(paths["policy"]))
    write_items(ITEMS, base / "bench.jsonl")
    return {**{name: str(path) for name, path in paths.items()}, "reward": str(base / "reward"), "bench": base}


def scores(model, folder, item):
    """What a model says of an item's completions, one world an item."""
    plain = isinstance(item.prompt, str)
    entries = [
        Entry(item.prompt if plain else None, None if plain else item.prompt, demonstration=text)
        for text in item.completions
    ]
    world = token_world(entries, load_tokenizer(folder), 1)
    with torch.no_grad():
        return model(world.recorded(world.tasks(torch.arange(len(entries))))).tolist()


def test_folders_of_reward_models_and_implicit_rewards_are_scored(given):
    reward = load_reward(given["reward"])
    expected = [scores(reward.worth, given["reward"], item) for item in ITEMS]
    right = [is_right(said[:1], said[1:]) for said in expected]
    found = on_benchmark(open_scorer(given["reward"]), ITEMS)
    assert found["accuracy"] == pytest.approx(np.mean(right))
    policy, reference = load_language(given["policy"]), load_language(given["other"])

    def implicit(rows):
        gap = (policy.score(rows).logp - reference.score(rows).logp).double()
        return 0.3 * torch.where(rows.own, gap, 0.0).sum(1)

    scorer = open_scorer(given["policy"], given["other"], 0.3)
    assert scorer.worth is not None
    asked = [Completion(item.prompt, text) for item in ITEMS for text in item.completions]
    expected = [value for item in ITEMS for value in scores(implicit, given["policy"], item)]
    assert scorer.worth(asked) == pytest.approx(expected, abs=1e-6)


def test_one_command_reports_a_benchmark_and_a_curve(given, tmp_path, command):
    tasks = {"jsonl": str(tiny.jsonl(tmp_path / "tasks.jsonl", tiny.sums())), "verifier": "similarity", "limit": 4}
    recipe = tiny.recipe(tmp_path / "r.yaml", {"model": given["policy"]}, tasks)
    report = tmp_path / "report.md"
    arguments = ["--pairs", given["bench"] / "bench.jsonl", "--task", recipe, "--policy", given["policy"]]
    called = command(
        "reward", given["reward"], *arguments, "--candidates", 4, "--optimised", given["other"], "--out", report
    )
    assert called.code == 0, called.err
    found = json.loads(report.with_suffix(".json").read_text())
    assert found["benchmark"]["items"] == 3
    assert [point["n"] for point in found["gold"]["best_of_n"]] == [1, 2, 4]
    (point,) = found["gold"]["policies"]
    assert point["kl"] > 0
    assert "| **all** | 3 |" in called.out
    assert "| 4 | 0.64 |" in called.out
    assert report.read_text() in called.out + "\n"
    missing = command("reward", given["policy"], "--pairs", given["bench"] / "bench.jsonl")
    assert missing.code == 2
    assert "give --reference" in missing.err


@pytest.mark.parametrize("ask", ["score", "pair"])
def test_judges_are_evaluated_by_their_file(ask, tmp_path):
    def reply(question, before):
        if ask == "score":
            answer = question.split("Answer: ")[1].split("Reply")[0]
            return "nothing" if "7." in answer else "9" if "2." in answer or "6" in answer else "2"
        return "A" if "3." in question.split("Answer A")[1].split("Answer B")[0] else "B"

    with serving(reply) as server:
        said = {"url": server.url, "model": "m", "ask": ask, "retries": 0, "pause": 0}
        (tmp_path / "judge.yaml").write_text(yaml.safe_dump(said))
        found = on_benchmark(open_scorer(str(tmp_path / "judge.yaml")), ITEMS)
    if ask == "score":
        # The second item has a completion that the judge said nothing of.
        assert (found["items"], found["unanswered"], found["accuracy"]) == (2, 1, 1.0)
    else:
        # It prefers "3.": wrong on the first item, right on the second, always B on the third, which is no preference.
        assert (found["items"], found["unanswered"], found["accuracy"]) == (3, 0, pytest.approx(1 / 3))
