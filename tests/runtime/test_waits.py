"""Trap 47: every wait for another process ends. A peer that is frozen, killed or cut off costs time, never a result;
and where it can not be replaced, it is named with the phase."""

import importlib
import json
import logging
import os
import queue
import signal
import socket
import sys
import threading
import time

import pytest
from test_compare import Quiet, plan
from test_sandbox import ADD, FORMS, graded
from test_sandbox_escapes import children, missing

from chat_server import waited
from policyopt.policies.endpoint import Memory
from policyopt.recipe.comparison import pool as pools
from policyopt.recipe.comparison.plan import runs
from policyopt.recipe.comparison.pool import Pool
from policyopt.report.viewer.serve import Handler, Server
from policyopt.runtime import trackers
from policyopt.runtime.trackers import Guarded
from policyopt.sandbox import host
from policyopt.sandbox.host import Limits, Sandbox, SandboxFault
from policyopt.worlds.grading import Grader, GradingError
from policyopt.worlds.grading import Limits as GradingLimits
from policyopt.worlds.tasks import Entry
from policyopt.worlds.verifiers import verifier

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="signals processes and reads /proc")

SLOW = """
import os, sys, time
def score(text, entry):
    time.sleep(0.3)
    try:
        cut = int(open(entry.answer).read()) == os.getpid()
    except OSError:
        cut = False
    if cut:
        os.closerange(3, 64)
        time.sleep(60)
    return len(text) / 8
"""


# -- grading workers ---------------------------------------------------------------------------------------------------
@pytest.fixture
def slow(tmp_path, monkeypatch):
    """A verifier that takes a moment, and cuts its worker off if told to."""
    (tmp_path / "slow_verifier.py").write_text(SLOW)
    monkeypatch.syspath_prepend(tmp_path)
    importlib.invalidate_caches()
    yield verifier("slow_verifier:score"), [Entry("q", None, str(tmp_path / "cut"))]
    sys.modules.pop("slow_verifier", None)


def soon(act, *given, seconds=0.15):
    threading.Timer(seconds, act, given).start()


class Slept:
    """A queue whose owner is stopped during its first wait: the deadline is long past when it looks again."""

    def __init__(self, events):
        self.events, self.slept = events, False

    def get(self, timeout):
        if self.slept:
            return self.events.get(timeout=timeout)
        self.slept = True
        time.sleep(timeout + 0.6)
        raise queue.Empty


def test_trap_47_a_text_whose_worker_is_taken_is_judged_again(slow, tmp_path, monkeypatch):
    monkeypatch.setattr("policyopt.worlds.grading_process._ENDING_SECONDS", 0.3)
    rule, entries = slow
    with Grader(rule, entries, GradingLimits(deadline=0.8, workers=1)) as grader:
        assert grader.grade(["warm"], [0])[0].score == 0.5
        grader._events = Slept(grader._events)
        assert grader.grade(["abcd"], [0])[0].score == 0.5, "a grader that was stopped itself hears its worker"
        assert grader._events.slept
        grader._events = grader._events.events
        for fault in ("killed", "frozen", "cut off"):
            worker = grader._workers[0].process
            if fault == "cut off":
                (tmp_path / "cut").write_text(str(worker))
            else:
                soon(os.kill, worker, signal.SIGKILL if fault == "killed" else signal.SIGSTOP)
            (grade,) = grader.grade(["ab"], [0])
            assert (grade.score, grade.fault) == (0.25, None), fault
            assert grader._workers[0].process != worker


def test_trap_47_workers_that_end_while_nothing_is_judged_are_replaced(slow):
    """A scheduler's SIGTERM goes to the whole process group: the run finishes its round, its idle workers end."""
    rule, entries = slow
    with Grader(rule, entries, GradingLimits(workers=2)) as grader:
        for _ in range(2):
            grades = grader.grade(["ab", "abcd", "abcd"], [0, 0, 0])
            assert [(grade.score, grade.fault) for grade in grades] == [(0.25, None), (0.5, None), (0.5, None)]
            ended = list(grader._workers)
            for worker in ended:
                os.kill(worker.process, signal.SIGTERM)
            for worker in ended:
                worker._process.wait(20)
        assert grader.grade(["ab"], [0])[0].score == 0.25


def test_trap_47_a_worker_that_is_frozen_while_it_starts_is_replaced_once_then_named(slow):
    rule, entries = slow
    with Grader(rule, entries, GradingLimits(start_deadline=0.2, workers=1)) as grader:
        freezing = threading.Event()

        def freeze():
            while not freezing.wait(0.005):
                for worker in list(grader._workers):
                    os.kill(worker.process, signal.SIGSTOP)

        thread = threading.Thread(target=freeze)
        thread.start()
        with pytest.raises(GradingError, match=r"phase start: grading worker \d+ was not ready .* it is stopped"):
            grader.grade(["ab"], [0])
        freezing.set()
        thread.join()


# -- sandboxes ---------------------------------------------------------------------------------------------------------
@pytest.fixture
def sandbox(monkeypatch):
    if (why := missing()) is not None:
        pytest.skip(why)
    monkeypatch.setattr(host, "_GRACE_SECONDS", 1.5)
    monkeypatch.setattr(host, "_CLOSE_SECONDS", 0.2)
    with Sandbox() as opened:
        opened.start()
        yield opened


def hit(sandbox, number, which):
    """Signal one of the processes that a program has: 0 its warden, -1 itself."""
    before = set(children(sandbox._process.pid))

    def act():
        found = []
        assert waited(lambda: found.extend(set(children(sandbox._process.pid)) - before) or len(found) > 1, 5)
        os.kill(sorted(found)[which], number)

    soon(act)


NAP = {"kind": "script", "source": "import time; time.sleep(0.5); print(1)"}


def test_trap_47_a_frozen_sandbox_is_named_and_replaced(sandbox):
    first = sandbox._process.pid
    for process in children(first):
        os.kill(process, signal.SIGSTOP)
    with pytest.raises(SandboxFault, match=rf"phase hand-over: the sandbox ended: process {first} does not answer"):
        sandbox.run(NAP, Limits())
    assert sandbox.run(NAP, Limits()).stdout == b"1\n"


def test_trap_47_a_program_that_is_stopped_from_outside_is_the_sandbox_s_fault(sandbox):
    hit(sandbox, signal.SIGSTOP, -1)
    with pytest.raises(SandboxFault, match="stopped from outside"):
        sandbox.run({**NAP, "source": "import time; time.sleep(60)"}, Limits(seconds=1.5))
    itself = "import os, signal, time\nos.kill(os.getpid(), signal.SIGSTOP)\ntime.sleep(9)"
    assert sandbox.run({"kind": "script", "source": itself}, Limits(seconds=0.5)).limit == "seconds"


def test_trap_47_a_frozen_warden_has_a_deadline(sandbox):
    hit(sandbox, signal.SIGSTOP, 0)
    with pytest.raises(SandboxFault, match="phase run: no end of a program within"):
        sandbox.run({**NAP, "source": "import time; time.sleep(60)"}, Limits(seconds=1.5))


def test_a_program_that_was_killed_is_run_again(monkeypatch):
    run, killed = Sandbox.run, []

    def killing(self, *given):
        found = run(self, *given)
        if not killed:
            killed.append(found)
            return host.Outcome(b"", b"", b"", -9, None, 0.0, 0.0)
        return found

    monkeypatch.setattr(Sandbox, "run", killing)
    (grade,) = graded([ADD], [FORMS["calls"]])
    assert (grade.score, grade.fault) == (1.0, None)


# -- processes of a comparison -----------------------------------------------------------------------------------------
WORKER = """
import json, os, signal, sys
while line := input():
    seed, method = json.loads(line)['recipe']['seed'], json.loads(line)['recipe']['stages'][-1]['method']
    print("{}", flush=True)
    if method == "grpo" and (seed == 1 or not os.path.exists(sys.argv[1])):
        open(sys.argv[1], "w").close()
        os.kill(os.getpid(), signal.SIGSTOP)
    print(json.dumps({'end': 'finished'}), flush=True)
"""


def test_trap_47_a_silent_process_is_given_up_and_its_run_goes_on_once(tmp_path, monkeypatch):
    monkeypatch.setattr(pools, "SILENT", 0.5)
    quiet, command = Quiet(), (sys.executable, "-c", WORKER, str(tmp_path / "frozen"))
    with Pool(1, tmp_path / "log.txt", command) as pool:
        assert pool.run(runs(plan(), tmp_path, {}), quiet.heard)
    assert quiet.ends[:2] == [("grpo, seed 0", "finished"), ("rloo, seed 0", "finished")]
    assert list(pool.failed) == ["grpo, seed 1"]
    assert "gave no sign of life for 0." in pool.failed["grpo, seed 1"]
    assert pool.failed["grpo, seed 1"].startswith("phase run: process ")


def test_a_worker_says_that_it_lives(monkeypatch):
    from policyopt.recipe.comparison import worker

    monkeypatch.setattr(worker, "ALIVE_EVERY", 0.01)
    told = []

    def tell(message):
        told.append(json.dumps(message))
        if len(told) == 3:
            raise BrokenPipeError

    worker._live(tell)
    assert told == ["{}"] * 3


# -- trackers, browsers, files -----------------------------------------------------------------------------------------
class Hangs:
    def __init__(self, where):
        self.where, self.closing = where, threading.Event()
        self("start")

    def __call__(self, where):
        if where == self.where:
            self.closing.wait(20)

    def round(self, step, values):
        self(f"round {step}")

    def close(self):
        self("close")


@pytest.mark.parametrize("where", ["start", "round 1", "close"])
def test_trap_47_a_tracker_that_does_not_answer_is_left_out(where, monkeypatch, caplog):
    monkeypatch.setattr(trackers, "PATIENCE", 0.1)
    made = []
    began = time.monotonic()
    with caplog.at_level(logging.WARNING, "policyopt"):
        guarded = Guarded("far", lambda: made.append(hangs := Hangs(where)) or hangs)
        for step in range(3):
            guarded.round(step, {})
        guarded.close()
    assert time.monotonic() - began < 5
    assert [f"tracker far, phase {where}: left out" in record.getMessage() for record in caplog.records] == [True]
    assert "no answer within 0.1 s" in caplog.text
    for one in made:
        one.closing.set()


def test_trap_47_a_browser_that_says_nothing_is_hung_up_on(monkeypatch, capsys):
    monkeypatch.setattr(Handler, "timeout", 0.2)
    with Server([]) as server:
        threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
        with socket.create_connection(("127.0.0.1", server.server_port), timeout=10) as silent:
            silent.sendall(b"GET / HTTP/1.1\r\n")
            assert silent.recv(1) == b""
        server.shutdown()
    assert capsys.readouterr().err == ""


def test_answers_that_can_not_be_kept_are_remembered_in_memory(tmp_path, caplog):
    (tmp_path / "file").write_text("")
    memory = Memory(tmp_path / "file" / "cache.jsonl")
    with caplog.at_level(logging.WARNING, "policyopt"):
        memory.put("a", "1")
        memory.put("b", "2")
    assert (memory.get("a"), memory.get("b")) == ("1", "2")
    assert len(caplog.records) == 1
    assert "in memory only" in caplog.text
