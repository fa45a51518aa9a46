"""Studies of learning from preferences: who writes the rows, how the reward is modelled, what a benchmark is worth."""

from __future__ import annotations

from dataclasses import replace
from typing import Any, Literal

import torch
from torch import Tensor

from policyopt.compose import Method, Nothing, Program, Stage
from policyopt.evaluation.experiments._aligned import FeatureReward, Tilted, divergence, fitted, win_rate
from policyopt.evaluation.experiments._common import CountingEngine, Outcome, fit, numbers, probabilities
from policyopt.evaluation.experiments._worlds import recorded_answers, unpaid
from policyopt.evaluation.reward_models import best_of_n, rank_accuracy, validity
from policyopt.methods import load
from policyopt.options import override
from policyopt.run import Run
from policyopt.sampling.samplers import RecordedPairs
from policyopt.train import rounds as train_rounds
from policyopt.types import Batch, Round, Source
from policyopt.worlds.sequences import SequenceWorld, bandit


# -- where the reward peaks ------------------------------------------------------------------------------------------
def relocated_peak(method: Method, seed: int, rounds: int, peak: float = 80.0) -> Outcome:
    """One context, 100 bins; the reference is a normal density around bin 20 (deviation 12), the reward exp(-(bin -
    peak)^2 / (2 25^2)). The policy is the reference times exp(w_1 x + w_2 x^2), x the bin in -1..1, so that its mass
    can move anywhere. The place of the reference and the policy's first weights differ by seed.

    value and score: expected reward of the policy, exact.
    """
    rng = numbers(seed, "relocated peak")
    place = torch.arange(100.0)
    centre = 20.0 + 2 * torch.randn((), generator=rng)
    base = (-((place - centre) ** 2) / (2 * 12.0**2))[None]
    reward = torch.exp(-((place - peak) ** 2) / (2 * 25.0**2))[None]
    x = (place - 49.5) / 49.5
    policy = Tilted(torch.stack([x, x**2], 1)[None], base)
    start = policy.logits.detach().softmax(1)

    def worth(run: Run, done: Round) -> float:
        return float((probabilities(run) * reward).sum())

    done = fit(method, bandit(reward), {"policy": policy}, rounds, seed, worth)
    notes = {
        "expected reward of the reference": float((start * reward).sum()),
        "largest expected reward of a round": max(done.watched),
        "KL to the reference (nats)": divergence(done.table, start),
    }
    return done.outcome("expected reward", notes)


# -- online, offline, and the online data once more --------------------------------------------------------------------
Regime = Literal["online", "offline", "replay"]


def preference_regimes(method: Method, seed: int, rounds: int, data: Regime = "online") -> Outcome:
    """20 contexts, 100 answers, 12 features of both, a log-linear policy that begins at random. Gold rewards are linear
    in the features and half as much noise; a proxy was fitted to 400 gold preferences and says who wins. data: "online"
    pairs are two answers of the policy; "offline" ones, as many, were written by the policy as it began; "replay" are
    the pairs of an online run, shuffled, for a policy that begins anew.

    value and score: highest win rate of a round over the first policy by gold preferences, exact; the curve is that of
    the proxy's.
    """
    contexts, answers, size = 20, 100, 12
    rng = numbers(seed, "preference regimes")
    features = torch.randn(contexts, answers, size, generator=rng)
    gold = features @ torch.randn(size, generator=rng) / 2 + 0.5 * torch.randn(contexts, answers, generator=rng)
    base = torch.randn(contexts, answers, generator=rng)
    start = base.softmax(1)

    def drawn(count: int) -> tuple[Tensor, Tensor]:
        context = torch.arange(count) % contexts
        return context, torch.multinomial(start[context], 2, replacement=False, generator=rng)

    context, pair = drawn(400)
    ahead = torch.rand(400, generator=rng) < (gold[context, pair[:, 0]] - gold[context, pair[:, 1]]).sigmoid()
    order = torch.where(ahead[:, None], pair, pair.flip(1))
    proxy = features @ fitted(features[context, order[:, 0]], features[context, order[:, 1]])

    def compare(first: Tensor, second: Tensor, task: Tensor) -> Tensor:
        return torch.sigmoid(proxy[task, first[:, 0]] - proxy[task, second[:, 0]])

    count = method.selection.count
    online = SequenceWorld(contexts, answers, 1, unpaid, compare=compare)
    offline = replace(method, sampling=RecordedPairs(), feedback=Nothing())
    kept: list[Batch] = []

    def policy() -> dict[str, Any]:
        return {"policy": Tilted(features, base)}

    def wins(run: Run, done: Round) -> float:
        kept.append(done.kept)
        return win_rate(probabilities(run), start, proxy)

    golds: list[float] = []
    far: list[float] = []

    def watched(run: Run, done: Round) -> float:
        table = probabilities(run)
        golds.append(win_rate(table, start, gold))
        far.append(divergence(table, start))
        return win_rate(table, start, proxy)

    if data == "online":
        done = fit(method, online, policy(), rounds, seed, watched)
    elif data == "offline":
        context, pair = drawn(rounds * count)
        chance = compare(pair[:, :1], pair[:, 1:], context)
        ahead = torch.rand(len(pair), generator=rng) < chance
        ordered = torch.where(ahead[:, None], pair, pair.flip(1))
        done = fit(offline, recorded_answers(ordered, context, contexts, answers), policy(), rounds, seed, watched)
    else:
        fit(method, online, policy(), rounds, seed, wins)
        pairs, tasks = _pairs_of(kept)
        shuffled = torch.randperm(len(pairs), generator=rng)
        world = recorded_answers(pairs[shuffled], tasks[shuffled], contexts, answers)
        done = fit(offline, world, policy(), rounds, seed, watched)
    best = max(range(len(golds)), key=lambda step: golds[step])
    notes = {
        "KL to the first policy at that round (nats)": far[best],
        "gold win rate after the last round": golds[-1],
        "proxy win rate after the last round": done.watched[-1],
        "KL after the last round (nats)": far[-1],
    }
    return done.outcome("proxy win rate", notes, value=golds[best])


def _pairs_of(batches: list[Batch]) -> tuple[Tensor, Tensor]:
    """(M, 2) answers, the preferred one first, and (M,) contexts of what was trained on."""
    pairs, tasks = [], []
    for batch in batches:
        order = batch.row["pair"].argsort(stable=True)
        rows = batch[order[batch.row["rank"][order] >= 0]]
        rows = rows[(rows.row["pair"] * 2 + rows.row["rank"]).argsort()]
        pairs.append(rows.step["_step"][:, 0].view(-1, 2))
        tasks.append(rows.row["task"].view(-1, 2)[:, 0])
    return torch.cat(pairs), torch.cat(tasks)


# -- an order of answers -----------------------------------------------------------------------------------------------
def ordered_answers(method: Method, seed: int, rounds: int) -> Outcome:
    """20 contexts, 30 answers, 12 features of both; gold rewards are linear in them. Pairs of the first policy, which
    likes some answers much more than others whatever they are worth, labelled by Bradley-Terry of the gold reward. A
    reward model orders answers by its rewards, a policy by its log-probabilities.

    value and score: share of all pairs of answers to a context that are ordered as the gold reward orders them, exact.
    """
    contexts, answers, size, count = 20, 30, 12, method.selection.count
    rng = numbers(seed, "ordered answers")
    features = torch.randn(contexts, answers, size, generator=rng)
    gold, base = features @ torch.randn(size, generator=rng) / 2, torch.randn(contexts, answers, generator=rng)
    context = torch.arange(count * rounds) % contexts
    pair = torch.multinomial(base.softmax(1)[context], 2, replacement=False, generator=rng)
    ahead = torch.rand(len(pair), generator=rng) < (gold[context, pair[:, 0]] - gold[context, pair[:, 1]]).sigmoid()
    world = recorded_answers(torch.where(ahead[:, None], pair, pair.flip(1)), context, contexts, answers)
    reward = FeatureReward(features)
    trains = any(term.trains == "reward" for term in method.terms)

    def order(run: Run, done: Round) -> float:
        said = features @ reward.weights.detach() if trains else probabilities(run)
        same = (said[:, :, None] - said[:, None]).sign() == (gold[:, :, None] - gold[:, None]).sign()
        return float(same.sum((1, 2)).sub(answers).double().mean() / (answers * (answers - 1)))

    models = {"policy": Tilted(features, base), "reward": reward}
    done = fit(method, world, models, rounds, seed, order)
    return done.outcome("share of pairs in gold order")


# -- ingredients of a recipe -----------------------------------------------------------------------------------------
def recipe_of_preferences(
    method: Method,
    seed: int,
    rounds: int,
    flips: float = 0.2,
    width: int = 16,
    prompts: str = "own",
    distinct: float = 1.0,
) -> Outcome:
    """40 contexts, of which preferences cover 20; 30 answers, 16 features, gold rewards linear in them with a third as
    much noise, a log-linear policy in all features. 64 pairs of the first policy a round, labelled by Bradley-Terry of
    the gold reward, a share `flips` of the labels turned round. A method with recorded pairs (DPO) has all rounds; one
    that samples has the second half, after a reward model in the first `width` features learned from the pairs in the
    first half, as many rows in all. prompts: it samples for the contexts of the pairs ("own") or for all ("all").
    distinct: the share of pairs that are different; at 1/2 a method with all rounds reads each twice, and so what the
    reward model of another learns from.

    value and score: expected gold reward over all contexts, 0 at the first policy and 1 at the best answers, exact.
    """
    contexts, covered, answers, size = 40, 20, 30, 16
    rng = numbers(seed, "recipe of preferences")
    features = torch.randn(contexts, answers, size, generator=rng)
    gold = features @ torch.randn(size, generator=rng) / 4 + 0.33 * torch.randn(contexts, answers, generator=rng)
    context = torch.arange(round(64 * rounds * distinct)) % covered
    pair = torch.multinomial(torch.ones(len(context), answers), 2, replacement=False, generator=rng)
    ahead = torch.rand(len(pair), generator=rng) < (gold[context, pair[:, 0]] - gold[context, pair[:, 1]]).sigmoid()
    ahead = ahead ^ (torch.rand(len(pair), generator=rng) < flips)
    pairs = recorded_answers(torch.where(ahead[:, None], pair, pair.flip(1)), context, contexts, answers)
    policy = Tilted(features)
    engine, used, watched = CountingEngine(), 0, []
    if method.sampling.data == "pairs":
        stages, models = (Stage(method, rounds),), {"policy": policy}
    else:
        seen = features * (torch.arange(size) < width)
        first = override(load("reward_model"), {"update.learning_rate": 0.05})
        stages = (Stage(first, rounds // 2), Stage(replace(method, world="prompts"), rounds - rounds // 2))
        models = {"policy": policy, "reward": FeatureReward(seen)}
    asked = contexts if prompts == "all" else covered
    world = SequenceWorld(asked, answers, 1, unpaid)
    run = Run(models, pairs, engine, seed, {"prompts": world})
    low, high = float(gold.mean()), float(gold.max(1).values.mean())
    for done in train_rounds(run, Program(stages)):
        used += int((done.judged.row["source"] == Source.DATASET).sum())
        now = probabilities(run)
        watched.append((float((now * gold).sum(1).mean()) - low) / (high - low))
    notes = {
        "on contexts of the pairs": _share(now[:covered], gold[:covered]),
        "on the other contexts": _share(now[covered:], gold[covered:]),
        "KL to the first policy (nats)": divergence(now, torch.full_like(now, 1 / answers)),
    }
    rows = engine.rows + used
    return Outcome(watched[-1], watched[-1], rows, tuple(watched), "share of the attainable gold reward", notes)


def _share(table: Tensor, gold: Tensor) -> float:
    low, high = gold.mean(), gold.max(1).values.mean()
    return float(((table * gold).sum(1).mean() - low) / (high - low))


# -- what a benchmark of reward models is worth ------------------------------------------------------------------------
def benchmark_validity(method: Method, seed: int, rounds: int, benchmark: str = "one_to_many") -> Outcome:
    """12 reward models r = a correct + b style + noise, a ~ U(0, 2), b ~ N(0, 1.5^2); each is scored on 400 problems:
    "one_to_many", a right solution above nine wrong ones, styles of all drawn from one law; or "pairwise", a right
    solution above one wrong one of worse style. Then each chooses the best of the method's group of samples for 400
    other problems, of which three in ten are right.

    value and score: Spearman's correlation over reward models between the benchmark's accuracy and the share of right
    choices.
    """
    models, problems, wrong = 12, 400, 9
    rng = numbers(seed, "benchmark validity")
    likes = 2 * torch.rand(models, generator=rng, dtype=torch.float64)
    styled = 1.5 * torch.randn(models, generator=rng, dtype=torch.float64)

    def normal(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=rng, dtype=torch.float64)

    size = method.sampling.size
    right = (torch.rand(problems, size, generator=rng, dtype=torch.float64) < 0.3).double()
    style = normal(problems, size)
    accuracy, gold = [], []
    for model in range(models):
        if benchmark == "pairwise":
            worse = normal(problems, 2).sort(1, descending=True).values  # the right one has the better style
            shown = torch.tensor([1.0, 0.0], dtype=torch.float64) * likes[model] + styled[model] * worse
        else:
            shown = styled[model] * normal(problems, wrong + 1)
            shown[:, 0] += likes[model]
        accuracy.append(rank_accuracy(shown + normal(*shown.shape)))
        said = likes[model] * right + styled[model] * style + normal(problems, size)
        gold.append(best_of_n(said, right, [size])[0].gold)
    found = validity(accuracy, gold)
    notes = {
        "mean accuracy of the reward models": sum(accuracy) / models,
        "mean share of right choices": sum(gold) / models,
        "best share of right choices": max(gold),
    }
    return Outcome(found, found, problems * size, (found,), "Spearman's correlation", notes)
