"""Preference pairs of steps that share what came before: siblings in trees that are searched by PUCT, the policy's own
probabilities as prior. The trees of a round's tasks grow side by side, so that a model is asked for many rows at once.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from policyopt.compose import CompositionError, Context, Part
from policyopt.ops.masked import select
from policyopt.ops.sequences import own_choices, total_reward
from policyopt.sampling.samplers import Draw, Group, Judge
from policyopt.seen import asked
from policyopt.types import Batch, concatenate


class Place:
    """A prefix of a tree while it is searched: row `number` of `rows`. prior: of the step that led here; gain: what
    that step was worth by itself; worth: v of the place, before what follows; q, value, visits: of the search."""

    def __init__(
        self, rows: Batch, number: int, parent: Place | None = None, prior: float = 1.0, *, done: bool = False
    ):
        self.rows, self.number, self.parent, self.prior, self.done = rows, number, parent, prior, done
        self.depth: int = 0 if parent is None else parent.depth + 1
        self.children: list[Place] = []
        self.worth = self.gain = self.value = self.q = 0.0
        self.visits = 0

    @property
    def row(self) -> Batch:
        return self.rows[self.number : self.number + 1]


Pair = tuple[Place, Place]


def puct(place: Place, exploration: float) -> float:
    """Q(s, a) + exploration p(a | s) sqrt(N(s)) / (1 + N(s, a))."""
    assert place.parent is not None
    return place.q + exploration * place.prior * math.sqrt(place.parent.visits) / (1 + place.visits)


def siblings(place: Place, margin: float) -> list[Pair]:
    """The children of largest and smallest Q, the first among equals, if they are more than `margin` apart."""
    if not place.children:
        return []
    best, worst = (pick(place.children, key=lambda child: child.q) for pick in (max, min))
    return [(best, worst)] if best.q - worst.q > margin else []


def doubt(won: int, lost: int) -> float:
    """min(1 - conf, 1/2) of a pair by the visits of its sides, conf = 1 / (1 + N_l / max(1, N_w))."""
    return min(1 - 1 / (1 + lost / max(1, won)), 0.5)


def as_rows(pairs: Sequence[Pair], choices: Callable[[Batch], Tensor], *, doubted: bool) -> Batch:
    """Two rows a pair, the preferred one first: each ends with its step and is trained from the first choice on in
    which the two differ. Row columns `pair`, `rank` and `doubt`."""
    rows = concatenate([place.row for pair in pairs for place in pair])
    taken = choices(rows)
    first = (taken[0::2] != taken[1::2]).long().argmax(1).repeat_interleave(2)
    behind = rows.own.cumsum(1) - 1 >= first[:, None]
    chance = [doubt(won.visits, lost.visits) if doubted else 0.0 for won, lost in pairs]
    column = torch.tensor(chance, dtype=rows.step["reward"].dtype, device=rows.device).repeat_interleave(2)
    number = torch.arange(len(pairs), device=rows.device).repeat_interleave(2)
    columns = {"pair": number, "rank": torch.arange(len(rows), device=rows.device) % 2, "doubt": column}
    return rows.with_rows(columns).with_steps({"train": rows.step["train"] & behind})


@dataclass(frozen=True)
class SiblingPairs(Part, ABC):
    """A tree of every task, of `depth` steps of `steps` choices each (the last one may be shorter): `branching`
    different continuations of the root, of its children, and so on (the last number holds for what is deeper);
    continuations that repeat a sibling are dropped.

    A prior is exp(log-probability of the step / its length^length_power). model: who searches.
    """

    iterations: int = 5
    branching: tuple[int, ...] = (2,)
    depth: int = 3
    steps: int = 64
    exploration: float = 1.0
    length_power: float = 1.25
    temperature: float = 1.0
    model: str = "policy"

    writes = ("pair", "rank", "doubt")

    def __post_init__(self) -> None:
        Group(1, self.temperature)
        least = min(self.iterations, self.depth, self.steps, *(self.branching or (0,)))
        if least < 1 or min(self.exploration, self.length_power) < 0:
            raise CompositionError(
                "need iterations, branching, depth and steps of at least 1, exploration and length_power of 0 or more, "
                f"got {self.iterations}, {self.branching}, {self.depth}, {self.steps}, {self.exploration} and "
                f"{self.length_power}"
            )

    @abstractmethod
    def found(self, ctx: Context, roots: list[Place], judge: Judge) -> list[Pair]:
        """Pairs of siblings, after the search."""

    doubted = False

    def __call__(self, ctx: Context, draw: Draw, judge: Judge) -> Batch:
        begun = ctx.world.start(draw())
        roots = [Place(begun, n) for n in range(len(begun))]
        pairs = self.found(ctx, roots, judge)
        ctx.meter.add("pairs", len(pairs), 1)
        if pairs:
            return as_rows(pairs, lambda rows: own_choices(ctx.models[self.model], rows), doubted=self.doubted)
        # Nothing to learn from: some step of each tree, as no side of any pair.
        rows = concatenate([child.row for root in roots for child in root.children[:1]] or [begun])
        none = torch.full_like(rows.row["task"], -1)
        blank = torch.zeros(len(rows), dtype=rows.step["reward"].dtype, device=rows.device)
        return rows.with_rows({"pair": none, "rank": none, "doubt": blank})

    def ended(self, place: Place) -> bool:
        return place.done or place.depth >= self.depth

    def chosen(self, place: Place) -> Place:
        """The child of largest PUCT value, the first among equals."""
        return max(place.children, key=lambda child: puct(child, self.exploration))

    def leaf(self, place: Place) -> list[Place]:
        """From a place down to a leaf, both included."""
        path = [place]
        while path[-1].children:
            path.append(self.chosen(path[-1]))
        return path

    def grow(self, ctx: Context, leaves: list[Place]) -> tuple[list[Place], Batch, Tensor]:
        """The new children of some leaves in their order, their rows, and which steps of these are new."""
        wide = torch.tensor([self.branching[min(leaf.depth, len(self.branching) - 1)] for leaf in leaves])
        rows = concatenate([leaf.row for leaf in leaves])
        rows = rows[torch.arange(len(leaves)).repeat_interleave(wide).to(rows.device)]
        before = rows.valid.sum(1)
        rows = ctx.extend(rows, self.model, self.temperature, steps=self.steps)
        fresh = rows.own & (torch.arange(rows.steps, device=rows.device) >= before[:, None])
        length = fresh.sum(1).clamp(min=1).double()
        logp = select(fresh, rows.step["behaviour"]).double().sum(1)
        prior = (logp / length**self.length_power).exp().tolist()
        taken = [tuple(row) for row in own_choices(ctx.models[self.model], rows).tolist()]
        over, made, n = rows.done.tolist(), [], 0
        for leaf, width in zip(leaves, wide.tolist(), strict=True):
            # A dictionary keeps the first of equals.
            for row in {taken[row]: row for row in reversed(range(n, n + width))}.values():
                leaf.children.insert(0, Place(rows, row, leaf, prior[row]))
                leaf.children[0].done = over[row]
            made += leaf.children
            n += width
        number = torch.tensor([place.number for place in made], device=rows.device)
        return made, rows[number], fresh[number]


@dataclass(frozen=True)
class JudgedSiblings(SiblingPairs):
    """MCTS-DPO's search (arXiv 2405.00451). From the root, then from its best child, and so on: `iterations` walks
    (at the root `first` times as many) go down by PUCT and expand until a row is done or `depth` is reached; the best
    and the worst child by Q make a pair at every root.

    v = confidence C / max(d - 3, 1) + O, C how right the world judges the step to be (`judge_steps`), d the depth of
    the parent, O = 1 for a finished row whose reward exceeds `right`, -1 for another one. r = v - v(parent),
    Q = r + gamma V(child), V = sum_a max(1, N_a) Q_a / sum_a max(1, N_a); a new child has Q = V(parent) + r.
    `doubt`: from the visits of the two. A confidence of 0 asks no judge.
    """

    first: int = 4
    gamma: float = 1.0
    confidence: float = 1.0
    right: float = 0.5

    doubted = True

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.first < 1 or not 0 <= self.gamma <= 1 or self.confidence < 0:
            raise CompositionError(
                f"need first >= 1, gamma in 0..1 and confidence >= 0, got {self.first}, {self.gamma}, {self.confidence}"
            )

    def found(self, ctx: Context, roots: list[Place], judge: Judge) -> list[Pair]:
        pairs: list[Pair] = []
        while roots:
            walks = self.iterations * (self.first if roots[0].depth == 0 else 1)
            for _ in range(walks):
                self.walk(ctx, roots, judge)
            pairs += [pair for root in roots for pair in siblings(root, 0.0)]
            best = [max(root.children, key=lambda child: child.q) for root in roots if root.children]
            roots = [place for place in best if not self.ended(place)]
        return pairs

    def walk(self, ctx: Context, roots: list[Place], judge: Judge) -> None:
        """One walk from every root, and what it found backed up."""
        paths = [self.leaf(root) for root in roots]
        going = [path for path in paths if not self.ended(path[-1])]
        while going:
            made, rows, fresh = self.grow(ctx, [path[-1] for path in going])
            for place, worth in zip(made, self.valued(ctx, made, rows, fresh, judge), strict=True):
                assert place.parent is not None
                place.worth, place.gain = worth, worth - place.parent.worth
                place.q = place.parent.value + place.gain
            for path in going:
                path.append(self.chosen(path[-1]))
            going = [path for path in going if not self.ended(path[-1])]
        for path in paths:
            for place in reversed(path):
                if place.children:
                    weight = [max(1, child.visits) for child in place.children]
                    total = sum(w * child.q for w, child in zip(weight, place.children, strict=True))
                    place.value = total / sum(weight)
                place.visits += 1
                place.q = place.gain + self.gamma * place.value

    def valued(self, ctx: Context, made: list[Place], rows: Batch, fresh: Tensor, judge: Judge) -> list[float]:
        """v of new places."""
        worth = torch.zeros(len(rows), dtype=torch.float64)
        if self.confidence:
            said = asked(ctx.world, "judge_steps", "how right a step is")(rows).double()
            told = fresh & ~said.isnan()
            mean = select(told, said).sum(1) / told.sum(1).clamp(min=1)
            near = torch.tensor([max(place.depth - 1 - 3, 1) for place in made], dtype=torch.float64)
            worth += self.confidence * mean.cpu() / near
        over = rows.done.nonzero()[:, 0]
        if len(over):
            judged = judge(rows[over])
            outcome = torch.where(total_reward(judged) > self.right, 1.0, -1.0).double()
            worth[over.cpu()] += select(judged.row["scored"], outcome).cpu()
            ctx.meter.mean("reward_found", total_reward(judged), judged.row["scored"])
        return worth.tolist()


@dataclass(frozen=True)
class RolloutSiblings(SiblingPairs):
    """Siblings by the mean reward of rollouts through them (iTool, arXiv 2501.09766): in every iteration the leaf that
    PUCT leads to gets its children, each is rolled out once, and the rewards are backed up. At every place that was
    expanded, the best and the worst child by Q make a pair if they are more than `margin` apart."""

    margin: float = 0.0

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.margin < 0:
            raise CompositionError(f"margin must not be negative, got {self.margin}")

    def found(self, ctx: Context, roots: list[Place], judge: Judge) -> list[Pair]:
        expanded: list[Place] = []
        for _ in range(self.iterations):
            leaves = [self.leaf(root)[-1] for root in roots]
            again = [leaf for leaf in leaves if self.ended(leaf)]
            for leaf in again:
                self.credit(leaf, leaf.value)
            going = [leaf for leaf in leaves if not self.ended(leaf)]
            if not going:
                continue
            expanded += going
            made, rows, _ = self.grow(ctx, going)
            rolled = judge(ctx.extend(rows, self.model, self.temperature))
            ctx.meter.mean("reward_found", total_reward(rolled), rolled.row["scored"])
            paid = select(rolled.row["scored"], total_reward(rolled)).tolist()
            for place, reward in zip(made, paid, strict=True):
                self.credit(place, reward)
        return [pair for place in expanded for pair in siblings(place, self.margin)]

    def credit(self, place: Place, reward: float) -> None:
        """Add to the means of a place and of all above it."""
        node: Place | None = place
        while node is not None:
            node.visits += 1
            node.value += (reward - node.value) / node.visits
            node.q, node = node.value, node.parent
