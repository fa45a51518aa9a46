"""Opening what others wrote runs nothing of it, whatever kind of file it is; what is refused, our errors refuse."""

import hashlib
import io
import json
import os
import pickle
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import tiny
import torch
from gymnasium import spaces

from policyopt.plain import PlainError, from_json, from_yaml
from policyopt.policies.checkpoint import CheckpointError, load_language
from policyopt.policies.control_checkpoint import PolicyFolderError, load_control
from policyopt.policies.denoising_checkpoint import DenoiserFolderError, load_denoiser
from policyopt.policies.pipelines import PipelineError, load_pipeline
from policyopt.policies.reward_checkpoint import load_reward
from policyopt.policies.tokenizer import load_tokenizer
from policyopt.recipe.denoising.tasks import prompts
from policyopt.recipe.schema import RecipeError, load_recipe
from policyopt.runtime import checkpoint
from policyopt.worlds.minari_files import read_minari, write_minari
from policyopt.worlds.recordings import Episode, RecordingError
from policyopt.worlds.sources import SourceError, folder_entries, jsonl_entries

sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks"))

import fuzz
from fuzzing.hdf5 import PLANTS, planted
from fuzzing.targets import TARGETS


class Planted:
    """Unpickled, it makes a folder."""

    def __init__(self, marker):
        self.marker = marker

    def __reduce__(self):
        return os.mkdir, (str(self.marker),)


@pytest.fixture
def marker(tmp_path):
    made = tmp_path / "it-ran"
    with pytest.raises(FileNotFoundError):
        made.rmdir()
    yield made
    assert not made.exists(), "opening the file ran what it holds"


def pickled(marker):
    return pickle.dumps(Planted(marker))


def archived(marker):
    file = io.BytesIO()
    torch.save({"w": Planted(marker)}, file)
    return file.getvalue()


def test_the_plant_works(tmp_path):
    pickle.loads(pickled(tmp_path / "a"))
    torch.load(io.BytesIO(archived(tmp_path / "b")), weights_only=False)
    assert (tmp_path / "a").is_dir()
    assert (tmp_path / "b").is_dir()


@pytest.mark.parametrize("payload", [pickled, archived])
def test_checkpoints_with_a_right_digest(payload, marker, tmp_path):
    content = payload(marker)
    digest = checkpoint._seal(hashlib.blake2b(content, digest_size=32), checkpoint.VERSION, len(content))
    head = checkpoint._HEADER.pack(checkpoint.MAGIC, checkpoint.VERSION, len(content), digest)
    (tmp_path / "x.ckpt").write_bytes(head + content)
    with pytest.raises(checkpoint.CheckpointError, match="another version"):
        checkpoint.load(tmp_path / "x.ckpt")


CODE = "import os\nos.mkdir({marker!r})\nclass Evil: pass\n"


def customised(folder, marker):
    """The folder says that its classes are in a file of Python beside it."""
    (folder / "evil.py").write_text(CODE.format(marker=str(marker)))
    for name in ("config.json", "tokenizer_config.json"):
        said = json.loads((folder / name).read_text())
        said["auto_map"] = dict.fromkeys(("AutoConfig", "AutoModelForCausalLM", "AutoTokenizer"), "evil.Evil")
        said["auto_map"]["AutoModelForSequenceClassification"] = "evil.Evil"
        said |= {"model_type": "evil"} if name == "config.json" else {"tokenizer_class": "EvilTokenizer"}
        (folder / name).write_text(json.dumps(said))


@pytest.mark.parametrize("load", [load_language, load_reward])
def test_folders_of_transformers(load, marker, tmp_path):
    folder = tiny.folder(tmp_path / "model")
    (folder / "model.safetensors").unlink()
    for content in (pickled(marker), archived(marker)):
        (folder / "pytorch_model.bin").write_bytes(content)
        with pytest.raises(CheckpointError, match="can not be opened"):
            load(folder)
    customised(folder, marker)
    with pytest.raises(CheckpointError, match="can not be opened"):
        load(folder)
    with pytest.raises(CheckpointError, match="can not be opened"):
        load_tokenizer(folder)


@pytest.mark.parametrize(
    ("name", "load", "error"),
    [("policy", load_control, PolicyFolderError), ("denoiser", load_denoiser, DenoiserFolderError)],
)
def test_folders_of_ours(name, load, error, marker, tmp_path):
    for content in (pickled(marker), archived(marker)):
        title = "control policy" if name == "policy" else "denoising policy"
        said = {"format": f"policyopt {title}", "version": 1, "dtype": "float32"}
        (tmp_path / f"{name}.json").write_text(json.dumps(said))
        (tmp_path / f"{name}.safetensors").write_bytes(content)
        with pytest.raises(error, match="can not be opened"):
            load(tmp_path)


def test_folders_of_diffusers(marker, tmp_path):
    pytest.importorskip("diffusers")
    unet = tmp_path / "unet"
    unet.mkdir()
    (unet / "config.json").write_text(json.dumps({"_class_name": "UNet2DModel", "sample_size": 4}))
    (unet / "diffusion_pytorch_model.bin").write_bytes(archived(marker))
    (unet / "evil.py").write_text(CODE.format(marker=str(marker)))
    (unet / "model_index.json").write_text(json.dumps({"_class_name": ["evil", "Evil"]}))
    for kind in ("UNet2DModel", "DiffusionPipeline", "utils", "no such", 3):
        index = {"unet": ["diffusers", kind], "scheduler": ["diffusers", "DDIMScheduler"]}
        (tmp_path / "model_index.json").write_text(json.dumps(index))
        with pytest.raises(PipelineError, match="unet can not be opened"):
            load_pipeline(tmp_path)


def test_recipes_arrays_and_data_sets(marker, tmp_path):
    (tmp_path / "r.yaml").write_text(f"name: !!python/object/apply:os.mkdir ['{marker}']\n")
    with pytest.raises(RecipeError, match="not valid YAML"):
        load_recipe(tmp_path / "r.yaml")
    np.save(tmp_path / "prompts.npy", np.array([Planted(marker)], dtype=object), allow_pickle=True)
    section = SimpleNamespace(pipeline=str(tmp_path / "prompts.npy"))
    with pytest.raises(RecipeError, match=r"prompts\.npy' can not be read"):
        prompts(section, None)
    (tmp_path / "t.jsonl").write_bytes(pickled(marker))
    with pytest.raises(SourceError, match=r"t\.jsonl, line 1: not valid"):
        jsonl_entries(tmp_path / "t.jsonl")
    data = tmp_path / "data"
    data.mkdir()
    (data / "state.json").write_text(json.dumps({"_data_files": [{"filename": "x.arrow"}], "_split": None}))
    (data / "dataset_info.json").write_text("{}")
    (data / "x.arrow").write_bytes(pickled(marker))
    with pytest.raises(SourceError, match="can not be read as a data set"):
        folder_entries(data)


@pytest.fixture
def episodes(tmp_path):
    """The `data` folder of a whole Minari data set."""
    box = spaces.Box(-1.0, 1.0, (2,))
    made = [Episode(np.zeros((n + 1, 2), np.float32), np.zeros(n, np.int64), np.ones(n), True) for n in (1, 3)]
    return write_minari(tmp_path / "set", made, box, spaces.Discrete(3)) / "data"


def test_minari_data_sets_run_nothing(marker, episodes):
    """Without spaces, the library would make the environment that the file names."""
    told = json.loads((episodes / "metadata.json").read_text())
    called = {"id": "X-v0", "entry_point": "os:mkdir", "kwargs": {"path": str(marker)}, "additional_wrappers": []}
    told["env_spec"] = json.dumps(called)
    (episodes / "metadata.json").write_text(json.dumps(told))
    assert read_minari(episodes).size == 4
    for name in ("observation_space", "action_space"):
        fewer = {key: value for key, value in told.items() if key != name}
        (episodes / "metadata.json").write_text(json.dumps(fewer))
        with pytest.raises(RecordingError, match="making one would run what the file names"):
            read_minari(episodes)
    (episodes / "metadata.json").write_text(json.dumps(told))
    (episodes / "main_data.hdf5").write_bytes(pickled(marker))
    with pytest.raises(RecordingError, match="can not be read as a Minari data set"):
        read_minari(episodes)


@pytest.mark.parametrize("name", sorted(set(PLANTS) - {"not a number"}))
def test_what_is_planted_in_hdf5_files_is_refused(episodes, tmp_path, name):
    """Links and numbers of other files, a terabyte of nothing, groups within themselves."""
    path = episodes / "main_data.hdf5"
    path.write_bytes(planted(path.read_bytes(), PLANTS[name], tmp_path))
    with pytest.raises(RecordingError):
        read_minari(episodes)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("total_episodes", 10**12),
        ("total_episodes", -1),
        ("action_space", '{"type": "MultiBinary", "n": [100000, 100000]}'),
        ("observation_space", '{"type": "Tuple", "subspaces": [{"type": "Box", "shape": [99999999]}]}'),
    ],
)
def test_memory_that_metadata_asks_for_is_bounded(episodes, name, value):
    told = json.loads((episodes / "metadata.json").read_text())
    (episodes / "metadata.json").write_text(json.dumps({**told, name: value}))
    with pytest.raises(RecordingError, match=r"total_episodes is 1 to|numbers is too large"):
        read_minari(episodes)


def test_a_state_that_is_none_of_the_run_s_is_refused(tmp_path):
    import resume_cases as cases

    session = cases.session(tmp_path, "sft")
    for state in ({}, {"seed": 3}, {"seed": 3, "step": 1, "updates": {}, "drawn": 0, "stage_start": 0, "models": []}):
        session.store.write(1, state)
        with pytest.raises(checkpoint.CheckpointError, match="does not hold the state of this run"):
            cases.session(tmp_path, "sft").resume()


# -- text --------------------------------------------------------------------------------------------------------------
def test_a_few_lines_of_yaml_do_not_stand_for_billions():
    bomb = "a0: &a0 [x, x, x, x, x, x, x, x, x, x]\n"
    bomb += "".join(f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 10)}]\n" for n in range(1, 10))
    for text in (bomb, "&a [*a]", "[" * 1500, "- " * 800):
        with pytest.raises(PlainError, match="deep"):
            from_yaml(text)
    for text in (
        "!!timestamp x",
        "!!int ''",
        "!!bool x",
        "9" * 5000,
        "2001-99-99",
        "!!binary é",
        "\0",
        "? [a]\n: b",
        "a: b: c",
    ):
        with pytest.raises(PlainError, match="not valid YAML"):
            from_yaml(text)
    assert from_yaml("a: &x [1]\nb: *x") == {"a": [1], "b": [1]}


def test_json_that_is_none():
    for text, said in (("[" * 100_000, "too deep"), ("9" * 5000, "digits"), (b"\xff", "UTF-8"), ("{", "column 2")):
        with pytest.raises(PlainError, match=said):
            from_json(text)
    with pytest.raises(PlainError, match="surrogate"):
        from_json('{"a": "\\ud83d"}', texts=True)
    assert from_json('"\\ud83d\\ude00"', texts=True) == "\U0001f600"


# -- inputs that were never thought of ---------------------------------------------------------------------------------
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", TARGETS)
def test_fuzzed_inputs_are_taken_or_refused(name, tmp_path):
    count = fuzz.Count()
    fuzz.batch(TARGETS[name], tmp_path, 1, 8, count)
    assert count.inputs >= 4
    assert count.taken + sum(count.refused.values()) == count.inputs
