"""Files and folders that a recipe names: found again from any working folder, and known by what they hold."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from policyopt.recipe.base import Recipe, RecipeError
from policyopt.runtime.digest import digest
from policyopt.runtime.folder import RunFolder

CACHES = ("judges.*.cache",)  # written by the run itself, so neither looked for nor compared
NAMED = ("tasks.minari",)  # by a path or by the id of what is installed
Spot = tuple[str, Any, Any]


def named(recipe: type[Recipe]) -> tuple[str, ...]:
    """Patterns of the places where recipes name files and folders of data and models; * is any key or position."""
    return (*recipe.files, *(f"stages.*.{place}" for place in recipe.files if place.startswith("tasks.")))


def spots(data: Any, patterns: Iterable[str]) -> Iterator[Spot]:
    """(place, what holds it, its key there) of every text at one of these places of a recipe's data."""
    for pattern in dict.fromkeys(patterns):
        yield from _spots(data, pattern.split("."), ())


def _spots(data: Any, names: list[str], above: tuple[str, ...]) -> Iterator[Spot]:
    first, *rest = names
    keys: list[Any] = []
    if isinstance(data, dict):
        keys = list(data) if first == "*" else [first] if first in data else []
    elif isinstance(data, list) and first == "*":
        keys = list(range(len(data)))
    for key in keys:
        place = (*above, str(key))
        if rest:
            yield from _spots(data[key], rest, place)
        elif isinstance(data[key], str):
            yield ".".join(place), data, key


# -- from any folder -----------------------------------------------------------------------------------------------
def anchor(data: Any, recipe: Path, kinds: Iterable[type[Recipe]]) -> None:
    """Make relative paths of a run's own recipe absolute: they are relative to the folder that the run was started in,
    where modules of the user's verifiers and environments are looked for as well. Other recipes stay as they are."""
    base = started_in(recipe)
    if base is None:
        return
    patterns = [place for kind in kinds for place in named(kind)]
    for place, holder, key in spots(data, [*patterns, *CACHES]):
        installed = place.endswith(NAMED) and not (base / holder[key]).exists()
        if not installed and not holder[key].startswith("hub:"):
            holder[key] = str(base / holder[key])
    for _, holder, key in spots(data, ["stages.*.method"]):
        holder[key] = _method(holder[key], base)
        if isinstance(others := holder.get("options_for"), dict):
            holder["options_for"] = {_method(str(name), base): options for name, options in others.items()}
    if str(base) not in sys.path:
        # Before the present folder, whose modules of the same names are others.
        here = os.getcwd()
        sys.path.insert(sys.path.index(here) if here in sys.path else len(sys.path), str(base))


def _method(key: str, base: Path) -> str:
    return str(base / key) if key.partition(":")[0].endswith(".py") else key


def started_in(recipe: Path) -> Path | None:
    """The folder that the run was started in whose recipe this is; the same one beside the run, if both were moved.
    None: it is no run's, or one of an earlier version."""
    run = RunFolder(recipe.parent)
    if recipe.name != run.recipe.name or not run.started_in.is_file():
        return None
    try:
        said = json.loads(run.started_in.read_bytes())
        folder, beside = Path(said["folder"]), recipe.parent.resolve() / said["from_run"]
    except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
        raise RecipeError(
            f"{run.started_in} does not say in which folder the run was started: {type(error).__name__}: {error}; put "
            'back a copy of it, or write {"folder": "/the/folder", "from_run": "."}'
        ) from error
    return folder if folder.is_dir() or not beside.is_dir() else Path(os.path.normpath(beside))


def check_there(recipe: Recipe, folder: RunFolder) -> None:
    """RecipeError: a file that a run needs is gone."""
    gone = [
        f"{place}: {holder[key]}"
        for place, holder, key in spots(recipe.model_dump(mode="json"), named(type(recipe)))
        if os.path.isabs(holder[key]) and not os.path.exists(holder[key])
    ]
    if gone:
        raise RecipeError(
            f"the run in {folder.path} needs what is not there any more ({'; '.join(gone)}). Put it back, or say where "
            f"it is now: edit {', '.join(place.partition(':')[0] for place in gone)} in {folder.recipe}"
        )


# -- what they hold ------------------------------------------------------------------------------------------------
def contents(recipe: Recipe) -> dict[str, str]:
    """Size and digest (`policyopt.runtime.digest`) of what lies at the paths of a recipe, by place."""
    found, known = {}, {}
    for place, holder, key in spots(recipe.model_dump(mode="json"), named(type(recipe))):
        path = holder[key]
        if not os.path.exists(path):  # on the hub, or installed
            continue
        try:
            known[path] = known.get(path) or digest(path)
        except OSError as error:
            raise RecipeError(f"{place}: {path} can not be read: {error}; make it readable") from error
        found[place] = known[path]
    return found


def without_paths(data: Any, held: Mapping[str, str], recipe: type[Recipe]) -> None:
    """In a recipe's data, what its files hold instead of where they are."""
    for place, holder, key in spots(data, named(recipe)):
        holder[key] = held.get(place, holder[key])
    for _, holder, key in spots(data, CACHES):
        holder[key] = None
