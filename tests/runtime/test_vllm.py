"""The vLLM engine with vLLM: `make test-vllm` runs these; elsewhere they are skipped."""

from __future__ import annotations

import gc
import importlib.util

import pytest
import torch
from torch import nn

from policyopt.engines.native import NativeEngine
from policyopt.engines.plain import generate
from policyopt.engines.vllm import MismatchError, VllmEngine
from policyopt.engines.vllm_model import VllmOptions
from policyopt.engines.weights import StaleWeightsError
from policyopt.ops.fingerprint import fingerprint
from policyopt.ops.random import new_keys
from policyopt.policies.checkpoint import Lora, new_language, with_lora
from policyopt.policies.language import Language
from policyopt.recipe.training import train
from policyopt.types import Batch, Finish
from policyopt.worlds.tokens import TokenWorld

pytestmark = [
    pytest.mark.skipif(importlib.util.find_spec("vllm") is None, reason="vLLM is not installed: make vllm"),
    pytest.mark.filterwarnings("default"),  # vLLM's and its libraries' own
]

VOCABULARY, EOS = 13, 0
LONG = [1 + n % 7 for n in range(70)]  # more than two blocks of keys and values, which are then shared
PROMPTS = [[3], [5, 1, 7, 2, 9], [4, 4, 8], [0, 0, 3], LONG, [*LONG, 2]]
MODELS = {
    "qwen2": {},
    "llama": {"num_key_value_heads": 2},
    "gemma": {"tie_word_embeddings": False},
    "qwen3": {"num_key_value_heads": 1},
}


def small(model_type="qwen2", dtype=torch.float32, **config) -> Language:
    policy = new_language(
        VOCABULARY, model_type, 128, 2, 4, 5, dtype, max_position_embeddings=128, **MODELS[model_type], **config
    )
    shake(policy, 0.1, 1)
    return policy


def shake(policy: nn.Module, size: float, seed: int) -> None:
    rng = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in policy.parameters():
            if parameter.requires_grad:
                parameter.add_((torch.randn(parameter.shape, generator=rng) * size).to(parameter.dtype))


def world(limit=9) -> TokenWorld:
    return TokenWorld(PROMPTS, eos=EOS, limit=limit, decode=str)


def begin(tokens: TokenWorld, temperature=1.0, times=4) -> tuple[Batch, torch.Tensor]:
    batch = tokens.start(tokens.tasks(torch.arange(len(PROMPTS))).repeat(times))
    heat = torch.full((len(batch),), temperature)
    return batch.with_rows({"temperature": heat}), new_keys(len(batch), torch.Generator().manual_seed(4))


def apart(policy: Language, batch: Batch) -> float:
    """The largest difference between the sampler's and the trainer's log-probability of a token, in nats."""
    with torch.no_grad():
        return float((policy.score(batch).logp - batch.step["behaviour"])[batch.own].abs().max())


@pytest.fixture(scope="module")
def engine() -> VllmEngine:
    return VllmEngine(VllmOptions(memory=0.25, rows=64))


@pytest.mark.parametrize("temperature", [1.0, 0.6, 0.0])
def test_log_probabilities_are_the_trainers_after_a_large_step(engine, temperature):
    policy, tokens = small(), world()
    for version in range(3):
        batch = engine(policy, tokens, *begin(tokens, temperature), temperature, version)
        assert apart(policy, batch) < 1e-3
        assert engine.fingerprint() == fingerprint(policy)
        assert bool((batch.step["version"][batch.own] == version).all())
        shake(policy, 0.3, version)  # nats, not rounding: weights have a standard deviation of about 0.1


def test_the_mode_is_that_of_the_plain_engine(engine):
    policy, tokens = small(), world()
    ours, plain = (each(policy, tokens, *begin(tokens, 0.0), 0.0, 0) for each in (engine, generate))
    assert torch.equal(ours.step["_token"], plain.step["_token"])
    assert torch.equal(ours.row["finish"], plain.row["finish"])


def test_rows_end_with_eos_or_at_the_limit(engine):
    policy, tokens = small(), world()
    batch = engine(policy, tokens, *begin(tokens), 1.0, 0)
    stopped = batch.row["finish"] == Finish.STOPPED
    assert 0 < int(stopped.sum()) < len(batch)
    last = batch.lengths[:, None] - 1
    assert torch.equal(batch.step["_token"].gather(1, last)[:, 0] == EOS, stopped)
    assert bool(batch.trained.gather(1, last).all())
    assert bool((batch.lengths[~stopped] == 9).all())


def test_rows_are_functions_of_their_keys(engine):
    policy, tokens = small(), world()
    batch, keys = begin(tokens)
    whole = engine(policy, tokens, batch, keys, 1.0, 0)
    again = engine(policy, tokens, batch, keys, 1.0, 0)
    assert torch.equal(whole.step["_token"], again.step["_token"])
    order = torch.tensor([7, 2, 13])
    some = engine(policy, tokens, batch[order], keys[order], 1.0, 0)
    assert torch.equal(some.step["_token"], whole.step["_token"][order, : some.steps])
    other = engine(policy, tokens, batch, keys + 1, 1.0, 0)
    assert not torch.equal(whole.step["_token"][:, : other.steps], other.step["_token"][:, : whole.steps])


def test_samples_have_the_policys_distribution(engine):
    """First tokens of 4000 rows against softmax: each share within five standard deviations."""
    policy, tokens = small(), world(limit=1)
    batch, keys = begin(tokens, 0.8, times=1)
    rows = torch.zeros(4000, dtype=torch.int64)
    batch, keys = batch[rows], new_keys(4000, torch.Generator().manual_seed(9))
    with torch.no_grad():
        chances = policy.next(batch[:1]).tempered(torch.tensor([0.8])).logp[0].exp()
    drawn = engine(policy, tokens, batch, keys, 0.8, 0).step["_token"][:, 0]
    share = drawn.bincount(minlength=VOCABULARY) / 4000
    assert bool(((share - chances).abs() < 5 * (chances * (1 - chances) / 4000).sqrt()).all())


def test_trap_45_a_tensor_that_did_not_arrive_is_named(engine, monkeypatch):
    policy, tokens = small(), world()
    engine(policy, tokens, *begin(tokens), 1.0, 0)
    model = engine._model
    load = type(model)._load
    left_out = "model.layers.1.self_attn.k_proj.weight"

    def incomplete(weights):
        load(model, {name: tensor for name, tensor in weights.items() if name != left_out})

    monkeypatch.setattr(model, "_load", incomplete)
    shake(policy, 0.3, 2)
    with pytest.raises(StaleWeightsError, match=r"1 of \d+ tensors have another checksum there: .*k_proj"):
        engine(policy, tokens, *begin(tokens), 1.0, 1)
    monkeypatch.undo()
    engine(policy, tokens, *begin(tokens), 1.0, 1)
    with torch.no_grad():
        model.module.get_parameter("model.norm.weight")[0] += 1.0
    assert engine.fingerprint() != fingerprint(policy)
    with pytest.raises(StaleWeightsError, match=r"model\.norm\.weight"):
        engine(policy, tokens, *begin(tokens), 1.0, 1)
    shake(policy, 0.1, 3)
    engine(policy, tokens, *begin(tokens), 1.0, 2)  # new weights mend it


def test_trap_44_keys_and_values_of_old_weights_are_not_used(engine, monkeypatch):
    policy, tokens = small(), world()
    begun, keys = begin(tokens)
    long = begun.context().ne(-1).sum(1) > 64
    engine(policy, tokens, begun[long], keys[long], 1.0, 0)
    shake(policy, 0.3, 2)
    monkeypatch.setattr(engine._model._llm, "reset_prefix_cache", lambda: True)
    with pytest.raises(MismatchError, match="nats in the mean"):
        engine(policy, tokens, begun[long], keys[long], 1.0, 1)
    monkeypatch.undo()
    shake(policy, 0.3, 3)
    assert apart(policy, engine(policy, tokens, begun[long], keys[long], 1.0, 2)) < 1e-3


@pytest.mark.parametrize("model_type", ["llama", "gemma", "qwen3"])
def test_other_architectures(model_type):
    policy, tokens, engine = small(model_type), world(), VllmEngine(VllmOptions(memory=0.25, rows=64))
    for version in range(2):
        assert apart(policy, engine(policy, tokens, *begin(tokens), 1.0, version)) < 1e-3
        shake(policy, 0.2, version)


def test_an_engine_that_is_forgotten_takes_nothing_from_another(engine):
    """vLLM's process groups belong to the whole process."""
    policy, tokens = small(), world()
    engine(policy, tokens, *begin(tokens), 1.0, 0)
    other = VllmEngine(VllmOptions(memory=0.25, rows=64))
    other(policy, tokens, *begin(tokens), 1.0, 0)
    del other
    gc.collect()
    assert apart(policy, engine(policy, tokens, *begin(tokens), 1.0, 0)) < 1e-3


def test_low_rank_adapters_are_sent_as_their_sum(engine):
    policy, tokens = with_lora(small(), Lora(rank=2, alpha=4, target_modules="all-linear", seed=1)), world()
    shake(policy, 0.3, 1)
    assert apart(policy, engine(policy, tokens, *begin(tokens), 1.0, 0)) < 1e-3
    assert engine.fingerprint() == fingerprint(policy)


def test_bfloat16_differs_by_rounding_only():
    policy, tokens = small(dtype=torch.bfloat16), world()
    engine = VllmEngine(VllmOptions(memory=0.25, rows=64))
    engine(policy, tokens, *begin(tokens), 1.0, 0)
    assert 0 < engine.mismatch < 0.05


def test_training_reports_the_mismatch(tmp_path):
    recipe = {
        "name": "vllm",
        "folder": str(tmp_path / "run"),
        "policy": {
            "new": {"model_type": "qwen2", "hidden_size": 128, "layers": 2, "heads": 4, "positions": 64},
            "engine": "vllm",
            "vllm": {"memory": 0.25, "rows": 64},
            "device": "cpu",
        },
        "tasks": {
            "reasoning_gym": "spell_backward",
            "options": {"min_word_len": 3, "max_word_len": 4},
            "prompt": "{word} =",
            "size": 64,
            "limit": 6,
        },
        "stages": [{"method": "grpo", "steps": 3, "options": {"selection.count": 4, "sampling.size": 4}}],
        "evaluation": None,
    }
    done = list(train(recipe))
    assert len(done) == 3
    assert all(0 < round_["sampler_mismatch"] < 1e-4 for round_ in done)


def test_the_native_engine_can_follow_in_the_same_process(engine):
    """vLLM changes its process; what runs beside it must not notice."""
    policy, tokens = small(), world()
    engine(policy, tokens, *begin(tokens), 1.0, 0)
    torch.set_num_threads(1)
    assert torch.get_num_threads() == 1
    assert apart(policy, NativeEngine()(policy, tokens, *begin(tokens), 1.0, 0)) < 1e-5
