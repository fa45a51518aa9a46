"""A checkpoint is read back whole or not at all; a folder of them always gives the newest good one."""

import errno
import logging
import os
import random
from collections import OrderedDict, deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from policyopt.runtime import atomic, checkpoint
from policyopt.runtime.atomic import DiskFullError, NotWrittenError, atomic_file, write_atomic
from policyopt.runtime.checkpoint import (
    CheckpointError,
    CheckpointStore,
    DamagedCheckpointError,
    load,
    save,
)
from policyopt.types import Batch, Categorical, Finish, Gaussian, Scores, Tasks, empty_batch

HEADER = 52


def state(step: int = 0) -> dict[str, Any]:
    generator = torch.Generator().manual_seed(step)
    return {"step": step, "weights": torch.rand(300, dtype=torch.float64, generator=generator)}


# -- one file --------------------------------------------------------------------------------------------------
def test_everything_a_run_holds_is_read_back(tmp_path: Path) -> None:
    model = nn.Linear(3, 2)
    optimizer = torch.optim.AdamW(model.parameters(), 0.1, (0.8, 0.95))
    model(torch.ones(1, 3)).sum().backward()
    optimizer.step()
    batch = empty_batch(Tasks(torch.arange(4), {"_prompt": torch.arange(8).view(4, 2)}))
    batch = batch.append({"kind": torch.tensor([[1, 1], [1, 0], [1, 2], [3, 1]], dtype=torch.uint8)})
    dist = Categorical(torch.rand(4, 2, 5, dtype=torch.float64).log_softmax(-1))
    batch = batch.with_scores({"old": Scores(dist.logp[..., 0], dist.entropy(), dist, exact=False)})
    table = torch.arange(6.0)
    before = {
        "models": {"policy": model.state_dict()},
        "optimizers": optimizer.state_dict(),
        "cells": {
            "pool": [batch, batch[torch.tensor([True, False, True, False])]],
            "noise": Gaussian(torch.zeros(2), torch.ones(2)),
            "odd": (1, -0.0, float("nan"), float("inf"), None, True, "é\n", b"\0", {3, 4}, torch.bfloat16),
            ("tuple", 1): OrderedDict(a=torch.tensor([1e-300, float("nan")], dtype=torch.float64)),
            "tied": [table, table[2:4]],
        },
    }
    save(before, tmp_path / "a" / "x.ckpt")
    after = load(tmp_path / "a" / "x.ckpt")
    assert torch.equal(after["models"]["policy"]["weight"], model.weight)
    assert after["optimizers"]["param_groups"] == optimizer.state_dict()["param_groups"]
    moments = after["optimizers"]["state"][0]
    assert all(torch.equal(moments[name], optimizer.state_dict()["state"][0][name]) for name in moments)
    pool = after["cells"]["pool"]
    assert [type(one) for one in pool] == [Batch, Batch]
    assert torch.equal(pool[0].step["kind"], batch.step["kind"])
    assert torch.equal(pool[1].row["_prompt"], batch.row["_prompt"][[0, 2]])
    scores = pool[0].scores["old"]
    assert torch.equal(scores.dist.logp, dist.logp)
    assert scores.exact is False
    assert torch.equal(after["cells"]["noise"].std, torch.ones(2))
    assert repr(after["cells"]["odd"]) == repr(before["cells"]["odd"])
    assert after["cells"][("tuple", 1)]["a"][0] == 1e-300
    tied = after["cells"]["tied"]
    tied[0][2] = 7
    assert tied[1][0] == 7, "tensors that share memory still share it"
    assert [path.name for path in (tmp_path / "a").iterdir()] == ["x.ckpt"]


class Other(int):
    pass


@pytest.mark.parametrize(
    ("value", "name"),
    [
        (deque([1]), "deque"),
        (Finish.STOPPED, "Finish"),
        (np.float64(1.0), "float64"),
        (frozenset([1]), "frozenset"),
        (Other(1), "Other"),
        (nn.Linear(1, 1), "Linear"),
        (lambda: 0, "function"),
    ],
)
def test_what_could_not_be_read_back_is_refused_before_writing(value: Any, name: str, tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=rf"state\['cells'\]\['pool'\]\[1\] is a {name}"):
        save({"cells": {"pool": [0, value]}}, tmp_path / "x.ckpt")
    assert not list(tmp_path.iterdir())


def test_a_cut_at_any_place_is_noticed(tmp_path: Path) -> None:
    path = tmp_path / "x.ckpt"
    save(state(), path)
    whole = path.read_bytes()
    assert len(whole) > 2500
    spread = random.Random(0).sample(range(HEADER, len(whole)), 200)
    for length in [*range(HEADER + 1), *spread, len(whole) - 1]:
        path.write_bytes(whole[:length])
        with pytest.raises(DamagedCheckpointError, match=r"x\.ckpt"):
            load(path)
    for longer in (whole + b"\0", whole + whole):
        path.write_bytes(longer)
        with pytest.raises(DamagedCheckpointError):
            load(path)


def test_a_changed_bit_at_any_place_is_noticed(tmp_path: Path) -> None:
    path = tmp_path / "x.ckpt"
    save(state(), path)
    whole = path.read_bytes()
    rng = random.Random(1)
    for place in [*range(HEADER), *rng.sample(range(HEADER, len(whole)), 200)]:
        changed = bytearray(whole)
        changed[place] ^= 1 << rng.randrange(8)
        path.write_bytes(changed)
        with pytest.raises(DamagedCheckpointError, match=r"x\.ckpt"):
            load(path)


def test_another_format_version_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(checkpoint, "VERSION", 2)
        save(state(), tmp_path / "x.ckpt")
    with pytest.raises(CheckpointError, match="format 2, this program reads 1") as caught:
        load(tmp_path / "x.ckpt")
    assert not isinstance(caught.value, DamagedCheckpointError)


def test_code_in_a_whole_file_is_not_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(checkpoint, "check", lambda value: None)
    save({"a": os.system}, tmp_path / "x.ckpt")
    with pytest.raises(CheckpointError, match="does not read"):
        load(tmp_path / "x.ckpt")


def test_tensors_of_a_device_that_is_not_here_come_to_the_cpu() -> None:
    storage = torch.zeros(1).untyped_storage()
    assert checkpoint._place(storage, "cpu") is None
    assert checkpoint._place(storage, "cuda:63") is storage


# -- files that are whole or not there -------------------------------------------------------------------------
@pytest.mark.parametrize("error", [KeyboardInterrupt, RuntimeError])
def test_an_error_while_writing_leaves_the_old_file(error: type[BaseException], tmp_path: Path) -> None:
    path = tmp_path / "x"
    write_atomic(path, "old")

    def fail() -> None:
        with atomic_file(path) as file:
            file.write(b"new")
            raise error

    with pytest.raises(error):
        fail()
    assert path.read_text() == "old"
    assert [entry.name for entry in tmp_path.iterdir()] == ["x"]


def test_text_is_written_with_its_own_line_ends(tmp_path: Path) -> None:
    write_atomic(tmp_path / "x", "é\n\ud800\n")
    assert (tmp_path / "x").read_bytes() == "é\n".encode() + b"\\ud800\n"


@contextmanager
def _largest_file(size: int) -> Iterator[None]:
    """Inside, the system refuses to let any file of this process grow past `size` bytes."""
    resource = pytest.importorskip("resource", reason="the system has no limit on file sizes")
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


@contextmanager
def _no_space() -> Iterator[None]:
    """Inside, every flush to disk says that there is no space (network file systems notice only then)."""

    def refuse(file: Any) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    flush, atomic.flush_to_disk = atomic.flush_to_disk, refuse
    try:
        yield
    finally:
        atomic.flush_to_disk = flush


@pytest.mark.parametrize(
    "full", [lambda: _largest_file(10), lambda: _largest_file(1500), lambda: _largest_file(100_000), _no_space]
)
def test_a_full_disk(full: Callable[[], Any], tmp_path: Path) -> None:
    store = CheckpointStore(tmp_path / "checkpoints", resume="type this")
    large = {**state(), "weights": torch.zeros(1_000_000)}
    with full(), pytest.raises(DiskFullError, match="There is no earlier one") as caught:
        store.write(3, large)
    store.write(3, state(3))
    with full(), pytest.raises(DiskFullError) as caught:
        store.write(7, large)
    message = str(caught.value)
    for part in ("round 7", str(store.path(7)), "intact", str(store.path(3)), "Free some space", "type this"):
        assert part in message
    assert caught.value.errno in (errno.ENOSPC, errno.EFBIG)
    assert [path.name for path in store.folder.iterdir()] == ["round-00000003.ckpt"]
    found = store.latest()
    assert found is not None
    assert torch.equal(found[1]["weights"], state(3)["weights"])
    store.write(7, large)
    assert store.steps() == [3, 7]


def test_other_errors_of_the_system_name_the_file(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(NotWrittenError, match=r"x\.ckpt can not be written: .*choose another") as caught:
        save(state(), tmp_path / "file" / "x.ckpt")
    assert not isinstance(caught.value, DiskFullError)


# -- a folder of them ------------------------------------------------------------------------------------------
def _damage(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-7])


def test_an_empty_store_has_nothing(tmp_path: Path) -> None:
    assert CheckpointStore(tmp_path / "none").latest() is None
    with pytest.raises(CheckpointError, match="at least 1"):
        CheckpointStore(tmp_path, keep=0)


def test_the_newest_are_kept(tmp_path: Path) -> None:
    store = CheckpointStore(tmp_path, keep=2)
    for step in (0, 9, 10, 100_000_000):
        store.write(step, state(step))
    assert store.steps() == [10, 100_000_000]
    found = store.latest()
    assert found is not None
    assert found[0] == found[1]["step"] == 100_000_000


@pytest.mark.parametrize("fresh", [False, True])
def test_a_damaged_one_is_skipped_and_does_not_count_as_kept(
    fresh: bool, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    store = CheckpointStore(tmp_path, keep=2)
    store.write(1, state(1))
    store.write(2, state(2))
    _damage(store.path(2))
    if fresh:
        store = CheckpointStore(tmp_path, keep=2)
    with caplog.at_level(logging.WARNING):
        found = store.latest()
    assert found is not None
    assert found[0] == 1
    assert "round-00000002.ckpt is damaged" in caplog.text
    store.write(3, state(3))
    assert {1, 3} <= set(store.steps()), "two good ones must stay, whatever lies between them"
    store.write(4, state(4))
    assert store.steps() == [3, 4]


def test_all_damaged_is_an_error_not_a_new_start(tmp_path: Path) -> None:
    store = CheckpointStore(tmp_path)
    for step in (1, 2):
        store.write(step, state(step))
        _damage(store.path(step))
    with pytest.raises(DamagedCheckpointError, match=r"all 2 checkpoints in .* are damaged \(rounds \[1, 2\]\)"):
        store.latest()


def test_leavings_of_a_killed_process_are_ignored_and_removed(tmp_path: Path) -> None:
    store = CheckpointStore(tmp_path)
    store.write(1, state(1))
    (tmp_path / ".round-00000002.ckpt.4711.tmp").write_bytes(b"half")
    (tmp_path / "notes.txt").write_text("mine")
    found = store.latest()
    assert found is not None
    assert found[0] == 1
    store.write(2, state(2))
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "notes.txt", "round-00000001.ckpt", "round-00000002.ckpt"
    ]  # fmt: skip
