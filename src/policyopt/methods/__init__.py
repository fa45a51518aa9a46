"""Published methods: one file each, found by scanning this folder. A file defines the method under its own key
and its claim (what `policyopt verify` tests) as `claim`; adding one edits no other file.
"""

from __future__ import annotations

import difflib
import importlib
import importlib.util
import pkgutil
from pathlib import Path
from types import ModuleType

from policyopt.compose import CompositionError, Method


class UnknownMethodError(CompositionError):
    """No method has that key. Names the nearest one."""


def keys() -> list[str]:
    """Modules of this folder that are methods, by name."""
    return sorted(info.name for info in pkgutil.iter_modules(__path__) if not info.name.startswith("_"))


def _is_key(key: str) -> bool:
    """Whether `keys` has it, without a look at all the others."""
    return key.isidentifier() and key[0] != "_" and importlib.util.find_spec(f"{__name__}.{key}") is not None


def module(key: str) -> ModuleType:
    """The module of a method: a key of this folder, or the path of a .py file that defines one."""
    if key.endswith(".py"):
        path = Path(key)
        spec = importlib.util.spec_from_file_location(path.stem, path)
        if not path.is_file() or spec is None or spec.loader is None:
            raise UnknownMethodError(f"there is no method file {key!r}")
        loaded = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(loaded)
        return loaded
    if not _is_key(key):
        near = difflib.get_close_matches(key, keys(), 1)
        hint = f"did you mean {near[0]!r}? " if near else ""
        raise UnknownMethodError(f"no method {key!r}; {hint}there are {keys()}, or give the path of a .py file")
    return importlib.import_module(f"{__name__}.{key}")


def load(key: str) -> Method:
    """A method by key ("grpo"), by file ("cispo.py") or as a variant of either ("dpo:dpo_online")."""
    source, _, name = key.partition(":")
    found = getattr(module(source), name or Path(source).stem, None)
    if not isinstance(found, Method):
        raise UnknownMethodError(f"{source!r} defines no Method named {name or Path(source).stem!r}")
    return found
