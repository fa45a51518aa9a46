"""Language policies: alignment, padding, precision, dropout, critics, adapters, folders, tokenizers."""

from __future__ import annotations

import math
from types import SimpleNamespace

import hypothesis
import hypothesis.strategies as st
import pytest
import torch
from tokenizers import Tokenizer, models
from torch import nn
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer, PreTrainedTokenizerFast

from policyopt.compose import frozen
from policyopt.engines.plain import generate
from policyopt.ops.random import new_keys
from policyopt.policies.checkpoint import (
    CheckpointError,
    Lora,
    check_pair,
    load_language,
    new_language,
    save_language,
    with_lora,
)
from policyopt.policies.language import Language, UnsupportedModelError
from policyopt.policies.packing import pack
from policyopt.policies.token_scores import logp_and_entropy, score_tokens
from policyopt.policies.tokenizer import (
    AlphabetError,
    character_tokenizer,
    check_alphabet,
    load_tokenizer,
    unknown_characters,
)
from policyopt.policies.trunk import PLAIN
from policyopt.types import NO_TOKEN, Batch, Finish, StepKind, Tasks
from policyopt.worlds.tokens import TokenWorld

VOCABULARY = 13
PROMPTS = [[3], [5, 1, 7, 2, 9], [4, 4, 8], [12, 11, 10, 6, 1], [2, 0, 5, 7, 7, 3, 1]]
ANSWERS = [[6, 2, 0], [1, 0], [7, 7, 7, 11, 5, 9, 0], [0], [3, 10, 8, 2, 0]]


@pytest.fixture(autouse=True)
def double_precision():
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


def tiny(model_type="qwen2", dtype=torch.float64, noise=0.15, **config) -> Language:
    policy = new_language(VOCABULARY, model_type, hidden_size=32, layers=2, heads=4, seed=5, dtype=dtype, **config)
    rng = torch.Generator().manual_seed(8)
    with torch.no_grad():
        for parameter in policy.parameters():  # far from the initialisation, where every token is as likely
            parameter.add_((torch.randn(parameter.shape, generator=rng) * noise).to(parameter.dtype))
    return policy


def world(**options) -> TokenWorld:
    settings = {"eos": 0, "limit": 9, "decode": str, "recorded_answers": ANSWERS, **options}
    return TokenWorld(PROMPTS, **settings)


def recorded(temperature=1.0, ids=(0, 1, 2, 3, 4)) -> Batch:
    batch = world().recorded(world().tasks(torch.tensor(ids)))
    return batch.with_rows({"temperature": torch.full((len(ids),), temperature)})


def by_hand(policy: Language, prompt: list[int], answer: list[int], temperature: float) -> list[torch.Tensor]:
    """(V,) distributions, one forward of the whole model per step."""
    rows = []
    for taken in range(len(answer)):
        logits = policy.model(torch.tensor([prompt + answer[:taken]])).logits[0, -1]
        rows.append((logits.double() / temperature).log_softmax(-1))
    return rows


class Encoding(nn.Module):
    """A causal model whose logits say which token at which position they were computed from."""

    class Backbone(nn.Module):
        def forward(self, input_ids, use_cache):
            position = torch.arange(input_ids.shape[1]).expand_as(input_ids)
            return SimpleNamespace(last_hidden_state=torch.stack([input_ids, position], -1).double())

    class Head(nn.Module):
        weight = torch.zeros(VOCABULARY, 2)

        def forward(self, states):
            token, position = states.unbind(-1)
            choice = torch.arange(VOCABULARY)
            return torch.sin(choice * (1 + token[..., None]) + 0.37 * position[..., None] * choice)

    def __init__(self):
        super().__init__()
        self.base_model, self._head = self.Backbone(), self.Head()
        self._embedding = nn.Embedding(VOCABULARY, 2)
        self.config = self.base_model.config = SimpleNamespace(get_text_config=lambda: SimpleNamespace(to_dict=dict))

    def get_input_embeddings(self):
        return self._embedding

    def get_output_embeddings(self):
        return self._head

    def forward(self, input_ids, use_cache=False):
        return SimpleNamespace(logits=self._head(self.base_model(input_ids, use_cache).last_hidden_state))


def encoded_logp(prompt, answer):
    """What `Encoding` says of an answer, in scalar arithmetic."""
    text, values = prompt + answer, []
    for t, chosen in enumerate(answer):
        at = len(prompt) - 1 + t
        logits = [math.sin(v * (1 + text[at]) + 0.37 * at * v) for v in range(VOCABULARY)]
        values.append(logits[chosen] - math.log(sum(map(math.exp, logits))))
    return values


# -- alignment -----------------------------------------------------------------------------------------------
def test_trap_14_every_consumer_reads_the_position_that_predicts_the_step():
    policy, batch = Language(Encoding()), recorded()
    scores, full = policy.score(batch), policy.score(batch, full=True)
    for row, (prompt, answer) in enumerate(zip(PROMPTS, ANSWERS, strict=True)):
        expected = torch.tensor(encoded_logp(prompt, answer))
        torch.testing.assert_close(scores.logp[row, : len(answer)], expected)
        torch.testing.assert_close(full.logp[row, : len(answer)], expected)
        following = policy.next(batch).logp[row]
        appended = [encoded_logp(prompt, [*answer, v])[-1] for v in range(VOCABULARY)]
        torch.testing.assert_close(following, torch.tensor(appended))


def test_trap_14_sampled_rows_score_as_they_were_sampled():
    policy, tokens = Language(Encoding()), world()
    batch = generate(policy, tokens, tokens.start(tokens.tasks(torch.arange(5))), torch.arange(5) * 77, 1.0, 3)
    assert batch.lengths.unique().numel() > 1
    expected = [encoded_logp(p, a) for p, a in zip(PROMPTS, tokens.answers(batch), strict=True)]
    torch.testing.assert_close(batch.step["behaviour"][batch.own], torch.tensor([v for row in expected for v in row]))


@pytest.mark.parametrize("model_type", ["qwen2", "llama", "gemma", "gpt_neox"])
def test_scores_equal_one_forward_per_step(model_type):
    policy, batch = tiny(model_type), recorded(temperature=0.7)
    full = policy.score(batch, full=True)
    scores = policy.score(batch)
    assert scores.logp.shape == scores.entropy.shape == (5, 7)
    for row, (prompt, answer) in enumerate(zip(PROMPTS, ANSWERS, strict=True)):
        for t, logp in enumerate(by_hand(policy, prompt, answer, 0.7)):
            entropy = -(logp.exp() * logp).sum()
            torch.testing.assert_close(scores.logp[row, t], logp[answer[t]])
            torch.testing.assert_close(scores.entropy[row, t], entropy)
            torch.testing.assert_close(full.dist.logp[row, t], logp)
            torch.testing.assert_close(full.entropy[row, t], entropy)
    torch.testing.assert_close(full.logp, scores.logp)


def test_values_stand_before_each_step_and_after_the_last():
    policy = tiny()
    critic = policy.make_critic(torch.Generator())
    nn.init.normal_(critic.head.weight, generator=torch.Generator().manual_seed(1))
    values = critic.value(recorded())
    assert values.shape == (5, 8)
    for row, (prompt, answer) in enumerate(zip(PROMPTS, ANSWERS, strict=True)):
        states = policy.backbone(torch.tensor([prompt + answer])).last_hidden_state[0]
        expected = states[len(prompt) - 1 :] @ critic.head.weight[0]
        torch.testing.assert_close(values[row, : len(answer) + 1], expected)
        assert len(expected) == len(answer) + 1


# -- temperature ---------------------------------------------------------------------------------------------
def test_trap_15_ratio_is_one_at_temperature_below_one_and_values_ignore_it():
    policy, tokens = tiny(), world()
    start = tokens.start(tokens.tasks(torch.arange(5)).repeat(3)).with_rows({"temperature": torch.full((15,), 0.6)})
    batch = generate(policy, tokens, start, new_keys(15, torch.Generator().manual_seed(1)), 0.6, 0)
    ratio = (policy.score(batch).logp - batch.step["behaviour"])[batch.own].exp()
    torch.testing.assert_close(ratio, torch.ones_like(ratio), rtol=0, atol=1e-12)
    warmer = batch.with_rows({"temperature": torch.full((15,), 1.7)})
    assert (policy.score(warmer).logp - policy.score(batch).logp).abs().max() > 0.1
    critic = policy.make_critic(torch.Generator())
    nn.init.ones_(critic.head.weight)
    assert torch.equal(critic.value(warmer), critic.value(batch))


def test_a_greedy_row_scores_at_temperature_one():
    policy = tiny()
    mixed = recorded().with_rows({"temperature": torch.tensor([0.0, 1.0, 0.5, 0.0, 2.0])})
    torch.testing.assert_close(policy.score(mixed).logp[[0, 1, 3]], policy.score(recorded()).logp[[0, 1, 3]])


# -- dropout -------------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("model_type", "config"),
    [("qwen2", {"attention_dropout": 0.5}), ("gpt_neox", {"hidden_dropout": 0.5, "attention_dropout": 0.5})],
)
def test_trap_18_dropout_is_off_even_in_training_mode(model_type, config):
    policy, batch = tiny(model_type, **config), recorded()
    critic = policy.make_critic(torch.Generator())
    nn.init.ones_(critic.head.weight)
    for module in (policy, critic):
        assert not any(part.training for part in module.train().modules())
    assert torch.equal(policy.score(batch).logp, policy.score(batch).logp)
    assert torch.equal(critic.value(batch), critic.value(batch))
    assert torch.equal(frozen(policy).train().score(batch).logp, policy.score(batch).logp)
    # The configured dropout is real: with it on, two passes differ.
    policy.model.train()
    policy.reading = PLAIN  # reading without padding has no dropout of attention at all
    assert not torch.equal(policy.score(batch).logp, policy.score(batch).logp)


# -- batches, padding, chunks ----------------------------------------------------------------------------------
@pytest.mark.parametrize(("dtype", "bound"), [(torch.float64, 1e-13), (torch.float32, 2e-6)])
def test_trap_19_rows_scored_at_a_time_change_only_rounding(dtype, bound):
    policy, batch = tiny(dtype=dtype), recorded()
    critic = policy.make_critic(torch.Generator())
    nn.init.ones_(critic.head.weight)
    with torch.no_grad():
        whole, values = policy.score(batch, full=True), critic.value(batch)
        for rows in (1, 2, 8):
            policy.score_rows = critic.score_rows = rows
            part, plain = policy.score(batch, full=True), policy.score(batch)
            for ours in (part, plain):
                assert (ours.logp - whole.logp).abs().max() <= bound
                assert (ours.entropy - whole.entropy).abs().max() <= bound
            assert (part.dist.logp - whole.dist.logp).abs().max() <= bound
            assert (critic.value(batch) - values).abs().max() <= 100 * bound


@pytest.mark.parametrize("model_type", ["qwen2", "gemma", "gpt_neox"])
def test_trap_33_alone_equals_in_a_batch_equals_padded_wider(model_type):
    policy, batch = tiny(model_type), recorded()
    wide = batch.with_context(torch.nn.functional.pad(batch.context(), (4, 0), value=NO_TOKEN))
    wide = wide.append({"kind": torch.zeros(5, 3)})
    # Padding may hold anything, even ids that no vocabulary has.
    token = torch.where(wide.valid, wide.step["_token"], 10**9)
    wide = wide.with_steps({"_token": token})
    scores, wider = policy.score(batch), policy.score(wide)
    torch.testing.assert_close(wider.logp[:, :7], scores.logp, rtol=0, atol=1e-10)
    assert torch.equal(wider.logp[:, 7:], torch.zeros(5, 3))
    for row in range(5):
        alone = policy.score(recorded(ids=(row,))).logp[0]
        torch.testing.assert_close(scores.logp[row, : len(alone)], alone, rtol=0, atol=1e-10)


def test_trap_33_no_gradient_crosses_rows_or_comes_from_padding():
    policy, batch = tiny(tie_word_embeddings=False), recorded()
    policy.reading = PLAIN  # of the other one, see test_reading
    seen = []
    hook = policy.causal.get_input_embeddings().register_forward_hook(lambda m, i, out: seen.append(out))
    logp = policy.score(batch).logp
    hook.remove()
    for row, (prompt, answer) in enumerate(zip(PROMPTS, ANSWERS, strict=True)):
        (slope,) = torch.autograd.grad(logp[row].sum(), seen, retain_graph=True)
        read = torch.zeros(slope.shape[:2], dtype=torch.bool)
        read[row, : len(prompt) + len(answer) - 1] = True  # the last step is predicted, not read
        assert (slope.abs().sum(-1) > 0).equal(read)


def test_scores_are_finite_and_zero_at_padding():
    scores = tiny().score(recorded(), full=True)
    pad = ~recorded().valid
    assert pad.any()
    for values in (scores.logp, scores.entropy):
        assert torch.equal(values[pad], torch.zeros(int(pad.sum())))
    torch.testing.assert_close(scores.dist.logp[pad].exp().sum(-1), torch.ones(int(pad.sum())))


def test_named_contexts_are_read_by_name():
    policy, batch = tiny(), recorded()
    other = world().tasks(torch.tensor([4, 3, 2, 1, 0])).row["_prompt"]
    both = batch.with_context(other, "masked")
    torch.testing.assert_close(policy.score(both, "masked").logp, policy.score(batch.with_context(other)).logp)
    assert (policy.score(both, "masked").logp - policy.score(both).logp).abs().max() > 0.01


def test_steps_of_tools_are_scored_and_read():
    batch = recorded()
    kind = batch.step["kind"].clone()
    kind[2, 1:3] = int(StepKind.TOOL)
    policy = tiny()
    torch.testing.assert_close(policy.score(batch.with_steps({"kind": kind})).logp, policy.score(batch).logp)


def test_packing_refuses_an_empty_prompt_and_gaps():
    batch = recorded()
    prompt = batch.context().clone()
    prompt[0] = NO_TOKEN
    with pytest.raises(ValueError, match=r"1 of 5 rows have an empty context 'prompt'.*BOS"):
        pack(batch.with_context(prompt))
    kind = batch.step["kind"].clone()
    kind[2, 1] = int(StepKind.PAD)
    with pytest.raises(ValueError, match="padding between"):
        pack(batch.with_steps({"kind": kind}))


def test_a_token_outside_the_vocabulary_is_an_error():
    batch = recorded()
    batch.step["_token"][1, 0] = VOCABULARY
    with pytest.raises(IndexError):
        tiny().score(batch)


def test_no_steps_score_to_nothing():
    tokens = world()
    scores = tiny().score(tokens.start(tokens.tasks(torch.arange(3))))
    assert scores.logp.shape == scores.entropy.shape == (3, 0)


# -- the gradient of log-probabilities and entropies -------------------------------------------------------------
def test_logp_and_entropy_against_autograd_twice():
    rng = torch.Generator().manual_seed(2)
    logits = (torch.randn(6, 7, generator=rng) * 2).requires_grad_()
    token = torch.randint(7, (6,), generator=rng)
    logp, entropy = logp_and_entropy(logits, token)
    reference = logits.log_softmax(-1)
    torch.testing.assert_close(logp, reference.gather(-1, token[:, None])[:, 0])
    torch.testing.assert_close(entropy, -(reference.exp() * reference).sum(-1))
    assert torch.autograd.gradcheck(logp_and_entropy, (logits, token))
    assert torch.autograd.gradgradcheck(logp_and_entropy, (logits, token))


def test_trap_26_impossible_tokens_leave_finite_gradients():
    logits = torch.tensor([[0.3, -math.inf, 1.1], [2.0, 0.1, -math.inf]], requires_grad=True)
    logp, entropy = logp_and_entropy(logits, torch.tensor([2, 0]))
    (slope,) = torch.autograd.grad((logp + 0.3 * entropy).sum(), logits)
    assert slope.isfinite().all()
    assert slope[0, 1] == slope[1, 2] == 0


@pytest.mark.parametrize("chunk", [1, 7, 100])
def test_trap_28_tokens_per_head_change_neither_value_nor_gradient(chunk):
    rng = torch.Generator().manual_seed(3)
    states = torch.randn(20, 5, generator=rng, requires_grad=True)
    head = nn.Linear(5, 11)
    token, heat = torch.randint(11, (20,), generator=rng), torch.rand(20, generator=rng) + 0.5
    weights = torch.randn(2, 20, generator=rng)

    def outcome(logp, entropy):
        value = (weights[0] * logp + weights[1] * entropy).sum()
        return [value, *torch.autograd.grad(value, [states, head.weight, head.bias])]

    reference = (head(states) / heat[:, None]).log_softmax(-1)
    plain = outcome(reference.gather(-1, token[:, None])[:, 0], -(reference.exp() * reference).sum(-1))
    for ours, theirs in zip(outcome(*score_tokens(states, head, token, heat, chunk)), plain, strict=True):
        torch.testing.assert_close(ours, theirs)


def test_full_scores_carry_the_same_gradients():
    policy, batch = tiny(), recorded(temperature=0.8)
    weights = torch.randn(2, 5, 7, generator=torch.Generator().manual_seed(4))

    def slopes(scores):
        value = (weights[0] * scores.logp + weights[1] * scores.entropy)[batch.valid].sum()
        return torch.autograd.grad(value, list(policy.parameters()))

    lean, full = slopes(policy.score(batch)), slopes(policy.score(batch, full=True))
    for ours, theirs in zip(lean, full, strict=True):
        assert ours.abs().max() > 0
        torch.testing.assert_close(ours, theirs)
    policy.head_tokens = 3
    for ours, theirs in zip(slopes(policy.score(batch)), full, strict=True):
        torch.testing.assert_close(ours, theirs)


# -- precision -------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("model_type", ["qwen2", "gemma"])
def test_trap_27_low_precision_keeps_float32_logits(model_type):
    low = tiny(model_type, dtype=torch.bfloat16)
    exact = new_language(VOCABULARY, model_type, hidden_size=32, layers=2, dtype=torch.float64)
    exact.load_state_dict(low.state_dict())  # the same (rounded) weights
    batch = recorded().with_rows({"temperature": torch.ones(5, dtype=torch.float32)})
    assert low.score(batch, full=True).dist.logp.dtype == torch.float32
    difference = (low.score(batch).logp.double() - exact.score(batch).logp).abs()[batch.own]
    assert difference.max() < 0.08
    assert difference.mean() < 0.02
    # A bfloat16 head would add an error of up to 2^-9 of each logit; ours adds none of that size.
    states = torch.randn(50, 32, generator=torch.Generator().manual_seed(1)).bfloat16()
    head = low.causal.get_output_embeddings()
    reference = states.double() @ head.weight.double().T
    assert (low.head(states).double() - reference).abs().max() < 1e-4
    assert (head(states).double() - reference).abs().max() > 1e-3
    with torch.no_grad():
        head.weight.mul_(2)
    torch.testing.assert_close(low.head(states).double(), 2 * reference, rtol=1e-4, atol=1e-4)


def test_final_softcaps_are_applied():
    policy = tiny("gemma2", final_logit_softcapping=0.5)
    states = policy.backbone(torch.tensor([[1, 5]])).last_hidden_state
    raw = policy.causal.get_output_embeddings()(states)
    assert raw.abs().max() > 0.6
    torch.testing.assert_close(policy.head(states), policy.model(torch.tensor([[1, 5]])).logits)


def test_a_model_that_rescales_its_logits_is_refused():
    config = AutoConfig.for_model(
        "granite",
        vocab_size=VOCABULARY,
        hidden_size=32,
        num_hidden_layers=1,
        num_attention_heads=4,
        num_key_value_heads=4,
        intermediate_size=64,
        logits_scaling=8.0,
        bos_token_id=None,
        eos_token_id=None,
        pad_token_id=None,
    )
    with pytest.raises(UnsupportedModelError, match="does more to its logits"):
        Language(AutoModelForCausalLM.from_config(config))


# -- critics and copies ------------------------------------------------------------------------------------------
def test_a_critic_starts_at_zero_and_shares_nothing():
    policy, batch = tiny(), recorded()
    critic = policy.make_critic(torch.Generator())
    assert torch.equal(critic.value(batch), torch.zeros(5, 8))
    ours = {parameter.data_ptr() for parameter in policy.parameters()}
    assert not ours & {parameter.data_ptr() for parameter in critic.parameters()}
    critic.value(batch).sum().backward()
    assert critic.head.weight.grad.abs().max() > 0
    assert all(parameter.grad is None for parameter in policy.parameters())
    assert all(parameter.requires_grad for parameter in critic.parameters())


def test_a_frozen_copy_does_not_move_with_the_policy():
    policy, batch = tiny(), recorded()
    reference = frozen(policy)
    before = reference.score(batch).logp
    with torch.no_grad():
        for parameter in policy.parameters():
            parameter.add_(0.05 * torch.ones_like(parameter))
    assert torch.equal(reference.score(batch).logp, before)
    assert not torch.allclose(policy.score(batch).logp, before)


# -- adapters -----------------------------------------------------------------------------------------------------
def nudge_adapters(policy: Language) -> None:
    rng = torch.Generator().manual_seed(6)
    with torch.no_grad():
        for parameter in policy.parameters():
            if parameter.requires_grad:
                parameter.add_(0.3 * torch.randn(parameter.shape, generator=rng))


def test_adapters_start_as_the_model_and_alone_are_trained():
    batch, before = recorded(), tiny().score(recorded()).logp
    state = torch.get_rng_state()
    policy = with_lora(tiny(), Lora(rank=4, alpha=8, seed=3))
    assert torch.equal(state, torch.get_rng_state())
    torch.testing.assert_close(policy.score(batch).logp, before)
    trained = [name for name, parameter in policy.named_parameters() if parameter.requires_grad]
    assert trained
    assert all("lora_" in name for name in trained)
    torch.rand(3)  # the global random state has no part in it
    again = with_lora(tiny(), Lora(rank=4, alpha=8, seed=3))
    assert all(map(torch.equal, policy.state_dict().values(), again.state_dict().values()))
    critic = policy.make_critic(torch.Generator())
    moved = {name for name, parameter in critic.named_parameters() if parameter.requires_grad}
    assert {"head.weight", "head.bias"} < moved
    assert all("lora_" in name or name.startswith("head.") for name in moved)


@pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated:FutureWarning")
def test_an_adapted_policy_saves_merged_and_alone(tmp_path):
    from peft import PeftModel

    policy, batch = with_lora(tiny(), Lora(rank=4, alpha=8)), recorded()
    nudge_adapters(policy)
    scores = policy.score(batch).logp
    assert (scores - tiny().score(batch).logp).abs().max() > 0.01
    save_language(policy, tmp_path)
    torch.testing.assert_close(load_language(tmp_path, torch.float64).score(batch).logp, scores)
    attached = PeftModel.from_pretrained(tiny().model, tmp_path / "adapter")
    torch.testing.assert_close(Language(attached).score(batch).logp, scores)
    # Saving left the policy as it was, its adapters apart.
    assert torch.equal(policy.score(batch).logp, scores)
    assert any("lora_" in name for name, _ in policy.causal.named_parameters())
    with pytest.raises(CheckpointError, match="adapters alone"):
        load_language(tmp_path / "adapter")


# -- folders --------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("model_type", ["qwen2", "llama", "gemma", "gpt_neox"])
def test_a_saved_policy_opens_as_an_ordinary_folder(model_type, tmp_path):
    policy, batch = tiny(model_type), recorded()
    save_language(policy, tmp_path)
    plain = AutoModelForCausalLM.from_pretrained(tmp_path, dtype=torch.float64)
    ids = torch.tensor([PROMPTS[1]])
    torch.testing.assert_close(plain(ids).logits, policy.model(ids).logits)
    loaded = load_language(tmp_path, torch.float64)
    assert all(map(torch.equal, loaded.parameters(), policy.parameters()))
    torch.testing.assert_close(loaded.score(batch).logp, policy.score(batch).logp)
    assert next(load_language(tmp_path).parameters()).dtype == torch.float32
    assert load_language(tmp_path, lora=Lora(rank=2)).adapted


def test_new_models_depend_on_their_seed_alone():
    state = torch.get_rng_state()
    one, same, other = (new_language(9, hidden_size=16, layers=1, seed=seed) for seed in (1, 1, 2))
    assert torch.equal(state, torch.get_rng_state())
    assert all(map(torch.equal, one.parameters(), same.parameters()))
    assert not all(map(torch.equal, one.parameters(), other.parameters()))
    tied = one.causal
    assert tied.get_input_embeddings().weight is tied.get_output_embeddings().weight


def test_folders_that_are_no_models_are_named(tmp_path):
    with pytest.raises(CheckpointError, match=r"there is no model folder.*hub:owner/name"):
        load_language(tmp_path / "nowhere")
    (tmp_path / "notes.txt").write_text("")
    with pytest.raises(CheckpointError, match=r"no config.json.*notes.txt"):
        load_language(tmp_path)
    with pytest.raises(CheckpointError, match="hub:owner/name"):
        load_language("hub:nothing")


# -- tokenizers ---------------------------------------------------------------------------------------------------
ALPHABET = "0123456789+-*= \n.abc"


@hypothesis.given(st.text(ALPHABET))
def test_characters_come_back(text):
    tokenizer = character_tokenizer(ALPHABET)
    ids = tokenizer(text).input_ids
    assert len(ids) == len(text)
    assert tokenizer.unk_token_id not in ids
    assert tokenizer.decode(ids) == text
    assert tokenizer.decode([*ids, tokenizer.eos_token_id], skip_special_tokens=True) == text


@pytest.mark.parametrize("model_type", ["qwen2", "llama", "qwen3", "gemma", "gpt_neox"])
def test_a_saved_character_tokenizer_opens_as_an_ordinary_one(model_type, tmp_path):
    tokenizer = character_tokenizer(ALPHABET)
    policy = tiny(model_type)
    check_pair(policy, tokenizer)
    save_language(policy, tmp_path, tokenizer)
    assert AutoModelForCausalLM.from_pretrained(tmp_path).generation_config.eos_token_id == tokenizer.eos_token_id
    loaded = AutoTokenizer.from_pretrained(tmp_path)
    text = " 12 + 3=15 \n "
    assert loaded(text).input_ids == tokenizer(text).input_ids
    assert loaded.decode(loaded(text).input_ids) == text
    assert (loaded.pad_token_id, loaded.eos_token_id, loaded.unk_token_id) == (0, 1, 2)
    assert load_tokenizer(tmp_path).eos_token == "<eos>"


def test_a_tokenizer_that_would_be_opened_as_another_is_refused(tmp_path):
    # One token a character, but not of bytes: transformers would read spaces otherwise for a Qwen2 model.
    whole = Tokenizer(models.BPE(vocab={"<eos>": 0, "<unk>": 1, " ": 2, "a": 3}, merges=[], unk_token="<unk>"))
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=whole, eos_token="<eos>", unk_token="<unk>")
    with pytest.raises(CheckpointError, match=r"opens the tokenizer of a 'qwen2' model as Qwen2Tokenizer.*llama"):
        check_pair(tiny("qwen2"), tokenizer)
    with pytest.raises(CheckpointError, match="Qwen2Tokenizer"):
        save_language(tiny("qwen2"), tmp_path, tokenizer)
    # The trained weights were saved first.
    assert load_language(tmp_path, torch.float64).vocabulary == VOCABULARY


def test_unknown_characters_are_counted_not_dropped():
    tokenizer = character_tokenizer("01")
    assert tokenizer("0x1xy").input_ids == [3, 2, 4, 2, 2]
    assert unknown_characters(tokenizer, ["0x1xy", "1"]) == {"x": 2, "y": 1}
    check_alphabet(tokenizer, ["0110"])
    with pytest.raises(AlphabetError, match="3 are not, of 2 kinds: 'xy'"):
        check_alphabet(tokenizer, ["0x1xy"])
    with pytest.raises(AlphabetError, match="empty"):
        character_tokenizer("")


def test_a_tokenizer_without_an_end_is_refused_with_the_remedy(tmp_path):
    tokenizer = character_tokenizer("01")
    tokenizer.eos_token = None
    save_language(tiny("llama"), tmp_path)
    with pytest.raises(CheckpointError, match="no tokenizer"):
        load_tokenizer(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    with pytest.raises(CheckpointError, match=r"no end-of-sequence token.*policy.eos_token="):
        load_tokenizer(tmp_path)
    assert load_tokenizer(tmp_path, eos_token="<pad>").eos_token_id == 0
    with pytest.raises(CheckpointError, match="not in the vocabulary"):
        load_tokenizer(tmp_path, eos_token="</s>")


def test_recorded_rows_are_finished():
    assert (recorded().row["finish"] == Finish.STOPPED).all()
    assert isinstance(world().tasks(torch.arange(2)), Tasks)
