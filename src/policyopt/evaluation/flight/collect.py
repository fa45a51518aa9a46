"""Flying one stage: rows are sampled, graded, credited and scored as a round would do it, and nothing is kept."""

from __future__ import annotations

import copy
import math
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor, nn

from policyopt.compose import Copy, Method, Nothing, Program, Stage
from policyopt.evaluation.flight.record import Cost, Grading, Leg, Probe, Start
from policyopt.evaluation.flight.slopes import Slope, first_update, idle_options, slopes
from policyopt.ops.kept import truncated
from policyopt.ops.random import generator, new_keys
from policyopt.options import options
from policyopt.run import Run, StageContext
from policyopt.sampling.truncated import Truncated
from policyopt.seen import SeenBatch, collect_roles
from policyopt.train import gather
from policyopt.types import Batch, Categorical, Source

TOLERANCE = {torch.float64: 1e-7, torch.float32: 1e-4}
HALF = 0.02  # of models in 16 bits
NUMBERS_MOST = 3e7  # of whole distributions at a time
TIMED_PARAMETERS = 50_000_000  # weights of larger models are not copied to be put back
ROWS_GUESSED = 256

Grade = Callable[[Any, Batch], Grading | None]


@dataclass(frozen=True)
class Sizes:
    """How much is flown. batches: whole rounds of a stage. rows, steps: of the probe (steps: in environments).
    patience: seconds that one batch's rewards, or a timed update, may take."""

    batches: int = 2
    rows: int = 256
    steps: int = 64
    patience: float = 20.0


@dataclass(frozen=True)
class Order:
    """What to fly: a stage by number, whether an earlier one trains its policy, the options that the recipe sets, and
    how its rewards are graded apart from a round."""

    index: int
    kind: str
    later: bool = False
    given: Mapping[str, Any] = field(default_factory=dict)
    grade: Grade | None = None


def fly(run: Run, program: Program, order: Order, sizes: Sizes) -> Leg:
    """One stage as it begins (or as it stands, in a run that goes on)."""
    stage = program.stages[order.index]
    begins = run.step <= stage.start
    run.step = max(run.step, stage.start)
    run.enter(stage)
    method, ctx = stage.method, StageContext(run, stage)
    leg = Leg(order.index, method.key, order.kind, order.later, not method.sampling.data)
    leg = replace(leg, rewarded=not isinstance(method.reward, Nothing), dropping=tuple(dropping(run.models)))
    graded = None
    if leg.samples:
        probed, probe = probe_of(ctx, order.kind, sizes)
        grade = order.grade if leg.rewarded and probed is not None else None
        graded = None if grade is None or probed is None else grade(ctx.world, probed)
        leg = replace(leg, probe=probe, grading=graded, obstacle=too_slow(method, graded, sizes))
    return leg if leg.obstacle else _gathered(run, stage, leg, order, begins=begins, sizes=sizes)


def too_slow(method: Method, grading: Grading | None, sizes: Sizes) -> str:
    """Why no batch can be graded within the patience; "" if one can."""
    if grading is None or not len(grading.first):
        return ""
    each, rows = grading.wall / len(grading.first), expected_rows(method)
    if each * rows <= sizes.patience:
        return ""
    return f"grading takes {each:.2g} s a row, too long for a batch of about {rows}"


def expected_rows(method: Method) -> int:
    known = {option.key: option.value for option in options(method)}
    found = [known.get(key) for key in ("selection.count", "sampling.size")]
    whole = [value for value in found if isinstance(value, int)]
    return math.prod(whole) if whole else ROWS_GUESSED


# -- sampler and trainer -----------------------------------------------------------------------------------------------
def tolerance(model: nn.Module) -> float:
    """Of differences between two passes of a model over the same rows in other company."""
    return TOLERANCE.get(next(model.parameters()).dtype, HALF)


def probe_of(ctx: StageContext, kind: str, sizes: Sizes) -> tuple[Batch | None, Probe | None]:
    """Rows of the policy alone by the run's engine, and what plain passes say of them. None where the stage's world
    starts no rows."""
    world, policy, engine = ctx.world, ctx.models["policy"], ctx.run.engine
    if not hasattr(world, "start") or not hasattr(policy, "score"):
        return None, None
    heat = temperature_of(ctx.stage)
    # Environments stand in memory one a row, and their episodes are long.
    count, steps = (8, sizes.steps) if kind == "control" else (sizes.rows, None)
    spread = torch.arange(count) * max(1, world.size // count) % world.size
    tasks = world.tasks(spread.to(ctx.run.device))
    keys = new_keys(count, generator(ctx.seed, "flight")).to(ctx.run.device)

    def sample() -> Batch:
        begun = world.start(tasks)
        begun = begun.with_rows({"temperature": torch.full((count,), heat, device=begun.device)})
        if isinstance(ctx.stage.sampling, Truncated):
            begun = truncated(begun, ctx.stage.sampling.truncation)
        return engine(policy, world, begun, keys, heat, ctx.updates, steps=steps)

    with torch.no_grad():
        first, second = sample(), sample()
        scores = _scored(policy, first)
        if scores is None:
            return first, None
        again = _scored(policy, first)
        uniform = upward(policy, first, generator(ctx.seed, "flight/ties"))
    assert again is not None
    found = Probe(
        own=first.own.cpu(),
        reported=first.step["behaviour"].cpu(),
        plain=scores.logp.cpu(),
        again=again.logp.cpu(),
        entropy=None if scores.entropy is None else scores.entropy.cpu(),
        uniform=uniform,
        temperature=heat,
        repeated=same_rows(first, second),
        tolerance=tolerance(policy),
    )
    return first, found


def _scored(policy: Any, batch: Batch) -> Any:
    """None of a policy without exact log-probabilities."""
    scores = policy.score(batch, None, full=False)
    return scores if scores.exact and bool(scores.logp[batch.own].isfinite().all()) else None


def temperature_of(method: Method) -> float:
    """What the sampling part declares; 1 if it does not say."""
    found = getattr(method.sampling, "temperature", 1.0)
    return float(found) if isinstance(found, int | float) else 1.0


def same_rows(first: Batch, second: Batch) -> bool:
    """Equal steps and rewards, but for the rounding of kernels that are not deterministic."""
    if first.steps != second.steps:
        return False
    pairs = [(first.step[name], second.step[name]) for name in first.step]
    pairs.append((first.row["finish"], second.row["finish"]))
    return all(torch.allclose(a.double(), b.double(), rtol=1e-4, atol=1e-5, equal_nan=True) for a, b in pairs)


def upward(policy: Any, batch: Batch, rng: torch.Generator) -> Tensor | None:
    """(N,) for every own step: the mass of the choices that are less probable than the one taken, plus a random part of
    that of equally probable ones. Uniform on 0..1 if steps were sampled from the policy. None for other policies."""
    kind = type(policy.next(batch[:1])) if len(batch) else None
    if kind is not Categorical or not batch.steps:
        return None
    choices = policy.next(batch[:1]).logp.shape[-1]
    part = batch.cut(max(1, min(batch.steps, int(NUMBERS_MOST // choices))))
    part = part[: max(1, int(NUMBERS_MOST // (choices * part.steps)))]
    mass = policy.score(part, None, full=True).dist.logp[part.own].double().exp()
    taken = mass.gather(-1, policy.taken(part)[part.own][:, None])
    below = torch.where(mass < taken, mass, 0.0).sum(-1).cpu()
    equal = torch.where(mass == taken, mass, 0.0).sum(-1).cpu()
    return below + torch.rand(len(below), generator=rng, dtype=torch.float64) * equal


def dropping(models: Mapping[str, nn.Module]) -> Iterator[str]:
    """Dropout layers that are on."""
    for model, module in models.items():
        for name, layer in module.named_modules():
            if isinstance(layer, nn.modules.dropout._DropoutNd) and layer.training and layer.p > 0:
                yield f"{model}.{name}"


# -- whole batches -----------------------------------------------------------------------------------------------------
def _gathered(run: Run, stage: Stage, leg: Leg, order: Order, *, begins: bool, sizes: Sizes) -> Leg:
    """The leg with whole batches: rows, first ratios and gradients, options without effect, seconds."""
    judged: list[Batch] = []
    answers: list[str] = []
    found: list[tuple[Start, list[Slope]]] = []
    seconds, ctx, kept = [], StageContext(run, stage), None
    for _ in range(min(sizes.batches, stage.start + stage.steps - run.step)):
        ctx = StageContext(run, stage)
        for enter in stage.method.before:
            enter(ctx)
        began = time.perf_counter()
        rows, _, kept = gather(ctx)
        if len(kept) and bool(kept.trained.any()):
            kept = collect_roles(ctx, kept)
        seconds.append(time.perf_counter() - began)
        judged.append(Batch(rows.row, rows.step).to("cpu"))
        if hasattr(ctx.world, "texts"):
            answers += ctx.world.texts(rows)
        part = first_update(ctx, kept)
        if part is not None:
            found.append((start_of(ctx, part, begins=begins), slopes(ctx, part)))
        run.tick()
    gradients = [slope for _, each in found for slope in each]
    tried, idle = ((), ()) if kept is None or not found else idle_options(ctx, kept, order.given)
    leg = replace(
        leg,
        judged=tuple(judged),
        answers=tuple(answers),
        starts=tuple(start for start, _ in found if start.counted.any()),
        gradients=tuple(slope.gradient for slope in gradients),
        tried=tried,
        idle=idle,
    )
    finite = all(math.isfinite(slope.gradient.norm) for slope in gradients)
    update = timed_update(ctx, kept, sizes) if kept is not None and found and finite else None
    rows, steps = (sum(sizes) / len(judged) for sizes in zip(*_sizes(judged), strict=True))
    return replace(leg, cost=Cost(stage.steps, min(seconds), update, steps, rows))


def _sizes(judged: list[Batch]) -> list[tuple[int, int]]:
    return [(len(batch), int(batch.lengths.sum())) for batch in judged]


def start_of(ctx: StageContext, batch: Batch, *, begins: bool) -> Start:
    """Log-probabilities as the first update sees them, with gradient as there."""
    method, counted = ctx.stage, batch.trained & (batch.row["source"] == Source.POLICY)[:, None]
    names = {role for term in method.terms for role in term.loss.roles}
    seen = SeenBatch(ctx, batch)
    used = counted if names & {"policy", "old", "behaviour"} else torch.zeros_like(counted)
    # The graph is made as in training, because some models compute otherwise without one.
    with torch.enable_grad():
        scores = seen["policy"].detach() if bool(used.any()) else None
    if scores is None or not scores.exact:
        return Start(batch.step["behaviour"].cpu(), torch.zeros_like(counted).cpu(), None, 1.0)
    old = _denominator(method, seen, batch, names)
    if old is not None:
        counted = counted & old.isfinite()
    with torch.no_grad():
        others = {name: seen[name].logp.cpu() for name in held_to(ctx)}
    copies = [name for name in others if begins and isinstance(method.models.get(method.roles[name].model), Copy)]
    return Start(
        scores.logp.cpu(),
        counted.cpu(),
        None if old is None else old.cpu(),
        tolerance(ctx.models["policy"]),
        others,
        tuple(copies),
    )


def _denominator(method: Method, seen: SeenBatch, batch: Batch, names: set[str]) -> Tensor | None:
    """The old log-probabilities, where they are those of the policy in the context of its rows."""
    role = method.roles.get("old")
    if "old" in names and role is not None and role.model == "policy" and role.context is None:
        return seen["old"].logp.detach()
    return batch.step["behaviour"] if "behaviour" in names and "old" not in names else None


def held_to(ctx: StageContext) -> list[str]:
    """Roles of other models that score the policy's steps, without being trained themselves."""
    trained = {term.trains for term in ctx.stage.terms}
    return [
        name
        for name, role in ctx.stage.roles.items()
        if role.model not in {"policy", ctx.stage.policy, *trained}
        and role.context is None
        and role.when != "recorded"
        and hasattr(ctx.models[role.model], "score")
    ]


# -- what a round costs ------------------------------------------------------------------------------------------------
def timed_update(ctx: StageContext, kept: Batch, sizes: Sizes) -> float | None:
    """Seconds of a round's update, on weights that are put back. None: nothing was updated, or the model is too large
    for a second copy of its weights."""
    run = ctx.run
    if sum(p.numel() for model in run.models.values() for p in model.parameters()) > TIMED_PARAMETERS:
        return None
    with put_back(run):
        taken = 0.0
        # The second is without what only the first costs: optimiser states, recorded operations.
        for _ in range(2):
            before, began = run.updates, time.perf_counter()
            ctx.stage.update(ctx, kept)
            taken = time.perf_counter() - began
            if run.updates == before:
                return None
            if taken > sizes.patience / 2:
                break
        return taken


@contextmanager
def put_back(run: Run) -> Iterator[None]:
    """Weights, cells and counters are afterwards what they were; optimisers begin anew."""
    weights = {name: copy.deepcopy(model.state_dict()) for name, model in run.models.items()}
    cells, updates = copy.deepcopy(run.cells), run.updates
    try:
        yield
    finally:
        for name, state in weights.items():
            run.models[name].load_state_dict(state)
        run.cells, run.updates = cells, updates
        run.optimizers.clear()
        run.recorded.clear()
