"""Triton's kernels of scores equal torch's, in values and gradients.

They run on a CUDA device, or in Triton's interpreter: TRITON_INTERPRET=1 pytest tests/parts/test_triton_scores.py.
Without either, the first test runs the others so, in a process of their own, because Triton reads that variable once.
"""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from policyopt.policies.token_scores import Projection, ScoringError, score_tokens, scorer

INTERPRETED = os.environ.get("TRITON_INTERPRET") == "1"
DEVICE = "cpu" if INTERPRETED else "cuda"
installed = pytest.mark.skipif(importlib.util.find_spec("triton") is None, reason="needs triton")
runs = pytest.mark.skipif(not (INTERPRETED or torch.cuda.is_available()), reason="runs in the interpreter, or on a GPU")
# The interpreter computes lanes that are then not chosen.
quiet = pytest.mark.filterwarnings("ignore:(invalid value|overflow) encountered:RuntimeWarning")
COUNT, SIZE = 37, 20


@installed
@pytest.mark.skipif(INTERPRETED or torch.cuda.is_available(), reason="the others run here")
def test_the_interpreter_finds_kernels_right():
    command = [sys.executable, "-m", "pytest", "-q", "-n", "0", "-p", "no:cacheprovider", __file__]
    environment = {**os.environ, "TRITON_INTERPRET": "1"}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, cwd=Path(__file__).parents[2])
    assert done.returncode == 0, done.stdout[-4000:]
    assert "passed" in done.stdout


def drawn(vocabulary: int, *, biased: bool = True, dtype: torch.dtype = torch.float32) -> dict[str, torch.Tensor]:
    rng = torch.Generator().manual_seed(vocabulary)
    made = {
        "states": torch.randn(COUNT, SIZE, generator=rng).to(dtype),
        "weight": (0.7 * torch.randn(vocabulary, SIZE, generator=rng)).to(dtype),
        "bias": torch.randn(vocabulary, generator=rng).to(dtype),
        "token": torch.randint(vocabulary, (COUNT,), generator=rng),
        "heat": torch.linspace(0.5, 1.5, COUNT),
        "by": 3 * torch.randn(2, COUNT, generator=rng),
    }
    made["token"][:2] = torch.tensor([0, vocabulary - 1])
    if not biased:
        del made["bias"]
    return {name: value.to(DEVICE) for name, value in made.items()}


def outcome(score, given: dict[str, torch.Tensor], cap: float | None = None, chunk: int = 7) -> list[torch.Tensor]:
    """Scores, and gradients of weighted sums of them: of either and of both."""
    inputs = [given[name].clone().requires_grad_() for name in ("states", "weight", "bias") if name in given]
    head = Projection(inputs[1], inputs[2] if "bias" in given else None, cap)
    logp, entropy = score(inputs[0], head, given["token"], given["heat"], chunk)
    found = [logp.detach(), entropy.detach()]
    for used in ([1, 0], [0, 1], [1, 1]):
        parts = zip(used, given["by"], (logp, entropy), strict=True)
        total = sum((by * part).sum() for on, by, part in parts if on)
        found += torch.autograd.grad(total, inputs, retain_graph=True)
    return found


def alike(found: list[torch.Tensor], known: list[torch.Tensor], bound: float = 2e-5) -> None:
    assert len(found) == len(known)
    for one, other in zip(found, known, strict=True):
        assert one.dtype == other.dtype
        assert float((one - other).abs().max()) <= bound * max(1.0, float(other.abs().max()))


def small(monkeypatch, *, span: int = 32, columns: int = 32):
    """Tiles of 16, several of them in everything, and gradients for `columns` of the vocabulary at a time."""
    from policyopt.policies import triton_scores

    monkeypatch.setattr(triton_scores, "BYTES", COUNT * columns * 4)
    tiles = triton_scores.Tiles(16, 16, 16, warps=4, span=span)
    return lambda *args: triton_scores.tiled(*args, tiles)


@installed
@runs
@quiet
@pytest.mark.parametrize(
    ("vocabulary", "biased", "cap"),
    [(75, True, None), (16, False, None), (5, True, None), (96, False, 2.0), (75, True, 2.0), (33, False, None)],
)
def test_trap_28_values_and_gradients_are_those_of_torch(monkeypatch, vocabulary, biased, cap):
    given = drawn(vocabulary, biased=biased)
    alike(outcome(small(monkeypatch), given, cap), outcome(score_tokens, given, cap))


@installed
@runs
@quiet
def test_the_reference_in_double_precision_agrees(monkeypatch):
    given = drawn(75)
    known = outcome(score_tokens, {name: x.double() if x.is_floating_point() else x for name, x in given.items()})
    alike(outcome(small(monkeypatch), given), [x.float() for x in known])


@installed
@runs
@quiet
@pytest.mark.parametrize(
    ("dtype", "cap", "bound"), [(torch.float32, None, 2e-5), (torch.bfloat16, None, 0.01), (torch.bfloat16, 2.0, 0.01)]
)
def test_the_tiles_that_are_used_give_the_same(monkeypatch, dtype, cap, bound):
    from policyopt.policies import triton_scores

    given = drawn(75, dtype=dtype)
    found, known = outcome(triton_scores.score_tokens, given, cap), outcome(small(monkeypatch), given, cap)
    alike(found[:2], known[:2])
    alike(found, known, bound)


@installed
@runs
@quiet
@pytest.mark.parametrize("start", [0, 32, 64])  # of the span in which nothing can be chosen, the first one too
def test_choices_without_probability_add_nothing(monkeypatch, start):
    given = drawn(75)
    given["bias"][start : start + 32] = given["bias"][5] = -torch.inf
    given["token"] = 40 * torch.ones_like(given["token"]) if start == 0 else given["token"] % 5
    if start == 32:
        given["token"][3] = 33  # impossible: the least log-probability, and a gradient
    found = outcome(small(monkeypatch), given)
    alike(found, outcome(score_tokens, given))
    assert all(bool(x.isfinite().all()) for x in found)


@installed
@runs
@quiet
def test_large_logits_neither_overflow_nor_lose_the_entropy(monkeypatch):
    given = drawn(75)
    given["bias"] += torch.linspace(-150, 150, 75, device=DEVICE)
    # Logits of 150 over a temperature of 0.5 are rounded by 3e-5.
    alike(outcome(small(monkeypatch), given), outcome(score_tokens, given), bound=2e-4)


@installed
@runs
@quiet
def test_low_precision_has_exact_logits_and_gradients_within_its_rounding(monkeypatch):
    given = drawn(75, dtype=torch.bfloat16)
    found, known = outcome(small(monkeypatch), given), outcome(score_tokens, given)
    alike(found[:2], known[:2])
    alike(found, known, bound=0.01)
    given["weight"] = given["weight"].float()  # of two precisions: computed in the wider one
    alike(outcome(small(monkeypatch), given)[:2], outcome(score_tokens, given)[:2])


@installed
@runs
@quiet
def test_the_gradient_has_a_gradient(monkeypatch):
    given = drawn(33)

    def second(score) -> list[torch.Tensor]:
        inputs = [given[name].clone().requires_grad_() for name in ("states", "weight", "bias")]
        logp, entropy = score(inputs[0].T.contiguous().T, Projection(*inputs[1:]), given["token"], given["heat"], 7)
        total = (given["by"][0] * logp).sum() + entropy.sum()  # the latter's incoming gradient has no strides
        first = torch.autograd.grad(total, inputs, create_graph=True)
        return list(torch.autograd.grad(sum((x**2).sum() for x in first), inputs))

    alike(second(small(monkeypatch)), second(score_tokens), bound=1e-4)


@installed
@runs
@quiet
def test_a_part_of_the_inputs_learns(monkeypatch):
    given, score = drawn(75), small(monkeypatch)
    for held in range(3):
        inputs = [given[name].clone() for name in ("states", "weight", "bias")]
        inputs[held].requires_grad_()
        logp, _ = score(inputs[0], Projection(*inputs[1:]), given["token"], given["heat"], 7)
        (slope,) = torch.autograd.grad(logp @ given["by"][0], inputs[held])
        alike([slope], [outcome(score_tokens, given)[2 + held]])


@installed
@runs
@quiet
def test_a_language_policy_is_scored_alike_and_says_what_it_can_not():
    from policyopt.policies.checkpoint import new_language
    from policyopt.worlds.tokens import TokenWorld

    policy = new_language(13, "llama", hidden_size=32, layers=1, heads=2, seed=1).to(DEVICE)
    world = TokenWorld([[3, 1], [4]], eos=0, limit=9, decode=str, recorded_answers=[[6, 2, 0], [1, 0]])
    batch = world.recorded(world.tasks(torch.arange(2))).to(DEVICE)
    known = policy.score(batch)
    policy.reading = replace(policy.reading, scoring="triton")
    found = policy.score(batch)
    for one, other in ((found.logp, known.logp), (found.entropy, known.entropy)):
        alike([one.detach()], [other.detach()])
    with pytest.raises(ScoringError, match=r"float32, states are torch.float64 .* use reading.scoring=torch"):
        policy.double().score(batch)
    with pytest.raises(ScoringError, match="linear head"):
        scorer("triton", torch.device(DEVICE))(torch.zeros(1, 1), lambda x: x, torch.zeros(1), torch.ones(1), 1)
    nothing = torch.zeros(0, SIZE, device=DEVICE)
    empty = torch.zeros(0, dtype=torch.int64, device=DEVICE)
    head = Projection(torch.zeros(3, SIZE, device=DEVICE))
    assert [len(x) for x in scorer("triton", torch.device(DEVICE))(nothing, head, empty, empty.float(), 1)] == [0, 0]


@installed
@runs
def test_unknown_tokens_are_an_error(monkeypatch):
    given = drawn(5)
    given["token"][9] = 5
    with pytest.raises(IndexError, match="0 to 4 for this model, these are 0 to 5"):
        outcome(small(monkeypatch), given)


COMPILED = """
import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource
from policyopt.policies import triton_scores as made

given = {"ROWS": made.LOW.tokens, "COLUMNS": made.LOW.vocabulary, "WIDTH": made.LOW.width, "LOW": True}
given |= {"FLOAT32": "ieee", "bias": None, "cap": None}
kinds = dict.fromkeys(("states", "weight", "slopes"), "*bf16") | {"token": "*i64"}
kinds |= dict.fromkeys(("count", "size", "vocabulary", "span", "begin", "width"), "i32")
for kernel in (made._sums, made._slopes):
    names = kernel.arg_names
    signature = {name: "constexpr" if name in given else kinds.get(name, "*fp32") for name in names}
    constants = {(names.index(name),): value for name, value in given.items()}
    aligned = {(at,): [["tt.divisibility", 16]] for at, name in enumerate(names) if name not in given}
    source = ASTSource(fn=kernel, signature=signature, constexprs=constants, attrs=aligned)
    options = {"num_warps": made.LOW.warps, "num_stages": 3}
    made_of = triton.compile(source, target=GPUTarget("cuda", 90, 32), options=options)
    assert "wgmma.mma_async" in made_of.asm["ptx"] and made_of.metadata.shared <= 227 << 10
    print("compiled")
"""


@installed
def test_kernels_compile_for_hopper_onto_its_tensor_cores(tmp_path):
    environment = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
    environment["TRITON_CACHE_DIR"] = str(tmp_path)
    done = subprocess.run([sys.executable, "-c", COMPILED], env=environment, capture_output=True, text=True)
    assert done.stdout.split() == ["compiled", "compiled"], done.stderr[-4000:]


# -- where they can not run --------------------------------------------------------------------------------------------
def test_without_triton_the_error_says_where_it_comes_from(monkeypatch):
    for name in [name for name in sys.modules if name.split(".")[0] == "triton" or name.endswith("triton_scores")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "triton", None)
    monkeypatch.delattr("policyopt.policies.triton_scores", raising=False)
    with pytest.raises(ScoringError, match=r"scoring=triton needs Triton, which is not installed.*scoring=torch"):
        scorer("triton", torch.device("cpu"))


@installed
def test_a_device_without_kernels_is_an_error():
    other = "cuda" if INTERPRETED else "cpu"
    with pytest.raises(ScoringError, match=rf"run on CUDA devices, .* is on {other}; use reading.scoring=torch"):
        scorer("triton", torch.device(other))
