"""A small real policy of every kind, its world, rows that it wrote there, and what the loops say of a part on them.

Nothing here is of one part: a kind is a policy, relatives of it (old, reference, teacher ...), a critic and rows.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import cache
from typing import Any

import numpy as np
import torch
from gymnasium import spaces
from torch import Tensor, nn

import loops
from cases import AVERAGES, Case
from cases_rewards import strengths
from policyopt.compose import Role
from policyopt.engines.plain import generate
from policyopt.ops.random import generator, new_keys
from policyopt.ops.searches import Searches
from policyopt.policies.bodies import MLP
from policyopt.policies.chains import flow
from policyopt.policies.checkpoint import new_language
from policyopt.policies.control import new_actor
from policyopt.policies.denoisers import Conditions, VectorDenoiser
from policyopt.policies.denoising import Denoiser, LearnedPrior
from policyopt.policies.tabular import Table
from policyopt.policies.trunk import Reading
from policyopt.types import Batch, Categorical, Source, Tasks
from policyopt.worlds.denoising import DenoisingWorld, Trainable
from policyopt.worlds.points import RoundDisc
from policyopt.worlds.tables import gridworld
from policyopt.worlds.tokens import TokenWorld
from support import numbers

KINDS = ("language", "control", "denoising", "tabular")
RELATIVES = {"policy": 0.0, "old": 0.15, "proximal": 0.15, "reference": 0.2, "teacher": 0.3}
"""Models of the policy's kind, and how far their parameters are from the policy's."""

SPREAD = {"language": 0.3, "control": 1.0, "denoising": 1.0, "tabular": 3.0}
"""What makes as far in parameters about as far in probabilities."""


@dataclass(frozen=True)
class Kind:
    """name; models: RELATIVES, "critic" and, where the kind has action values, "q"; world; rows: what the policy wrote
    there, with every column a part may read (random numbers) and some steps not trained on."""

    name: str
    models: dict[str, nn.Module]
    world: Any
    rows: Batch


# -- policies and worlds -------------------------------------------------------------------------------------------
def language() -> tuple[nn.Module, Any]:
    policy = new_language(11, "llama", hidden_size=16, layers=1, heads=2, seed=3, dtype=torch.float64)
    # Llama norms are in float32 whatever the type: a prompt that rows share would have its slopes added before
    # they are rounded, and the loops' after it.
    policy.reading = Reading(share=False)
    prompts = [[3], [5, 1, 7, 2], [4, 4], [9, 10, 6]]
    return policy, TokenWorld(prompts, eos=0, limit=8, decode=str, judge=graded)


def graded(texts: list[str], tasks: list[int]) -> list[float]:
    return [len(text) % 5 / 4 for text in texts]


def control() -> tuple[nn.Module, Any]:
    box = (spaces.Box(-np.inf, np.inf, (2,), np.float32), spaces.Box(-1.0, 1.0, (2,), np.float32))
    return new_actor(*box, head="gaussian", body=MLP((8,)), seed=2), RoundDisc(limit=6, near=1.5, speed=1.5, size=4)


def denoising() -> tuple[nn.Module, Any]:
    network = VectorDenoiser(3, Conditions(classes=4), width=8, depth=2, seed=1)
    policy = Denoiser(network, flow(4, eta=0.7), prior=LearnedPrior(3))
    conditions, trainable = torch.arange(4), Trainable(prior=True)
    return policy, DenoisingWorld(policy.chain.std, 3, 4, lambda x, task: x.sum(1), conditions, trainable=trainable)


def tabular() -> tuple[nn.Module, Any]:
    world = replace(gridworld(["S.G", ".#X", "S.."], 0.2, horizon=7), cut=True)
    return Table(torch.zeros(world.states, 4)), world


MAKE: dict[str, Callable[[], tuple[nn.Module, Any]]] = {f.__name__: f for f in (language, control, denoising, tabular)}


def moved(model: nn.Module, scale: float, seed: int) -> nn.Module:
    """A copy with normal noise on its parameters."""
    twin, rng = copy.deepcopy(model), torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in twin.parameters():
            parameter.add_(scale * torch.randn(parameter.shape, generator=rng, dtype=torch.float64))
    return twin


@cache
def kind(name: str) -> Kind:
    """Made once, in float64; nobody may change its models."""
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)
    try:
        fresh, world = MAKE[name]()
        policy: Any = moved(fresh, 0.4, 1)
        models = {role: moved(policy, SPREAD[name] * s, 10 + n) for n, (role, s) in enumerate(RELATIVES.items())}
        models["critic"] = moved(policy.make_critic(torch.Generator().manual_seed(0)), 0.3, 30)
        if hasattr(policy, "make_q"):
            models["q"] = moved(policy.make_q(torch.Generator().manual_seed(0), 2), 0.3, 31)
        return Kind(name, models, world, written(name, policy, world))
    finally:
        torch.set_default_dtype(before)


def written(name: str, policy: Any, world: Any) -> Batch:
    """Eight rows of two attempts at each of four tasks, in interleaved groups, with columns for every part."""
    ids = torch.arange(8) % world.size
    tasks = world.tasks(ids)
    tasks = Tasks(ids, {**tasks.row, "group": 20 - 3 * (torch.arange(8) % 4)})
    with torch.no_grad():
        rows = generate(policy, world, world.start(tasks), new_keys(8, generator(name, 3)), 1.0, 0)
    count, width, index = len(rows), rows.steps, torch.arange(8)
    steps = {
        "reward": torch.where(rows.own, numbers(count, width, seed=2), 0.0),
        "reward:sharp": torch.where(rows.own, numbers(count, width, seed=6), 0.0),
        "advantage": numbers(count, width, seed=3),
        "return": numbers(count, width, seed=4),
        "value": numbers(count, width, seed=5),
    }
    if name == "language":
        steps["_step"] = rows.step["_token"]  # what cases call a choice
    # Every fifth step is not trained on, and all but one step of a row.
    skipped = (torch.arange(count * width).view(count, width) % 5 == 3) | (
        (index == 6)[:, None] & (torch.arange(width) != 2)
    )
    steps["train"] = rows.step["train"] & ~skipped
    pairs = {"pair": index % 4, "rank": index // 4, "_row": index, "scored": index != 5}
    return rows.with_rows(pairs).with_steps(steps).with_steps({"train": steps["train"] & (index != 5)[:, None]})


def mark(batch: Batch) -> Tensor:
    """(B,) a whole number that differs between rows that were sampled differently."""
    said = torch.where(batch.own, batch.step["behaviour"].nan_to_num(), 0.0)
    return (1000 * said.abs().sum(1)).long()


class AnyName(dict[str, Tensor]):
    """Grades by name; for a name that there is none of, one that is made of the rows' marks."""

    def __init__(self, own: Mapping[str, Tensor], marks: Tensor):
        super().__init__(own)
        self.marks = marks

    def __contains__(self, name: object) -> bool:
        return True

    def __missing__(self, name: str) -> Tensor:
        return ((self.marks + len(name)) % 5 / 4).double()


@dataclass(frozen=True)
class Recorded:
    """A world with data: the eight rows that the policy wrote there, as recordings and as pairs."""

    inner: Any
    rows: Batch

    @property
    def size(self) -> int:
        return self.inner.size

    def __getattr__(self, name: str) -> Any:
        return getattr(self.inner, name)

    def checks(self, batch: Batch) -> Tensor:
        """Three tests of a row, by its length, its task and how it was sampled."""
        return ((batch.lengths + batch.row["task"] + mark(batch))[:, None] % torch.tensor([2, 3, 4]) == 0).double()

    def searches(self, batch: Batch) -> Searches:
        """Every own step searches and finds one of five documents, the first of which is gold."""
        document = torch.where(batch.own, (torch.arange(batch.steps) + mark(batch)[:, None]) % 5, -1)
        similar = torch.where(batch.own, (document == 0).double(), torch.nan)[..., None]
        return Searches(document[..., None], similar, similar)

    def rewind(self, batch: Batch, steps: Tensor) -> Batch:
        back = getattr(self.inner, "rewind", None)
        return batch.rewound(steps) if back is None else back(batch, steps)

    def answer_keys(self, batch: Batch) -> Tensor:
        return mark(batch) % 3

    def grade_heads(self, batch: Batch) -> Mapping[str, Tensor]:
        """Grades by the world's own names, and by any name that a method asks for."""
        own = self.inner.grade_heads(batch) if getattr(self.inner, "heads", None) else {}
        return AnyName(own, mark(batch))

    def task_pairs(self) -> tuple[Tensor, Tensor]:
        """Neighbouring tasks, of different similarity."""
        members = (
            torch.arange(self.size // 2 * 2).view(-1, 2) if self.size > 1 else torch.zeros(1, 2, dtype=torch.int64)
        )
        return members, torch.linspace(0.2, 1, len(members))

    def judge_steps(self, batch: Batch) -> Tensor:
        """Between 0.1 and 1, by place and by how the row was sampled."""
        return 0.1 + 0.9 * ((torch.arange(batch.steps) + mark(batch)[:, None]) % 4) / 3

    def judge_again(self, batch: Batch) -> Tensor:
        """Of another mind at some places."""
        return self.judge_steps(batch).roll(1, 1)

    def diversity(self, batch: Batch, ids: Tensor) -> Tensor:
        """Of sets of rows: how many lengths they have."""
        return torch.stack([batch.lengths[ids == one].unique().numel() / (ids == one).sum() for one in ids])

    def prefer(self, first: Batch, second: Batch) -> Tensor:
        """By how they were sampled, as in paper, scissors, stone."""
        return torch.tensor([0.5, 0.8, 0.2])[(mark(first) - mark(second)) % 3]

    def verdicts(self, first: Batch, second: Batch, own: Batch | None = None) -> tuple[Batch, Batch]:
        """A judge reads each row as the verdict for it."""
        return first, second

    def corrupted(self, rows: Batch, rng: torch.Generator) -> Batch:
        """Rows that somebody else wrote."""
        return rows.with_rows({"source": torch.full_like(rows.row["source"], int(Source.INJECTED))})

    def follow_ups(self, batch: Batch) -> tuple[Batch, Tensor, Tensor]:
        """Users go on from every row's first step, pleased; or they do not, and say all of it themselves."""
        of = torch.arange(len(batch)).repeat_interleave(2)
        pleased = torch.arange(len(of)) % 2 == 0
        said = batch[of]
        later = (torch.arange(said.steps) > 0) | ~pleased[:, None]
        return Batch(said.row, said.step).with_steps({"train": said.own & later}), of, pleased

    def judged_wrong(self, batch: Batch) -> Tensor:
        return mark(batch) % 2 == 0

    def refine(self, batch: Batch) -> Batch:
        """Begun again."""
        return self.rewind(batch, torch.zeros_like(batch.lengths))

    def refined(self, rows: Batch) -> Tensor:
        return (mark(rows) % 2).double()

    def forms(self, tasks: Tensor) -> Tensor:
        """A task and the next one."""
        return torch.stack([tasks, (tasks + 1) % self.size], 1)

    def publish(self, rows: Batch) -> None:
        """Nobody reads it."""

    def offered(self) -> Batch | None:
        return None

    @property
    def instructions(self) -> tuple[str, ...]:
        return ("budget", "hint", "pattern", "draft", "construction")

    def instruct(self, tasks: Tasks, name: str, values: Tensor) -> Tasks:
        """What rows are told is in their columns, and no policy listens."""
        return tasks.with_rows({name: values})

    def conclude(self, batch: Batch) -> Batch:
        """Rows answer from where they are."""
        return batch

    def _rows(self, index: Tensor, tasks: Tasks) -> Batch:
        found = self.rows[index].with_rows(tasks.row)
        return found.with_rows({"source": torch.full_like(index, int(Source.DATASET))})

    def recorded(self, tasks: Tasks) -> Batch:
        return self._rows(tasks.id % 4, tasks)

    def recorded_pairs(self, tasks: Tasks) -> Batch:
        both = tasks.repeat(2)
        rank = torch.tensor([0, 1]).repeat(len(tasks))
        label, safety = 1.0 - 0.7 * rank, 0.2 + 0.5 * rank
        columns = {"pair": both.row["group"], "rank": rank, "label": label.double(), "safety": safety.double()}
        rows = self._rows(both.id % 4 + 4 * rank, both).with_rows(columns)
        return rows.with_steps({"severity": torch.where(rows.own, 1.0 + 0.5 * rank[:, None], 0.0)})


def recorded(of: Kind) -> Recorded:
    """Rows as a data set has them: no columns of parts, every step trained on."""
    row = {n: c for n, c in of.rows.row.items() if n not in ("pair", "rank", "_row")}
    added = ("advantage", "return", "value", "reward:sharp", *(("_step",) if of.name == "language" else ()))
    step = {n: c for n, c in of.rows.step.items() if n not in added}
    row["scored"] = torch.ones_like(row["scored"])
    random = torch.ones_like(step["train"]) if of.name != "denoising" else step["_clock"] > 0
    policy: Any = of.models["policy"]
    if of.name == "denoising":
        random = random & torch.cat([torch.zeros(1), policy.chain.std]).gt(0)[step["_clock"]]
    return Recorded(of.world, Batch(row, {**step, "train": of.rows.own & random}))


# -- what the loops say --------------------------------------------------------------------------------------------
def gaussian_kl(m: list[float], s: list[float], n: list[float], t: list[float]) -> tuple[float, Any, Any]:
    """KL(N(m, s) || N(n, t)) over dimensions, and its derivatives by m and s."""
    value = sum(
        math.log(b / a) + (a * a + (x - y) ** 2) / (2 * b * b) - 0.5 for x, a, y, b in zip(m, s, n, t, strict=True)
    )
    by_m = [(x - y) / b**2 for x, y, b in zip(m, n, t, strict=True)]
    return value, by_m, [a / b**2 - 1 / a for a, b in zip(s, t, strict=True)]


def gaussian_entropy(m: list[float], s: list[float]) -> tuple[float, Any, Any]:
    value = sum(0.5 * math.log(2 * math.pi * math.e * a * a) for a in s)
    return value, [0.0] * len(m), [1 / a for a in s]


def gaussian_bonus(m: list[float], s: list[float], strength: float) -> tuple[float, Any, Any]:
    entropy, by_m, by_s = gaussian_entropy(m, s)
    return -strength * entropy, by_m, [-strength * x for x in by_s]


def gaussian_centred(
    m: list[float], s: list[float], n: list[float], t: list[float], step: list[float], advantage: float, share: float
) -> tuple[float, Any, Any]:
    """d = log N(x; m, s) - log N(x; n, t) + KL(N(n, t) || N(m, s)), each times the share of a dimension; derivatives
    divided by it, as the weight holds it again."""
    every = list(zip(m, s, n, t, step, strict=True))
    ratio = sum(math.log(b / a) - ((x - u) / a) ** 2 / 2 + ((x - v) / b) ** 2 / 2 for u, a, v, b, x in every)
    divergence = sum(math.log(a / b) + (b * b + (u - v) ** 2) / (2 * a * a) - 0.5 for u, a, v, b, x in every)
    value, slope = loops.of_change(0.7 * share * (ratio + divergence), advantage, 0.2, 0.28)  # as in its case
    by_m = [0.7 * slope * (x - v) / a**2 for u, a, v, b, x in every]
    by_s = [0.7 * slope * ((x - u) ** 2 - b * b - (u - v) ** 2) / a**3 for u, a, v, b, x in every]
    return value / share, by_m, by_s


GAUSSIAN: dict[str, tuple[Callable[..., Any], str]] = {
    "exact_kl": (gaussian_kl, "reference"),
    "full_reverse_kl": (gaussian_kl, "teacher"),
    "entropy": (gaussian_entropy, ""),
    "covariance_entropy": (gaussian_bonus, ""),
    "centred": (gaussian_centred, "old"),
}
"""Losses of whole distributions that have a closed form for normal steps, and the other role."""


def scored(case: Case, of: Kind) -> dict[str, Any]:
    """Scores of every role on the rows, with gradient where the trained model is asked."""
    found = {}
    for role, wanted in {"policy": Role(grad=True), **case.roles}.items():
        model: Any = of.models[wanted.model]
        with torch.set_grad_enabled(role == "policy"):
            found[role] = model.score(of.rows, None, full=case.full)
    return found


def by_loops(key: str, case: Case, of: Kind, average: str) -> tuple[Tensor, list[Tensor]]:
    """Loss and gradient by the parameters of the trained model: the loops say value and derivative by what a step is
    scored with (log-probability, distribution or value), the model itself turns that into parameters."""
    rows = of.rows
    weights = scale(case, rows, average)
    parameters = [p for p in of.models[case.trains].parameters() if p.requires_grad]
    if case.trains != "policy":
        critic: Any = of.models[case.trains]
        seen = critic.value(rows)[:, :-1]
        value, slope = case.reference(rows, {case.trains: seen.detach()})
        return (weights * value).sum(), gradient([seen], [weights * slope], parameters)
    scores = scored(case, of)
    dist = scores["policy"].dist if case.full else None
    if dist is not None and not isinstance(dist, Categorical):
        return of_normals(key, scores, rows, weights, parameters)
    tables = {role: (s.dist.logp if case.full else s.logp).detach() for role, s in scores.items()}
    value, slope = case.reference(rows, tables)
    spread = weights if case.unit != "pair" else of_pairs(rows, weights)
    while spread.dim() < slope.dim():
        spread = spread[..., None]
    through = dist.logp if dist is not None else scores["policy"].logp
    return (weights * value).sum(), gradient([through], [spread * slope], parameters)


def of_normals(
    key: str, scores: dict[str, Any], rows: Batch, weights: Tensor, parameters: list[Tensor]
) -> tuple[Tensor, list[Tensor]]:
    formula, other = GAUSSIAN[key]
    ours, theirs = scores["policy"].dist, scores[other].dist if other else None
    by_mean, by_std = torch.zeros_like(ours.mean), torch.zeros_like(ours.std)
    # Densities of denoising steps are averaged over dimensions, those of actions are summed.
    share = 1 / ours.mean.shape[-1] if hasattr(ours, "density") else 1.0
    taken = rows.step["_next" if "_next" in rows.step else "_action"]
    total, logp = 0.0, scores["policy"].logp.detach()
    strength = strengths(rows, {(b, t): float(logp[b, t]) for b, t in rows.trained.nonzero().tolist()})
    for b, t in rows.trained.nonzero().tolist():
        inputs = [ours.mean[b, t].tolist(), ours.std[b, t].tolist()]
        inputs += [theirs.mean[b, t].tolist(), theirs.std[b, t].tolist()] if theirs is not None else []
        if key == "centred":
            inputs += [taken[b, t].tolist(), float(rows.step["advantage"][b, t]), share]
        if key == "covariance_entropy":
            inputs += [strength[b, t]]
        value, mean, std = formula(*inputs)
        weight = share * float(weights[b, t])
        total += weight * value
        by_mean[b, t], by_std[b, t] = weight * torch.tensor(mean), weight * torch.tensor(std)
    found = [(ours.mean, by_mean), (ours.std, by_std)]
    found = [(through, slope) for through, slope in found if through.requires_grad]
    return torch.tensor(total), gradient([f for f, _ in found], [s for _, s in found], parameters)


def scale(case: Case, rows: Batch, average: str) -> Tensor:
    """The weights of the loops' average times the case's term weight of 0.7."""
    if case.unit == "step":
        return 0.7 * torch.tensor(AVERAGES[average][1](rows.trained.tolist()))
    trained = rows.trained.any(1)
    if case.unit == "pair":
        both = [all(bool(trained[i]) for i in range(8) if rows.row["pair"][i] == p) for p in rows.row["pair"]]
        trained = (rows.row["rank"] == 0) & torch.tensor(both)
    return 0.7 * torch.tensor(loops.row_mean(trained.tolist()))


def of_pairs(rows: Batch, weights: Tensor) -> Tensor:
    """The weight of a pair, which stands on its chosen row, on both."""
    pair, rank = rows.row["pair"], rows.row["rank"]
    return torch.stack([weights[(pair == p) & (rank == 0)][0] for p in pair])


def gradient(outputs: list[Tensor], slopes: list[Tensor], parameters: list[Tensor]) -> list[Tensor]:
    found = torch.autograd.grad(outputs, parameters, slopes, allow_unused=True)
    return [torch.zeros_like(p) if g is None else g for p, g in zip(parameters, found, strict=True)]
