"""Compared segments of control that begin in different states: rows, files, and `cpl` from the command line."""

import json
import re

import numpy as np
import pytest
import tiny
import torch
import yaml

from policyopt.ops.pairs import pair_rows
from policyopt.types import Finish
from policyopt.worlds.recordings import Episode
from policyopt.worlds.segments import ComparedSegments, read_segments
from policyopt.worlds.tasks import SourceError


def segment(start: float, steps: int) -> dict:
    """Observations that count on from a start; an action is the number of its step."""
    seen = [[start + t, -start, 0.0] for t in range(steps + 1)]
    return {"observations": seen, "actions": [[t / 10] for t in range(steps)]}


def records(count=12):
    return [
        {"chosen": segment(n, 3 + n % 2), "rejected": segment(-n, 2 + n % 3), "strength": n / 2} for n in range(count)
    ]


def test_both_segments_of_a_pair_are_rows_of_their_own_states(tmp_path):
    world = read_segments(tiny.jsonl(tmp_path / "s.jsonl", records()))
    assert world.size == 12
    tasks = world.tasks(torch.tensor([5, 2, 5])).with_rows({"group": torch.tensor([70, 71, 72])})
    batch = world.recorded_pairs(tasks)
    assert batch.row["pair"].tolist() == batch.row["group"].tolist() == [70, 70, 71, 71, 72, 72]
    assert batch.row["rank"].tolist() == [0, 1] * 3
    assert batch.row["task"].tolist() == [5, 5, 2, 2, 5, 5]
    assert batch.row["label"].tolist() == [1, 0] * 3
    assert batch.row["strength"].tolist() == [2.5, 2.5, 1, 1, 2.5, 2.5]
    assert batch.lengths.tolist() == [4, 4, 3, 4, 4, 4]
    assert batch.step["_obs"][0, 0].tolist() == [5, -5, 0]
    assert batch.step["_obs"][1, 0].tolist() == [-5, 5, 0]
    assert batch.row["_obs"][2].tolist() == [5, -2, 0]  # after the last action
    assert batch.step["_action"][2, :3, 0].tolist() == pytest.approx([0, 0.1, 0.2])
    assert batch.step["behaviour"][batch.own].isnan().all()
    assert batch.row["finish"].tolist() == [Finish.TRUNCATED] * 6
    assert pair_rows(batch).tolist() == [[0, 1], [2, 3], [4, 5]]
    shown = world.recorded(world.tasks(torch.tensor([2])))
    assert torch.equal(shown.step["_obs"][0, :3], batch.step["_obs"][2, :3])
    assert shown.row["task"].tolist() == [2]


@pytest.mark.parametrize(
    ("line", "told"),
    [
        ({"chosen": segment(0, 2)}, "'rejected' is missing"),
        ([1], "'chosen' is missing"),
        (
            {"chosen": segment(0, 2), "rejected": {"actions": [[0]]}},
            "'rejected' must have 'observations' and 'actions'",
        ),
        (
            {"chosen": {**segment(0, 2), "actions": [[0]]}, "rejected": segment(0, 2)},
            "one observation more, not 1 and 3",
        ),
        ({"chosen": {**segment(0, 2), "actions": [["a"], ["b"]]}, "rejected": segment(0, 2)}, "must be finite numbers"),
        ({"chosen": {**segment(0, 2), "actions": [[0], [0, 1]]}, "rejected": segment(0, 2)}, "of unequal shapes"),
        ({"chosen": segment(0, 2), "rejected": segment(0, 2), "strength": "much"}, "'strength' must hold finite"),
    ],
)
def test_a_wrong_line_is_named(tmp_path, line, told):
    path = tmp_path / "s.jsonl"
    path.write_text("\n".join(map(json.dumps, [*records(1), line])))
    with pytest.raises(SourceError, match=re.escape(told)) as caught:
        read_segments(path)
    assert str(caught.value).startswith(f"{path}, line 2: ")


def test_files_without_pairs_or_with_strengths_of_some_are_refused(tmp_path):
    with pytest.raises(SourceError, match="does not exist"):
        read_segments(tmp_path / "none.jsonl")
    with pytest.raises(SourceError, match="holds no segments"):
        read_segments(tiny.jsonl(tmp_path / "empty.jsonl", []))
    some = [*records(2), {"chosen": segment(0, 1), "rejected": segment(0, 1)}]
    with pytest.raises(SourceError, match="has a strength or none has; 2 of 3"):
        read_segments(tiny.jsonl(tmp_path / "some.jsonl", some))
    wide = Episode(np.zeros((2, 4)), np.zeros((1, 1)), np.zeros(1), terminated=False)
    narrow = Episode(np.zeros((2, 3)), np.zeros((1, 1)), np.zeros(1), terminated=False)
    with pytest.raises(ValueError, match="of one shape"):
        ComparedSegments([(wide, narrow)])


@pytest.mark.parametrize("method", ["cpl", "sft"])
def test_segments_train_an_agent(method, tmp_path, command):
    tasks = {"gymnasium": "Pendulum-v1", "segments": str(tiny.jsonl(tmp_path / "s.jsonl", records()))}
    made = {
        "name": "agent",
        "policy": {"control": {"hidden": [8]}},
        "tasks": tasks,
        "stages": [{"method": method, "steps": 2, "options": {"selection.count": 4}}],
        "evaluation": None,
        "folder": str(tmp_path / "run"),
    }
    (tmp_path / "r.yaml").write_text(yaml.safe_dump(made))
    called = command("train", tmp_path / "r.yaml")
    assert called.code == 0, called.err
    assert all(line["gradient_norm/policy"] > 0 for line in tiny.lines(tmp_path / "run" / "metrics.jsonl"))
    refused = command("train", tmp_path / "r.yaml", "tasks.segments=null", f"folder={tmp_path / 'other'}")
    assert refused.code == 2
    assert "tasks.segments" in refused.err
