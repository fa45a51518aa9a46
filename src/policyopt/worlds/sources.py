"""Where tasks come from: reasoning-gym's generators, JSONL files, saved data set folders, all as lists of
Entry."""

from __future__ import annotations

import math
import random
import string
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, TypeVar

from policyopt.plain import PlainError, from_json
from policyopt.worlds.once import warn_once
from policyopt.worlds.preference_records import Columns
from policyopt.worlds.records import entry_from_record
from policyopt.worlds.tasks import Entry, SourceError, nearest

Found = TypeVar("Found")


@dataclass(frozen=True)
class _Share:
    """One part of a mixture: a reasoning-gym data set, its options and its weight (> 0, not normalised)."""

    name: str
    weight: float
    options: dict[str, Any]


def reasoning_gym_entries(
    dataset: str | Sequence[Mapping[str, Any]],
    options: Mapping[str, Any],
    size: int,
    seed: int,
    prompt: str | None = None,
) -> list[Entry]:
    """``size`` tasks of a reasoning-gym data set, or of a weighted mixture; equal arguments, equal tasks.

    Args:
        dataset: a data set's name, or a list of ``{name, weight, options}`` (weight 1, no options if absent).
        options: the generator's own options, e.g. ``{"max_word_len": 4}``; a part's options override them.
        size: number of entries.
        seed: seeds the generators and the choice among the parts; different seeds give unrelated tasks.
        prompt: template over ``{question}`` and the metadata fields, e.g. ``"{word} ="``; None is the question.

    Each entry's metadata is the generator's, with ``source_dataset``, ``source_index`` and ``source_options``
    (what its scorer is built from). An answer is "" where several are right and only the scorer can tell.
    """
    if size < 1:
        raise SourceError(f"size must be at least 1, got {size}")
    shares = _shares(dataset, options)
    built = [_generator(share, size, _spread(seed, position)) for position, share in enumerate(shares)]
    drawn = [0] * len(shares)
    weights = [share.weight for share in shares]
    entries = []
    for index in range(size):
        which = 0 if len(shares) == 1 else random.Random(f"{seed}:{index}").choices(range(len(shares)), weights)[0]
        generator, source_options = built[which]
        item = generator[drawn[which]]
        metadata = {
            **item["metadata"],
            "source_dataset": shares[which].name,
            "source_index": drawn[which],
            "source_options": source_options,
        }
        drawn[which] += 1
        text = item["question"] if prompt is None else fill(prompt, {**metadata, "question": item["question"]})
        answer = item["answer"] if isinstance(item["answer"], str) else ""
        entries.append(Entry(text, None, answer, metadata))
    return entries


def _spread(seed: int, position: int) -> int:
    """A generator's own seed, far from that of any other (seed, position).

    reasoning-gym draws item i from seed + i: neighbouring seeds would share all but one of their tasks, so that a
    test set made with seed + 1 would be the training set.
    """
    return random.Random(f"{seed}:{position}:generator").getrandbits(31)


def _shares(dataset: str | Sequence[Mapping[str, Any]], options: Mapping[str, Any]) -> list[_Share]:
    if isinstance(dataset, str):
        return [_Share(dataset, 1.0, dict(options))]
    if not dataset:
        raise SourceError("a mixture needs at least one {name, weight, options}, got an empty list")
    shares = []
    for part in dataset:
        for key in part.keys() - {"name", "weight", "options"}:
            raise SourceError(
                f"unknown field {key!r} in a mixture's part; {nearest(key, ['name', 'weight', 'options'])}"
            )
        if not isinstance(part.get("name"), str):
            raise SourceError(f"a mixture's part needs the data set's 'name', got {dict(part)}")
        weight = part.get("weight", 1.0)
        if not isinstance(weight, int | float) or not math.isfinite(weight) or weight <= 0:
            raise SourceError(f"the weight of {part['name']!r} must be a number above 0, got {weight!r}")
        shares.append(_Share(part["name"], float(weight), {**options, **part.get("options", {})}))
    return shares


def _generator(share: _Share, size: int, seed: int) -> tuple[Any, dict[str, Any]]:
    """The generator and the full options (seed and size among them) that rebuild it."""
    # Imported here: half a second that a user of files need not wait for.
    from reasoning_gym.factory import DATASETS, create_dataset

    known = DATASETS.keys() - {"composite"}
    if share.name not in known:
        hint = "give a list of parts" if share.name == "composite" else nearest(share.name, known)
        raise SourceError(f"unknown reasoning-gym data set {share.name!r}; {hint}")
    allowed = {option.name for option in fields(DATASETS[share.name][1])}
    for name in share.options.keys() - allowed:
        raise SourceError(
            f"data set {share.name!r} has no option {name!r}; {nearest(name, allowed - {'seed', 'size'})}"
        )
    for name in share.options.keys() & {"seed", "size"}:
        raise SourceError(f"{name!r} of data set {share.name!r} is set by the source's own {name}; remove it")
    full = {**share.options, "seed": seed, "size": size}
    try:
        return create_dataset(share.name, **full), full
    except (AssertionError, TypeError, ValueError) as error:
        # The generators check their options with bare assertions.
        raise SourceError(
            f"data set {share.name!r} refuses its options {share.options}: {type(error).__name__} {error}"
        ) from error


def fill(template: str, values: Mapping[str, Any]) -> str:
    """The template with ``{name}`` replaced by ``values[name]``. Plain names only: nothing is evaluated.

    Attribute or index access (``{a.b}``, ``{a[0]}``), conversions and format specifications are refused.
    """
    try:
        pieces = list(string.Formatter().parse(template))
    except ValueError as error:
        raise SourceError(f"prompt template {template!r} is malformed: {error}; write {{{{ for a brace") from error
    for _, name, specification, conversion in pieces:
        if name is None:
            continue
        if not name.isidentifier() or specification or conversion:
            raise SourceError(
                f"prompt template {template!r} may use plain field names only, like {{question}}; "
                f"got field {name!r} with format {specification!r}"
            )
        if name not in values:
            raise SourceError(f"prompt template has unknown field {name!r}; {nearest(name, values)}")
    return template.format_map(values)


def jsonl_entries(path: str | Path, columns: Columns | None = None) -> list[Entry]:
    """The entries of a JSONL file, one object per line (see ``records`` for the fields); blank lines are
    skipped."""
    return _entries(json_lines(path), Path(path), columns)


def json_lines(path: str | Path, what: str = "task file") -> Iterator[tuple[str, object]]:
    """The place and the value of every line that is not blank. SourceError: no file, or a line is no JSON."""
    source = Path(path)
    if not source.is_file():
        raise SourceError(f"{what} {str(source)!r} does not exist or is not a file; check the path")
    for number, line in enumerate(source.read_bytes().split(b"\n"), start=1):
        if line.strip():
            place = f"{source}, line {number}"
            yield place, _decoded(place, line)


def _decoded(place: str, line: bytes) -> object:
    try:
        return from_json(line, texts=True)
    except PlainError as error:
        raise SourceError(f"{place}: {error}; a JSONL file holds one JSON object in every line") from error


def folder_entries(path: str | Path, split: str | None = None, columns: Columns | None = None) -> list[Entry]:
    """The entries of a folder written by ``datasets``' ``save_to_disk``; ``split`` picks one of several."""
    source = Path(path)
    if not source.is_dir():
        raise SourceError(f"data set folder {str(source)!r} does not exist or is not a folder; check the path")
    if not any((source / name).is_file() for name in ("state.json", "dataset_dict.json")):
        raise SourceError(f"{str(source)!r} was not written by save_to_disk (no state.json, no dataset_dict.json)")
    # Imported here: a second that users of the other sources need not wait for.
    import datasets

    try:
        state = source / "state.json"
        if state.is_file() and not dict(from_json(state.read_bytes())).get("_data_files"):
            raise SourceError(f"{str(source)!r} holds no tasks; give at least one record")
        loaded = datasets.load_from_disk(str(source))
    except SourceError:
        raise
    except Exception as error:
        # The library raises anything for files that are damaged.
        raise SourceError(f"{str(source)!r} can not be read as a data set: {type(error).__name__}: {error}") from error
    if isinstance(loaded, datasets.DatasetDict):
        if split is None or split not in loaded:
            raise SourceError(f"{str(source)!r} has the splits {sorted(map(str, loaded))}, got split {split!r}")
        loaded = loaded[split]
    elif split is not None:
        raise SourceError(f"{str(source)!r} has no splits, got split {split!r}; leave it out")
    return _entries(((f"{source}, row {number}", row) for number, row in enumerate(loaded)), source, columns)


def _entries(rows: Iterable[tuple[str, object]], source: Path, columns: Columns | None) -> list[Entry]:
    places: list[str] = []

    def placed() -> Iterator[tuple[str, object]]:
        for place, record in rows:
            places.append(place)
            yield place, record

    found = collected(placed(), lambda record: entry_from_record(record, columns), source)
    _tell_of_pairs(found, places)
    return found


def _tell_of_pairs(entries: Sequence[Entry], places: Sequence[str]) -> None:
    """Pairs whose texts are equal, so that they prefer nothing, or empty."""
    placed = zip(entries, places, strict=True)
    pairs = [(entry.candidates, place) for entry, place in placed if len(entry.candidates) == 2]
    equal = [place for (one, other), place in pairs if (one.start, one.text) == (other.start, other.text)]
    empty = [place for several, place in pairs if not all(candidate.text.strip() for candidate in several)]
    for what, found in (
        ("equal texts in 'chosen' and 'rejected'", equal),
        ("an empty text in 'chosen' or 'rejected'", empty),
    ):
        if found:
            warn_once(
                f"{len(found)} of {len(pairs)} preference pairs have {what}, the first in {found[0]}; remove what is "
                "no preference (policyopt data stats says more)"
            )


def collected(
    rows: Iterable[tuple[str, object]], read: Callable[[object], Found], source: Path, what: str = "tasks"
) -> list[Found]:
    """What (place, record) rows hold; a bad record's error is prefixed with its place. SourceError: none."""
    found = []
    for place, record in rows:
        try:
            found.append(read(record))
        except SourceError as error:
            raise SourceError(f"{place}: {error}") from error
    if not found:
        raise SourceError(f"{str(source)!r} holds no {what}; give at least one record")
    return found
