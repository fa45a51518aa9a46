"""Gradient steps by several processes, with torch's FSDP2 (`fully_shard`).

Every process goes through the same rounds with the same random numbers, and so has the same whole batch of every
optimiser step, planned over the whole of it: masks, scales and noise are those of one process. Divided are the rows of
a step (its forward and backward passes), generation and scoring. Of every trained model there is, beside the whole one
that samples and scores, a twin whose parameters, gradients and optimiser state are sharded; its layers are gathered
one at a time, and after a step the whole model takes over the twin's weights.
"""

from __future__ import annotations

import copy
import zlib
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import fields, is_dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributed.fsdp import FSDPModule, fully_shard
from torch.distributed.tensor import DTensor

from policyopt.run import Meter
from policyopt.runtime.ranks import Ranks, shares
from policyopt.types import Batch, concatenate
from policyopt.update.gradient import Planned, couples_of, planned_losses
from policyopt.update.masters import Summed
from policyopt.update.micro_batches import units


class Sharded:
    """Implements `run.Trainers` with FSDP2."""

    def __init__(self, ranks: Ranks):
        self.ranks = ranks
        self._twins: dict[tuple[int, str], Twins] = {}  # by stage
        self._agreed = -1  # the last round whose rows all ranks have

    # -- run.Trainers --------------------------------------------------------------------------------------------
    def parameters(self, ctx: Any, model: str) -> list[nn.Parameter]:
        return [p for p in self.twins(ctx).of(ctx.models[model]).parameters() if p.requires_grad]

    def backward(
        self, ctx: Any, batch: Batch, planned: Sequence[Planned], micro_rows: int | None, parameters: Sequence[Any]
    ) -> None:
        """Every process takes as many micro-batches as the others, because every pass gathers layers from all."""
        twins, inner = self.twins(ctx), copy.copy(ctx)
        inner.models, inner.meter = _Seen(ctx.models, twins), Meter()
        with self.ranks.phase(f"gradients of round {ctx.step}"), _only(twins.parameters(), parameters):
            if self._agreed != ctx.step:
                self.ranks.agree(f"batch in round {ctx.step}", _content(batch))
                self._agreed = ctx.step
            twins.take()
            summed = Summed(parameters)
            for part in mine(batch, planned, micro_rows, self.ranks):
                twins(lambda part=part: next(planned_losses(inner, *part))).backward()
                summed.add()
            summed.give()
            twins.sum_unsharded(self.ranks)
            for name, (value, count) in _merged(self.ranks.gather(inner.meter.sums())).items():
                ctx.meter.add(name, value, count)

    def norm(self, gradients: Sequence[Tensor]) -> float:
        """Of shards: the root of the sum of squares over all of them."""
        with self.ranks.phase("norm of the gradient"):
            # What is not sharded is the same on every rank and counts once.
            counted = [g for g in gradients if isinstance(g, DTensor) or self.ranks.leads]
            squares = [torch.linalg.vector_norm(_local(g), dtype=torch.float64) ** 2 for g in counted]
            summed = torch.stack(squares).sum() if squares else torch.zeros((), dtype=torch.float64)
            return float(self.ranks.sum(summed.to(self.ranks.mesh.device_type)).sqrt())

    def moved(self, ctx: Any, models: Sequence[str]) -> None:
        with self.ranks.phase(f"weights of round {ctx.step}"):
            twins = self.twins(ctx)
            for model in models:
                twins.give(ctx.models[model])

    def rows(self, batch: Batch, compute: Callable[[Batch], Any]) -> Any:
        """Every rank computes adjacent rows; all get the same joined records."""
        if len(batch) < self.ranks.count:
            return compute(batch)
        with self.ranks.phase("scores"):
            begin, end = _adjacent(len(batch), self.ranks)
            found = carried(compute(batch[begin:end]), "cpu")
            return carried(joined(self.ranks.gather(found)), batch.device)

    # -- twins ---------------------------------------------------------------------------------------------------
    def twins(self, ctx: Any) -> Twins:
        """Of all models that the stage trains, also by hooks with terms of their own: optimisers hold these twins'
        parameters. Made again when one of them is another object."""
        models = {name: ctx.models[name] for name in sorted(ctx.stage.trained) if name in ctx.models}
        key = (ctx.step - ctx.stage_step, ctx.stage.key)
        found = self._twins.get(key)
        if found is None or not all(found.has(model) for model in models.values()):
            others = {name: model for name, model in ctx.models.items() if name not in models}
            found = self._twins[key] = Twins(models, others, self.ranks)
        return found


class Generating:
    """An engine of which every process generates adjacent rows; all get all of them. A row's steps follow from its key,
    whoever takes them."""

    def __init__(self, engine: Any, ranks: Ranks):
        self.engine, self.ranks = engine, ranks

    def __call__(self, policy: Any, world: Any, batch: Batch, keys: Tensor, *given: Any, **options: Any) -> Batch:
        if len(batch) < self.ranks.count:
            return self.engine(policy, world, batch, keys, *given, **options)
        with self.ranks.phase("sampling"):
            begin, end = _adjacent(len(batch), self.ranks)
            part = self.engine(policy, world, batch[begin:end], keys[begin:end], *given, **options)
            return concatenate(self.ranks.gather(part.to("cpu"))).to(batch.device)

    def __getattr__(self, name: str) -> Any:
        """Streams go on from environments that every process has; other abilities are the engine's own."""
        return getattr(self.engine, name)


class Twins(nn.Module):
    """Sharded copies of the models of a stage. Its forward pass is the loss of a micro-batch, whatever of the models
    that calls: so FSDP2 gathers and reduces around it, and around each layer within.

    Copied are the trained models and those that share parameters with them. Sharded by themselves are the blocks that a
    transformers model names as such, and layers of another floating type than most (heads and adapters in float32 on a
    decoder in bfloat16); the rest is one group. Numbers without a dimension can not be sharded.
    """

    def __init__(self, models: Mapping[str, nn.Module], others: Mapping[str, nn.Module], ranks: Ranks):
        super().__init__()
        held = {id(p) for model in models.values() for p in model.parameters()}
        sharing = {n: m for n, m in others.items() if any(id(p) in held for p in m.parameters())}
        self._whole = list({id(model): model for model in (*models.values(), *sharing.values())}.values())
        twins = copy.deepcopy(self._whole)  # at once: what they share, their copies share
        self._order = {id(whole): n for n, whole in enumerate(self._whole)}
        self.twins = nn.ModuleList(twins)
        # FSDP2 puts other parameters in the place of these.
        self._unsharded = [p for p in self.twins.parameters() if p.dim() == 0]
        options = {"mesh": ranks.mesh, "ignored_params": set(self._unsharded)}
        for part in (*_of_other_types(self.twins), *_blocks(self.twins)):
            fully_shard(part, **options)
        fully_shard(self, **options)
        for module in self.modules():
            if isinstance(module, FSDPModule):
                # Sums, not means: the plan's weights are of the whole step (gloo knows no other way than by a sum).
                module.set_gradient_divide_factor(1.0)
                module.set_force_sum_reduction_for_comms(enable=True)
        self._ranks = ranks

    def forward(self, loss: Callable[[], Tensor]) -> Tensor:
        found = loss()
        # What is gathered now; a layer's parameters are divided again after its own forward pass.
        gathered = [p for p in self.parameters() if p.requires_grad and not isinstance(p, DTensor)]
        leaves = _leaves(found)
        here = torch.tensor([id(p) in leaves for p in gathered], dtype=torch.int32)
        anywhere = self._ranks.sum(here.to(self._ranks.mesh.device_type)).tolist()
        # A parameter that other ranks' rows reach, or any if no term reads a trained model: a gradient of nothing keeps
        # the processes' reductions alike.
        idle = [p for p, own, used in zip(gathered, here.tolist(), anywhere, strict=True) if used and not own]
        for parameter in idle if found.requires_grad or idle else gathered[:1]:
            found = found + parameter.reshape(-1)[:0].sum().to(found.dtype)
        return found

    def has(self, whole: nn.Module) -> bool:
        return id(whole) in self._order

    def of(self, whole: Any) -> Any:
        """The twin of a model, or the model itself if it has none."""
        return self.twins[self._order[id(whole)]] if self.has(whole) else whole

    def take(self) -> None:
        """The whole models' weights and buffers: parts may have changed them since the last step."""
        with torch.no_grad():
            for whole in self._whole:
                twin = self.of(whole)
                for own, other in zip(twin.parameters(), whole.parameters(), strict=True):
                    if isinstance(own, DTensor):
                        part = self._part(other)
                        own.to_local().copy_(part)
                    else:
                        own.copy_(other)
                for own, other in zip(twin.buffers(), whole.buffers(), strict=True):
                    own.copy_(other)

    def _part(self, whole: Tensor) -> Tensor:
        """This rank's rows of a parameter, as FSDP2 divides it."""
        parts = whole.chunk(self._ranks.count)
        return parts[self._ranks.rank] if self._ranks.rank < len(parts) else whole[:0]

    def give(self, whole: nn.Module) -> None:
        """A whole model takes over its twin's trained weights."""
        with torch.no_grad():
            for own, other in zip(self.of(whole).parameters(), whole.parameters(), strict=True):
                if own.requires_grad:
                    other.copy_(own.full_tensor() if isinstance(own, DTensor) else own)

    def sum_unsharded(self, ranks: Ranks) -> None:
        for parameter in self._unsharded:
            if parameter.grad is not None:
                parameter.grad = ranks.sum(parameter.grad)


class _Seen(Mapping[str, nn.Module]):
    """A stage's models with the twins in the place of those that are trained. What needs no gradient asks the whole
    models, which have the same weights: how often it does so may differ between ranks, and gathers nothing."""

    def __init__(self, models: Mapping[str, nn.Module], twins: Twins):
        self._models, self._twins = models, twins

    def __getitem__(self, name: str) -> nn.Module:
        model = self._models[name]
        return self._twins.of(model) if torch.is_grad_enabled() else model

    def __iter__(self) -> Iterator[str]:
        return iter(self._models)

    def __len__(self) -> int:
        return len(self._models)


class _only:
    """Inside, gradients go to some parameters; those that others had are put back."""

    def __init__(self, every: Iterator[nn.Parameter], wanted: Sequence[nn.Parameter]):
        chosen = {id(p) for p in wanted}
        self._held = [(p, p.grad) for p in every if id(p) not in chosen]

    def __enter__(self) -> None:
        for parameter, _ in self._held:
            parameter.grad = None

    def __exit__(self, *error: object) -> None:
        for parameter, gradient in self._held:
            parameter.grad = gradient


def _blocks(module: nn.Module) -> list[nn.Module]:
    """Modules that a transformers model does not want split, which are its layers."""
    names = {name for part in module.modules() for name in getattr(part, "_no_split_modules", None) or ()}
    return [part for part in module.modules() if type(part).__name__ in names]


def _of_other_types(module: nn.Module) -> list[nn.Module]:
    """Layers with parameters of another type than most of the module's numbers have: FSDP2 takes one type a group."""
    numbers: Counter[torch.dtype] = Counter()
    for parameter in module.parameters():
        numbers[parameter.dtype] += parameter.numel()
    usual = numbers.most_common(1)[0][0] if numbers else None
    return [part for part in module.modules() if any(p.dtype != usual for p in part.parameters(recurse=False))]


def _leaves(found: Tensor) -> set[int]:
    """Ids of the parameters that a number depends on."""
    leaves, seen, waiting = set(), set(), [found.grad_fn]
    while waiting:
        node = waiting.pop()
        if node is None or node in seen:
            continue
        seen.add(node)
        if (variable := getattr(node, "variable", None)) is not None:
            leaves.add(id(variable))
        waiting.extend(before for before, _ in node.next_functions)
    return leaves


def _local(gradient: Tensor) -> Tensor:
    return gradient.to_local() if isinstance(gradient, DTensor) else gradient


# -- rows ------------------------------------------------------------------------------------------------------------
def mine(
    batch: Batch, planned: Sequence[Planned], micro_rows: int | None, ranks: Ranks
) -> Iterator[tuple[Batch, list[Planned]]]:
    """This rank's micro-batches of a step, as many as any other rank's, with what was planned for their rows.

    Rows that a term couples stay together. A micro-batch without a step to score is filled with rows of weight 0, so
    that every rank's passes go through the same layers.
    """
    unit = units(batch, couples_of([item.term for item in planned]))
    names, index = unit.unique(return_inverse=True)
    lengths = batch.valid.sum(1)
    tokens = torch.zeros(len(names), dtype=torch.int64, device=batch.device).index_add(0, index, lengths)
    each = 1 if micro_rows is None else -(-len(batch) // (micro_rows * ranks.count))
    filling = (index == int(tokens.argmax())).nonzero()[:, 0]
    for pile in shares(tokens.tolist(), each * ranks.count)[ranks.rank :: ranks.count]:
        counted = torch.isin(index, torch.tensor(pile, dtype=index.dtype, device=batch.device))
        rows = counted.nonzero()[:, 0]
        if not int(lengths[rows].sum()):
            rows = torch.cat([rows, filling[~counted[filling]]])
        yield _narrowed(batch, planned, rows, counted[rows])


def _narrowed(batch: Batch, planned: Sequence[Planned], rows: Tensor, counted: Tensor) -> tuple[Batch, list[Planned]]:
    part = batch[rows]
    found = []
    for item in planned:
        full = part if item.batch is batch else item.batch[rows]
        some = counted.view(-1, *[1] * (item.mask.dim() - 1))
        weights = torch.where(some, item.weights[rows], torch.zeros((), dtype=item.weights.dtype, device=some.device))
        found.append(replace(item, batch=full, mask=item.mask[rows] & some, weights=weights))
    return part, found


def _adjacent(count: int, ranks: Ranks) -> tuple[int, int]:
    return count * ranks.rank // ranks.count, count * (ranks.rank + 1) // ranks.count


def _content(batch: Batch) -> int:
    """A checksum of all columns."""
    found = 0
    for columns in (batch.row, batch.step):
        for name in sorted(columns):
            plain = columns[name].detach().cpu().contiguous()
            found = zlib.crc32(plain.view(torch.uint8).numpy().data, found)
    return found


def joined(parts: Sequence[Any]) -> Any:
    """Records of the same fields (scores, distributions, tensors by row), their rows one after another."""
    first = parts[0]
    if isinstance(first, Tensor):
        return torch.cat(list(parts))
    if is_dataclass(first) and not isinstance(first, type):
        return replace(first, **{f.name: joined([getattr(part, f.name) for part in parts]) for f in fields(first)})
    if all(part == first for part in parts):
        return first
    raise TypeError(f"rows of {type(first).__name__} values can not be joined")


def carried(record: Any, device: torch.device | str) -> Any:
    """The same on another device."""
    if isinstance(record, Tensor):
        return record.to(device)
    if is_dataclass(record) and not isinstance(record, type):
        return replace(record, **{f.name: carried(getattr(record, f.name), device) for f in fields(record)})
    return record


def _merged(parts: Sequence[Mapping[str, tuple[float, float]]]) -> dict[str, tuple[float, float]]:
    found: dict[str, tuple[float, float]] = {}
    for part in parts:
        for name, (value, count) in part.items():
            before = found.get(name, (0.0, 0.0))
            found[name] = (before[0] + value, before[1] + count)
    return found
