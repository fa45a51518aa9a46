"""Preference data as it is written in files: pairs, ranked lists, single answers with labels, numbers, prompts that
are implied; and as rows of a world."""

import json
import re

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from policyopt.evaluation.pairs import better_and_worse
from policyopt.policies.tokenizer import character_tokenizer
from policyopt.worlds.compared import Ranked, pair
from policyopt.worlds.preference_records import shared_words
from policyopt.worlds.prompts import token_world
from policyopt.worlds.records import entry_from_record
from policyopt.worlds.sources import folder_entries, jsonl_entries
from policyopt.worlds.tasks import Candidate, Entry, SourceError
from policyopt.worlds.tokens import WorldError

TURN = {"role": "user", "content": "2+2?"}
GOOD, BAD = ({"role": "assistant", "content": text} for text in "45")


def read(record, **columns):
    return entry_from_record(json.loads(json.dumps(record)), columns)


def said(entry):
    """(text, rank, numbers) of every candidate."""
    return [(c.text, c.rank, dict(c.numbers)) for c in entry.candidates]


# -- prompts -----------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("chosen", "rejected", "prompt", "sides"),
    [
        ("The sky is blue.", "The sky is green.", "The sky is", (" blue.", " green.")),
        ("The sky is blue.", "The sky is black.", "The sky is", (" blue.", " black.")),  # not "bl"
        ("Q: 2+2?\nA: 4", "Q: 2+2?\nA: 5", "Q: 2+2?\nA:", (" 4", " 5")),
        ("Q: 2+2?\n4", "Q: 2+2?\n5", "Q: 2+2?\n", ("4", "5")),
        ("Say it", "Say it again", "Say", (" it", " it again")),  # no side is empty
    ],
)
def test_two_texts_imply_the_words_that_they_share(chosen, rejected, prompt, sides):
    entry = read({"chosen": chosen, "rejected": rejected})
    assert (entry.prompt, [c.text for c in entry.candidates]) == (prompt, [*sides])


@given(st.text("ab \n", max_size=12), st.text("ab \n", max_size=6), st.text("ab \n", max_size=6))
def test_an_implied_prompt_is_a_common_beginning_that_ends_where_a_word_begins(shared, one, other):
    chosen, rejected = shared + one, shared + other
    try:
        cut = shared_words(chosen, rejected)
    except SourceError:
        return
    assert chosen[:cut] == rejected[:cut]
    assert chosen[:cut].strip()
    assert max(len(chosen), len(rejected)) > cut  # one answer may be nothing, as behind a line break
    assert all(
        text[cut : cut + 1].isspace() or text[cut - 1].isspace() or cut == len(text) for text in (chosen, rejected)
    )


def test_a_conversation_beside_its_own_first_message_is_a_conversation():
    """As in binarised UltraFeedback, which has the same question three times."""
    whole = {"prompt": "2+2?", "messages": [TURN, GOOD], "chosen": [TURN, GOOD], "rejected": [TURN, BAD]}
    entry = read({**whole, "score_chosen": 8.5, "score_rejected": 3})
    assert entry.messages == (TURN,)
    assert said(entry) == [("4", 0, {"label": 8.5}), ("5", 1, {"label": 3})]


def test_segments_that_start_differently():
    entry = read({"prompt_chosen": "a b", "chosen": "c", "prompt_rejected": "d", "rejected": "e", "strength": 2})
    assert entry.prompt == "a b"
    assert entry.candidates == (Candidate("c", 0, {"strength": 2}), Candidate("e", 1, {"strength": 2}, "d"))
    entry = read({"prompt_chosen": [TURN], "chosen": [GOOD], "prompt_rejected": [TURN, BAD, TURN], "rejected": [GOOD]})
    assert entry.messages == (TURN,)
    assert entry.candidates[1].start == (TURN, BAD, TURN)


# -- lists and labels --------------------------------------------------------------------------------------------------
def test_ranked_lists_are_stored_best_first():
    scored = read({"prompt": "a", "completions": ["x", "y", "z"], "scores": [1, 3, 2]})
    assert said(scored) == [("y", 0, {"label": 3}), ("z", 1, {"label": 2}), ("x", 2, {"label": 1})]
    placed = read({"prompt": "a", "completions": ["x", "y", "z"], "ranks": [3, 1, 2]})
    assert said(placed) == [("y", 0, {"label": 1}), ("z", 1, {"label": 0.5}), ("x", 2, {"label": 0})]
    tied = read({"prompt": [TURN], "completions": [[GOOD], [BAD], "6"], "ranks": [1, 2, 1]})
    assert said(tied) == [("4", 0, {"label": 1}), ("6", 1, {"label": 1}), ("5", 2, {"label": 0})]
    both = {"prompt": "a", "completions": ["x", "y"], "ranks": [2, 1], "scores": [0.4, 0.9], "safe": [1, 0]}
    both = read(both, safety="safe")
    assert said(both) == [("y", 0, {"label": 0.9, "safety": 0}), ("x", 1, {"label": 0.4, "safety": 1})]


@pytest.mark.parametrize(("label", "rank", "number"), [(True, 0, 1), (False, 1, 0), (0.7, 0, 0.7), (0.5, 1, 0.5)])
def test_single_answers_have_labels(label, rank, number):
    assert said(read({"prompt": "a", "completion": "x", "label": label})) == [("x", rank, {"label": number})]
    conversation = read({"prompt": [TURN], "completion": [GOOD], "label": label})
    assert (conversation.messages, said(conversation)) == ((TURN,), [("4", rank, {"label": number})])
    graded = read({"prompt": "a", "completion": "x", "stars": label}, label="stars")
    assert said(graded) == [("x", rank, {"label": number})]
    assert read({"prompt": "a", "completion": "x"}).demonstration == "x"  # without a label it is to be imitated


# -- numbers -----------------------------------------------------------------------------------------------------------
PAIR = {"prompt": "a", "chosen": "x", "rejected": "y"}


@pytest.mark.parametrize(
    ("more", "columns", "numbers"),
    [
        ({"score_chosen": 2, "score_rejected": 1}, {}, [{"label": 2}, {"label": 1}]),
        ({"chosen_score": 2, "rejected_score": 1}, {}, [{"label": 2}, {"label": 1}]),
        ({"margin": 0.5}, {}, [{"strength": 0.5}] * 2),
        ({"strength": 2, "margin": 0.5}, {}, [{"strength": 2}] * 2),
        ({"margin": 0.5}, {"gap": "margin"}, [{"strength": 0.5, "gap": 0.5}] * 2),
        ({"chosen_safe": True, "rejected_safe": False}, {"safety": "safe"}, [{"safety": 1}, {"safety": 0}]),
        ({"helpful": [3, 4]}, {"label": "helpful"}, [{"label": 3}, {"label": 4}]),
        ({"score": 0.5}, {}, [{}, {}]),  # of both together: no label
        ({"strength": "slightly better", "score": {"a": 1}}, {}, [{}, {}]),  # words are something else
    ],
)
def test_numbers_of_pairs(more, columns, numbers):
    assert [dict(c.numbers) for c in read({**PAIR, **more}, **columns).candidates] == numbers


def marked(chosen, rejected=()):
    return {"prompt": "a", "chosen": "one two", "rejected": "x", "harm_chosen": chosen, "harm_rejected": list(rejected)}


def test_numbers_of_parts_of_answers():
    found = read(
        {**marked([[0, 3, 2], [3, 7, 0.5]]), "score_chosen": 2, "score_rejected": 1}, severity="harm"
    ).candidates
    assert [dict(one.marks) for one in found] == [{"severity": ((0, 3, 2.0), (3, 7, 0.5))}, {"severity": ()}]
    assert [dict(one.numbers) for one in found] == [{"label": 2}, {"label": 1}]


@pytest.mark.parametrize(
    ("record", "columns", "told"),
    [
        (marked([[0, 8, 1]]), {"severity": "harm"}, "[0, 8] does not lie between 0 and 7"),
        (marked([[0, 3, 1], [2, 4, 1]]), {"severity": "harm"}, "[2, 4] does not lie between 3 and 7"),
        (marked([[1, 1, 1]]), {"severity": "harm"}, "[1, 1] does not lie"),
        (marked([[0, True, 1]]), {"severity": "harm"}, "holds [begin, end, number] of parts of the answer, got list"),
        (marked([[0, 1, "bad"]]), {"severity": "harm"}, "'harm_chosen' must hold finite numbers, got str 'bad'"),
        (marked([3.0]), {"severity": "harm"}, "holds [begin, end, number] of parts of the answer, got float 3.0"),
        ({"chosen": "a b", "rejected": "a b"}, {}, "are the same text"),
        ({"chosen": "ab", "rejected": [GOOD]}, {}, "two whole texts or two whole conversations"),
        ({"prompt_chosen": "a", "chosen": "b", "rejected": "c"}, {}, "'prompt_rejected' is missing"),
        ({**PAIR, "prompt_chosen": "a"}, {}, "in place of 'prompt'; remove it"),
        ({"prompt_chosen": "a", "chosen": [TURN, GOOD], "prompt_rejected": "b", "rejected": "c"}, {}, "got 2 messages"),
        ({"chosen": [TURN, GOOD], "rejected": [BAD, GOOD]}, {}, "'prompt_chosen' and 'prompt_rejected'"),
        ({"prompt": "a", "completions": ["x"], "scores": [1]}, {}, "a list of two answers or more, got list ['x']"),
        ({"prompt": "a", "completions": ["x", 3], "scores": [1, 2]}, {}, "'completions[1]' must be a string or a list"),
        ({"prompt": "a", "completions": ["x", "y"]}, {}, "need 'ranks' (smaller is better) or 'scores'"),
        ({"prompt": "a", "completions": ["x", "y"], "labels": [True, False]}, {}, "those of the steps of one answer"),
        ({"prompt": "a", "completions": ["x", "y"], "scores": [1]}, {}, "one number per answer, of 2, got list [1]"),
        ({"prompt": "a", "completions": ["x", "y"], "ranks": [1, float("nan")]}, {}, "finite numbers, got float nan"),
        ({"prompt": "a", "completion": "x", "label": "good"}, {}, "'label' must hold finite numbers, got str 'good'"),
        ({"prompt": "a", "completion": "x", "label": 10**400}, {}, "'label' must hold finite numbers, got int 1000"),
        ({"prompt": "a", "completion": "x", "label": 1}, {"strength": "sure"}, "no field 'sure'"),
        ({**PAIR, "score_chosen": "2", "score_rejected": 1}, {"label": "score"}, "'score_chosen' must hold"),
        ({**PAIR, "rating_chosen": 1}, {"label": "ratng"}, "no numbers 'ratng' ('ratng_chosen' and 'ratng_rejected'"),
        ({**PAIR, "rating": 1}, {"label": "rating"}, "'rating' is one number for all answers"),
        ({"prompt": "a", "answer": "b"}, {"label": "rating"}, "columns name numbers of preference data"),
    ],
)
def test_a_wrong_record_is_told_what_is_wrong(record, columns, told):
    with pytest.raises(SourceError, match=re.escape(told)):
        entry_from_record(record, columns)


def test_files_and_folders_agree_and_name_the_line(tmp_path):
    import datasets

    rows = [{**PAIR, "margin": 1.0, "helpful_chosen": 2, "helpful_rejected": 1}]
    rows += [{**PAIR, "margin": 2.0, "helpful_chosen": 3, "helpful_rejected": 4}]
    path, columns = tmp_path / "pairs.jsonl", {"label": "helpful"}
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    datasets.Dataset.from_list(rows).save_to_disk(str(tmp_path / "saved"))
    found = jsonl_entries(path, columns)
    assert said(found[1]) == [("x", 0, {"label": 3, "strength": 2}), ("y", 1, {"label": 4, "strength": 2})]
    assert folder_entries(tmp_path / "saved", None, columns) == found
    with pytest.raises(SourceError, match=r"pairs.jsonl, line 1: the record has no numbers 'honest'"):
        jsonl_entries(path, {"label": "honest"})
    with pytest.raises(SourceError, match=r"saved, row 0: the record has no numbers 'honest'"):
        folder_entries(tmp_path / "saved", None, {"label": "honest"})


# -- rows --------------------------------------------------------------------------------------------------------------
def world(*records, **columns):
    entries = [read(record, **columns) for record in records]
    return token_world(entries, character_tokenizer("abcdexyz12 "), limit=4)


def test_lists_of_uneven_length_are_rows_side_by_side():
    tokens = world(
        {"prompt": "ab", "completions": ["x", "yy", "z"], "scores": [1, 3, 2], "strength": [1, 2, 3]},
        {"prompt": "c", "completions": ["", "1"], "scores": [0, 5], "strength": 7},
    )
    batch = tokens.recorded_pairs(tokens.tasks(torch.tensor([1, 0])).with_rows({"group": torch.tensor([40, 41])}))
    assert tokens.texts(batch) == ["1", "", "yy", "z", "x"]
    assert batch.row["pair"].tolist() == batch.row["group"].tolist() == [40, 40, 41, 41, 41]
    assert batch.row["rank"].tolist() == [0, 1, 0, 1, 2]
    assert batch.row["label"].tolist() == [5, 0, 3, 2, 1]
    assert batch.row["strength"].tolist() == [7, 7, 2, 3, 1]
    assert batch.row["task"].tolist() == [1, 1, 0, 0, 0]
    # The best answer is what supervised stages imitate.
    assert tokens.texts(tokens.recorded(tokens.tasks(torch.arange(2)))) == ["yy", "1"]


def test_trap_43_all_answers_to_a_prompt_continue_the_same_tokens():
    tokens = world({"chosen": "a b c", "rejected": "a b d"}, {"chosen": "a x", "rejected": "a y z"})
    batch = tokens.recorded_pairs(tokens.tasks(torch.arange(2)))
    assert batch.context()[0].tolist() == batch.context()[1].tolist() == tokens.prompts[0]
    assert torch.equal(batch.context()[2], batch.context()[3])
    assert tokens.texts(batch) == [" c", " d", " x", " y z"]


def test_single_answers_are_rows_of_rank_good_or_bad():
    tokens = world({"prompt": "a", "completion": "x", "label": True}, {"prompt": "b", "completion": "y", "label": 0})
    batch = tokens.recorded_pairs(tokens.tasks(torch.tensor([0, 1, 0])))
    assert batch.row["rank"].tolist() == [0, 1, 0]
    assert batch.row["label"].tolist() == [1, 0, 1]
    assert batch.row["pair"].tolist() == [0, 1, 2]
    assert tokens.recorded_answers is None  # a bad answer is not to be imitated


def test_segments_have_prompts_of_their_own():
    tokens = world({"prompt_chosen": "ab", "chosen": "x", "prompt_rejected": "c", "rejected": "yy"}, PAIR)
    batch = tokens.recorded_pairs(tokens.tasks(torch.arange(2)))
    prompts = [[token for token in row if token >= 0] for row in batch.context().tolist()]
    assert [tokens.decode(prompt) for prompt in prompts] == ["ab", "c", "a", "a"]
    assert tokens.texts(batch) == ["x", "yy", "x", "y"]
    entries = [read({"prompt_chosen": "a", "chosen": "x", "prompt_rejected": "bbbb", "rejected": "y"})]
    with pytest.raises(WorldError, match="recorded answer and EOS must fit the model's 5 positions; 1 of 1"):
        token_world(entries, character_tokenizer("abxy"), limit=4, positions=5)


@pytest.mark.parametrize(
    ("records", "told"),
    [
        (
            [PAIR, {"prompt": "a", "completion": "x", "label": 1}],
            "answers to compare, not a single one, or none has; 1 of 2",
        ),
        ([PAIR, {**PAIR, "margin": 1}], "the number 'strength' of each answer or none has; 1 of 2"),
        ([PAIR, {"prompt": "a", "answer": "x"}], "a preference pair, a ranked list or a label or none has; 1 of 2"),
    ],
)
def test_a_world_is_of_one_kind_of_preference(records, told):
    with pytest.raises(WorldError, match=re.escape(told)):
        world(*records)


def test_labels_without_numbers_are_even():
    assert pair([1], [2]).label == [1, 0]
    assert Ranked([[1], [2], [3]], [0, 1, 2]).label == [1, 0.5, 0]


def test_compared_rows_are_those_that_differ():
    first, second = better_and_worse(
        torch.tensor([0, 0, 1, 1, 1, 2]), torch.tensor([1, 0, 0, 1, 2, 0]), torch.tensor([5.0, 5, 3, 3, 1, 9])
    )
    # A pair counts whatever its labels are; of the list of three the tie does not; a single answer is in no pair.
    assert sorted(zip(first.tolist(), second.tolist(), strict=True)) == [(1, 0), (2, 4), (3, 4)]


def test_an_entry_of_one_answer_needs_a_label():
    with pytest.raises(SourceError, match="needs a label"):
        Entry("a", None, candidates=(Candidate("x", 0),))
