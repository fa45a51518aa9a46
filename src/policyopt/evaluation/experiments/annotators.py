"""Judges, critics, users and annotators: where preferences and rewards come from that no verifier gives."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from policyopt.compose import Method
from policyopt.evaluation.experiments._common import Outcome, fit, numbers, probabilities, uniform_table
from policyopt.evaluation.experiments.reward_models import area_under_curve
from policyopt.methods import load
from policyopt.options import override
from policyopt.policies.tabular import Table, TableReward
from policyopt.reward.follow_ups import likelihood_contrast
from policyopt.run import Run
from policyopt.types import Batch, Categorical, Round, Tasks
from policyopt.worlds.sequences import SequenceWorld


# -- judges ------------------------------------------------------------------------------------------------------------
@dataclass(frozen=True)
class Aspects(SequenceWorld):
    """Comparisons, each asked in both orders (tasks 2i and 2i + 1). A row names an aspect and gives a verdict, 0 for
    the side shown first; it knows no more than what its aspect says of the two sides. evidence (tasks, K) bool: whether
    an aspect speaks for the first side. States: one, then two per aspect."""

    evidence: Tensor | None = None

    @property
    def states(self) -> int:
        return 1 + 2 * self.choices

    def start(self, tasks: Tasks) -> Batch:
        return super().start(tasks).with_rows({"_state": torch.zeros_like(tasks.id)})

    def append(self, batch: Batch, step: Tensor, logp: Tensor, live: Tensor, version: int) -> Batch:
        before = batch.row["_state"]
        assert self.evidence is not None
        following = 1 + 2 * step + self.evidence[batch.row["task"], step].long()
        added = super().append(batch, step, logp, live, version)
        return added.with_rows({"_state": torch.where(live & (before == 0), following, before)})

    def comparisons(self, batch: Batch) -> Tensor:
        return batch.row["task"] // 2

    def swapped(self, batch: Batch) -> Tensor:
        return batch.row["task"] % 2 == 1


def judges_of_aspects(method: Method, seed: int, rounds: int, comparisons: int = 128, aspects: int = 6) -> Outcome:
    """Aspect 0 of 6 decides; every other agrees with it in 6 of 10 comparisons. A writer names a random aspect that
    agrees and gives the right verdict, in 9 of 10 rows; else it errs. The judge begins with 20 rounds of warm-up on its
    rows.

    value and score: probability of a right verdict on as many unseen comparisons in both orders, exact. notes: how
    often the likeliest verdict is the same for both orders.
    """
    rng = numbers(seed, "judges of aspects")

    def drawn(count: int) -> Tensor:
        """(2 count, K) evidence for the first side, both orders."""
        truth = torch.rand(count, 1, generator=rng) < 0.5
        agrees = torch.rand(count, aspects, generator=rng) < 0.6
        agrees[:, 0] = True
        first = truth == agrees
        return torch.stack([first, ~first], 1).flatten(0, 1)

    evidence, unseen = drawn(comparisons), drawn(comparisons)
    right = (~evidence[:, 0]).long()
    named = (torch.rand(evidence.shape, generator=rng) * (evidence == evidence[:, :1])).argmax(1)
    slips = torch.rand(len(right), generator=rng) < 0.1
    recordings = torch.stack([named, torch.where(slips, 1 - right, right)], 1)
    world = Aspects(
        len(evidence),
        aspects,
        2,
        lambda s, task: (s[:, 1] == right[task]).float(),
        recordings=recordings,
        evidence=evidence,
    )

    def table(run: Run) -> Tensor:
        """(tasks, 2) probability of each verdict on unseen comparisons."""
        said = probabilities(run)
        state = 1 + 2 * torch.arange(aspects) + unseen.long()
        return (said[0, :aspects, None] * said[state][..., :2]).sum(1)

    def accuracy(run: Run, done: Round) -> float:
        return float(table(run).gather(1, (~unseen[:, :1]).long()).mean())

    whole = override(load("rise_judge:rise_judge_warm_up"), {"selection.count": len(evidence)})
    warm = override(whole, {"update.learning_rate": 0.05})
    start = fit(warm, world, {"policy": uniform_table(world.states, aspects)}, 20, seed, accuracy)
    learned: Any = start.run.models["policy"]
    policy = Table(learned.logits.detach())
    done = fit(method, world, {"policy": policy}, rounds, seed, accuracy)
    verdict = table(done.run).argmax(1).view(-1, 2)
    notes = {
        "accuracy after the warm-up": start.watched[-1],
        "share of comparisons with one verdict in both orders": float((verdict[:, 0] != verdict[:, 1]).float().mean()),
        "probability of the aspect that decides": float(done.table[0, 0]),
    }
    return done.outcome("probability of a right verdict", notes)


# -- critics -----------------------------------------------------------------------------------------------------------
class Solver(nn.Module):
    """Refines: its first symbol is 1 (right) with probability `able` if the critique named the wrong digit, else with
    `lucky`."""

    kind = "tabular"

    def __init__(self, able: float, lucky: float):
        super().__init__()
        chance = torch.tensor([lucky, able])
        self.logits = nn.Parameter(torch.stack([1 - chance, chance], 1).log(), requires_grad=False)

    def next(self, batch: Batch) -> Categorical:
        return Categorical.of(self.logits[batch.row["_named"]])


@dataclass(frozen=True)
class Criticised(SequenceWorld):
    """A row is a verdict (0: the solution is wrong) and the number of a digit. wrong (size,): the wrong digit of every
    solution, -1 for none."""

    wrong: Tensor | None = None

    def judged_wrong(self, batch: Batch) -> Tensor:
        return batch.step["_step"][:, 0] == 0

    def refine(self, batch: Batch) -> Batch:
        assert self.wrong is not None
        named = batch.step["_step"][:, 1] == self.wrong[batch.row["task"]]
        return self.start(Tasks(batch.row["task"], {"_named": named.long()}))

    def refined(self, rows: Batch) -> Tensor:
        return (rows.step["_step"][:, 0] == 1).float()


def wrong_digits(method: Method, seed: int, rounds: int, able: float = 0.9, lucky: float = 0.05) -> Outcome:
    """32 solutions of 5 digits, half with a random wrong digit; a critic's table knows the solution it reads. A frozen
    solver mends a wrong solution with probability 0.9 if the critique names the wrong digit, else 0.05.

    value: probability that a wrong solution is called wrong and then mended, mean, exact. score: the same.
    notes: probability of a right verdict. Rows: those of the critic.
    """
    size, digits = 32, 5
    rng = numbers(seed, "wrong digits")
    wrong = torch.where(torch.arange(size) % 2 == 0, torch.randint(digits, (size,), generator=rng), -1)
    world = Criticised(size, digits, 2, lambda s, task: (s[:, 0] == (wrong[task] < 0).long()).float(), wrong=wrong)
    bad = (wrong >= 0).nonzero()[:, 0]

    def mended(run: Run, done: Round) -> float:
        said = probabilities(run).view(size, 2, digits)[bad]
        named = said[:, 1].gather(1, wrong[bad, None])[:, 0]
        return float((said[:, 0, 0] * (able * named + lucky * (1 - named))).mean())

    models = {"policy": uniform_table(world.states, digits), "solver": Solver(able, lucky)}
    done = fit(method, world, models, rounds, seed, mended)
    said = done.table.view(size, 2, digits)
    verdict = said[:, 0].gather(1, (wrong < 0).long()[:, None])
    rows = rounds * method.selection.count * method.sampling.size
    notes = {
        "probability of a right verdict": float(verdict.mean()),
        "probability that the wrong digit is named": float(said[bad, 1].gather(1, wrong[bad, None]).mean()),
    }
    return Outcome(done.watched[-1], done.watched[-1], rows, done.watched, "share mended", notes)


# -- users -------------------------------------------------------------------------------------------------------------
PLEASED, DISPLEASED = ((0, 1), (1, 1)), ((2, 3), (3, 3))


@dataclass(frozen=True)
class Dialogues(SequenceWorld):
    """A question is answered by one symbol; two more are a user's reaction. States: of questions; then of question and
    answer; then of question, answer and the reaction's first symbol."""

    @property
    def states(self) -> int:
        return self.size * (1 + self.choices + self.choices**2)

    def state(self, task: Tensor, written: Tensor) -> Tensor:
        """After 0, 1 or 2 symbols (B, n)."""
        place = task
        for symbol in written.unbind(1):
            place = place * self.choices + symbol
        return place + self.size * sum(self.choices**n for n in range(written.shape[1]))

    def start(self, tasks: Tasks) -> Batch:
        return super().start(tasks).with_rows({"_state": tasks.id})

    def append(self, batch: Batch, step: Tensor, logp: Tensor, live: Tensor, version: int) -> Batch:
        added = super().append(batch, step, logp, live, version)
        written = added.step["_step"][:, :2]
        return added.with_rows({"_state": self.state(batch.row["task"], written)})

    def follow_ups(self, batch: Batch) -> tuple[Batch, Tensor, Tensor]:
        of = torch.arange(len(batch)).repeat_interleave(4)
        said = torch.tensor([*PLEASED, *DISPLEASED]).repeat(len(batch), 1)
        answer = batch.step["_step"][of, :1]
        wide = replace(self, limit=3)
        rows = wide.complete(Tasks(batch.row["task"][of]), torch.cat([answer, said], 1))
        rows = rows.with_steps({"train": rows.step["train"] & (torch.arange(3) > 0)})
        return rows, of, torch.tensor([True, True, False, False]).repeat(len(batch))


def reactions_of_users(method: Method, seed: int, rounds: int, dialogues: int = 4000) -> Outcome:
    """16 questions of 8 answers, one right. A table learns `dialogues`, of whose answers three in ten are the right one
    and the others random, with reactions of 2 symbols, pleased if the answer is right, but otherwise in a fifth of
    them; without any it is random.

    value and score: probability of the right answer, mean over questions, exact, after the last round.
    """
    size, choices, rng = 16, 8, numbers(seed, "reactions of users")
    right = torch.randint(choices, (size,), generator=rng)
    world = Dialogues(size, choices, 1, lambda s, task: (s[:, 0] == right[task]).float())
    user = Table(torch.randn(world.states, choices, generator=rng))
    if dialogues:
        task = torch.randint(size, (dialogues,), generator=rng)
        answer = torch.where(
            torch.rand(dialogues, generator=rng) < 0.3,
            right[task],
            torch.randint(choices, (dialogues,), generator=rng),
        )
        pleased = (answer == right[task]) ^ (torch.rand(dialogues, generator=rng) < 0.2)
        which = torch.randint(2, (dialogues,), generator=rng)
        said = torch.where(pleased[:, None], torch.tensor(PLEASED)[which], torch.tensor(DISPLEASED)[which])
        learned = _Read(replace(world, limit=3), torch.cat([answer[:, None], said], 1), task)
        made = override(load("flr:flr_user"), {"selection.count": 1000, "update.learning_rate": 0.1})
        fit(made, learned, {"policy": user}, 60, seed, lambda run, _: 0.0)
    models = {"policy": uniform_table(size, choices), "user": user}

    def accuracy(run: Run, done: Round) -> float:
        return float(probabilities(run).gather(1, right[:, None]).mean())

    done = fit(method, world, models, rounds, seed, accuracy)
    every = torch.cartesian_prod(torch.arange(size), torch.arange(choices))
    rows, of, pleased = world.follow_ups(world.complete(Tasks(every[:, 0]), every[:, 1:]))
    with torch.no_grad():
        likely = user.score(rows).logp[:, 1:].mean(1)
    said = likelihood_contrast(likely, of, pleased, len(every))
    fine = every[:, 1] == right[every[:, 0]]
    notes = {"AUC of the reward, right answers against wrong ones": area_under_curve(said[fine], said[~fine])}
    return done.outcome("probability of the right answer", notes)


@dataclass(frozen=True)
class _Read:
    """Dialogues as tasks: strings (M, 3) and the question (M,) of each."""

    inner: Dialogues
    strings: Tensor
    of: Tensor

    @property
    def size(self) -> int:
        return len(self.of)

    def tasks(self, ids: Tensor) -> Tasks:
        return Tasks(ids)

    def recorded(self, tasks: Tasks) -> Batch:
        return self.inner.complete(Tasks(self.of[tasks.id], tasks.row), self.strings[tasks.id])


# -- annotators --------------------------------------------------------------------------------------------------------
@dataclass(frozen=True)
class Annotated(SequenceWorld):
    """Items of a quality (V,); an annotator reads two of them."""

    quality: Tensor | None = None
    taste: float = 1.0  # for the one that it reads first, log-odds
    noise: float = 1.5  # of its view of the gap
    aided: float = 0.5  # the same with an answer of its own

    def annotate(self, first: Batch, second: Batch, own: Batch | None, rng: torch.Generator) -> Tensor:
        assert self.quality is not None
        gap = self.quality[first.step["_step"][:, 0]] - self.quality[second.step["_step"][:, 0]]
        spread = self.noise if own is None else self.aided
        return torch.sigmoid(2 * (gap + spread * torch.randn(len(gap), generator=rng)) + self.taste)


def annotated_items(method: Method, seed: int, rounds: int) -> Outcome:
    """Items of 32 normal qualities, drawn uniformly; a scripted annotator labels pairs of them and a table is trained
    as reward model.

    value: share of decided pairs of different items that are labelled rightly, over all rounds. score: share of all
    pairs of items that the reward model orders rightly.
    """
    items = 32
    quality = torch.randn(items, generator=numbers(seed, "annotated items"))
    world = Annotated(1, items, 1, lambda s, task: torch.zeros(len(task)), quality=quality)
    right: list[Tensor] = []

    def labels(run: Run, done: Round) -> float:
        rows = done.judged
        chosen, rejected = ((rows.row["rank"] == side).nonzero()[:, 0] for side in (0, 1))
        chosen, rejected = (side[rows.row["pair"][side].argsort()] for side in (chosen, rejected))
        gap = quality[rows.step["_step"][chosen, 0]] - quality[rows.step["_step"][rejected, 0]]
        right.append((gap[gap != 0] > 0).float())
        return float(right[-1].mean())

    judge = TableReward(torch.zeros(1, items))
    done = fit(method, world, {"policy": uniform_table(1, items), "reward": judge}, rounds, seed, labels)
    said = judge.values.detach()[0]
    one, other = torch.triu_indices(items, items, 1).unbind(0)
    same = ((said[one] > said[other]) == (quality[one] > quality[other])).float()
    notes = {
        "share of pairs that the reward model orders rightly": float(same.mean()),
        "share of pairs without a decision": 1 - sum(len(x) for x in right) / (rounds * method.selection.count),
    }
    rows = rounds * method.selection.count * method.sampling.size
    return Outcome(
        float(torch.cat(right).mean()), float(same.mean()), rows, done.watched, "share labelled rightly", notes
    )


# -- rankings ----------------------------------------------------------------------------------------------------------
def steep_rewards(method: Method, seed: int, rounds: int, steepness: float = 30.0) -> Outcome:
    """Strings of 8 of 4 symbols with a target; the reward is exp(steepness times the share of right symbols).

    value and score: expected share of right symbols, exact, after the last round.
    """
    length, choices = 8, 4
    target = torch.randint(choices, (length,), generator=numbers(seed, "steep rewards"))
    world = SequenceWorld(
        1, choices, length, lambda s, task: (steepness * (s == target).double().mean(1)).exp().float()
    )

    def share(run: Run, done: Round) -> float:
        return float(probabilities(run).gather(1, target[:, None]).mean())

    done = fit(method, world, {"policy": uniform_table(length, choices)}, rounds, seed, share)
    return done.outcome("expected share of right symbols")
