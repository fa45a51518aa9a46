"""What rows are made of: tests, sets, a second input, scales, pairs of tasks, two roles, rubrics."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from policyopt.compose import Copy, Method, Program, Stage
from policyopt.evaluation.experiments._common import Outcome, fit, probabilities, random_table, uniform_table
from policyopt.evaluation.experiments._common import numbers as stream
from policyopt.evaluation.experiments._cues import TwoStreams, cues
from policyopt.evaluation.experiments._pairs import PairedPoints, TwoHeads
from policyopt.evaluation.experiments._referees import LEVELS, Items
from policyopt.evaluation.experiments._rubrics import Rubrics
from policyopt.evaluation.experiments._scales import Scales, pretrained
from policyopt.evaluation.experiments._staged import staged
from policyopt.evaluation.experiments._worlds import target_probability
from policyopt.options import override
from policyopt.policies.linear import Linear
from policyopt.policies.tabular import Table
from policyopt.run import Run
from policyopt.selection.kinds import OfKinds
from policyopt.types import Batch, Round
from policyopt.worlds.sequences import SequenceWorld


def programs_with_tests(method: Method, seed: int, rounds: int) -> Outcome:
    """6 tasks, programs of 6 of 5 symbols, 6 tests. Tests 1 to 4 are near duplicates: the first symbol is one of three
    (or two) that pass them, of which one is the right one. Test 5 wants the first three symbols right, test 6 the first
    and the last three.

    value: probability that all tests are passed, exact, mean over tasks.
    """
    rng = stream(seed, "programs with tests")
    target, easy = torch.randint(5, (6, 6), generator=rng), torch.randint(1, 5, (6, 2), generator=rng)

    def checks(strings: Tensor, task: Tensor) -> Tensor:
        right = strings == target[task]
        step = (strings[:, 0] - target[task, 0]) % 5
        near = right[:, 0] | (step == easy[task, 0])
        also = near | (step == easy[task, 1])
        every = [near, also, near, also, right[:, :3].all(1), right[:, [0, 3, 4, 5]].all(1)]
        return torch.stack(every, 1).float()

    def passed(strings: Tensor, task: Tensor) -> Tensor:
        return checks(strings, task).all(1).float()

    world = SequenceWorld(6, 5, 6, passed, checker=checks)

    def success(run: Run, done: Round) -> float:
        return float(target_probability(probabilities(run), target).prod(1).mean())

    done = fit(method, world, {"policy": uniform_table(world.states, 5)}, rounds, seed, success)
    first = target_probability(done.table, target)[:, 0]
    notes = {"probability of the right first symbol": float(first.mean())}
    return done.outcome("all tests pass", notes, score=sum(done.watched) / rounds)


@dataclass(frozen=True)
class Modes(SequenceWorld):
    """One choice of 36: 6 good modes of 3 arms each, then 18 bad arms. A set's diversity is its number of different
    good modes over its size."""

    def diversity(self, batch: Batch, ids: Tensor) -> Tensor:
        arm = batch.step["_step"][:, 0]
        present = torch.zeros(int(ids.max()) + 1, 7).index_put((ids, (arm // 3).clamp(max=6)), torch.tensor(1.0))
        return (present[:, :6].sum(1) / torch.bincount(ids))[ids]


def equally_good_modes(method: Method, seed: int, rounds: int) -> Outcome:
    """A bandit of 36 arms: 6 modes of 3 arms with utility 1, 18 arms with utility 0. The policy likes
    some more than others from the start.

    value: modes with a probability above 0.05 after training. score: expected utility, exact.
    """
    world = Modes(1, 36, 1, lambda strings, task: (strings[:, 0] < 18).float())

    def modes(run: Run, done: Round) -> float:
        return float((probabilities(run)[0, :18].view(6, 3).sum(1) > 0.05).sum())

    policy = random_table(1, 36, 1.0, seed, "policy")
    done = fit(method, world, {"policy": policy}, rounds, seed, modes)
    utility = float(done.table[0, :18].sum())
    return done.outcome("modes above 0.05", {"expected utility": utility}, score=utility)


def two_cues(method: Method, seed: int, rounds: int) -> Outcome:
    """4 answers; the question agrees with the answer in 7 of 10 tasks and is believed from the start (preference 2),
    the input always agrees. Masked, the input is a fifth symbol.

    value: accuracy with the input less accuracy with it masked, exact, mean over tasks, after training.
    """
    world, policy = cues(4), TwoStreams(4, 2.0)
    tasks = torch.arange(world.size)
    told, blind = world.cues(tasks), world.cues(tasks) * torch.tensor([1, 0]) + torch.tensor([0, 4])
    seeing: list[float] = []

    def sensitivity(run: Run, done: Round) -> float:
        with torch.no_grad():
            chances = [policy.of(x).softmax(-1)[tasks, tasks // 10].mean() for x in (told, blind)]
        seeing.append(float(chances[0]))
        return float(chances[0] - chances[1])

    done = fit(method, world, {"policy": policy}, rounds, seed, sensitivity)
    reached = next((n + 1 for n, x in enumerate(seeing) if x >= 0.9), rounds)
    notes = {"accuracy after training": seeing[-1], "round at which accuracy reached 0.9 (or the last)": float(reached)}
    return done.outcome("accuracy that is owed to the input", notes, score=seeing[-1])


def images_by_scales(method: Method, seed: int, rounds: int) -> Outcome:
    """4 conditions of a generator that was pretrained on stripes; an image's reward is the share of the pixels of its
    finest scale that are lit (half of them before training).

    value: expected reward, exact, mean over conditions.
    """
    world = Scales(4, 2, 85, lambda strings, task: strings[:, 21:].float().mean(1))
    first = pretrained(world)

    def reward(run: Run, done: Round) -> float:
        return float(world.lit(probabilities(run).double())[:, 21:].mean())

    done = fit(method, world, {"policy": Table(first)}, rounds, seed, reward)
    lit = world.lit(done.table.double())[:, 21:]
    log = done.table.double().log()
    divergence = (done.table.double() * (log - first.log_softmax(-1).double())).sum(1).mean()
    notes = {
        "chance that a pixel of two images differs": float((2 * lit * (1 - lit)).mean()),
        "divergence from the pretrained generator, mean over states (nats)": float(divergence),
    }
    return done.outcome("expected share of lit pixels", notes)


def labels_of_points(method: Method, seed: int, rounds: int) -> Outcome:
    """400 points of six overlapping clouds in 10 dimensions; a linear classifier draws labels, a right one is worth 1.

    value: accuracy on 2000 fresh points, the most likely label taken, mean over rounds.
    """
    rng = stream(seed, "labels of points")
    centre = 0.9 * torch.randn(6, 10, generator=rng)
    label = torch.randint(6, (2400,), generator=rng)
    points = torch.randn(2400, 10, generator=rng) + centre[label]
    world = SequenceWorld(400, 6, 1, lambda strings, task: (strings[:, 0] == label[task]).float())
    policy = Linear(torch.cat([points[:400], torch.ones(400, 1)], 1), torch.zeros(11, 6))
    fresh = torch.cat([points[400:], torch.ones(2000, 1)], 1)

    def accuracy(run: Run, done: Round) -> float:
        return float(((fresh @ policy.weights.detach()).argmax(1) == label[400:]).float().mean())

    done = fit(method, world, {"policy": policy}, rounds, seed, accuracy)
    best = float((torch.cdist(points[400:], centre).argmin(1) == label[400:]).float().mean())
    mean = sum(done.watched) / rounds
    notes = {"accuracy of the nearest centre": best, "accuracy after training": done.watched[-1]}
    return done.outcome("accuracy on fresh points", notes, value=mean)


def tasks_in_pairs(method: Method, seed: int, rounds: int) -> Outcome:
    """200 pairs of an understanding and a generation example of 12 features, 4 answers each, read by two heads on one
    layer. A third of the pairs are one example in both roles (similarity 1); the others were retrieved: of cosine 0 to
    1, and the generation example is graded by its partner's answer.

    value: the smaller of the two heads' accuracies on 1000 fresh examples, after training.
    """
    rng = stream(seed, "tasks in pairs")
    rules = torch.randn(2, 12, 4, generator=rng)

    def right(points: Tensor, role: int) -> Tensor:
        return (points @ rules[role]).argmax(1)

    points = torch.randn(200, 12, generator=rng)
    similarity = torch.where(torch.arange(200) % 3 == 0, 1.0, torch.rand(200, generator=rng))
    other = torch.randn(200, 12, generator=rng)
    partner = similarity[:, None] * points + (1 - similarity[:, None] ** 2).clamp(min=0).sqrt() * other
    features = torch.stack([points, partner], 1).flatten(0, 1)
    answer = torch.stack([right(points, 0), right(points, 1)], 1).flatten()
    world = PairedPoints(
        400, 4, 1, lambda strings, task: (strings[:, 0] == answer[task]).float(), similarity=similarity
    )
    policy = TwoHeads(features, 8, 4, rng)
    fresh = torch.randn(1000, 12, generator=rng)

    def worse(run: Run, done: Round) -> float:
        with torch.no_grad():
            heads = [policy.logits(fresh, torch.full((1000,), role)).argmax(1) for role in (0, 1)]
        return min(float((heads[role] == right(fresh, role)).float().mean()) for role in (0, 1))

    done = fit(method, world, {"policy": policy}, rounds, seed, worse)
    return done.outcome("accuracy of the worse task")


def players_and_referees(method: Method, seed: int, rounds: int, *, frozen: bool = False, warm_up: int = 10) -> Outcome:
    """16 items of hidden quality 0 to 1, 60 pairs to be ordered, 8 open-ended tasks in which the player chooses an
    item. `warm_up` rounds on pairs alone, then `rounds` rounds on both; frozen: open-ended tasks are judged by the
    referee as the warm-up left it.

    value: expected quality of the player's choice, exact, mean over open-ended tasks.
    """
    rng = stream(seed, "players and referees")
    quality = torch.randperm(16, generator=rng) / 15
    first = torch.randint(16, (60,), generator=rng)
    pairs = torch.stack([first, (first + torch.randint(1, 16, (60,), generator=rng)) % 16], 1)
    world = Items(quality, pairs, 8)
    pairs_alone = replace(method.selection, tasks=OfKinds(("preference",)))
    begin = replace(method, about=replace(method.about, key="warm_up"), selection=pairs_alone)
    judged = method
    if frozen:
        judged = replace(override(method, {"reward.model": "judge"}), models={**method.models, "judge": Copy()})

    def chosen(run: Run) -> float:
        return float((probabilities(run)[:8] * quality).sum(1).mean())

    program = Program((Stage(begin, warm_up), Stage(judged, rounds)))
    done = staged(program, world, {"policy": uniform_table(world.states, 16)}, seed, chosen)
    level = (torch.arange(16) * LEVELS // 16).float()
    scores = done.table[8:]
    above = (scores[pairs[:, 0], :, None] * scores[pairs[:, 1], None] * (level[:, None] - level).sign()).sum((1, 2))
    agreement = float((above * (quality[pairs[:, 0]] - quality[pairs[:, 1]]).sign()).mean())
    notes = {"expected rank agreement of the referee after training": agreement}
    return done.outcome("quality of the player's choice", notes)


def a_hackable_rubric(method: Method, seed: int, rounds: int) -> Outcome:
    """2 tasks, strings of up to 6 of 5 symbols, ended by symbol 0. The first rubric pays for the first symbol and,
    twice as much, for brevity; true quality is the share of 6 places that are right.

    value: expected true quality, exact, mean over tasks.
    """
    target = torch.randint(1, 5, (2, 6), generator=stream(seed, "a hackable rubric"))
    world = Rubrics(2, 5, 6, lambda strings, task: torch.zeros(len(strings)), end=0, target=target)
    share: list[float] = []

    def quality(run: Run, done: Round) -> float:
        share.append(done.metrics["rubric_share"])
        table = probabilities(run).view(2, 6, 5)
        going = torch.cat([torch.ones(2, 1), (1 - table[:, :-1, 0]).cumprod(1)], 1)
        return float((going * table.gather(2, target[..., None])[..., 0]).mean())

    done = fit(method, world, {"policy": uniform_table(12, 5)}, rounds, seed, quality)
    notes = {"share of the largest score": share[-1], "share of the largest score at first": share[0]}
    return done.outcome("true quality", notes)
