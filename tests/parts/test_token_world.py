"""Token tasks: masks from lengths, special tokens in one place, limits, recorded answers and pairs."""

from __future__ import annotations

import math

import pytest
import torch
from tokenizers import Tokenizer, decoders, models, processors
from transformers import PreTrainedTokenizerFast

from policyopt.policies.checkpoint import new_language
from policyopt.policies.tokenizer import character_tokenizer
from policyopt.types import NO_TOKEN, Batch, Finish, Source, StepKind
from policyopt.worlds.compared import pair
from policyopt.worlds.prompts import encode_prompts, render_prompts, token_world
from policyopt.worlds.tasks import Entry
from policyopt.worlds.tasks import pair as preferred
from policyopt.worlds.tokens import TokenWorld, WorldError

EOS = 9
PROMPTS = [[1, 2, 3], [4], [5, 6]]
TEMPLATE = (
    "{{ bos_token }}{% for m in messages %}<{{ m['role'] }}>{{ m['content'] }}{% endfor %}"
    "{% if add_generation_prompt %}<assistant>{% endif %}"
)


def world(**options) -> TokenWorld:
    settings = {"eos": EOS, "limit": 4, "decode": lambda ids: " ".join(map(str, ids)), **options}
    return TokenWorld(PROMPTS, **settings)


def started(tokens: TokenWorld) -> Batch:
    return tokens.start(tokens.tasks(torch.arange(3)))


def played(tokens: TokenWorld, columns: list[list[int]]) -> Batch:
    """One append per column; rows that are done get garbage that must not be kept."""
    batch = started(tokens)
    for position, column in enumerate(columns):
        logp = torch.tensor([-0.5, -1.5, -2.5]) - position
        batch = tokens.append(batch, torch.tensor(column), logp, ~batch.done, 7 + position)
    return batch


# -- sampling ---------------------------------------------------------------------------------------------------
def test_prompts_are_padded_on_the_left():
    tasks = world().tasks(torch.tensor([1, 0, 1]))
    assert tasks.row["_prompt"].tolist() == [[NO_TOKEN, NO_TOKEN, 4], [1, 2, 3], [NO_TOKEN, NO_TOKEN, 4]]
    assert world().tasks(torch.tensor([1])).row["_prompt"].tolist() == [[4]]


def test_appended_steps_follow_the_conventions():
    batch = played(world(), [[3, EOS, 5], [EOS, 8, 6], [8, 8, 7], [8, 8, 2]])
    own, pad = int(StepKind.OWN), int(StepKind.PAD)
    assert batch.step["kind"].tolist() == [[own, own, pad, pad], [own, pad, pad, pad], [own] * 4]
    assert batch.step["train"].tolist() == [[True, True, False, False], [True, False, False, False], [True] * 4]
    assert batch.step["_token"].tolist() == [[3, EOS, 0, 0], [EOS, 0, 0, 0], [5, 6, 7, 2]]
    assert batch.step["behaviour"].tolist() == [[-0.5, -1.5, 0, 0], [-1.5, 0, 0, 0], [-2.5, -3.5, -4.5, -5.5]]
    assert batch.step["version"].tolist() == [[7, 8, 0, 0], [7, 0, 0, 0], [7, 8, 9, 10]]
    assert batch.row["finish"].tolist() == [int(Finish.STOPPED), int(Finish.STOPPED), int(Finish.TRUNCATED)]
    assert batch.step["reward"].sum() == 0


def test_trap_29_the_end_is_trained_though_it_is_the_padding_token():
    """pad = eos = 0: the end has loss weight 1, padding 0, and the text does not lose tokens."""
    tokens = world(eos=0)
    batch = played(tokens, [[3, 0, 5], [0, 0, 6], [0, 0, 0], [0, 0, 0]])
    assert batch.trained.tolist() == [[True, True, False], [True, False, False], [True, True, True]]
    assert batch.lengths.tolist() == [2, 1, 3]
    assert tokens.answers(batch) == [[3, 0], [0], [5, 6, 0]]
    assert tokens.texts(batch) == ["3", "", "5 6"]


def test_an_end_on_the_last_possible_step_is_no_truncation():
    batch = played(world(limit=2), [[1, 1, EOS], [EOS, 2, 0]])
    assert batch.row["finish"].tolist() == [int(Finish.STOPPED), int(Finish.TRUNCATED), int(Finish.STOPPED)]


def test_trap_35_a_cut_answer_keeps_its_flag_and_its_last_token():
    tokens = world(limit=3, judge=lambda texts, tasks: [float(len(text)) for text in texts])
    cut = played(tokens, [[1, 1, 1], [2, 2, 2], [3, 3, EOS]])
    assert cut.row["finish"].tolist() == [int(Finish.TRUNCATED), int(Finish.TRUNCATED), int(Finish.STOPPED)]
    assert tokens.texts(cut) == ["1 2 3", "1 2 3", "1 2"]
    assert cut.trained.all()
    assert tokens.grade(cut).tolist() == [5, 5, 3]


def test_several_steps_at_once_equal_one_after_another():
    tokens, columns = world(), [[3, EOS, 5], [EOS, 8, 6], [8, 8, 7], [8, 8, 2]]
    one_by_one = played(tokens, columns).with_steps({"version": torch.zeros(3, 4, dtype=torch.int64)})
    live = one_by_one.valid
    logp = torch.tensor([-0.5, -1.5, -2.5])[:, None] - torch.arange(4)
    at_once = tokens.extend(started(tokens), torch.tensor(columns).T, logp, live, 0)
    for name, column in one_by_one.step.items():
        assert torch.equal(at_once.step[name], column), name
        assert at_once.step[name].dtype == column.dtype, name
    for name, column in one_by_one.row.items():
        assert torch.equal(at_once.row[name], column), name


def test_rows_of_different_lengths_go_on_without_a_gap():
    tokens = world()
    batch = tokens.rewind(played(tokens, [[1, 2, 3], [4, 5, 6], [7, 8, 1]]), torch.tensor([3, 1, 2]))
    assert not batch.done.any()
    assert batch.step["_token"].tolist() == [[1, 4, 7], [2, 0, 0], [3, 6, 0]]
    assert batch.step["behaviour"][1].tolist() == [-1.5, 0, 0]
    more = tokens.append(batch, torch.tensor([8, 7, EOS]), -torch.ones(3), torch.tensor([True, True, True]), 1)
    assert more.step["_token"].tolist() == [[1, 4, 7, 8], [2, 7, 0, 0], [3, 6, EOS, 0]]
    assert more.row["finish"].tolist() == [int(Finish.TRUNCATED), int(Finish.RUNNING), int(Finish.STOPPED)]
    assert more.valid.sum(1).tolist() == [4, 2, 3]
    # What stands in a row that takes no step is not looked at, be it EOS.
    waiting = tokens.append(batch, torch.tensor([EOS, 7, EOS]), -torch.ones(3), torch.tensor([False, True, True]), 1)
    assert waiting.row["finish"].tolist() == [int(Finish.RUNNING), int(Finish.RUNNING), int(Finish.STOPPED)]
    assert waiting.lengths.tolist() == [3, 2, 3]


def test_a_hole_between_live_steps_is_refused():
    live = torch.tensor([[True, False, True]] * 3)
    with pytest.raises(ValueError, match="was not taken"):
        world().extend(started(world()), torch.ones(3, 3, dtype=torch.int64), torch.zeros(3, 3), live, 0)


# -- construction -------------------------------------------------------------------------------------------------
def test_trap_36_prompts_without_room_or_tokens_are_counted_when_loaded():
    assert world(positions=7).size == 3
    with pytest.raises(WorldError, match=r"1 of 3 prompts leave no room for 4 tokens \(the longest has 3\)"):
        world(positions=6)
    with pytest.raises(WorldError, match="2 of 4 prompts are empty"):
        TokenWorld([[1], [], [2], []], eos=EOS, limit=4, decode=str)
    with pytest.raises(WorldError, match="limit is 0"):
        world(limit=0)
    with pytest.raises(WorldError, match=r"recorded answer and EOS must fit .* 8 positions; 1 of 3"):
        world(positions=8, recorded_answers=[[1] * 5, [1] * 6, [1]])
    with pytest.raises(WorldError, match="pairs needs one entry per task: 1 for 3"):
        world(pairs=[pair([1], [2])])


def test_grades_are_nan_where_the_judge_has_none():
    seen = []

    def judge(texts, tasks):
        seen.append((texts, tasks))
        return [1.0, None, 0]

    tokens = world(judge=judge)
    grades = tokens.grade(played(tokens, [[3, EOS, 5], [EOS, 8, 6], [8, 8, EOS]]))
    assert seen == [(["3", "", "5 6"], [0, 1, 2])]
    assert grades[0] == 1
    assert math.isnan(grades[1])
    assert grades[2] == 0
    with pytest.raises(WorldError, match="no judge"):
        world().grade(started(world()))
    with pytest.raises(WorldError, match="1 for 3 answers"):
        world(judge=lambda texts, tasks: [1.0]).grade(started(world()))


# -- recorded data ------------------------------------------------------------------------------------------------
def test_recorded_answers_end_and_are_trained_but_were_sampled_by_nobody():
    tokens = world(limit=2, recorded_answers=[[7, 8, 3], [EOS], [6, EOS]])
    batch = tokens.recorded(tokens.tasks(torch.tensor([2, 0, 1])).with_rows({"group": torch.tensor([50, 51, 52])}))
    assert tokens.answers(batch) == [[6, EOS], [7, 8, 3, EOS], [EOS]]
    assert batch.trained.equal(batch.own)
    assert batch.lengths.tolist() == [2, 4, 1]
    assert batch.step["behaviour"][batch.own].isnan().all()
    assert batch.row["source"].tolist() == [int(Source.DATASET)] * 3
    assert batch.row["finish"].tolist() == [int(Finish.STOPPED)] * 3
    assert batch.row["group"].tolist() == [50, 51, 52]
    assert batch.row["task"].tolist() == [2, 0, 1]
    # Only the end is left out of the text: an EOS in the middle was written by whoever answered.
    inside = world(recorded_answers=[[7, EOS, 3], [1], [2]])
    assert inside.texts(inside.recorded(inside.tasks(torch.tensor([0])))) == ["7 9 3"]
    with pytest.raises(WorldError, match="no recorded answers"):
        world().recorded(world().tasks(torch.arange(2)))


def test_pairs_are_rows_of_one_draw():
    tokens = world(pairs=[pair([1], [2, 3]), pair([4, 4], [5]), pair([], [6])])
    tasks = tokens.tasks(torch.tensor([1, 2, 1])).with_rows({"group": torch.tensor([30, 31, 32])})
    batch = tokens.recorded_pairs(tasks)
    assert tokens.answers(batch) == [[4, 4, EOS], [5, EOS], [EOS], [6, EOS], [4, 4, EOS], [5, EOS]]
    assert batch.row["task"].tolist() == [1, 1, 2, 2, 1, 1]
    assert batch.row["rank"].tolist() == [0, 1] * 3
    assert batch.row["pair"].tolist() == batch.row["group"].tolist() == [30, 30, 31, 31, 32, 32]
    assert batch.context().tolist() == [[NO_TOKEN, 4], [NO_TOKEN, 4], [5, 6], [5, 6], [NO_TOKEN, 4], [NO_TOKEN, 4]]
    assert tokens.recorded_pairs(tokens.tasks(torch.arange(2))).row["pair"].tolist() == [0, 0, 1, 1]
    with pytest.raises(WorldError, match="no preference pairs"):
        world().recorded_pairs(tasks)


# -- text to tokens -------------------------------------------------------------------------------------------------
def tokenizer_with(*, bos=True, add_eos=False, template=None) -> PreTrainedTokenizerFast:
    """Characters and merges ("ab", "= "), a BOS in front and possibly an EOS behind."""
    tokens = ["<s>", "</s>", *"abcd= 1<>useritn", "ab", "= "]
    vocab = {token: index for index, token in enumerate(dict.fromkeys(tokens))}
    inner = Tokenizer(models.BPE(vocab=vocab, merges=[("a", "b"), ("=", " ")]))
    inner.decoder = decoders.Fuse()
    single = ("<s> " if bos else "") + "$A" + (" </s>" if add_eos else "")
    inner.post_processor = processors.TemplateProcessing(single=single, special_tokens=[("<s>", 0), ("</s>", 1)])
    made = PreTrainedTokenizerFast(
        tokenizer_object=inner, bos_token="<s>" if bos else None, eos_token="</s>", clean_up_tokenization_spaces=False
    )
    made.chat_template = template
    return made


@pytest.mark.parametrize("bos", [True, False])
@pytest.mark.parametrize("add_eos", [True, False])
def test_trap_32_one_bos_and_no_eos_in_a_prompt(bos, add_eos):
    tokenizer = tokenizer_with(bos=bos, add_eos=add_eos)
    bare = tokenizer("cd= 1", add_special_tokens=False).input_ids
    front = [0] if bos else []
    assert encode_prompts(["cd= 1"], tokenizer) == [front + bare]
    if bos:
        assert encode_prompts(["<s>cd= 1"], tokenizer) == [front + bare]
    # An end that the task itself wrote is kept.
    assert encode_prompts(["c</s>"], tokenizer)[0][-1] == 1


def test_trap_32_a_chat_has_one_bos_and_ends_where_the_assistant_begins():
    tokenizer = tokenizer_with(template=TEMPLATE)
    entries = [Entry(None, ({"role": "user", "content": "ab"},)), Entry("cd", None)]
    chat, plain = render_prompts(entries, tokenizer)
    assert tokenizer.decode(chat) == "<s><user>ab<assistant>"
    assert chat.count(0) == plain.count(0) == 1
    with pytest.raises(WorldError, match=r"1 of 2 tasks are conversations.*no chat template"):
        render_prompts(entries, tokenizer_with())


def test_trap_32_raw_text_shows_special_tokens_to_a_reward():
    tokenizer = character_tokenizer("0123 ")
    tokens = token_world([Entry("12", None), Entry("3", None)], tokenizer, limit=4)
    ids = torch.tensor([tokenizer("0 1").input_ids, [*tokenizer("2").input_ids, tokenizer.pad_token_id, 1]])
    batch = tokens.extend(
        tokens.start(tokens.tasks(torch.arange(2))), ids, torch.zeros(2, 3), torch.ones(2, 3).bool(), 0
    )
    assert tokens.texts(batch) == ["0 1", "2"]
    assert tokens.raw_texts(batch) == ["0 1", "2<pad><eos>"]
    assert tokens.answers(batch) == ids.tolist()
    with pytest.raises(WorldError, match="decode_raw"):
        world().raw_texts(started(world()))


def test_trap_43_both_sides_of_a_pair_continue_the_same_prompt_tokens():
    """ "ca" + "b1" would merge across the border into c, ab, 1: then only one side would have another prompt."""
    tokenizer = tokenizer_with()
    tokens = token_world([Entry("ca", None, candidates=preferred("b1", "1"))], tokenizer, limit=5)
    merged = tokenizer("cab1").input_ids
    prompt = tokenizer("ca").input_ids
    assert merged[: len(prompt)] != prompt
    batch = tokens.recorded_pairs(tokens.tasks(torch.tensor([0])))
    assert batch.context().tolist() == [prompt, prompt]
    assert tokens.texts(batch) == ["b1", "1"]
    assert tokens.answers(batch)[0] == [*tokenizer("b1", add_special_tokens=False).input_ids, 1]


def test_worlds_of_entries_keep_what_every_entry_has():
    tokenizer = character_tokenizer("0123 ")
    tokens = token_world([Entry("1", None, demonstration="2 2"), Entry("3", None, demonstration="")], tokenizer, 3)
    batch = tokens.recorded(tokens.tasks(torch.arange(2)))
    assert tokens.texts(batch) == ["2 2", ""]
    assert tokens.pairs is None
    with pytest.raises(WorldError, match="1 of 2 have"):
        token_world([Entry("1", None, demonstration="2"), Entry("3", None)], tokenizer, 3)
    policy = new_language(len(tokenizer), hidden_size=8, layers=1, heads=2, max_position_embeddings=5)
    assert policy.positions == 5
    with pytest.raises(WorldError, match="leave no room"):
        token_world([Entry("1111", None)], tokenizer, 3, positions=policy.positions)
