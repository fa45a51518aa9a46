"""Reading rows without padding, with shared prompts and with layers computed again equals the plain forward."""

from __future__ import annotations

import dataclasses
import importlib
import os
from collections.abc import Iterator

import pytest
import torch
from torch import nn
from torch.nn import functional
from torch.nn.attention import SDPBackend, sdpa_kernel

from policyopt.compiled.layers import layers
from policyopt.compose import frozen
from policyopt.policies.checkpoint import new_language
from policyopt.policies.language import Language
from policyopt.policies.packing import pack
from policyopt.policies.segments import layout_of
from policyopt.policies.token_scores import Projection, ScoringError, score_tokens
from policyopt.policies.trunk import PLAIN, Reading, can_pack
from policyopt.types import Batch
from policyopt.worlds.tokens import TokenWorld

VOCABULARY = 13
PROMPTS = [[3, 1, 4, 1, 5], [9], [2, 6, 5]]
OWNER = (0, 0, 0, 1, 1, 2, 0, 1, 2)
ANSWERS = [[6, 2, 0], [1, 0], [7, 7, 7, 11, 5, 9, 0], [0], [3, 10, 8, 2, 0], [4] * 9, [8, 0], [5], [12, 0]]
LENGTHS = torch.tensor([3, 2, 7, 1, 5, 9, 2, 0, 2])  # of one answer nothing was taken yet
WAYS = {
    "packed": Reading(share=False),
    "shared": Reading(),
    "shared, computed again": Reading(checkpointed=True),
    "by torch alone": Reading(compiled=False),
    "by torch alone, computed again": Reading(compiled=False, checkpointed=True),
    "plain, computed again": dataclasses.replace(PLAIN, checkpointed=True),
}


@pytest.fixture(autouse=True)
def double_precision(monkeypatch) -> Iterator[None]:
    """transformers takes these norms in float32, whatever the model's precision; here they are exact."""

    def norm(module, x):
        gemma = "eps" in vars(module)
        weight, epsilon = (1 + module.weight, module.eps) if gemma else (module.weight, module.variance_epsilon)
        return x / (x.square().mean(-1, keepdim=True) + epsilon).sqrt() * weight

    for name in ("Llama", "Mistral", "Qwen2", "Qwen3", "Gemma"):
        folder = importlib.import_module(f"transformers.models.{name.lower()}.modeling_{name.lower()}")
        monkeypatch.setattr(getattr(folder, f"{name}RMSNorm"), "forward", norm)
    monkeypatch.setattr("policyopt.policies.fused.STATES", (torch.float32, torch.float64))
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


def grouped() -> Batch:
    """Rows of three prompts in mixed order, of 0 to 9 steps, at two temperatures."""
    world = TokenWorld([PROMPTS[owner] for owner in OWNER], eos=0, limit=9, decode=str, recorded_answers=ANSWERS)
    batch = world.recorded(world.tasks(torch.arange(len(OWNER)))).rewound(LENGTHS)
    return batch.with_rows({"temperature": torch.linspace(0.6, 1.4, len(OWNER))})


def made(model_type: str, **config) -> Language:
    policy = new_language(
        VOCABULARY, model_type, hidden_size=32, layers=2, heads=4, seed=5, dtype=torch.float64, **config
    )
    rng = torch.Generator().manual_seed(8)
    with torch.no_grad():
        for parameter in policy.parameters():
            parameter.add_(torch.randn(parameter.shape, generator=rng) * 0.15)
    return policy


def weighed(policy: Language, batch: Batch) -> tuple[torch.Tensor, list[torch.Tensor]]:
    """Scores side by side, and the gradient of a weighted sum of them."""
    scores = policy.score(batch)
    both = torch.stack([scores.logp, scores.entropy])
    weight = torch.randn(both.shape, generator=torch.Generator().manual_seed(3))
    parameters = [parameter for parameter in policy.parameters() if parameter.requires_grad]
    return both.detach(), list(torch.autograd.grad((weight * both).sum(), parameters))


MODELS = [
    ("gpt_neox", {}),
    ("qwen2", {}),
    ("llama", {"num_key_value_heads": 2}),
    ("qwen3", {"num_key_value_heads": 2}),
    ("gemma", {}),
    ("mistral", {"sliding_window": 32}),
]


@pytest.mark.parametrize(("model_type", "config"), MODELS)
def test_trap_33_every_way_gives_the_plain_scores_and_gradients(model_type, config):
    policy, batch = made(model_type, **config), grouped()
    assert policy.reading == Reading()
    policy.reading = PLAIN
    plain, slopes = weighed(policy, batch)
    for name, way in WAYS.items():
        policy.reading = way
        ours, gradients = weighed(policy, batch)
        assert (ours - plain).abs().max() <= 1e-11, name
        for one, other in zip(gradients, slopes, strict=True):
            assert (one - other).abs().max() <= 1e-11 * slopes[0].abs().max(), name
    assert all(bool(slope.any()) for slope in slopes[:2])


@pytest.mark.parametrize("share", [True, False])
@pytest.mark.parametrize("compiled", [True, False])
def test_products_in_bfloat16_change_scores_and_gradients_by_rounding(monkeypatch, share, compiled):
    """torch's attention stays in float32 on processors."""
    policy, batch, seen = made("llama", num_key_value_heads=2).float(), grouped(), set()
    batch = batch.with_rows({"temperature": batch.row["temperature"].float()})
    exact, slopes = weighed(policy, batch)
    attend = functional.scaled_dot_product_attention

    def noted(query, *args, **kwargs):
        seen.add(query.dtype)
        return attend(query, *args, **kwargs)

    monkeypatch.setattr(functional, "scaled_dot_product_attention", noted)
    policy.reading = Reading(share=share, autocast=torch.bfloat16, compiled=compiled)
    found, gradients = weighed(policy, batch)
    by_kernels = compiled and layers(torch.float32, torch.bfloat16) is not None
    assert seen == (set() if by_kernels else {torch.float32})
    assert 0 < float((found - exact).abs().max()) < 0.1
    one, other = (torch.cat([part.flatten() for part in parts]).double() for parts in (gradients, slopes))
    assert float((one - other).norm() / other.norm()) < 0.03


def test_kernels_stand_in_for_layers_while_rows_are_read_only():
    policy = made("llama")
    scores = policy.score(grouped()).logp
    assert scores.requires_grad
    assert not any("forward" in vars(module) for module in policy.backbone.modules())
    policy.reading = Reading(checkpointed=True)
    policy.score(grouped())
    assert not any("forward" in vars(module) for module in policy.backbone.modules())


@pytest.mark.parametrize(
    "name", ["input_layernorm", "self_attn", "post_attention_layernorm", "mlp", "mlp.act_fn", "mlp.up_proj", "", "norm"]
)
@pytest.mark.parametrize("how", ["hook", "forward"])
def test_whatever_is_done_to_a_module_of_a_layer_is_done_by_every_way(name, how):
    """Kernels do the work of modules that are as they were made only."""
    policy, batch, calls = made("llama"), grouped(), []
    module = policy.backbone.norm if name == "norm" else policy.backbone.layers[1].get_submodule(name)

    def changed(module, given, out):
        calls.append(name)
        return (1.5 * out[0], *out[1:]) if isinstance(out, tuple) else 1.5 * out

    if how == "hook":
        module.register_forward_hook(changed)
    else:
        plain = module.forward
        module.forward = lambda *args, **kwargs: changed(module, args, plain(*args, **kwargs))
    ours, gradients = weighed(policy, batch)
    assert len(calls) == 1
    policy.reading = PLAIN
    expected, slopes = weighed(policy, batch)
    torch.testing.assert_close(ours, expected, rtol=0, atol=1e-11)
    torch.testing.assert_close(gradients, slopes, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize(
    ("name", "other"),
    [
        ("mlp.act_fn", nn.GELU()),
        ("input_layernorm", nn.RMSNorm(32, dtype=torch.float64)),
        ("post_attention_layernorm", nn.LayerNorm(32, dtype=torch.float64)),
    ],
)
def test_another_module_in_a_layer_is_used_by_every_way(name, other):
    policy, batch = made("llama"), grouped()
    before = policy.score(batch).logp.detach()
    policy.backbone.layers[0].set_submodule(name, other)
    ours, gradients = weighed(policy, batch)
    assert (ours[0] - before).abs().max() > 1e-3
    policy.reading = PLAIN
    expected, slopes = weighed(policy, batch)
    torch.testing.assert_close(ours, expected, rtol=0, atol=1e-11)
    torch.testing.assert_close(gradients, slopes, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("model_type", ["llama", "gemma"])
def test_a_gradient_by_kernels_can_be_differentiated(model_type):
    """The product of the Hessian of a score with a vector."""
    policy, batch = made(model_type, num_key_value_heads=2), grouped()
    parameters = list(policy.parameters())
    found = []
    with sdpa_kernel(SDPBackend.MATH):
        for compiled in (True, False):
            policy.reading = Reading(compiled=compiled)
            logp = policy.score(batch).logp
            slopes = torch.autograd.grad(
                (logp * torch.linspace(-1, 1, logp.shape[1])).sum(), parameters, create_graph=True
            )
            along = torch.stack([(slope * slope.detach().cos()).sum() for slope in slopes]).sum()
            found.append(torch.autograd.grad(along, parameters, materialize_grads=True))
    for one, other in zip(*found, strict=True):
        assert (one - other).abs().max() <= 1e-11 * found[1][0].abs().max()
    assert all(bool(part.any()) for part in found[0][:2])


def test_values_and_hidden_states_are_the_plain_ones():
    policy, batch = made("gpt_neox"), grouped()
    critic = policy.make_critic(torch.Generator())
    nn.init.normal_(critic.head.weight, generator=torch.Generator().manual_seed(1))
    values, hidden, following = critic.value(batch), policy.hidden(batch), policy.next(batch).logp
    policy.reading = critic.reading = PLAIN
    torch.testing.assert_close(values, critic.value(batch), rtol=0, atol=1e-11)
    torch.testing.assert_close(hidden, policy.hidden(batch), rtol=0, atol=1e-11)
    torch.testing.assert_close(following, policy.next(batch).logp, rtol=0, atol=1e-11)


@pytest.mark.parametrize("reading", [Reading(), Reading(share=False)])
def test_trap_33_no_gradient_crosses_rows(reading):
    policy, batch = made("llama", tie_word_embeddings=False), grouped()
    policy.reading = reading
    layout = layout_of(pack(batch), share=reading.share)
    seen = []
    hook = policy.causal.get_input_embeddings().register_forward_hook(lambda m, i, out: seen.append(out))
    logp = policy.score(batch).logp
    hook.remove()
    for row, owner in enumerate(OWNER):
        if LENGTHS[row] == 0:
            continue
        (slope,) = torch.autograd.grad(logp[row].sum(), seen, retain_graph=True)
        read = torch.zeros(len(layout.tokens), dtype=torch.bool)
        read[layout.index[row, : len(PROMPTS[owner]) + int(LENGTHS[row]) - 1]] = True
        assert (slope[0].abs().sum(-1) > 0).equal(read)


def test_shared_prompts_are_read_once_and_last_steps_not_at_all():
    packed = pack(grouped())
    read = sum(max(0, int(length) - 1) for length in LENGTHS)
    assert len(layout_of(packed).tokens) == read + sum(map(len, PROMPTS))
    apart = layout_of(packed, share=False)
    assert len(apart.tokens) == read + sum(len(PROMPTS[owner]) for owner in OWNER)
    assert len(layout_of(packed, tail=True, share=False).tokens) == int(LENGTHS.sum()) + len(apart.tokens) - read
    for layout in (layout_of(packed), apart):
        for row, owner in enumerate(OWNER):
            text = torch.tensor([*PROMPTS[owner], *ANSWERS[row][: max(0, int(LENGTHS[row]) - 1)]])
            at = layout.index[row, : len(text)]
            assert layout.tokens[at].equal(text)
            assert layout.positions[at].equal(torch.arange(len(text)))


def test_long_rows_are_divided_among_segments(monkeypatch):
    monkeypatch.setattr("policyopt.policies.segments.TOKENS", 4)
    policy, batch = made("gpt_neox"), grouped()
    assert len(layout_of(pack(batch)).segments) > 3
    ours, gradients = weighed(policy, batch)
    monkeypatch.setattr("policyopt.policies.segments.MASK", 1)
    assert len(layout_of(pack(batch)).segments) == 1 + int((LENGTHS > 1).sum())
    again, slopes = weighed(policy, batch)
    torch.testing.assert_close(ours, again, rtol=0, atol=1e-11)
    torch.testing.assert_close(gradients, slopes, rtol=0, atol=1e-9)


@pytest.mark.parametrize(
    ("model_type", "config"), [("gemma2", {}), ("mistral", {"sliding_window": 4}), ("llama", {"rope_type": "dynamic"})]
)
def test_architectures_that_attend_otherwise_are_read_plainly(model_type, config):
    if "rope_type" in config:
        config = {"rope_parameters": {"rope_type": "dynamic", "rope_theta": 1e4, "factor": 2.0}}
    policy, batch = made(model_type, **config), grouped()
    width = int(pack(batch).last.max()) + 1
    assert not can_pack(policy.backbone, width)
    scores = policy.score(batch).logp
    policy.reading = PLAIN
    torch.testing.assert_close(scores, policy.score(batch).logp, rtol=0, atol=0)


def test_adapters_learn_alike():
    from policyopt.policies.checkpoint import Lora, with_lora

    policy = with_lora(made("llama"), Lora(rank=2))
    with torch.no_grad():
        for name, parameter in policy.named_parameters():
            if "lora_B" in name:
                parameter.normal_(generator=torch.Generator().manual_seed(2))
    assert policy.reading.packed
    ours, gradients = weighed(policy, grouped())
    policy.reading = PLAIN
    plain, slopes = weighed(policy, grouped())
    torch.testing.assert_close(ours, plain, rtol=0, atol=1e-11)
    torch.testing.assert_close(gradients, slopes, rtol=1e-9, atol=1e-9)


# -- logits ------------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("cap", [None, 2.0])
@pytest.mark.parametrize("biased", [False, True])
def test_trap_28_chunks_of_logits_have_the_plain_gradient_twice(cap, biased):
    rng = torch.Generator().manual_seed(0)
    states, weight, bias = (torch.randn(*shape, generator=rng) for shape in ((10, 6), (11, 6), (11,)))
    inputs = [x.requires_grad_() for x in ((states, weight, bias) if biased else (states, weight))]
    token, temperature = torch.arange(10), torch.linspace(0.5, 1.5, 10)
    by = torch.linspace(-1, 1, 10)

    def all_of(chunk: int) -> list[torch.Tensor]:
        head = Projection(weight, bias if biased else None, cap)
        found = []
        for use_logp, use_entropy in ((1, 0), (0, 1), (1, 1)):
            logp, entropy = score_tokens(states, head, token, temperature, chunk)
            total = use_logp * (by * logp).sum() + use_entropy * (by.flip(0) * entropy).sum()
            first = torch.autograd.grad(total, inputs, retain_graph=True)
            graphed = torch.autograd.grad(total, inputs, create_graph=True)
            second = torch.autograd.grad(sum((x**2).sum() for x in graphed), inputs)
            found += [logp, entropy, *first, *graphed, *second]
        return found

    whole = all_of(100)
    for chunk in (1, 7):
        torch.testing.assert_close(all_of(chunk), whole, rtol=0, atol=1e-12)


def test_choices_without_probability_add_nothing_to_the_entropy():
    weight = torch.tensor([[1.0], [2.0], [-torch.inf]])
    states = torch.ones(4, 1, requires_grad=True)
    logp, entropy = score_tokens(states, Projection(weight), torch.zeros(4, dtype=torch.int64), torch.ones(4), 2)
    two = torch.tensor([1.0, 2.0]).log_softmax(0)
    torch.testing.assert_close(logp.detach(), two[:1].expand(4))
    torch.testing.assert_close(entropy.detach(), -(two.exp() * two).sum().expand(4))


def test_choices_without_probability_have_no_gradient_however_strong_the_incoming_one():
    bias = torch.tensor([1.0, 2.0, -torch.inf])
    inputs = [torch.ones(4, 1, requires_grad=True), torch.ones(3, 1, requires_grad=True), bias.requires_grad_()]
    token, found = torch.zeros(4, dtype=torch.int64), []
    for chunk in (2, 4):
        logp, entropy = score_tokens(inputs[0], Projection(inputs[1], inputs[2]), token, torch.ones(4), chunk)
        found.append(torch.autograd.grad((logp + 8 * entropy).sum(), inputs))
    torch.testing.assert_close(*found)
    assert found[0][2][2] == 0
    assert all(bool(slope.isfinite().all()) for slope in found[0])


def test_a_recipe_says_how_rows_are_read():
    from policyopt.recipe.language.kind import make_policy
    from policyopt.recipe.language.sections import PolicySection
    from policyopt.worlds.tasks import Entry

    new = {"model_type": "llama", "hidden_size": 16, "layers": 1, "heads": 2, "positions": 16}
    reading = {"share": False, "checkpointed": True, "autocast": "bfloat16", "compiled": False}
    section = PolicySection.model_validate({"new": new, "reading": reading})
    policy, _ = make_policy(section, [Entry("ab", None, "c")], seed=0)
    assert policy.reading == Reading(share=False, checkpointed=True, autocast=torch.bfloat16, compiled=False)
    assert frozen(policy).reading == policy.reading
    assert policy.make_critic(torch.Generator()).reading == policy.reading


@pytest.mark.skipif(os.environ.get("TRITON_INTERPRET") == "1", reason="kernels run here")
def test_a_recipe_that_asks_for_kernels_where_they_can_not_run_is_told_so_at_once():
    from policyopt.recipe.language.kind import make_policy
    from policyopt.recipe.language.sections import PolicySection

    section = PolicySection.model_validate({"model": "none", "device": "cpu", "reading": {"scoring": "triton"}})
    with pytest.raises(ScoringError, match=r"use reading.scoring=torch"):
        make_policy(section, [], seed=0)
