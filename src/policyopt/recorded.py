"""A gradient as a list of tensor operations: recorded once, replayed for minibatches of the same shape.

Small networks spend most of an update in Python and in the autograd engine. Recording runs the real computation once
(terms, masks, averages, models, backward) and keeps its tensor operations; replaying them gives bitwise the same
numbers. Random numbers are drawn anew at every replay, as the eager update would draw them. What a recording would
freeze is refused: the run's clocks and cells, and Python decisions on the values of tensors.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.fx.experimental.proxy_tensor import make_fx
from torch.fx.graph import CodeGen
from torch.nn.utils.stateless import _reparametrize_module
from torch.overrides import TorchFunctionMode

from policyopt.compose import CompositionError
from policyopt.types import Batch, Scores

MOST = 16  # recordings of one model: minibatches come in few shapes
Loss = Callable[[Any, Batch], Tensor]
Column = tuple[str, str]


class NotRecordableError(CompositionError):
    """An update that does something a recording can not repeat."""


class Recordings:
    """The recordings of one model in one stage, by the shapes of what they read."""

    def __init__(self) -> None:
        self._kept: dict[Any, Recording] = {}
        self._last: tuple[Any, ...] = (None, 0, None)  # batch, rows of a minibatch, its recording

    def gradients(
        self,
        ctx: Any,
        loss: Loss,
        parameters: Sequence[nn.Parameter],
        batch: Batch,
        rows: Tensor | None,
        *,
        compiled: bool,
    ) -> list[Tensor | None]:
        """Gradients of loss(ctx, batch[rows]) by the parameters; what it adds to the meter is added."""
        size = len(batch if rows is None else rows)
        if self._last[0] is not batch or self._last[1] != size:  # minibatches of one batch are of one kind
            self._last = (batch, size, self._recording(ctx, loss, parameters, batch, rows, compiled=compiled))
        return self._last[2](ctx, batch, rows)

    def _recording(
        self,
        ctx: Any,
        loss: Loss,
        parameters: Sequence[nn.Parameter],
        batch: Batch,
        rows: Tensor | None,
        *,
        compiled: bool,
    ) -> Recording:
        key = (compiled, batch.heat, len(batch if rows is None else rows), _shapes(batch), _identities(ctx))
        if key not in self._kept:
            if len(self._kept) >= MOST:
                raise NotRecordableError(
                    f"the update met more than {MOST} shapes of minibatches, each of which is recorded anew; use "
                    "execution=eager, or minibatches of one size"
                )
            part = batch if rows is None else batch[rows]
            self._kept[key] = Recording(ctx, loss, parameters, part, compiled=compiled)
        return self._kept[key]


class Recording:
    """Operations from the tensors of models and of a minibatch to gradients and metrics."""

    def __init__(
        self,
        ctx: Any,
        loss: Loss,
        parameters: Sequence[nn.Parameter],
        part: Batch,
        *,
        compiled: bool,
    ):
        self.tensors = _tensors(ctx)
        trained = {id(parameter) for parameter in parameters}
        self.columns = _columns(part)
        heat = part.heat  # what policies decide by is part of the recording's key
        self.names: list[tuple[str, bool, bool]] = []  # of metrics; whether value and count are tensors
        self.plain: list[tuple[Any, Any]] = []  # value and count of those that are not
        used: list[bool] = []
        self.draws = _Draws()
        with torch.no_grad(), self.draws:
            loss(_Watched(ctx, self.draws), part)

        def run(held: list[Tensor], given: list[Tensor], drawn: list[Tensor]) -> list[Tensor]:
            rebuilt = _batch(self.columns, given, part)
            vars(rebuilt)["heat"] = heat
            giving = _Draws(drawn)
            watched = _Watched(ctx, giving)
            with giving, ExitStack() as swapped:
                _swap(swapped, ctx, self.tensors, held)
                value = loss(watched, rebuilt)
                wanted = [t for t, own in zip(held, self.tensors, strict=True) if id(own) in trained]
                found = (
                    torch.autograd.grad(value, wanted, allow_unused=True)
                    if value.requires_grad
                    else [None] * len(wanted)
                )
            used[:] = [gradient is not None for gradient in found]
            self.names = [(n, isinstance(v, Tensor), isinstance(c, Tensor)) for n, v, c in watched.meter.pairs]
            self.plain = [(v, c) for _, v, c in watched.meter.pairs]
            metrics = [x.detach() for _, v, c in watched.meter.pairs for x in (v, c) if isinstance(x, Tensor)]
            return [gradient for gradient in found if gradient is not None] + metrics

        held = [t.detach().requires_grad_(id(t) in trained) for t in self.tensors]
        given = [_column(part, column) for column in self.columns]
        try:
            graph = make_fx(run)(held, given, self.draws.drawn)
        except RuntimeError as error:
            if "data-dependent" in str(error) or "tracing tensor" in str(error):
                raise NotRecordableError(
                    "the update decides something in Python by the value of a tensor, which a recording can not repeat "
                    f"({str(error).splitlines()[0]:.200}); use execution=eager"
                ) from error
            raise
        self.used = list(used)
        self.order = [id(t) for t in self.tensors if id(t) in trained]
        self.positions = [self.order.index(id(parameter)) for parameter in parameters]
        self._keep_what_is_read(graph)
        self.run: Any = self._compiled(part) if compiled else self.graph

    def _compiled(self, part: Batch) -> Any:
        """The operations as code of this machine, without the checks that `torch.compile` makes at every call: shapes
        are part of the recording's key."""
        from torch._inductor import compile as compile_graph
        from torch._inductor.exc import InductorError

        drawn = [x for x, read in zip(self.draws.drawn, self.drawn, strict=True) if read]
        inputs = [*self.held, *[_column(part, column) for column in self.given], *drawn]
        try:
            with torch.no_grad():
                return compile_graph(self.graph, [x.detach() for x in inputs])
        except (InductorError, RuntimeError) as error:
            raise NotRecordableError(
                f"torch could not compile the update ({str(error).splitlines()[0]:.200}); it needs a C++ compiler; use "
                "execution=recorded"
            ) from error

    def _keep_what_is_read(self, graph: Any) -> None:
        """Without operations that change nothing; only columns and tensors that are read stay inputs."""
        simplify(graph)
        places = [node for node in graph.graph.nodes if node.op == "placeholder"]
        count, columns = len(self.tensors), len(self.columns)
        self.reads = [bool(node.users) for node in places]
        outputs = {id(argument) for argument in next(n for n in graph.graph.nodes if n.op == "output").args[0]}
        self.reads = [read or id(node) in outputs for read, node in zip(self.reads, places, strict=True)]
        for node, read in zip(places, self.reads, strict=True):
            if not read:
                graph.graph.erase_node(node)
        graph.graph.set_codegen(CodeGen())
        graph.recompile()
        self.graph = graph
        self.held = [t for t, read in zip(self.tensors, self.reads[:count], strict=True) if read]
        self.given = [c for c, read in zip(self.columns, self.reads[count : count + columns], strict=True) if read]
        self.drawn = self.reads[count + columns :]

    def __call__(self, ctx: Any, batch: Batch, rows: Tensor | None) -> list[Tensor | None]:
        given = [_column(batch, column) for column in self.given]
        if rows is not None:
            given = [column.index_select(0, rows) for column in given]
        drawn = [x for x, read in zip(self.draws.again(ctx), self.drawn, strict=True) if read]
        with torch.no_grad():
            found = iter(self.run(*self.held, *given, *drawn))
        gradients = [next(found) if one else None for one in self.used]
        for (name, value_moves, count_moves), (value, count) in zip(self.names, self.plain, strict=True):
            ctx.meter.add(name, next(found) if value_moves else value, next(found) if count_moves else count)
        return [gradients[position] for position in self.positions]


def simplify(module: fx.GraphModule) -> None:
    """Take out, in place, what gives no other numbers: detaching, computing the same twice, making the same constant
    anew, what nothing reads."""
    graph = module.graph
    for node in list(graph.nodes):
        if node.op == "call_function" and node.target in _DETACHING:
            node.replace_all_uses_with(node.args[0])
            graph.erase_node(node)
    known: dict[Any, fx.Node] = {}
    for number, node in enumerate(list(graph.nodes)):
        if node.op != "call_function" or _touches(node) or any(_touches(user) for user in node.users):
            continue
        if not node.all_input_nodes and all(user.op != "output" for user in node.users):
            name = f"_constant_{number}"
            module.register_buffer(name, node.target(*node.args, **node.kwargs))
            with graph.inserting_before(node):
                same = graph.get_attr(name)
        else:
            same = known.setdefault((node.target, str(node.args), str(node.kwargs)), node)
        if same is not node:
            node.replace_all_uses_with(same)
            graph.erase_node(node)
    graph.eliminate_dead_code()


_ATEN = torch.ops.aten
_DETACHING = (_ATEN.detach.default, _ATEN.alias.default)


def _touches(node: fx.Node) -> bool:
    """Whether an operation writes to an argument, gives a view of it or draws numbers: then it is not to be merged."""
    target: Any = node.target
    if not isinstance(target, torch._ops.OpOverload) or torch.Tag.nondeterministic_seeded in target.tags:
        return True
    return any(argument.alias_info is not None for argument in target._schema.arguments)


# -- the pieces ------------------------------------------------------------------------------------------------
class _Pairs:
    """A meter that keeps what it is given."""

    def __init__(self) -> None:
        self.pairs: list[tuple[str, Any, Any]] = []

    def add(self, name: str, value: Any, count: Any) -> None:
        self.pairs.append((name, value, count))


class _Draws(TorchFunctionMode):
    """The random numbers of an update: made and remembered, or, where `drawn` are given, those in their place.

    A draw is remembered as its generator's purpose and the call that made it, so that it can be made again."""

    def __init__(self, drawn: Sequence[Tensor] | None = None):
        self._given = None if drawn is None else iter(drawn)
        self._generators: dict[int, int] = {}
        self._held: list[torch.Generator] = []  # kept, because they are known by their identity
        self.purposes: list[str] = []
        self.calls: list[tuple[int, Any, tuple[Any, ...], dict[str, Any]]] = []
        self.drawn: list[Tensor] = []

    def rng(self, purpose: str) -> torch.Generator:
        """A generator whose draws are noticed; the run's own is asked at every replay."""
        made = torch.Generator()
        self._generators[id(made)] = len(self._held)
        self._held.append(made)
        self.purposes.append(purpose)
        return made

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        options = dict(kwargs or {})
        generator = options.pop("generator", None)
        if id(generator) not in self._generators:
            return func(*args, **(kwargs or {}))
        if func not in _FRESH:
            raise NotRecordableError(
                f"the update draws by {getattr(func, '__name__', func)}, whose numbers may depend on a tensor; draw "
                "them by torch.rand, randn, randint or randperm, or use execution=eager"
            )
        if self._given is not None:
            return next(self._given)
        self.calls.append((self._generators[id(generator)], func, args, options))
        self.drawn.append(func(*args, generator=generator, **options))
        return self.drawn[-1]

    def again(self, ctx: Any) -> list[Tensor]:
        """The same draws from the run's generators."""
        generators = [ctx.rng(purpose) for purpose in self.purposes]
        return [func(*args, generator=generators[n], **options) for n, func, args, options in self.calls]


_FRESH = (torch.rand, torch.randn, torch.randint, torch.randperm)


class _Watched:
    """The context as an update may see it while it is recorded: models and the stage, nothing that changes."""

    def __init__(self, ctx: Any, draws: _Draws):
        self._ctx, self.rng = ctx, draws.rng
        self.models, self.stage, self.seed, self.meter = ctx.models, ctx.stage, ctx.seed, _Pairs()
        self.stage_total = ctx.stage_total

    def total(self, x: Tensor) -> Tensor:
        return self._ctx.total(x)

    def __getattr__(self, name: str) -> Any:
        raise NotRecordableError(f"the update reads ctx.{name}, which changes from step to step; use execution=eager")

    def __getitem__(self, cell: Any) -> Any:
        raise NotRecordableError(f"the update reads the cell {cell.name!r}, which may change; use execution=eager")


def _tensors(ctx: Any) -> list[Tensor]:
    """Parameters and buffers of every model of the run, each once."""
    found: dict[int, Tensor] = {}
    for name in ctx.models:
        model = ctx.models[name]
        for tensor in (*model.parameters(), *model.buffers()):
            found.setdefault(id(tensor), tensor)
    return list(found.values())


def _identities(ctx: Any) -> tuple[int, ...]:
    return tuple(id(ctx.models[name]) for name in ctx.models)


def _swap(stack: ExitStack, ctx: Any, own: Sequence[Tensor], held: Sequence[Tensor]) -> None:
    """For as long as the stack is open the models hold other tensors."""
    other = {id(mine): theirs for mine, theirs in zip(own, held, strict=True)}
    for model in {id(ctx.models[name]): ctx.models[name] for name in ctx.models}.values():
        named = (*model.named_parameters(remove_duplicate=False), *model.named_buffers(remove_duplicate=False))
        stack.enter_context(_reparametrize_module(model, {name: other[id(t)] for name, t in named}))


def _columns(batch: Batch) -> list[Column]:
    scores = [(f"scores {field}", name) for name, s in batch.scores.items() for field in _fields(s)]
    return [("row", name) for name in batch.row] + [("step", name) for name in batch.step] + scores


def _fields(scores: Scores) -> list[str]:
    own = [] if scores.entropy is None else ["entropy"]
    held = {} if scores.dist is None else vars(scores.dist)
    dist = [f"dist.{name}" for name, value in held.items() if isinstance(value, Tensor)]
    return ["logp", *own, *dist]


def _column(batch: Batch, column: Column) -> Tensor:
    where, name = column
    if where in ("row", "step"):
        return getattr(batch, where)[name]
    scores, field = batch.scores[name], where.removeprefix("scores ")
    return getattr(scores.dist, field.removeprefix("dist.")) if field.startswith("dist.") else getattr(scores, field)


def _batch(columns: Sequence[Column], given: Sequence[Tensor], like: Batch) -> Batch:
    """The batch whose columns are the given tensors."""
    held = dict(zip(columns, given, strict=True))
    row = {name: held[where, name] for where, name in columns if where == "row"}
    step = {name: held[where, name] for where, name in columns if where == "step"}
    scores = {name: _rebuilt(name, one, held) for name, one in like.scores.items()}
    return Batch(row, step, scores)


def _rebuilt(name: str, like: Scores, held: Mapping[Column, Tensor]) -> Scores:
    def get(field: str) -> Tensor:
        return held[f"scores {field}", name]

    dist: Any = like.dist
    if dist is not None:
        dist = replace(dist, **{f: get(f"dist.{f}") for f, value in vars(dist).items() if isinstance(value, Tensor)})
    return Scores(get("logp"), None if like.entropy is None else get("entropy"), dist, like.exact)


def _shapes(batch: Batch) -> tuple[Any, ...]:
    return tuple((column, _column(batch, column).shape[1:], _column(batch, column).dtype) for column in _columns(batch))
