"""Plain values as JSON, in both directions between processes that do not trust each other.

None, booleans, strings, integers and floats stand for themselves (JSON with NaN and Infinity); the rest is a list that
begins with its type's name: ``["list", ...]``, ``["tuple", ...]``, ``["set", ...]``, ``["dict", [key, value], ...]``,
``["bytes", hex]``, ``["complex", real, imaginary]``. Nothing else exists, so reading one builds nothing but plain
values. Reading checks lengths, depth and form first; comparing two of them (`same`) hashes nothing, as hostile values
can be made to collide.
"""

from __future__ import annotations

import builtins
import json
import math
from typing import Any

LONGEST = 1 << 20
"""Bytes of one message at most."""
DEEPEST = 60
MOST = 200_000
"""Parts of one value at most, itself among them."""
_DIGITS = 4000  # of an integer; Python reads 4300


class Unreadable(ValueError):
    """What came is no plain value in bounds."""


def encode(value: Any) -> Any:
    """The JSON of a plain value; Unreadable, with the reason, for any other one."""
    return _encode(value, 0, [MOST])


def _encode(value: Any, depth: int, left: list[int]) -> Any:
    left[0] -= 1
    if depth > DEEPEST or left[0] < 0:
        raise Unreadable(f"a value may be {DEEPEST} deep and have {MOST} parts at most")
    if value is None or isinstance(value, bool):
        return value
    if isinstance(value, int):
        if value.bit_length() > 3.3 * _DIGITS:
            raise Unreadable(f"an integer may have {_DIGITS} digits at most")
        return int(value)
    if isinstance(value, float):
        return float(value)
    if isinstance(value, str):
        return str.__str__(value)
    return _encode_parts(value, depth, left)


def _encode_parts(value: Any, depth: int, left: list[int]) -> Any:
    if isinstance(value, bytes | bytearray):
        return ["bytes", bytes(value).hex()]
    if isinstance(value, complex):
        return ["complex", value.real, value.imag]
    if isinstance(value, dict):
        pairs = ([_encode(k, depth + 1, left), _encode(v, depth + 1, left)] for k, v in dict.items(value))
        return ["dict", *pairs]
    for name, kinds in (("list", list), ("tuple", tuple), ("set", set | frozenset)):
        if isinstance(value, kinds):
            return [name, *(_encode(part, depth + 1, left) for part in value)]
    raise Unreadable(f"only plain values can be handed over, got {type(value).__name__}")


def dumps(message: Any) -> bytes:
    """One line."""
    line = json.dumps(message, separators=(",", ":")).encode() + b"\n"
    if len(line) > LONGEST:
        raise Unreadable(f"a message may have {LONGEST} bytes at most, got {len(line)}")
    return line


def loads(line: bytes) -> Any:
    """The JSON of one line that anybody may have written."""
    if len(line) > LONGEST:
        raise Unreadable(f"a message may have {LONGEST} bytes at most, got {len(line)}")
    try:
        return json.loads(line)
    except (ValueError, RecursionError) as error:
        raise Unreadable(f"not JSON: {type(error).__name__}") from None


def checked(tree: Any) -> Any:
    """The tree itself if it is the JSON of a plain value."""
    waiting, left = [(tree, 0)], MOST
    while waiting:
        part, depth = waiting.pop()
        left -= 1
        if depth > DEEPEST or left < 0:
            raise Unreadable(f"a value may be {DEEPEST} deep and have {MOST} parts at most")
        if isinstance(part, list):
            waiting.extend((inner, depth + 1) for inner in _parts(part))
        elif not (part is None or isinstance(part, bool | int | float | str)):
            raise Unreadable(f"no plain value: {type(part).__name__}")
    return tree


def _parts(part: list[Any]) -> list[Any]:
    kind, inner = (part[0], part[1:]) if part else (None, [])
    if kind in ("list", "tuple", "set"):
        return inner
    if kind == "dict" and all(isinstance(pair, list) and len(pair) == 2 for pair in inner):
        return [side for pair in inner for side in pair]
    if kind == "bytes" and len(inner) == 1 and isinstance(inner[0], str) and _hexadecimal(inner[0]):
        return []
    if kind == "complex" and len(inner) == 2 and all(isinstance(side, float) for side in inner):
        return []
    raise Unreadable("a list must begin with the name of its type and have its form")


def _hexadecimal(text: str) -> bool:
    return len(text) % 2 == 0 and not set(text) - set("0123456789abcdef")


def decode(tree: Any) -> Any:
    """The plain value of a checked tree; TypeError if what must be hashable is not. For a process of its own: sets and
    dicts can be made slow to build."""
    if not isinstance(tree, list):
        return tree
    kind, inner = tree[0], tree[1:]
    if kind == "bytes":
        return bytes.fromhex(inner[0])
    if kind == "complex":
        return complex(*inner)
    if kind == "dict":
        return {decode(key): decode(value) for key, value in inner}
    return {"list": list, "tuple": tuple, "set": set}[kind](decode(part) for part in inner)


def same(got: Any, wanted: Any, tolerance: float) -> bool:
    """Whether two checked trees are equal values: numbers to a relative `tolerance` where one is a float, booleans only
    with booleans, a list with a tuple (JSON has no tuples), NaN with nothing."""
    if isinstance(got, list) != isinstance(wanted, list):
        return False
    if not isinstance(got, list):
        return _same_scalar(got, wanted, tolerance)
    kinds = {"tuple": "list"}
    if kinds.get(got[0], got[0]) != kinds.get(wanted[0], wanted[0]) or len(got) != len(wanted):
        return False
    if got[0] in ("bytes", "complex"):
        return got == wanted
    ours, theirs = got[1:], wanted[1:]
    if got[0] in ("set", "dict"):
        ours, theirs = (sorted(parts, key=json.dumps) for parts in (ours, theirs))
    if got[0] == "dict":
        ours, theirs = ([["tuple", *pair] for pair in parts] for parts in (ours, theirs))
    return all(same(one, other, tolerance) for one, other in zip(ours, theirs, strict=True))


def _same_scalar(got: Any, wanted: Any, tolerance: float) -> bool:
    if isinstance(got, bool) or isinstance(wanted, bool) or not _number(got) or not _number(wanted):
        return type(got) is type(wanted) and got == wanted
    if got == wanted:
        return True
    if isinstance(got, int) and isinstance(wanted, int):
        return False
    try:
        return math.isclose(got, wanted, rel_tol=tolerance, abs_tol=0.0)
    except OverflowError:  # an integer beyond the floats
        return False


def _number(value: Any) -> bool:
    return isinstance(value, int | float)


def exception_name(error: BaseException) -> str:
    """The nearest builtin exception's name."""
    for kind in type(error).__mro__:
        if getattr(builtins, kind.__name__, None) is kind:
            return kind.__name__
    return "Exception"


def exception(name: Any, message: Any) -> Exception:
    """The builtin exception of that name, if it is one that ordinary code catches; else a RuntimeError."""
    kind = getattr(builtins, name, None) if isinstance(name, str) else None
    if not (isinstance(kind, type) and issubclass(kind, Exception)):
        kind = RuntimeError
    try:
        return kind(str(message)[:500])
    except TypeError:  # UnicodeDecodeError wants five arguments
        return RuntimeError(f"{name}: {str(message)[:500]}")
