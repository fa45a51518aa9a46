"""The executed objective in print: what is minimised, over which units, against which log-probabilities."""

from __future__ import annotations

import inspect
from typing import Any

from policyopt.compose import Chain, Method, Nothing, Part, Role, Term
from policyopt.evaluation.methods import text

WHEN = {
    "recorded": "as the sampler reported it (unknown for rows of a data set)",
    "collected": "scored once, before the update",
    "step": "scored on every minibatch",
}
WIDTH = 12


def describe(method: Method) -> str:
    """Plain text: terms with formula, averaging, mask and weight; log-probabilities; credit, reward, sampling and
    update with their options."""
    about = method.about
    lines = [f"{about.key}: {about.title}", f"{about.paper}; {about.equation}", ""]
    for model in dict.fromkeys(term.trains for term in method.terms):
        lines.append(f"minimise over {model}:  {_sum(method, model)}")
    for term in method.terms:
        lines += ["", *_term(term)]
    lines += ["", "log-probabilities", *(_line(name, _role(role)) for name, role in _roles(method).items())]
    lines += ["", "how the rows come about"]
    for axis in ("selection", "sampling", "reward", "feedback", "credit"):
        lines += _part(axis, getattr(method, axis))
    lines += ["", "update", *_update(method)]
    return "\n".join(lines) + "\n"


def formula(part: Any) -> str:
    """The equation of a part; of a chain, of its parts in order."""
    if isinstance(part, Chain):
        return "; then ".join(found for found in (formula(item) for item in part.parts) if found)
    return part.formula if isinstance(part, Part) else ""


def _sum(method: Method, model: str) -> str:
    terms = [term for term in method.terms if term.trains == model]
    return " + ".join(term.name if term.weight == 1 else f"{_weight(term)} * {term.name}" for term in terms)


def _weight(term: Term) -> str:
    return text(term.weight)


def _term(term: Term) -> list[str]:
    lines = [
        f"term {term.name}, moves {term.trains}",
        _line("x", formula(term.loss) or "(no formula given)"),
        _line("", text(term.loss)),
        _line("average", formula(term.average) or text(term.average)),
        _line("", text(term.average)),
        _line("m (mask)", _mask(term)),
        _line("weight", _weight(term)),
    ]
    if term.couples:
        lines.append(_line("together", f"rows with one {', '.join(term.couples)} are never separated"))
    if term.limit is not None:
        lines.append(_line("hard limit", text(term.limit)))
    return lines


def _mask(term: Term) -> str:
    name = text(term.mask)
    meaning = inspect.getdoc(term.mask) if inspect.isfunction(term.mask) else None
    return f"{name}: {meaning.splitlines()[0]}" if meaning else name


def _roles(method: Method) -> dict[str, Role]:
    """Declared roles, and the two every method has."""
    return {"policy": Role(grad=True), "behaviour": Role(when="recorded"), **method.roles}


def _role(role: Role) -> str:
    words = [f"model {role.model}", WHEN[role.when], "with gradient" if role.grad else "no gradient"]
    if role.context is not None:
        words.append(f"under context {role.context!r}")
    if role.full:
        words.append("whole distributions")
    return ", ".join(words)


def _part(axis: str, part: Any) -> list[str]:
    if isinstance(part, Nothing):
        return []
    equation = formula(part)
    return [_line(axis, equation), _line("", text(part))] if equation else [_line(axis, text(part))]


def _update(method: Method) -> list[str]:
    update = method.update
    lines = [_line(name, text(value)) for name, value in vars(update).items() if name != "optimizers"]
    made = vars(update).get("optimizers", {})
    lines = [_line("by", type(update).__name__), *lines]
    lines += [_line(f"of {model}", text(optimizer)) for model, optimizer in made.items()]
    lines += [_line("model", f"{name}: {text(spec)}") for name, spec in method.models.items()]
    for when in ("before", "after"):
        lines += [_line(when, f"each round: {text(hook)}") for hook in getattr(method, when)]
    return lines


def _line(name: str, value: str) -> str:
    return f"  {name:<{WIDTH}} {value}"
