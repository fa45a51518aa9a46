"""Fixed numbers of steps from environments that go on from round to round."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from policyopt.compose import Cell, CompositionError, Context, Part
from policyopt.ops.streams import State, first_state, state_after
from policyopt.sampling.exploration import Annealed
from policyopt.sampling.samplers import Draw, Judge
from policyopt.types import Batch, Round

STREAMS = Cell("streams", dict)
"""Where the environments of each world are (`ops.streams`), by the world's name in the run."""


@dataclass(frozen=True)
class Stream(Part):
    """`horizon` steps of each of `count` environments, which go on where the last round left them.

    Rows are pieces of episodes; a piece that the horizon ends is TRUNCATED and its last state bootstraps. Every episode
    has a seed of its own, a function of (run, environment, episode), so that a resumed run continues exactly.
    exploration: what the policy makes of it, an epsilon or a standard deviation; 0 without it. A number, or one that
    falls in the course of the stage.
    """

    horizon: int = 2048
    count: int = 1
    exploration: float | Annealed = 0.0

    def __post_init__(self) -> None:
        if self.horizon < 1 or self.count < 1:
            raise CompositionError(
                f"sampling.horizon and sampling.count are at least 1, not {self.horizon} and {self.count}"
            )
        if isinstance(self.exploration, (int, float)) and self.exploration < 0:
            raise CompositionError(f"sampling.exploration must not be negative, got {self.exploration}")

    def __call__(self, ctx: Context, draw: Draw, judge: Judge) -> Batch:
        level = self.exploration.level(ctx) if isinstance(self.exploration, Annealed) else self.exploration
        batch = ctx.stream(self._state(ctx), self.horizon, self.count, level)
        group = (ctx.step << 20) + torch.arange(len(batch), device=batch.device)
        batch = judge(batch.with_rows({"group": group}))
        ended = batch.row["episode_length"] > 0
        ctx.meter.mean("return", batch.row["episode_return"], ended)
        ctx.meter.mean("episode_length", batch.row["episode_length"].float(), ended)
        return batch

    def after(self, ctx: Context, done: Round) -> None:
        ctx[STREAMS] = {**ctx[STREAMS], ctx.stage.world: state_after(self._state(ctx), done.judged)}

    def _state(self, ctx: Context) -> State:
        return ctx[STREAMS].get(ctx.stage.world) or first_state(ctx.seed)
