"""What a page shows, read from run folders: an index that is read at once, and details in chunks."""

from __future__ import annotations

import difflib
import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate
from pathlib import Path
from typing import Any

from policyopt.report.objective_stamp import compare_runs
from policyopt.runtime.folder import RunFolder, read_json
from policyopt.runtime.journal import read

CHUNK = 64  # rollouts whose details are read together
COMPARED = 8  # runs of which every two objectives are compared; of more, the first so many
_ROW = ("row", "task", "group", "reward", "length", "surprise", "finish", "source")
_LISTED = {*_ROW, "step", "kept", "prompt", "answer"}


class ViewError(ValueError):
    """Runs that can not be shown."""


@dataclass(frozen=True)
class Collected:
    """index: what lists and curves need. chunks: lists of details, `CHUNK` rollouts each, in the index's order."""

    index: dict[str, Any]
    chunks: list[list[dict[str, Any]]]


def collect(folders: Sequence[RunFolder], opened: Mapping[str, Any] | None = None) -> Collected:
    """All that is in the folders now; a run that still trains is read up to its last whole lines.

    opened: where the page begins, {"tab", "first", "second"}. ViewError: they do not hold what runs write.
    """
    try:
        return _collected(folders, opened)
    except (LookupError, TypeError, ValueError, AttributeError) as error:
        told = ", ".join(str(folder.path) for folder in folders)
        raise ViewError(f"{told} can not be shown, a file there is damaged: {error!r:.300}; put back a copy") from error


def _collected(folders: Sequence[RunFolder], opened: Mapping[str, Any] | None) -> Collected:
    version = stamp(folders)
    names = _names(folders)
    objectives = [_text(folder.objective) for folder in folders]
    columns: dict[str, list[Any]] = {name: [] for name in ("run", "round", "kept", "prompt", "text", *_ROW)}
    details = []
    for number, folder in enumerate(folders):
        for record in read(folder.samples):
            if "steps" not in record:
                continue  # of a version that recorded no steps
            details.append({name: value for name, value in record.items() if name not in _LISTED})
            for name in _ROW:
                columns[name].append(record.get(name))
            columns["run"].append(number)
            columns["round"].append(record["step"])
            columns["kept"].append(bool(record.get("kept", True)))
            columns["prompt"].append(record.get("prompt", ""))
            columns["text"].append(record.get("answer", ""))
    index = {
        "version": version,
        "runs": [_run(f, n, o) for f, n, o in zip(folders, names, objectives, strict=True)],
        "differences": _differences(objectives, [_stamps(folder) for folder in folders]),
        "rollouts": columns,
        "chunk": CHUNK,
        "open": dict(opened or {}),
    }
    return Collected(index, [details[start : start + CHUNK] for start in range(0, len(details), CHUNK)])


def stamp(folders: Sequence[RunFolder]) -> str:
    """Changes whenever something that is shown does."""
    paths = [p for f in folders for p in (f.metrics, f.samples, f.alarms, f.results / "episodes.json")]
    found = [path.stat() for path in paths if path.exists()]
    return ",".join(f"{one.st_size}:{one.st_mtime_ns}" for one in found)


def _run(folder: RunFolder, name: str, objective: str) -> dict[str, Any]:
    lines = read(folder.metrics)
    metrics = {key: [line.get(key) for line in lines] for key in sorted({key for line in lines for key in line})}
    stages = metrics.get("stage", [])
    starts = [line["step"] for (a, b), line in zip(itertools.pairwise(stages), lines[1:], strict=False) if a != b]
    return {
        "name": name,
        "path": str(folder.path),
        "metrics": metrics,
        "axes": _axes(folder, [line["step"] for line in lines]),
        "starts": starts,
        "objective": objective,
        "recipe": _text(folder.recipe),
        "episodes": _episodes(folder),
        "alarms": [_alarm(line) for line in read(folder.alarms)],
    }


def _alarm(line: Mapping[str, Any]) -> dict[str, Any]:
    """What looked wrong in a round, with the words of some of its rows."""
    rows = [{name: row.get(name) for name in ("prompt", "answer", "reward")} for row in line.get("rows", ())]
    return {"round": line["step"], **{name: line.get(name) for name in ("name", "value", "remedy")}, "rows": rows}


def _axes(folder: RunFolder, steps: Sequence[int]) -> dict[str, list[float]]:
    """What was spent up to every round."""
    cost = {line["step"]: line for line in read(folder.path / "cost.jsonl")}
    timing = {line["step"]: line for line in read(folder.timing)}
    found = {}
    for name, lines in (("seconds", timing), ("tokens", cost), ("samples", cost)):
        if steps and all(name in lines.get(step, {}) for step in steps):
            found[name] = list(accumulate(float(lines[step][name]) for step in steps))
    return found


def _episodes(folder: RunFolder) -> list[dict[str, Any]]:
    path = folder.results / "episodes.json"
    return read_json(path)["episodes"] if path.is_file() else []


def _names(folders: Sequence[RunFolder]) -> list[str]:
    """Folder names; with what is above them where two are alike."""
    paths = [folder.path.resolve() for folder in folders]
    names = [path.name for path in paths]
    return [n if names.count(n) == 1 else str(Path(*p.parts[-2:])) for n, p in zip(names, paths, strict=True)]


def _text(path: Path) -> str:
    return path.read_text(encoding="utf-8", errors="replace") if path.is_file() else ""


def _stamps(folder: RunFolder) -> list[dict[str, Any]]:
    """What the stages minimise, as data; none of runs of a version that stored none."""
    path = folder.path / "objective.json"
    return read_json(path)["stages"] if path.is_file() else []


def _differences(objectives: Sequence[str], stamps: Sequence[Sequence[Any]]) -> dict[str, dict[str, Any]]:
    """For every two runs "i,j", i < j: `lines` of `difference`, and `stages` with the slots in which they differ."""
    pairs = itertools.combinations(range(min(len(objectives), COMPARED)), 2)
    return {
        f"{i},{j}": {
            "lines": difference(objectives[i], objectives[j]),
            "stages": [
                [{"slot": c.slot, "before": c.before, "after": c.after, "vital": c.vital} for c in changes]
                for changes in (compare_runs(stamps[i], stamps[j]) if stamps[i] and stamps[j] else ())
            ],
        }
        for i, j in pairs
    }


def difference(first: str, second: str) -> list[tuple[str, str]]:
    """Lines that are only in the first ("-") or the second ("+"), with three around them (" "); "@": a place."""
    lines = list(difflib.unified_diff(first.splitlines(), second.splitlines(), lineterm="", n=3))[2:]
    return [("@", line) if line.startswith("@@") else (line[:1], line[1:]) for line in lines]
