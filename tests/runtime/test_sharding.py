"""Several processes train as one does: losses, gradients, methods, checkpoints; and what is said when they can not."""

from __future__ import annotations

import json
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
from peers import is_lost
from torch import Tensor
from torch.distributed.device_mesh import init_device_mesh
from torch.testing._internal.distributed.fake_pg import FakeStore

import sharded_cases
from cases import CASES
from policyopt.compose import Program, Stage
from policyopt.recipe.base import RecipeError
from policyopt.recipe.schema import make_recipe
from policyopt.recipe.trainers import Asked, check_count
from policyopt.runtime.checkpoint import CheckpointStore, DamagedCheckpointError, load, save
from policyopt.runtime.launch import launch
from policyopt.runtime.pulse import Pulses
from policyopt.runtime.ranks import RankError, Ranks, shares
from policyopt.runtime.sharded_checkpoint import STATE
from policyopt.runtime.together import own_part
from policyopt.train import rounds

FLOAT32 = 1e-6
METHODS = sharded_cases.methods()[::20]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("sharded")


@pytest.fixture(scope="module")
def found(folder: Path) -> dict[str, Any]:
    """What two processes, started once, made of everything."""
    return sharded_cases.find(2, folder, METHODS, ["float32"], every=False)


@pytest.mark.parametrize("key", sorted(CASES))
def test_trap_04_loss_and_gradient_are_those_of_one_process(found: dict[str, Any], key: str) -> None:
    """Uneven numbers of steps, and none, per rank; in one pass and row by row."""
    assert max(found["float32"][key]) <= FLOAT32


@pytest.mark.parametrize(("key", "name"), METHODS)
def test_methods_are_those_of_one_process(found: dict[str, Any], key: str, name: str) -> None:
    # Language models normalise in float32 whatever their precision; the others agree to 1e-12.
    assert max(found["methods"][f"{key} on {name}"]) <= (FLOAT32 if name == "language" else 1e-12)


@pytest.mark.parametrize("case", sharded_cases.DECODERS)
def test_decoders_are_those_of_one_process(found: dict[str, Any], case: str) -> None:
    """Layers gathered one by one; accumulation, clipping, adapters, critic, moving average, reference."""
    assert max(found["decoders"][case]) <= FLOAT32


@pytest.mark.parametrize("case", ["ppo, critic", "grpo, low-rank adapters"])
def test_decoders_in_bfloat16_are_those_of_one_process(found: dict[str, Any], case: str) -> None:
    """With layers in float32 among them; to the precision of gradients in bfloat16."""
    assert max(found["bfloat16"][case]) <= 2**-6


# -- checkpoints -------------------------------------------------------------------------------------------------------
def tensors(value: Any, place: str = "") -> Iterator[tuple[str, Tensor]]:
    if isinstance(value, Tensor):
        yield place, value
    elif isinstance(value, dict):
        for key, item in value.items():
            yield from tensors(item, f"{place}/{key}")


def test_trap_48_several_processes_resume_bit_for_bit(found: dict[str, Any]) -> None:
    assert found["resumed"] == {"weights": True, "metrics": True}


def test_one_process_goes_on_from_shards_and_three_from_one(found: dict[str, Any], folder: Path) -> None:
    """2 -> 1: the rounds that follow are those that the two went on with. 1 -> 3: each takes its own rows."""
    run, made = sharded_cases.decoder(sharded_cases.RESUMED)
    program = Program((Stage(made, 4),))
    run.load_state(load(folder / "round-00000002.ckpt"), program)
    assert len(list(rounds(run, program))) == 2
    right = load(folder / "round-00000004.ckpt")
    state = run.state()
    for (place, one), (also, two) in zip(tensors(state), tensors(right), strict=True):
        assert place == also
        assert sharded_cases.gap(one.double(), two.double()) <= 1e-4, place
    save(state, folder / "one.ckpt")
    parts = [part_of(rank, 3, folder / "one.ckpt") for rank in range(3)]
    for place, one in tensors(state["optimizers"], "/optimizers"):
        if one.dim():
            assert torch.equal(torch.cat([dict(part)[place] for part in parts]), one), place
    again = [part_of(rank, 3, folder / "round-00000004.ckpt") for rank in range(3)]
    for place, one in tensors(right["optimizers"], "/optimizers"):
        if one.dim():
            assert torch.equal(torch.cat([dict(part)[place] for part in again]), one), place


def part_of(rank: int, count: int, path: Path) -> list[tuple[str, Tensor]]:
    """What a rank of several reads, without the others."""
    dist.init_process_group("fake", rank=rank, world_size=count, store=FakeStore())
    try:
        ranks = Ranks(rank, count, init_device_mesh("cpu", (count,)), FakeStore(), None)  # pyright: ignore[reportArgumentType]
        found = own_part(ranks, path)
        return [(p, x.to_local() if hasattr(x, "to_local") else x) for p, x in tensors(found)]  # pyright: ignore[reportAttributeAccessIssue]
    finally:
        dist.destroy_process_group()


def test_shards_that_are_not_as_written_are_told_and_passed_over(found: dict[str, Any], folder: Path) -> None:
    store = CheckpointStore(folder)
    assert store.steps() == [2, 4]
    shard = sorted(store.path(4).glob("*.safetensors"))[-1]
    content = bytearray(shard.read_bytes())
    content[-1] ^= 1
    shard.write_bytes(content)
    with pytest.raises(DamagedCheckpointError, match=shard.name):
        load(store.path(4))
    latest = store.latest()
    assert latest is not None
    assert latest[0] == 2
    (store.path(4) / STATE).unlink()
    with pytest.raises(DamagedCheckpointError, match=STATE):
        load(store.path(4))
    assert sorted(p.suffix for p in store.path(2).iterdir()) == [".ckpt", ".safetensors", ".safetensors"]


# -- dealing rows ------------------------------------------------------------------------------------------------------
def test_shares_are_of_equal_number_and_weight() -> None:
    assert shares([13, 1, 7, 2], 2) == [[0, 1], [2, 3]]
    assert shares([5, 5, 5], 4) == [[0], [1], [2], []]


# -- settings ----------------------------------------------------------------------------------------------------------
def test_settings_that_do_not_go_together_are_refused() -> None:
    recipe = {"name": "x", "policy": {"new": {}}, "tasks": {}, "stages": [{"method": "grpo", "steps": 1}]}
    with pytest.raises(RecipeError, match=r"2 rounds ahead; use runtime.staleness=0 or runtime.trainers=1"):
        make_recipe(recipe, ["runtime.trainers=2", "runtime.staleness=2"])
    with pytest.raises(RecipeError, match=r"one of 3 processes.*trainers=2; give runtime.trainers=3, or torchrun"):
        check_count(3, Asked(2))


def test_signs_of_life_are_counted_not_timed(monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine that was suspended for an hour has lost nobody; a rank that is still for as long while we look has."""
    store, now = dist.HashStore(), [0.0]  # pyright: ignore[reportPrivateImportUsage]
    monkeypatch.setattr("policyopt.runtime.pulse.time.monotonic", lambda: now[0])
    for rank in (0, 1):
        store.set(f"pulse/{rank}", "1 sampling")
    pulses = Pulses(store, 2)
    pulses.look()
    now[0] += 3600
    assert pulses.frozen(30) == []
    for beat in range(2, 80):
        now[0] += 0.5
        store.set("pulse/0", f"{beat} sampling")
        pulses.look()
    assert pulses.frozen(30) == [1]
    assert pulses.phase(1) == "sampling"


# -- failures ----------------------------------------------------------------------------------------------------------
def differs(ranks: Ranks) -> None:
    with ranks.phase("checkpoint"):
        ranks.agree("weights", ranks.rank)


def told(ranks: Ranks, path: str) -> None:
    with ranks.phase("norm of the gradient"):
        total = ranks.sum(torch.tensor(ranks.rank + 1.0))
    if ranks.leads:
        Path(path).write_text(json.dumps([float(total), ranks.gather(ranks.rank)]))
    else:
        ranks.gather(ranks.rank)


@pytest.mark.slow
def test_trap_47_a_rank_that_dies_is_named_with_its_phase() -> None:
    with pytest.raises(RankError, match=r"rank 1 was ended by SIGKILL in gradients of round 3"):
        launch(2, is_lost, (int(signal.SIGKILL),), 60.0)


@pytest.mark.slow
def test_trap_47_a_rank_that_freezes_is_named_with_its_phase(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("policyopt.runtime.launch.FROZEN", 5.0)
    with pytest.raises(RankError, match=r"rank 1 has given no sign of life for 5 s, last in gradients of round 3"):
        launch(2, is_lost, (int(signal.SIGSTOP),), 120.0)


@pytest.mark.slow
def test_ranks_that_differ_are_told() -> None:
    with pytest.raises(RankError, match=r"ranks \[1\] have another weights than rank 0"):
        launch(2, differs, (), 60.0)
