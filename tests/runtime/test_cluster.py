"""Samplers, graders and scorers in a local Ray: nobody's number, speed or death changes a run. One Ray for all."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import pytest
import resume_cases as cases
import torch
from peers import RAY_WARNINGS
from test_ahead import program
from test_resume import same

from policyopt.engines.plain import generate
from policyopt.ops.fingerprint import fingerprint
from policyopt.policies.tabular import Table
from policyopt.runtime.ahead import Ahead
from policyopt.runtime.cluster import ClusterError, Crew, Needs
from policyopt.runtime.spread import Replica, Scorer, Spread, SpreadGrader, SpreadPolicy, pieces
from policyopt.runtime.watch import Watch
from policyopt.train import rounds
from policyopt.worlds.grading import Grade

ray = pytest.importorskip("ray")

pytestmark = RAY_WARNINGS


def replica() -> Replica:
    torch.set_num_threads(1)
    return Replica(Table(torch.zeros(cases.WORLD.states, cases.CHOICES)), {"world": cases.WORLD}, generate)


@dataclass
class Clerk:
    """Grades, and does as it is told."""

    def grade(self, texts: list[str], indices: list[int]) -> list[Grade]:
        return [Grade(float(len(text) == index), None, 0.0) for text, index in zip(texts, indices, strict=True)]

    def number(self) -> int:
        return os.getpid()

    def wait(self, seconds: float) -> str:
        time.sleep(seconds)
        return "done"

    def fail(self) -> None:
        raise ValueError("a reason")

    def die(self) -> None:
        os.kill(os.getpid(), signal.SIGKILL)


@pytest.fixture(scope="module")
def samplers(cluster: None) -> Iterator[Crew]:
    crew = Crew("sampler", 2, replica, Needs(1), 300.0)
    end = time.monotonic() + 120
    while len(crew.ready) < 2 and time.monotonic() < end:  # a run begins with those that are there
        crew._greet()
        time.sleep(0.1)
    yield crew
    crew.close()


@pytest.fixture(scope="module")
def clerks(cluster: None) -> Iterator[Crew]:
    crew = Crew("grader", 2, Clerk, Needs(1), 300.0)
    crew.map("start", [("number", ())])
    yield crew
    crew.close()


def straight(key: str, staleness: int, crew: Crew | None, kill: int = -1) -> Any:
    """Metrics and state of a run, with the first sampler killed before a round."""
    run, made = cases.new_run(key), program(key)
    if crew is not None:
        run.engine = Spread(run.engine, run.models["policy"], lambda: run.worlds, crew)
    found = []
    with Ahead(run, made, staleness) if staleness else Nothing() as ahead:
        going = rounds(run, made, Watch(), *([ahead] if staleness else []))
        for step in range(made.steps):
            if step == kill and crew is not None:
                os.kill(int(crew.ready[0].where.split()[1]), signal.SIGKILL)
            found.append(dict(next(going).metrics))
    run.past = {}
    return found, run.state()


class Nothing:
    def __enter__(self) -> None: ...
    def __exit__(self, *error: object) -> None: ...


def test_a_run_with_samplers_is_the_run_without(samplers: Crew, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("policyopt.runtime.spread.LEAST", 4)  # so that both have rows
    assert same(straight("grpo", 0, samplers), straight("grpo", 0, None))
    assert len(samplers.ready) == 2


def test_a_sampler_that_is_killed_changes_nothing(samplers: Crew, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("policyopt.runtime.spread.LEAST", 4)
    assert same(straight("ppo", 1, samplers, kill=cases.FIRST + 2), straight("ppo", 1, None))
    assert "sampler" in samplers.lost[-1]


def test_weights_that_arrive_wrong_stop_the_round(samplers: Crew, monkeypatch: pytest.MonkeyPatch) -> None:
    run = cases.new_run("grpo")
    engine = Spread(run.engine, run.models["policy"], lambda: run.worlds, samplers)
    monkeypatch.setattr("policyopt.runtime.spread.fingerprint", lambda model: fingerprint(model) + 1)
    tasks = cases.WORLD.tasks(torch.arange(4))
    with pytest.raises(ClusterError, match=r"phase sampling.*fingerprint"):
        engine(run.models["policy"], cases.WORLD, cases.WORLD.start(tasks), torch.arange(4), 1.0, 0)


@pytest.mark.slow
def test_grades_come_back_in_their_order(clerks: Crew) -> None:
    texts = ["a" * n for n in range(7)]
    graded = SpreadGrader(clerks).grade(texts, [0, 1, 9, 3, 4, 9, 6])
    assert [grade.score for grade in graded] == [1, 1, 0, 1, 1, 0, 1]


@pytest.mark.slow
def test_what_fails_is_named(clerks: Crew) -> None:
    with pytest.raises(ClusterError, match=r"phase thinking: grader \d+ \(process \d+ on .*ValueError: a reason"):
        clerks.map("thinking", [("fail", ())])
    with pytest.raises(ClusterError, match="phase dying: the same work was lost 3 times: grader"):
        clerks.map("dying", [("die", ())])
    assert clerks.map("living", [("wait", (0,))]) == ["done"]


@pytest.mark.slow
def test_who_does_not_answer_is_replaced_and_then_named(clerks: Crew) -> None:
    clerks.map("start", [("wait", (0,))] * 2)
    clerks.deadline = 0.5
    try:
        with pytest.raises(ClusterError, match=r"phase waiting: .*no answer within 0\.5 s"):
            clerks.map("waiting", [("wait", (60,))])
    finally:
        clerks.deadline = 300.0


@pytest.mark.slow
def test_peers_join_and_leave(clerks: Crew) -> None:
    clerks.join()
    while clerks.starting:
        clerks.map("start", [("wait", (0,))] * 3)
        time.sleep(0.1)
    assert len(clerks.ready) == clerks.count == 3
    clerks.leave(clerks.ready[0])
    assert len(clerks.ready) == clerks.count == 2
    assert clerks.map("after", [("wait", (0,))] * 3) == ["done"] * 3


def test_what_no_machine_has_room_for_is_told(cluster: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("policyopt.runtime.cluster.READY", 0.3)
    crew = Crew("sampler", 1, Clerk, Needs(64), 300.0)
    try:
        with pytest.raises(ClusterError, match=r"phase work: sampler 0 \(not ready yet\).*'CPU': 64.*runtime.samplers"):
            crew.map("work", [("wait", (0,))])
    finally:
        crew.close()


@pytest.mark.slow
def test_models_on_scorers_say_what_they_would_say_here(cluster: None) -> None:
    table = torch.linspace(-1, 1, cases.WORLD.states * cases.CHOICES).view(-1, cases.CHOICES)
    crew = Crew("scorer", 1, partial(scorer, table), Needs(1), 300.0)
    try:
        tasks = cases.WORLD.tasks(torch.arange(7).repeat(10))
        batch = generate(Table(table), cases.WORLD, cases.WORLD.start(tasks), torch.arange(70), 1.0, 0)
        there, here = SpreadPolicy("teacher", crew).score(batch), Table(table).score(batch, None, full=False)
        assert torch.equal(there.logp, here.logp.detach())
        with pytest.raises(ClusterError, match="whole distributions"):
            SpreadPolicy("teacher", crew).score(batch, full=True)
    finally:
        crew.close()


def scorer(table: torch.Tensor) -> Scorer:
    return Scorer({"teacher": Table(table)})


def test_pieces_are_adjacent_and_not_too_small() -> None:
    assert pieces(384, 2) == [slice(0, 192), slice(192, 384)]
    assert pieces(70, 8) == [slice(0, 35), slice(35, 70)]
    assert pieces(5, 2) == [slice(0, 5)]
    assert replace(Needs(2), gpus=1).bundle() == {"CPU": 2, "GPU": 1}
