"""The sandbox and the verifier that runs programs in it: what is right is paid, what fails says so, nothing is kept."""

import json
import logging
import os
import shutil
import subprocess
import sys
import tempfile
import textwrap
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace

import pytest
from test_sandbox_escapes import children, missing

import escapes
from policyopt.sandbox import host, seccomp, zygote
from policyopt.sandbox.host import Limits, Sandbox, SandboxFault, SandboxUnavailable
from policyopt.worlds.grading import Grader
from policyopt.worlds.grading import Limits as GradingLimits
from policyopt.worlds.programs import judge, last_block
from policyopt.worlds.sources import jsonl_entries
from policyopt.worlds.tasks import Entry, VerifierError
from policyopt.worlds.unit_tests import called_names, unit_tests
from policyopt.worlds.verifiers import verifier

ADD = "def add(a, b):\n    return a + b\n"
PATIENT = Limits(cpu_seconds=20, seconds=120)


@pytest.fixture(scope="module")
def sandbox():
    if (why := missing()) is not None:
        pytest.skip(why)
    with Sandbox() as opened:
        yield opened


def task(tests, **more):
    return Entry("?", None, metadata={"tests": tests, **more})


def graded(texts, entries, **options):
    """Scores of the texts, each for its entry."""
    if (why := missing()) is not None:
        pytest.skip(why)
    rule = verifier("python_tests", {"cpu_seconds": 20, **options})
    with Grader(rule, entries, GradingLimits(deadline=120, workers=1)) as grader:
        return grader.grade(texts, range(len(texts)))


FORMS = {
    "calls": task([{"call": "add", "args": [1, 2], "returns": 3}]),
    "calls by name": task([{"call": "add", "kwargs": {"a": "x", "b": "y"}, "returns": "xy"}]),
    "raises": task([{"call": "add", "args": [1, "x"], "raises": "TypeError"}]),
    "HumanEval": task("def check(candidate):\n    assert candidate(1, 2) == 3\n", entry_point="add"),
    "MBPP": task(["assert add(1, 2) == 3", "import math\nassert add(math.pi, 0) == math.pi"]),
    "sets and bytes": task(["assert add(b'a', b'b') == b'ab'", "assert add((1,), (2,)) == (1, 2) != [1, 2]"]),
    "APPS with a name": task({"inputs": [[1, 2], [[1], [2]]], "outputs": [3, [1, 2]], "fn_name": "add"}),
    "as JSON": task(json.dumps([{"call": "add", "args": [1, 2], "returns": 3}])),
}  # fmt: skip


def test_every_form_of_tests_pays_right_and_wrong_programs():
    entries = list(FORMS.values())
    right = graded([ADD] * len(entries), entries)
    assert [(grade.score, grade.fault) for grade in right] == [(1.0, None)] * len(entries)
    wrong = graded(["def add(a, b):\n    return [a, b, 'wrong']"] * len(entries), entries, score="share")
    assert [(grade.score, grade.fault) for grade in wrong] == [(0.0, None)] * len(entries)


def test_scripts_read_and_print():
    entries = [
        task({"inputs": ["1 2\n", "3 4\n"], "outputs": ["3\n", "7"]}),
        task([{"stdin": "", "stdout": "a  \nb\n\n"}]),
        task([{"stdin": "é\n", "stdout": "É"}]),
    ]
    programs = ["print(sum(map(int, input().split())))", "print('a')\nprint('b ')", "print(input().upper())"]
    assert [grade.score for grade in graded(programs, entries)] == [1.0] * 3
    halves = ["print(3)", "print('a')\nprint('b')\nraise SystemExit(1)", "print(' É')"]
    assert [grade.score for grade in graded(halves, entries, score="share")] == [0.5, 0.0, 0.0]
    assert [grade.score for grade in graded(halves[:1], entries[:1])] == [0.0]


def test_methods_of_classes_and_solutions_of_contests():
    entries = [
        task([{"call": "Box.add", "args": [1], "returns": 8}]),
        task([{"call": "add", "args": [1], "returns": 2}]),
    ]
    programs = [
        "class Box:\n    def __init__(self): self.n = 7\n    def add(self, x): return self.n + x",
        "class Solution:\n    def add(self, x): return 2 * x",
    ]
    assert [grade.score for grade in graded(programs, entries)] == [1.0, 1.0]


def test_where_the_program_stands():
    fenced = f"First:\n```python\nx\n```\nThen\n```py\n{ADD}```\nand so on."
    entries = [FORMS["calls"]] * 3
    scores = {
        kind: [grade.score for grade in graded([fenced, ADD, "```\n" + ADD], entries, program=kind)]
        for kind in ("either", "fenced", "text")
    }
    assert scores == {"either": [1.0, 1.0, 0.0], "fenced": [1.0, 0.0, 0.0], "text": [0.0, 1.0, 0.0]}
    assert last_block("```\na\n```\n```\nb") == "a\n"
    assert last_block("none") is None


def test_shares_and_broken_limits():
    tests = [{"call": "f", "args": [i], "returns": i} for i in range(4)]
    programs = [
        "def f(x): return x if x != 2 else None",
        "def f(x): return x if x < 3 else f(x)",
        "import os\ndef f(x): return x if x < 3 else os._exit(0)",
        "def f(x):\n    while x > 2: pass\n    return x",
        "def f(x):\n    print('x' * 10**7)\n    return x",
    ]
    grades = graded(programs, [task(tests)] * 5, score="share", cpu_seconds=0.3)
    assert [(grade.score, grade.fault) for grade in grades] == [(s, None) for s in (0.75, 0.75, 0.75, 0.0, 0.0)]


def test_tests_that_can_not_be_run_leave_the_answer_unscored():
    entries = [
        task(["assert ("]),
        task([]),
        task([{"stdin": ""}]),
        Entry("?", None),
        task({"code": "assert (", "entry_point": "f"}),
    ]
    grades = graded([ADD] * 5, entries)
    assert [grade.score for grade in grades] == [None] * 5
    assert all((grade.fault or "").startswith("raised VerifierError: ") for grade in grades)


@pytest.mark.parametrize(
    ("tests", "said"),
    [
        ([{"call": "f", "args": [1]}], "exactly one of 'returns' and 'raises'"),
        ([{"call": "f", "returns": 1, "raises": "ValueError"}], "exactly one of"),
        ([{"call": "f", "raises": "Nothing"}], "names a builtin exception, got 'Nothing'"),
        ([{"call": "f", "args": 1, "returns": 1}], "'args' of a test is a list"),
        ([{"call": "f", "arg": [1], "returns": 1}], "no field 'arg'; did you mean 'args'"),
        ([{"inputs": [1], "outputs": []}], "lists of equal length"),
        ([{"inputs": [1], "outputs": [1], "fn_name": "f"}], "list of a call's arguments"),
        ([{"stdin": 1, "stdout": ""}], "'stdin' of a test is a text, got int"),
        ("[1", "begin like JSON but are none"),
        ([3], "an object or test code, got int"),
        (["x = 1"], "name the 'entry_point'"),
        ([{"code": "f()", "entry_point": []}], "the name of a function or a list of names"),
        ([{"call": "f", "args": [10**5000], "returns": 1}], "can not be handed over"),
    ],
)
def test_wrong_tests_name_the_rule(tests, said):
    with pytest.raises(VerifierError, match=said):
        unit_tests(task(tests), "tests")


def test_columns_and_options_are_checked():
    with pytest.raises(VerifierError, match="no column 'test' of tests; did you mean 'tests'"):
        unit_tests(task([]), "test")
    for option, said in (
        ({"sandbox": "none"}, "can not be 'none'"),
        ({"memory_mb": 0}, "above 0"),
        ({"tolerance": 2}, r"\[0, 1\)"),
    ):
        with pytest.raises(VerifierError, match=said):
            verifier("python_tests", option)


def test_names_that_only_the_program_can_define():
    code = (
        "import math as m\ndef helper(x): return twice(x)\nassert helper(add(1, 2)) == m.floor(6.5)\nfor f in (): f()"
    )
    assert called_names(code) == ("add", "twice") or called_names(code) == ("twice", "add")


def test_records_with_tests_need_no_answer(tmp_path):
    path = tmp_path / "tasks.jsonl"
    path.write_text(json.dumps({"prompt": "Add.", "tests": ["assert add(1, 2) == 3"]}) + "\n")
    (entry,) = jsonl_entries(path)
    assert unit_tests(entry, "tests").count == 1


def test_nothing_is_carried_over_to_the_next_program(sandbox):
    first = """
import builtins, os, sys, random
open('/tmp/left', 'w').write('x')
builtins.left = sys.left = 1
sys.modules['math'].pi = 3
os.environ['LEFT'] = '1'
print(random.random(), hash('a'), {'a', 'b', 'c'})
"""
    second = """
import builtins, gc, math, os, sys, random
words = [o for o in gc.get_objects() if isinstance(o, dict) and 'left' in o]
print(os.listdir('/tmp'), hasattr(builtins, 'left'), hasattr(sys, 'left'), math.pi > 3, 'LEFT' in os.environ)
print(random.random(), hash('a'), {'a', 'b', 'c'})
"""
    one, two = (sandbox.run({"kind": "script", "source": source}, PATIENT) for source in (first, second))
    assert one.well
    lines = two.stdout.decode().splitlines()
    assert lines[0] == "[] False False True False"
    # Equal programs see equal luck, so that scores can be repeated.
    assert lines[1] == one.stdout.decode().strip()


def test_the_kernel_says_that_a_program_is_confined(sandbox):
    """Seen from outside: no privilege, a filter, another user than root, namespaces of its own, its pipes only."""
    source = {"kind": "script", "source": "print('here', flush=True)\nimport time; time.sleep(1000)"}
    sandbox.start()
    with ThreadPoolExecutor(1) as other:
        running = other.submit(sandbox.run, source, Limits(seconds=6))
        found: list[int] = []
        until = time.monotonic() + 6
        while len(found) < 3 and time.monotonic() < until:  # zygote, warden, program
            found = children(sandbox._process.pid)
        place = Path(f"/proc/{found[-1]}")
        while "Seccomp:\t2" not in (place / "status").read_text() and time.monotonic() < until:
            time.sleep(0.01)
        time.sleep(0.2)
        lines = [line.partition(":") for line in (place / "status").read_text().splitlines()]
        spaces = {path.name: path.readlink() for path in (place / "ns").iterdir()}
        ours = {path.name: path.readlink() for path in Path("/proc/self/ns").iterdir()}
        descriptors = sorted(path.name for path in (place / "fd").iterdir())
        environment = (place / "environ").read_bytes()
        assert running.result().limit == "seconds"
    status = {name: value.split() for name, _, value in lines}
    for kind in ("CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb"):
        assert int(status[kind][0], 16) == 0, kind
    assert (status["NoNewPrivs"], status["Seccomp"]) == (["1"], ["2"])
    assert "0" not in status["Uid"] + status["Gid"] + status["Groups"]
    assert status["NSpid"][-1] == "1"
    assert {name for name in spaces if spaces[name] == ours[name]} <= {"time", "time_for_children"}
    assert descriptors == ["0", "1", "2", "3", "4"]
    assert b"PATH" not in environment


def test_usual_programs_run(sandbox):
    source = """
import asyncio, hashlib, sqlite3, sys, tempfile, threading, zoneinfo
async def wait():
    await asyncio.sleep(0.001)
    return 1
print(asyncio.run(wait()), zoneinfo.ZoneInfo('UTC'), hashlib.sha256(b'').hexdigest()[:4])
thread = threading.Thread(target=print, args=('thread',))
thread.start(); thread.join()
with tempfile.NamedTemporaryFile('w+') as file:
    file.write('kept'); file.seek(0); print(file.read())
print(sqlite3.connect(':memory:').execute('select 1').fetchone())
sys.setrecursionlimit(30_000)
def depth(n): return n and 1 + depth(n - 1)
print(depth(20_000))
"""
    outcome = sandbox.run({"kind": "script", "source": source}, PATIENT)
    assert outcome.stdout.decode().split() == ["1", "UTC", "e3b0", "thread", "kept", "(1,)", "20000"], outcome


def test_a_sandbox_that_was_killed_is_replaced(sandbox):
    sandbox.start()
    sandbox._process.kill()
    sandbox._process.wait(20)
    assert sandbox.run({"kind": "script", "source": "print(1)"}, PATIENT).stdout == b"1\n"


def test_a_fault_of_the_sandbox_is_retried_once_then_unscored(monkeypatch):
    run, faults = Sandbox.run, [1]

    def failing(self, *arguments):
        if faults[0]:
            faults[0] -= 1
            raise SandboxFault("no space")
        return run(self, *arguments)

    monkeypatch.setattr(Sandbox, "run", failing)
    (grade,) = graded([ADD], [FORMS["calls"]])
    assert (grade.score, grade.fault) == (1.0, None)
    faults[0] = 2
    (grade,) = graded([ADD], [FORMS["calls"]])
    assert (grade.score, grade.fault) == (None, "sandbox: no space")


def test_a_program_that_can_not_be_confined_is_never_run(sandbox, tmp_path, monkeypatch):
    planted(tmp_path, monkeypatch, "warden.py", "kernel.filter_calls(seccomp.program())", "raise OSError('no filter')")
    with Sandbox() as broken, pytest.raises(SandboxFault, match="could not be confined: OSError: no filter"):
        broken.run({"kind": "script", "source": "print(1)"}, PATIENT)


def test_machines_that_can_not_isolate_refuse(tmp_path, monkeypatch):
    with monkeypatch.context() as elsewhere:
        elsewhere.setattr(host, "sys", SimpleNamespace(platform="darwin"))
        with Sandbox() as refused, pytest.raises(SandboxUnavailable, match=r"darwin has no namespaces.*sandbox=unsafe"):
            refused.start()
    with monkeypatch.context() as elsewhere:
        elsewhere.setattr(seccomp, "platform", SimpleNamespace(machine=lambda: "riscv64"))
        with Sandbox() as refused, pytest.raises(SandboxUnavailable, match="no filter of system calls"):
            refused.start()
    planted(tmp_path, monkeypatch, "kernel.py", "_libc.unshare(flags))", "-1)")
    rule = verifier("python_tests")
    with pytest.raises(SandboxUnavailable, match=r"cannot isolate: .*unshare.*user namespaces allowed"):
        Grader(rule, [FORMS["calls"]])


def planted(folder, monkeypatch, file, right, wrong):
    """Sandboxes started from now on run a copy of their inner side with a bug in it."""
    copy = folder / "policyopt" / "sandbox"
    shutil.copytree(Path(zygote.__file__).parent, copy, ignore=shutil.ignore_patterns("__pycache__"))
    source = (copy / file).read_text()
    assert source.count(right) == 1
    (copy / file).write_text(source.replace(right, wrong))
    monkeypatch.setattr(zygote, "__file__", str(copy / "zygote.py"))


# The bug, and an attempt that must notice it: the acts pay themselves, a cheat or glutton ends in another way.
BUGS = {
    "no filter": ("warden.py", "kernel.filter_calls(seccomp.program())", "pass", "system call inotify_init1"),
    "a root with more": ("root.py", '"/usr/share/zoneinfo"', '"/etc"', "/etc/passwd"),
    "a writable root": (
        "root.py",
        'kernel.mount_read_only("/", recursive=False)',
        "os.chmod('/', 0o777)",
        "write in /",
    ),
    "no memory limit": ("warden.py", '"RLIMIT_AS"', '"RLIMIT_NONE"', "8 GiB mapped"),
    "no file limit": ("warden.py", '"RLIMIT_FSIZE"', '"RLIMIT_NONE"', "a sparse file"),
    "no limit of descriptors": ("warden.py", '"RLIMIT_NOFILE"', '"RLIMIT_NONE"', "descriptors"),
    "no limit of threads": ("warden.py", '"RLIMIT_NPROC"', '"RLIMIT_NONE"', "a thousand threads"),
    "a full folder": ("root.py", "size={mebibytes}m,", "size=1g,", "fill the folder"),
    "endless files": ("root.py", "nr_inodes={files}", "nr_inodes=0", "a million files"),
    "packages": ("root.py", "for path in hidden:", "for path in []:", "installed packages"),
    "descriptors left open": ("warden.py", "os.closerange(_READY + 1, 1024)", "pass", "descriptors are closed"),
}


@pytest.mark.parametrize("bug", BUGS)
def test_a_leaking_sandbox_is_noticed(bug, sandbox, tmp_path, monkeypatch):
    file, right, wrong, name = BUGS[bug]
    closed = "import os\ndef solve(x):\n    try: os.fstat(64)\n    except OSError: raise\n    return 7 * x"
    source = escapes.ATTEMPTS[name].source if name in escapes.ATTEMPTS else closed
    limits = Limits(cpu_seconds=20, seconds=60, memory_mb=1024, files_mb=4, files=64)
    # Enough to break the limit, and not more than the machine bears.
    source = source.replace("1_000_000", "1_000").replace("range(1000): threading", "range(60): threading")
    tests = escapes.tests_of("act", 0)
    assert judge(sandbox, source, tests, limits, 0.0, every=True).passed == 0
    planted(tmp_path, monkeypatch, file, right, wrong)
    with Sandbox() as leaking:
        assert judge(leaking, source, tests, limits, 0.0, every=True).passed == 1


def test_unsafe_runs_without_isolation_and_warns_once(caplog, monkeypatch):
    monkeypatch.setattr(host, "_warned", set())
    monkeypatch.setattr(host.seccomp, "supported", lambda: False)
    with caplog.at_level(logging.WARNING, "policyopt"), Sandbox(unsafe=True) as unsafe, Sandbox(unsafe=True):
        found = unsafe.run(
            {"kind": "script", "source": "import os\nprint(os.getcwd())\nopen('x', 'w').close()"}, PATIENT
        )
        bounded = unsafe.run({"kind": "script", "source": "bytearray(1 << 33)"}, PATIENT)
        slow = unsafe.run({"kind": "script", "source": "import time; time.sleep(1000)"}, escapes.BRIEF)
        tests = unit_tests(FORMS["HumanEval"], "tests")
        assert judge(unsafe, ADD, tests, PATIENT, 0.0, every=True).passed == 1
    assert [record.message.split(":")[0] for record in caplog.records] == ["sandbox=unsafe"]
    assert (found.well, bounded.code, slow.limit) == (True, 1, "seconds")
    until = time.monotonic() + 20
    while Path(found.stdout.decode().strip()).exists() and time.monotonic() < until:
        time.sleep(0.02)
    assert not Path(found.stdout.decode().strip()).exists()


SHORT_OF = """
import sys, time
sys.path.insert(0, {folder!r})
import zygote
zygote._as_package()
from policyopt.sandbox.host import Limits, Sandbox
"""


def _script(body):
    folder = str(Path(zygote.__file__).parent)
    return SHORT_OF.format(folder=folder) + textwrap.dedent(body)


@pytest.mark.usefixtures("sandbox")
def test_no_program_outlives_a_host_that_is_killed():
    script = _script("""
        with Sandbox() as sandbox:
            sandbox.start()
            print(sandbox._process.pid, flush=True)
            sandbox.run({"kind": "script", "source": "import time; time.sleep(1000)"}, Limits(seconds=1000))
    """)
    parent = subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE)
    assert parent.stdout is not None
    with parent.stdout:
        launcher = int(parent.stdout.readline())
        time.sleep(0.3)
        assert Path(f"/proc/{launcher}").exists()
        parent.kill()
        parent.wait(20)
    until = time.monotonic() + 20
    while Path(f"/proc/{launcher}").exists() and time.monotonic() < until:
        time.sleep(0.05)
    assert not Path(f"/proc/{launcher}").exists()


@pytest.mark.skipif(os.name != "posix" or not hasattr(os, "geteuid") or os.geteuid() != 0, reason="changes the user")
@pytest.mark.usefixtures("sandbox")
def test_users_without_rights_have_the_same_sandbox():
    """With the system's Python, since root's may lie where others can not read it."""
    python = shutil.which("python3", path="/usr/bin")
    version = "import sys; sys.exit(sys.version_info < (3, 11))"
    if python is None or subprocess.run([python, "-c", version]).returncode:
        pytest.skip("no /usr/bin/python3 of version 3.11 or newer")
    body = """
        with Sandbox() as sandbox:
            outcome = sandbox.run({"kind": "script", "source": SOURCE}, Limits(cpu_seconds=20, seconds=120))
            print(outcome.stdout.decode(), outcome.stderr.decode())
    """
    source = "import os\nprint(os.getpid(), os.getuid(), os.listdir('/tmp'), os.path.exists('/etc'))\nos.fork()"
    ours = Path(zygote.__file__).parent
    # pytest's own temporary folders are closed to other users.
    with tempfile.TemporaryDirectory() as place:
        Path(place).chmod(0o755)
        shutil.copytree(ours, f"{place}/sandbox", ignore=shutil.ignore_patterns("__pycache__"))
        script = _script(body).replace(str(ours), f"{place}/sandbox").replace("SOURCE", repr(source))
        other = {"user": 12345, "group": 12345, "extra_groups": []}
        done = subprocess.run([python, "-B", "-c", script], capture_output=True, text=True, cwd="/", **other)
    assert done.stdout.startswith("1 1000 [] False"), done.stderr
    assert "PermissionError" in done.stdout
