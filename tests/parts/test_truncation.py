"""Top-k, top-p and min-p: what is kept, its record, and log-probabilities within it."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from policyopt import truncation
from policyopt.compose import Program, Stage
from policyopt.engines.plain import generate
from policyopt.methods import load
from policyopt.ops.kept import Kept, kept_of, remembered, truncated
from policyopt.options import OptionError, override
from policyopt.policies import kept_scores
from policyopt.policies.checkpoint import new_language
from policyopt.policies.kept_scores import score_kept
from policyopt.policies.tabular import Table
from policyopt.policies.token_scores import Projection, score_tokens
from policyopt.run import Run
from policyopt.sampling.samplers import DynamicSampling, Group
from policyopt.sampling.truncated import Truncated
from policyopt.train import rounds
from policyopt.truncation import CUT, KEPT, SPAN, Truncation, left_of
from policyopt.types import Batch, Tasks, concatenate, empty_batch
from policyopt.worlds.sequences import SequenceWorld
from support import numbers

HALVES = torch.tensor([[0.125, 0.5, 0.25, 0.0625, 0.0625]]).double().log()


def cut(logits: Tensor, how: Truncation, heat: float = 1.0) -> list[list[int]]:
    rows = torch.full((len(logits),), heat, dtype=logits.dtype)
    return [row.nonzero()[:, 0].tolist() for row in left_of(logits, rows, how.of_rows(logits))]


# -- what is kept ------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("how", "heat", "kept"),
    [
        (Truncation(top_k=1), 1.0, [1]),
        (Truncation(top_k=3), 1.0, [0, 1, 2]),
        (Truncation(top_k=4), 1.0, [0, 1, 2, 3]),  # of equals the lower id
        (Truncation(top_k=99), 1.0, [0, 1, 2, 3, 4]),
        (Truncation(top_p=0.01), 1.0, [1]),
        (Truncation(top_p=0.5), 1.0, [1]),  # reached exactly
        (Truncation(top_p=0.51), 1.0, [1, 2]),
        (Truncation(top_p=0.74), 1.0, [1, 2]),
        (Truncation(top_p=0.74), 2.0, [0, 1, 2]),  # flatter: roots are .29, .42 .. of 1.21
        (Truncation(min_p=0.24), 1.0, [0, 1, 2]),
        (Truncation(min_p=0.26), 1.0, [1, 2]),
        (Truncation(min_p=1.0), 1.0, [1]),
        # Of the two left by top-k, renormalised to 2/3 and 1/3, one has a mass of .6; of all it takes two.
        (Truncation(top_p=0.6), 1.0, [1, 2]),
        (Truncation(top_k=2, top_p=0.6), 1.0, [1]),
        (Truncation(top_k=3, top_p=0.99, min_p=0.4), 1.0, [1, 2]),
        (Truncation(), 1.0, [0, 1, 2, 3, 4]),
    ],
)
def test_by_hand(how, heat, kept):
    assert cut(HALVES, how, heat) == [kept]
    assert cut(HALVES.float(), how, heat) == [kept]


def reference(logits: list[float], how: Truncation, heat: float) -> list[int]:
    """One choice after another."""
    order = sorted(range(len(logits)), key=lambda v: (-logits[v], v))[: how.top_k]
    weight = [math.exp((logits[v] - logits[order[0]]) / heat) for v in order]
    total, before, kept = math.fsum(weight), 0.0, []
    for v, w in zip(order, weight, strict=True):
        if how.top_p < 1 and not before < how.top_p * total:
            break
        if w >= how.min_p:
            kept.append(v)
        before += w
    return sorted(kept)


@given(
    logits=st.lists(st.lists(st.integers(-4, 4), min_size=7, max_size=7), min_size=1, max_size=4),
    how=st.builds(
        Truncation,
        st.none() | st.integers(1, 9),
        st.sampled_from([1.0, 0.937, 0.611, 0.313, 1e-6]),
        st.sampled_from([0.0, 0.0173, 0.217, 1.0]),
    ),
    heat=st.sampled_from([0.37, 1.0, 2.1]),
    first=st.sampled_from([1, 2, 3, 1024]),
)
@settings(max_examples=60, deadline=None)
def test_against_a_loop_with_ties_and_however_few_are_sorted_at_first(logits, how, heat, first):
    rows = torch.tensor(logits).double() * 0.7
    before, truncation._SORTED = truncation._SORTED, first
    try:
        found = cut(rows, how, heat)
    finally:
        truncation._SORTED = before
    assert found == [reference(row.tolist(), how, heat) for row in rows]
    assert all(row.argmax() in kept for row, kept in zip(rows, found, strict=True))


def test_every_row_has_a_truncation_of_its_own_and_impossible_choices_are_never_kept():
    logits = torch.stack([HALVES[0], HALVES[0], torch.tensor([0.0, -math.inf, -1.0, -math.inf, -2.0]).double()])
    each = torch.tensor([[2.0, 1.0, 0.0], [0.0, 0.9, 0.0], [4.0, 1.0, 0.0]])
    found = left_of(logits, torch.ones(3).double(), each)
    assert [row.nonzero()[:, 0].tolist() for row in found] == [[1, 2], [0, 1, 2, 3], [0, 2, 4]]


# -- the record --------------------------------------------------------------------------------------------------------
def begun(rows: int, steps: int) -> Batch:
    batch = empty_batch(Tasks(torch.arange(rows)), {"_token": torch.zeros(rows, 0, dtype=torch.int64)})
    token = torch.zeros(rows, steps, dtype=torch.int64)
    return truncated(batch, Truncation(top_k=2)).append({"_token": token, "kind": torch.ones_like(token)})


@given(counts=st.lists(st.lists(st.integers(0, 4), min_size=3, max_size=3), min_size=2, max_size=4), data=st.data())
@settings(max_examples=30, deadline=None)
def test_what_is_remembered_is_read_again_wherever_rows_go(counts, data):
    """In any order of writing; after selecting, joining and going through a file's form."""
    rows = len(counts)
    sets = [[sorted(data.draw(st.sets(st.integers(0, 8), min_size=n, max_size=n))) for n in row] for row in counts]
    batch = begun(rows, 3)
    for steps in ([0], [1, 2]):
        places = data.draw(st.permutations([(r, t) for t in steps for r in range(rows)]))
        places = sorted(places, key=lambda place: place[1])
        flat = [sets[r][t] for r, t in places]
        kept = Kept(
            torch.tensor([len(ids) for ids in flat]),
            torch.tensor([v for ids in flat for v in ids], dtype=torch.int64),
            torch.tensor([n for n, ids in enumerate(flat) for _ in ids], dtype=torch.int64),
        )
        row, step = torch.tensor(places).unbind(1)
        batch = remembered(batch, row, step, kept)
    other = Batch({n: c for n, c in batch.row.items() if n not in (CUT, KEPT)}, dict(batch.step))
    del other.step[SPAN]  # type: ignore[attr-defined]
    order = torch.tensor(data.draw(st.permutations(range(rows))))
    moved = concatenate([other, batch[order]])
    found = kept_of(moved, moved.valid)
    wanted = [[], [], []] * rows + [sets[r][t] for r in order.tolist() for t in range(3)]
    if not any(wanted):
        assert found is None
        return
    assert found is not None
    assert [found.choice[found.of == n].tolist() for n in range(len(wanted))] == wanted
    assert found.count.tolist() == [len(ids) for ids in wanted]
    for size in (1, 4, 100):
        parts = found.split(size)
        again = Kept.joined(parts)
        assert all(torch.equal(a, b) for a, b in zip(vars(again).values(), vars(found).values(), strict=True))
        assert max(len(part) for part in parts) <= size
    assert torch.equal(Kept.where(found.left(9)).choice, found.choice)


# -- scores within it --------------------------------------------------------------------------------------------------
def case(seed: int = 0) -> tuple[Tensor, Projection, Tensor, Tensor, Tensor]:
    """States, a head, tokens, temperatures and masks of what was kept: all of it, one, some."""
    states, weight, bias = numbers(9, 4, seed=seed), numbers(6, 4, seed=seed + 1), numbers(6, seed=seed + 2)
    heat = torch.tensor([1.0, 0.5, 2.0]).double().repeat(3)
    left = numbers(9, 6, seed=seed + 3) > 0
    left[2], left[4] = True, False
    token = torch.tensor([0, 1, 2, 3, 4, 5, 0, 1, 2])
    left[torch.arange(9), token] = True
    return states, Projection(weight, bias, 3.0), token, heat, left


def by_loop(states: Tensor, head: Projection, token: Tensor, heat: Tensor, left: Tensor) -> tuple[Tensor, Tensor]:
    logps, entropies = [], []
    for state, v, t, mask in zip(states, token.tolist(), heat, left, strict=True):
        z = head(state) / t
        total = sum(z[u].exp() for u in mask.nonzero()[:, 0].tolist())
        p = {u: z[u].exp() / total for u in mask.nonzero()[:, 0].tolist()}
        logps.append(p[v].log())
        entropies.append(-sum(q * q.log() for q in p.values()))
    return torch.stack(logps), torch.stack(entropies)


@pytest.mark.parametrize("chunk", [1, 4, 9, 100])
@pytest.mark.parametrize("plain_head", [True, False])
def test_scores_and_gradients_against_a_loop(chunk, plain_head):
    states, head, token, heat, left = case()
    leaves = [states, head.weight, head.bias]
    for leaf in leaves:
        leaf.requires_grad_()
    weights = numbers(2, 9, seed=9)

    def slopes(found: tuple[Tensor, Tensor]) -> list[Tensor]:
        return list(torch.autograd.grad((weights[0] * found[0] + weights[1] * found[1]).sum(), leaves))

    asked = head if plain_head else (lambda x: head(x))
    found = score_kept(states, asked, token, heat, chunk, Kept.where(left))
    wanted = by_loop(states, head, token, heat, left)
    for ours, theirs in zip([*found, *slopes(found)], [*wanted, *slopes(wanted)], strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-12, atol=1e-12)
    # A single choice: nothing to say, nothing to learn.
    assert found[0][4] == 0
    assert found[1][4] == 0
    only = score_kept(states, asked, token, heat, chunk, Kept.where(left))
    assert not torch.autograd.grad(only[0][4] + only[1][4], states)[0].any()


def test_the_gradient_by_hand():
    """Logits 0, log 2 and log 5, of which the last was cut off: p = (1/3, 2/3), d log p_0 = (2/3, -2/3, 0)."""
    logits = torch.tensor([[1.0, 2.0, 5.0]]).double().log().requires_grad_()
    kept = Kept.where(torch.tensor([[True, True, False]]))
    logp, entropy = score_kept(logits, lambda x: x, torch.tensor([0]), torch.ones(1).double(), 9, kept)
    assert float(logp.detach()) == pytest.approx(math.log(1 / 3), abs=1e-15)
    assert float(entropy.detach()) == pytest.approx(math.log(3) - 2 / 3 * math.log(2), abs=1e-15)
    slope = torch.autograd.grad(logp.sum(), logits)[0]
    torch.testing.assert_close(slope, torch.tensor([[2.0, -2.0, 0.0]]).double() / 3, rtol=0, atol=1e-15)


def test_nothing_cut_off_is_the_plain_path_bitwise():
    states, head, token, heat, left = case()
    kept = Kept.where(torch.ones_like(left))
    assert not kept.count.any()
    for ours, theirs in zip(
        score_kept(states, head, token, heat, 4, kept), score_tokens(states, head, token, heat, 4), strict=True
    ):
        assert torch.equal(ours, theirs)


def test_no_more_logits_exist_at_a_time_than_asked_for():
    states, head, token, heat, left = case()
    seen = []

    def watched(x: Tensor) -> Tensor:
        seen.append(len(x))
        return head(x)

    logp, _ = score_kept(states.requires_grad_(), watched, token, heat, 2, Kept.where(left))
    logp.sum().backward()
    assert max(seen) == 2


def test_a_token_that_was_not_kept_is_an_error():
    states, head, token, heat, left = case()
    left[5, token[5]], left[5, 0] = False, True
    with pytest.raises(ValueError, match=r"1 of 7 were not kept: tokens and their record are of different rows"):
        score_kept(states, head, token, heat, 4, Kept.where(left))


def test_planted_a_denominator_over_all_choices_is_seen(monkeypatch):
    monkeypatch.setattr(kept_scores, "_within", lambda s, h, t, c, o, taken: score_tokens(s, h, c[taken], t, 99))
    with pytest.raises(AssertionError):
        test_scores_and_gradients_against_a_loop(9, True)
    with pytest.raises(AssertionError):
        test_the_gradient_by_hand()


def test_whole_distributions_are_over_what_was_kept():
    policy = new_language(7, "qwen2", hidden_size=16, layers=1, heads=2, seed=1, dtype=torch.float64)
    batch = (
        begun(2, 3).with_context(torch.tensor([[1, 2], [-1, 3]])).with_steps({"_token": torch.tensor([[1, 2, 3]] * 2)})
    )
    left = torch.ones(6, 7, dtype=torch.bool)
    left[1, 3:], left[4, [0, 5]], left[5] = False, False, torch.arange(7) == 3
    row, step = batch.valid.nonzero(as_tuple=True)
    order = step.argsort(stable=True)
    batch = remembered(batch, row[order], step[order], Kept.where(left[order]))
    whole, short = policy.score(batch, full=True), policy.score(batch)
    assert torch.equal(whole.dist.logp.isfinite().flatten(0, 1), left)
    torch.testing.assert_close(whole.logp, short.logp)
    torch.testing.assert_close(whole.entropy, short.entropy)
    assert float(short.logp.detach()[1, 2]) == 0
    (whole.entropy.sum() + whole.dist.kl(whole.dist.detach()).sum()).backward()
    assert all(p.grad is None or bool(p.grad.isfinite().all()) for p in policy.parameters())


# -- the option --------------------------------------------------------------------------------------------------------
def test_any_way_of_sampling_can_be_truncated_by_its_options():
    grpo = load("grpo")
    made = override(grpo, {"sampling.top_p": "0.9", "sampling.size": "4", "sampling.top_k": "20"})
    assert made.sampling == Truncated(Group(4), top_k=20, top_p=0.9)
    assert (made.sampling.size, made.sampling.temperature, made.sampling.data) == (4, 1.0, "")
    dapo = override(load("dapo"), {"sampling.min_p": 0.1})
    assert dapo.sampling == Truncated(DynamicSampling(), min_p=0.1)
    # What is inside is exchanged, whatever the order.
    for keys in (("sampling", "sampling.top_k"), ("sampling.top_k", "sampling")):
        values = {"sampling": "dynamic_sampling", "sampling.top_k": 5}
        changed = override(grpo, {key: values[key] for key in keys})
        assert changed.sampling == Truncated(DynamicSampling(8), top_k=5)
    assert override(grpo, {"sampling": {"part": "truncated", "top_k": 3}}).sampling == Truncated(Group(), 3)


@pytest.mark.parametrize(
    ("key", "changes", "message"),
    [
        ("grpo", {"sampling.top_k": 0}, "top_k must be at least 1, or none for all choices, not 0"),
        ("grpo", {"sampling.top_p": 1.5}, "top_p is the mass to keep, above 0 and at most 1"),
        ("grpo", {"sampling.min_p": -0.1}, r"min_p is relative to the most probable choice, in 0..1 .*, not -0.1"),
        ("grpo", {"sampling.top_q": 0.5}, "has no effect.*Did you mean"),
        ("dpo", {"sampling.top_p": 0.5}, "RecordedPairs has no temperature: leave them out"),
    ],
)
def test_wrong_truncations_are_refused(key, changes, message):
    with pytest.raises(OptionError, match=message):
        override(load(key), changes)


@pytest.mark.parametrize("key", ["grpo", "dapo"])
def test_trap_16_rounds_learn_within_what_was_kept(key):
    """Ratios begin at 1 and the KL at 0; the best of what is ever kept is found, and what never is keeps its weight."""

    def right(strings: Tensor, task: Tensor) -> Tensor:
        return (strings == 1).double().mean(1) + 9.0 * (strings == 4).double().sum(1)

    logits = torch.tensor([1.2, 1.0, 0.8, -1.0, -3.0]).double().repeat(6, 1)
    changes = {"selection.count": 3, "sampling.size": 8, "sampling.top_k": 3, "update.learning_rate": 0.1}
    run = Run({"policy": Table(logits)}, SequenceWorld(3, 5, 2, right), generate)
    method = override(load(key), changes)
    done = list(rounds(run, Program((Stage(method, 20),))))
    assert done[0].metrics["sampler_mismatch"] < 1e-6
    assert abs(done[0].metrics.get("kl/kl", 0.0)) < 1e-12
    assert done[-1].metrics["reward"] > done[0].metrics["reward"] + 0.2
    learnt: Tensor = run.models["policy"].logits.detach()  # type: ignore[assignment]
    assert torch.equal(learnt.argmax(1), torch.ones(6, dtype=torch.int64))
    # Its gradient is 0 but for rounding, which AdamW divides by its own size.
    torch.testing.assert_close(learnt[:, 4], logits[:, 4], rtol=0, atol=1e-6)
    assert not torch.equal(learnt[:, :3], logits[:, :3])


def test_a_policy_that_can_not_score_within_what_was_kept_is_refused():
    class Other:
        models = {"policy": Table(torch.zeros(1, 2)).logits}  # noqa: RUF012

    with pytest.raises(ValueError, match=r"model 'policy' is a Parameter: leave them out"):
        Truncated(Group(), top_k=1)(_Starts(Other()), lambda: Tasks(torch.arange(1)), lambda x: x)


class _Starts:
    """A context with a world that starts empty rows."""

    def __init__(self, inner):
        self.models, self.world = inner.models, self

    def start(self, tasks):
        return empty_batch(tasks)
