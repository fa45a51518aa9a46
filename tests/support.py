"""What tests of the parts share: ragged batches, models that are tables of numbers, contexts without a loop."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from policyopt.compose import About, Given, Method, Part, Role, Stage, Term
from policyopt.run import Run, StageContext
from policyopt.selection.tasks import Selection
from policyopt.types import Batch, Categorical, Finish, Scores, StepKind
from policyopt.update.gradient import GradientSteps, losses
from policyopt.update.optimizers import SGD

LENGTHS = (1, 2, 7, 13)
ROWS, WIDTH, CHOICES = 8, 104, 5
NAN = float("nan")


def numbers(*shape: int, seed: int = 0, scale: float = 1.0) -> Tensor:
    """Normal float64 numbers, a function of shape and seed."""
    return scale * torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


class Grid(nn.Module):
    """A policy and critic without context: numbers per row (`_row`) and step. Log-probabilities are free numbers
    (`logp`) or follow from `logits` and the row's steps `_step`."""

    kind = "tabular"

    def __init__(self, logp: Tensor | None = None, logits: Tensor | None = None, values: Tensor | None = None):
        super().__init__()
        for name, given in (("logp", logp), ("logits", logits), ("values", values)):
            if given is not None:
                setattr(self, name, nn.Parameter(given.clone()))
        self.calls = 0

    def score(self, batch: Batch, context: str | None = None, *, full: bool = False) -> Scores:
        self.calls += 1
        rows, width = batch.row["_row"], batch.steps
        if hasattr(self, "logp"):
            return Scores(self.logp[rows, :width])
        dist = Categorical.of(self.logits[rows, :width])
        return Scores(dist.log_prob(batch.step["_step"]), dist.entropy(), dist if full else None)

    def value(self, batch: Batch) -> Tensor:
        return self.values[batch.row["_row"], : batch.steps + 1]


def grid(seed: int, scale: float = 0.3) -> Grid:
    """Free log-probabilities around -1, and values."""
    logp = numbers(ROWS, WIDTH, seed=seed, scale=scale) - 1
    return Grid(logp=logp, values=numbers(ROWS, WIDTH + 1, seed=seed + 100))


def logit_grid(seed: int) -> Grid:
    return Grid(logits=numbers(ROWS, WIDTH, CHOICES, seed=seed))


def ragged(lengths: Sequence[int] = LENGTHS, *, tools: bool = True, seed: int = 0) -> Batch:
    """Rows of uneven lengths, with random columns; what lies beyond a row's end is random too.

    tools: steps 3 and 4 of rows longer than 6 are a tool's, step 5 of the longest is a hint, and its step 7 is
    an own step that is not trained on. Groups interleave (rows 0 and 2, 1 and 3 ...), pairs are the groups.
    """
    size, width = len(lengths), max(lengths)
    kind = torch.zeros(size, width, dtype=torch.uint8)
    train = torch.ones(size, width, dtype=torch.bool)
    for row, length in enumerate(lengths):
        kind[row, :length] = int(StepKind.OWN)
        if tools and length > 6:
            kind[row, 3:5] = int(StepKind.TOOL)
        if tools and length > 12:
            kind[row, 5] = int(StepKind.HINT)
            train[row, 7] = False
    rng = torch.Generator().manual_seed(seed)
    index = torch.arange(size)
    row = {
        "task": index % 2,
        "group": 7 - 4 * (index % 2),
        "source": torch.zeros(size, dtype=torch.int64),
        "finish": torch.full((size,), int(Finish.STOPPED)),
        "scored": torch.ones(size, dtype=torch.bool),
        "temperature": torch.ones(size, dtype=torch.float64),
        "pair": index % 2 + 2 * (index // 4),
        "rank": (index // 2) % 2,
        "_row": index,
    }
    step = {
        "kind": kind,
        "train": train,
        "behaviour": numbers(size, width, seed=seed + 1, scale=0.3) - 1,
        "reward": numbers(size, width, seed=seed + 2),
        "turn": torch.zeros(size, width, dtype=torch.int64),
        "version": torch.zeros(size, width, dtype=torch.int64),
        "advantage": numbers(size, width, seed=seed + 3),
        "return": numbers(size, width, seed=seed + 4),
        "value": numbers(size, width, seed=seed + 5),
        "_step": torch.randint(CHOICES, (size, width), generator=rng),
    }
    return Batch(row, step)


def per_row(batch: Batch, values: Sequence[float] | Tensor, column: str = "advantage") -> Batch:
    """The same number on all steps of a row."""
    values = torch.as_tensor(values, dtype=torch.float64)
    return batch.with_steps({column: values[:, None].expand(-1, batch.steps).clone()})


def rewarded(batch: Batch, rewards: Sequence[float] | Tensor) -> Batch:
    """The reward of a row on its first step, nothing elsewhere (padding included)."""
    column = torch.zeros(len(batch), batch.steps, dtype=torch.float64)
    column[:, 0] = torch.as_tensor(rewards, dtype=torch.float64)
    return batch.with_steps({"reward": column})


def widened(batch: Batch, columns: int, fill: float = 1e3) -> Batch:
    """More padding on the right; its numbers are `fill`, because padding may hold anything."""
    step = {}
    for name, old in batch.step.items():
        value = fill if old.is_floating_point() else 0
        step[name] = torch.cat([old, old.new_full((len(batch), columns, *old.shape[2:]), value)], 1)
    return Batch(batch.row, step, {})


def partitions(items: Sequence[int]) -> list[list[list[int]]]:
    """Every way to divide items into non-empty sets (15 for four items)."""
    if not items:
        return [[]]
    first, found = items[0], []
    for smaller in partitions(items[1:]):
        found.append([[first], *smaller])
        for place in range(len(smaller)):
            found.append([*smaller[:place], [first, *smaller[place]], *smaller[place + 1 :]])
    return found


@dataclass(frozen=True)
class Columns(Part):
    """A sampler that stands for parts which write every column a term may read."""

    @property
    def writes(self) -> tuple[str, ...]:
        return ("advantage", "return", "value", "pair", "rank")

    def __call__(self, ctx: Any, draw: Any, judge: Any) -> Batch:
        raise AssertionError("these tests begin with a batch")


ABOUT = About("test", "a test", "none", "none", "none", "none", "none")
ROLES: Mapping[str, Role] = {
    "old": Role("old"),
    "reference": Role("reference"),
    "teacher": Role("teacher"),
}
FULL_ROLES: Mapping[str, Role] = {
    "policy": Role(grad=True, full=True),
    "old": Role("old", full=True),
    "reference": Role("reference", full=True),
    "teacher": Role("teacher", full=True),
}
MODELS = ("old", "reference", "teacher", "critic")


def method(
    *terms: Term, update: GradientSteps | None = None, roles: Mapping[str, Role] = ROLES, **parts: Any
) -> Method:
    names = {"policy", *(term.trains for term in terms)}
    made = update or GradientSteps({name: SGD(1.0) for name in sorted(names)}, clip_norm=None)
    return Method(
        about=ABOUT,
        selection=parts.pop("selection", Selection()),
        sampling=parts.pop("sampling", Columns()),
        update=made,
        objective=terms,
        roles=roles,
        models={name: Given("a table") for name in MODELS},
        **parts,
    )


def grids(full: bool = False) -> dict[str, Grid]:
    """Policy and its relatives, all different."""
    make = logit_grid if full else grid
    models = {name: make(seed) for seed, name in enumerate(("policy", *MODELS))}
    if full:
        models["critic"] = grid(4)
    return models


def context(
    made: Method, models: Mapping[str, nn.Module], world: Any = None, engine: Any = None, seed: int = 0
) -> StageContext:
    return StageContext(Run(models, world, engine, seed), Stage(made, 10))


def full_step(
    ctx: StageContext, batch: Batch, micro_rows: int | None = None, model: str = "policy"
) -> tuple[Tensor, Tensor]:
    """The loss of one optimiser step and its gradient by the policy's (or critic's) first table used."""
    parameters = list(ctx.models[model].parameters())
    for parameter in parameters:
        parameter.grad = None
    value = torch.zeros((), dtype=torch.float64)
    for loss in losses(ctx, batch, ctx.stage.terms, micro_rows):
        if loss.requires_grad:
            loss.backward(inputs=parameters)
        value = value + loss.detach()
    found = [p.grad.clone() for p in parameters if p.grad is not None]
    return value, found[0] if found else torch.zeros_like(parameters[0])


def on_ranks(count: int, work: Callable[[int, Callable[[Tensor], Tensor]], Any]) -> list[Any]:
    """Run `work(rank, total)` on simulated ranks, side by side; `total` sums a tensor over them."""
    barrier, parts = threading.Barrier(count, timeout=20), {}

    def one(rank: int) -> Any:
        def total(x: Tensor) -> Tensor:
            parts[rank] = x
            barrier.wait()
            summed = torch.stack([parts[other] for other in range(count)]).sum(0)
            barrier.wait()
            return summed

        finished = False
        try:
            result = work(rank, total)
            finished = True
        finally:
            if not finished:
                barrier.abort()  # the others must not wait for a rank that failed
        return result

    with ThreadPoolExecutor(count) as pool:
        return list(pool.map(one, range(count)))


def close(found: Tensor | float, expected: Any, atol: float = 1e-12, what: str = "") -> None:
    """Assert equality to `atol`, nan never equal. The message names the largest difference."""
    found = torch.as_tensor(found, dtype=torch.float64).detach()
    expected = torch.as_tensor(expected, dtype=torch.float64).detach()
    assert found.shape == expected.shape, f"{what}: shape {tuple(found.shape)}, not {tuple(expected.shape)}"
    difference = (found - expected).abs()
    worst = float(difference.max()) if difference.numel() else 0.0
    assert worst <= atol, f"{what}: differs by {worst}"


def masked_entries(batch: Batch, seen: Tensor) -> Tensor:
    """The same numbers with nan wherever a step is not trained on (tables are wider than the batch)."""
    poisoned = torch.full_like(seen, NAN)
    inside = seen[: len(batch), : batch.steps]
    mask = batch.trained if inside.dim() == 2 else batch.trained[..., None]
    poisoned[: len(batch), : batch.steps] = torch.where(mask, inside, NAN)
    return poisoned


def with_row(batch: Batch, **columns: Sequence[Any]) -> Batch:
    """Row columns replaced, in the dtype they had."""
    return batch.with_rows({n: torch.tensor(c, dtype=batch.row[n].dtype) for n, c in columns.items()})
