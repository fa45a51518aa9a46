"""Every engine equals the reference engine, token for token."""

from __future__ import annotations

from functools import partial

import pytest
import torch
from torch import nn

from policyopt.compiled.build import CompilerWarning, library
from policyopt.compiled.decoding import kernels
from policyopt.engines.choose import SlowerEngineWarning, engine_for
from policyopt.engines.native import Decoding, EngineError, NativeEngine
from policyopt.engines.plain import generate
from policyopt.engines.sampling import NotFiniteError
from policyopt.engines.transformers import TransformersEngine
from policyopt.ops.kept import kept_of, truncated
from policyopt.ops.random import new_keys
from policyopt.policies.checkpoint import Lora, new_language, with_lora
from policyopt.policies.language import Language
from policyopt.policies.tabular import Table
from policyopt.recipe.language.kind import engine_of
from policyopt.recipe.language.sections import NewModel, PolicySection
from policyopt.truncation import SPAN, Truncation
from policyopt.types import Batch, Finish, StepKind, concatenate
from policyopt.worlds.sequences import bandit
from policyopt.worlds.tokens import TokenWorld

VOCABULARY = 13
PROMPTS = [[3], [5, 1, 7, 2, 9], [4, 4, 8], [12, 11, 10, 6, 1], [2, 0, 5, 7, 7, 3, 1], [0, 3], [0, 0, 3]]
FAST = {"native": NativeEngine(), "transformers": TransformersEngine()}
NATIVE_TYPES = {
    "qwen2": {},
    "llama": {"num_key_value_heads": 2},
    "gemma": {"tie_word_embeddings": False},
    "qwen3": {"num_key_value_heads": 1},
    "gpt_neox": {"rope_parameters": {"rope_type": "default", "rope_theta": 1e4, "partial_rotary_factor": 0.5}},
    "gemma2": {"sliding_window": 4, "query_pre_attn_scalar": 5},
    "gemma3_text": {
        "sliding_window": 4,
        "num_key_value_heads": 2,
        "layer_types": ["sliding_attention", "full_attention"],
    },
}
# Every fast path of the native engine, taken away or tightened.
PATHS = {
    "torch": Decoding(compiled=False),
    "slots": Decoding(slots=5),
    "torch slots": Decoding(slots=5, compiled=False),
    "unshared": Decoding(shared=False, compiled=False),
    "kept": Decoding(dropped=False),
}


@pytest.fixture(autouse=True)
def double_precision():
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


def tiny(model_type="qwen2", dtype=torch.float64, **config) -> Language:
    policy = new_language(VOCABULARY, model_type, hidden_size=32, layers=2, heads=4, seed=5, dtype=dtype, **config)
    shake(policy, 0.15)
    return policy


def shake(policy: nn.Module, size: float) -> None:
    rng = torch.Generator().manual_seed(8)
    with torch.no_grad():
        for parameter in policy.parameters():
            if parameter.requires_grad:
                parameter.add_((torch.randn(parameter.shape, generator=rng) * size).to(parameter.dtype))


def world(limit=9, eos=0) -> TokenWorld:
    return TokenWorld(PROMPTS, eos=eos, limit=limit, decode=str)


def begin(tokens: TokenWorld, temperature: float, times=3) -> tuple[Batch, torch.Tensor]:
    batch = tokens.start(tokens.tasks(torch.arange(len(PROMPTS))).repeat(times))
    heat = torch.full((len(batch),), temperature)
    return batch.with_rows({"temperature": heat}), new_keys(len(batch), torch.Generator().manual_seed(4))


def assert_same(ours: Batch, theirs: Batch, atol: float = 1e-10) -> None:
    assert ours.row.keys() == theirs.row.keys()
    assert ours.step.keys() == theirs.step.keys()
    for name in theirs.row:
        assert torch.equal(ours.row[name], theirs.row[name]), name
    for name, column in theirs.step.items():
        assert ours.step[name].dtype == column.dtype, name
        if name == "behaviour":
            torch.testing.assert_close(ours.step[name], column, rtol=0, atol=atol)
        else:
            assert torch.equal(ours.step[name], column), name


# -- equality ---------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("temperature", [1.0, 0.6, 0.0])
@pytest.mark.parametrize("model_type", NATIVE_TYPES)
def test_engines_agree_token_for_token(model_type, temperature):
    # transformers attends in float32 inside a Gemma 2.
    dtype, atol = (torch.float32, 1e-5) if model_type == "gemma2" else (torch.float64, 1e-10)
    policy, tokens = tiny(model_type, dtype, **NATIVE_TYPES[model_type]), world()
    batch, keys = begin(tokens, temperature)
    plain = generate(policy, tokens, batch, keys, temperature, 3)
    if temperature:
        assert len(set(plain.lengths.tolist())) > 2  # rows end at different steps, so rows are dropped on the way
        assert set(plain.row["finish"].tolist()) == {int(Finish.STOPPED), int(Finish.TRUNCATED)}
    for engine in (*FAST.values(), NativeEngine(PATHS["torch"])):
        assert_same(engine(policy, tokens, batch, keys, temperature, 3), plain, atol)


def test_transformers_engine_serves_other_architectures():
    policy, tokens = tiny("gpt2"), world()
    batch, keys = begin(tokens, 0.8)
    plain = generate(policy, tokens, batch, keys, 0.8, 0)
    assert_same(FAST["transformers"](policy, tokens, batch, keys, 0.8, 0), plain)


def test_every_fast_path_leaves_tokens_as_they_are():
    """Also behind contexts of different lengths, and where rows enter in the places of others."""
    policy, tokens = tiny("qwen3", num_key_value_heads=2), world(limit=24, eos=5)
    batch, keys = begin(tokens, 1.0, times=2)
    plain = generate(policy, tokens, batch, keys, 1.0, 0)
    assert int(plain.lengths.min()) < 6 < 20 < int(plain.lengths.max())
    for decoding in PATHS.values():
        assert_same(NativeEngine(decoding)(policy, tokens, batch, keys, 1.0, 0), plain)


@pytest.mark.parametrize("compiled", [True, False])
def test_capped_attention_as_transformers_has_it(compiled):
    """transformers' eager kernel caps scores (and rounds weights to float32); its sdpa kernel does not cap."""
    policy, tokens = tiny("gemma2", torch.float32, attn_implementation="eager", attn_logit_softcapping=0.5), world()
    batch, keys = begin(tokens, 0.8)
    engine = NativeEngine(Decoding(compiled=compiled))
    plain = generate(policy, tokens, batch, keys, 0.8, 0)
    assert_same(engine(policy, tokens, batch, keys, 0.8, 0), plain, 1e-5)
    policy.causal.config.attn_logit_softcapping = None
    for layer in policy.backbone.layers:
        layer.self_attn.attn_logit_softcapping = None
    free = generate(policy, tokens, batch, keys, 0.8, 0)
    assert (free.step["behaviour"][:, 0] - plain.step["behaviour"][:, 0]).abs().max() > 1e-3


def test_weights_of_lower_precision_say_what_they_sampled_with():
    """bfloat16 weights: other numbers than float32's, nearly; the same from kernels and from torch."""
    policy, tokens = tiny(dtype=torch.float32), world()
    batch, keys = begin(tokens, 1.0, times=9)
    low, slow = (NativeEngine(Decoding(weights=torch.bfloat16, compiled=c)) for c in (True, False))
    ours = low(policy, tokens, batch, keys, 1.0, 0)
    gap = (policy.score(ours).logp - ours.step["behaviour"])[ours.own].abs()
    assert 1e-4 < gap.max() < 0.1
    other = slow(policy, tokens, batch, keys, 1.0, 0)
    same = (ours.step["_token"][:, :3] == other.step["_token"][:, :3]).all(1)
    assert same.float().mean() > 0.9
    apart = (ours.step["behaviour"] - other.step["behaviour"])[same][:, :3]
    assert apart.abs().max() < 0.1


@pytest.mark.parametrize("model_type", NATIVE_TYPES)
def test_float32_log_probabilities_agree(model_type):
    policy, tokens = tiny(model_type, dtype=torch.float32), world()
    batch, keys = begin(tokens, 0.7)
    plain = generate(policy, tokens, batch, keys, 0.7, 0)
    for engine in FAST.values():
        assert_same(engine(policy, tokens, batch, keys, 0.7, 0), plain, atol=1e-5)


@pytest.mark.parametrize("name", FAST)
def test_trap_15_behaviour_is_what_score_says(name):
    policy, tokens = tiny(), world()
    batch = FAST[name](policy, tokens, *begin(tokens, 0.6), 0.6, 0)
    log_ratio = (policy.score(batch).logp - batch.step["behaviour"])[batch.own]
    assert log_ratio.abs().max() < 1e-10


@pytest.mark.parametrize("name", ["plain", *FAST])
def test_trap_17_the_reported_log_probability_is_the_sampled_tokens(name):
    """Hot rows whose sampled token is not the likeliest one report the token's own, lower, log-probability."""
    policy, tokens = tiny(), world()
    engine = {"plain": generate, **FAST}[name]
    batch = engine(policy, tokens, *begin(tokens, 3.0, times=9), 3.0, 0)
    dist = policy.score(batch, full=True).dist.logp
    unlikely = batch.own & (dist.argmax(-1) != batch.step["_token"])
    assert unlikely.sum() > 50
    taken = dist.gather(-1, batch.step["_token"][..., None])[..., 0]
    torch.testing.assert_close(batch.step["behaviour"][unlikely], taken[unlikely])
    assert (batch.step["behaviour"] < dist.amax(-1) - 1e-6)[unlikely].all()


@pytest.mark.parametrize("name", FAST)
def test_trap_33_a_row_does_not_depend_on_its_neighbours(name):
    policy, tokens = tiny(), world()
    batch, keys = begin(tokens, 0.9, times=2)
    together = FAST[name](policy, tokens, batch, keys, 0.9, 0)
    for row in range(0, len(batch), 3):
        alone = FAST[name](policy, tokens, batch[[row]], keys[[row]], 0.9, 0)
        assert_same(alone, together[[row]].cut(alone.steps))
        assert not together[[row]].valid[:, alone.steps :].any()


@pytest.mark.parametrize("name", FAST)
def test_rows_that_are_done_or_begun_are_respected(name):
    """Some rows are done, the others continue prefixes of different lengths, one with an inserted hint."""
    policy, tokens = tiny(), world()
    batch, keys = begin(tokens, 0.8)
    first = generate(policy, tokens, batch, keys, 0.8, 1)
    begun = tokens.rewind(first, torch.minimum(first.lengths - 1, torch.arange(len(batch)) % 4))
    kind = begun.step["kind"].clone()
    kind[2::7, 0] = torch.where(begun.valid[2::7, 0], int(StepKind.HINT), int(StepKind.PAD)).to(kind.dtype)
    mixed = concatenate([begun.with_steps({"kind": kind}), first[:5]])
    keys = torch.cat([keys, keys[:5]]) + 1
    plain = generate(policy, tokens, mixed, keys, 0.8, 2)
    assert plain.done.all()
    assert (plain.step["version"] == 2).any()
    ours = FAST[name](policy, tokens, mixed, keys, 0.8, 2)
    assert_same(ours, plain)
    again = FAST[name](policy, tokens, ours, keys, 0.8, 5)
    assert_same(again, ours, atol=0)


@pytest.mark.parametrize("name", FAST)
def test_rows_pause_and_go_on(name):
    """At most 3 tokens more: rows that are not done by then still run, and go on behind them."""
    policy, tokens = tiny(), world()
    batch, keys = begin(tokens, 0.8)
    paused = FAST[name](policy, tokens, batch, keys, 0.8, 1, steps=3)
    assert_same(paused, generate(policy, tokens, batch, keys, 0.8, 1, steps=3))
    assert paused.steps == 3
    assert (~paused.done).sum() > 2 < paused.done.sum()
    assert (paused.lengths[~paused.done] == 3).all()
    on = FAST[name](policy, tokens, paused, keys + 1, 0.8, 2)
    assert on.done.all()
    assert_same(on, generate(policy, tokens, paused, keys + 1, 0.8, 2))
    assert (on.step["version"][:, 3:][on.own[:, 3:]] == 2).all()


# -- no copy, nothing stale ----------------------------------------------------------------------------------------
@pytest.mark.parametrize("name", FAST)
@pytest.mark.parametrize("adapted", [False, True])
def test_trap_44_and_45_changed_weights_are_used_at_once(name, adapted):
    policy, tokens = tiny(), world()
    if adapted:
        policy = with_lora(policy, Lora(rank=3, alpha=6))
    batch, keys = begin(tokens, 0.8)
    before = FAST[name](policy, tokens, batch, keys, 0.8, 0)
    shake(policy, 0.2)
    after = FAST[name](policy, tokens, batch, keys, 0.8, 1)
    assert_same(after, generate(policy, tokens, batch, keys, 0.8, 1))
    assert not before.step["_token"][:, 0].equal(after.step["_token"][:, 0])


def test_trap_20_versions_and_behaviour_stay_the_samplers():
    policy, tokens = tiny(), world()
    batch = FAST["native"](policy, tokens, *begin(tokens, 1.0), 1.0, 41)
    behaviour = batch.step["behaviour"].clone()
    assert (batch.step["version"][batch.own] == 41).all()
    shake(policy, 0.2)
    assert (policy.score(batch).logp - behaviour)[batch.own].abs().max() > 0.1
    assert torch.equal(batch.step["behaviour"], behaviour)


def test_prompts_are_read_once_and_finished_rows_are_dropped(monkeypatch):
    from policyopt.engines.decoder import Decoder

    read, stepped = [], []
    enter, step = Decoder.enter, Decoder.step
    monkeypatch.setattr(Decoder, "enter", lambda self, token, *of: read.append(len(token)) or enter(self, token, *of))
    monkeypatch.setattr(Decoder, "step", lambda self, token: stepped.append(len(token)) or step(self, token))
    policy, tokens = tiny(), world(limit=12)
    batch, keys = begin(tokens, 1.0, times=20)
    done = FAST["native"](policy, tokens, batch, keys, 1.0, 0)
    assert read == [len(PROMPTS)]
    assert stepped == [int((done.lengths > t + 1).sum()) for t in range(done.steps - 1)]
    assert stepped[0] > 120 > 70 > stepped[-1]
    stepped.clear()
    NativeEngine(Decoding(slots=40))(policy, tokens, batch, keys, 1.0, 0)
    assert max(stepped) == 40  # rows that wait enter as soon as a quarter of the places is free
    assert sum(rows < 30 for rows in stepped) < 16


def test_generation_stops_when_every_row_has_ended():
    policy, tokens = tiny(), world(limit=9, eos=3)
    head = policy.causal.get_output_embeddings()
    head.weight = nn.Parameter(torch.zeros_like(head.weight))  # greedy takes token 0: never the end
    batch, keys = begin(tokens, 0.0)
    assert FAST["native"](policy, tokens, batch, keys, 0.0, 0).steps == 9
    assert FAST["native"](policy, world(limit=9, eos=0), batch, keys, 0.0, 0).steps == 1


# -- truncated sampling --------------------------------------------------------------------------------------------
CUTS = {"top_k": Truncation(top_k=3), "top_p": Truncation(top_p=0.8), "all": Truncation(8, 0.9, 0.05)}


@pytest.mark.parametrize("cut", CUTS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@torch.no_grad()
def test_trap_16_ratios_are_one_within_what_was_kept(cut, dtype):
    """In every engine: the policy scores what was sampled as the sampler did, and everything sampled was kept."""
    torch.set_default_dtype(dtype)
    policy, tokens = tiny(dtype=dtype), world(limit=12, eos=5)
    batch, keys = begin(tokens, 0.7)
    for engine in (generate, *FAST.values(), NativeEngine(PATHS["torch slots"])):
        done = engine(policy, tokens, truncated(batch, CUTS[cut]), keys, 0.7, 0)
        assert len(set(done.lengths.tolist())) > 2
        kept = kept_of(done, done.valid)
        assert kept is not None
        assert bool((kept.choice == done.step["_token"][done.valid][kept.of]).sum() == (kept.count > 0).sum())
        assert int(kept.count.max()) > 1
        ratio = (policy.score(done).logp - done.step["behaviour"]).exp()[done.valid]
        assert float((ratio - 1).abs().max()) < (1e-5 if dtype == torch.float32 else 1e-12)
        # Without the record, ratios would be the masses that were kept.
        whole = Batch(done.row, {name: column for name, column in done.step.items() if name != SPAN})
        mass = (policy.score(whole).logp - done.step["behaviour"]).exp()[done.valid]
        dist = policy.score(whole, full=True).dist.logp[done.valid].exp()
        torch.testing.assert_close(mass, torch.where(kept.left(VOCABULARY), dist, 0).sum(-1), rtol=1e-5, atol=0)
        assert float(mass.mean()) < 0.95


@pytest.mark.parametrize("cut", CUTS)
def test_truncated_rows_do_not_depend_on_their_neighbours(cut):
    policy, tokens = tiny("qwen3", num_key_value_heads=2), world(limit=24, eos=5)
    batch, keys = begin(tokens, 1.0, times=2)
    batch = truncated(batch, CUTS[cut])
    plain = generate(policy, tokens, batch, keys, 1.0, 0)
    for decoding in PATHS.values():
        assert_same(NativeEngine(decoding)(policy, tokens, batch, keys, 1.0, 0), plain)
    alone = [NativeEngine()(policy, tokens, batch[n : n + 2], keys[n : n + 2], 1.0, 0) for n in range(0, 14, 2)]
    assert_same(concatenate(alone), plain)


def test_a_truncation_that_cuts_nothing_off_changes_no_bit():
    policy, tokens = tiny(), world(limit=12)
    batch, keys = begin(tokens, 0.8)
    for engine in (generate, *FAST.values()):
        free = engine(policy, tokens, batch, keys, 0.8, 0)
        held = engine(policy, tokens, truncated(batch, Truncation(VOCABULARY, 1.0, 0.0)), keys, 0.8, 0)
        assert not bool(held.step[SPAN].any())
        for name, column in free.step.items():
            assert torch.equal(held.step[name], column), name
        assert torch.equal(policy.score(held).logp, policy.score(free).logp)


@torch.no_grad()
def test_truncated_rows_go_on_and_back():
    """In pieces, rewound, beside rows of data: the record stays that of each step."""
    policy, tokens = tiny(), world(limit=12, eos=5)
    batch, keys = begin(tokens, 1.0)
    batch = truncated(batch, Truncation(top_p=0.7))
    engine = NativeEngine()
    first = engine(policy, tokens, batch, keys, 1.0, 0, steps=4)
    again = engine(policy, tokens, tokens.rewind(first, torch.arange(len(first)) % 4), keys + 1, 1.0, 0, steps=3)
    whole = engine(policy, tokens, again, keys + 2, 1.0, 0)
    data = tokens.complete(tokens.tasks(torch.tensor([0, 3])), [[1, 2], [7, 8, 9, 3]])
    data = data.with_rows({"temperature": torch.ones(2)})
    both = concatenate([data, whole])[torch.tensor([3, 0, 9, 12, 1, 20])]
    assert not bool(both.step[SPAN][[1, 4]].any())
    sampled = both.own & ~both.step["behaviour"].isnan()
    gap = (policy.score(both).logp - both.step["behaviour"])[sampled]
    assert len(gap) > 20
    assert float(gap.abs().max()) < 1e-12
    torch.testing.assert_close(policy.score(both).logp[[1, 4], :5], policy.score(data).logp, rtol=0, atol=1e-12)


# -- refusals and choice -------------------------------------------------------------------------------------------
@pytest.mark.parametrize("name", FAST)
def test_weights_that_diverged_are_an_error(name):
    policy, tokens = tiny(), world()
    with torch.no_grad():
        next(policy.parameters()).fill_(torch.nan)
    with pytest.raises(NotFiniteError, match="nan or infinite"):
        FAST[name](policy, tokens, *begin(tokens, 1.0), 1.0, 0)


def test_engines_are_chosen_by_what_they_can_do():
    tokens = world()
    assert isinstance(engine_for(tiny(), tokens), NativeEngine)
    assert isinstance(engine_for(with_lora(tiny(), Lora(rank=2)), tokens, "native"), NativeEngine)
    assert isinstance(engine_for(tiny(), tokens, "transformers"), TransformersEngine)
    assert engine_for(tiny(), tokens, "plain") is generate
    with pytest.warns(SlowerEngineWarning, match="not 'gpt2'"):
        assert isinstance(engine_for(tiny("gpt2"), tokens), TransformersEngine)
    with pytest.raises(EngineError, match=r"not 'gpt2'; use engine=transformers"):
        engine_for(tiny("gpt2"), tokens, "native")
    hooked = tiny()
    hooked.backbone.layers[1].mlp.register_forward_hook(lambda module, given, out: 2 * out)
    with pytest.warns(SlowerEngineWarning, match=r"layers\.1\.mlp has hooks"):
        engine = engine_for(hooked, tokens)
    batch, keys = begin(tokens, 1.0)
    assert_same(engine(hooked, tokens, batch, keys, 1.0, 0), generate(hooked, tokens, batch, keys, 1.0, 0))
    stretched = tiny("llama", rope_parameters={"rope_type": "dynamic", "rope_theta": 1e4, "factor": 2.0})
    with pytest.raises(EngineError, match="'dynamic' positions change"):
        engine_for(stretched, tokens, "native")
    with pytest.raises(EngineError, match="engine is one of"):
        engine_for(tiny(), tokens, "fastest")


def test_a_recipe_says_how_the_native_engine_decodes():
    section = PolicySection(new=NewModel(), native={"slots": 4, "shared": False, "weights": "bfloat16"})
    assert engine_of(section, tiny(), world()).decoding == Decoding(slots=4, shared=False, weights=torch.bfloat16)
    assert engine_of(PolicySection(new=NewModel()), tiny(), world()).decoding == Decoding()
    with pytest.raises(ValueError, match=r"policy.native has no effect with engine=plain"):
        PolicySection(new=NewModel(), engine="plain", native={"slots": 4})


@pytest.mark.parametrize("low", [torch.float32, torch.bfloat16, torch.float64])
def test_compiled_maps_equal_matrix_products(low):
    """Every size of tile, with a bias, onto a residual, and where no panel fits."""
    dtype = torch.float64 if low == torch.float64 else torch.float32
    able = kernels(dtype, low)
    if able is None:
        pytest.skip("there is no C compiler here")
    rng = torch.Generator().manual_seed(3)
    weight = torch.randn(96, 20, generator=rng, dtype=dtype).to(low)
    packed, bias = able.packed(weight), torch.randn(96, generator=rng, dtype=dtype)
    assert able.packed(weight[:90]) is None
    if packed is None:
        pytest.skip("this processor has no products of bfloat16")
    atol = 1e-12 if low == torch.float64 else 1e-5
    for rows in (1, 3, 4, 12, 31):
        x = torch.randn(rows, 20, generator=rng, dtype=dtype).to(low)
        residual = torch.randn(rows, 96, generator=rng, dtype=dtype)
        expected = x.to(dtype) @ weight.to(dtype).t()
        close = partial(torch.testing.assert_close, rtol=0, atol=atol)
        close(able.linear(x, packed, residual, high=True), expected + residual)
        close(able.linear(x, packed, bias, high=True), expected + bias)
        rounded = (expected + bias).to(low)
        close(able.linear(x, packed, bias), rounded, atol=atol if low == dtype else 0.07)


def test_compiled_choice_inverts_the_cumulative_distribution():
    """softmax of (log 1, log 2, log 5) is (1/8, 2/8, 5/8): cumulative 0.125, 0.375, 1; squared at temperature 1/2."""
    able = kernels(torch.float64, torch.float64)
    if able is None:
        pytest.skip("there is no C compiler here")
    uniform = torch.tensor([0.0, 0.12, 0.13, 0.37, 0.38, 0.9999])
    logits = torch.tensor([1.0, 2.0, 5.0]).log().repeat(6, 1)
    token, logp = able.choose(logits.clone(), torch.ones(6), uniform)
    assert token.tolist() == [0, 0, 1, 1, 2, 2]
    torch.testing.assert_close(logp.exp(), torch.tensor([1, 1, 2, 2, 5, 5]) / 8)
    token, logp = able.choose(logits.clone(), torch.full((6,), 0.5), uniform)
    assert token.tolist() == [0, 1, 1, 2, 2, 2]
    torch.testing.assert_close(logp.exp(), torch.tensor([1, 4, 4, 25, 25, 25]) / 30)
    impossible = torch.tensor([[-torch.inf, 0.0, -torch.inf]]).repeat(6, 1)
    token, logp = able.choose(impossible, torch.ones(6), uniform)
    assert token.tolist() == [1] * 6
    assert logp.abs().max() == 0


def test_without_a_compiler_torch_decodes(monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setenv("CC", "/bin/false")
    kernels.cache_clear()
    library.cache_clear()
    policy, tokens = tiny(), world()
    batch, keys = begin(tokens, 0.8)
    try:
        with pytest.warns(CompilerWarning, match="without compiled kernels"):
            ours = NativeEngine()(policy, tokens, batch, keys, 0.8, 0)
    finally:
        kernels.cache_clear()
        library.cache_clear()
    assert_same(ours, generate(policy, tokens, batch, keys, 0.8, 0))


def test_other_policies_use_the_reference_engine():
    table, arms = Table(torch.zeros(1, 3)), bandit(torch.zeros(1, 3))
    assert engine_for(table, arms) is generate
    for name in FAST:
        with pytest.raises(EngineError, match=r"Table"):
            engine_for(table, arms, name)
        with pytest.raises(EngineError, match=r"Table.*use engine="):
            FAST[name](table, arms, None, None, 1.0, 0)
