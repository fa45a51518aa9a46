"""What several processes with shards make of the losses, methods and models of the library, beside what one makes.

`work` runs on every rank; rank 0 leaves what it found in a file. The processes are started once for all of it. As a
script, `sharded_cases.py --write docs/reliability.md` renews the page's table of equality.
"""

from __future__ import annotations

import argparse
import copy
import json
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.distributed.tensor import DTensor

import one_core
from cases import CASES, averages, rich
from one_core import KINDS, kind
from policyopt.compose import Given, Method, Program, Stage
from policyopt.engines.plain import generate
from policyopt.methods import load
from policyopt.options import options as every_option
from policyopt.options import override
from policyopt.policies.checkpoint import Lora, new_language, with_lora
from policyopt.run import Run
from policyopt.runtime.launch import launch
from policyopt.runtime.ranks import Ranks
from policyopt.runtime.sharding import Generating, Sharded
from policyopt.runtime.together import own_part, write_together
from policyopt.train import rounds
from policyopt.types import Batch
from policyopt.update.optimizers import SGD
from policyopt.worlds.tokens import TokenWorld
from support import context, full_step, grids, method

Gaps = dict[str, list[float]]
"""By case: differences over the size of what is right."""

MARKERS = ("<!-- equality: written by tests/sharded_cases.py -->", "<!-- end of equality -->")


def whole(x: Tensor) -> Tensor:
    return x.full_tensor() if isinstance(x, DTensor) else x


def gap(found: Tensor, right: Tensor) -> float:
    """Largest difference over the largest value."""
    return float((found - right).abs().max() / right.abs().max().clamp(min=1e-30))


# -- losses ------------------------------------------------------------------------------------------------------------
def losses(ranks: Ranks, dtype: torch.dtype, *, every: bool) -> Iterator[tuple[str, list[float]]]:
    """Loss and gradient of every case: rows of 1, 2, 7 and 13 steps divided between ranks; one pair of them, so that a
    rank has no row of its own; in one pass and row by row. every: with each averaging that fits, else each case in one
    of these ways."""
    ways = [(rich(), None), (rich()[torch.tensor([0, 2])], None), (rich(), 1)]
    for place, (key, case) in enumerate(CASES.items()):
        found = []
        for average, _ in list(averages(case).values())[: None if every else 1]:
            for rows, micro in ways if every else ways[place % 3 :][:1]:
                found += loss_gaps(ranks, case.term(average), case, cast(rows, dtype), micro, dtype)
        yield key, found


def loss_gaps(ranks: Ranks, term: Any, case: Any, rows: Batch, micro: int | None, dtype: torch.dtype) -> list[float]:
    models = {name: model.to(dtype) for name, model in grids(case.full).items()}
    made = method(term, roles=case.roles)
    value, slope = full_step(context(made, models), rows, model=case.trains)
    ctx = context(replace(made, update=replace(made.update, micro_rows=micro)), models)
    ctx.run.trainers = several = Sharded(ranks)
    ctx.stage.update.differentiate(ctx, rows, case.trains)
    loss = torch.tensor(ctx.meter.sums()[f"loss/{term.name}"][0])
    gradients = [p.grad for p in several.parameters(ctx, case.trains) if p.grad is not None]
    return [gap(loss, value), gap(whole(gradients[0]), slope)]


def cast(batch: Batch, dtype: torch.dtype) -> Batch:
    def to(columns: Mapping[str, Tensor]) -> dict[str, Tensor]:
        return {name: x.to(dtype) if x.is_floating_point() else x for name, x in columns.items()}

    return Batch(to(batch.row), to(batch.step), batch.scores)


# -- methods -----------------------------------------------------------------------------------------------------------
def after(run: Run, made: Method, ranks: Ranks | None, count: int = 1) -> tuple[dict[str, Tensor], Mapping[str, float]]:
    """Weights of every model, and metrics, after some rounds."""
    run.trainers = None if ranks is None else Sharded(ranks)
    if ranks is not None:
        run.engine = Generating(run.engine, ranks)
    done = list(rounds(run, Program((Stage(made, count),))))
    return weights(run), done[-1].metrics


def weights(run: Run) -> dict[str, Tensor]:
    return {f"{n}.{k}": v.detach().clone() for n, m in run.models.items() for k, v in m.state_dict().items()}


def compared(one: Any, several: Any) -> list[float]:
    """Gaps of every weight and metric; 1 if another metric is there."""
    (right, told), (found, also) = one, several
    gaps = [gap(found[n].double(), right[n].double()) for n in right if right[n].numel()]
    gaps += [abs(told[n] - also[n]) / max(1.0, abs(told[n])) for n in told if n in also]
    return [float(set(told) != set(also) or set(right) != set(found)), *gaps]


def of_kind(key: str, name: str) -> tuple[Run, Method]:
    """A method on a kind of policy, as `test_one_core.test_method` runs it."""
    from contracts.test_one_core import small

    made, of = load(key), kind(name)
    models = {"policy": copy.deepcopy(of.models["policy"])}
    models |= {n: of.models["teacher"] for n, spec in made.models.items() if isinstance(spec, Given)}
    world = one_core.recorded(of)
    return Run(models, world, generate, 1, worlds={made.world: world}), small(made)


def methods() -> list[tuple[str, str]]:
    """Every method, on one of the kinds of policy that it runs on, in turn."""
    from contracts.test_one_core import unsuited, variants

    found = []
    for place, key in enumerate(variants()):
        suited = [name for name in KINDS if not unsuited(key, name)]
        found += [(key, suited[place % len(suited)])] if suited else []
    return found


def of_methods(ranks: Ranks, chosen: list[tuple[str, str]]) -> Iterator[tuple[str, list[float]]]:
    for key, name in chosen:
        one, several = of_kind(key, name), of_kind(key, name)
        # Two rounds: what a hook trained in the first must have reached the second.
        yield f"{key} on {name}", compared(after(*one, None, 2), after(*several, ranks, 2))


# -- real decoders -----------------------------------------------------------------------------------------------------
DECODERS: dict[str, tuple[str, dict[str, Any]]] = {
    "grpo, gradient accumulated over micro-batches": ("grpo", {"update.micro_rows": 2}),
    "grpo, gradient clipped": ("grpo", {"update.clip_norm": 0.001}),
    "grpo, low-rank adapters": ("grpo", {}),
    "ppo, critic": ("ppo", {}),
    "ppo_ewma, moving average": ("ppo_ewma", {}),
    "dpo, reference": ("dpo:dpo_online", {}),
}


def decoder(case: str, dtype: torch.dtype = torch.float32) -> tuple[Run, Method]:
    """A method on a decoder of two layers."""
    key, options = DECODERS[case]
    policy = new_language(11, "llama", hidden_size=16, layers=2, heads=2, seed=3, dtype=dtype)
    if "adapters" in case:
        policy = with_lora(policy, Lora(rank=2, alpha=4))
    world = TokenWorld([[3], [5, 1, 7, 2], [4, 4], [9, 10, 6]], eos=0, limit=8, decode=str, judge=one_core.graded)
    made = load(key)
    rates = {option.key: 1e-3 for option in every_option(made) if option.path[-1] == "learning_rate"}
    return Run({"policy": policy}, world, generate, 1), override(made, {"selection.count": 4, **rates, **options})


def descending(run: Run, made: Method) -> tuple[Run, Method]:
    """By plain gradient descent, so that weights differ as gradients do; Adam divides each by its own size, which makes
    of rounding errors in gradients near 0 steps of any size."""
    rates = {name: SGD(0.05) for name in made.update.optimizers}
    return run, replace(made, update=replace(made.update, optimizers=rates))


def of_decoders(ranks: Ranks) -> Iterator[tuple[str, list[float]]]:
    for case in DECODERS:
        one, several = descending(*decoder(case)), descending(*decoder(case))
        yield case, compared(after(*one, None, 2), after(*several, ranks, 2))


def of_low_precision(ranks: Ranks) -> Iterator[tuple[str, list[float]]]:
    """bfloat16, whose critics' heads and adapters are in float32."""
    for case in ("ppo, critic", "grpo, low-rank adapters"):
        one, several = (descending(*decoder(case, torch.bfloat16)) for _ in range(2))
        yield case, compared(after(*one, None), after(*several, ranks))


# -- checkpoints -------------------------------------------------------------------------------------------------------
RESUMED = "ppo, critic"


def saved(ranks: Ranks, folder: str) -> dict[str, bool]:
    """Four rounds straight against two, a checkpoint, a new run and two more, bit for bit."""
    made = decoder(RESUMED)[1]
    program = Program((Stage(made, 4),))

    def begun() -> Run:
        run = decoder(RESUMED)[0]
        run.trainers, run.engine = Sharded(ranks), Generating(run.engine, ranks)
        return run

    straight = begun()
    for done in rounds(straight, program):
        if straight.step == 2:
            write_together(ranks, Path(folder) / "round-00000002.ckpt", straight.state())
        last = repr(done.metrics)
    again = begun()
    again.load_state(own_part(ranks, Path(folder) / "round-00000002.ckpt"), program)
    also = [repr(done.metrics) for done in rounds(again, program)]
    equal = all(torch.equal(a, b) for a, b in zip(weights(straight).values(), weights(again).values(), strict=True))
    write_together(ranks, Path(folder) / "round-00000004.ckpt", straight.state())
    return {"weights": equal, "metrics": also[-1] == last}


def work(ranks: Ranks, folder: str, chosen: list[tuple[str, str]], dtypes: list[str], *, every: bool) -> None:
    found: dict[str, Any] = {"decoders": dict(of_decoders(ranks)), "resumed": saved(ranks, folder)}
    found["bfloat16"] = dict(of_low_precision(ranks))
    torch.set_default_dtype(torch.float64)
    for name in dtypes:
        found[name] = dict(losses(ranks, getattr(torch, name), every=every))
    found["methods"] = dict(of_methods(ranks, chosen))
    if ranks.leads:
        (Path(folder) / "found.json").write_text(json.dumps(found))


def find(count: int, folder: Path, chosen: list[tuple[str, str]], dtypes: list[str], *, every: bool) -> dict[str, Any]:
    launch(count, given_every if every else given_some, (str(folder), chosen, dtypes), 600.0)
    return json.loads((folder / "found.json").read_text())


def given_every(ranks: Ranks, folder: str, chosen: list[tuple[str, str]], dtypes: list[str]) -> None:
    work(ranks, folder, chosen, dtypes, every=True)


def given_some(ranks: Ranks, folder: str, chosen: list[tuple[str, str]], dtypes: list[str]) -> None:
    work(ranks, folder, chosen, dtypes, every=False)


# -- the page ----------------------------------------------------------------------------------------------------------
def page(found: Mapping[str, Any]) -> str:
    def line(what: str, gaps: Gaps) -> str:
        worst = max(gaps, key=lambda name: max(gaps[name]))
        return f"| {what} | {len(gaps)} | {max(gaps[worst]):.1e} | {worst} |"

    rows = [line(f"losses in {t}: value and gradient", found[t]) for t in ("float64", "float32") if t in found]
    rows += [line("methods in float64: all weights and metrics after two rounds", found["methods"])]
    rows += [line(f"decoder of 2 layers, float32, 2 rounds: {case}", {"": g}) for case, g in found["decoders"].items()]
    same = "yes" if all(found["resumed"].values()) else "no"
    head = "| what | cases | largest difference | in |\n|---|---|---|---|\n"
    return head + "\n".join(rows) + f"\n\nResumed bit for bit: {same}.\n"


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--write", type=Path)
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--one-in", type=int, default=1, help="of the methods; above 1, losses also in one way each")
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        chosen, types = methods()[:: asked.one_in], ["float64", "float32"]
        text = page(find(asked.processes, Path(folder), chosen, types, every=asked.one_in == 1))
    print(text)
    if asked.write:
        before, _, rest = asked.write.read_text(encoding="utf-8").partition(MARKERS[0])
        after_ = rest.partition(MARKERS[1])[2]
        asked.write.write_text(f"{before}{MARKERS[0]}\n{text}{MARKERS[1]}{after_}", encoding="utf-8")


if __name__ == "__main__":
    main()
