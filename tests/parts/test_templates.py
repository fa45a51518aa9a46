"""Chat templates: which tokens are the assistant's (traps 30 and 31)."""

from __future__ import annotations

import pytest
import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from policyopt.worlds.prompts import token_world
from policyopt.worlds.tasks import Entry, pair
from policyopt.worlds.tokens import WorldError

LOOP = "{% for m in messages %}"
END = "{% endfor %}"
# Style of template, end of a turn, and the template. Written from what the families' published formats look like.
TEMPLATES = {
    "chatml": (
        "<|im_end|>",
        LOOP
        + "<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n"
        + END
        + "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}",
    ),
    "headers": (
        "<|eot|>",
        "<bos>"
        + LOOP
        + "<|head|>{{ m.role }}<|/head|>\n\n{{ m.content | trim }}<|eot|>"
        + END
        + "{% if add_generation_prompt %}<|head|>assistant<|/head|>\n\n{% endif %}",
    ),
    "turns": (
        "<turn_end>",
        "<bos>"
        + LOOP
        + "<turn>{{ 'model' if m.role == 'assistant' else m.role }}\n{{ m.content | trim }}<turn_end>\n"
        + END
        + "{% if add_generation_prompt %}<turn>model\n{% endif %}",
    ),
    "brackets": (
        "</s>",
        "<bos>"
        + LOOP
        + "{% if m.role == 'user' %}[INST] {{ m.content }} [/INST]{% else %} {{ m.content }}</s>{% endif %}"
        + END,
    ),
    "pipes": (
        "</s>",
        LOOP
        + "<|{{ m.role }}|>\n{{ m.content }}</s>\n"
        + END
        + "{% if add_generation_prompt %}<|assistant|>\n{% endif %}",
    ),
    "colons": (
        "</s>",
        LOOP
        + "{{ m.role | upper }}: {{ m.content }}{% if m.role == 'assistant' %}</s>{% else %}\n{% endif %}"
        + END
        + "{% if add_generation_prompt %}ASSISTANT:{% endif %}",
    ),
    "hashes": (
        "</s>",
        LOOP
        + "### {{ m.role }}:\n{{ m.content }}{% if m.role == 'assistant' %}</s>{% endif %}\n\n"
        + END
        + "{% if add_generation_prompt %}### assistant:\n{% endif %}",
    ),
    "default system": (
        "<|im_end|>",
        "{% if messages[0].role != 'system' %}<|im_start|>system\nBe kind.<|im_end|>\n{% endif %}"
        + LOOP
        + "<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n"
        + END
        + "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}",
    ),
}
SPECIAL = ["<bos>", "<|im_start|>", "<|im_end|>", "<|head|>", "<|/head|>", "<|eot|>", "<turn>", "<turn_end>", "</s>"]
QUESTION = ({"role": "system", "content": "Add."}, {"role": "user", "content": "What is 2 + 2?"})


def tokenizer(template: str, end: str) -> PreTrainedTokenizerFast:
    """Bytes, with the special tokens of all styles."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocab = {token: index for index, token in enumerate([*SPECIAL, *alphabet])}
    inner = Tokenizer(models.BPE(vocab=vocab, merges=[]))
    inner.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    inner.decoder = decoders.ByteLevel()
    inner.add_special_tokens(SPECIAL)
    made = PreTrainedTokenizerFast(tokenizer_object=inner, eos_token=end, clean_up_tokenization_spaces=False)
    made.chat_template = template
    return made


@pytest.mark.parametrize("style", TEMPLATES)
@pytest.mark.parametrize("answer", ["4", "It is 4.\nSure, 4!", "é 4"])
def test_trap_30_what_is_trained_is_the_assistants_turn_and_its_end(style: str, answer: str) -> None:
    end, template = TEMPLATES[style]
    words = tokenizer(template, end)
    entries = [Entry(None, QUESTION, demonstration=answer), Entry(None, QUESTION[1:], demonstration="no")]
    world = token_world(entries, words, limit=64)
    batch = world.recorded(world.tasks(torch.arange(2)))
    trained = [batch.step["_token"][row][batch.trained[row]].tolist() for row in range(2)]
    assert words.decode(trained[0]).strip(" ") == answer + end
    assert words.decode(trained[1]).strip(" ") == "no" + end
    # Context and trained tokens together are what the template writes, up to the end of the turn.
    whole = [*QUESTION, {"role": "assistant", "content": answer}]
    ids = words.apply_chat_template(whole, tokenize=True, return_dict=False)
    prompt = [token for token in batch.context()[0].tolist() if token >= 0]
    assert [*prompt, *trained[0]] == ids[: len(prompt) + len(trained[0])]
    assert words.eos_token_id not in ids[len(prompt) + len(trained[0]) :]


def test_trap_30_a_turn_that_ends_otherwise_is_refused() -> None:
    _, template = TEMPLATES["chatml"]
    with pytest.raises(WorldError, match=r"ends an answer with .*im_end.*policy.eos_token"):
        token_world([Entry(None, QUESTION, demonstration="4")], tokenizer(template, "</s>"), limit=9)


def test_trap_31_a_template_that_rewrites_its_prompt_is_refused() -> None:
    rewriting = (
        LOOP
        + "{% if m.role == 'user' and not loop.last %}[old] {{ m.content }}\n"
        + "{% elif m.role == 'user' %}[new] {{ m.content }}\n{% else %}{{ m.content }}</s>{% endif %}"
        + END
    )
    words = tokenizer(rewriting, "</s>")
    with pytest.raises(WorldError, match=r"writes a prompt otherwise once an answer stands behind it.*new.*old"):
        token_world([Entry(None, QUESTION[1:], candidates=pair("4", "5"))], words, limit=9)
    # Sampling from it is safe: trained on are the sampled tokens themselves, never a second rendering.
    world = token_world([Entry(None, QUESTION[1:])], words, limit=9)
    assert words.decode(world.prompts[0]) == "[new] What is 2 + 2?\n"
