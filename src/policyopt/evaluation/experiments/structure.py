"""What rows are made of: turns and states they share, segments and trees, sets, a second input, two roles."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from policyopt.compose import Copy, Method, Program, Stage
from policyopt.evaluation.experiments._anytime import KNOWN, Thoughts
from policyopt.evaluation.experiments._common import Outcome, fit, probabilities, random_table, uniform_table
from policyopt.evaluation.experiments._common import numbers as stream
from policyopt.evaluation.experiments._cues import TwoStreams, cues
from policyopt.evaluation.experiments._pairs import PairedPoints, TwoHeads
from policyopt.evaluation.experiments._referees import LEVELS, Items
from policyopt.evaluation.experiments._rubrics import Rubrics
from policyopt.evaluation.experiments._scales import Scales, pretrained
from policyopt.evaluation.experiments._staged import staged
from policyopt.evaluation.experiments._worlds import all_right, target_probability
from policyopt.methods import load
from policyopt.options import override
from policyopt.policies.linear import Linear
from policyopt.policies.tabular import Table
from policyopt.run import Run
from policyopt.selection.kinds import OfKinds
from policyopt.types import Batch, Round, Tasks
from policyopt.worlds.oracles import expected_return
from policyopt.worlds.sequences import SequenceWorld
from policyopt.worlds.tables import MOVES, TabularMDP


def key_door(size: int, horizon: int, seed: int) -> TabularMDP:
    """An empty square; begun at one corner, the key at another, the door at the third: reward 1 for reaching the door
    with the key. State: cell + size^2 if the key is held; the last state is the end."""
    cells = size * size
    key, door, end = size - 1, cells - 1, 2 * cells
    move = torch.zeros(end + 1, 4, end + 1, dtype=torch.float64)
    for state in range(end):
        held, cell = divmod(state, cells)
        for action, (down, right) in enumerate(MOVES):
            i, j = min(max(cell // size + down, 0), size - 1), min(max(cell % size + right, 0), size - 1)
            there = i * size + j
            holds = held or there == key
            move[state, action, end if holds and there == door else holds * cells + there] = 1.0
    move[end, :, end] = 1.0
    reward = torch.zeros_like(move)
    reward[:end, :, end] = 1.0
    ends = torch.arange(end + 1) == end
    begin = (torch.arange(end + 1) == (size - 1) * size).double()
    return TabularMDP(move, reward, begin, 1.0, horizon, ends, seed=seed)


def key_and_door(method: Method, seed: int, rounds: int) -> Outcome:
    """A 5 x 5 grid with a key and a door in three different corners; 60 moves at most, reward 1 for the door with the
    key, a table as policy.

    value: probability of success, exact, mean over rounds. score: the same.
    """
    world = key_door(5, 60, seed)

    def success(run: Run, done: Round) -> float:
        return expected_return(world, probabilities(run).double())

    done = fit(method, world, {"policy": uniform_table(world.states, 4)}, rounds, seed, success)
    mean = sum(done.watched) / len(done.watched)
    reached = next((n + 1 for n, s in enumerate(done.watched) if s >= 0.95), rounds)
    notes = {"success after training": done.watched[-1], "round at which success reached 0.95 (or the last)": reached}
    return done.outcome("probability of success", notes, value=mean)


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


def clue_chain(clues: int, horizon: int, seed: int) -> TabularMDP:
    """State k: k clues are found. At each state one of three searches finds the next clue, the other two find nothing,
    a fourth action wastes the turn, the fifth answers: right (reward 1) with all clues. The last state is the end."""
    end, rng = clues + 1, stream(seed, "clue chain")
    right = torch.randint(3, (clues,), generator=rng)
    move = torch.zeros(end + 1, 5, end + 1, dtype=torch.float64)
    for state in range(end):
        for action in range(4):
            found = state < clues and action == int(right[state])
            move[state, action, state + found] = 1.0
        move[state, 4, end] = 1.0
    move[end, :, end] = 1.0
    reward = torch.zeros_like(move)
    reward[clues, 4, end] = 1.0
    number = torch.arange(end + 1)
    return TabularMDP(move, reward, (number == 0).double(), 1.0, horizon, number == end, seed=seed)


def turns_of_success(world: TabularMDP, policy: Tensor) -> tuple[float, float]:
    """Probability that an episode ends with reward 1, and the expected number of turns of those that do."""
    assert world.horizon is not None
    here, success, turns = world.start_at[0], 0.0, 0.0
    for turn in range(world.horizon):
        visits = here[:, None] * policy
        gained = float((visits[..., None] * world.transition * world.reward).sum())
        success, turns = success + gained, turns + (turn + 1) * gained
        here = (visits[..., None] * world.transition).sum((0, 1)) * ~world.ends
    return success, turns / max(success, 1e-12)


def clues_in_turns(method: Method, seed: int, rounds: int) -> Outcome:
    """3 clues in a row, 12 turns at most; a turn can be wasted. Shortest: 4 turns. The agent's state is what it found,
    not how it got there.

    value: expected number of turns of successful episodes after training, exact. score: success less a twelfth of it.
    """
    world = clue_chain(3, 12, seed)
    success: list[float] = []

    def turns(run: Run, done: Round) -> float:
        found, length = turns_of_success(world, probabilities(run).double())
        success.append(found)
        return length

    done = fit(method, world, {"policy": uniform_table(world.states, 5)}, rounds, seed, turns)
    notes = {"success after training": success[-1]}
    score = success[-1] - done.watched[-1] / 12
    return done.outcome("turns of a successful episode", notes, score=score)


def tokens_until_success(
    method: Method,
    seed: int,
    rounds: int,
    limit: int = 21,
    decisive: int = 1,
    choices: int = 4,
    level: float = 0.9,
    *,
    updates: bool = False,
) -> Outcome:
    """One task, strings of `limit` of `choices` symbols, of which `decisive` symbols at random places (one in each
    equal part of the string) decide: reward 1 if they are right. A table knows the position only.

    value: steps generated (shared prefixes once, probes included) until the probability of success, exact, is at least
    `level`; those of the whole run if it never is. updates: rounds instead of steps. score: less a thousandth of the
    value.
    """
    rng = stream(seed, "tokens until success")
    part = limit // decisive
    place = torch.arange(decisive) * part + torch.randint(part, (decisive,), generator=rng)
    symbol = torch.randint(choices, (decisive,), generator=rng)
    world = SequenceWorld(1, choices, limit, lambda strings, task: (strings[:, place] == symbol).all(1).float())
    used: list[int] = []

    def success(run: Run, done: Round) -> float:
        used.append(run.engine.steps)  # pyright: ignore[reportAttributeAccessIssue]
        return float(probabilities(run)[place, symbol].prod())

    done = fit(method, world, {"policy": uniform_table(limit, choices)}, rounds, seed, success)
    first = next((n for n, chance in enumerate(done.watched) if chance >= level), rounds - 1)
    notes = {
        "success after training": done.watched[-1],
        "steps a round": used[-1] / rounds,
        "rounds until then": first + 1.0,
    }
    value = first + 1 if updates else used[first]
    return done.outcome("probability of success", notes, value=value, score=-value / 1000)


def thoughts_under_budgets(method: Method, seed: int, rounds: int) -> Outcome:
    """Thoughts of up to 8 steps; what to do at a step depends on what is known, and works every second time. Two bits
    must be revealed and named.

    value: probability of a right answer after 2, 4, 6 and 8 steps, mean, exact.
    """
    right = torch.randint(4, (KNOWN,), generator=stream(seed, "thoughts under budgets"))
    world = Thoughts(right, 8, 0.5, seed)

    def area(run: Run, done: Round) -> float:
        return float(world.accuracy(probabilities(run).double())[[2, 4, 6, 8]].mean())

    done = fit(method, world, {"policy": uniform_table(world.states, 4)}, rounds, seed, area)
    curve = world.accuracy(done.table.double())
    notes = {f"accuracy after {n} steps": float(curve[n]) for n in (2, 4, 6, 8)}
    return done.outcome("mean accuracy over budgets", notes)


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


@dataclass(frozen=True)
class RecordedChains(SequenceWorld):
    """Fixed answers (size, answers, limit) and who wrote them (size * limit, choices): `recorded` gives all answers of
    every task, with the log-probabilities of their author. Two judges of steps err in places of their own."""

    answers: Tensor | None = None
    author: Tensor | None = None
    mistakes: Tensor | None = None  # (2, size, answers, limit)

    def recorded(self, tasks: Tasks) -> Batch:
        assert self.answers is not None
        assert self.author is not None
        count = self.answers.shape[1]
        rows = self.complete(tasks.repeat(count), self.answers[tasks.id].flatten(0, 1))
        logp = self.author.log()[rows.step["_state"], rows.step["_step"]]
        number = torch.arange(count).repeat(len(tasks))
        return rows.with_steps({"behaviour": logp}).with_rows({"_number": number})

    def _judged(self, batch: Batch, judge: int) -> Tensor:
        assert self.mistakes is not None
        wrong = self.mistakes[judge, batch.row["task"], batch.row["_number"]]
        return (self.judge_steps_exactly(batch) != wrong).float()

    def judge_steps_exactly(self, batch: Batch) -> Tensor:
        return super().judge_steps(batch) > 0.5

    def judge_steps(self, batch: Batch) -> Tensor:
        return self._judged(batch, 0)

    def judge_again(self, batch: Batch) -> Tensor:
        return self._judged(batch, 1)


def recorded_chains(method: Method, seed: int, rounds: int) -> Outcome:
    """8 tasks, chains of 6 of 4 symbols that are all right (reward 1) or not; 16 answers a task by an author who is
    right at a place six times in ten. The policy begins as the author.

    value: probability of success, mean over tasks, exact.
    """
    rng = stream(seed, "recorded chains")
    target = torch.randint(4, (8, 6), generator=rng)
    author = torch.full((48, 4), 0.4 / 3).scatter(1, target.reshape(-1, 1), 0.6)
    place = author.view(8, 1, 6, 4).expand(8, 16, 6, 4).reshape(-1, 4)
    answers = torch.multinomial(place, 1, generator=rng).view(8, 16, 6)
    mistakes = torch.rand(2, 8, 16, 6, generator=rng) < 0.1
    world = RecordedChains(
        8, 4, 6, all_right(target), judge=lambda strings, task: (strings == target[task]).float(),
        answers=answers, author=author, mistakes=mistakes,
    )  # fmt: skip

    def success(run: Run, done: Round) -> float:
        return float(target_probability(probabilities(run), target).prod(1).mean())

    done = fit(method, world, {"policy": Table(author.log())}, rounds, seed, success)
    place_right = float(target_probability(done.table, target).mean())
    notes = {"probability of a right symbol": place_right}
    return done.outcome("probability of success", notes)


def scratchpads(method: Method, seed: int, rounds: int, passes: int = 20) -> Outcome:
    """4 tasks of 4 symbols of 4: two of scratch, the result that the scratch ends with, the answer. The reward is for
    the answer; a verifier checks that the answer is the result and that the scratch does not repeat one symbol. Two
    loops of `rounds` rounds of the method and `passes` updates of `veripo_dpo` at learning rate 0.1.

    value: probability that result and answer agree, exact, mean over tasks. score: probability of a right answer.
    """
    answer = torch.randint(4, (4,), generator=stream(seed, "scratchpads"))

    def checks(strings: Tensor, task: Tensor) -> Tensor:
        varied = (strings[:, 1:3] != strings[:, :1]).any(1)
        return torch.stack([strings[:, 2] == strings[:, 3], varied], 1).float()

    world = SequenceWorld(4, 4, 4, lambda strings, task: (strings[:, 3] == answer[task]).float(), checker=checks)
    second = override(load("veripo:veripo_dpo"), {"update.learning_rate": 0.1, "selection.count": 4})
    right: list[float] = []

    def consistent(run: Run) -> float:
        table = probabilities(run).view(4, 4, 4)
        right.append(float(table[torch.arange(4), 3, answer].mean()))
        return float((table[:, 2] * table[:, 3]).sum(1).mean())

    loop = (Stage(method, rounds), *((Stage(second, passes),) if passes else ()))
    done = staged(Program(loop * 2), world, {"policy": uniform_table(16, 4)}, seed, consistent)
    notes = {"probability of a right answer": right[-1]}
    return done.outcome("result agrees with answer", notes, score=right[-1])


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
