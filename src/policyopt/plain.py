"""JSON and YAML of users, read as plain values: whatever stands in a file, one kind of error says why it is none."""

from __future__ import annotations

import json
from typing import Any

import yaml
from yaml.composer import ComposerError

DEEPEST = 100  # mappings and lists inside each other in YAML
MOST = 200_000  # values in YAML, each use of an alias counted: a few lines can stand for billions


class PlainError(ValueError):
    """What was read is no plain value in bounds."""


def from_json(content: str | bytes, *, texts: bool = False) -> Any:
    """The value of a JSON text. texts: its strings must be ones that UTF-8 can hold, as tokenizers need."""
    try:
        text = content.decode("utf-8-sig") if isinstance(content, bytes) else content
        value = json.loads(text)
        if texts and "\\ud" in text.lower():  # half of a surrogate pair, perhaps
            json.dumps(value, ensure_ascii=False).encode()
    except json.JSONDecodeError as error:
        place = f"line {error.lineno}, column" if error.lineno > 1 else "column"
        raise PlainError(f"not valid JSON: {error.msg} at {place} {error.colno}") from error
    except UnicodeDecodeError as error:
        raise PlainError(f"not valid UTF-8: {error.reason} at byte {error.start}") from error
    except UnicodeEncodeError as error:
        raise PlainError("a text has half of a surrogate pair (\\ud800 to \\udfff), which is no character") from error
    except RecursionError as error:
        raise PlainError("not valid JSON: lists or objects lie too deep inside each other") from error
    except ValueError as error:  # an integer of thousands of digits
        raise PlainError(f"not valid JSON: {error}") from error
    return value


_BOOL, _TEXT = "tag:yaml.org,2002:bool", "tag:yaml.org,2002:str"


class _EveryKeyOnce(yaml.SafeLoader):
    """YAML does not allow a key twice in a mapping; the library takes the last one and forgets the others. And keys are
    words: `on:` is no truth value, as it was in YAML 1.1."""

    def compose_mapping_node(self, anchor: Any) -> yaml.MappingNode:
        node = super().compose_mapping_node(anchor)
        seen: set[str] = set()
        for key, _ in node.value:
            if isinstance(key, yaml.ScalarNode) and key.tag != "tag:yaml.org,2002:merge":
                if key.value in seen:
                    said = f"the key {key.value!r} stands twice in one mapping; remove one"
                    raise ComposerError(None, None, said, key.start_mark)
                seen.add(key.value)
                key.tag = _TEXT if key.tag == _BOOL else key.tag
        return node


def from_yaml(content: str | bytes) -> Any:
    """The value of a YAML text, of plain types only."""
    try:
        # A safe loader: plain types only.
        value = yaml.load(content.decode("utf-8") if isinstance(content, bytes) else content, _EveryKeyOnce)
    except UnicodeDecodeError as error:
        raise PlainError(f"not UTF-8 text: {error}") from error
    except RecursionError as error:
        raise PlainError("not valid YAML: lists or mappings lie too deep inside each other") from error
    except (yaml.YAMLError, ValueError, LookupError, AttributeError, TypeError, OverflowError) as error:
        # Beside its own errors the library lets through those of the types that tags and numbers stand for.
        raise PlainError(f"not valid YAML: {error}") from error
    _bound(value)
    return value


def _bound(value: Any) -> None:
    waiting, count = [(value, 0)], 0
    while waiting:
        part, depth = waiting.pop()
        count += 1
        if depth > DEEPEST or count > MOST:
            raise PlainError(f"not valid here: YAML may be {DEEPEST} deep and have {MOST} values, aliases written out")
        inner = (
            [*part, *part.values()] if isinstance(part, dict) else part if isinstance(part, list | set | tuple) else ()
        )
        waiting.extend((one, depth + 1) for one in inner)
