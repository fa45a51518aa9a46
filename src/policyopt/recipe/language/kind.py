"""Language policies: models and tokenizers, worlds of texts, success on held-out tasks."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from numpy.typing import NDArray

from policyopt.compose import Method, PreferenceModel, frozen
from policyopt.engines.choose import engine_for
from policyopt.engines.native import Decoding
from policyopt.engines.vllm_model import VllmOptions
from policyopt.evaluation.pairs import agreement
from policyopt.evaluation.passes import pass_counts, passes
from policyopt.evaluation.rewarded import on_pairs, rewarded
from policyopt.policies.checkpoint import Lora, check_pair, load_language, new_language, save_language, with_lora
from policyopt.policies.classifiers import Classifier
from policyopt.policies.hindsight import Landmark
from policyopt.policies.hindsight_language import HindsightLanguage
from policyopt.policies.language import Language
from policyopt.policies.reward_checkpoint import holds_reward, load_reward, save_reward, template_of
from policyopt.policies.token_scores import scorer
from policyopt.policies.tokenizer import character_tokenizer, check_alphabet, load_tokenizer
from policyopt.policies.trunk import Reading, suited
from policyopt.recipe.base import RecipeError
from policyopt.recipe.kinds import EVALUATION_SEED, Asked, Evaluation, Subject, choose_device
from policyopt.recipe.language.adapters import check_rank
from policyopt.recipe.language.judges import judges_of
from policyopt.recipe.language.preferences import check_preferences
from policyopt.recipe.language.questions import check_questions, parts_of
from policyopt.recipe.language.sections import (
    EvaluationSection,
    LanguageRecipe,
    NewModel,
    PolicySection,
    TasksSection,
)
from policyopt.recipe.language.tasks import (
    close_world,
    fitting,
    held_out_entries,
    make_world,
    training_entries,
    verifier_name,
)
from policyopt.reward.parts import Verified
from policyopt.seen import comparing
from policyopt.types import REFERENCE_ANSWER, Batch
from policyopt.worlds.tasks import Entry
from policyopt.worlds.tokens import TokenWorld

TASKS, SAMPLES = 200, 16  # of an evaluation without training


@dataclass
class LanguageSubject(Subject):
    """A language policy, its tokenizer and its worlds."""

    models: Mapping[str, Any]
    worlds: Sequence[TokenWorld]
    engine: Any
    tokenizer: Any
    held_out: TokenWorld | None
    evaluation: EvaluationSection | None
    template: str | None = None  # by which models read reference answers
    comparing: frozenset[str] = frozenset()  # models that compare rows without being asked in words

    def check(self, method: Method, world: TokenWorld) -> None:
        if world.judge is None and any(isinstance(part, Verified) for part in parts_of(method.reward)):
            raise RecipeError(
                f"method {method.key!r} needs rewards, but the tasks have no verifier; set tasks.verifier to exact, "
                "numeric, math_verify, regex or module:function"
            )
        if method.sampling.data == "rows" and world.recorded_answers is None:
            raise RecipeError(
                f"method {method.key!r} imitates recorded answers, but the tasks have none; give tasks.demonstrations, "
                "or data with a 'demonstration' per record"
            )
        check_preferences(method, world)
        check_questions(method, world, self.comparing)

    def measure(self) -> Evaluation | None:
        if self.held_out is None or self.evaluation is None:
            return None
        return measured(self.policy, self.held_out, self.engine, self.evaluation)

    @property
    def measured(self) -> Sequence[str]:
        if self.held_out is None or self.evaluation is None:
            return ()
        if self.held_out.judge is None:
            return ("preference_accuracy",)
        return ("greedy", "reward", *(f"pass_at_{k}" for k in pass_counts(self.evaluation.samples)))

    def save(self, folder: Path) -> None:
        policy = self.policy
        save_language(policy.acting() if isinstance(policy, HindsightLanguage) else policy, folder, self.tokenizer)

    def judged(self, policy: Any, rewards: Mapping[str, Any], start: Any) -> tuple[Mapping[str, NDArray], str]:
        world, section = self.held_out, self.evaluation
        if world is None or section is None:
            return {}, ""
        found = rewarded(policy, world, self.engine, EVALUATION_SEED, section.samples, rewards, start)
        return found, f"{world.size} held-out prompts, {section.samples} samples each"

    def judged_rewards(self, rewards: Mapping[str, Any]) -> dict[str, Any]:
        if self.held_out is None or self.held_out.pairs is None:
            return {}
        return {name: on_pairs(model, self.held_out) for name, model in rewards.items()}

    def save_reward(self, model: Any, folder: Path) -> None:
        save_reward(model, folder, self.tokenizer, self.template)

    def shown(self, rows: Batch, steps: int, world: TokenWorld) -> Sequence[Mapping[str, Any]]:
        """Prompt, answer, and the text of every step."""
        prompts = [world.decode(world.prompts[task]) for task in rows.row["task"].tolist()]
        tokens = [token[valid][:steps].tolist() for token, valid in zip(rows.step["_token"], rows.valid, strict=True)]
        decode = world.decode_raw or world.decode
        shown = zip(prompts, world.texts(rows), tokens, strict=True)
        return [{"prompt": p, "answer": a, "tokens": pieces(decode, t)} for p, a, t in shown]


def pieces(decode: Callable[[list[int]], str], tokens: Sequence[int]) -> list[str]:
    """The text of every token behind the one before it (a token alone may lose a leading space)."""
    found = []
    for index, token in enumerate(tokens):
        before = decode(list(tokens[max(0, index - 1) : index])) if index else ""
        both = decode(list(tokens[max(0, index - 1) : index + 1]))
        found.append(both[len(before) :] if both.startswith(before) else decode([token]))
    return found


def measured(policy: Any, world: TokenWorld, engine: Any, section: EvaluationSection) -> Evaluation:
    """Success on held-out tasks, or agreement with held-out preferences where nothing can be scored."""
    if world.judge is None:
        found = agreement(policy, world).summary()
        return Evaluation(f"{found['pairs']} held-out pairs", found)
    result = passes(policy, world, engine, EVALUATION_SEED, section.samples, section.temperature, section.success)
    return Evaluation(
        f"{result.tasks} held-out tasks, {result.samples} samples a task",
        result.summary(),
        tuple((prompt, answer, None if math.isnan(score) else score) for prompt, answer, score in result.answers),
        f"{result.unscored} answers could not be scored and count as wrong" if result.unscored else "",
    )


class LanguageKind:
    """See `Kind`."""

    recipe = LanguageRecipe

    def build(
        self, recipe: LanguageRecipe, methods: Sequence[Method], tasks: Sequence[TasksSection], opened: ExitStack
    ) -> LanguageSubject:
        device = choose_device(recipe.policy.device)
        _check_demonstrations(recipe, methods)
        specs = [(name, spec) for method in methods for name, spec in method.models.items()]
        if recipe.policy.hindsight is not None and not any(isinstance(spec, Landmark) for _, spec in specs):
            raise RecipeError("policy.hindsight has no effect: no stage learns codes; remove it or add one with oppo")
        held_out = held_out_entries(recipe.tasks, recipe.evaluation)
        entries = [training_entries(section, _excluded(recipe, section, held_out), recipe.seed) for section in tasks]
        everything = [*held_out, *(entry for found in entries for entry in found)]
        words = [recipe.tasks.reference_answer or ""]
        policy, tokenizer = make_policy(recipe.policy, everything, recipe.seed, words)
        given = {**_models(recipe, policy, tokenizer), **judges_of(recipe.judges, tokenizer)}
        models = {"policy": policy.to(device), **given}
        _check_reference_answers(recipe, specs, models)
        held = [model.positions for model in models.values() if isinstance(model, (Language, HindsightLanguage))]
        positions = min((limit for limit in held if limit is not None), default=None)

        def world_of(section: TasksSection, found: Sequence[Entry]) -> TokenWorld:
            world = make_world(section, fitting(section, found, tokenizer, positions), tokenizer, positions)
            opened.callback(close_world, world)
            return world

        worlds = [world_of(section, found) for section, found in zip(tasks, entries, strict=True)]
        engine = engine_of(recipe.policy, policy, worlds[0])
        evaluated = world_of(recipe.tasks, held_out) if held_out else None
        able = {name for name, model in models.items() if comparing(model)}
        able |= {name for name, spec in specs if isinstance(spec, PreferenceModel)}
        return LanguageSubject(
            models,
            worlds,
            engine,
            tokenizer,
            evaluated,
            recipe.evaluation,
            recipe.tasks.reference_answer,
            frozenset(able),
        )

    def evaluate(self, model: str, recipe: LanguageRecipe | None, asked: Asked) -> Evaluation:
        """With a recipe, its own run's held-out tasks are the first ones of these."""
        chosen = {"tasks": asked.count or TASKS, "samples": asked.samples or SAMPLES}
        evaluation = EvaluationSection.model_validate(chosen)
        given: dict[str, Any] = {"reasoning_gym": asked.task}
        if recipe is not None:
            given = recipe.tasks.model_dump(exclude_unset=True)
            if recipe.evaluation is not None:
                evaluation = EvaluationSection.model_validate({**recipe.evaluation.model_dump(), **chosen})
        section = TasksSection.model_validate({**given, **asked.changes})
        if verifier_name(section) is None:
            raise RecipeError("evaluation needs a verifier; set tasks.verifier in the recipe")
        device = choose_device("auto")
        policy, tokenizer = load_language(model).to(device), load_tokenizer(model)
        entries = fitting(section, held_out_entries(section, evaluation), tokenizer, policy.positions)
        world = make_world(section, entries, tokenizer, policy.positions)
        try:
            return measured(policy, world, engine_for(policy, world), evaluation)
        finally:
            close_world(world)

    def owns(self, model: str) -> bool:
        return True  # a Hugging Face folder or name; `load_language` says what is wrong with it


KIND = LanguageKind()


def make_policy(
    section: PolicySection, entries: Sequence[Entry], seed: int, words: Sequence[str] = ()
) -> tuple[Language | HindsightLanguage, Any]:
    """The policy and its tokenizer; a new character tokenizer knows the characters of the tasks and of other words."""
    scorer(section.reading.scoring, choose_device(section.device))  # says now what would be wrong with it
    dtype = getattr(torch, section.dtype)
    if section.model is not None:
        tokenizer = load_tokenizer(section.model, section.eos_token)
        policy = load_language(section.model, dtype)
    else:
        assert section.new is not None
        policy, tokenizer = _new(section.new, entries, seed, dtype, words)
    check_pair(policy, tokenizer)
    if section.lora is not None:
        policy = with_lora(policy, Lora(section.lora.rank, section.lora.alpha, section.lora.target_modules, seed))
        check_rank(policy, section.lora.rank)
    said = section.reading
    autocast = None if said.autocast is None else torch.bfloat16
    reading = Reading(said.packed, said.share, said.checkpointed, autocast, said.scoring, said.compiled)
    policy.reading = suited(policy.backbone, reading)
    if section.hindsight is not None:
        return HindsightLanguage(policy, section.hindsight.size, seed), tokenizer
    return policy, tokenizer


def engine_of(section: PolicySection, policy: Language | HindsightLanguage, world: TokenWorld) -> Any:
    """The engine that a recipe asks for."""
    options = None
    if section.vllm is not None:
        options = VllmOptions(**section.vllm.model_dump())
    elif section.native is not None:
        weights = section.native.weights and getattr(torch, section.native.weights)
        options = Decoding(**{**section.native.model_dump(), "weights": weights})
    return engine_for(policy, world, section.engine, options)


def _new(
    new: NewModel, entries: Sequence[Entry], seed: int, dtype: torch.dtype, words: Sequence[str]
) -> tuple[Language, Any]:
    texts = [*words, *(text for entry in entries for text in (entry.prompt, entry.demonstration, entry.answer) if text)]
    if any(entry.messages is not None for entry in entries):
        raise RecipeError("a new policy has no chat template; use policy.model=FOLDER for tasks with messages")
    recorded = [candidate for entry in entries for candidate in entry.candidates]
    if any(isinstance(candidate.start, tuple) for candidate in recorded):
        raise RecipeError("a new policy has no chat template; use policy.model=FOLDER for segments of conversations")
    texts += [text for candidate in recorded for text in (candidate.text, candidate.start) if isinstance(text, str)]
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
    return policy, tokenizer


def _excluded(recipe: LanguageRecipe, section: TasksSection, held_out: Sequence[Entry]) -> Sequence[Entry]:
    """Held-out tasks, also as a stage writes them that writes its prompts otherwise."""
    if not held_out or section == recipe.tasks or section.reasoning_gym is None:
        return held_out
    return [*held_out, *held_out_entries(section, recipe.evaluation)]


def _check_demonstrations(recipe: LanguageRecipe, methods: Sequence[Method]) -> None:
    """What no stage uses is a mistake."""
    used = {method.sampling.data for method in methods}
    if recipe.tasks.preferences is not None and "pairs" not in used:
        raise RecipeError(
            "tasks.preferences has no effect: no stage learns from recorded pairs; remove it or add a stage with "
            "method dpo or reward_model"
        )
    if recipe.tasks.demonstrations is not None and recipe.tasks.preferences is None and "rows" not in used:
        raise RecipeError(
            "tasks.demonstrations has no effect: no stage imitates recorded answers; remove it or add a stage with "
            "method sft"
        )


def _check_reference_answers(
    recipe: LanguageRecipe, specs: Sequence[tuple[str, Any]], models: Mapping[str, Any]
) -> None:
    """RecipeError: reward models read reference answers that the tasks do not show, or show in other words than those
    they were trained on; or none reads them."""
    template = recipe.tasks.reference_answer
    given = {name: template_of(model) for name, model in models.items() if isinstance(model, Classifier)}
    for name, theirs in given.items():
        if theirs is not None and theirs != template:
            raise RecipeError(
                f"models.{name} reads reference answers as {theirs!r}, and tasks.reference_answer is {template!r}; "
                "set it to what the model was trained on"
            )
    asking = sorted(name for name, spec in specs if getattr(spec, "context", None) == REFERENCE_ANSWER)
    if asking and template is None:
        raise RecipeError(
            f"the models {asking} read reference answers; say how with tasks.reference_answer, a template over "
            "{prompt} and {answer}"
        )
    if template is not None and not asking and not any(given.values()):
        raise RecipeError(
            "tasks.reference_answer has no effect: no reward model reads it; remove it or use method "
            "reward_model:reference_conditioned"
        )


def _models(
    recipe: LanguageRecipe, policy: Language | HindsightLanguage, tokenizer: Any
) -> dict[str, Language | Classifier]:
    """The models the user supplies, reward models by what their folder says. All must share the policy's vocabulary."""
    found = {}
    device, dtype = next(policy.parameters()).device, getattr(torch, recipe.policy.dtype)
    for name, path in recipe.models.items():
        model = frozen((load_reward if holds_reward(path) else load_language)(path, dtype).to(device))
        assert isinstance(model, (Language, Classifier))
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
