"""Invariants and alarms: silent on healthy runs, which stay as they are to the last bit; each fires on its fault."""

import copy
import json
import time
from dataclasses import dataclass, replace
from typing import Any

import pytest
import resume_cases as cases
import tiny
import torch

from policyopt.compose import Copy, Part, Program, Stage
from policyopt.methods import load
from policyopt.ops.fingerprint import fingerprint
from policyopt.recipe.schema import make_recipe
from policyopt.recipe.training import Training
from policyopt.runtime.alarms import IDLE, History, alarms, forms
from policyopt.runtime.invariants import INVARIANTS, InvariantError, Rules, frozen_models
from policyopt.runtime.journal import read
from policyopt.runtime.session import Hooks, Session
from policyopt.runtime.watch import Watch
from policyopt.train import rounds
from policyopt.types import Batch
from policyopt.update.averaging import TokenMean
from policyopt.update.following import Average, Refresh

METHODS = ("grpo", "ppo", "dapo", "sft", "dpo", "dpo:dpo_online", "opd", "reinforce")


def trained(key: str, watch: Watch | None, change=lambda run, program: program):
    """(metrics of all rounds, the run) of a small recipe."""
    run = cases.new_run(key)
    program = change(run, cases.program(key))
    found = []
    for done in rounds(run, program) if watch is None else rounds(run, program, watch):
        if watch is not None:
            watch.after(run, program.at(run.step - 1), done)
        found.append(dict(done.metrics))
    return found, run


# -- healthy runs ------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("key", METHODS)
def test_a_watched_run_is_the_same_to_the_last_bit_and_nothing_fires(key):
    told = []
    watch = Watch(Rules(every=1, staleness=0), told=lambda *alarm: told.append(alarm))
    plain, one = trained(key, None)
    watched, other = trained(key, watch)
    assert told == []
    assert repr(plain) == repr(watched)
    first, second = one.state(), other.state()
    for name, weights in first["models"].items():
        assert all(torch.equal(a, second["models"][name][key]) for key, a in weights.items())
    assert repr(first["cells"]) == repr(second["cells"])
    assert repr(first["optimizers"]) == repr(second["optimizers"])
    # The frozen models were looked at, where there are any.
    frozen = {name for stage in cases.program(key).stages for name in frozen_models(stage.method)}
    assert {name.split("/")[1] for name in watch.state()["prints"]} == frozen


# -- each invariant ----------------------------------------------------------------------------------------------------
@dataclass(frozen=True)
class PaddedMean(TokenMean):
    """Divides by the padded width."""

    def __call__(self, mask, batch, total):
        return mask.double() / mask.numel()


def _with(program: Program, **changes) -> Program:
    last = program.stages[-1]
    return Program((*program.stages[:-1], replace(last, method=replace(last.method, **changes))))


def other_weights(run, program):
    """A policy that gives other log-probabilities at every pass, as with dropout."""
    policy, rng = run.models["policy"], torch.Generator().manual_seed(0)
    score = policy.score

    def noisy(batch, context=None, *, full=False):
        scores = score(batch, context, full=full)
        return replace(scores, logp=scores.logp - 0.1 * torch.rand(scores.logp.shape, generator=rng))

    policy.score = noisy
    return program


def negative_entropy(run, program):
    policy = run.models["policy"]
    score = policy.score

    def scored(batch, context=None, *, full=False):
        scores = score(batch, context, full=full)
        return replace(scores, entropy=None if scores.entropy is None else scores.entropy - 3)

    policy.score = scored
    return program


def from_the_future(run, program):
    engine = run.engine

    def sampled(policy, world, batch, keys, temperature, version, steps=None):
        return engine(policy, world, batch, keys, temperature, version + 1, steps)

    run.engine = sampled
    return program


def stale(run, program):
    engine = run.engine

    def sampled(policy, world, batch, keys, temperature, version, steps=None):
        return engine(policy, world, batch, keys, temperature, max(0, version - 9), steps)

    run.engine = sampled
    return program


class Nudged(Part):
    """Something that nobody knows of writes the reference."""

    def __call__(self, ctx, done):
        with torch.no_grad():
            next(ctx.models["reference"].parameters()).flatten()[0].add_(1e-6)


def written_reference(run, program):
    return _with(program, after=(Nudged(),))


class HeldCopy:
    """An engine with weights of its own, which nobody sends it."""

    def __init__(self, run):
        self.engine, self.held = run.engine, copy.deepcopy(run.models["policy"])

    def __call__(self, policy, *rest, **named):
        return self.engine(self.held, *rest, **named)

    def fingerprint(self):
        return fingerprint(self.held)


def held_copy(run, program):
    run.engine = HeldCopy(run)
    return program


def test_an_engine_that_had_nothing_to_sample_may_hold_other_weights():
    """Recorded rows: nobody sampled them, so the engine's copy is as old as its last call."""
    found, run = trained("sft", Watch(), held_copy)
    assert run.engine.fingerprint() != fingerprint(run.models["policy"])
    assert found


def padded(run, program):
    (term,) = program.stages[-1].method.objective
    return _with(program, objective=(replace(term, average=PaddedMean()),))


FAULTS = {
    "first ratio is 1": other_weights,
    "entropy is not negative": negative_entropy,
    "staleness is bounded": from_the_future,
    "reference is unchanged": written_reference,
    "engine has the policy's weights": held_copy,
    "denominators equal counted steps": padded,
}


@pytest.mark.parametrize("name", FAULTS)
def test_a_planted_fault_stops_the_run_or_is_told_once_a_stage(name):
    with pytest.raises(InvariantError, match=name) as stopped:
        trained("grpo", Watch(Rules(every=1, staleness=0)), FAULTS[name])
    assert "invariants.policy=warn" in str(stopped.value)
    told = []
    watch = Watch(Rules(policy="warn", every=1, staleness=0), told=lambda *alarm: told.append(alarm))
    metrics, _ = trained("grpo", watch, FAULTS[name])
    assert len(metrics) == cases.ROUNDS
    found = [alarm.name for _, alarm, _ in told]
    assert name in found
    assert len(found) <= 2 * len(set(found))  # two stages
    assert all(isinstance(rows, Batch) and len(rows) for _, _, rows in told)


def test_every_invariant_has_a_fault():
    assert len(FAULTS) == len(INVARIANTS)


def test_the_bound_on_staleness_counts_updates():
    for bound, fires in ((None, False), (9, False), (8, True)):
        watch = Watch(Rules(staleness=bound))
        if fires:
            with pytest.raises(InvariantError, match=r"\d to 9 optimiser steps old, the bound is 8"):
                trained("grpo", watch, stale)
        else:
            trained("grpo", watch, stale)


def test_models_that_a_method_writes_are_not_called_frozen():
    grpo = load("grpo")
    assert frozen_models(grpo) == ["reference"]
    moving: dict[str, dict] = {
        "after": {"after": (Average("reference"),)},
        "before": {"before": (Refresh("reference"),)},
        "after_step": {"update": replace(grpo.update, after_step=(Average("reference"),))},
    }
    for changes in moving.values():
        assert frozen_models(replace(grpo, **changes)) == []
    assert frozen_models(load("ppo")) == [n for n, s in load("ppo").models.items() if isinstance(s, Copy)]


def test_a_fingerprint_sees_one_bit_of_any_type():
    for dtype in (torch.float64, torch.float32, torch.bfloat16, torch.float16):
        layer = torch.nn.Linear(5, 4).to(dtype)
        layer.register_buffer("count", torch.tensor([3]))
        layer.register_buffer("seen", torch.tensor([True, False]))
        before = fingerprint(layer)
        assert fingerprint(copy.deepcopy(layer)) == before
        with torch.no_grad():
            layer.weight[2, 3] = torch.nextafter(layer.weight[2, 3], torch.tensor(9.0, dtype=dtype))
        assert fingerprint(layer) != before
        layer.get_buffer("seen")[1] = True
    assert fingerprint(torch.nn.ReLU()) == 0


# -- alarms ------------------------------------------------------------------------------------------------------------
def history(count: int, **metrics) -> History:
    """A stage whose metrics go from the first to the second value in the middle."""
    found = History()
    for index in range(count):
        found.add(0, {name.replace("__", "/"): pair[index >= count // 2] for name, pair in metrics.items()})
    return found


CASES = {
    "entropy collapse": ({"entropy": (2.0, 0.05), "reward": (0.3, 0.3)}, {"reward": (0.3, 0.9)}),
    "length explosion": ({"length": (10, 25), "reward": (0.3, 0.3)}, {"length": (10, 15)}),
    "reward hacking": ({"different": (4.0, 0.1), "reward": (0.1, 0.9)}, {"different": (4.0, 2.0)}),
}


@pytest.mark.parametrize("name", CASES)
def test_alarms_by_their_numbers(name):
    bad, better = CASES[name]
    (found,) = alarms(history(20, **bad), discrete=True, given=())
    assert found.name == name
    assert list(alarms(history(20, **{**bad, **better}), discrete=True, given=())) == []
    # Imitation has no reward: what it becomes is what it was shown.
    taught = {metric: pair for metric, pair in bad.items() if metric != "reward"}
    assert list(alarms(history(20, **taught), discrete=True, given=())) == []
    # Not before there are two windows, not twice, not of densities.
    assert list(alarms(history(9, **bad), discrete=True, given=())) == []
    assert list(alarms(history(20, **bad), discrete=False, given=())) == []
    once = history(20, **bad)
    once.told.append(name)
    assert list(alarms(once, discrete=True, given=())) == []


def test_cut_answers_and_paid_lengths_are_alarms_too():
    (cut,) = alarms(history(20, truncated=(0.1, 0.7), length=(10, 12), reward=(1, 1)), discrete=True, given=())
    assert cut.name == "length explosion"
    (paid,) = alarms(history(20, **{"paid by length": (0.2, 0.99)}, reward=(0, 1)), discrete=True, given=())
    assert paid.name == "reward hacking"


def test_an_option_that_never_acts_is_dead():
    never = history(IDLE, policy__clipped=(0.0, 0.0))
    (found,) = alarms(never, discrete=False, given=("objective.clip_high",))
    assert (found.name, "clip_high" in found.value) == ("dead option", True)
    assert list(alarms(never, discrete=False, given=("selection.count",))) == []
    acts = history(IDLE, policy__clipped=(0.0, 0.01))
    assert list(alarms(acts, discrete=False, given=("objective.clip_high",))) == []


def test_forms_of_answers_by_hand():
    run = cases.new_run("grpo")
    done = next(rounds(run, Program((Stage(load("grpo"), 1),))))
    rows = done.judged
    found = forms(run.models["policy"], rows)
    texts = {tuple(row) for row in cases.WORLD.strings(rows).tolist()}
    assert found["different"] == len(texts) / len(rows.row["task"].unique())
    assert -1 <= found["paid by length"] <= 1
    paid = rows.with_steps({"reward": rows.own.float()})
    assert forms(run.models["policy"], paid)["paid by length"] == pytest.approx(1.0)


class Hardened(Part):
    """From round 6 on the policy says one thing only."""

    def __call__(self, ctx, done):
        if ctx.stage_step == 5:
            with torch.no_grad():
                ctx.models["policy"].logits.zero_()[:, 1] = 50.0


def collapsing(tmp_path, name: str, every: int = 4):
    method = replace(cases._small(load("grpo")), after=(Hardened(),))
    hooks = Hooks(rows=lambda step, rows: [{"task": int(task)} for task in rows.row["task"][:2]])
    return Session(
        cases.new_run("grpo"), Program((Stage(method, 14),)), cases.folder(tmp_path, name), every, hooks=hooks
    )


def test_alarms_are_kept_with_rows_and_resumed_runs_tell_the_same(tmp_path):
    whole = collapsing(tmp_path, "whole")
    for _ in whole.rounds():
        pass
    told = read(whole.folder.alarms)
    # What says one thing only also never ends.
    assert {one["name"] for one in told} == {"entropy collapse", "length explosion"}
    assert told[0]["step"] >= 9
    assert len(told[0]["rows"]) == 2
    first = collapsing(tmp_path, "halves")
    going: Any = first.rounds()
    for _ in range(told[0]["step"] + 1):
        next(going)
    going.close()
    second = collapsing(tmp_path, "halves")
    for _ in second.rounds():
        pass
    assert second.folder.alarms.read_bytes() == whole.folder.alarms.read_bytes()
    assert second.folder.metrics.read_bytes() == whole.folder.metrics.read_bytes()
    assert second.watch.state() == whole.watch.state()


# -- recipes -----------------------------------------------------------------------------------------------------------
def recipe(tmp_path, **more):
    tasks = {"jsonl": str(tiny.jsonl(tmp_path / "tasks.jsonl", tiny.sums())), "verifier": "rules:length", "limit": 6}
    return {
        "name": "watched",
        "policy": {"new": {"hidden_size": 16, "layers": 1, "heads": 2, "positions": 64, "model_type": "llama"}},
        "tasks": tasks,
        "stages": [{"method": "grpo", "steps": 3, "options": {"selection.count": 3, "sampling.size": 3}}],
        "evaluation": None,
        "folder": str(tmp_path / "run"),
        **more,
    }


def test_a_recipe_says_what_is_watched(tmp_path):
    """Dropout in a language policy stops a run, or is told with texts."""

    def run(policy: str) -> Training:
        made = make_recipe(recipe(tmp_path, invariants={"policy": policy, "every": 1}))
        training = Training.start(made)
        layer = training.built.policy.backbone.layers[0].mlp
        layer.register_forward_hook(lambda module, given, out: 1.2 * out + torch.rand(out.shape) * 0.1)
        return training

    with run("stop") as training, pytest.raises(InvariantError, match="first ratio"):
        list(training.rounds())
    with run("warn") as training:
        assert len(list(training.rounds())) == 3
        (told,) = [one for one in read(training.folder.alarms) if one["name"] == "first ratio is 1"]
    assert {"prompt", "answer", "reward", "task"} <= set(told["rows"][0])
    assert json.dumps(told)


def test_the_watch_costs_little():
    """Process time of the watch against that of the rounds; the bound of 2 % is of the demo (see the benchmark), here
    rounds are far smaller, so this only catches a blow-up."""
    watch, spent = Watch(), 0.0

    def timed(ctx, kept):
        nonlocal spent
        began = time.process_time()
        watch(ctx, kept)
        spent += time.process_time() - began

    began = time.process_time()
    for _ in rounds(cases.new_run("grpo"), cases.program("grpo"), timed):
        pass
    assert spent < 0.35 * (time.process_time() - began)
