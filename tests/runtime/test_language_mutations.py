"""Planted bugs of the language path: each must be rejected by the trap's own test."""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from policyopt.engines import sampling
from policyopt.policies import language
from policyopt.policies.packing import Packed
from policyopt.types import NO_TOKEN, Categorical, Finish
from policyopt.worlds import prompts
from policyopt.worlds.tokens import TokenWorld

sys.path[:0] = [str(Path(__file__).parents[1] / "parts"), str(Path(__file__).parent)]

import test_engines  # noqa: E402
import test_language  # noqa: E402
import test_templates  # noqa: E402
import test_token_world  # noqa: E402

Plant = Callable[[pytest.MonkeyPatch], None]


@dataclass(frozen=True)
class Planted:
    trap: int
    plant: Plant
    check: Callable[[], Any]


def choosing(report: Callable[..., torch.Tensor]) -> Plant:
    """The samplers' choice of a token, with another reported log-probability."""

    def wrong(self, logits, rows, position):
        dist = Categorical.of(logits, self._heat[rows, None])
        token = dist.sample(self._uniforms(rows, position)[:, None])
        return token, report(logits, dist, token)

    return lambda patch: patch.setattr(sampling._Chooser, "_chosen", wrong)


def cold_scores(patch: pytest.MonkeyPatch) -> None:
    right = language.Language._score
    patch.setattr(
        language.Language,
        "_score",
        lambda self, batch, context, full: right(
            self, batch.with_rows({"temperature": torch.ones(len(batch))}), context, full=full
        ),
    )


def without_record(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(sampling, "remembered", lambda batch, row, step, kept: batch)


def full_denominator(patch: pytest.MonkeyPatch) -> None:
    """The trainer normalises over the whole vocabulary."""
    patch.setattr(language, "kept_of", lambda batch, steps: None)


def unrotated(batch, context=None):
    """Prompts left-padded as they are, positions counted from the padding."""
    prompt, valid = batch.context(context), batch.valid
    tokens = torch.cat([prompt, batch.step["_token"].masked_fill(~valid, NO_TOKEN)], 1).clamp(min=0)
    return Packed(tokens, torch.full((len(batch),), prompt.shape[1] - 1), valid)


def ends_are_padding(patch: pytest.MonkeyPatch) -> None:
    right = TokenWorld.extend

    def wrong(self, batch, token, logp, live, version):
        done = right(self, batch, token, logp, live, version)
        return done.with_steps({"train": done.step["train"] & (done.step["_token"] != self.eos)})

    patch.setattr(TokenWorld, "extend", wrong)


def never_truncated(patch: pytest.MonkeyPatch) -> None:
    right = TokenWorld.extend

    def wrong(self, *args):
        done = right(self, *args)
        finish = done.row["finish"]
        return done.with_rows({"finish": finish.masked_fill(finish == Finish.TRUNCATED, int(Finish.STOPPED))})

    patch.setattr(TokenWorld, "extend", wrong)


def turn_without_template(entry, prompt, text, tokenizer):
    return [*prompts.encode_answers([text], tokenizer)[0], tokenizer.eos_token_id]


def turn_without_check(entry, prompt, text, tokenizer):
    conversation = [*entry.messages, {"role": "assistant", "content": text}]
    whole = list(tokenizer.apply_chat_template(conversation, tokenize=True, return_dict=False))
    return whole[len(prompt) :]


def second_bos(patch: pytest.MonkeyPatch) -> None:
    right = prompts.encode_prompts

    def wrong(texts, tokenizer):
        return [[tokenizer.bos_token_id, *ids] for ids in right(texts, tokenizer)]

    patch.setattr(test_token_world, "encode_prompts", wrong)


NATIVE = "native"
TRUNCATED = partial(test_engines.test_trap_16_ratios_are_one_within_what_was_kept, "all", torch.float64)
PLANTED = {
    "untempered behaviour": Planted(
        15,
        choosing(lambda logits, dist, token: Categorical.of(logits).log_prob(token)),
        lambda: test_engines.test_trap_15_behaviour_is_what_score_says(NATIVE),
    ),
    "untempered scores": Planted(
        15, cold_scores, test_language.test_trap_15_ratio_is_one_at_temperature_below_one_and_values_ignore_it
    ),
    "kept tokens are not recorded": Planted(16, without_record, TRUNCATED),
    "kept tokens are recorded and not renormalised over": Planted(16, full_denominator, TRUNCATED),
    "log-probability of the likeliest token": Planted(
        17,
        choosing(lambda logits, dist, token: dist.logp.amax(-1)),
        lambda: test_engines.test_trap_17_the_reported_log_probability_is_the_sampled_tokens(NATIVE),
    ),
    "dropout while scoring": Planted(
        18,
        lambda patch: patch.setattr(language.AlwaysEval, "train", nn.Module.train),
        lambda: test_language.test_trap_18_dropout_is_off_even_in_training_mode("qwen2", {"attention_dropout": 0.5}),
    ),
    "chunks in the wrong order": Planted(
        19,
        lambda patch: patch.setattr(language, "joined", lambda parts, right=language.joined: right(parts[::-1])),
        lambda: test_language.test_trap_19_rows_scored_at_a_time_change_only_rounding(torch.float64, 1e-13),
    ),
    "low-precision head": Planted(
        27,
        lambda patch: patch.setattr(
            language.Language, "head", lambda self, states: self.causal.get_output_embeddings()(states)
        ),
        lambda: test_language.test_trap_27_low_precision_keeps_float32_logits("qwen2"),
    ),
    "the end counts as padding": Planted(
        29, ends_are_padding, test_token_world.test_trap_29_the_end_is_trained_though_it_is_the_padding_token
    ),
    "answers without their template": Planted(
        30,
        lambda patch: patch.setattr(prompts, "_turn", turn_without_template),
        lambda: test_templates.test_trap_30_what_is_trained_is_the_assistants_turn_and_its_end("brackets", "4"),
    ),
    "another end of turn accepted": Planted(
        30,
        lambda patch: patch.setattr(prompts, "_turn", turn_without_check),
        test_templates.test_trap_30_a_turn_that_ends_otherwise_is_refused,
    ),
    "rewritten prompts accepted": Planted(
        31,
        lambda patch: patch.setattr(prompts, "_turn", turn_without_check),
        test_templates.test_trap_31_a_template_that_rewrites_its_prompt_is_refused,
    ),
    "two BOS": Planted(
        32,
        second_bos,
        lambda: test_token_world.test_trap_32_one_bos_and_no_eos_in_a_prompt(bos=True, add_eos=False),
    ),
    "left padding attended to": Planted(
        33,
        lambda patch: patch.setattr(language, "pack", unrotated),
        lambda: test_language.test_trap_33_alone_equals_in_a_batch_equals_padded_wider("qwen2"),
    ),
    "truncation forgotten": Planted(
        35, never_truncated, test_token_world.test_trap_35_a_cut_answer_keeps_its_flag_and_its_last_token
    ),
    "no room checked": Planted(
        36,
        lambda patch: patch.setattr(TokenWorld, "_check_room", lambda self: None),
        test_token_world.test_trap_36_prompts_without_room_or_tokens_are_counted_when_loaded,
    ),
}


@pytest.fixture(autouse=True)
def _float64():
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(before)


@pytest.mark.parametrize("name", PLANTED)
def test_every_planted_bug_is_rejected(name: str) -> None:
    planted = PLANTED[name]
    planted.check()  # right without the bug
    with pytest.MonkeyPatch.context() as patch:
        planted.plant(patch)
        with pytest.raises((AssertionError, pytest.fail.Exception)):
            planted.check()
