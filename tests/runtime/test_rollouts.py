"""Rollouts step by step: right numbers, no trace in the run, nothing that stops it."""

from __future__ import annotations

import copy
import logging
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import pytest
import tiny
import torch
from resume_cases import new_run
from test_resume import same

from policyopt.compose import Cell, Method, Program, Stage
from policyopt.methods import load
from policyopt.ops.divergence import k3
from policyopt.recipe.budget import Ledger
from policyopt.recipe.language.kind import pieces
from policyopt.report.rollouts import Observer, Rollouts, rounded
from policyopt.run import Run
from policyopt.runtime.folder import RunFolder
from policyopt.train import rounds
from policyopt.types import Batch, Round


def nothing(rows: Batch, steps: int) -> Sequence[Mapping[str, Any]]:
    return [{} for _ in range(len(rows))]


def small(key: str) -> Method:
    method = load(key)
    method = replace(method, selection=replace(method.selection, count=8))
    return replace(method, world="pairs" if method.sampling.data == "pairs" else "world")


def train(key: str, rollouts: Rollouts | None, count: int = 3) -> tuple[Run, list[Round], list[dict[str, Any]]]:
    """The run after some rounds, the rounds, and the records of the last one."""
    run, program = new_run(key), Program((Stage(small(key), count),))
    torch.manual_seed(0)
    done, records = [], []
    for one in rounds(run, program):
        done.append(one)
        if rollouts is not None:
            records = [dict(record) for record in rollouts.records(run, program.stages[0], one, nothing)]
    return run, done, records


@pytest.mark.parametrize("key", ["grpo", "ppo", "dpo", "sft", "dapo", "gspo", "gigpo", "d_ppo_dropout", "opd"])
def test_recording_leaves_no_trace_and_nothing_is_left_out(key: str, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING, "policyopt"):
        plain, recorded = train(key, None), train(key, Rollouts(8, 64))
    assert not caplog.records
    assert same(plain[0].state(), recorded[0].state())
    assert [one.metrics for one in plain[1]] == [one.metrics for one in recorded[1]]
    assert len(recorded[2]) == 8
    assert all({"trained", "policy", "weight", "kind"} <= record["steps"].keys() for record in recorded[2])


def test_what_is_drawn_and_written_while_looking_is_not_the_run_s() -> None:
    run, program = new_run("grpo"), Program((Stage(small("grpo"), 2),))
    next(rounds(run, program))
    cells = copy.deepcopy(run.cells)
    ctx, cell = Observer(run, program.stages[0]), Cell("seen", list)
    assert ctx.step == ctx.stage_step == 0
    drawn = [torch.rand(2, generator=ctx.rng("minibatches")).tolist() for _ in range(2)]
    assert drawn[0] != drawn[1]
    again = Observer(run, program.stages[0])
    assert torch.rand(2, generator=again.rng("minibatches")).tolist() == drawn[0], "equal looks draw equal numbers"
    ctx[cell] = [*ctx[cell], 1]
    assert ctx[cell] == []
    assert run.cells == cells
    assert run._calls == {}
    # A loss with dropout draws from torch's own stream.
    done = next(rounds(run, program))

    def noisy(rows: Batch, steps: int) -> Sequence[Mapping[str, Any]]:
        torch.rand(3)
        return nothing(rows, steps)

    numbers = torch.get_rng_state()
    list(Rollouts(2, 4).records(run, program.stages[0], done, noisy))
    assert torch.equal(torch.get_rng_state(), numbers)


def test_steps_hold_what_the_update_did() -> None:
    run, done, records = train("grpo", Rollouts(4, 64))
    kept = done[-1].kept
    policy: Any = run.models["policy"]
    now = policy.score(kept, None).logp
    for row, record in enumerate(records):
        own, steps = kept.own[row], record["steps"]
        old, reference = (kept.scores[name].logp[row][own] for name in ("old", "reference"))
        # Two roads to one number: the records' own columns, and the policy's table after the round.
        assert steps["policy"] == rounded(now[row][own])
        assert steps["ratio"] == rounded((now[row][own] - old).exp())
        assert steps["kl"] == rounded(k3(now[row][own] - reference))
        assert steps["entropy"] == rounded(kept.scores["old"].entropy[row][own])
        assert steps["advantage"] == rounded(kept.step["advantage"][row][own])
        assert steps["trained"] == [1] * int(own.sum())
        # A mean within the row, then over rows.
        assert sum(steps["weight"]) == pytest.approx(1 / len(kept), rel=1e-4)
        outside = (now[row][own] - old).exp() - 1
        gain = kept.step["advantage"][row][own]
        clipped = ((outside > 0.2) & (gain > 0)) | ((outside < -0.2) & (gain < 0))
        assert steps["clipped"] == clipped.double().tolist()
        assert record["surprise"] == rounded(-kept.step["behaviour"][row][own].double().mean())
        assert record["reward"] == rounded(kept.step["reward"][row].sum())
        assert record["length"] == int(own.sum())
        assert record["finish"] in ("stopped", "truncated")


def test_rows_that_selection_left_out_are_shown_as_such() -> None:
    """cppo trains on the rows of a group with the largest advantages; the others are shown nevertheless, in order."""
    _, done, records = train("cppo", Rollouts(10**6, 64), count=1)
    credited, kept = done[-1].credited, done[-1].kept
    assert 0 < len(kept) < len(credited) == len(records)

    def contents(batch: Batch) -> list[tuple[int, list[float]]]:
        steps = zip(batch.row["group"].tolist(), batch.step["behaviour"], batch.own, strict=True)
        return [(group, rounded(logp[own])) for group, logp, own in steps]

    assert [(record["group"], record["steps"]["behaviour"]) for record in records] == contents(credited)
    shown = [(record["group"], record["steps"]["behaviour"]) for record in records if record["kept"]]
    assert sorted(shown) == sorted(contents(kept))
    for record in records:
        assert any(record["steps"]["trained"]) == record["kept"] == ("weight" in record["steps"])


def test_only_the_first_steps_are_recorded_and_the_totals_stay() -> None:
    whole, short = (train("grpo", Rollouts(8, steps))[2] for steps in (64, 2))
    for full, part in zip(whole, short, strict=True):
        assert {name: full[name] for name in ("reward", "length", "surprise")} == {
            name: part[name] for name in ("reward", "length", "surprise")
        }
        assert {name: values[:2] for name, values in full["steps"].items() if name != "turn"} == part["steps"]


def test_a_row_s_numbers_stand_beside_its_steps() -> None:
    """What a loss of pairs watches is of rows; its pairs are looked at whole, whichever rows are shown."""
    _, _, few = train("dpo", Rollouts(1, 64))
    _, _, more = train("dpo", Rollouts(8, 64))
    assert few[0]["totals"].keys() == {"preference/margin", "preference/accuracy"}
    assert few[0]["totals"] == more[0]["totals"]


def test_a_term_that_can_not_be_shown_is_left_out_with_one_warning(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    method = small("grpo")
    run = new_run("grpo")
    program, rollouts = Program((Stage(method, 3),)), Rollouts(4, 64)

    def broken(*given: Any) -> Any:
        raise LookupError("no such column")

    with caplog.at_level(logging.WARNING, "policyopt"):
        for done in rounds(run, program):
            with monkeypatch.context() as patch:
                patch.setattr(type(method.objective[0].loss), "watch", broken)
                records = list(rollouts.records(run, program.stages[0], done, nothing))
    assert ["term 'policy' of grpo" in record.getMessage() for record in caplog.records] == [True]
    # Derived from the log-probabilities instead.
    assert all("clipped" not in record["steps"] and "ratio" in record["steps"] for record in records)


def test_tokens_are_told_apart_with_their_spaces() -> None:
    words = ["<s>", " a", " cat", "\n", "."]

    def decode(tokens: list[int]) -> str:
        """As many tokenizers do: a leading space is lost."""
        return "".join(words[token] for token in tokens).removeprefix(" ")

    assert pieces(decode, [1, 2, 4, 3, 1]) == ["a", " cat", ".", "\n", " a"]


def test_numbers_are_short_and_unknown_ones_are_none() -> None:
    assert rounded(torch.tensor([1 / 3, float("nan"), 123456.7])) == [0.33333, None, 123460.0]
    assert rounded(torch.tensor([True, False])) == [1, 0]
    assert rounded(torch.tensor([[1, 2]])) == [[1, 2]]


def test_recipes_say_how_much_is_recorded(tmp_path, command) -> None:
    folder, tasks = tiny.folder(tmp_path / "model", "qwen2"), tiny.jsonl(tmp_path / "sums.jsonl", tiny.sums())
    given = {"jsonl": str(tasks), "verifier": "exact"}
    stages = [tiny.stage("grpo", 5)]
    found, metrics = {}, []
    for name, said in (("default", {}), ("few", {"rows": 2, "steps": 3, "every": 3}), ("none", {"rows": 0})):
        made = tiny.recipe(
            tmp_path / f"{name}.yaml", {"model": str(folder)}, given, stages=stages, samples=said,
            evaluation=None, folder=str(tmp_path / name),
        )  # fmt: skip
        assert command("train", made).code == 0
        found[name] = tiny.lines(tmp_path / name / "samples.jsonl") if said != {"rows": 0} else []
        metrics.append((tmp_path / name / "metrics.jsonl").read_bytes())
    assert metrics[0] == metrics[1] == metrics[2]
    assert not (tmp_path / "none" / "samples.jsonl").exists()
    assert [line["step"] for line in found["default"]] == [step for step in range(5) for _ in range(8)]
    # Every third round, and the stage's last.
    assert [(line["step"], line["row"]) for line in found["few"]] == [(s, r) for s in (0, 3, 4) for r in (0, 1)]
    assert all(len(line["tokens"]) == len(line["steps"]["policy"]) <= 3 for line in found["few"])


def test_recording_costs_a_run_no_budget(tmp_path, monkeypatch) -> None:
    """Seconds of a budget are those of training: what is recorded for people is beside it."""
    folder = RunFolder.create(tmp_path / "run", "name: run\n", "loss\n")
    ledger, clock = Ledger(folder, new_run("grpo")), iter([0.0, 5.0, 9.0, 10.0])
    monkeypatch.setattr(Ledger, "_now", lambda self: next(clock))
    ledger.restart()
    with ledger.aside():
        pass
    assert ledger._now() - ledger._since == 6.0
