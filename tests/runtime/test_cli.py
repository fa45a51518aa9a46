"""The command line as a user meets it: help, listings, stopping and going on; and that Python does the same."""

import ast
import importlib
import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import tiny
import torch
import yaml
from resume_cases import CHOICES, WORLD

import policyopt
from policyopt.evaluation.conformance import SHIPPED
from policyopt.methods import keys, load
from policyopt.policies.checkpoint import load_language
from policyopt.policies.tabular import Table
from policyopt.policies.tokenizer import load_tokenizer
from policyopt.recipe.build import build
from policyopt.recipe.schema import RecipeError, load_recipe
from policyopt.recipe.training import Training
from policyopt.worlds.prompts import token_world
from policyopt.worlds.sources import jsonl_entries

ROOT = Path(__file__).parents[2]
PATHS = os.pathsep.join([str(Path(__file__).parent), *filter(None, [os.environ.get("PYTHONPATH")])])
ENVIRONMENT = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": PATHS, "COLUMNS": "100"}


def process(*arguments, **options):
    """`policyopt ARGUMENTS` in a process of its own, which like a console script does not import from its folder."""
    code = "from policyopt.cli import main; main()"
    return subprocess.Popen(
        [sys.executable, "-P", "-c", code, *map(str, arguments)],
        env=ENVIRONMENT,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        **options,
    )


# -- help and listings -----------------------------------------------------------------------------------------------
HEAVY = ("torch", "transformers", "datasets", "reasoning_gym", "matplotlib", "scipy")


@pytest.mark.parametrize("arguments", [["--help"], ["train", "--help"], ["methods", "--help"]])
def test_help_needs_no_heavy_import(arguments):
    code = (
        "import sys\nsys.argv = ['policyopt', *sys.argv[1:]]\nfrom policyopt.cli import main\n"
        f"try:\n    main()\nexcept SystemExit:\n    print([m for m in {HEAVY!r} if m in sys.modules])"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, *arguments], env=ENVIRONMENT, capture_output=True, text=True, check=True
    )
    assert done.stdout.splitlines()[-1] == "[]"
    assert "Usage: policyopt" in done.stdout


def test_every_command_says_what_it_does(command):
    shown = command("--help")
    assert shown.code == 0
    for name in ("train", "resume", "eval", "verify", "conformance", "methods"):
        assert name in shown.out
        mine = command(name, "--help")
        assert mine.code == 0
        assert f"Usage: policyopt {name}" in mine.out


def test_no_arguments_show_the_help(command):
    assert "Usage: policyopt" in "".join(str(part) for part in (command().out, command().err))


def test_methods_are_listed(command):
    found = json.loads(command("methods", "list", "--json").out)
    assert {method["key"] for method in found} == set(keys())
    for method in found:
        assert set(method) >= {"key", "title", "seed", "axes", "policies", "conformance", "verdict"}
        assert method["verdict"] in ("shown", "not shown", "contradicted", "unverified")
    table = command("methods", "list").out
    assert all(key in table for key in keys())
    # In a pipe nothing is cut down to a few letters.
    assert "Group Sequence Policy Opt" in table


def test_the_versions_are_told(command):
    called = command("--version")
    assert called.code == 0
    assert called.out.startswith(f"policyopt {policyopt.__version__}, torch ")


@pytest.mark.parametrize("key", keys())
def test_every_option_that_show_prints_can_be_set(key, command):
    shown = command("methods", "show", key)
    assert shown.code == 0
    assert shown.out.startswith(f"{key}: ")
    listed = shown.out.partition("Options (change them as KEY=VALUE):")[2].split("\n  ")[1:]
    assert len(listed) > 5
    method = load(key)
    for line in listed:
        option, _, value = line.strip().partition(" = ")
        try:
            known = ast.literal_eval(value)
        except (ValueError, SyntaxError):
            continue  # a part, or words
        if isinstance(known, bool | int | float | str) or known is None:
            assert policyopt.override(method, {option: value.strip("'")}) == method


def test_methods_are_compared(command):
    shown = command("methods", "diff", "grpo", "dapo")
    assert shown.code == 0
    assert "grpo" in shown.out
    assert "dapo" in shown.out
    assert "objective" in shown.out
    assert "same composition" in command("methods", "diff", "grpo", "grpo").out


def test_conformance_lists_parts_and_passes_our_vectors(command):
    parts = json.loads(command("conformance", "--list", "--json").out)
    assert {"objective", "credit"} <= {part["axis"] for part in parts}
    checked = command("conformance")
    assert checked.code == 0
    assert "FAIL" not in checked.out
    assert "cases pass" in checked.out


def test_a_failing_vector_exits_1(command, tmp_path):
    held = json.loads(sorted(SHIPPED.glob("*.json"))[0].read_text())
    case = next(case for case in held["cases"] if "advantages" in case["expect"] or "loss" in case["expect"])
    name = "loss" if "loss" in case["expect"] else "advantages"
    case["expect"][name] = 12345.0 if name == "loss" else [[12345.0]]
    (tmp_path / "v.json").write_text(json.dumps({"version": 1, "cases": [case]}))
    assert command("conformance", tmp_path / "v.json").code == 1


# -- the demonstration's recipe ----------------------------------------------------------------------------------------
DEMO = [
    "policy.new.hidden_size=16", "policy.new.layers=1", "policy.new.heads=2", "policy.new.intermediate_size=32",
    "tasks.size=300", "stages.0.steps=2", "stages.1.steps=2", "stages.0.selection.count=4", "selection.count=3",
    "sampling.size=3", "evaluation.tasks=12", "evaluation.samples=8", "policy.device=cpu",
]  # fmt: skip


@pytest.mark.parametrize("name", ["demo", "countdown", "beyond_demonstrations"])
def test_our_recipes_build_and_train(name, command, tmp_path):
    called = command("train", ROOT / "recipes" / f"{name}.yaml", *DEMO, "--folder", tmp_path / "run")
    assert called.code == 0, called.err
    assert "greedy accuracy" in called.out
    assert "pass@8" in called.out


def test_eval_with_a_recipe_counts_the_runs_own_tasks(command, tmp_path):
    demo = ROOT / "recipes" / "demo.yaml"
    assert command("train", demo, *DEMO, f"folder={tmp_path / 'run'}").code == 0
    kept = json.loads((tmp_path / "run" / "summary.json").read_text())["after"]
    options = ("--task", demo, "--tasks", 12, "--samples", 8)
    again = command("eval", tmp_path / "run" / "model", *options, "--json")
    assert json.loads(again.out) == kept
    table = command("eval", tmp_path / "run" / "model", *options)
    assert "12 held-out tasks, 8 samples a task" in table.out
    by_name = command(
        "eval", tmp_path / "run" / "model", "--task", "spell_backward", "--prompt", "{word} =", "--limit", 5,
        "--tasks", 5, "--samples", 8,
    )  # fmt: skip
    assert by_name.code == 0, by_name.err


def test_eval_measures_what_a_run_of_the_recipe_held_out(made, tmp_path, command):
    """Of a file, all other tasks are trained on: the default is the recipe's number, and more of them are told."""
    trained = command("train", made, "steps=1")
    assert trained.code == 0
    assert re.search(r"^  0\.\d+  What is", trained.out, re.MULTILINE), "between wrong and right, the score is shown"
    kept = json.loads((tmp_path / "run" / "summary.json").read_text())["after"]
    model = tmp_path / "run" / "model"
    again = command("eval", model, "--task", made, "--json")
    assert again.code == 0, again.err
    assert json.loads(again.out) == kept
    assert "hold out" not in again.err
    more = command("eval", model, "--task", made, "--tasks", 12)
    assert "12 held-out tasks" in more.out
    assert "runs of this recipe hold out 4 tasks and may train on the others" in more.out
    more = command("eval", model, "--task", made, "--tasks", 12, "--json")
    assert json.loads(more.out)["tasks"] == 12
    assert "may train on the others" in more.err


# -- Python does what the command line does --------------------------------------------------------------------------
def files(run):
    """What must be equal between runs: everything but clocks and event files."""
    summary = json.loads((run / "summary.json").read_text())
    del summary["seconds"]
    names = ("metrics.jsonl", "samples.jsonl", "objective.txt", "model/config.json", "model/model.safetensors")
    return {"summary": summary, **{name: (run / name).read_bytes() for name in names}}


@pytest.fixture
def made(tmp_path):
    tasks = {"jsonl": str(tiny.jsonl(tmp_path / "tasks.jsonl", tiny.sums())), "verifier": "rules:length"}
    policy = {"model": str(tiny.folder(tmp_path / "given"))}
    return tiny.recipe(tmp_path / "r.yaml", policy, tasks, seed=0)


def test_train_in_python_leaves_the_same_folder(made, tmp_path, command):
    assert command("train", made, "seed=5", f"folder={tmp_path / 'shell'}").code == 0
    found = list(policyopt.train(made, ["seed=5", f"folder={tmp_path / 'python'}"]))
    assert files(tmp_path / "python") == files(tmp_path / "shell")
    kept = tiny.lines(tmp_path / "python" / "metrics.jsonl")
    assert [{**line, "step": step, "stage": 0} for step, line in enumerate(found)] == kept
    same = list(policyopt.train(load_recipe(made, ["seed=5", f"folder={tmp_path / 'recipe'}"])))
    assert same == found
    with pytest.raises(RecipeError, match="a Recipe object is final"):
        next(policyopt.train(load_recipe(made), ["seed=1"]))


def test_a_mapping_takes_changes_too(made):
    data = yaml.safe_load(made.read_text())
    kept = json.dumps(data)
    assert len(list(policyopt.train(data, ["steps=1", "evaluation=null"]))) == 1
    assert json.dumps(data) == kept


def test_a_method_trains_a_table_in_memory():
    policy = Table(torch.zeros(WORLD.states, CHOICES))
    method = policyopt.override(load("rloo"), {"selection.count": 3, "update.learning_rate": 0.1})
    found = list(policyopt.train(method, policy=policy, world=WORLD, steps=3, seed=1))
    assert len(found) == 3
    assert all(line["gradient_norm/policy"] > 0 for line in found)
    with pytest.raises(RecipeError, match=r"policy=.* and world="):
        next(policyopt.train(method, steps=3))
    with pytest.raises(RecipeError, match="steps="):
        next(policyopt.train(method, policy=policy, world=WORLD))


def test_a_method_trains_a_language_policy_in_memory(made, tmp_path):
    with build(load_recipe(made)) as built:
        straight = list(policyopt.train(made))
        world, policy = built.run.worlds["world"], built.policy
        method = policyopt.override(load("grpo"), tiny.FAST["grpo"])
        found = list(policyopt.train(method, policy=policy, world=world, steps=2, seed=0))
    assert found == straight


def test_a_world_of_ones_own_judge(tmp_path):
    given = tiny.folder(tmp_path / "given")
    words = load_tokenizer(given)
    entries = jsonl_entries(tiny.jsonl(tmp_path / "t.jsonl", tiny.sums()))
    world = token_world(entries, words, 5, lambda texts, ids: [len(text) % 2 for text in texts])
    method = policyopt.override(load("rloo"), tiny.FAST["rloo"])
    found = list(policyopt.train(method, policy=load_language(given), world=world, steps=2))
    assert all(0 <= line["reward"] <= 1 for line in found)


def test_a_program_of_two_stages_in_memory(made):
    with build(load_recipe(made)) as built:
        method = policyopt.override(load("rloo"), tiny.FAST["rloo"])
        program = policyopt.Program((policyopt.Stage(method, 1), policyopt.Stage(method, 2)))
        assert len(list(policyopt.train(program, policy=built.policy, world=built.run.worlds["world"]))) == 3


def test_public_names():
    for name in policyopt.__all__:
        assert getattr(policyopt, name) is not None
    for axis in ("selection", "sampling", "reward", "feedback", "credit", "objective", "constraint", "update"):
        importlib.import_module(f"policyopt.{axis}")
    for key in keys():
        assert getattr(importlib.import_module(f"policyopt.methods.{key}"), key) == load(key)


# -- stopping and going on ---------------------------------------------------------------------------------------------
@pytest.fixture
def staged(tmp_path):
    """A language recipe of two stages, long enough to be stopped within either."""
    records = [{**r, "demonstration": f" {r['answer']}"} for r in tiny.sums()]
    tasks = {"jsonl": str(tiny.jsonl(tmp_path / "tasks.jsonl", records)), "verifier": "rules:length"}
    policy = {"model": str(tiny.folder(tmp_path / "given"))}
    stages = [tiny.stage("sft", 4), tiny.stage("grpo", 5)]
    return tiny.recipe(tmp_path / "r.yaml", policy, tasks, stages=stages, checkpoint_every=3)


def wait_for(path, count, running):
    """Until a journal has `count` lines."""
    end = time.monotonic() + 90
    while time.monotonic() < end and running.poll() is None:
        if path.exists() and path.read_bytes().count(b"\n") >= count:
            return
        time.sleep(0.005)
    raise AssertionError(f"{path} did not get {count} lines: {running.communicate()[0]}")


def test_ctrl_c_finishes_the_round_and_the_run_goes_on_bit_for_bit(made, tmp_path, command):
    steps = 60
    straight = command("train", made, f"steps={steps}", f"folder={tmp_path / 'straight'}")
    assert straight.code == 0, straight.err
    run = tmp_path / "run"
    running = process("train", made, f"steps={steps}")
    wait_for(run / "metrics.jsonl", 3, running)
    running.send_signal(signal.SIGINT)
    out = running.communicate(timeout=60)[0]
    assert running.returncode == 130, out
    assert f"policyopt resume {run}" in out
    assert "Traceback" not in out
    done = tiny.lines(run / "metrics.jsonl")
    assert 3 <= len(done) < steps
    assert (run / "checkpoints" / f"round-{len(done):08d}.ckpt").is_file()
    assert not (run / "summary.json").exists()
    again = command("resume", run)
    assert again.code == 0, again.err
    assert files(run) == files(tmp_path / "straight")


# Imports once; every run trains in a process forked from that, before it has any thread, and kills itself there.
KILLER = """
import os, signal, sys
import policyopt.policies.checkpoint, transformers.models.llama.modeling_llama
from policyopt.recipe.training import Training
from policyopt.recipe.schema import load_recipe

def train(recipe, rounds):
    with Training.start(load_recipe(recipe)) as training:
        for done, _ in enumerate(training.rounds(), start=1):
            if done == rounds:
                os.kill(os.getpid(), signal.SIGKILL)

for recipe, rounds in zip(sys.argv[1::2], sys.argv[2::2], strict=True):
    if os.fork() == 0:
        train(recipe, int(rounds))
        os._exit(1)
ends = [os.waitstatus_to_exitcode(os.wait()[1]) for _ in sys.argv[1::2]]
sys.exit(0 if ends == [-signal.SIGKILL] * len(ends) else f"ended with {ends}")
"""


def test_kill_9_in_either_stage_and_between_goes_on_bit_for_bit(staged, tmp_path, command):
    straight = command("train", staged, f"folder={tmp_path / 'straight'}")
    assert straight.code == 0, straight.err
    expected = files(tmp_path / "straight")
    assert [line["stage"] for line in tiny.lines(tmp_path / "straight" / "metrics.jsonl")] == [0] * 4 + [1] * 5
    asked = []
    for rounds in (2, 4, 7):
        data = staged.read_text().replace(str(tmp_path / "run"), str(tmp_path / f"killed-{rounds}"))
        (tmp_path / f"k{rounds}.yaml").write_text(data)
        asked += [tmp_path / f"k{rounds}.yaml", str(rounds)]
    subprocess.run([sys.executable, "-c", KILLER, *asked], env=ENVIRONMENT, timeout=600, check=True)
    for rounds in (2, 4, 7):
        run = tmp_path / f"killed-{rounds}"
        again = command("resume", run)
        assert again.code == 0, again.err
        assert files(run) == expected


@pytest.mark.parametrize("method", ["ppo", "dpo:dpo_online"])
@pytest.mark.parametrize("lora", [None, {"rank": 2, "alpha": 4}], ids=["full", "lora"])
def test_a_stopped_run_goes_on_with_adapters_critics_and_references(method, lora, tmp_path, command):
    tasks = {"jsonl": str(tiny.jsonl(tmp_path / "tasks.jsonl", tiny.sums())), "verifier": "rules:length"}
    policy = {"model": str(tiny.folder(tmp_path / "given")), **({"lora": lora} if lora else {})}
    stages = [tiny.stage(method, 5)]
    changes = {"stages": stages, "checkpoint_every": 2, "evaluation": {"tasks": 2, "samples": 8}}
    made = tiny.recipe(tmp_path / "r.yaml", policy, tasks, **changes)
    straight = command("train", made, f"folder={tmp_path / 'straight'}")
    assert straight.code == 0, straight.err
    with Training.start(load_recipe(made)) as training:
        for _ in zip(range(3), training.rounds(), strict=False):
            pass  # left in the middle: round 3 is recorded, but in no checkpoint
    again = command("resume", tmp_path / "run")
    assert again.code == 0, again.err
    assert "resumed at round 2 of 5" in again.out
    assert files(tmp_path / "run") == files(tmp_path / "straight")


def test_a_verifier_beside_the_user_is_found(made, tmp_path):
    (tmp_path / "mine.py").write_text("def score(text, entry):\n    return len(text) % 2\n")
    running = process("train", made, "tasks.verifier=mine:score", "steps=1", "evaluation=null", cwd=tmp_path)
    out = running.communicate(timeout=120)[0]
    assert running.returncode == 0, out
    assert tiny.lines(tmp_path / "run" / "metrics.jsonl")[0]["unscored"] == 0


def test_a_second_ctrl_c_stops_at_once_and_says_how_to_go_on(made, tmp_path, command, monkeypatch):
    before = signal.signal(signal.SIGINT, signal.default_int_handler)  # background jobs inherit SIG_IGN
    monkeypatch.setattr(Training, "finish", lambda self: signal.raise_signal(signal.SIGINT))
    stopped = command("train", made)
    signal.signal(signal.SIGINT, before)
    assert stopped.code == 130
    assert f"policyopt resume {tmp_path / 'run'}" in stopped.out
    monkeypatch.undo()
    with Training.resume(tmp_path / "run") as training:
        assert list(training.rounds()) == []
        training.finish()
    assert (tmp_path / "run" / "summary.json").is_file()
