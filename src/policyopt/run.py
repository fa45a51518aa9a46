"""The run: the only mutable thing. Models, optimisers, cells (state), clocks, randomness, metrics."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from policyopt.compose import Cell, CompositionError, Copy, MissingModelError, ModelSpec, Program, Stage, frozen
from policyopt.ops.random import generator, new_keys
from policyopt.recorded import Recordings
from policyopt.types import Batch

_KEPT = "kept by "  # the cells of a stage that is gone back to are themselves a cell


class Engine(Protocol):
    """How steps are generated: `next` + `append` until every row is done, or something faster that equals it.

    One that keeps a copy of the weights also has `fingerprint()`, of that copy (`ops.fingerprint`): it must be the
    policy's in every round (`runtime.invariants`).
    """

    def __call__(
        self,
        policy: Any,
        world: Any,
        batch: Batch,
        keys: Tensor,
        temperature: float,
        version: int,
        steps: int | None = None,  # at most so many; rows that are not done then go on later
    ) -> Batch: ...


class Trainers(Protocol):
    """Processes that train one run together. Each has the run's models, state and random numbers and goes through the
    same rounds; only what is said here is divided between them (`runtime.sharding`)."""

    def parameters(self, ctx: Any, model: str) -> list[nn.Parameter]:
        """What an optimiser of a model's trained parameters moves: this process's parts of them."""
        ...

    def backward(self, ctx: Any, batch: Batch, planned: Any, micro_rows: int | None, parameters: Any) -> None:
        """Give the parameters the gradient of the planned terms over the whole batch."""
        ...

    def norm(self, gradients: Any) -> float:
        """Euclidean norm of all of them together, over all processes."""
        ...

    def moved(self, ctx: Any, models: Any) -> None:
        """The models' weights are what the optimisers made of them."""
        ...

    def rows(self, batch: Batch, compute: Callable[[Batch], Any]) -> Any:
        """compute(batch), a value or record whose rows follow from the batch's rows one by one."""
        ...


class Meter:
    """Metrics as (sum, count) pairs, so that micro-batches, padding and ranks can not change them."""

    def __init__(self) -> None:
        self._pairs: list[tuple[str, Tensor | float, Tensor | float]] = []

    def add(self, name: str, value: Tensor | float, count: Tensor | float) -> None:
        # Kept as tensors: turning each into a number would wait for the device at every update.
        self._pairs.append((name, value, count))

    def mean(self, name: str, values: Tensor, mask: Tensor) -> None:
        """Record the mean of masked values."""
        chosen = values[mask]
        self.add(name, chosen.detach().cpu().double().sum(), chosen.numel())

    def take(self, other: Meter) -> None:
        """What another one has recorded."""
        self._pairs += other._pairs

    def sums(self) -> dict[str, tuple[float, float]]:
        """Sum and count by name."""
        sums: dict[str, tuple[float, float]] = {}
        for name, value, count in self._pairs:
            total, counted = sums.get(name, (0.0, 0.0))
            sums[name] = (total + float(value), counted + float(count))
        return sums

    def result(self) -> dict[str, float]:
        """Means by name. A metric that nothing counted towards (an empty mask) is left out, not reported as 0."""
        return {name: total / count for name, (total, count) in self.sums().items() if count}


@dataclass(frozen=True)
class Past:
    """A policy as it was before a round, for sampling that runs ahead: its weights and its number of updates."""

    weights: Mapping[str, Tensor]
    updates: int


class Run:
    """State of a run. Everything in `state()` is checkpointed; the rest is a function of it and the recipe."""

    def __init__(
        self,
        models: Mapping[str, nn.Module],
        world: Any,
        engine: Engine,
        seed: int = 0,
        worlds: Mapping[str, Any] | None = None,
    ):
        self.models: dict[str, nn.Module] = dict(models)
        self.worlds = {"world": world, **(worlds or {})}
        self.engine, self.seed = engine, seed
        self.trainers: Trainers | None = None  # None: this process alone
        self.step = 0  # rounds
        self.updates = 0  # optimiser steps
        self.drawn = 0  # tasks drawn since the stage began
        self.stage_start = 0
        self.cells: dict[str, Any] = {}
        self.past: dict[int, Past] = {}  # by round; empty where every round samples with the newest weights
        self.optimizers: dict[str, torch.optim.Optimizer] = {}
        self._saved_optimizers: dict[str, Any] = {}
        self.recorded: dict[tuple[int, str, str], Recordings] = {}
        self._given = frozenset(models)
        self._built: set[str] = set()
        self._calls: dict[str, int] = {}

    @property
    def device(self) -> torch.device:
        """Where the policy is, and therefore every batch."""
        return next(self.models["policy"].parameters()).device

    def rng(self, purpose: str) -> torch.Generator:
        """A fresh generator, a pure function of (seed, purpose, round, n-th call in the round)."""
        call = self._calls[purpose] = self._calls.get(purpose, -1) + 1
        return generator(self.seed, purpose, self.step, call)

    def tick(self) -> None:
        self.step += 1
        self._calls.clear()

    def enter(self, stage: Stage) -> None:
        """Begin a stage, or go on with it: build the models it declares, reset the data position if it is new."""
        # What was drawn between rounds (an evaluation that a resumed run does not repeat) must not shift this one.
        self._calls.clear()
        if stage.start != self.stage_start:
            self.stage_start, self.drawn = stage.start, 0
            if stage.begins:
                self._branch(stage)
        for name, spec in stage.method.models.items():
            key = f"{name}@{stage.start}" if spec.renewed else name
            if key not in self._built and name not in self._given:
                self.models[name] = spec.build(self, name)
                self._built.add(key)

    def _branch(self, stage: Stage) -> None:
        """Go back to the policy and the cells that an earlier stage kept; its successors' own models are forgotten."""
        self.models[stage.method.policy].load_state_dict(self.models[stage.begins].state_dict())
        kept = {name: cell for name, cell in self.cells.items() if name.startswith(_KEPT)}
        self.cells = {**copy.deepcopy(self.cells[_KEPT + stage.begins]), **kept}
        self._built -= set(stage.anew)

    def leave(self, stage: Stage) -> None:
        """End a stage: keep its policy, frozen, and its cells, if it is to be gone back to."""
        if stage.keeps:
            self.models[stage.keeps] = frozen(self.models[stage.method.policy])
            cells = {name: cell for name, cell in self.cells.items() if not name.startswith(_KEPT)}
            self.cells[_KEPT + stage.keeps] = copy.deepcopy(cells)

    def beside(self, models: dict[str, nn.Module], engine: Engine, cells: dict[str, Any]) -> Run:
        """A run in the same stage and worlds with models and cells of its own, for what samples ahead of this one."""
        other = Run({}, self.worlds["world"], engine, self.seed, self.worlds)
        other.stage_start, other.models, other.cells = self.stage_start, models, cells
        return other

    @property
    def calls(self) -> dict[str, int]:
        """How often each purpose asked for random numbers in this round: the place in its streams."""
        return self._calls

    def optimizer(self, key: str, make: Callable[[], torch.optim.Optimizer]) -> torch.optim.Optimizer:
        if key not in self.optimizers:
            self.optimizers[key] = make()
            if key in self._saved_optimizers:
                self.optimizers[key].load_state_dict(self._saved_optimizers.pop(key))
        return self.optimizers[key]

    # -- the whole state, for checkpoints and forks --------------------------------------------------------
    def state(self) -> dict[str, Any]:
        return {
            "seed": self.seed,
            "step": self.step,
            "updates": self.updates,
            "drawn": self.drawn,
            "stage_start": self.stage_start,
            "cells": self.cells,
            "built": sorted(self._built),
            "models": {name: model.state_dict() for name, model in self.models.items()},
            "optimizers": self._kept_optimizers(),
            **({"past": {step: vars(past) for step, past in self.past.items()}} if self.past else {}),
        }

    def load_state(self, state: Mapping[str, Any], program: Program) -> None:
        """Continue from a saved state. State that is missing or that nothing asks for is an error."""
        if state["seed"] != self.seed:
            raise ValueError(f"the checkpoint has seed {state['seed']}, this run {self.seed}; use the same recipe")
        self.step, self.updates, self.drawn = state["step"], state["updates"], state["drawn"]
        self.stage_start = state["stage_start"]
        # Models of the current stage must exist before their weights can be loaded.
        if self.step:
            self._rebuild(program, set(state["models"]))
        self._built = set(state["built"])
        missing = sorted(set(self.models) ^ set(state["models"]))
        if missing:
            raise MissingModelError(f"checkpoint and recipe disagree about the models {missing}")
        for name, model in self.models.items():
            model.load_state_dict(state["models"][name])
        self.cells = copy.deepcopy(dict(state["cells"]))
        past = state.get("past", {})
        self.past = {step: Past(copy.deepcopy(held["weights"]), held["updates"]) for step, held in past.items()}
        self.optimizers = {}
        self._saved_optimizers = copy.deepcopy(dict(state["optimizers"]))

    def _rebuild(self, program: Program, names: set[str]) -> None:
        """Make the models that the stages so far have made, each as the last stage that made it."""
        specs: dict[str, ModelSpec] = {}
        kept: set[str] = set()
        for stage in program.stages:
            if stage.steps and stage.start < self.step:
                for name, spec in stage.method.models.items():
                    if spec.renewed or name not in kept or name in stage.anew:
                        specs.pop(name, None)  # so that it comes after the models it may be made from
                        specs[name] = spec
                    if not spec.renewed:
                        kept.add(name)
                if stage.keeps and stage.end <= self.step:
                    specs[stage.keeps] = Copy(stage.method.policy)
        for name, spec in specs.items():
            if name in names and name not in self.models:
                self.models[name] = spec.build(self, name)
        self._calls.clear()

    def _kept_optimizers(self, model: str | None = None) -> dict[str, Any]:
        """States of all optimisers, or of those of a model; also of those that nothing has asked for since a load."""
        every = {**self._saved_optimizers, **{key: o.state_dict() for key, o in self.optimizers.items()}}
        return {key: held for key, held in every.items() if model is None or key.endswith(f"/{model}")}

    def snapshot(self, *names: str) -> dict[str, Any]:
        """Weights and optimisers of some models, to be restored later: training state can be forked."""
        return copy.deepcopy(
            {
                name: {"model": self.models[name].state_dict(), "optimizers": self._kept_optimizers(name)}
                for name in names
            }
        )

    def restore(self, snapshot: Mapping[str, Any]) -> None:
        for name, saved in copy.deepcopy(dict(snapshot)).items():
            self.models[name].load_state_dict(saved["model"])
            for key in self._kept_optimizers(name):
                self.optimizers.pop(key, None)
                self._saved_optimizers.pop(key, None)
            self._saved_optimizers.update(saved["optimizers"])


class StageModels(Mapping[str, nn.Module]):
    """Models by name; "policy" is the stage's policy."""

    def __init__(self, run: Run, policy: str):
        self._run, self._policy = run, policy

    def __getitem__(self, name: str) -> nn.Module:
        name = self._policy if name == "policy" else name
        if name not in self._run.models:
            raise MissingModelError(f"no model {name!r} in this run; it has {sorted(self._run.models)}")
        return self._run.models[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._run.models)

    def __len__(self) -> int:
        return len(self._run.models)


class StageContext:
    """Implements `compose.Context`: the run as one stage sees it, for one round."""

    def __init__(self, run: Run, stage: Stage):
        self.run, self._stage = run, stage
        self.stage = stage.method
        self.models = StageModels(run, stage.method.policy)
        self.world = run.worlds[stage.method.world]
        self.meter = Meter()

    @property
    def step(self) -> int:
        return self.run.step

    @property
    def stage_step(self) -> int:
        return self.run.step - self._stage.start

    @property
    def stage_total(self) -> int:
        return self._stage.steps

    @property
    def drawn(self) -> int:
        return self.run.drawn

    @property
    def updates(self) -> int:
        return self.run.updates

    @property
    def seed(self) -> int:
        return self.run.seed

    @property
    def trainers(self) -> Trainers | None:
        return self.run.trainers

    def count_update(self) -> None:
        self.run.updates += 1

    def rng(self, purpose: str) -> torch.Generator:
        return self.run.rng(purpose)

    def total(self, x: Tensor) -> Tensor:
        """Sum over ranks; this run has one."""
        return x

    def extend(self, batch: Batch, model: str = "policy", temperature: float = 1.0, steps: int | None = None) -> Batch:
        """Let a model take steps until every row is done, or at most `steps` more of them. Rows remember temperature
        and policy version."""
        keys = new_keys(len(batch), self.rng(f"sample/{model}")).to(batch.device)
        heat = torch.full((len(batch),), float(temperature), device=batch.device)
        batch = batch.with_rows({"temperature": heat})
        with torch.no_grad():
            return self.run.engine(self.models[model], self.world, batch, keys, temperature, self.updates, steps=steps)

    def stream(self, state: Any, horizon: int, count: int, exploration: float = 0.0) -> Batch:
        """`horizon` steps of each of `count` environments that go on from where `state` says they are."""
        engine: Any = self.run.engine
        if not hasattr(engine, "stream"):
            raise CompositionError(
                f"sampling by streams needs environments that go on from round to round; {type(self.world).__name__} "
                "makes whole rows: use sampling=group"
            )
        keys = new_keys(count, self.rng("stream")).to(self.run.device)
        with torch.no_grad():
            return engine.stream(self.models["policy"], self.world, state, horizon, keys, self.updates, exploration)

    def optimizer(self, model: str, spec: Any) -> torch.optim.Optimizer:
        """The optimiser of a model's trained parameters in this stage; `spec` makes it when it is first asked for."""

        def make() -> torch.optim.Optimizer:
            if self.trainers is not None:
                return spec.make(self.trainers.parameters(self, model))
            return spec.make([p for p in self.models[model].parameters() if p.requires_grad])

        return self.run.optimizer(f"{self._stage.start}:{self.stage.key}/{model}", make)

    def recordings(self, model: str) -> Recordings:
        """What updates of a model recorded in this stage; not part of the state."""
        return self.run.recorded.setdefault((self._stage.start, self.stage.key, model), Recordings())

    def __getitem__(self, cell: Cell) -> Any:
        if cell.name not in self.run.cells:
            self.run.cells[cell.name] = cell.initial()
        return self.run.cells[cell.name]

    def __setitem__(self, cell: Cell, value: Any) -> None:
        self.run.cells[cell.name] = value
