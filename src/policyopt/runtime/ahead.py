"""Sampling that runs ahead of training: round n is sampled by the policy as it was before round n - k.

k = `staleness` is fixed, so which weights sample which round does not depend on how fast anything is: a run is a
function of its recipe, and goes on bitwise after a restart (the weights of the last k rounds are part of its state).
The first k rounds of a stage use the weights that it begins with; no stage samples for the next one.
"""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from concurrent.futures import TimeoutError as LateError
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import nn

from policyopt.compose import AXES, CompositionError, Method, Part, Program, Stage, frozen
from policyopt.compose.terms import RECORDED, Role
from policyopt.objective.decoupled import DecoupledSurrogate
from policyopt.run import Meter, Past, Run, StageContext
from policyopt.runtime.invariants import written_models
from policyopt.train import sample
from policyopt.types import Batch

DEADLINE = 3600.0  # seconds, for one round of samples
_SAMPLING = ("selection", "sampling", "reward", "feedback")  # the axes that run ahead


class AheadError(CompositionError):
    """A method that can not be sampled ahead of its training."""


class SamplingLateError(TimeoutError):
    """A round of samples was not there in time."""


def refuse(method: Method, why: str) -> AheadError:
    return AheadError(f"method {method.key!r} can not sample ahead of its training: {why}; use runtime.staleness=0")


def check_ahead(method: Method) -> None:
    """AheadError: what the method samples depends on the round before it."""
    for axis in _SAMPLING:
        for part in _inner(getattr(method, axis)):
            if type(part).after is not Part.after:
                name = type(part).__name__
                raise refuse(method, f"its {axis} ({name}) learns from every round for the next one")


def _inner(part: Any) -> Iterator[Part]:
    """A part and those that it is made of."""
    if not isinstance(part, Part):
        return
    yield part
    for name in getattr(part, "__dataclass_fields__", ()):
        value = getattr(part, name)
        for inner in value if isinstance(value, tuple) else (value,):
            yield from _inner(inner)


def corrected(method: Method) -> Method:
    """The method with ratios to the policy that sampled: the old policy is the recorded behaviour, so that rows of an
    earlier policy are weighed by what they are (PPO, arXiv 1707.06347: the old policy is the one that acted).

    A method whose terms know both policies (a role of the old one beside the behaviour) stays as it is, and one whose
    credit asks the old policy for more than log-probabilities of steps."""
    if method.roles.get("old") != Role(when="collected") or _reads_behaviour(method) or "old" in method.credit.roles:
        return method
    return replace(method, roles={**method.roles, "old": RECORDED})


def weighs(method: Method) -> bool:
    """Whether a term compares the policy with the one that sampled."""
    return _reads_behaviour(method) or any(role.when == "recorded" for role in method.roles.values())


def _reads_behaviour(method: Method) -> bool:
    parts = [inner for axis in AXES for part in _listed(getattr(method, axis)) for inner in _inner(part)]
    return any("behaviour" in part.roles or isinstance(part, DecoupledSurrogate) for part in parts)


def _listed(axis: Any) -> tuple[Any, ...]:
    return tuple(term.loss for term in axis) if isinstance(axis, tuple) else (axis,)


@dataclass(frozen=True)
class Rows:
    """What a round sampled, and where it left the run's clocks."""

    judged: Batch
    drawn: int
    calls: dict[str, int]
    meter: Meter
    engine: Any


class _Cells(dict[str, Any]):
    """No state: what a round writes is not known yet when a later one is sampled."""

    def __init__(self, method: Method):
        super().__init__()
        self._method = method

    def __contains__(self, name: object) -> bool:
        raise refuse(self._method, f"its sampling reads the state {name!r}, which every round may change")

    def __setitem__(self, name: str, value: Any) -> None:
        raise refuse(self._method, f"its sampling writes the state {name!r}, which later rounds read")


class _Models(dict[str, nn.Module]):
    """The policy of an earlier round, and the models that no round changes."""

    def __init__(self, method: Method, found: dict[str, nn.Module], changing: set[str]):
        super().__init__(found)
        self._method, self._changing = method, changing

    def __contains__(self, name: object) -> bool:
        if name in self._changing:
            raise refuse(self._method, f"its sampling asks the model {name!r}, which every round changes")
        return super().__contains__(name)


class Ahead:
    """Implements `train.Sampled`: a thread samples up to `staleness` rounds ahead. Close it at the end of the run.

    Torch and the graders' processes do their work without Python's lock, so both threads move; `run.engine` may also
    have its work done elsewhere. deadline: seconds that a round may be waited for.
    """

    def __init__(self, run: Run, program: Program, staleness: int, deadline: float = DEADLINE):
        if staleness < 1:
            raise AheadError(f"sampling ahead needs a staleness of at least 1 round, not {staleness}")
        self._run, self._program, self._staleness, self._deadline = run, program, staleness, deadline
        self._pool: ThreadPoolExecutor | None = None
        self._rows: dict[int, Future[Rows]] = {}
        self._start, self._drawn = -1, 0
        self._twin: nn.Module | None = None

    def __call__(self, ctx: StageContext) -> Batch:
        run, step = self._run, self._run.step
        stage = self._program.at(step)
        if stage.method.sampling.data:  # recorded rows: nobody samples them
            run.past = {}
            return sample(ctx)
        self._remember(stage)
        for later in range(step, min(step + self._staleness + 1, stage.end)):
            if later not in self._rows:
                past = run.past[max(stage.start, later - self._staleness)]
                self._rows[later] = self._thread().submit(self._sample, stage, later, past)
        return self._take(ctx, stage, self._rows.pop(step))

    def close(self) -> None:
        """Let the round that is being sampled end; those behind it are not begun."""
        if self._pool is not None:
            self._pool.shutdown(wait=True, cancel_futures=True)
        self._pool, self._rows = None, {}

    def __enter__(self) -> Ahead:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    # -- the trainer's side --------------------------------------------------------------------------------------
    def _remember(self, stage: Stage) -> None:
        """Keep the weights as they are before this round, as long as a round to come is sampled with them."""
        run = self._run
        policy = run.models[stage.method.policy]
        if stage.start != self._start:
            check_ahead(stage.method)
            self.close()
            self._start, self._drawn, self._twin = stage.start, run.drawn, frozen(policy)
        weights = {name: value.detach().clone() for name, value in policy.state_dict().items()}
        held = {step: past for step, past in run.past.items() if step >= max(stage.start, run.step - self._staleness)}
        run.past = {**held, run.step: Past(weights, run.updates)}

    def _take(self, ctx: StageContext, stage: Stage, found: Future[Rows]) -> Batch:
        run = self._run
        try:
            rows = found.result(self._deadline)
        except LateError as error:
            if found.done():
                raise
            raise SamplingLateError(
                f"phase sampling: the rows of round {run.step} were not there within {self._deadline:g} s; raise "
                "runtime.deadline, or look for what the sampler waits for"
            ) from error
        run.drawn = rows.drawn
        run.calls.update(rows.calls)
        ctx.meter.take(rows.meter)
        engine: Any = run.engine
        if hasattr(engine, "take"):
            engine.take(rows.engine)
        before = max(stage.start, run.step - self._staleness)
        ctx.meter.add("staleness", run.step - before, 1)
        return rows.judged

    # -- the sampler's side --------------------------------------------------------------------------------------
    def _thread(self) -> ThreadPoolExecutor:
        if self._pool is None:
            threads = torch.get_num_threads()  # torch counts them per thread
            self._pool = ThreadPoolExecutor(1, "sampler", initializer=torch.set_num_threads, initargs=(threads,))
        return self._pool

    def _sample(self, stage: Stage, step: int, past: Past) -> Rows:
        """One round, one after another: each begins to draw tasks where the one before it ended."""
        run, method, twin = self._run, stage.method, self._twin
        assert twin is not None
        twin.load_state_dict(past.weights)
        changing = written_models(method) - {method.policy, "policy"}
        kept = {name: model for name, model in run.models.items() if name not in changing}
        engine: Any = run.engine
        counting = engine.apart() if hasattr(engine, "apart") else engine
        beside = run.beside(_Models(method, {**kept, method.policy: twin}, changing), counting, _Cells(method))
        beside.step, beside.updates, beside.drawn = step, past.updates, self._drawn
        ctx = StageContext(beside, stage)
        judged = sample(ctx)
        self._drawn = beside.drawn
        return Rows(judged, beside.drawn, beside.calls, ctx.meter, counting)
