"""Traps 38, 46 and 49: the reference stays, random streams, metrics that do not lie."""

import math
from dataclasses import replace

import pytest
import torch

import cases
from cases import CASES
from policyopt.compose import Program, Stage, Term
from policyopt.engines.plain import generate
from policyopt.methods import load
from policyopt.objective.surrogates import ClippedSurrogate
from policyopt.ops.random import derive, generator, new_keys, uniforms
from policyopt.policies.tabular import Table
from policyopt.reward.parts import Verified
from policyopt.run import Meter, Run
from policyopt.sampling.samplers import attempt
from policyopt.train import _measure, rounds
from policyopt.types import Categorical, Finish, Gaussian, Scores
from policyopt.update.averaging import TokenMean
from policyopt.update.gradient import GradientSteps
from policyopt.update.optimizers import SGD, AdamW
from policyopt.worlds.sequences import PairedWorld, SequenceWorld
from support import close, context, full_step, grids, method, numbers, per_row, ragged, widened, with_row

pytestmark = pytest.mark.usefixtures("float64")


def word_world() -> SequenceWorld:
    """Four tasks, three symbols, three steps; the reward is the share of right symbols."""
    target = torch.tensor([[0, 1, 2], [2, 2, 1], [1, 0, 0], [0, 0, 2]])
    return SequenceWorld(
        4,
        3,
        3,
        lambda strings, task: (strings == target[task]).double().mean(1),
        pairs=torch.stack([target, (target + 1) % 3], 1),
        pair_tasks=torch.arange(4),
    )


def quick(key: str, **changes: object) -> object:
    """A published method with a fast optimiser."""
    made = load(key)
    update = replace(made.update, optimizers={n: AdamW(learning_rate=0.1) for n in made.update.optimizers})
    return replace(made, update=update, **changes)


# -- 38 ---------------------------------------------------------------------------------------------------------
def test_trap_38_the_reference_is_bitwise_unchanged() -> None:
    """After 10 updates of methods that read a reference, while the policy moves."""
    for key in ("grpo", "dpo", "ppo", "rloo"):
        made = quick(key)
        inner = word_world()
        start = numbers(12, 3, seed=5)
        run = Run({"policy": Table(start)}, PairedWorld(inner) if key == "dpo" else inner, generate)
        tasks = torch.arange(4)
        rows = inner.complete(inner.tasks(tasks), inner.pairs[:, 0])
        for _ in rounds(run, Program((Stage(made, 10),))):
            reference = run.models["reference"]
            assert torch.equal(reference.logits, start), key
            assert not reference.logits.requires_grad
            assert torch.equal(reference.score(rows).logp, Table(start).score(rows).logp)
        assert run.updates >= 10
        assert float((run.models["policy"].logits.detach() - start).abs().max()) > 0.1, key


def test_trap_38_a_step_moves_its_own_model_only() -> None:
    """Policy, critic and every frozen model: only the trained one changes."""
    for trains in ("policy", "critic"):
        case = CASES["clipped" if trains == "policy" else "value"]
        models = grids()
        before = {n: {k: p.detach().clone() for k, p in m.named_parameters()} for n, m in models.items()}
        update = GradientSteps({trains: SGD(0.5)})
        ctx = context(method(case.term(), update=update), models)
        update(ctx, cases.rich())
        for name, model in models.items():
            changed = any(not torch.equal(p, before[name][k]) for k, p in model.named_parameters())
            assert changed == (name == trains), f"{name} while training {trains}"


# -- 46 ---------------------------------------------------------------------------------------------------------
def test_trap_46_streams_are_functions_of_their_key() -> None:
    keys = new_keys(4, generator(0, "a"))
    first = uniforms(keys, 3, 2)
    assert torch.equal(first, uniforms(keys, 3, 2)), "same key, same numbers"
    assert torch.equal(first[2:3], uniforms(keys[2:3], 3, 2)), "neighbours do not matter"
    assert torch.equal(first, uniforms(keys, torch.full((4,), 3), 2)), "positions per row"
    assert len(set(first.flatten().tolist())) == 8, "keys and columns differ"
    assert not torch.equal(first, uniforms(keys, 4, 2)), "positions differ"
    assert not torch.equal(new_keys(4, generator(0, "a")), new_keys(4, generator(0, "b")))
    assert not torch.equal(new_keys(4, generator(0, "a")), new_keys(4, generator(1, "a")))
    assert derive("x", 1) == derive("x", 1) != derive("x", 2)


def split_mix(x: int) -> int:
    """SplitMix64's finaliser over Python's integers (Steele, Lea and Flood 2014)."""
    x = (x ^ (x >> 30)) * 0xBF58476D1CE4E5B9 % 2**64
    x = (x ^ (x >> 27)) * 0x94D049BB133111EB % 2**64
    return x ^ (x >> 31)


def test_trap_46_streams_are_the_published_hash() -> None:
    """So a recorded run can be drawn again anywhere."""
    golden = 0x9E3779B97F4A7C15
    for key, position in ((0, 0), (12345678901234567, 9), (2**62 - 1, 1000)):
        start = split_mix(split_mix((key + golden) % 2**64) + position * golden & (2**64 - 1))
        expected = [(split_mix((start + n * golden) % 2**64) >> 11) * 2.0**-53 for n in (1, 2, 3)]
        found = uniforms(torch.tensor([key]), position, 3)[0].tolist()
        assert found == expected, (key, position)


def test_trap_46_uniforms_are_uniform_and_independent() -> None:
    """Over keys, over positions and over columns: mean, variance, octile counts and lag correlations within five
    standard errors. Keys as the run makes them, and the worst case of neighbouring integers."""
    count = 20_000
    views = {
        "random keys": uniforms(new_keys(count, generator(7)), 0, 1)[:, 0],
        "neighbouring keys": uniforms(torch.arange(count), 0, 1)[:, 0],
        "positions": uniforms(torch.full((count,), 12345), torch.arange(count), 1)[:, 0],
        "columns": uniforms(torch.tensor([99]), 5, count)[0],
    }
    for what, x in views.items():
        assert float(x.min()) >= 0
        assert float(x.max()) < 1
        close(x.mean(), 0.5, 5 * math.sqrt(1 / 12 / count), what)
        close(x.var(), 1 / 12, 5 * math.sqrt(1 / 180 / count), what)
        octiles = (x * 8).long().bincount(minlength=8)
        assert float((octiles - count / 8).abs().max()) < 5 * math.sqrt(count * 7 / 64), what
        for lag in (1, 2, 7):
            product = ((x[lag:] - 0.5) * (x[:-lag] - 0.5)).mean()
            close(product, 0.0, 5 / 12 / math.sqrt(count - lag), f"{what} lag {lag}")
    pairs = uniforms(new_keys(count, generator(8)), 1, 2) - 0.5
    close((pairs[:, 0] * pairs[:, 1]).mean(), 0.0, 5 / 12 / math.sqrt(count), "columns of one draw")


def test_trap_46_samples_follow_their_distribution() -> None:
    count, logits = 20_000, numbers(4, seed=3)
    u = uniforms(new_keys(count, generator(9)), 0, 1)
    dist = Categorical.of(logits.expand(count, 4))
    frequency = dist.sample(u).bincount(minlength=4) / count
    close(frequency, logits.softmax(-1), 5 * math.sqrt(0.25 / count), "categorical")
    edge = Categorical.of(torch.tensor([[-math.inf, 0.0, -math.inf]]))
    assert edge.sample(torch.tensor([[0.0]])).item() == edge.sample(torch.tensor([[1 - 2**-53]])).item() == 1
    normal = Gaussian(torch.full((count, 2), 1.5), torch.full((count, 2), 0.5))
    drawn = normal.sample(uniforms(new_keys(count, generator(10)), 0, 2))
    close(drawn.mean(0), [1.5, 1.5], 5 * 0.5 / math.sqrt(count), "gaussian mean")
    close(drawn.std(0), [0.5, 0.5], 5 * 0.5 / math.sqrt(2 * count), "gaussian std")


def test_trap_46_rows_do_not_depend_on_neighbours_and_runs_repeat() -> None:
    world, policy = word_world(), Table(numbers(12, 3, seed=5))

    def sampled(seed: int) -> torch.Tensor:
        ctx = context(method(), {"policy": policy}, world, generate, seed)
        return attempt(ctx, world.tasks(torch.arange(4)), 6, 1.0).step["_step"]

    assert torch.equal(sampled(1), sampled(1))
    assert not torch.equal(sampled(1), sampled(2))
    rows = sampled(1)[:6]
    assert len({tuple(row) for row in rows.tolist()}) > 1, "attempts at one task differ"
    keys = new_keys(8, generator(3))
    batch = world.start(world.tasks(torch.arange(4)).repeat(2))
    everyone = generate(policy, world, batch, keys, 1.0, 0)
    part = torch.tensor([5, 2])
    alone = generate(policy, world, batch[part], keys[part], 1.0, 0)
    assert torch.equal(everyone.step["_step"][part], alone.step["_step"])


def test_temperature_shapes_sampling_and_scores_alike() -> None:
    """Trap 15's half that tables can show: behaviour equals the score at T = 0.6, and differs from T = 1."""
    world, policy = word_world(), Table(numbers(12, 3, seed=5))
    ctx = context(method(), {"policy": policy}, world, generate)
    rows = attempt(ctx, world.tasks(torch.arange(4)), 4, 0.6)
    close(policy.score(rows).logp, rows.step["behaviour"])
    cold = with_row(rows, temperature=[1.0] * 16)
    difference = policy.score(cold).logp.detach() - rows.step["behaviour"]
    assert float(difference.abs().max()) > 1e-2
    mode = attempt(ctx, world.tasks(torch.arange(4)), 1, 0.0)
    assert torch.equal(mode.step["_step"].flatten(), policy.logits.argmax(-1))


# -- 49 ---------------------------------------------------------------------------------------------------------
def metrics_of(case: cases.Case, batch: object, micro: int | None) -> dict[str, float]:
    ctx = case.context()
    full_step(ctx, batch, micro, case.trains)
    ctx.meter.add("loss/one", 0.0, 1)
    return ctx.meter.result()


def test_trap_49_metrics_do_not_depend_on_padding_or_micro_batches() -> None:
    seen = set()
    for key, case in CASES.items():
        expected = metrics_of(case, cases.rich(), None)
        seen |= set(expected)
        for micro, extra in ((1, 0), (2, 3), (3, 6), (None, 9)):
            found = metrics_of(case, widened(cases.rich(), extra), micro)
            assert found.keys() == expected.keys()
            for name, value in expected.items():
                close(found[name], value, what=f"{key} {name} micro {micro} padding {extra}")
    wanted = {"ratio", "clipped", "kl_old", "kl", "margin", "accuracy", "reverse_kl"}
    assert {f"one/{name}" for name in wanted} <= seen


def test_trap_49_clipped_fraction_and_divergence_in_closed_form() -> None:
    """Counted before clipping: ratios 1.5 with A > 0 and 0.5 with A < 0 are clipped, the other two are not."""
    models, batch = grids(), per_row(ragged((3, 1, 2, 2)), [1.0, -1.0, -1.0, 2.0])
    ratios = torch.tensor([1.5, 0.5, 1.5, 0.9])
    shift = torch.zeros_like(models["policy"].logp)
    shift[:4] = ratios.log()[:, None]
    with torch.no_grad():
        models["old"].logp.copy_(models["policy"].logp - shift)
    ctx = context(method(Term("one", ClippedSurrogate(), TokenMean())), models)
    full_step(ctx, batch)
    metrics = ctx.meter.result()
    close(metrics["one/clipped"], (3 + 1) / 8)
    close(metrics["one/ratio"], (3 * 1.5 + 0.5 + 2 * 1.5 + 2 * 0.9) / 8)
    kl = [(r - 1 - math.log(r)) * n for r, n in zip(ratios.tolist(), (3, 1, 2, 2), strict=True)]
    close(metrics["one/kl_old"], sum(kl) / 8)
    assert metrics["one/kl_old"] > 0


def test_trap_49_metrics_of_a_round_by_hand() -> None:
    """Reward over scored rows, entropy over trained steps, lengths over own steps; padding holds garbage."""
    batch = with_row(
        ragged(),
        scored=[True, True, False, True],
        finish=[int(Finish.STOPPED)] * 3 + [int(Finish.TRUNCATED)],
    )
    reward = torch.where(batch.valid, 1.0, 1e6)
    old = torch.where(batch.trained, 0.25, 1e6)
    entropy = torch.where(batch.trained, 2.0, 1e6)
    behaviour = torch.where(batch.trained, 0.75, -1e6)
    judged = batch.with_steps({"reward": reward, "behaviour": behaviour})
    ctx = context(method(reward=Verified()), grids())
    _measure(ctx, judged, judged.with_scores({"old": Scores(old, entropy)}))
    assert ctx.meter.result() == {
        "reward": (1 + 2 + 13) / 3,
        "length": (1 + 2 + 5 + 10) / 4,
        "truncated": 0.25,
        "unscored": 0.25,
        "kept_rows": 4.0,
        "sampler_mismatch": 0.5,
        "entropy": 2.0,
    }


def test_trap_49_entropy_is_entropy() -> None:
    """>= 0, log V when uniform, 0 when certain, and by the definition."""
    logits = numbers(50, 5, seed=4, scale=3.0)
    dist = Categorical.of(logits)
    assert bool((dist.entropy() >= 0).all())
    p = logits.softmax(-1)
    close(dist.entropy(), -(p * p.log()).sum(-1))
    close(Categorical.of(torch.zeros(5)).entropy(), math.log(5))
    close(Categorical.of(torch.tensor([0.0, -math.inf])).entropy(), 0.0)
    close(Gaussian(torch.zeros(2), torch.ones(2)).entropy(), math.log(2 * math.pi * math.e))


def test_trap_49_a_meter_weighs_by_count() -> None:
    """(sum, count) pairs: parts of 1 and 3 entries give the mean of 4; an empty metric is left out."""
    meter = Meter()
    values, mask = torch.tensor([1.0, 2.0, 3.0, 6.0, 1e9]), torch.tensor([1, 1, 1, 1, 0]).bool()
    for part in (slice(0, 1), slice(1, 5)):
        meter.mean("x", values[part], mask[part])
    meter.mean("empty", values, torch.zeros_like(mask))
    values.fill_(0.0)  # logged numbers are copies
    assert meter.result() == {"x": 3.0}
