"""One core, every policy: objectives, credit and constraints run unchanged on language, control, denoising and tables.

Each cell of docs/one-core.md is a test here: the same part object, on rows that a small real policy of the kind wrote
in its world, with value and gradient (by all of the policy's parameters) equal to plain loops in float64. After a new
part: `PYTHONPATH=tests python tests/contracts/test_one_core.py` writes the page again.
"""

from __future__ import annotations

import ast
import copy
import inspect
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

import loops
import one_core
import references_occupancy
import references_values
from cases import CASES
from one_core import GAUSSIAN, KINDS, kind
from policyopt import methods
from policyopt.compose import CompositionError, Given, Loss, Method, Program, Role, Stage, Term
from policyopt.credit.flat import FlatGroups
from policyopt.credit.groups import GroupCentred, GroupStandardised, LeaveOneOut
from policyopt.credit.heads import PerHead
from policyopt.credit.history import SignWeighted, TaskStandardised
from policyopt.credit.returns import GeneralisedAdvantage, ReturnToGo
from policyopt.credit.running import RunningStandardised
from policyopt.credit.shares import GoodShare
from policyopt.engines.plain import generate
from policyopt.methods import keys, load
from policyopt.objective.action_values import ExpectileValue, StateValue, TemporalDifference
from policyopt.objective.ratio import Authorship
from policyopt.ops.sequences import total_reward
from policyopt.options import options, override, part_classes, snake
from policyopt.run import Run
from policyopt.sampling.streams import Stream
from policyopt.train import rounds
from policyopt.types import Batch, Categorical, Finish
from policyopt.update.averaging import RowMean, TokenMean
from policyopt.update.first import TrainedFirst
from policyopt.update.gradient import losses
from support import close, context, method

pytestmark = pytest.mark.usefixtures("float64")

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs" / "one-core.md"
HERE = "tests/contracts/test_one_core.py"


# -- losses ----------------------------------------------------------------------------------------------------------
def refusal_of(key: str, name: str) -> str:
    """Why a loss can not be of this kind's steps; empty if it can."""
    case = CASES[key]
    if not case.full or key in GAUSSIAN or name in ("language", "tabular"):
        return ""
    return "for choices only"


def averages(key: str) -> tuple[str, ...]:
    return ("token_mean", "sequence_mean", "sequence_sum") if CASES[key].unit == "step" else ("row_mean",)


def stepped(key: str, name: str, average: str, micro: int | None) -> tuple[Tensor, list[Tensor]]:
    """Loss and gradient by every parameter of the trained model, as an update computes them."""
    case, of = CASES[key], kind(name)
    average_part: Any = RowMean() if average == "row_mean" else one_core.AVERAGES[average][0]
    made = method(case.term(average_part), roles=case.roles)
    ctx = context(made, of.models, of.world, generate)
    parameters = [p for p in of.models[case.trains].parameters() if p.requires_grad]
    loss, slopes = torch.zeros(()), [torch.zeros_like(p) for p in parameters]
    for part in losses(ctx, of.rows, made.terms, micro):
        loss = loss + part.detach()
        if part.requires_grad:
            found = one_core.gradient([part], [torch.ones_like(part)], parameters)
            slopes = [a + b for a, b in zip(slopes, found, strict=True)]
    return loss, slopes


@pytest.mark.parametrize("name", KINDS)
@pytest.mark.parametrize("key", sorted(CASES))
def test_loss(key: str, name: str) -> None:
    if refusal_of(key, name):
        with pytest.raises(CompositionError, match="categorical"):
            stepped(key, name, averages(key)[0], None)
        return
    for average in averages(key):
        value, expected = one_core.by_loops(key, CASES[key], kind(name), average)
        assert abs(float(value)) > 1e-6, "the expected loss must not be trivially 0"
        assert max(float(g.abs().max()) for g in expected) > 1e-8, "nor its gradient"
        for micro in (None, 3):
            found, slopes = stepped(key, name, average, micro)
            close(found, value, 1e-10, f"{average}, micro-batches of {micro}")
            for slope, right in zip(slopes, expected, strict=True):
                close(slope, right, 1e-9, f"{average}, micro-batches of {micro}")


@pytest.mark.parametrize("name", KINDS)
def test_scores(name: str) -> None:
    """The log-probability of every step equals that of the distribution it was drawn from, and a model scored twice
    (or whole, or in parts) says the same."""
    of = kind(name)
    policy: Any = of.models["policy"]
    # The relatives are copies with noise; of scale 0 for the policy, which wrote the rows.
    with torch.no_grad():
        whole, full = policy.score(of.rows).logp, policy.score(of.rows, full=True)
        parts = torch.cat([policy.score(of.rows[i : i + 3]).logp for i in (0, 3, 6)])
    trained = of.rows.trained
    close(whole[trained], of.rows.step["behaviour"][trained], 1e-10)
    close(parts[trained], whole[trained], 1e-12)
    close(full.dist[trained].log_prob(_taken(of, policy)[trained]), whole[trained], 1e-12)


def _taken(of: Any, policy: Any) -> Tensor:
    return policy.taken(of.rows) if hasattr(policy, "taken") else of.rows.step["_token"]


# -- losses of action values -----------------------------------------------------------------------------------------
@dataclass(frozen=True)
class Valued:
    """A loss of action values (model "critic") and a state value (model "teacher"), and what the loops make of the
    numbers both say: value and slope by what is trained."""

    loss: Loss
    trains: str
    reference: Callable[[Batch, int, int, list[float], float, float], tuple[float, list[float]]]


def authorship(rows: Batch, b: int, t: int, q: list[float], here: float, after: float) -> tuple[float, list[float]]:
    value, slope = references_occupancy.authorship(q[0], int(rows.row["author"][b]))
    return value, [slope, 0.0]


def difference(rows: Batch, b: int, t: int, q: list[float], here: float, after: float) -> tuple[float, list[float]]:
    target = float(rows.step["reward"][b, t]) + 0.9 * after
    return references_values.temporal_difference(q, target, 0.5)


def expectile(rows: Batch, b: int, t: int, q: list[float], here: float, after: float) -> tuple[float, list[float]]:
    value, slope = references_values.expectile(min(q), here, 0.7)
    return value, [slope]


VALUED = {
    "authorship": Valued(Authorship("critic"), "critic", authorship),
    "temporal_difference": Valued(
        TemporalDifference(StateValue("teacher"), "critic", 0.9, huber=0.5), "critic", difference
    ),
    "expectile_value": Valued(ExpectileValue(0.7, "teacher", "critic"), "teacher", expectile),
}


def without_values(key: str, name: str) -> str:
    return "" if "q" in kind(name).models else "no action values"


@pytest.mark.parametrize("name", KINDS)
@pytest.mark.parametrize("key", sorted(VALUED))
def test_action_values(key: str, name: str) -> None:
    of, valued = kind(name), VALUED[key]
    models = {"policy": of.models["policy"], "critic": of.models.get("q", of.models["critic"])}
    models["teacher"] = of.models["critic"]
    made = method(Term("one", valued.loss, TokenMean(), trains=valued.trains), roles={}, sampling=TrainedFirst())
    rows = of.rows.with_rows({"author": torch.arange(8) % 2})
    ctx = context(made, models, of.world)
    if without_values(key, name):
        with pytest.raises(CompositionError, match="can not give action values"):
            list(losses(ctx, rows, made.terms))
        return
    q, state = models["critic"].q(rows), models["teacher"].value(rows)
    through = q if valued.trains == "critic" else state
    slopes, value, count = torch.zeros_like(through), 0.0, int(rows.trained.sum())
    for b, t in rows.trained.nonzero().tolist():
        over = t + 1 == int(rows.lengths[b]) and int(rows.row["finish"][b]) == int(Finish.STOPPED)
        after = 0.0 if over else float(state[b, t + 1].detach())
        one, slope = valued.reference(rows, b, t, q[:, b, t].tolist(), float(state[b, t].detach()), after)
        value += one / count
        if valued.trains == "critic":
            slopes[:, b, t] = torch.tensor(slope) / count
        else:
            slopes[b, t] = slope[0] / count
    parameters = [p for p in models[valued.trains].parameters() if p.requires_grad]
    expected = one_core.gradient([through], [slopes], parameters)
    for micro in (None, 3):
        parts = list(losses(ctx, rows, made.terms, micro))
        close(sum(part.detach() for part in parts), value, 1e-10)
        found = one_core.gradient(parts, [torch.ones(())] * len(parts), parameters)
        for a, b in zip(found, expected, strict=True):
            close(a, b, 1e-10)
    assert max(float(g.abs().max()) for g in expected) > 1e-6


# -- credit ----------------------------------------------------------------------------------------------------------
@dataclass(frozen=True)
class Credit:
    """A credit part and what the loops make of rows: {column: (B, T)}."""

    part: Any
    reference: Callable[[Any, Batch, Any], dict[str, Tensor]]


def spread(rows: Batch, values: list[float]) -> Tensor:
    return torch.where(rows.own, torch.tensor(values)[:, None], 0.0)


def grouped(formula: Callable[..., list[float]]) -> Callable[..., dict[str, Tensor]]:
    def reference(part: Any, rows: Batch, of: Any) -> dict[str, Tensor]:
        reward = [sum(float(rows.step["reward"][b, t]) for t in range(rows.steps) if rows.own[b, t]) for b in range(8)]
        return {"advantage": spread(rows, formula(reward, rows.row["group"].tolist(), rows.row["scored"].tolist()))}

    return reference


def by_row(rows: Batch, formula: Callable[[int, list[int]], list[float]]) -> Tensor:
    """formula(row, its own steps) -> a number for each of them."""
    out = torch.zeros(len(rows), rows.steps)
    for b in range(len(rows)):
        own = [t for t in range(rows.steps) if rows.own[b, t]]
        out[b, own] = torch.tensor(formula(b, own))
    return out


def returns(part: Any, rows: Batch, of: Any) -> dict[str, Tensor]:
    found = by_row(rows, lambda b, own: loops.to_go([float(rows.step["reward"][b, t]) for t in own], part.gamma))
    return {"return": found, "advantage": torch.where(rows.row["scored"][:, None], found, 0.0)}


def generalised(part: Any, rows: Batch, of: Any) -> dict[str, Tensor]:
    with torch.no_grad():
        values = of.models["critic"].value(rows)

    def row(b: int, own: list[int]) -> list[float]:
        rewards = [float(rows.step["reward"][b, t]) for t in own]
        cut = int(rows.row["finish"][b]) == int(Finish.TRUNCATED)
        after = float(values[b, len(own)]) if cut else 0.0
        return loops.gae(rewards, [float(values[b, t]) for t in own], after, part.gamma, part.lam)

    advantage = by_row(rows, row)
    value = torch.where(rows.own, values[:, :-1], 0.0)
    scored = rows.row["scored"][:, None]
    return {"value": value, "return": advantage + value, "advantage": torch.where(scored, advantage, 0.0)}


def of_task(part: Any, rows: Batch, of: Any) -> dict[str, Tensor]:
    """The first round: a task's rewards of this round are its group."""
    reward = total_reward(rows).tolist()
    tasks, scored = rows.row["task"].tolist(), rows.row["scored"].tolist()
    return {"advantage": spread(rows, loops.standardised(reward, tasks, scored, part.epsilon, part.ddof))}


def signed(part: Any, rows: Batch, of: Any) -> dict[str, Tensor]:
    given = rows.step["advantage"]
    found = by_row(
        rows, lambda b, own: [x * (part.positive if x > 0 else part.negative) for x in given[b, own].tolist()]
    )
    return {"advantage": torch.where(rows.own, found, given)}


def running(part: Any, rows: Batch, of: Any) -> dict[str, Tensor]:
    """The first round: the mean and deviation of the round."""
    scored = rows.row["scored"].tolist()
    every = [float(rows.step["advantage"][b, t]) for b, t in rows.own.nonzero().tolist() if scored[b]]
    mean = sum(every) / len(every)
    deviation = (sum((x - mean) ** 2 for x in every) / len(every)) ** 0.5
    found = by_row(
        rows,
        lambda b, own: [
            (float(rows.step["advantage"][b, t]) - mean) / (deviation + part.epsilon) if scored[b] else 0.0 for t in own
        ],
    )
    return {"advantage": found}


def by_head(part: Any, rows: Batch, of: Any) -> dict[str, Tensor]:
    reward = torch.where(rows.own, rows.step["reward:sharp"], 0.0).sum(1).tolist()
    found = loops.standardised(reward, rows.row["group"].tolist(), rows.row["scored"].tolist(), part.epsilon, part.ddof)
    return {"advantage:sharp": spread(rows, [min(max(x, -0.5), 0.5) for x in found])}


def good_share(part: Any, rows: Batch, of: Any) -> dict[str, Tensor]:
    """A row column."""
    reward = total_reward(rows).tolist()
    found = loops.standardised(reward, rows.row["group"].tolist(), rows.row["scored"].tolist(), part.epsilon, part.ddof)
    return {"share": torch.tensor([min(max(x / 1.6 + 0.5, 0.1), 1.0) for x in found])}


def flat_groups(part: Any, rows: Batch, of: Any) -> dict[str, Tensor]:
    """The reward itself where a group differs little."""
    reward, groups, scored = total_reward(rows).tolist(), rows.row["group"].tolist(), rows.row["scored"].tolist()
    out = rows.step["advantage"].clone()
    for b in range(8):
        pool = [reward[i] for i in loops.members(groups, scored, b)]
        if scored[b] and max(pool) - min(pool) <= part.tolerance:
            out[b] = reward[b]
    return {"advantage": out}


CREDIT = {
    "flat_groups": Credit(FlatGroups(1.5, raw=True), flat_groups),
    "per_head": Credit(PerHead(("sharp",), bound=0.5), by_head),
    "good_share": Credit(GoodShare(bound=0.8, least=0.1), good_share),
    "group_standardised": Credit(GroupStandardised(), grouped(loops.standardised)),
    "group_centred": Credit(GroupCentred(), grouped(loops.centred)),
    "leave_one_out": Credit(LeaveOneOut(), grouped(loops.leave_one_out)),
    "return_to_go": Credit(ReturnToGo(0.9), returns),
    "generalised_advantage": Credit(GeneralisedAdvantage(0.9, 0.7, whitened=False), generalised),
    "task_standardised": Credit(TaskStandardised(), of_task),
    "sign_weighted": Credit(SignWeighted(2.0, 0.5), signed),
    "running_standardised": Credit(RunningStandardised(), running),
}

# Credit of one subject may keep its cases in a file of its own: tests/credit_SUBJECT.py with `CREDIT`, pairs of a part
# and its reference.
for _path in sorted(Path(__file__).parents[1].glob("credit_*.py")):
    CREDIT |= {key: Credit(*pair) for key, pair in import_module(_path.stem).CREDIT.items()}


@pytest.mark.parametrize("name", KINDS)
@pytest.mark.parametrize("key", sorted(CREDIT))
def test_credit(key: str, name: str) -> None:
    of, credit = kind(name), CREDIT[key]
    found = credit.part(context(method(), of.models, of.world), of.rows)
    for column, expected in credit.reference(credit.part, of.rows, of).items():
        own = of.rows.own if expected.dim() == 2 else of.rows.own.any(1)
        assert float(expected[own].abs().max()) > 1e-3
        made = found.step[column] if expected.dim() == 2 else found.row[column]
        close(made[own], expected[own], 1e-9, column)


# -- whole methods ------------------------------------------------------------------------------------------------
def variants() -> list[str]:
    """Every method of the package: keys and, where a file defines more than one, key:name."""
    found = []
    for key in keys():
        made = [n for n, v in vars(methods.module(key)).items() if isinstance(v, Method) and v.about.key == n]
        found += [n if n == key else f"{key}:{n}" for n in made if n == key or n not in keys()]
    return found


STAGED = ("dvpo", "oreal")
ELSEWHERE = {
    ("oppo", "language"): "with a place for codes: test_hindsight_language.py",
    ("oppo", "control"): "with a place for codes: test_oppo.py",
    ("refuel", "tabular"): "on strings, whose rows go back to different lengths: test_refuel.py",
    ("rise_judge:rise_judge_warm_up", "language"): "on comparisons in both orders: test_asking_recipes.py",
}


def unsuited(key: str, name: str) -> str:
    """Why a method is not run on a kind here; empty if it is."""
    made = load(key)
    if name not in made.about.policies:
        return "—"
    if isinstance(made.sampling, Stream):
        return f"streams: test_{key.partition(':')[0]}.py"
    if "policy" not in made.update.optimizers:
        return f"trains another model: test_{key.partition(':')[0]}.py"
    if (key, name) in ELSEWHERE:
        return ELSEWHERE[key, name]
    if key in STAGED:
        return f"moves once a stage has trained its model: test_{key}.py"
    return ""


def small(made: Method) -> Method:
    """Few rows a round."""
    wanted = {("selection", "count"): 4, ("sampling", "size"): 2, ("before", "count"): 4}
    changes: dict[str, Any] = {}
    for option in options(made):
        if (option.path[0], option.path[-1]) in wanted:
            changes[option.key] = wanted[option.path[0], option.path[-1]]
        elif option.path[-1] == "learning_rate":
            changes[option.key] = 0.01
        elif option.path[-1] in ("epochs", "minibatches"):
            changes[option.key] = min(2, int(option.value))
    return override(made, changes)


@pytest.mark.parametrize("name", KINDS)
@pytest.mark.parametrize("key", variants())
def test_method(key: str, name: str) -> None:
    """Two rounds of the real loop: the policy moves, and every number is finite."""
    if unsuited(key, name):
        pytest.skip(unsuited(key, name))
    made, of = load(key), kind(name)
    models = {"policy": copy.deepcopy(of.models["policy"])}
    models |= {n: of.models["teacher"] for n, spec in made.models.items() if isinstance(spec, Given)}
    before = [p.detach().clone() for p in models["policy"].parameters()]
    world = one_core.recorded(of)
    run = Run(models, world, generate, 1, worlds={made.world: world})
    done = list(rounds(run, Program((Stage(small(made), 2),))))
    after = [p.detach() for p in models["policy"].parameters()]
    assert all(bool(torch.isfinite(p).all()) for p in after)
    assert max(float((a - b).abs().max()) for a, b in zip(after, before, strict=True)) > 0
    assert all(math.isfinite(value) for round_ in done for value in round_.metrics.values())


# -- nothing is written twice ------------------------------------------------------------------------------------------
AXES = ("objective", "credit", "constraint")


def modules() -> Iterator[tuple[str, Any, ast.Module]]:
    for axis in AXES:
        for path in sorted((ROOT / "src" / "policyopt" / axis).glob("*.py")):
            yield f"{axis}/{path.name}", path, ast.parse(path.read_text(encoding="utf-8"))


def test_the_axes_know_no_policy_and_no_kind() -> None:
    """No import of a policy, world or engine, no name of a kind as a value, no question after a policy's `kind`."""
    for where, _, tree in modules():
        for node in ast.walk(tree):
            if isinstance(node, ast.Import | ast.ImportFrom):
                names = [node.module or ""] if isinstance(node, ast.ImportFrom) else [a.name for a in node.names]
                for imported in names:
                    assert not imported.startswith(tuple(f"policyopt.{p}" for p in ("policies", "worlds", "engines")))
            if isinstance(node, ast.Constant) and isinstance(node.value, str):
                assert node.value not in KINDS, f"{where}:{node.lineno} names the kind {node.value!r}"
            if isinstance(node, ast.Attribute):
                assert node.attr != "kind", f"{where}:{node.lineno} asks for a kind"


def test_one_class_serves_all_kinds() -> None:
    """A part has one class in one module; the parts of a method are the same objects whatever policy it trains."""
    for axis in AXES:
        for name, part in part_classes(axis).items():
            assert part.__module__.startswith(f"policyopt.{axis}."), name
            assert not [k for k in KINDS if k in name and k != "denoising"], f"{name} is named after a kind"
    for key in keys():
        first, second = load(key), load(key)
        assert all(a.loss is b.loss for a, b in zip(first.terms, second.terms, strict=True))
        for term in first.terms:
            assert part_classes(type(term.loss).__module__.split(".")[1])[snake(type(term.loss).__name__)] is type(
                term.loss
            )


def test_kinds_differ_in_what_matters() -> None:
    """Choices and numbers, uneven rows, ends and cuts, steps that are not trained: the rows are no easy case."""
    dists = {name: _dist(name) for name in KINDS}
    assert [name for name, d in dists.items() if isinstance(d, Categorical)] == ["language", "tabular"]
    assert len({type(d) for d in dists.values()}) == 3
    ragged = [name for name in KINDS if len(kind(name).rows.lengths.unique()) > 1]
    assert ragged == ["language", "control", "tabular"]
    for name in KINDS:
        rows = kind(name).rows
        assert kind(name).models["policy"].kind == name
        assert bool((rows.own & ~rows.trained).any())
        assert not bool(rows.row["scored"].all())
        finishes = set(rows.row["finish"].tolist())
        assert finishes == ({1} if name == "denoising" else {1, 2}), name


@pytest.mark.parametrize("name", KINDS)
def test_ratios_leave_the_usual_clip_range_on_both_sides(name: str) -> None:
    """Or nothing would be clipped here."""
    of = kind(name)
    policy, old = (of.models[role] for role in ("policy", "old"))
    with torch.no_grad():
        ratio = (policy.score(of.rows).logp - old.score(of.rows).logp).exp()  # type: ignore[operator]
    advantage, trained = of.rows.step["advantage"], of.rows.trained
    assert bool(((ratio > 1.28) & (advantage > 0) & trained).any())
    assert bool(((ratio < 0.8) & (advantage < 0) & trained).any())


def _dist(name: str) -> Any:
    policy: Any = kind(name).models["policy"]
    with torch.no_grad():
        return policy.score(kind(name).rows, full=True).dist


# -- the page ----------------------------------------------------------------------------------------------------------
def axis_of(part: type) -> str:
    return part.__module__.split(".")[1]


def rows_of_page() -> list[tuple[str, str, list[str]]]:
    """(axis, part, a cell per kind)."""
    found = []
    for axis in AXES:
        for name, part in part_classes(axis).items():
            if issubclass(part, Loss):
                mine = [key for key, case in CASES.items() if type(case.loss) is part]
                cells = [cell(mine, kind_, refusal_of) for kind_ in KINDS]
                valued = [key for key, one in VALUED.items() if type(one.loss) is part]
                if valued:
                    mine, cells = valued, [cell(valued, kind_, without_values) for kind_ in KINDS]
            else:
                mine = [key for key, credit in CREDIT.items() if type(credit.part) is part]
                cells = [cell(mine, kind_, lambda key, kind_: "") for kind_ in KINDS]
            if mine:
                found.append((axis, name, cells))
    return found


def cell(mine: list[str], name: str, refused: Callable[[str, str], str]) -> str:
    reasons = {refused(key, name) for key in mine}
    return reasons.pop() if reasons != {""} and reasons else ", ".join(f"`{key}-{name}`" for key in sorted(mine))


def methods_of_page() -> list[str]:
    """A line per method: which kinds it is run on."""
    lines = [f"| method | {' | '.join(KINDS)} |", "|---" * (len(KINDS) + 1) + "|"]
    for key in variants():
        cells = [unsuited(key, name) or f"`{key}-{name}`" for name in KINDS]
        lines.append(f"| {key} | {' | '.join(cells)} |")
    return lines


def others() -> list[str]:
    """Parts of the three axes that are not in the table, and why."""
    listed = {(axis, name) for axis, name, _ in rows_of_page()}
    lines = []
    for axis in AXES:
        for name, part in part_classes(axis).items():
            if (axis, name) not in listed:
                needs = getattr(part, "needs", "")
                lines.append(f"- {axis}/`{name}`: {f'asks for {needs}' if needs else what_it_is(axis, part)}")
    return lines


def what_it_is(axis: str, part: type) -> str:
    if "done" in inspect.signature(part.__call__).parameters:
        return "a hook after a round"
    return "no case yet" if issubclass(part, Loss) or axis == "credit" else "a weight or a coefficient of a term"


def page() -> str:
    head = f"""# One core, every policy

Objectives, credit and constraints are written once. They see log-probabilities, distributions, advantages, masks and
ids, never tokens, actions or latents. This table is made from the tests of `{HERE}`: a cell
names the test (`test_loss[...]`, `test_action_values[...]`, `test_credit[...]`) that runs the part, the same object in
every column, on rows that a small real policy of that kind wrote in its own world (a transformer, a Gaussian actor, a
flow model, a table), and compares value and gradient by all parameters with plain loops in float64.

"""
    lines = [f"| part | {' | '.join(KINDS)} |", "|---" * (len(KINDS) + 1) + "|"]
    for axis, name, cells in rows_of_page():
        lines.append(f"| {axis}/`{name}` | {' | '.join(cells)} |")
    tail = [
        "",
        "*for choices only*: the divergence from a mixture has no closed form for normal steps; the part refuses them",
        "with an error, which is the test. *no action values*: policies of that kind offer no Q(s, a) yet, and are",
        "refused in the same way.",
        "",
        "Parts that are not in the table; those that ask models for more are tested with their own subject:",
        "",
        *others(),
        "",
        "Whole methods, two rounds of the real loop each (`test_method[...]`), the same composition in every column.",
        "Other cells name the test file of the method; a dash: the method says that it is not for that kind.",
        "",
        *methods_of_page(),
        "",
    ]
    return head + "\n".join([*lines, *tail])


def test_the_page_is_up_to_date() -> None:
    message = f"write it again: PYTHONPATH=tests python {HERE}"
    assert PAGE.read_text(encoding="utf-8") == page(), message


def test_roles_of_cases_are_relatives_of_every_kind() -> None:
    for key, case in CASES.items():
        for role in case.roles.values():
            assert isinstance(role, Role)
            assert role.model in ("policy", *one_core.RELATIVES), key


if __name__ == "__main__":
    torch.set_default_dtype(torch.float64)
    PAGE.write_text(page(), encoding="utf-8")
