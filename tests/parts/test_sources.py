"""Task sources: generated tasks and mixtures, files, saved data sets, and their errors."""

import json
import re

import pytest

from policyopt.worlds.sources import fill, folder_entries, jsonl_entries, reasoning_gym_entries
from policyopt.worlds.tasks import Candidate, Entry, SourceError, pair
from policyopt.worlds.verifiers import verifier

TURN = {"role": "user", "content": "2+2?"}
GOOD = {"role": "assistant", "content": "4"}
BAD = {"role": "assistant", "content": "5"}


def write(tmp_path, *lines):
    path = tmp_path / "tasks.jsonl"
    path.write_text("\n".join(line if isinstance(line, str) else json.dumps(line) for line in lines))
    return path


def test_generated_tasks_repeat_with_their_seed():
    one, again, other = (reasoning_gym_entries("spell_backward", {}, 9, seed, "{word} =") for seed in (1, 1, 2))
    assert one == again
    assert [task.answer for task in one] != [task.answer for task in other]
    assert [task.metadata["source_index"] for task in one] == list(range(9))
    for task in one:
        assert task.prompt == f"{task.answer[::-1]} ="


def test_neighbouring_seeds_share_no_task():
    """The generators draw item i from seed + i: used as they are, seeds 1 and 2 would share 39 tasks of 40."""
    one, two = ({task.prompt for task in reasoning_gym_entries("countdown", {}, 40, seed)} for seed in (1, 2))
    assert len(one) == 40
    assert not one & two


def test_options_reach_the_generator():
    short = reasoning_gym_entries("spell_backward", {"min_word_len": 3, "max_word_len": 3}, 20, 0)
    assert {len(task.answer) for task in short} == {3}
    assert "Spell this word backward" in (short[0].prompt or "")


def test_mixture_keeps_weights_and_each_task_its_own_scorer():
    parts = [
        {"name": "spell_backward", "weight": 3, "options": {"max_word_len": 4}},
        {"name": "countdown", "weight": 1},
    ]
    tasks = reasoning_gym_entries(parts, {}, 120, 7)
    words = [task for task in tasks if task.metadata["source_dataset"] == "spell_backward"]
    # Binomial(120, 3/4): 90 on average, standard deviation 4.7.
    assert 70 < len(words) < 110
    assert max(len(task.answer) for task in words) <= 4
    assert [task.metadata["source_index"] for task in words] == list(range(len(words)))
    judge = verifier("reasoning_gym")
    assert all(judge(task.answer, task) == 1.0 for task in tasks[:40])
    assert reasoning_gym_entries(parts, {}, 120, 7) == tasks


def test_the_same_generator_twice_gives_different_tasks():
    tasks = reasoning_gym_entries([{"name": "countdown"}, {"name": "countdown"}], {}, 40, 7)
    assert len({task.prompt for task in tasks}) == 40


def test_a_task_without_a_single_answer_keeps_an_empty_one():
    task = reasoning_gym_entries("graph_color", {}, 1, 0)[0]
    assert task.answer == ""
    assert isinstance(verifier("reasoning_gym")("{}", task), float)


@pytest.mark.parametrize(
    ("dataset", "options", "said"),
    [
        ("spel_backward", {}, "unknown reasoning-gym data set 'spel_backward'; did you mean 'spell_backward'"),
        ("composite", {}, "give a list of parts"),
        ("spell_backward", {"max_word_length": 3}, "no option 'max_word_length'; did you mean 'max_word_len'"),
        ("spell_backward", {"min_word_len": 9, "max_word_len": 3}, "refuses its options"),
        ("spell_backward", {"seed": 3}, "'seed' of data set 'spell_backward' is set by the source's own seed"),
        ([], {}, "at least one"),
        ([{"name": "countdown", "wieght": 2}], {}, "unknown field 'wieght' in a mixture's part; did you mean 'weight'"),
        ([{"name": "countdown", "weight": 0}], {}, "must be a number above 0, got 0"),
        ([{"name": "countdown", "weight": float("nan")}], {}, "must be a number above 0, got nan"),
        ([{"weight": 1}], {}, "needs the data set's 'name'"),
    ],
)
def test_generator_errors(dataset, options, said):
    with pytest.raises(SourceError, match=re.escape(said)):
        reasoning_gym_entries(dataset, options, 3, 0)


def test_size_must_be_positive():
    with pytest.raises(SourceError, match="at least 1, got 0"):
        reasoning_gym_entries("countdown", {}, 0, 0)


@pytest.mark.parametrize(
    ("template", "said"),
    [
        ("{word.__class__}", "plain field names only"),
        ("{word[0]}", "plain field names only"),
        ("{word!r}", "plain field names only"),
        ("{word:>999999999}", "plain field names only"),
        ("{}", "plain field names only"),
        ("{0}", "plain field names only"),
        ("{wrd}", "unknown field 'wrd'; did you mean 'word'"),
        ("{word", "malformed"),
    ],
)
def test_templates_take_plain_names_only(template, said):
    with pytest.raises(SourceError, match=re.escape(said)):
        fill(template, {"word": "abc"})


def test_template_braces_and_values_are_literal():
    assert fill("{{x}} {word}", {"word": "{word.__class__}"}) == "{x} {word.__class__}"


def test_jsonl_tasks(tmp_path):
    path = write(
        tmp_path,
        {"prompt": "2+2?", "answer": "4", "level": 1, "metadata": {"topic": "sums"}},
        "",
        {"messages": [TURN], "answer": "4"},
        {"prompt": [TURN], "answer": "4"},
        {"prompt": "2+2?", "completion": [GOOD]},
        {"prompt": "2+2?", "demonstration": "4", "answer": "4"},
    )
    assert jsonl_entries(path) == [
        Entry("2+2?", None, "4", {"level": 1, "topic": "sums"}),
        Entry(None, (TURN,), "4"),
        Entry(None, (TURN,), "4"),
        Entry("2+2?", None, "", demonstration="4"),
        Entry("2+2?", None, "4", demonstration="4"),
    ]


def test_jsonl_with_windows_line_ends_byte_order_mark_and_unicode_separators(tmp_path):
    path = tmp_path / "tasks.jsonl"
    line = json.dumps({"prompt": "a\u2028b", "answer": "é"}, ensure_ascii=False)
    path.write_bytes(b"\xef\xbb\xbf" + (line + "\r\n" + line + "\r\n").encode())
    assert jsonl_entries(path) == [Entry("a\u2028b", None, "é")] * 2


@pytest.mark.parametrize(
    "record",
    [
        {"prompt": [TURN], "chosen": [GOOD], "rejected": [BAD]},
        {"prompt": [TURN], "chosen": [TURN, GOOD], "rejected": [TURN, BAD]},
        {"chosen": [TURN, GOOD], "rejected": [TURN, BAD]},
        {"messages": [TURN], "chosen": "4", "rejected": "5"},
    ],
)
def test_preference_forms_agree(tmp_path, record):
    assert jsonl_entries(write(tmp_path, record)) == [Entry(None, (TURN,), "", candidates=pair("4", "5"))]


def test_string_preference(tmp_path):
    path = write(tmp_path, {"prompt": "2+2?", "chosen": "4", "rejected": "5", "score": 0.5})
    assert jsonl_entries(path) == [Entry("2+2?", None, "", {"score": 0.5}, candidates=pair("4", "5"))]


def test_implicit_prompt_keeps_every_shared_turn(tmp_path):
    shared = [{"role": "system", "content": "Add."}, TURN, GOOD, {"role": "user", "content": "3+3?"}]
    path = write(tmp_path, {"chosen": [*shared, GOOD], "rejected": [*shared, BAD]})
    (task,) = jsonl_entries(path)
    assert task.messages == tuple(shared)
    assert task.candidates == pair("4", "5")


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ('{"prompt": "a", "answer": ', "not valid JSON: Expecting value at column"),
        ('["a"]', "a record is an object with named fields, got list ['a']"),
        ('{"answer": "4"}', "needs 'prompt' or 'messages', got fields ['answer']"),
        ('{"prompt": "a"}', "needs 'answer' or 'tests' (to verify)"),
        ('{"prompt": "a", "answer": 4}', "field 'answer' must be a string, got int 4; write it in quotes"),
        ('{"prompt": 7, "answer": "4"}', "field 'prompt' must be a string, got int 7"),
        ('{"prompt": "a", "messages": [], "answer": "4"}', "either 'prompt' or 'messages', got both"),
        ('{"messages": [], "answer": "4"}', "'messages' must be a non-empty list"),
        ('{"messages": [{"content": "a"}], "answer": "4"}', "message 0 of 'messages' must be an object with a string"),
        ('{"messages": [{"role": "user"}], "answer": "4"}', "message 0 of 'messages' must have a string 'content'"),
        ('{"prompt": "a", "chosen": "b"}', "'rejected' is missing"),
        ('{"prompt": "a", "chosen": "b", "rejected": 3}', "'rejected' must be a string or a list of messages"),
        ('{"chosen": "ab", "rejected": "ac"}', "begin with no word in common"),
        ('{"prompt": "a", "answer": "4", "k": 1, "metadata": {"k": 2}}', "fields ['k'] stand both"),
        ('{"prompt": "a", "answer": "4", "metadata": 3}', "'metadata' must be an object"),
        ('{"prompt": "a", "completion": "b", "demonstration": "b"}', "either 'demonstration' or 'completion'"),
    ],
)
def test_a_broken_line_is_named(tmp_path, line, said):
    path = write(tmp_path, {"prompt": "a", "answer": "b"}, "", line)
    with pytest.raises(SourceError, match=re.escape(said)) as caught:
        jsonl_entries(path)
    assert str(caught.value).startswith(f"{path}, line 3: ")


def test_conversations_must_share_their_beginning(tmp_path):
    other = {"role": "user", "content": "3+3?"}
    with pytest.raises(SourceError, match="they differ in message 0"):
        jsonl_entries(write(tmp_path, {"chosen": [TURN, GOOD], "rejected": [other, BAD]}))
    with pytest.raises(SourceError, match="they differ in message 1"):
        jsonl_entries(write(tmp_path, {"chosen": [TURN, GOOD], "rejected": [TURN, TURN, BAD]}))
    with pytest.raises(SourceError, match="not the record's 'prompt'"):
        jsonl_entries(write(tmp_path, {"prompt": [other], "chosen": [TURN, GOOD], "rejected": [TURN, BAD]}))
    with pytest.raises(SourceError, match="must be the assistant's, got role 'user'"):
        jsonl_entries(write(tmp_path, {"chosen": [GOOD, TURN], "rejected": [GOOD, TURN]}))


def test_missing_empty_and_undecodable_files(tmp_path):
    with pytest.raises(SourceError, match="does not exist"):
        jsonl_entries(tmp_path / "absent.jsonl")
    with pytest.raises(SourceError, match="holds no tasks"):
        jsonl_entries(write(tmp_path, "", "  "))
    broken = tmp_path / "latin.jsonl"
    broken.write_bytes(b'{"prompt": "\xe9"}\n')
    with pytest.raises(SourceError, match="line 1: not valid UTF-8"):
        jsonl_entries(broken)


def test_saved_folders(tmp_path):
    import datasets

    rows = [
        {"prompt": "2+2?", "answer": "4", "chosen": None, "rejected": None},
        {"prompt": "2+2?", "answer": None, "chosen": "4", "rejected": "5"},
    ]
    table = datasets.Dataset.from_list(rows)
    table.save_to_disk(str(tmp_path / "one"))
    expected = [Entry("2+2?", None, "4"), Entry("2+2?", None, "", candidates=pair("4", "5"))]
    assert folder_entries(tmp_path / "one") == expected
    datasets.DatasetDict({"train": table}).save_to_disk(str(tmp_path / "split"))
    assert folder_entries(tmp_path / "split", "train") == expected
    with pytest.raises(SourceError, match=r"has the splits \['train'\], got split None"):
        folder_entries(tmp_path / "split")
    with pytest.raises(SourceError, match="has no splits, got split 'train'"):
        folder_entries(tmp_path / "one", "train")


def test_folder_errors(tmp_path):
    import datasets

    with pytest.raises(SourceError, match="does not exist"):
        folder_entries(tmp_path / "absent")
    with pytest.raises(SourceError, match="not written by save_to_disk"):
        folder_entries(tmp_path)
    datasets.Dataset.from_list([{"prompt": "a", "answer": 1}]).save_to_disk(str(tmp_path / "wrong"))
    with pytest.raises(SourceError, match="row 0: field 'answer' must be a string, got int 1"):
        folder_entries(tmp_path / "wrong")
    datasets.Dataset.from_dict({"prompt": [], "answer": []}).save_to_disk(str(tmp_path / "empty"))
    with pytest.raises(SourceError, match="holds no tasks"):
        folder_entries(tmp_path / "empty")


def test_an_entry_is_one_question():
    with pytest.raises(SourceError, match="exactly one of prompt and messages, got both"):
        Entry("a", (TURN,), "b")
    with pytest.raises(SourceError, match="exactly one of prompt and messages, got neither"):
        Entry(None, None, "b")
    with pytest.raises(SourceError, match="messages are empty"):
        Entry(None, (), "b")
    with pytest.raises(SourceError, match="needs a label"):
        Entry("a", None, candidates=(Candidate("b", 0),))
