"""From a checked recipe to a run: policy, tokenizer, worlds, program."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from typing import Any

import torch
from pydantic import ValidationError

from policyopt.compose import Given, Method, Nothing, Program, Stage, frozen
from policyopt.engines.choose import engine_for
from policyopt.methods import load
from policyopt.options import override
from policyopt.policies.checkpoint import Lora, check_pair, load_language, new_language, with_lora
from policyopt.policies.language import Language
from policyopt.policies.tokenizer import character_tokenizer, check_alphabet, load_tokenizer
from policyopt.recipe.schema import PolicySection, Recipe, RecipeError, StageSection, TasksSection, problems
from policyopt.recipe.tasks import close_world, held_out_entries, make_world, training_entries
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
    opened: ExitStack

    def close(self) -> None:
        self.opened.close()

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
    sections = [_stage_tasks(recipe.tasks, index, stage) for index, stage in enumerate(recipe.stages)]
    methods = [_method(stage) for stage in recipe.stages]
    _check_effects(recipe, methods)
    held_out = held_out_entries(recipe.tasks, recipe.evaluation)
    different = {repr(section): section for section in sections}
    entries = {
        key: training_entries(section, _excluded(recipe, section, held_out), recipe.seed)
        for key, section in different.items()
    }
    everything = [*held_out, *(entry for found in entries.values() for entry in found)]
    policy, tokenizer = make_policy(recipe.policy, everything, recipe.seed)
    models = {"policy": policy.to(device), **_models(recipe, policy, tokenizer, methods)}
    positions = min((m.positions for m in models.values() if m.positions is not None), default=None)
    with ExitStack() as opened:

        def world_of(section: TasksSection, found: Sequence[Entry]) -> TokenWorld:
            world = make_world(section, found, tokenizer, positions)
            opened.callback(close_world, world)
            return world

        made = {key: world_of(section, entries[key]) for key, section in different.items()}
        names = {key: "world" if index == 0 else f"tasks {index}" for index, key in enumerate(made)}
        stages = []
        for method, stage, section in zip(methods, recipe.stages, sections, strict=True):
            _check_data(method, made[repr(section)])
            stages.append(Stage(replace(method, world=names[repr(section)]), stage.steps))
        worlds = {names[key]: world for key, world in made.items()}
        engine = engine_for(policy, worlds["world"], recipe.policy.engine)
        run = Run(models, worlds["world"], engine, recipe.seed, worlds)
        evaluated = world_of(recipe.tasks, held_out) if held_out else None
        return Built(recipe, run, Program(tuple(stages)), policy, tokenizer, engine, evaluated, opened.pop_all())


def _excluded(recipe: Recipe, section: TasksSection, held_out: Sequence[Entry]) -> Sequence[Entry]:
    """Held-out tasks, also as a stage writes them that writes its prompts otherwise."""
    if not held_out or section == recipe.tasks or section.reasoning_gym is None:
        return held_out
    return [*held_out, *held_out_entries(section, recipe.evaluation)]


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


def _stage_tasks(tasks: TasksSection, index: int, stage: StageSection) -> TasksSection:
    """The recipe's tasks with the stage's changes."""
    if not stage.tasks:
        return tasks
    merged = tasks.model_dump(exclude_unset=True)
    for name, value in stage.tasks.items():
        both = isinstance(value, dict) and isinstance(merged.get(name), dict)
        merged[name] = {**merged[name], **value} if both else value
    try:
        return TasksSection.model_validate(merged)
    except ValidationError as error:
        raise RecipeError(problems(error, ("stages", str(index), "tasks"))) from error


def _method(stage: StageSection) -> Method:
    for key, options in stage.options_for.items():
        override(load(key), options)  # those of the other methods must be right as well
    method = override(load(stage.method), {**stage.options_for.get(stage.method, {}), **stage.options})
    if "language" not in method.about.policies:
        raise RecipeError(f"method {method.key!r} does not run on language policies, only on {method.about.policies}")
    return method


def _check_data(method: Method, world: TokenWorld) -> None:
    """The tasks must have what the method learns from."""
    if not isinstance(method.reward, Nothing) and world.judge is None:
        raise RecipeError(
            f"method {method.key!r} needs rewards, but the tasks have no verifier; set tasks.verifier to exact, "
            "numeric, math_verify, regex or module:function"
        )
    name = type(method.sampling).__name__
    if name == "Recorded" and world.recorded_answers is None:
        raise RecipeError(
            f"method {method.key!r} imitates recorded answers, but the tasks have none; give tasks.demonstrations, or "
            "data with a 'demonstration' per record"
        )
    if name == "RecordedPairs" and world.pairs is None:
        raise RecipeError(
            f"method {method.key!r} learns from preference pairs, but the tasks have none; use data of "
            "{prompt, chosen, rejected}, or method dpo:dpo_online with a verifier"
        )


def _check_effects(recipe: Recipe, methods: Sequence[Method]) -> None:
    """What no stage uses is a mistake."""
    used = any(type(method.sampling).__name__ == "Recorded" for method in methods)
    if recipe.tasks.demonstrations is not None and not used:
        raise RecipeError(
            "tasks.demonstrations has no effect: no stage imitates recorded answers; remove it or add a stage with "
            "method sft"
        )
    wanted = {name for method in methods for name in method.models}
    idle = sorted(set(recipe.models) - wanted)
    if idle:
        raise RecipeError(f"models {idle} have no effect: the methods of this recipe use {sorted(wanted)}; remove them")
    for method in methods:
        for name, spec in method.models.items():
            if isinstance(spec, Given) and name not in recipe.models:
                spec.build(None, name)  # raises the error that says what to give


def _models(recipe: Recipe, policy: Language, tokenizer: Any, methods: Sequence[Method]) -> dict[str, Language]:
    """The models the user supplies. All must share the policy's vocabulary."""
    found = {}
    device = next(policy.parameters()).device
    for name, path in recipe.models.items():
        model = frozen(load_language(path, getattr(torch, recipe.policy.dtype)).to(device))
        assert isinstance(model, Language)
        words = load_tokenizer(path)
        if model.vocabulary != policy.vocabulary or words.get_vocab() != tokenizer.get_vocab():
            raise RecipeError(
                f"models.{name} has {model.vocabulary} tokens and the policy {policy.vocabulary}"
                + (", of the same number but not the same text" if model.vocabulary == policy.vocabulary else "")
                + ": they must share one tokenizer, or their log-probabilities can not be compared. Give a model of "
                "the policy's family"
            )
        found[name] = model
    return found
