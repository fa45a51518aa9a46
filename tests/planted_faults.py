"""Faults planted into a healthy recipe, each with the checks of the flight that must see it. The published ones: a
quickstart that truncates nearly all answers; temperature, top-k or top-p on the sampler's side alone; dropout while
scoring; padding that equals EOS."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import tiny
import torch
from torch.nn import functional as F

from policyopt.compose import Copy
from policyopt.engines.plain import generate
from policyopt.evaluation.flight import Verdict
from policyopt.types import Categorical
from policyopt.worlds.tokens import TokenWorld

FIRES = {"warn": (Verdict.WARN, Verdict.FAULT), "fault": (Verdict.FAULT,)}


def conversations(folder: Path) -> dict[str, Any]:
    """A recipe of conversations for a model folder with a chat template."""
    tiny.folder(folder / "model", positions=192)
    return {
        "name": "chats",
        "policy": {"model": str(folder / "model")},
        "tasks": {"jsonl": str(tiny.jsonl(folder / "t.jsonl", tiny.chats())), "limit": 8, "verifier": "exact"},
        "stages": [{"method": "grpo", "steps": 2, "options": {"selection.count": 2, "sampling.size": 2}}],
        "evaluation": {"tasks": 4, "samples": 8},
    }


# -- engines -----------------------------------------------------------------------------------------------------------
class Heated:
    """Samples at another temperature than the rows declare. reports: the log-probabilities it reports are of the
    distribution that it samples from, or of the declared one."""

    def __init__(self, engine: Any, factor: float, *, reports: bool):
        self.engine, self.factor, self.reports = engine, factor, reports

    def __call__(self, policy, world, batch, keys, temperature, version, steps=None):
        declared = batch.row["temperature"]
        hot = batch.with_rows({"temperature": declared * self.factor})
        done = self.engine(policy, world, hot, keys, temperature * self.factor, version, steps=steps)
        done = done.with_rows({"temperature": declared})
        return done if self.reports else honest(policy, done)


class Cut:
    """Samples from the most probable choices that together have a mass of `top_p`, at most `top_k` of them."""

    def __init__(self, top_p: float = 1.0, top_k: int = 10**9, *, reports: bool):
        self.top_p, self.top_k, self.reports = top_p, top_k, reports

    def __call__(self, policy, world, batch, keys, temperature, version, steps=None):
        narrow = SimpleNamespace(next=lambda rows: self.narrowed(policy.next(rows)))
        done = generate(narrow, world, batch, keys, temperature, version, steps)
        return done if self.reports else honest(policy, done)

    def narrowed(self, dist: Categorical) -> Categorical:
        logp, order = dist.logp.sort(-1, descending=True)
        before = logp.exp().cumsum(-1) - logp.exp()
        kept = (before < self.top_p) & (torch.arange(logp.shape[-1]) < self.top_k)
        logp = torch.where(kept, logp, -torch.inf).log_softmax(-1)
        return Categorical(torch.empty_like(logp).scatter(-1, order, logp))


def honest(policy, done):
    """The rows with the log-probabilities of the whole distribution."""
    logp = policy.score(done).logp
    return done.with_steps({"behaviour": torch.where(done.own, logp, done.step["behaviour"])})


class Forgetful:
    """Ignores the rows' streams of random numbers."""

    def __init__(self, engine: Any):
        self.engine, self.calls = engine, 0

    def __call__(self, policy, world, batch, keys, temperature, version, steps=None):
        self.calls += 1
        return self.engine(policy, world, batch, keys + self.calls, temperature, version, steps=steps)


def engine(wrap: Callable[[Any], Any]) -> Callable[[Any], None]:
    def plant(built) -> None:
        built.run.engine = wrap(built.run.engine)

    return plant


# -- models ------------------------------------------------------------------------------------------------------------
def untempered(built) -> None:
    """The trainer forgets the temperature."""
    score = built.policy.score

    def scored(batch, context=None, *, full=False):
        return score(batch.with_rows({"temperature": torch.ones_like(batch.row["temperature"])}), context, full=full)

    built.policy.score = scored


def dropping(built) -> None:
    """A dropout of 0.1 that is on in every pass."""
    layer = built.policy.backbone.layers[0].mlp
    layer.register_forward_hook(lambda module, given, out: F.dropout(out, 0.1, training=True))


def train_mode(built) -> None:
    """Another library's model, left in training mode."""
    layer = torch.nn.Dropout(0.1)
    built.policy.backbone.layers[0].mlp.add_module("dropout", layer)
    layer.training = True


def on_gradients(change: Callable[[torch.Tensor], torch.Tensor]) -> Callable[[Any], None]:
    def plant(built) -> None:
        for parameter in built.policy.parameters():
            parameter.register_hook(change)

    return plant


class OtherCopy(Copy):
    """A reference with other weights than the policy."""

    def build(self, run, name):
        model = super().build(run, name)
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.mul_(1.1)
        return model


def other_reference(built) -> None:
    stages = tuple(
        replace(stage, method=replace(stage.method, models={**stage.method.models, "reference": OtherCopy()}))
        if "reference" in stage.method.models
        else stage
        for stage in built.program.stages
    )
    built.program = type(built.program)(stages)


# -- tasks -------------------------------------------------------------------------------------------------------------
class PadMasked(TokenWorld):
    """Masks the padding token out of the loss by its id, which is also EOS."""

    def extend(self, batch, token, logp, live, version):
        done = super().extend(batch, token, logp, live, version)
        return done.with_steps({"train": done.step["train"] & (done.step["_token"] != self.eos)})


def pad_masked(built) -> None:
    for name, world in built.run.worlds.items():
        built.run.worlds[name] = PadMasked(**vars(world))


def pad_index(built) -> None:
    built.policy.causal.get_input_embeddings().padding_idx = built.subject.tokenizer.eos_token_id


def other_end(built) -> None:
    built.subject.tokenizer.eos_token = built.subject.tokenizer.unk_token


def leaking(built) -> None:
    subject = built.subject
    some = [*subject.held_out.prompts[2:], *subject.worlds[0].prompts[:2]]
    subject.held_out = replace(subject.held_out, prompts=some)


def repeating(built) -> None:
    subject = built.subject
    subject.held_out = replace(subject.held_out, prompts=[*subject.held_out.prompts[1:], subject.held_out.prompts[-1]])


def template(text: str) -> Callable[[Any], None]:
    def plant(built) -> None:
        built.subject.tokenizer.chat_template = text

    return plant


TRIMS = (
    "{% for m in messages %}<|im_start|>{{ m['role'] }}\n{{ m['content'] | trim }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
FORGETS_THOUGHTS = (
    "{% for m in messages %}<|im_start|>{{ m['role'] }}\n{% if m['role'] == 'assistant' and not loop.last %}"
    "{{ m['content'].split('</think>')[-1] }}{% else %}{{ m['content'] }}{% endif %}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
NUMBERS_TURNS = (
    "{% for m in messages %}<|im_start|>{{ m['role'] }} {{ loop.revindex }}\n{{ m['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


def wrong_turn_end(built) -> None:
    for name, world in built.run.worlds.items():
        built.run.worlds[name] = replace(world, eos=0)
    built.subject.worlds = list(built.run.worlds.values())
    built.subject.tokenizer.eos_token = built.subject.tokenizer.convert_ids_to_tokens(0)


# -- the list ----------------------------------------------------------------------------------------------------------
@dataclass(frozen=True)
class Fault:
    """changes: to the recipe; plant: into what was built. sees: checks that must fire. least: "warn" or "fault"."""

    sees: tuple[str, ...]
    changes: tuple[str, ...] = ()
    plant: Callable[[Any], None] | None = None
    least: str = "fault"


AGREES, FROM, RATIO = "sampler agrees with trainer", "samples come from the declared distribution", "ratio at step 0"
TEMPLATE, EOS = "chat template keeps turns", "EOS is learnable"


def reward(name: str, *more: str) -> tuple[str, ...]:
    return (f"tasks.verifier=planted_rewards:{name}", "tasks.verifier_options={}", *more)


def noise(gradient: torch.Tensor) -> torch.Tensor:
    return gradient + 1e3 * torch.randn_like(gradient)


TEXT: dict[str, Fault] = {
    "answers are cut off (tasks.limit)": Fault(("truncated answers",), ("tasks.limit=2",)),
    "sampler at temperature 0.6, its log-probs": Fault((AGREES,), plant=engine(lambda e: Heated(e, 0.6, reports=True))),
    "sampler at temperature 0.6, log-probs at 1": Fault((FROM,), plant=engine(lambda e: Heated(e, 0.6, reports=False))),
    "trainer without the temperature of 0.6": Fault((AGREES,), ("sampling.temperature=0.6",), untempered),
    "sampler with top-p 0.9, its log-probs": Fault((AGREES,), plant=engine(lambda e: Cut(0.9, reports=True))),
    "sampler with top-p 0.9, log-probs of all": Fault((FROM,), plant=engine(lambda e: Cut(0.9, reports=False))),
    "sampler with top-k 2, log-probs of all": Fault((FROM,), plant=engine(lambda e: Cut(top_k=2, reports=False))),
    "dropout in every pass": Fault(("no dropout while scoring", AGREES, RATIO), plant=dropping),
    "model left in training mode": Fault(("no dropout while scoring",), plant=train_mode),
    "reference of other weights": Fault(("KL at step 0",), ("constraint.kl.weight=0.04",), other_reference),
    "padding = EOS, masked by id": Fault((EOS,), plant=pad_masked),
    "padding = EOS, no gradient": Fault((EOS,), plant=pad_index),
    "another end token": Fault((EOS,), plant=other_end),
    "sampling without seeds": Fault(("sampling is reproducible",), plant=engine(Forgetful)),
    "reward is not deterministic": Fault(("reward is deterministic",), reward("noisy")),
    "reward is slow": Fault(("reward is quick",), reward("slow")),
    "reward crashes": Fault(("reward can be had",), reward("crashes")),
    "reward hangs": Fault(("reward can be had", "reward is quick"), reward("hangs", "tasks.deadline=0.3")),
    "reward pays for length": Fault(("reward against length and format",), reward("long_answers")),
    "reward pays for a form": Fault(("reward against length and format",), reward("repetition")),
    "reward is always 1": Fault(("groups without variance", "gradient"), reward("always")),
    "evaluation tasks are trained on": Fault(("evaluation tasks are apart",), plant=leaking),
    "evaluation tasks repeat": Fault(("evaluation tasks are apart",), plant=repeating, least="warn"),
    "gradient is nan": Fault(("gradient",), plant=on_gradients(lambda g: g * math.nan)),
    "gradient is cut": Fault(("gradient",), plant=on_gradients(torch.zeros_like)),
    "gradient is huge": Fault(("gradient",), plant=on_gradients(lambda g: 1e6 * g), least="warn"),
    "gradient is noise": Fault(("gradient noise scale",), plant=on_gradients(noise), least="warn"),
    "clip range with one update a round": Fault(
        ("options have an effect",), ("objective.clip_high=0.28",), least="warn"
    ),
}
"""Into a recipe of plain prompts that the policy solves sometimes."""

CHAT: dict[str, Fault] = {
    "template trims replies": Fault((TEMPLATE,), plant=template(TRIMS), least="warn"),
    "template forgets thoughts": Fault((TEMPLATE,), plant=template(FORGETS_THOUGHTS), least="warn"),
    "template rewrites turns": Fault((TEMPLATE,), plant=template(NUMBERS_TURNS)),
    "EOS is not the template's end": Fault((EOS,), plant=wrong_turn_end),
}
"""Into a recipe of conversations."""
