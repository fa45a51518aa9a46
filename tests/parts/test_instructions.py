"""What tasks are told beside their prompt: words in prompts of text, columns in other worlds, refusals."""

from __future__ import annotations

import math

import pytest
import torch
from tokenizers import Tokenizer, decoders, models
from transformers import PreTrainedTokenizerFast

from policyopt.compose import CompositionError
from policyopt.policies.tokenizer import character_tokenizer
from policyopt.recipe.base import RecipeError
from policyopt.recipe.schema import load_recipe
from policyopt.sampling.instructions import instructed
from policyopt.types import NO_TOKEN, Tasks, concatenate
from policyopt.worlds.prompts import Instruction, token_world
from policyopt.worlds.sequences import bandit
from policyopt.worlds.tasks import Entry
from policyopt.worlds.tokens import TokenWorld, WorldError

ENTRIES = [Entry("ab =", None, "xx", demonstration="ba"), Entry("cde =", None, "edc", demonstration="edcb")]
WORDS = {
    "budget": Instruction("{value}: {prompt}"),
    "hint": Instruction("{prompt} {value}", "solution"),
    "pattern": Instruction("{value}, {prompt}", texts=("back", "half")),
    "draft": Instruction("{prompt} not {value} but", "tokens"),
}


def world(entries=ENTRIES, **options) -> TokenWorld:
    tokenizer = character_tokenizer("".join(map(chr, range(32, 127))))
    return token_world(entries, tokenizer, 4, instructions=WORDS, **options)


def prompts(tokens: TokenWorld, tasks: Tasks) -> list[str]:
    return [tokens.decode([token for token in row if token != NO_TOKEN]) for row in tasks.row["_prompt"].tolist()]


def test_numbers_shares_and_texts_are_written_by_their_templates() -> None:
    tokens = world()
    tasks = tokens.tasks(torch.tensor([0, 1, 1]))
    told = instructed(tokens, tasks, "budget", torch.tensor([4.0, math.nan, 12.0]))
    assert prompts(tokens, told) == ["4: ab =", "cde =", "12: cde ="]
    assert told.row["budget"].tolist()[2] == 12.0
    # Half of 2 letters is one, a quarter of 4 is one.
    hinted = instructed(tokens, tasks, "hint", torch.tensor([0.5, 0.25, 0.0]))
    assert prompts(tokens, hinted) == ["ab = b", "cde = e", "cde ="]
    answers = world([Entry("ab =", None, "xy")])
    told = instructed(answers, answers.tasks(torch.tensor([0])), "hint", torch.tensor([0.5]))
    assert prompts(answers, told) == ["ab = x"]
    shaped = instructed(tokens, tasks, "pattern", torch.tensor([1.0, 0.0, 1.0]))
    assert prompts(tokens, shaped) == ["half, ab =", "back, cde =", "half, cde ="]


def test_a_draft_is_read_from_tokens_and_an_empty_one_says_nothing() -> None:
    tokens = world()
    tasks = tokens.tasks(torch.tensor([0, 1]))
    (draft,) = tokens.prompts[1:2]
    told = instructed(tokens, tasks, "draft", torch.tensor([draft, [NO_TOKEN] * len(draft)]))
    assert prompts(tokens, told) == ["ab = not cde = but", "cde ="]


def test_what_was_told_before_stays_told() -> None:
    tokens = world()
    tasks = tokens.tasks(torch.tensor([0, 1]))
    both = instructed(tokens, instructed(tokens, tasks, "hint", torch.tensor([1.0, 0.5])), "budget", torch.ones(2))
    assert prompts(tokens, both) == ["1: ab = ba", "1: cde = ed"]
    again = instructed(tokens, both, "budget", torch.tensor([7.0, math.nan]))
    assert prompts(tokens, again) == ["7: ab = ba", "cde = ed"]


def test_rows_with_drafts_of_different_lengths_stand_in_one_batch() -> None:
    tokens = world()
    rows = []
    for n, width in ((0, 2), (1, 5)):
        tasks = instructed(tokens, tokens.tasks(torch.tensor([n])), "draft", torch.tensor([tokens.prompts[1][:width]]))
        rows.append(tokens.start(tasks))
    assert len(concatenate(rows)) == 2


def test_a_conversations_last_message_is_rewritten() -> None:
    vocabulary = {"<e>": 0, **{chr(c): 1 + n for n, c in enumerate(range(32, 127))}}
    made = Tokenizer(models.BPE(vocabulary, []))
    made.decoder = decoders.Fuse()
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=made, eos_token="<e>")
    tokenizer.chat_template = "{% for m in messages %}{{ m.role[0] }}({{ m.content }}){% endfor %}a("
    entry = Entry(None, ({"role": "system", "content": "s"}, {"role": "user", "content": "q"}))
    tokens = token_world([entry], tokenizer, 4, instructions=WORDS)
    told = instructed(tokens, tokens.tasks(torch.tensor([0])), "budget", torch.tensor([3.0]))
    assert prompts(tokens, told) == ["s(s)u(3: q)a("]
    assert entry.messages is not None
    assert entry.messages[-1]["content"] == "q"


def test_other_worlds_read_the_column_and_strangers_are_refused() -> None:
    class Told:
        instructions = ("budget",)

    tasks = Tasks(torch.arange(2))
    assert instructed(Told(), tasks, "budget", torch.ones(2)).row["budget"].tolist() == [1, 1]
    with pytest.raises(CompositionError, match=r"a 'hint', which Told was not given words for .*\['budget'\]"):
        instructed(Told(), tasks, "hint", torch.ones(2))
    with pytest.raises(CompositionError, match=r"understands none.*tasks\.instructions\.hint"):
        instructed(bandit(torch.ones(2, 2)), tasks, "hint", torch.ones(2))


def test_prompts_that_leave_no_room_and_bad_templates_are_refused() -> None:
    tokens = world(positions=12)
    with pytest.raises(WorldError, match="a prompt with its budget has 9 tokens, which leaves no room for 4 more"):
        instructed(tokens, tokens.tasks(torch.tensor([1])), "budget", torch.tensor([12.0]))
    for bad in ("{prompt}", "{value}", "{prompt} {value} {more}"):
        with pytest.raises(WorldError, match=r"holds \{prompt\} and \{value\}"):
            Instruction(bad)
    with pytest.raises(WorldError, match="texts are chosen by a number"):
        Instruction("{prompt}{value}", "solution", ("a",))


def test_a_recipe_gives_the_words(tmp_path) -> None:
    path = tmp_path / "told.yaml"
    path.write_text(
        "name: told\npolicy: {new: {model_type: qwen2}}\n"
        "tasks: {reasoning_gym: spell_backward, instructions: {budget: {template: '{value}: {prompt}'}}}\n"
        "stages: [{method: grpo, steps: 1}]\n"
    )
    said = load_recipe(str(path), []).tasks.instructions["budget"]
    assert (said.template, said.value, said.texts) == ("{value}: {prompt}", "number", ())
    with pytest.raises(RecipeError, match="template"):
        load_recipe(str(path), ["tasks.instructions.budget.template=3"])
