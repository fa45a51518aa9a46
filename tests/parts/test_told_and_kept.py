"""Methods of history and allocation on a language model: prompts that say more, rows that come back, memory."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch

from asked import equal
from policyopt.compose import Method, Program, Stage
from policyopt.engines.plain import generate
from policyopt.methods import load
from policyopt.options import override
from policyopt.policies.checkpoint import new_language
from policyopt.policies.language import Language
from policyopt.policies.tokenizer import character_tokenizer
from policyopt.remembered import TASKS, by_task, note, recall
from policyopt.reward.parts import Verified
from policyopt.run import Run
from policyopt.runtime.checkpoint import load as load_state
from policyopt.runtime.checkpoint import save
from policyopt.sampling.store import ROWS, store, stored
from policyopt.train import rounds
from policyopt.types import Round, Source
from policyopt.worlds.prompts import Instruction, token_world
from policyopt.worlds.tasks import Entry
from policyopt.worlds.tokens import TokenWorld
from support import context, grids, method, ragged, with_row

LETTERS = "abc= :|"
WORDS = {
    "budget": Instruction("{value}:{prompt}"),
    "hint": Instruction("{prompt}{value}", "solution"),
    "pattern": Instruction("{value}{prompt}", texts=("ab", "c")),
    "draft": Instruction("{prompt}|{value}|", "tokens"),
}


@pytest.fixture(autouse=True)
def double_precision():
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


class Patterned(TokenWorld):
    def complexity(self, ids: Any) -> Any:
        return 1.0 + ids % 2

    def checks(self, batch: Any) -> Any:
        return torch.tensor([["a" in text] for text in self.texts(batch)]).double()


def world() -> TokenWorld:
    """Right answers begin with an a; b is half as good."""
    entries = [Entry("ab=", None, "xx", demonstration="aabb"), Entry("c=", None, "x", demonstration="abc")]
    tokenizer = character_tokenizer(LETTERS + "0123456789.")
    made = token_world(entries, tokenizer, 4, instructions=WORDS)

    def judge(texts: list[str], tasks: list[int]) -> list[float]:
        return [1.0 if text.startswith("a") else 0.5 if text.startswith("b") else 0.0 for text in texts]

    fields = {name: getattr(made, name) for name in made.__dataclass_fields__}
    return Patterned(**{**fields, "judge": judge})


def policy() -> Language:
    return new_language(19 + 3, "qwen2", hidden_size=16, layers=1, heads=2, seed=5, dtype=torch.float64)


CASES: dict[str, dict[str, Any]] = {
    "hapo_history": {"sampling.size": 4},
    "lapo": {"sampling.size": 4},
    "lapo:lapo_internalised": {"sampling.size": 4},
    "hbpo": {"sampling.size": 4, "sampling.words.values": (2.0, 4.0), "reward.within_budget.limit": 4.0},
    "vade": {"sampling.size": 4},
    "mmr1_vas": {"sampling.size": 4, "selection.diversity": 1.0, "selection.every": 1},
    "reinforce_ada": {"update.minibatches": 1, "sampling.per_round": 4},
    "gvm_raft": {"sampling.size": 4, "sampling.pilot": 4, "sampling.parameters": "embed_tokens"},
    "gvm_raft:gvm_grpo": {"sampling.size": 4, "sampling.pilot": 4},
    "ghpo": {"sampling.size": 2, "sampling.right": 0.7},
    "igrpo": {"sampling.size": 3, "sampling.drafts": 2},
    "repo_replay": {"sampling.size": 2, "sampling.least": 2, "sampling.replayed": 2},
    "arpo_gui": {"sampling.size": 2, "before.attempts": 2},
    "tapo": {"sampling.size": 3, "sampling.words.complexities": (1.0, 2.0)},
}


def small(key: str) -> Method:
    return override(load(key), {"selection.count": 2, "update.learning_rate": 0.01, **CASES[key]})


@pytest.mark.parametrize("key", sorted(CASES))
def test_three_rounds_of_a_language_model_and_a_restart(key: str, tmp_path) -> None:
    """The policy moves; what a run remembers survives a file, bit for bit."""
    program = Program((Stage(small(key), 3),))
    straight, first, second = (Run({"policy": policy()}, world(), generate, 2) for _ in range(3))
    done = list(rounds(straight, program))
    assert all(len(one.judged) for one in done)
    before = [p.detach().clone() for p in policy().parameters()]
    now = list(straight.models["policy"].parameters())
    assert any(not torch.equal(a, b) for a, b in zip(before, now, strict=True))
    going = rounds(first, program)
    next(going), next(going)
    save(first.state(), tmp_path / "state")
    second.load_state(load_state(tmp_path / "state"), program)
    list(rounds(second, program))
    equal(straight.cells, second.cells)
    for a, b in zip(now, second.models["policy"].parameters(), strict=True):
        assert torch.equal(a, b)


def prompts(done: Round) -> list[str]:
    tokens = world()
    rows = done.judged.context()
    return [tokens.decode([token for token in row if token >= 0]) for row in rows.tolist()]


def first_round(key: str, **changes: Any) -> Round:
    run = Run({"policy": policy()}, world(), generate, 2)
    return next(rounds(run, Program((Stage(override(small(key), changes), 1),))))


def test_prompts_say_what_rows_are_told() -> None:
    assert set(prompts(first_round("hbpo"))) == {"2:ab=", "4:ab=", "2:c=", "4:c="}
    # Complexity 1 (task 0) is the first pattern's.
    assert set(prompts(first_round("tapo"))) == {"abab=", "cc="}
    hinted = first_round("ghpo", **{"sampling.right": 2.0})
    assert set(prompts(hinted)) == {"ab=aab", "c=ab"}
    drafts = prompts(first_round("igrpo"))
    assert all(text.startswith(("ab=|", "c=|")) for text in drafts)


def test_a_reward_part_of_a_stage_can_be_exchanged_without_its_memory() -> None:
    made = replace(small("lapo"), reward=Verified())
    run = Run({"policy": policy()}, world(), generate, 2)
    list(rounds(run, Program((Stage(made, 1),))))
    assert TASKS.name not in run.cells


# -- the two stores ------------------------------------------------------------------------------------------------
def test_notes_are_by_name_and_task() -> None:
    ctx = context(method(), grids())
    ids = torch.tensor([4, 1])
    assert recall(ctx, "a", ids).tolist() == [0.0, 0.0]
    note(ctx, "a", ids, torch.tensor([3.0, 2.0]))
    before = ctx[TASKS]["a"]
    note(ctx, "b", torch.tensor([0]), torch.tensor([7]))
    note(ctx, "a", torch.tensor([6]), torch.tensor([1.5]))
    assert recall(ctx, "a", torch.arange(8)).tolist() == [0.0, 2.0, 0.0, 0.0, 3.0, 0.0, 1.5, 0.0]
    assert recall(ctx, "b", ids).tolist() == [0.0, 0.0]
    assert before.tolist() == [0.0, 2.0, 0.0, 0.0, 3.0]  # a new tensor: what others hold does not change
    note(ctx, "a", ids[:0], torch.zeros(0))
    found = by_task(torch.tensor([3, 1, 3]), torch.tensor([1.0, 2.0, 4.0]))
    assert [column.tolist() for column in found] == [[1, 3], [2.0, 5.0]]


def test_stored_rows_are_the_newest_of_their_task_and_no_wider_than_they_are() -> None:
    ctx = context(method(), grids())
    for seed in (1, 2):
        rows = with_row(ragged((1, 2, 7, 3), tools=False, seed=seed), task=[5, 5, 9, 5])
        store(ctx, rows, 4)
    held = stored(ctx, 5)
    assert held is not None
    assert held.lengths.tolist() == [2, 3, 1, 2, 3][-4:]
    assert held.steps == 3
    behaviour = ragged((1, 2, 7, 3), tools=False, seed=2).step["behaviour"]
    assert torch.equal(held.step["behaviour"][-1, :3], behaviour[3, :3])
    assert stored(ctx, 7) is None
    assert sorted(ctx[ROWS]) == [5, 9]
    assert set(held.row["source"].tolist()) == {int(Source.POLICY)}
