"""Programs that try to get out of the sandbox, or to be paid for nothing: each scores 0, and the sandbox goes on."""

import contextlib
import functools
import os
import random
import socket
import time
from pathlib import Path

import pytest

import escapes
from policyopt.sandbox.host import Limits, Sandbox, SandboxUnavailable
from policyopt.worlds.programs import judge

NAME = "POLICYOPT_TEST_SECRET"


@functools.cache
def missing() -> str | None:
    """Why this machine can not isolate programs."""
    try:
        with Sandbox() as sandbox:
            sandbox.start()
    except SandboxUnavailable as error:
        return str(error)
    return None


@pytest.fixture(scope="module")
def sandbox():
    if (why := missing()) is not None:
        pytest.skip(why)
    with Sandbox() as opened:
        yield opened


@pytest.fixture(scope="module")
def host(tmp_path_factory):
    """What programs must not reach: a file, a port that listens, a variable."""
    file = tmp_path_factory.mktemp("host") / "file"
    file.write_text("private")
    os.environ[NAME] = "private"
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield escapes.Host(str(file), NAME, server.getsockname()[1])
    del os.environ[NAME]
    assert [path.name for path in file.parent.iterdir()] == ["file"]
    assert file.read_text() == "private"


def children(process: int) -> list[int]:
    """All descendants that run, by /proc."""
    found = []
    for task in Path("/proc").glob(f"{process}/task/*"):
        with contextlib.suppress(FileNotFoundError, ProcessLookupError):
            found += [int(text) for text in (task / "children").read_text().split()]
    running = [child for child in found if not state(child).startswith("Z")]
    return running + [below for child in running for below in children(child)]


def state(process: int) -> str:
    try:
        return Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].strip()
    except (FileNotFoundError, ProcessLookupError):
        return "Z"


@pytest.mark.parametrize("name", escapes.ATTEMPTS)
def test_attempts_are_contained_and_score_0(name, sandbox, host):
    attempt, secret = escapes.ATTEMPTS[name], random.SystemRandom().randrange(10**9, 10**12)
    tests = escapes.tests_of(attempt.by, secret)
    judged = judge(sandbox, escapes.written(attempt.source, host), tests, attempt.limits, 0.0, every=True)
    assert judged.passed == 0, judged
    assert escapes.ending(judged) in attempt.ends, judged
    assert judged.why.isprintable()
    after = judge(sandbox, escapes.GOOD[attempt.by].format(secret=secret), tests, Limits(seconds=60), 0.0, every=True)
    assert (after.passed, after.run) == (tests.count, tests.count), after


def test_there_are_more_than_60_attempts_of_every_kind():
    assert len(escapes.ATTEMPTS) == sum(
        len(kind) for kind in (escapes.SYSTEM_CALLS, escapes.ACTS, escapes.CHEATS, escapes.GLUTTONS)
    )
    assert min(len(kind) for kind in (escapes.SYSTEM_CALLS, escapes.ACTS, escapes.CHEATS)) > 40
    assert len(escapes.GLUTTONS) > 20


def test_nothing_outlives_its_program(sandbox):
    for source in ("import time; time.sleep(1000)", escapes.GLUTTONS["several busy threads"].source):
        assert sandbox.run({"kind": "script", "source": source}, escapes.BRIEF).limit == "seconds"
    zygote, *_ = children(sandbox._process.pid)
    until = time.monotonic() + 20
    while (left := children(zygote)) and time.monotonic() < until:
        time.sleep(0.02)
    assert left == []


def test_an_act_outside_the_sandbox_is_paid():
    """The acts notice when they succeed: unconfined, they return the right answer."""
    names: dict = {}
    exec(escapes.ACTS["fork bomb"].source, names)
    assert names["solve"](6) == 42
