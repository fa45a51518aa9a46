"""Options of a method: every field of its parts, by path, and setting them from text.

A path is axis, then names of terms, parts or fields: `objective.policy.loss.clip_high`. A key may leave out names in
the middle as long as exactly one option is meant: `objective.clip_high`. There are no other knobs.
"""

from __future__ import annotations

import ast
import contextlib
import dataclasses
import difflib
import functools
import importlib
import inspect
import math
import pkgutil
import re
import typing
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

from pydantic import TypeAdapter, ValidationError

from policyopt.compose import AXES, CompositionError, Given, Method, Part, Term
from policyopt.wording import rule

ROOTS = (*AXES, "before", "after")
_TERM_FIXED = {"name", "mask", "trains", "couples"}


class OptionError(CompositionError):
    """An option that does not exist, is ambiguous, has no effect or has the wrong type."""


@dataclass(frozen=True)
class Option:
    """A field of a part of a method. `axis`: where classes are looked up if the value is itself a part."""

    path: tuple[str, ...]
    value: Any
    type: Any
    owner: str

    @property
    def key(self) -> str:
        return ".".join(self.path)


def snake(name: str) -> str:
    """ClippedSurrogate -> clipped_surrogate; KLToReference -> kl_to_reference."""
    name = re.sub(r"([A-Z]+)([A-Z][a-z])", r"\1_\2", name)
    return re.sub(r"([a-z0-9])([A-Z])", r"\1_\2", name).lower()


@functools.cache
def part_classes(axis: str) -> Mapping[str, type[Part]]:
    """Concrete parts of an axis by name, found by walking its package."""
    package = importlib.import_module(f"policyopt.{axis}")
    found: dict[str, type[Part]] = {}
    for info in pkgutil.iter_modules(package.__path__):
        module = importlib.import_module(f"{package.__name__}.{info.name}")
        for value in vars(module).values():
            if not (inspect.isclass(value) and issubclass(value, Part)) or inspect.isabstract(value):
                continue
            if value.__module__ != module.__name__:
                continue
            name = snake(value.__name__)
            if found.setdefault(name, value) is not value:
                raise CompositionError(f"two parts of {axis} are called {name!r}: {found[name]}, {value}; rename one")
    return dict(sorted(found.items()))


def _component(item: Any) -> str:
    return item.name if isinstance(item, Term) else snake(type(item).__name__)


def _components(items: tuple[Any, ...]) -> list[str]:
    """Names of parts side by side; the second of a name is NAME_2."""
    names = [_component(item) for item in items]
    earlier = [names[:i].count(name) for i, name in enumerate(names)]
    return [f"{name}_{count + 1}" if count else name for name, count in zip(names, earlier, strict=True)]


def _children(node: Any) -> list[tuple[str, Any, Callable[[Any], Any]]]:
    """(name, child, function that gives the node with another child)."""
    if isinstance(node, (Part, Term)) and dataclasses.is_dataclass(node):
        fixed = _TERM_FIXED | ({"limit"} if node.limit is None else set()) if isinstance(node, Term) else set()
        names = [f.name for f in dataclasses.fields(node) if f.name not in fixed]
        return [(name, getattr(node, name), functools.partial(_with_field, node, name)) for name in names]
    if isinstance(node, tuple) and node and all(isinstance(item, (Part, Term)) for item in node):
        return [(name, node[i], functools.partial(_with_item, node, i)) for i, name in enumerate(_components(node))]
    if isinstance(node, Mapping):
        return [(str(key), item, functools.partial(_with_key, node, key)) for key, item in node.items()]
    return []


def _with_field(node: Any, name: str, value: Any) -> Any:
    return replace(node, **{name: value})


def _with_item(node: tuple[Any, ...], index: int, value: Any) -> tuple[Any, ...]:
    return (*node[:index], value, *node[index + 1 :])


def _with_key(node: Mapping[str, Any], key: str, value: Any) -> Mapping[str, Any]:
    return {**node, key: value}


def _walk(path: tuple[str, ...], node: Any) -> Iterator[Option]:
    for name, child, _ in _children(node):
        here = (*path, name)
        if isinstance(child, Part) or not _children(child):
            yield Option(here, child, _type_of(node, name), type(node).__name__)
        yield from _walk(here, child)


def _type_of(node: Any, name: str) -> Any:
    if isinstance(node, Term) and name == "weight":
        return float
    if isinstance(node, (Mapping, tuple)):
        return Any
    return _hints(type(node))[name]


@functools.lru_cache(maxsize=4096)
def _hints(kind: type) -> Mapping[str, Any]:
    """Types of its fields. Reading them compiles their text, so it is done once a class, not once a look."""
    return typing.get_type_hints(kind)


def options(method: Method) -> list[Option]:
    """Every option of a method, parts that can be exchanged included."""
    return [option for root in ROOTS for option in (*_whole(method, root), *_walk((root,), getattr(method, root)))]


def _whole(method: Method, root: str) -> list[Option]:
    """The part of an axis that has one, which can be exchanged like the parts inside it."""
    part = getattr(method, root)
    return [Option((root,), part, Part, type(method).__name__)] if isinstance(part, Part) else []


def _matches(key: tuple[str, ...], path: tuple[str, ...]) -> bool:
    """The key is the path with names left out in the middle."""
    if key[0] != path[0] or key[-1] != path[-1]:
        return False
    rest = iter(path)
    return all(name in rest for name in key)


def find(method: Method, key: str) -> Option:
    """The one option that a key means; errors name the nearest key or the keys it could mean."""
    names, known = tuple(key.split(".")), options(method)
    found = [option for option in known if option.path == names] or [o for o in known if _matches(names, o.path)]
    if len(found) == 1:
        return found[0]
    if found:
        raise OptionError(f"{key!r} could mean {[option.key for option in found]}; write one of them")
    inside = "." in key  # else a whole axis is meant
    known = [option for option in known if (len(option.path) > 1) == inside]
    short = {f"{option.path[0]}.{option.path[-1]}": option.path[0] for option in known if inside}
    near = difflib.get_close_matches(key, sorted({*short, *(option.key for option in known)}), 1, cutoff=0.5)
    of_axis = sorted(name for name, axis in short.items() if axis == names[0])
    raise OptionError(
        f"{key!r} has no effect for method {method.key!r}: none of its parts has that option. "
        + (f"Did you mean {near[0]!r}? " if near else "")
        + _has(names[0], of_axis)
    )


def _has(axis: str, keys: list[str]) -> str:
    if keys:
        return f"Its {axis} has {keys}"
    return f"Its {axis} has no options; remove the key" if axis in ROOTS else f"Options begin with one of {list(ROOTS)}"


def override(method: Method, changes: Mapping[str, Any]) -> Method:
    """The method with options set; values may be text. One that does not fit yet waits for the others, so that their
    order does not matter where they fit together only. A term of weight 0 is taken out, with the roles and models that
    only it used, so that nothing is computed for it."""
    waiting = dict(changes)
    while waiting:
        refused: dict[str, OptionError] = {}
        for key, value in waiting.items():
            try:
                method = _with(method, key, value)
            except OptionError as error:
                refused[key] = error
        if len(refused) == len(waiting):
            raise next(iter(refused.values()))
        waiting = {key: waiting[key] for key in refused}
    return prune(method)


def _with(method: Method, key: str, value: Any) -> Method:
    """One option set."""
    try:
        method = _surrounded(method, key)
    except CompositionError as error:
        raise OptionError(f"{key}={value}: {error}") from error
    option = find(method, key)
    root, path = option.path[0], option.path[1:]
    if not path and option.value.around:  # the part inside is exchanged: what is around it stays
        path = (option.value.around,)
        option = replace(option, value=getattr(option.value, option.value.around))
    new = _convert(option, value)
    try:
        changed = _set(getattr(method, root), path, new)
        return replace(method, **{root: changed}, models={**method.models, **_asked(method, root, changed)})
    except CompositionError as error:
        raise OptionError(f"{key}={value}: {error}") from error


def _surrounded(method: Method, key: str) -> Method:
    """The method with another part around that of an axis, if that one alone has the option."""
    with contextlib.suppress(OptionError):
        find(method, key)
        return method
    axis, _, name = key.partition(".")
    part = getattr(method, axis, None) if axis in AXES else None
    for outer in part_classes(axis).values() if isinstance(part, Part) else ():
        if outer.around and name in {f.name for f in dataclasses.fields(outer)} - {outer.around}:  # type: ignore[arg-type]
            return replace(method, **{axis: outer(**{outer.around: part})})
    return method


def _asked(method: Method, root: str, changed: Any) -> dict[str, Given]:
    """Models that another reward or feedback reads: an earlier stage makes them, or the user gives them."""
    what = {"reward": "a reward model", "feedback": "a judge"}
    names = changed.critics if root in what else ()
    return {name: Given(what[root]) for name in names if name not in method.models}


def _set(node: Any, path: tuple[str, ...], value: Any) -> Any:
    if not path:
        return value
    for name, child, put in _children(node):
        if name == path[0]:
            return put(_set(child, path[1:], value))
    raise OptionError(f"no option {path[0]!r} in {type(node).__name__}")


def _convert(option: Option, value: Any) -> Any:
    if _weighs(option, value):
        return _part(replace(option, type=Any), value)
    if isinstance(option.value, Part) or (_takes_parts(option.type) and isinstance(value, (str, Mapping))):
        return _part(option, value)
    if isinstance(value, str) and value.lower() in ("none", "null"):
        value = None
    adapter = TypeAdapter(option.type)
    # Text is read as a number where one may stand: "0.2" is no name where a number or a name is taken.
    for reading in _literals(value):
        with contextlib.suppress(ValidationError):
            return adapter.validate_python(reading)
    try:
        found = adapter.validate_python(value)
    except ValidationError as error:
        wanted = rule(error.errors()[0])
        raise OptionError(f"{option.key} of {option.owner} can not be {value!r}: it {wanted}") from error
    # pydantic reads "nan" as a number, and no comparison of a part would refuse it.
    if isinstance(found, float) and math.isnan(found):
        raise OptionError(f"{option.key} of {option.owner} must be a number, got {value!r}, which is none")
    return found


def _weighs(option: Option, value: Any) -> bool:
    """Whether a term's weight is to be a part that gives one per step or row."""
    if option.owner != Term.__name__ or option.path[-1] != "weight":
        return False
    axis = option.path[0]
    return isinstance(value, Mapping) or (isinstance(value, str) and axis in AXES and value in part_classes(axis))


def _takes_parts(wanted: Any) -> bool:
    return inspect.isclass(wanted) and issubclass(wanted, Part)


def _literals(value: Any) -> tuple[Any, ...]:
    """What text says as a number or truth value."""
    if not isinstance(value, str):
        return ()
    try:
        found = ast.literal_eval(value)
    except (ValueError, SyntaxError):
        return ()
    return (found,) if isinstance(found, bool | int | float) else ()


def _part(option: Option, value: Any) -> Part:
    """Another part for a slot: its name, or {part: name, option: value ...}."""
    given = {"part": value} if isinstance(value, str) else dict(value) if isinstance(value, Mapping) else {}
    name: Any = given.pop("part", None)
    classes = part_classes(option.path[0])
    if name not in classes:
        near = difflib.get_close_matches(str(name), list(classes), 1)
        hint = f"did you mean {near[0]!r}? " if near else ""
        raise OptionError(
            f"{option.key} takes a part of {option.path[0]} by name, got {value!r}; {hint}{sorted(classes)}"
        )
    chosen = classes[name]
    if option.type is not Any and inspect.isclass(option.type) and not issubclass(chosen, option.type):
        raise OptionError(f"{option.key} takes a {option.type.__name__}; {name} is not one")
    hints = _hints(chosen)
    known = [f.name for f in dataclasses.fields(chosen)]  # type: ignore[arg-type]
    unknown = sorted(set(given) - set(known))
    if unknown:
        raise OptionError(f"{option.key}: {name} has no option {unknown}; it has {known}")
    inside = {k: _convert(Option((*option.path, k), None, hints[k], name), v) for k, v in given.items()}
    return chosen(**{**_common(option, chosen), **inside})


def _common(option: Option, chosen: type[Part]) -> dict[str, Any]:
    """Where the part of a whole axis is exchanged, options that both parts have stay as they were: another update
    keeps the optimisers, another credit the discount."""
    if len(option.path) > 1:
        return {}
    if chosen.around:
        return {chosen.around: option.value}
    old = {field.name for field in dataclasses.fields(option.value)}
    shared = [f.name for f in dataclasses.fields(chosen) if f.init and f.name in old]  # type: ignore[arg-type]
    return {name: getattr(option.value, name) for name in shared}


def prune(method: Method) -> Method:
    """Without terms of weight 0 and what only they needed."""
    keep = {axis: tuple(t for t in getattr(method, axis) if t.weight != 0) for axis in ("objective", "constraint")}
    if len(keep["objective"]) + len(keep["constraint"]) == len(method.terms):
        return method
    dropped = [t for t in method.terms if t.weight == 0]
    kept = [t.loss for t in (*keep["objective"], *keep["constraint"])]
    others = [getattr(method, axis) for axis in ("sampling", "reward", "feedback", "credit")]
    used = {role for part in (*kept, *others) for role in part.roles}
    orphans = {role for term in dropped for role in term.loss.roles} - used - {"policy"}
    roles = {name: role for name, role in method.roles.items() if name not in orphans}
    lost = {method.roles[name].model for name in orphans if name in method.roles} - {r.model for r in roles.values()}
    models = {name: spec for name, spec in method.models.items() if name not in lost}
    return replace(method, **keep, roles=roles, models=models)
