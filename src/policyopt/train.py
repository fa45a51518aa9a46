"""The loop: the only file that knows the order of the axes."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator

import torch

from policyopt.compose import AXES, Method, Nothing, Part, Program
from policyopt.ops.sequences import total_reward
from policyopt.run import Run, StageContext
from policyopt.seen import collect_roles
from policyopt.types import Batch, Finish, Round, Tasks

Watch = Callable[[StageContext, Batch], None]
"""Looks at what a round is about to train on, and may refuse it by raising."""


Sampled = Callable[[StageContext], Batch]
"""The rows of a round as they were judged."""


def unwatched(ctx: StageContext, kept: Batch) -> None:
    """Looks at nothing."""


def sample(ctx: StageContext) -> Batch:
    """Sample and judge now, with the models as they are."""
    return ctx.stage.sampling(ctx, _draw(ctx), _judge(ctx))


def rounds(run: Run, program: Program, watch: Watch = unwatched, sampled: Sampled = sample) -> Iterator[Round]:
    """Train until the program ends, one round at a time. The run can be saved between any two rounds.

    sampled: who samples; `sample`, or what has done so ahead of time (`runtime.ahead`)."""
    while run.step < program.steps:
        stage = program.at(run.step)
        run.enter(stage)
        ctx, method = StageContext(run, stage), stage.method
        for enter in method.before:
            enter(ctx)
        judged, credited, kept = gather(ctx, sampled)
        if len(kept) and kept.trained.any():
            kept = collect_roles(ctx, kept)
            watch(ctx, kept)
            method.update(ctx, kept)
        _measure(ctx, judged, kept)
        done = Round(judged, credited, kept, ctx.meter.result())
        for write in (*_own_hooks(method), *method.after):
            write(ctx, done)
        run.tick()
        if run.step == stage.end:
            run.leave(stage)
        yield done


def gather(ctx: StageContext, sampled: Sampled = sample) -> tuple[Batch, Batch, Batch]:
    """What a round samples: rows as they were judged, with credit, and those that are kept. No model changes."""
    method = ctx.stage
    judged = sampled(ctx)
    credited = method.credit(ctx, judged)
    return judged, credited, method.selection.keep(ctx, credited)


def _own_hooks(method: Method) -> list[Callable[[StageContext, Round], None]]:
    """What the parts themselves do after a round, in the order of the axes."""
    found = [getattr(method, axis) for axis in AXES]
    parts = [term.loss for axis in found if isinstance(axis, tuple) for term in axis]
    return [part.after for part in (*[axis for axis in found if isinstance(axis, Part)], *parts)]


def _draw(ctx: StageContext) -> Callable[..., Tasks]:
    """Tasks for this round. A group is a *draw*, unique in the run: the same task drawn twice makes two."""
    groups = itertools.count(ctx.step << 20)

    def draw(count: int | None = None) -> Tasks:
        tasks = ctx.stage.selection.draw(ctx, count).to(ctx.run.device)
        ctx.run.drawn += len(tasks)
        group = [next(groups) for _ in range(len(tasks))]
        return tasks.with_rows({"group": torch.tensor(group, device=tasks.id.device)})

    return draw


def _judge(ctx: StageContext) -> Callable[[Batch], Batch]:
    """Reward, then feedback; a row whose reward is not known is trained on by no term."""

    def judge(batch: Batch) -> Batch:
        judged = ctx.stage.feedback(ctx, ctx.stage.reward(ctx, batch))
        return judged.with_steps({"train": judged.step["train"] & judged.row["scored"][:, None]})

    return judge


def _measure(ctx: StageContext, judged: Batch, kept: Batch) -> None:
    """Metrics of every method alike, over own steps and scored rows only."""
    scored, rows = judged.row["scored"], torch.ones_like(judged.row["scored"])
    if not isinstance(ctx.stage.reward, Nothing):
        ctx.meter.mean("reward", total_reward(judged), scored)
    ctx.meter.mean("length", judged.lengths.float(), rows)
    ctx.meter.mean("truncated", (judged.row["finish"] == Finish.TRUNCATED).float(), rows)
    ctx.meter.mean("unscored", (~scored).float(), rows)
    ctx.meter.add("kept_rows", len(kept), 1)
    if "old" in kept.scores and kept.scores["old"].logp is not kept.step["behaviour"]:  # else it was measured already
        mismatch = (kept.scores["old"].logp - kept.step["behaviour"]).abs()
        # Recorded rows have no behaviour: nobody sampled them.
        ctx.meter.mean("sampler_mismatch", mismatch, kept.trained & ~kept.step["behaviour"].isnan())
        entropy = kept.scores["old"].entropy
        if entropy is not None:
            ctx.meter.mean("entropy", entropy, kept.trained)
