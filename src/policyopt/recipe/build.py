"""From a checked recipe to a run: policy, tokenizer, worlds, program."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch

from policyopt.compose import Method, Nothing, Program, Stage, frozen
from policyopt.engines.choose import engine_for
from policyopt.methods import load
from policyopt.options import override
from policyopt.policies.checkpoint import Lora, check_pair, load_language, new_language, with_lora
from policyopt.policies.language import Language
from policyopt.policies.tokenizer import character_tokenizer, check_alphabet, load_tokenizer
from policyopt.recipe.schema import PolicySection, Recipe, RecipeError, StageSection, TasksSection
from policyopt.recipe.tasks import Judging, held_out_entries, make_world, training_entries
from policyopt.run import Run
from policyopt.worlds.tasks import Entry
from policyopt.worlds.tokens import TokenWorld


@dataclass
class Built:
    """A run ready to start. Close it: graders have worker processes."""

    recipe: Recipe
    run: Run
    program: Program
    policy: Language
    tokenizer: Any
    engine: Any
    held_out: TokenWorld | None

    def close(self) -> None:
        for world in (*self.run.worlds.values(), self.held_out):
            judge = None if world is None else world.judge
            if isinstance(judge, Judging):
                judge.close()

    def __enter__(self) -> Built:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()


def choose_device(name: str) -> torch.device:
    """The named device, or the best one that is there."""
    if name != "auto":
        try:
            torch.empty(0, device=name)
        except (RuntimeError, AssertionError) as error:
            raise RecipeError(f"policy.device={name!r} can not be used: {error}; use auto or cpu") from error
        return torch.device(name)
    if torch.cuda.is_available():
        return torch.device("cuda")
    return torch.device("mps" if torch.backends.mps.is_available() else "cpu")


def build(recipe: Recipe) -> Built:
    """Everything a run needs; all that can be wrong with a recipe is found here, before any training."""
    device = choose_device(recipe.policy.device)
    sections = [_stage_tasks(recipe.tasks, stage) for stage in recipe.stages]
    held_out = held_out_entries(recipe.tasks, recipe.evaluation)
    entries = {repr(s): training_entries(s, held_out, recipe.seed) for s in sections}
    policy, tokenizer = make_policy(
        recipe.policy, [*held_out, *(e for found in entries.values() for e in found)], recipe.seed
    )
    policy = policy.to(device)
    made = {
        key: make_world(_named(sections, key), found, tokenizer, policy.positions) for key, found in entries.items()
    }
    names = {key: "world" if index == 0 else f"tasks {index}" for index, key in enumerate(made)}
    stages = tuple(
        Stage(_method(recipe, stage, names[repr(section)], made[repr(section)]), stage.steps)
        for stage, section in zip(recipe.stages, sections, strict=True)
    )
    _check_demonstrations(recipe, stages)
    models = {"policy": policy, **_models(recipe, policy, stages, device)}
    worlds = {names[key]: world for key, world in made.items()}
    engine = engine_for(policy, worlds["world"], recipe.policy.engine)
    run = Run(models, worlds["world"], engine, recipe.seed, worlds)
    judged = held_out and made[repr(sections[-1])].judge is not None
    evaluated = make_world(recipe.tasks, held_out, tokenizer, policy.positions) if judged else None
    return Built(recipe, run, Program(stages), policy, tokenizer, engine, evaluated)


def make_policy(section: PolicySection, entries: Sequence[Entry], seed: int) -> tuple[Language, Any]:
    """The policy and its tokenizer; a new character tokenizer knows the characters of the tasks."""
    dtype = getattr(torch, section.dtype)
    if section.model is not None:
        tokenizer = load_tokenizer(section.model, section.eos_token)
        policy = load_language(section.model, dtype)
    else:
        assert section.new is not None
        new = section.new
        texts = [text for entry in entries for text in (entry.prompt, entry.demonstration, entry.answer) if text]
        if any(entry.messages is not None for entry in entries):
            raise RecipeError("a new policy has no chat template; use policy.model=FOLDER for tasks with messages")
        texts += [text for entry in entries for text in (entry.chosen, entry.rejected) if text]
        tokenizer = character_tokenizer(new.alphabet or "".join(sorted(set("".join(texts)))))
        check_alphabet(tokenizer, texts)
        policy = new_language(
            len(tokenizer),
            new.model_type,
            new.hidden_size,
            new.layers,
            new.heads,
            seed,
            dtype,
            intermediate_size=new.intermediate_size or 4 * new.hidden_size,
            max_position_embeddings=new.positions,
        )
    check_pair(policy, tokenizer)
    if section.lora is not None:
        policy = with_lora(policy, Lora(section.lora.rank, section.lora.alpha, section.lora.target_modules, seed))
    return policy, tokenizer


def _stage_tasks(tasks: TasksSection, stage: StageSection) -> TasksSection:
    """The recipe's tasks with the stage's changes."""
    if not stage.tasks:
        return tasks
    merged = tasks.model_dump(exclude_unset=True)
    for name, value in stage.tasks.items():
        both = isinstance(value, dict) and isinstance(merged.get(name), dict)
        merged[name] = {**merged[name], **value} if both else value
    try:
        return TasksSection.model_validate(merged)
    except ValueError as error:
        raise RecipeError(f"stage {stage.method!r}, tasks: {error}") from error


def _named(sections: Sequence[TasksSection], key: str) -> TasksSection:
    return next(section for section in sections if repr(section) == key)


def _method(recipe: Recipe, stage: StageSection, world_name: str, world: TokenWorld) -> Method:
    method = replace(override(load(stage.method), stage.options), world=world_name)
    if "language" not in method.about.policies:
        raise RecipeError(f"method {method.key!r} does not run on language policies, only on {method.about.policies}")
    if not isinstance(method.reward, Nothing) and world.judge is None:
        raise RecipeError(
            f"method {method.key!r} needs rewards, but the tasks have no verifier; set tasks.verifier to exact, "
            "numeric, math_verify, regex or module:function"
        )
    needs = {"recorded": world.recorded_answers, "recorded_pairs": world.pairs}
    name = type(method.sampling).__name__
    if name == "Recorded" and needs["recorded"] is None:
        raise RecipeError(
            f"method {method.key!r} imitates recorded answers, but the tasks have none; give tasks.demonstrations, or "
            "data with a 'demonstration' per record"
        )
    if name == "RecordedPairs" and needs["recorded_pairs"] is None:
        raise RecipeError(
            f"method {method.key!r} learns from preference pairs, but the tasks have none; use data of "
            "{prompt, chosen, rejected}, or method dpo:dpo_online with a verifier"
        )
    return method


def _check_demonstrations(recipe: Recipe, stages: Sequence[Stage]) -> None:
    used = any(type(stage.method.sampling).__name__ == "Recorded" for stage in stages)
    if recipe.tasks.demonstrations is not None and not used:
        raise RecipeError(
            "tasks.demonstrations has no effect: no stage imitates recorded answers; remove it or add a stage with "
            "method sft"
        )


def _models(recipe: Recipe, policy: Language, stages: Sequence[Stage], device: torch.device) -> dict[str, Language]:
    """The models the user supplies. All must share the policy's vocabulary."""
    wanted = {name for stage in stages for name in stage.method.models}
    idle = sorted(set(recipe.models) - wanted)
    if idle:
        raise RecipeError(f"models {idle} have no effect: the methods of this recipe use {sorted(wanted)}; remove them")
    found = {}
    for name, path in recipe.models.items():
        model = frozen(load_language(path, getattr(torch, recipe.policy.dtype)).to(device))
        assert isinstance(model, Language)
        if model.vocabulary != policy.vocabulary:
            raise RecipeError(
                f"models.{name} has {model.vocabulary} tokens and the policy {policy.vocabulary}: they must share one "
                "tokenizer, or their log-probabilities can not be compared"
            )
        found[name] = model
    missing = [(name, spec) for stage in stages for name, spec in stage.method.models.items() if hasattr(spec, "what")]
    for name, spec in missing:
        if name not in found:
            spec.build(None, name)  # raises the error that says what to give
    return found
