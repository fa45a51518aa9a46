"""What is wrong with a command, a recipe, data or a model: the rule, the value seen, the remedy, exit code 2, no
traceback, nothing half-made. And what goes wrong in the middle of a run."""

import errno
import json
import shutil

import pytest
import safetensors
import tiny
import torch
import yaml
from safetensors.torch import load_file, save_file
from transformers import AutoTokenizer

from policyopt.compose import AXES
from policyopt.methods import load
from policyopt.options import override
from policyopt.plain import from_yaml
from policyopt.policies.checkpoint import save_language
from policyopt.policies.tokenizer import character_tokenizer
from policyopt.recipe.base import StageSection
from policyopt.recipe.base import _sections as inner_sections
from policyopt.recipe.control.sections import ControlRecipe
from policyopt.recipe.elsewhere import NAMES
from policyopt.recipe.language import kind
from policyopt.recipe.language.sections import LanguageRecipe
from policyopt.recipe.schema import make_recipe
from policyopt.runtime import atomic
from policyopt.worlds.tokens import TokenWorld


@pytest.fixture(scope="module")
def given(tmp_path_factory):
    return str(tiny.folder(tmp_path_factory.mktemp("models") / "policy"))


@pytest.fixture
def made(given, tmp_path):
    """A recipe that works."""
    tasks = {"jsonl": str(tiny.jsonl(tmp_path / "tasks.jsonl", tiny.sums())), "verifier": "rules:length"}
    return tiny.recipe(tmp_path / "r.yaml", {"model": given}, tasks)


def refused(called, tmp_path, *words):
    """Exit code 2, one message that holds the words, no traceback, no run folder."""
    assert called.code == 2, (called.out, called.err)
    assert called.err.startswith("error: ")
    assert "Traceback" not in called.out + called.err
    for word in words:
        assert word in called.err, (word, called.err)
    assert not [path for path in tmp_path.iterdir() if path.name.startswith("run")]


CHANGES = {
    "unknown key": ("tasks.limmit=3", "unknown key 'tasks.limmit'", "did you mean 'limit'"),
    "unknown section": ("evaluaton.tasks=3", "unknown key 'evaluaton'", "did you mean 'evaluation'"),
    "a name of another library": (
        "learning_rate=1",
        "unknown key 'learning_rate'",
        "did you mean 'update.learning_rate'",
    ),
    "a short name": ("lr=1", "unknown key 'lr'", "did you mean 'update.learning_rate'"),
    "no list": ("trackers=wandb", "trackers takes a list, such as [wandb]", "got 'wandb'"),
    "no section": ("policy.lora=true", "policy.lora is a section with the keys ['rank'", "got True"),
    "a number that YAML calls a text": ("steps=15e-1", "stages.0.steps", "integer", "1.0e+9", "'15e-1'"),
    "no stage": ("stages=[]", "stages needs at least 1 item and has 0", "add", "got []"),
    "a number below its bound": ("tasks.size=0", "tasks.size must be at least 1", "got 0"),
    "one of several": ("invariants.policy=halt", "invariants.policy is one of 'stop' or 'warn'", "got 'halt'"),
    "a missing key": ("stages=[{steps: 1}]", "stages.0.method is missing", "needs it", "['steps']"),
    "wrong type": ("tasks.limit=many", "tasks.limit", "integer", "'many'"),
    "out of range": ("steps=-1", "stages.0.steps", "-1"),
    "not a section": ("seed.x=3", "seed is not a section"),
    "no such stage": ("stages.3.steps=1", "the recipe has 1 stages"),
    "not key=value": ("limit", "changes are written key=value", "'limit'"),
    "not YAML": ("name=[", "name=[", "not valid YAML"),
    "a list for a text": ("name=[1]", "name"),
    "stages that are none": ("stages=grpo", "stages", "'grpo'"),
    "no effect": ("objective.beta=0.1", "'objective.beta' has no effect for method 'grpo'"),
    "no option of that axis": ("method=sft", "'sampling.size' has no effect for method 'sft'", "no options; remove"),
    "nearest option": ("objective.clip_hihg=0.1", "Did you mean 'objective.clip_high'"),
    "option of the wrong type": ("objective.clip_high=wide", "clip_high", "'wide'", "number"),
    "option out of range": ("sampling.size=0", "size", "0"),
    "negative learning rate": ("update.learning_rate=-1", "learning_rate", "at least 0", "-1"),
    "infinite learning rate": ("update.learning_rate=.inf", "learning_rate", "finite", "inf"),
    "moments that never forget": ("update.betas=[0.9, 1.0]", "betas[1]", "below 1", "1.0"),
    "no number": ("constraint.kl.weight=.nan", "constraint.kl.weight", "must be a number", "nan"),
    "unknown method": ("method=grop", "no method 'grop'", "did you mean 'grpo'"),
    "no method file": ("method=mine.py", "no method file 'mine.py'"),
    "unknown variant": ("method=dpo:dpo_offline", "no Method named 'dpo_offline'"),
    "no pairs": ("stages=[{method: dpo, steps: 1}]", "learns from preference pairs", "chosen"),
    "no demonstrations": ("stages=[{method: sft, steps: 1}]", "imitates recorded answers", "demonstration"),
    "no teacher": ("method=opd", "teacher", "models.teacher"),
    "a model without effect": ("models.teacher=x", "models ['teacher'] have no effect", "remove"),
    "missing model folder": ("policy.model=nowhere", "no model folder 'nowhere'", "config.json"),
    "hub name": ("policy.model=hub:nobody", "hub:owner/name"),
    "two policies": ("policy={model: x, new: {}}", "exactly one of policy.model"),
    "missing tasks": ("tasks.jsonl=nowhere.jsonl", "'nowhere.jsonl' does not exist"),
    "two sources": ("tasks.folder=x", "exactly one of tasks.reasoning_gym"),
    "source option without effect": ("tasks.prompt='{question}'", "tasks.prompt", "no effect with tasks.jsonl"),
    "unknown verifier": ("tasks.verifier=exat", "unknown verifier 'exat'", "did you mean 'exact'"),
    "verifier that is not there": ("tasks.verifier=rules:none", "rules:none", "cannot be imported"),
    "no verifier": ("tasks.verifier=null", "needs rewards", "tasks.verifier"),
    "large evaluation": ("evaluation.tasks=24", "evaluation.tasks=24", "24 different", "evaluation=null"),
    "few samples": ("evaluation.samples=4", "at least 8", "4"),
    "no such GPU": ("policy.device=cuda:7", "policy.device='cuda:7'", "auto or cpu"),
    "no device": ("policy.device=gpu", "policy.device='gpu'", "auto or cpu"),
    "no engine": ("policy.engine=vlm", "engine is one of", "'vlm'"),
    "no dtype": ("policy.dtype=float16", "policy.dtype", "'float16'"),
    "long prompts": ("tasks.limit=90", "96 positions", "lower the limit", "longest begins 'What is"),
    "no module for adapters": ("policy.lora.target_modules=[qq_proj]", "target_modules", "qq_proj"),
    "name of a folder": ("name=a/b", "name", "'a/b'"),
}


@pytest.mark.parametrize("case", CHANGES)
def test_a_wrong_change_is_refused_before_anything_is_made(case, made, tmp_path, command):
    if case == "no such GPU" and torch.cuda.device_count() > 7:
        pytest.skip("this machine has eight GPUs")
    change, *words = CHANGES[case]
    refused(command("train", made, change), tmp_path, *words)


def test_one_mistake_is_told_once(made, tmp_path, command):
    called = command("train", made, "steps=1e-9")
    refused(called, tmp_path, "stages.0.steps")
    assert "at least 1 item" not in called.err


PLAUSIBLE = {"update.schedule": "cosine"}
SHOWS = {  # a method that has the option, if grpo does not
    "credit.gamma": "ppo",
    "credit.lam": "ppo",
    "objective.value.weight": "ppo",
    "sampling.horizon": "sac",
    "sampling.count": "sac",
}


@pytest.mark.parametrize("name", sorted(set(NAMES.values())))
def test_names_of_other_libraries_lead_to_what_exists(name):
    if name.partition(".")[0] in AXES:
        assert override(load(SHOWS.get(name, "grpo")), {name: PLAUSIBLE.get(name, 1)})
        return
    if name in ("method", "steps"):
        assert name in StageSection.model_fields
        return
    sections = [LanguageRecipe, ControlRecipe]
    assert any(exists(kind, name.split(".")) for kind in sections)


def exists(section, names):
    """Whether a recipe has a field at a path."""
    field = section.model_fields.get(names[0])
    if field is None or len(names) == 1:
        return field is not None
    return any(exists(inner, names[1:]) for inner in inner_sections(field.annotation))


def test_on_is_a_key_and_other_words_stay_what_they_are():
    """`runtime: {on: ray}`, as the page about clusters writes it."""
    assert from_yaml("{on: ray, no: 1, 'yes': 2, 3: x, a: on}") == {"on": "ray", "no": 1, "yes": 2, 3: "x", "a": True}
    text = "name: x\npolicy: {model: m}\ntasks: {jsonl: t}\nstages: [{method: grpo, steps: 1}]\nruntime: {on: ray}"
    assert make_recipe(from_yaml(text)).runtime.on == "ray"


def test_recipes_that_are_no_recipes(tmp_path, command):
    cases = {
        "missing.yaml": (None, "no recipe"),
        "list.yaml": (b"- 1\n", "must be a mapping"),
        "empty.yaml": (b"", "must be a mapping"),
        "broken.yaml": (b"name: [\n", "not valid YAML"),
        "twice.yaml": (b"name: x\nseed: 1\nname: y\n", "the key 'name' stands twice"),
        "twice_inside.yaml": (b"name: x\npolicy: {model: a, model: b}\n", "the key 'model' stands twice"),
        "binary.yaml": (b"\xff\xfe\x00name", "UTF-8"),
        "few.yaml": (b"name: x\n", "policy"),
    }
    for name, (content, word) in cases.items():
        if content is not None:
            (tmp_path / name).write_bytes(content)
        refused(command("train", tmp_path / name), tmp_path, name if name != "few.yaml" else "tasks", word)


def test_changes_of_a_recipe_whose_stages_are_wrong(made, tmp_path, command):
    for stages in ("grpo", {"method": "grpo"}, ["grpo"], [{"method": "grpo", "steps": 1, "options": None}], []):
        data = {**yaml.safe_load(made.read_text()), "stages": stages}
        made.write_text(yaml.safe_dump(data))
        called = command("train", made, "objective.clip_hihg=0.3")
        refused(
            called, tmp_path, "clip_hihg" if isinstance(stages, list) and stages and "grpo" not in stages else "stages"
        )


def test_options_of_verifiers_are_checked(made, tmp_path, command):
    for change, word in (
        ("tasks.verifier_options={relative: 1}", "no option 'relative'"),
        ("tasks.verifier_options={relative_tolerance: wide}", "wide"),
    ):
        refused(command("train", made, "tasks.verifier=numeric", change), tmp_path, word)


# -- data ----------------------------------------------------------------------------------------------------------
BROKEN = {
    "not JSON": (b'{"prompt": "a", "answer": "b"}\n{"prompt": "a", \n', "tasks.jsonl, line 2", "not valid JSON"),
    "not an object": (b"3\n", "line 1", "object"),
    "no answer": (b'{"prompt": "a"}\n', "line 1", "'answer'"),
    "another prompt": (b'{"question": "a", "answer": "b"}\n', "line 1", "tasks.columns={prompt: question}"),
    "another answer": (b'{"prompt": "a", "solution": "b"}\n', "line 1", "tasks.columns={answer: solution}"),
    "a list of objects": (b'[{"prompt": "a",\n "answer": "b"}]', "line 1", "one JSON object in every line"),
    "a number for an answer": (b'{"prompt": "a", "answer": 3}\n', "line 1", "'answer' must be a string"),
    "not UTF-8": (b'{"prompt": "\xff", "answer": "b"}\n', "line 1", "UTF-8"),
    "empty": (b"", "holds no tasks"),
    "blank": (b"\n\n", "holds no tasks"),
}


@pytest.mark.parametrize("case", BROKEN)
def test_broken_task_files_name_file_and_line(case, made, tmp_path, command):
    content, *words = BROKEN[case]
    (tmp_path / "tasks.jsonl").write_bytes(content)
    refused(command("train", made), tmp_path, "tasks.jsonl", *words)


def test_pairs_for_a_method_without_pairs_everywhere(made, tmp_path, command):
    tiny.jsonl(tmp_path / "tasks.jsonl", [*tiny.preferences(8), *tiny.sums(8)])
    called = command("train", made, "stages=[{method: dpo, steps: 1}]")
    refused(called, tmp_path, "either every entry has a preference pair", " have")


# -- models --------------------------------------------------------------------------------------------------------
def test_folders_that_are_no_models(made, tmp_path, command):
    broken = tiny.folder(tmp_path / "broken")
    weights = load_file(broken / "model.safetensors")
    del weights["model.layers.1.mlp.up_proj.weight"]
    save_file(weights, broken / "model.safetensors", {"format": "pt"})
    refused(command("train", made, f"policy.model={broken}"), tmp_path, "lacks 1 of its weights", "up_proj")
    (broken / "model.safetensors").write_bytes(b"nothing")
    refused(command("train", made, f"policy.model={broken}"), tmp_path, "broken", "can not be opened")
    (broken / "model.safetensors").unlink()
    refused(command("train", made, f"policy.model={broken}"), tmp_path, "broken", "can not be opened")
    (broken / "config.json").write_text("{}")
    refused(command("train", made, f"policy.model={broken}"), tmp_path, "broken", "can not be opened")
    (broken / "tokenizer.json").unlink()
    refused(command("train", made, f"policy.model={broken}"), tmp_path, "has no tokenizer")


@pytest.mark.parametrize("same_size", [False, True])
def test_a_teacher_with_another_vocabulary(same_size, made, tmp_path, command):
    words = tiny.tokenizer("llama")
    if same_size:
        words = AutoTokenizer.from_pretrained(tiny.folder(tmp_path / "words"))
        state = json.loads(words.backend_tokenizer.to_str())
        names = list(state["model"]["vocab"])
        state["model"]["vocab"] = dict(
            zip(names, [*range(len(names) - 2), len(names) - 1, len(names) - 2], strict=True)
        )
        words = type(words)(
            tokenizer_object=words.backend_tokenizer.from_str(json.dumps(state)), eos_token="<|im_end|>"
        )
    else:
        words = character_tokenizer("abc")
    tiny.model("llama", len(words)).save_pretrained(tmp_path / "teacher")
    words.save_pretrained(tmp_path / "teacher")
    called = command("train", made, "method=opd", "stages.0.options={}", f"models.teacher={tmp_path / 'teacher'}")
    refused(called, tmp_path, "models.teacher", "share one tokenizer")


def test_characters_outside_the_alphabet(made, tmp_path, command):
    data = yaml.safe_load(made.read_text())
    made.write_text(yaml.safe_dump({**data, "policy": {"new": {"alphabet": "abc", "layers": 1, "hidden_size": 8}}}))
    refused(command("train", made), tmp_path, "alphabet", "add them")


def test_new_models_that_can_not_be_made(made, tmp_path, command):
    data = yaml.safe_load(made.read_text())
    for new, word in (({"model_type": "lama"}, "llama"), ({"hidden_size": 10, "heads": 3}, "heads")):
        made.write_text(yaml.safe_dump({**data, "policy": {"new": {"layers": 1, **new}}}))
        refused(command("train", made), tmp_path, word)


# -- other commands ------------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("arguments", "word"),
    [
        (("resume", "nowhere"), "nowhere is no run"),
        (("eval", "nowhere", "--task", "spell_backward"), "no model folder 'nowhere'"),
        (("methods", "show", "grop"), "did you mean 'grpo'"),
        (("methods", "diff", "grpo", "dapoo"), "did you mean 'dapo'"),
        (("conformance", "nowhere.json"), "nowhere.json"),
        (("verify", "grop"), "did you mean 'grpo'"),
        (("reward", "nowhere", "--pairs", "x.jsonl"), "there is no folder 'nowhere'"),
    ],
)
def test_other_commands_refuse_alike(arguments, word, tmp_path, command):
    refused(command(*arguments), tmp_path, word)


@pytest.mark.parametrize(
    "error", [MemoryError(), torch.OutOfMemoryError("CUDA"), RuntimeError("can't allocate memory: you tried")]
)
def test_a_lack_of_memory_says_what_to_make_smaller(error, made, tmp_path, command, monkeypatch):
    def grade(self, batch):
        raise error

    monkeypatch.setattr(TokenWorld, "grade", grade)
    called = command("train", made, "evaluation=null")
    assert called.code == 2, called.out
    for word in ("not enough memory", "update.micro_rows", "tasks.limit", "Nothing before round 0 is lost"):
        assert word in called.err


@pytest.mark.parametrize(
    ("template", "word"),
    [
        ("{{ raise_exception('roles must alternate') }}", "roles must alternate"),
        ("{% for m in messages %}{{ m.content", "unexpected end of template"),
        ("{% for i in range(1000000000) %}x{% endfor %}", "Range too big"),
        ("{{ messages[0].name.first }}", "has no attribute 'name'"),
        ("{{ 1 / 0 }}", "division by zero"),
    ],
)
def test_a_chat_template_that_refuses_or_is_broken_is_named(template, word, given, made, tmp_path, command):
    words = AutoTokenizer.from_pretrained(given)
    words.chat_template = template
    model = tmp_path / "model"
    shutil.copytree(given, model)
    words.save_pretrained(model)
    tiny.jsonl(tmp_path / "tasks.jsonl", tiny.chats())
    called = command("train", made, f"policy.model={model}")
    refused(called, tmp_path, "chat template can not write a conversation with the roles ['user']", word)


def test_columns_name_texts_that_the_data_calls_otherwise(made, tmp_path, command):
    records = [{"question": one["prompt"], "solution": one["answer"], "prompt": "no"} for one in tiny.sums()]
    tiny.jsonl(tmp_path / "tasks.jsonl", records)
    columns = "tasks.columns={prompt: question, answer: solution}"
    called = command("train", made, columns, "tasks.verifier=exact", "steps=1", "evaluation=null")
    assert called.code == 0, called.err
    shown = tiny.lines(tmp_path / "run" / "samples.jsonl")
    assert {line["prompt"] for line in shown} <= {one["prompt"] for one in tiny.sums()}
    called = command("train", made, "tasks.columns={prompt: quest}")
    assert called.code == 2
    assert "'prompt' is the field 'quest'; got fields ['prompt', 'question', 'solution']" in called.err


def test_eval_names_what_is_wrong(made, given, tmp_path, command):
    refused(command("eval", given, "--task", "spell_bakward"), tmp_path, "did you mean 'spell_backward'")
    refused(command("eval", given, "--task", "nowhere.yaml"), tmp_path, "no recipe 'nowhere.yaml'")
    saved = tmp_path / "a run" / "model"
    saved.mkdir(parents=True)
    (saved / "config.json").touch()
    refused(command("eval", saved.parent, "--task", "spell_backward"), tmp_path, "its model is", str(saved))
    data = yaml.safe_load(made.read_text())
    del data["tasks"]["verifier"]
    made.write_text(yaml.safe_dump(data))
    refused(command("eval", given, "--task", made), tmp_path, "needs a verifier")


# -- run folders -----------------------------------------------------------------------------------------------------
def test_an_existing_run_is_never_overwritten(made, tmp_path, command):
    assert command("train", made).code == 0
    first = {path: path.read_bytes() for path in (tmp_path / "run").rglob("*") if path.is_file()}
    called = command("train", made, "seed=2")
    assert called.code == 0
    assert f"{tmp_path / 'run-2'}" in called.out
    assert {path: path.read_bytes() for path in (tmp_path / "run").rglob("*") if path.is_file()} == first


def test_a_folder_that_can_not_be_made(made, tmp_path, command):
    (tmp_path / "file").write_text("")
    called = command("train", made, "--folder", tmp_path / "file" / "x")
    refused(called, tmp_path, str(tmp_path / "file" / "x"), "can not be made")


def test_a_finished_run_shows_its_summary_again(made, tmp_path, command):
    first = command("train", made)
    files = {path: path.stat().st_mtime_ns for path in (tmp_path / "run").rglob("*")}
    (tmp_path / "tasks.jsonl").unlink()  # nothing is needed but the folder
    again = command("resume", tmp_path / "run")
    assert again.code == 0, again.err
    assert "is finished" in again.out
    table = first.out[first.out.index("Trained in") :]
    assert table in again.out
    assert "greedy accuracy" in again.out
    assert {path: path.stat().st_mtime_ns for path in (tmp_path / "run").rglob("*")} == files


def test_a_folder_with_a_broken_recipe(made, tmp_path, command):
    assert command("train", made).code == 0
    (tmp_path / "run" / "summary.json").unlink()
    (tmp_path / "run" / "recipe.yaml").write_text("name: [")
    called = command("resume", tmp_path / "run")
    assert called.code == 2
    assert "not valid YAML" in called.err


# -- in the middle of a run --------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("verifier", "fault"), [("raises", "the judge has a bug"), ("nan", "nan"), ("hangs", "deadline 0.2")]
)
def test_a_verifier_that_fails_leaves_rows_out_and_training_goes_on(verifier, fault, made, tmp_path, command):
    changes = ["tasks.deadline=0.2", "sampling.size=2", "selection.count=1", "evaluation=null", "steps=2"]
    called = command("train", made, f"tasks.verifier=rules:{verifier}", *changes)
    assert called.code == 0, called.err
    found = tiny.lines(tmp_path / "run" / "metrics.jsonl")
    assert [line["unscored"] for line in found] == [1.0, 1.0]
    assert all("reward" not in line for line in found)
    shown = " ".join(called.out.split())
    assert "could not be scored" in shown
    assert fault in shown
    assert "unscored 100%" in shown


def test_a_verifier_that_scores_nothing_ends_the_run(made, tmp_path, command):
    changes = ["tasks.verifier=mended:score", "sampling.size=2", "selection.count=1", "evaluation=null", "steps=5"]
    (tmp_path / "mended.py").write_text("def score(text):\n    return 1.0\n")  # takes one argument
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(tmp_path)
        called = command("train", made, *changes)
        assert called.code == 2, called.out
        assert "Traceback" not in called.err
        for word in ("rewards can be had", "not one of the 2 rows", "policyopt check", "invariants.policy=warn"):
            assert word in called.err
        assert "Nothing before round 2 is lost" in called.err
        assert "takes 1 positional argument but 2 were given" in " ".join(called.out.split())
        assert len(tiny.lines(tmp_path / "run" / "metrics.jsonl")) == 2
        (tmp_path / "mended.py").write_text("def score(text, entry):\n    return float(len(text))\n")
        called = command("resume", tmp_path / "run")
        assert called.code == 0, called.err
    assert [line["unscored"] for line in tiny.lines(tmp_path / "run" / "metrics.jsonl")] == [1, 1, 0, 0, 0]


def test_a_run_that_is_to_go_on_without_rewards_does(made, tmp_path, command):
    changes = ["sampling.size=2", "selection.count=1", "evaluation=null", "steps=5", "invariants.policy=warn"]
    called = command("train", made, "tasks.verifier=rules:raises", *changes)
    assert called.code == 0, called.err
    told = [line["name"] for line in tiny.lines(tmp_path / "run" / "alarms.jsonl")]
    assert told == ["rewards can be had"]


def test_rows_without_a_score_do_not_count(made, tmp_path, command):
    called = command("train", made, "tasks.verifier=rules:raises_on_odd", "sampling.size=8", "steps=3")
    assert called.code == 0, called.err
    found = tiny.lines(tmp_path / "run" / "metrics.jsonl")
    assert any(0 < line["unscored"] < 1 for line in found)
    assert all(0 <= line["reward"] <= 1 for line in found if "reward" in line)
    summary = json.loads((tmp_path / "run" / "summary.json").read_text())
    assert summary["after"]["unscored"] > 0
    assert "could not be scored and count as wrong" in " ".join(called.out.split())


def test_a_learning_rate_that_blows_up_says_what_to_do(made, tmp_path, command):
    called = command("train", made, "update.learning_rate=1e30", "steps=5", "update.schedule=constant")
    assert called.code == 2, called.out
    assert "Traceback" not in called.err
    assert "learning rate" in called.err
    assert f"policyopt resume {tmp_path / 'run'}" in called.err
    before = len(tiny.lines(tmp_path / "run" / "metrics.jsonl"))
    again = command("resume", tmp_path / "run")
    assert again.code == 2
    assert len(tiny.lines(tmp_path / "run" / "metrics.jsonl")) == before


def test_a_full_disk_keeps_the_run_resumable(made, tmp_path, command, monkeypatch):
    straight = command("train", made, "steps=4", "checkpoint_every=1", f"folder={tmp_path / 'straight'}")
    assert straight.code == 0, straight.err
    real, calls = atomic.flush_to_disk, []

    def full(file):
        calls.append(file.name)
        if "ckpt" in str(file.name) and sum("ckpt" in str(name) for name in calls) == 3:
            raise OSError(errno.ENOSPC, "No space left on device")
        real(file)

    monkeypatch.setattr(atomic, "flush_to_disk", full)
    called = command("train", made, "steps=4", "checkpoint_every=1")
    assert called.code == 2
    assert "no space left for the checkpoint of round 3" in called.err
    assert f"policyopt resume {tmp_path / 'run'}" in called.err
    assert "Traceback" not in called.err
    monkeypatch.setattr(atomic, "flush_to_disk", real)
    again = command("resume", tmp_path / "run")
    assert again.code == 0, again.err
    for name in ("metrics.jsonl", "samples.jsonl"):
        assert (tmp_path / "run" / name).read_bytes() == (tmp_path / "straight" / name).read_bytes()


@pytest.mark.parametrize(
    "fault",
    [OSError(errno.ENOSPC, "No space left on device"), safetensors.SafetensorError("No space left on device")],
    ids=["system", "safetensors"],
)
def test_a_full_disk_while_the_model_is_saved(fault, made, tmp_path, command, monkeypatch):
    def full(*arguments):
        raise fault

    monkeypatch.setattr(kind, "save_language", full)
    called = command("train", made)
    assert called.code == 2
    assert "Traceback" not in called.err
    assert "No space left on device" in called.err
    assert f"policyopt resume {tmp_path / 'run'}" in called.err
    assert not (tmp_path / "run" / "summary.json").exists()
    monkeypatch.setattr(kind, "save_language", save_language)
    assert command("resume", tmp_path / "run").code == 0
    assert (tmp_path / "run" / "model" / "model.safetensors").is_file()


def test_a_full_disk_while_results_are_written(made, tmp_path, command, monkeypatch):
    real = atomic.flush_to_disk

    def full(file):
        if "summary" in str(file.name):
            raise OSError(errno.ENOSPC, "No space left on device")
        real(file)

    monkeypatch.setattr(atomic, "flush_to_disk", full)
    called = command("train", made)
    assert called.code == 2
    assert f"no space left to write {tmp_path / 'run' / 'summary.json'}" in called.err
    monkeypatch.setattr(atomic, "flush_to_disk", real)
    assert command("resume", tmp_path / "run").code == 0
    assert (tmp_path / "run" / "summary.json").is_file()
