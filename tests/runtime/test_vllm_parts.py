"""What the vLLM engine does around vLLM: weights, checksums, requests and answers, against a model that stands in."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch
from torch import nn

from policyopt.engines import vllm_model
from policyopt.engines.choose import engine_for
from policyopt.engines.native import EngineError
from policyopt.engines.vllm import MismatchError, VllmEngine
from policyopt.engines.vllm_model import Answer, Request, VllmModel, VllmOptions
from policyopt.engines.weights import StaleWeightsError, checksum, checksums, places, policy_weights
from policyopt.ops.fingerprint import fingerprint
from policyopt.ops.kept import truncated
from policyopt.ops.random import new_keys
from policyopt.policies.checkpoint import Lora, new_language, with_lora
from policyopt.policies.language import Language
from policyopt.recipe.schema import RecipeError, make_recipe
from policyopt.truncation import Truncation
from policyopt.types import Batch, Finish
from policyopt.worlds.tokens import TokenWorld

PROMPTS = [[3], [5, 1, 7, 2, 9], [4, 4, 8], [0, 0, 3]]
JOINT = {"qkv_proj": ["q_proj", "k_proj", "v_proj"], "gate_up_proj": ["gate_proj", "up_proj"]}


def tiny(seed=5, dtype=torch.float32) -> Language:
    policy = new_language(13, "qwen2", hidden_size=16, layers=2, heads=2, seed=seed, dtype=dtype)
    shake(policy, 0.15)
    return policy


def shake(policy: nn.Module, size: float) -> None:
    rng = torch.Generator().manual_seed(8)
    with torch.no_grad():
        for parameter in policy.parameters():
            parameter.add_((torch.randn(parameter.shape, generator=rng) * size).to(parameter.dtype))


class Joined(nn.Module):
    """Weights as vLLM keeps them: some joined along their rows, the vocabulary padded."""

    packed_modules_mapping = JOINT

    def __init__(self, weights):
        super().__init__()
        self.dropped: str | None = None
        joint = {part: whole for whole, parts in JOINT.items() for part in parts}
        rows: dict[str, list[torch.Tensor]] = {}
        for name, tensor in weights.items():
            module, _, leaf = name.rpartition(".")
            parent, _, child = module.rpartition(".")
            rows.setdefault(f"{parent}.{joint.get(child, child)}.{leaf}".lstrip("."), []).append(tensor)
        for name, parts in rows.items():
            module, _, leaf = name.rpartition(".")
            place = self
            for step in module.split("."):
                if not hasattr(place, step):
                    place.add_module(step, nn.Module())
                place = getattr(place, step)
            whole = torch.zeros_like(torch.cat(parts))
            if module in ("model.embed_tokens", "lm_head"):
                place.org_vocab_size, whole = len(whole), torch.zeros(16, *whole.shape[1:])
            place.register_parameter(leaf, nn.Parameter(whole, requires_grad=False))
        self.lm_head = self.model.embed_tokens

    def load_weights(self, weights):
        for name, tensor in weights:
            if name == self.dropped or name.startswith("lm_head"):
                continue
            module, _, leaf = name.rpartition(".")
            parent, _, child = module.rpartition(".")
            start = 0
            for whole, parts in JOINT.items():
                if child in parts:
                    start = parts.index(child) * len(tensor)  # parts of a joint are equally long here
                    module = f"{parent}.{whole}"
            self.get_parameter(f"{module}.{leaf}")[start : start + len(tensor)] = tensor


class StandIn(VllmModel):
    """vLLM without vLLM: a joined copy, and answers that a policy with the copy's weights gives. It keeps what it
    computed for a prompt until it is told to forget it."""

    def __init__(self, config, dtype, options):
        del config, dtype, options
        self.version, self._sent, self._places, self._cache = None, {}, {}, {}
        self.joined, self.policy, self.forgets = Joined(policy_weights(tiny())), tiny(), True
        self._llm = SimpleNamespace(apply_model=lambda look: [look(self.joined)], reset_prefix_cache=self._forget)

    def _forget(self) -> bool:
        if self.forgets:
            self._cache = {}
        return True

    def generate(self, requests, eos):
        self.policy.causal.load_state_dict(self._places)
        return [self._answer(one, eos) for one in requests]

    def _answer(self, one, eos):
        rng, tokens, logp = torch.Generator().manual_seed(one.seed), [], []
        while len(tokens) < one.limit and eos not in tokens:
            text = (*one.prompt, *tokens)
            if text not in self._cache:
                self._cache[text] = self.policy.causal(torch.tensor([text])).logits[0, -1].detach()
            chances = (self._cache[text] / (one.temperature or 1)).log_softmax(-1)
            drawn = chances.argmax() if one.temperature == 0 else torch.multinomial(chances.exp(), 1, generator=rng)
            tokens.append(int(drawn))
            logp.append(float(chances[tokens[-1]]))
        return Answer(tokens, logp)


def world(limit=6) -> TokenWorld:
    return TokenWorld(PROMPTS, eos=0, limit=limit, decode=str)


def begin(tokens: TokenWorld, temperature=1.0, times=4) -> tuple[Batch, torch.Tensor]:
    batch = tokens.start(tokens.tasks(torch.arange(len(PROMPTS))).repeat(times))
    heat = torch.full((len(batch),), temperature)
    return batch.with_rows({"temperature": heat}), new_keys(len(batch), torch.Generator().manual_seed(4))


def engine(**options) -> VllmEngine:
    return VllmEngine(VllmOptions(**options), StandIn)


# -- checksums --------------------------------------------------------------------------------------------------
def test_checksum_by_hand():
    # Rows (1, 2) and (3, 4): sums by row 3 and 7, weighed 1 and 3; by column 4 and 6.
    values = torch.tensor([[1, 2], [3, 4]], dtype=torch.int32)
    assert checksum(values) == (3 + 3 * 7) * 1_000_003 + 4 + 3 * 6
    assert checksum(values.view(torch.float32)) == checksum(values)


@pytest.mark.parametrize("shape", [(6,), (4, 6), (2, 3, 4)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64])
def test_checksum_sees_a_bit_and_an_exchange(shape, dtype):
    value = torch.randn(shape, generator=torch.Generator().manual_seed(1)).to(dtype)
    assert checksum(value) == checksum(value.clone()) != 0
    assert checksum(value.clone().view(-1).flip(0).view(shape)) != checksum(value)
    last = value.clone()
    last.view(-1)[-1] = torch.nextafter(last.view(-1)[-1], torch.tensor(9.0, dtype=dtype))
    assert checksum(last) != checksum(value)
    padded = torch.cat([value, value])  # a part of a larger tensor counts as itself
    assert checksum(padded[: len(value)]) == checksum(value)


def test_policy_weights_hold_the_sum_of_adapters():
    adapted = with_lora(tiny(), Lora(rank=2, alpha=4, target_modules="all-linear", seed=1))
    shake(adapted, 0.1)
    before = {name: tensor.clone() for name, tensor in adapted.state_dict().items()}
    found, module = policy_weights(adapted), "model.layers.0.self_attn.q_proj"
    assert {name: tensor.shape for name, tensor in found.items()} == {
        name: tensor.shape for name, tensor in tiny().causal.state_dict().items()
    }
    layer = adapted.causal.get_submodule(module)
    with torch.no_grad():
        added = 4 / 2 * layer.lora_B["default"].weight @ layer.lora_A["default"].weight
    assert added.abs().max() > 1e-3
    torch.testing.assert_close(found[f"{module}.weight"], layer.base_layer.weight + added)
    assert all(torch.equal(tensor, before[name]) for name, tensor in adapted.state_dict().items())


def test_places_are_parts_of_the_joined_model():
    weights = policy_weights(tiny())
    joined = Joined(weights)
    joined.load_weights(weights.items())
    found = places(joined, weights)
    assert found.keys() == weights.keys()
    for name, tensor in weights.items():
        assert torch.equal(found[name], tensor), name


@pytest.mark.parametrize("lacking", ["model.norm.weight", "model.layers.1.self_attn.v_proj.weight"])
def test_places_refuse_weights_that_do_not_fill_the_engine(lacking):
    weights = policy_weights(tiny())
    rest = {name: tensor for name, tensor in weights.items() if name != lacking}
    with pytest.raises(EngineError, match="no weights for"):
        places(Joined(weights), rest)
    with pytest.raises(EngineError, match=r"has no 'more\.weight'"):
        places(Joined(weights), {**weights, "more.weight": torch.zeros(2)})


# -- syncs ------------------------------------------------------------------------------------------------------
def test_trap_45_every_tensor_arrives_and_a_dropped_one_is_named():
    policy, tokens, ours = tiny(), world(limit=1), engine()
    ours(policy, tokens, *begin(tokens, times=1), 1.0, 0)
    served = ours._model
    for name in policy_weights(policy):
        if name == "lm_head.weight":  # tied
            continue
        with torch.no_grad():
            for one in policy.causal.state_dict().values():
                one.add_(1.0)
        served.joined.dropped = name
        with pytest.raises(StaleWeightsError, match=name):
            ours(policy, tokens, *begin(tokens, times=1), 1.0, 1)
        served.joined.dropped = None
        ours(policy, tokens, *begin(tokens, times=1), 1.0, 2)
        assert served.held() == checksums(policy_weights(policy))
    assert served.version == 2


def test_trap_45_the_engine_shows_the_fingerprint_of_what_it_holds():
    policy, tokens, ours = tiny(), world(), engine()
    ours(policy, tokens, *begin(tokens), 1.0, 0)
    assert ours.fingerprint() == fingerprint(policy)
    ours._model.joined.get_parameter("model.norm.weight")[0] += 1e-3
    assert ours.fingerprint() != fingerprint(policy)
    with pytest.raises(StaleWeightsError, match=r"model\.norm\.weight"):
        ours(policy, tokens, *begin(tokens), 1.0, 0)


def test_trap_44_a_sync_of_new_weights_flushes_the_cache():
    policy, tokens, ours = tiny(), world(), engine()
    ours(policy, tokens, *begin(tokens), 1.0, 0)
    kept = ours._model._cache
    assert kept
    ours(policy, tokens, *begin(tokens), 1.0, 0)
    assert ours.syncs == 1
    assert ours._model._cache is kept  # the same weights: what was computed is still right
    shake(policy, 0.3)
    batch = ours(policy, tokens, *begin(tokens), 1.0, 1)
    assert ours.syncs == 2
    assert (policy.score(batch).logp - batch.step["behaviour"])[batch.own].abs().max() < 1e-5
    ours._model.forgets = False
    shake(policy, 0.3)
    with pytest.raises(MismatchError, match="nats in the mean"):
        ours(policy, tokens, *begin(tokens), 1.0, 2)


# -- generation -------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("temperature", [1.0, 0.6, 0.0])
def test_trap_15_behaviour_is_what_score_says(temperature):
    policy, tokens, ours = tiny(), world(), engine()
    batch = ours(policy, tokens, *begin(tokens, temperature), temperature, 7)
    assert (policy.score(batch).logp - batch.step["behaviour"])[batch.own].abs().max() < 1e-5
    assert ours.mismatch is not None
    assert ours.mismatch < 1e-5
    assert bool((batch.step["version"][batch.own] == 7).all())
    assert batch.done.all()


def test_rows_end_with_eos_or_at_the_limit_and_done_rows_stay():
    policy, tokens, ours = tiny(), world(), engine()
    start, keys = begin(tokens)
    part = ours(policy, tokens, start, keys, 1.0, 0, steps=2)
    assert int(part.lengths.max()) == 2
    again = ours(policy, tokens, part, keys, 1.0, 1)
    ended = part.done
    assert bool(ended.any())
    assert torch.equal(again.step["_token"][ended, :2], part.step["_token"][ended])
    stopped = again.row["finish"] == Finish.STOPPED
    assert bool(stopped.any())
    assert not bool(stopped.all())
    last = again.step["_token"].gather(1, again.lengths[:, None] - 1)[:, 0]
    assert torch.equal(last == 0, stopped)
    assert bool(again.trained.gather(1, again.lengths[:, None] - 1).all())  # EOS too
    assert bool((again.lengths[~stopped] == 6).all())
    assert set(again.step["version"][again.own].tolist()) == {0, 1}
    assert ours(policy, tokens, again, keys, 1.0, 2) is again


def test_rows_do_not_depend_on_their_neighbours():
    policy, tokens, ours = tiny(), world(), engine()
    batch, keys = begin(tokens)
    whole = ours(policy, tokens, batch, keys, 1.0, 0)
    order = torch.tensor([5, 2, 11])
    some = ours(policy, tokens, batch[order], keys[order], 1.0, 0)
    assert torch.equal(some.step["_token"], whole.step["_token"][order, : some.steps])


def test_trap_17_log_probabilities_are_looked_up_by_token():
    one = {4: SimpleNamespace(logprob=-0.1), 9: SimpleNamespace(logprob=-2.5)}
    found = vllm_model._answer(SimpleNamespace(token_ids=(9, 4), logprobs=[one, one]))
    assert found == Answer([9, 4], [-2.5, -0.1])
    with pytest.raises(EngineError, match="sampled token 7"):
        vllm_model._answer(SimpleNamespace(token_ids=(7,), logprobs=[one]))


def test_requests_that_vllm_would_answer_otherwise_are_refused():
    fine = Request([1, 2], 0, 3, 1.0)
    vllm_model.check_requests([fine, Request([1], 0, 4, 0.0)], 5)
    vllm_model.check_requests([], 5)
    with pytest.raises(EngineError, match=r"raises temperatures below 0\.01"):
        vllm_model.check_requests([fine, Request([1], 0, 1, 0.009)], 5)
    with pytest.raises(EngineError, match="may have 6 tokens, and vLLM was given 5 positions"):
        vllm_model.check_requests([fine, Request([1, 2], 0, 4, 1.0)], 5)


# -- refusals ---------------------------------------------------------------------------------------------------
def test_a_missing_vllm_is_said_with_the_remedy(monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(EngineError, match=r"pip install 'policyopt\[vllm\]'"):
        engine_for(tiny(), world(), "vllm")


def test_what_vllm_can_not_do_is_refused():
    tokens = world()
    with pytest.raises(EngineError, match="float64"):
        engine_for(tiny(dtype=torch.float64), tokens, "vllm")
    ours = engine()
    ours(tiny(), tokens, *begin(tokens), 1.0, 0)
    with pytest.raises(EngineError, match="one architecture"):
        ours(new_language(13, "llama", 16, 2, 2, 0), tokens, *begin(tokens), 1.0, 0)
    batch, keys = begin(tokens)
    with pytest.raises(EngineError, match=r"top_p and min_p need a record of which tokens were kept, and vLLM returns"):
        ours(tiny(), tokens, truncated(batch, Truncation(top_k=2)), keys, 1.0, 0)
    with pytest.raises(RecipeError, match=r"policy\.vllm has no effect with engine=auto"):
        make_recipe(
            {
                "name": "x",
                "policy": {"new": {"model_type": "qwen2"}, "vllm": {"rows": 8}},
                "tasks": {"reasoning_gym": "spell_backward"},
                "stages": [{"method": "grpo", "steps": 1}],
            }
        )
