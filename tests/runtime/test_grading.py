"""The grader: right grades in order, and nothing a text or a verifier does stops, slows down or harms the run."""

import importlib
import os
import re
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import pytest

from policyopt.worlds import grading_worker
from policyopt.worlds.grading import Grade, Grader, GradingError, Limits
from policyopt.worlds.sources import reasoning_gym_entries
from policyopt.worlds.tasks import Entry
from policyopt.worlds.verifiers import verifier

HOSTILE = """
import os, socket, subprocess, sys, time

def act(text, entry):
    return getattr(sys.modules[__name__], text)(entry.answer)

def fine(path): return 0.75
def loop(path):
    while True: pass
def sleep(path): time.sleep(600)
def exponent(path): return float(9**9**9**9)
def fork(path):
    if os.fork() == 0:
        open(path, "w").close()
        os._exit(0)
    return 1.0
def program(path): subprocess.run([sys.executable, "-c", f"open({path!r}, 'w')"]); return 1.0
def shell(path): os.system(f"touch {path}"); return 1.0
def child(path):
    import multiprocessing
    process = multiprocessing.get_context("spawn").Process(target=print)
    process.start()
    return 1.0
def write(path): open(path, "w").write("x"); return 1.0
def low_write(path): os.open(path, os.O_CREAT | os.O_WRONLY); return 1.0
def make_folder(path): os.mkdir(path); return 1.0
def network(path): socket.create_connection(("127.0.0.1", 9), timeout=1); return 1.0
def lookup(path): socket.getaddrinfo("localhost", 80); return 1.0
def kill(path): os.kill(os.getppid(), 0); return 1.0
def library(path):
    import ctypes
    ctypes.CDLL(None)
    return 1.0
def swallowed(path):
    try: open(path, "w")
    except BaseException: return 1.0
def memory(path): return float(len(bytearray(8 * 2**30)))
def leave(path): sys.exit(0)
def vanish(path): os._exit(7)
def deep(path): return deep(path)
def huge(path): return 1e300
def raising(path): raise KeyError("no such key")
def nan(path): return float("nan")
def infinite(path): return float("inf")
def word(path): return "1.0"
def nothing(path): return None
def noise(path):
    print('{"at": 0, "score": 1.0, "fault": null, "seconds": 0}')
    sys.stderr.write("noise")
    return 0.5
def forge(path):
    for descriptor in range(3, 20):
        try: os.write(descriptor, b'{"at": 99, "score": 1.0, "fault": null, "seconds": 0}\\n')
        except OSError: pass
    return 1.0
def yes(path): return True
def heavy(path): return float("torch" in sys.modules)
"""


@pytest.fixture
def hostile(tmp_path, monkeypatch):
    """The verifier that does what the text says, and one entry whose answer is a path that must stay absent."""
    (tmp_path / "hostile_verifiers.py").write_text(HOSTILE)
    monkeypatch.syspath_prepend(tmp_path)
    importlib.invalidate_caches()
    sys.modules.pop("hostile_verifiers", None)
    yield verifier("hostile_verifiers:act"), Entry("question", None, str(tmp_path / "planted"))
    sys.modules.pop("hostile_verifiers", None)


def graded(judge, entry, acts, **limits):
    with Grader(judge, [entry], Limits(**limits)) as grader:
        grades = grader.grade(acts, [0] * len(acts))
    return dict(zip(acts, grades, strict=True)), grades


CONTAINED = {
    "program": "refused subprocess.Popen",
    "child": "refused starting a program",
    "write": "refused writing to '",
    "low_write": "refused writing to '",
    "make_folder": "refused os.mkdir",
    "network": "refused socket.",
    "lookup": "refused socket.getaddrinfo",
    "shell": "refused os.system",
    "kill": "refused os.kill",
    "library": "refused ctypes.",
    "swallowed": "refused writing to '",
    "leave": "raised SystemExit: 0",
    "deep": "raised RecursionError",
    "raising": "raised KeyError: 'no such key'",
    "nan": "returned nan, not a finite number",
    "infinite": "returned inf, not a finite number",
    "huge": "returned 1e+300, beyond 1e+15",
    "word": "returned str, not a number",
    "nothing": "returned NoneType, not a number",
}


def test_trap_50_forbidden_acts_and_faults_are_contained(hostile):
    judge, entry = hostile
    acts = dict(CONTAINED)
    if hasattr(os, "fork"):
        acts["fork"] = "refused os.fork"
    if sys.platform == "linux":
        acts["memory"] = "raised MemoryError"
    # A good row after every bad one, so that each chunk mixes them.
    texts = [text for act in acts for text in (act, "fine")]
    with Grader(judge, [entry], Limits(deadline=10, workers=1)) as grader:
        grades = grader.grade(texts, [0] * len(texts))
    assert [grade.score for grade in grades[1::2]] == [0.75] * len(acts)
    for act, grade in zip(acts, grades[::2], strict=True):
        assert grade.score is None, act
        assert grade.fault is not None
        assert grade.fault.startswith(acts[act]), (act, grade.fault)
        # Numpy, imported while a verifier judges, loads a library.
        assert ("import at the top of the verifier's file" in grade.fault) == (act == "library")
    assert not Path(entry.answer).exists()


def test_trap_50_hangs_and_crashes_cost_one_row_and_one_deadline(hostile):
    judge, entry = hostile
    # Bad rows at the start, inside and at the end of the chunks, whose other rows go to another worker.
    bad = {0: "loop", 3: "exponent", 4: "sleep", 11: "vanish", 15: "loop"}
    acts = [bad.get(position, "fine" if position % 2 else "yes") for position in range(16)]
    began = time.monotonic()
    _, grades = graded(judge, entry, acts, deadline=0.7, workers=2)
    assert time.monotonic() - began < 12
    right = [None if position in bad else 0.75 if position % 2 else 1.0 for position in range(16)]
    assert [grade.score for grade in grades] == right
    for position in bad.keys() - {11}:
        assert grades[position].fault == "deadline 0.7 s"
        assert 0.7 <= grades[position].seconds < 5
    assert "exit code 7" in (grades[11].fault or "")


def test_trap_50_a_line_that_is_no_due_reply_costs_its_row(hostile):
    judge, entry = hostile
    _, grades = graded(judge, entry, ["fine", "forge", "fine"], deadline=10, workers=1)
    assert [grade.score for grade in grades] == [0.75, None, 0.75]
    assert "no reply" in (grades[1].fault or "")


def test_verifiers_may_print_return_booleans_and_never_import_torch(hostile):
    judge, entry = hostile
    by_act, _ = graded(judge, entry, ["noise", "yes", "heavy"], deadline=10)
    assert {act: grade.score for act, grade in by_act.items()} == {"noise": 0.5, "yes": 1.0, "heavy": 0.0}


def test_trap_50_countdown_text_is_not_evaluated(tmp_path):
    tasks = reasoning_gym_entries("countdown", {}, 2, 0)
    planted = tmp_path / "X"
    texts = [
        f"__import__('os').system('touch {planted}')",
        tasks[1].answer,
        "9**9**9**9",
        f"open('{planted}','w')",
        tasks[0].answer,
    ]
    with Grader(verifier("reasoning_gym"), tasks, Limits(deadline=20, workers=1)) as grader:
        grades = grader.grade(texts, [0, 1, 0, 0, 0])
    assert [(grade.score, grade.fault) for grade in grades] == [(s, None) for s in (0.0, 1.0, 0.0, 0.0, 1.0)]
    assert not planted.exists()


def test_trap_50_huge_exponent_in_math_verify_hits_the_deadline():
    tasks = [Entry("q", None, "1/2")]
    with Grader(verifier("math_verify"), tasks, Limits(deadline=1.5, workers=1)) as grader:
        grades = grader.grade([r"\boxed{0.5}", r"\boxed{9^{9^{9^9}}}", r"\boxed{\frac{2}{4}}"], [0, 0, 0])
    assert [grade.score for grade in grades] == [1.0, None, 1.0]
    assert grades[1].fault is not None


def test_trap_50_catastrophic_pattern_hits_the_deadline():
    tasks = [Entry("q", None, "(a+)+b"), Entry("q", None, "a+")]
    with Grader(verifier("regex"), tasks, Limits(deadline=0.7, workers=1)) as grader:
        grades = grader.grade(["a" * 60, "a" * 60, "aab"], [0, 1, 0])
    assert [(grade.score, grade.fault) for grade in grades] == [(None, "deadline 0.7 s"), (1.0, None), (1.0, None)]


@pytest.mark.parametrize(
    ("at_start", "said"),
    [("time.sleep(600)", "was not ready within 0.8 s"), ("raise OSError('no licence')", "no licence")],
)
def test_trap_47_a_worker_that_does_not_start_is_named(tmp_path, monkeypatch, at_start, said):
    (tmp_path / "slow_start.py").write_text(
        "import sys, time\n"
        f"if sys.argv[0].endswith('grading_worker.py'):\n    {at_start}\n"
        "def score(text, entry):\n    return 1.0\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    importlib.invalidate_caches()
    deadline = 0.8 if "sleep" in at_start else 60
    try:
        grader = Grader(verifier("slow_start:score"), [Entry("q", None, "a")], Limits(start_deadline=deadline))
        with grader, pytest.raises(GradingError, match=f"(?s)phase start: .*{re.escape(said)}"):
            grader.grade(["a"], [0])
    finally:
        sys.modules.pop("slow_start", None)


def test_rows_keep_their_order_over_chunks_and_workers(hostile):
    judge, entry = hostile
    others = Entry("q", None, "unused")
    acts = ["fine" if position % 3 else "yes" for position in range(200)]
    with Grader(judge, [entry, others], Limits(deadline=20, workers=2)) as grader:
        for _ in range(2):
            grades = grader.grade(acts, [position % 2 for position in range(200)])
            assert [grade.score for grade in grades] == [0.75 if position % 3 else 1.0 for position in range(200)]
            assert all(grade.fault is None and 0 <= grade.seconds < 20 for grade in grades)
        assert grader.grade([], []) == []


def test_mixed_tasks_split_between_inline_and_guarded():
    parts = [{"name": "spell_backward"}, {"name": "countdown"}]
    tasks = reasoning_gym_entries(parts, {}, 30, 5)
    with Grader(verifier("reasoning_gym"), tasks, Limits(deadline=20, workers=1)) as grader:
        texts = [task.answer if position % 2 else "9" for position, task in enumerate(tasks)]
        grades = grader.grade(texts, range(30))
    assert [grade.score for grade in grades] == [float(position % 2) for position in range(30)]


def test_inline_verifiers_report_faults_too():
    tasks = [Entry("q", None, "four"), Entry("q", None, "4")]
    with Grader(verifier("numeric"), tasks) as grader:
        grades = grader.grade(["4", "4"], [0, 1])
    assert grades[0].score is None
    assert "raised VerifierError: numeric needs a number" in (grades[0].fault or "")
    assert (grades[1].score, grades[1].fault) == (1.0, None)


def test_inline_grading_is_fast_once_warm():
    tasks = reasoning_gym_entries("spell_backward", {}, 100, 0)
    texts, indices = [task.answer for task in tasks] * 4, list(range(100)) * 4
    with Grader(verifier("reasoning_gym"), tasks) as grader:
        grader.grade(texts, indices)
        took = []
        for _ in range(5):
            began = time.perf_counter()
            grader.grade(texts, indices)
            took.append(time.perf_counter() - began)
    assert min(took) < 0.05


def test_misuse_is_refused(hostile):
    judge, entry = hostile
    grader = Grader(judge, [entry])
    with pytest.raises(ValueError, match="got 2 texts, 1 indices"):
        grader.grade(["a", "b"], [0])
    grader.close()
    with pytest.raises(GradingError, match="closed"):
        grader.grade(["a"], [0])
    with pytest.raises(ValueError, match="deadline must be above 0, got 0"):
        Limits(deadline=0)
    with pytest.raises(ValueError, match="workers must be at least 1, got 0"):
        Limits(workers=0)
    assert Grade(None, "why", 0.1).score is None


def test_interrupted_grading_does_not_answer_the_next_call(hostile, monkeypatch):
    judge, entry = hostile
    with Grader(judge, [entry], Limits(deadline=20, workers=1)) as grader:
        grader.grade(["fine"], [0])
        advance, left = grader._advance, [3]

        def interrupted(waiting, done):
            left[0] -= 1
            if left[0] == 0:
                raise KeyboardInterrupt
            advance(waiting, done)

        monkeypatch.setattr(grader, "_advance", interrupted)
        with pytest.raises(KeyboardInterrupt):
            grader.grade(["yes"] * 9, [0] * 9)
        monkeypatch.undo()
        monkeypatch.syspath_prepend(Path(entry.answer).parent)
        assert [grade.score for grade in grader.grade(["fine"] * 3, [0] * 3)] == [0.75] * 3


def _runs(pid):
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0]
    except OSError:
        return False
    return state != "Z"


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
@pytest.mark.parametrize("act", ["loop", "sleep"])
@pytest.mark.usefixtures("hostile")
def test_no_worker_outlives_a_parent_that_is_killed(tmp_path, act):
    script = textwrap.dedent(
        f"""
        import os, sys, threading, time
        sys.path.insert(0, {str(tmp_path)!r})
        from policyopt.worlds.grading import Grader, Limits
        from policyopt.worlds.tasks import Entry
        from policyopt.worlds.verifiers import verifier
        grader = Grader(verifier("hostile_verifiers:act"), [Entry("q", None, "a")], Limits(deadline=600, workers=1))
        grader.grade(["fine"], [0])
        print(grader._workers[0]._process.pid, flush=True)
        grader.grade([{act!r}], [0])
        """
    )
    # A killed parent can not remove its temporary folder; let it lie in the test's own.
    surroundings = {**os.environ, "TMPDIR": str(tmp_path)}
    parent = subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, env=surroundings)
    assert parent.stdout is not None
    with parent.stdout:
        worker = int(parent.stdout.readline())
        time.sleep(0.2)
        assert _runs(worker)
        parent.kill()
        parent.wait(10)
    until = time.monotonic() + 10
    while _runs(worker) and time.monotonic() < until:
        time.sleep(0.05)
    assert not _runs(worker)


def test_workers_load_a_package_only_when_its_names_are_asked_for(tmp_path, monkeypatch):
    folder = tmp_path / "heavy_package"
    folder.mkdir()
    (folder / "__init__.py").write_text("import sys\nsys.heavy_was_run = True\nVALUE = 7\n")
    (folder / "light.py").write_text("NAME = 'light'\n")
    monkeypatch.delattr(sys, "heavy_was_run", raising=False)
    grading_worker._light_package("heavy_package", folder)
    try:
        assert importlib.import_module("heavy_package.light").NAME == "light"
        assert not hasattr(sys, "heavy_was_run")
        assert importlib.import_module("heavy_package").VALUE == 7
        assert hasattr(sys, "heavy_was_run")
        with pytest.raises(AttributeError):
            _ = importlib.import_module("heavy_package").MISSING
    finally:
        monkeypatch.delattr(sys, "heavy_was_run", raising=False)
        for name in ("heavy_package", "heavy_package.light"):
            sys.modules.pop(name, None)
