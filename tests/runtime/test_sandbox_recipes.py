"""Recipes whose rewards run programs."""

import json

import pytest
import tiny
from test_sandbox_escapes import missing

from policyopt.sandbox import host

RECIPE = """
name: code
policy: {{new: {{hidden_size: 16, layers: 1, heads: 2, positions: 32, alphabet: "#1 :k0"}}}}
tasks:
  jsonl: {file}
  limit: 4
  verifier: python_tests
  verifier_options: {{cpu_seconds: 20{more}}}
  deadline: 60
evaluation: null
stages: [{{method: grpo, steps: 2}}]
"""


@pytest.fixture
def written(tmp_path):
    """A recipe on tasks that every program passes which says nothing; others are no Python."""
    records = [{"prompt": f"k{n}:", "tests": [{"stdin": "", "stdout": ""}]} for n in ("0", "1", "00", "01")]
    (tmp_path / "tasks.jsonl").write_text("".join(json.dumps(record) + "\n" for record in records))

    def write(more=""):
        path = tmp_path / "code.yaml"
        path.write_text(RECIPE.format(file=tmp_path / "tasks.jsonl", more=more))
        return path

    return write


def test_programs_are_rewarded_in_a_run(written, command, tmp_path):
    if (why := missing()) is not None:
        pytest.skip(why)
    done = command("train", written(), f"folder={tmp_path / 'run'}")
    assert done.code == 0, done.err
    rewards = [line["reward"] for line in tiny.lines(tmp_path / "run" / "metrics.jsonl") if "reward" in line]
    assert rewards
    assert all(0 < reward < 1 for reward in rewards)


def test_a_machine_that_can_not_isolate_ends_the_run_before_it_begins(written, command, monkeypatch):
    monkeypatch.setattr(host, "_missing", lambda *, unsafe: None if unsafe else "it is a toaster")
    refused = command("train", written())
    assert refused.code == 2
    assert "it is a toaster" in refused.err
    assert "sandbox=unsafe" in refused.err


def test_options_of_the_sandbox_are_checked(written, command):
    refused = command("train", written(", memory: 3"))
    assert refused.code == 2
    assert "no option 'memory'; did you mean 'memory_mb'" in refused.err
