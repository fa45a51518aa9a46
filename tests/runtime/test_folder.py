"""The folder of a run: names, journals that can be cut back, what is computed once, what the user sees."""

import io
import json
import logging
import math
from collections.abc import Iterator
from pathlib import Path

import pytest
import resume_cases as cases
from rich.console import Console
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from policyopt.compose import CompositionError
from policyopt.runtime.atomic import DiskFullError
from policyopt.runtime.folder import Record, RunFolder, RunFolderError, write_json
from policyopt.runtime.journal import Journal, read, read_metrics
from policyopt.runtime.progress import Bar, Lines, log_to, progress, summary
from policyopt.runtime.session import Session


# -- folders ---------------------------------------------------------------------------------------------------
def test_an_existing_run_is_never_touched(tmp_path: Path) -> None:
    first = RunFolder.create(tmp_path / "runs" / "a", "method: grpo\n", "L = é\n")
    (first.path / "mine").write_text("x")
    paths = [RunFolder.create(tmp_path / "runs" / "a", "method: ppo\n", "").path.name for _ in range(2)]
    assert paths == ["a-2", "a-3"]
    assert first.recipe.read_text() == "method: grpo\n"
    assert first.objective.read_text(encoding="utf-8") == "L = é\n"
    assert RunFolder.open(tmp_path / "runs" / "a") == first


def test_an_empty_folder_is_used_and_a_file_is_not(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "file").write_text("x")
    assert RunFolder.create(tmp_path / "empty", "", "").path.name == "empty"
    assert RunFolder.create(str(tmp_path / "file"), "", "").path.name == "file-2"
    assert (tmp_path / "file").read_text() == "x"


def test_what_is_no_run_is_refused(tmp_path: Path) -> None:
    with pytest.raises(RunFolderError, match=r"no recipe\.yaml"):
        RunFolder.open(tmp_path)
    with pytest.raises(RunFolderError, match="needs a name"):
        RunFolder.create("", "", "")


@pytest.fixture
def folder(tmp_path: Path) -> RunFolder:
    return RunFolder.create(tmp_path / "run", "method: grpo\n", "L")


def test_once_computes_once(folder: RunFolder) -> None:
    calls: list[int] = []

    def compute() -> dict[str, float]:
        calls.append(1)
        return {"b": 0.1 + 0.2, "a": 1}

    def fail() -> dict[str, float]:
        raise ArithmeticError

    with pytest.raises(ArithmeticError):
        folder.once("score", fail)
    assert folder.once("score", compute) == folder.once("score", compute) == {"a": 1, "b": 0.1 + 0.2}
    assert calls == [1]
    with pytest.raises(ValueError, match="JSON"):
        write_json(folder.summary, {"a": math.nan})
    assert not folder.summary.exists()


def test_results_that_are_damaged_are_refused_by_name(folder: RunFolder) -> None:
    folder.results.mkdir()
    for damage in ("", '{"a": 1', "[1]", "[" * 100_000, "\0"):
        (folder.results / "score.json").write_text(damage)
        with pytest.raises(RunFolderError, match=r"score\.json .*delete it"):
            folder.once("score", dict)
    (folder.results / "score.json").write_bytes(b'"\xff"')
    with pytest.raises(RunFolderError, match=r"score\.json can not be read"):
        folder.once("score", dict)


# -- journals --------------------------------------------------------------------------------------------------
def _fill(path: Path, count: int) -> Journal:
    journal = Journal(path)
    for step in range(count):
        journal.append(step, {"reward": step / 3, "b": -0.0, "a/é": 1e-300})
    return journal


def test_lines_are_sorted_and_full(tmp_path: Path) -> None:
    _fill(tmp_path / "m", 2).close()
    lines = (tmp_path / "m").read_bytes().decode().split("\n")
    assert lines == [
        '{"a/é": 1e-300, "b": -0.0, "reward": 0.0, "step": 0}',
        '{"a/é": 1e-300, "b": -0.0, "reward": 0.3333333333333333, "step": 1}',
        "",
    ]


def test_cutting_leaves_the_bytes_of_a_shorter_run(tmp_path: Path) -> None:
    _fill(tmp_path / "short", 3).close()
    short = (tmp_path / "short").read_bytes()
    journal = _fill(tmp_path / "long", 6)
    with (tmp_path / "long").open("ab") as file:
        file.write(b'{"a": 1, "st')
    assert len(read(tmp_path / "long")) == 6, "a half-written line is not read"
    assert journal.cut(3) == 3
    assert (tmp_path / "long").read_bytes() == short
    journal.append(3, {"a": 1})
    assert [record["step"] for record in read(tmp_path / "long")] == [0, 1, 2, 3]
    journal.sync()
    assert journal.cut(0) == 0
    assert (tmp_path / "long").read_bytes() == b""
    journal.close()


@pytest.mark.parametrize("tail", [b'{"step": 2', b"\0\0\0\0", b"\0\0\0\n", b'{"step": 2}'])
def test_an_unfinished_tail_is_dropped(tail: bytes, tmp_path: Path) -> None:
    _fill(tmp_path / "m", 2).close()
    whole = (tmp_path / "m").read_bytes()
    (tmp_path / "m").write_bytes(whole + tail)
    assert Journal(tmp_path / "m").cut(10) == 2
    assert (tmp_path / "m").read_bytes() == whole


@pytest.mark.parametrize(
    "damage", [b"\0\0\0\n", b'{"step": \xff}\n', b"[1]\n", b'{"step": "1"}\n', b"[" * 9999 + b"\n"]
)
def test_damage_in_the_middle_costs_its_line_alone(
    damage: bytes, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    _fill(tmp_path / "m", 5).close()
    lines = (tmp_path / "m").read_bytes().splitlines(keepends=True)
    (tmp_path / "m").write_bytes(b"".join([*lines[:2], damage, *lines[3:]]))
    assert [record["step"] for record in read(tmp_path / "m")] == [0, 1, 3, 4]
    assert Journal(tmp_path / "m").cut(4) == 3
    assert (tmp_path / "m").read_bytes() == b"".join([*lines[:2], lines[3]])
    assert "1 damaged lines are left out" in caplog.text


def test_numbers_json_does_not_have(tmp_path: Path) -> None:
    journal = Journal(tmp_path / "m")
    journal.append(0, {"x": math.nan, "y": [math.inf, {"z": -math.inf}], "text": "half \ud83d of a pair"})
    journal.close()
    strict = json.loads((tmp_path / "m").read_bytes(), parse_constant=pytest.fail)
    assert strict == {"x": "nan", "y": ["inf", {"z": "-inf"}], "text": "half \ud83d of a pair", "step": 0}
    journal = Journal(tmp_path / "n")
    journal.append(0, {"x": math.nan, "y": -math.inf, "z": 1.5})
    journal.close()
    record = read_metrics(tmp_path / "n")[0]
    assert math.isnan(record["x"])
    assert (record["y"], record["z"], record["step"]) == (-math.inf, 1.5, 0)
    assert read(tmp_path / "none") == []


def test_a_full_disk_ends_in_a_whole_journal(tmp_path: Path) -> None:
    resource = pytest.importorskip("resource", reason="the system has no limit on file sizes")
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    journal = _fill(tmp_path / "m", 2)
    whole = (tmp_path / "m").read_bytes()
    resource.setrlimit(resource.RLIMIT_FSIZE, (len(whole) + 10, hard))
    try:
        with pytest.raises(DiskFullError, match="no space left to write"):
            journal.append(2, {"reward": 0.5, "longer": "than ten bytes"})
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert (tmp_path / "m").read_bytes().startswith(whole)
    assert journal.cut(3) == 2
    assert (tmp_path / "m").read_bytes() == whole


def test_event_files_of_a_resumed_run_hold_every_round_once(folder: RunFolder) -> None:
    for start, stop in ((0, 5), (3, 6)):
        with Record(folder, start) as record:
            assert record.lines == start
            for step in range(start, stop):
                record.round(step, {"reward": step / 8}, {"seconds": 0.5})
            record.sync()
    events = EventAccumulator(str(folder.tensorboard))
    events.Reload()
    assert [(event.step, event.value) for event in events.Scalars("reward")] == [(n, n / 8) for n in range(6)]
    assert "time/seconds" in events.Tags()["scalars"]
    assert [record["step"] for record in read(folder.metrics)] == list(range(6))


def test_missing_lines_are_noticed(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    first = cases.session(tmp_path, "sft")
    for _ in first.rounds():
        if first.run.step == 4:
            break
    first.folder.metrics.unlink()
    with caplog.at_level(logging.WARNING):
        list(cases.session(tmp_path, "sft").rounds())
    assert "has 0 rounds before round 4" in caplog.text


def test_checkpoints_lie_some_rounds_apart(folder: RunFolder) -> None:
    with pytest.raises(CompositionError, match="at least 1 round, not 0"):
        Session(cases.new_run("sft"), cases.program("sft"), folder, 0)


# -- what the user sees ----------------------------------------------------------------------------------------
def _rounds() -> Iterator[tuple[str, dict[str, float], dict[str, float]]]:
    for index in range(6):
        stage = "1/2 sft" if index < 2 else "2/2 grpo"
        metrics = {"loss/likelihood": 0.5} if index < 2 else {"reward": 0.25, "kl/kl": 0.0125, "entropy": 1.5}
        yield stage, metrics, {"steps_per_second": 1234.5}


def test_plain_lines_where_there_is_no_terminal() -> None:
    out = io.StringIO()
    display = progress(Console(file=out, width=20))
    assert isinstance(display, Lines)
    display.begin(0, 6)
    for stage, metrics, timing in _rounds():
        display.round(stage, metrics, timing)
    display.end()
    lines = out.getvalue().splitlines()
    assert [line.split("  ")[:2] for line in lines] == [
        ["round 1/6", "1/2 sft"], ["round 3/6", "2/2 grpo"], ["round 6/6", "2/2 grpo"]
    ]  # fmt: skip
    assert lines[0] == "round 1/6  1/2 sft  loss 0.5  1,234 steps/s  0 s left"
    assert "reward 0.25  KL 0.0125  entropy 1.5  1,234 steps/s" in lines[1]
    assert "\x1b" not in out.getvalue()


@pytest.mark.parametrize("terminal", [False, True])
def test_a_budget_is_shown_in_place_of_a_number_of_rounds_that_is_not_known(terminal: bool) -> None:
    out = io.StringIO()
    console = Console(file=out, force_terminal=terminal, width=150, color_system=None, legacy_windows=False)
    display = progress(console)
    display.begin(0, 10**6)
    for index, (stage, metrics, timing) in enumerate(_rounds(), start=1):
        if index > 2:
            display.expect(6, f"{index / 6:.0%} of 240 tokens")
        display.round(stage, metrics, timing)
    display.end()
    last = [line for line in out.getvalue().splitlines() if "6/6" in line][-1]
    assert "2/2 grpo" in last
    assert "100% of 240 tokens  reward 0.25" in last


def test_a_bar_on_a_terminal_with_messages_above_it() -> None:
    out = io.StringIO()
    console = Console(file=out, force_terminal=True, width=150, color_system=None, legacy_windows=False)
    display = progress(console)
    assert isinstance(display, Bar)
    log_to(console)
    log_to(console)
    display.begin(2, 8)
    for stage, metrics, timing in _rounds():
        display.round(stage, metrics, timing)
    logging.getLogger("policyopt.runtime.test").warning("look here")
    display.end()
    text = out.getvalue()
    assert text.count("1/2 sft done  loss 0.5  1,234 steps/s") == 1
    assert text.count("look here") == 1, "asking twice must not double the messages"
    last = [line for line in text.splitlines() if "8/8" in line][-1]
    assert "2/2 grpo" in last
    assert "reward 0.25  KL 0.0125  entropy 1.5" in last
    with pytest.raises(RuntimeError, match="begin"):
        Bar(console).round("a", {}, {})


@pytest.fixture(autouse=True)
def _quiet() -> Iterator[None]:
    logger = logging.getLogger("policyopt")
    before, level = list(logger.handlers), logger.level
    yield
    logger.handlers[:] = before
    logger.setLevel(level)


def test_the_loss_stands_in_for_a_missing_reward() -> None:
    rate = {"steps_per_second": 10.0}
    assert summary({"loss/preference": 0.69, "policy/kl_old": 0.1}, rate) == "loss 0.69  KL 0.1  10 steps/s"
    assert summary({"loss/distillation": 0.69, "reward": 1.0}, rate) == "reward 1  10 steps/s"
    assert summary({}, rate) == "10 steps/s"
