"""A reward model of any form on benchmarks and against gold rewards: what `policyopt reward` does."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import yaml
from pydantic import ValidationError

from policyopt.engines.choose import engine_for
from policyopt.evaluation.reward_bench import benchmark, curve, is_right
from policyopt.evaluation.rewarded import GOLD, KL, proxy, rewarded, samples_of
from policyopt.evaluation.statistics import mean_interval
from policyopt.policies.checkpoint import load_language
from policyopt.policies.implicit import ImplicitReward
from policyopt.policies.judges import PairJudge, ScoringJudge
from policyopt.policies.reward_checkpoint import holds_reward, load_reward, template_of
from policyopt.policies.tokenizer import load_tokenizer
from policyopt.recipe.base import RecipeError, problems
from policyopt.recipe.kinds import EVALUATION_SEED, choose_device
from policyopt.recipe.language.judges import judges_of
from policyopt.recipe.language.sections import EvaluationSection, JudgeSection, LanguageRecipe
from policyopt.recipe.language.tasks import (
    beside_answers,
    close_world,
    fitting,
    held_out_entries,
    make_world,
    verifier_name,
)
from policyopt.worlds.prompts import token_world
from policyopt.worlds.reward_bench import Item
from policyopt.worlds.tasks import Entry
from policyopt.worlds.tokens import TokenWorld

CHUNK = 64  # completions that are scored together


@dataclass(frozen=True)
class Completion:
    """A text behind a prompt (a text or messages), and the task's own answer, "" where there is none."""

    prompt: Any
    text: str
    answer: str = ""


@dataclass(frozen=True)
class Scorer:
    """worth: numbers for completions, nan where there is none. chances: how far completions are preferred to others,
    for models and judges that compare and give no numbers. model: of a folder, None if texts are all it reads.
    template: by which it reads answers, if it does."""

    name: str
    worth: Callable[[Sequence[Completion]], list[float]] | None
    chances: Callable[[Sequence[tuple[Completion, Completion]]], list[float]] | None = None
    model: Any = None
    template: str | None = None


def open_scorer(path: str, reference: str | None = None, beta: float = 0.1) -> Scorer:
    """A reward model of a folder, the implicit reward of a policy's folder beside its reference's, or a judge of a
    YAML file with what a recipe's `judges.NAME` holds."""
    if Path(path).suffix in (".yaml", ".yml"):
        return _judge(path)
    device = choose_device("auto")
    model, tokenizer = _opened(path, reference, beta).to(device), load_tokenizer(path)
    template = template_of(model) if holds_reward(path) else None

    def world_of(asked: Sequence[Completion]) -> TokenWorld:
        entries = [Entry.asking(one.prompt, one.answer, demonstration=one.text) for one in asked]
        return beside_answers(token_world(entries, tokenizer, 1), template, entries, tokenizer)

    def worth(asked: Sequence[Completion]) -> list[float]:
        world, found = world_of(asked), []
        for ids in torch.arange(world.size, device=device).split(CHUNK):
            with torch.no_grad():
                found += model.worth(world.recorded(world.tasks(ids))).double().tolist()
        return found

    def chances(asked: Sequence[tuple[Completion, Completion]]) -> list[float]:
        world, found = world_of([one for pair in asked for one in pair]), []
        for ids in torch.arange(world.size, device=device).split(CHUNK):
            rows = world.recorded(world.tasks(ids))
            first = torch.arange(0, len(ids), 2, device=device)
            with torch.no_grad():
                found += model.compare(rows, first, first + 1).double().sigmoid().tolist()
        return found

    if hasattr(model, "compare"):
        return Scorer(path, None, chances, model, template)
    return Scorer(path, worth, model=model, template=template)


def _opened(path: str, reference: str | None, beta: float) -> Any:
    if holds_reward(path):
        return load_reward(path)
    if not Path(path).is_dir() and not path.startswith("hub:"):
        raise RecipeError(f"there is no folder {path!r}; give that of a reward model or policy, or a judge's YAML file")
    if reference is None:
        raise RecipeError(
            f"{path!r} is a policy, whose implicit reward needs the policy that it was trained from: give --reference, "
            "or the folder of a sequence classifier"
        )
    return ImplicitReward(load_language(path), load_language(reference), beta)


def _judge(path: str) -> Scorer:
    try:
        said = JudgeSection.model_validate(yaml.safe_load(Path(path).read_text(encoding="utf-8")))
    except OSError as error:
        raise RecipeError(f"the judge {path!r} can not be read: {error}") from error
    except yaml.YAMLError as error:
        raise RecipeError(f"{path} is not valid YAML: {error}") from error
    except ValidationError as error:
        raise RecipeError(f"{path}: {problems(error, JudgeSection)}") from error
    judge = judges_of({Path(path).stem: said}, _NoTokens())[Path(path).stem]

    def numbers(answers: Sequence[float | None]) -> list[float]:
        return [math.nan if answer is None else answer for answer in answers]

    if isinstance(judge, ScoringJudge):
        return Scorer(path, lambda asked: numbers(judge.scores([(one.prompt, one.text) for one in asked])))
    pairs: PairJudge = judge
    return Scorer(path, None, lambda asked: numbers(pairs.chances([(a.prompt, a.text, b.text) for a, b in asked])))


class _NoTokens:
    """Judges here read texts, never tokens."""

    def decode(self, tokens: Sequence[int], **options: Any) -> str:
        raise RecipeError("this judge reads texts")


# -- benchmarks --------------------------------------------------------------------------------------------------------
def on_benchmark(scorer: Scorer, items: Sequence[Item]) -> dict[str, Any]:
    """See `evaluation.reward_bench.benchmark`."""
    subsets = [item.subset for item in items]
    if scorer.worth is None:
        return _by_pairs(scorer, items, subsets)
    asked = [_shown(scorer, item, text) for item in items for text in item.completions]
    scores, chances, right = iter(scorer.worth(asked)), [], []
    for item in items:
        chosen = [next(scores) for _ in item.chosen]
        rejected = [next(scores) for _ in item.rejected]
        right.append(is_right(chosen, rejected))
        chances.append([_sigma(one - other) for one in chosen for other in rejected])
    return benchmark(subsets, chances, right)


def _shown(scorer: Scorer, item: Item, text: str) -> Completion:
    """A judge reads the prompt as one text. RecipeError: no answer of the item's own, which the model reads."""
    if scorer.template is not None and not item.answer:
        raise RecipeError(
            f"{scorer.name} reads the reference answer of every item, and an item ({item.question[:40]!r}) has none; "
            "give the field 'answer'"
        )
    return Completion(item.question if scorer.model is None else item.prompt, text, item.answer)


def _by_pairs(scorer: Scorer, items: Sequence[Item], subsets: Sequence[str]) -> dict[str, Any]:
    assert scorer.chances is not None
    asked = [
        (_shown(scorer, item, one), _shown(scorer, item, other))
        for item in items
        for one in item.chosen
        for other in item.rejected
    ]
    said, chances, right = iter(scorer.chances(asked)), [], []
    for item in items:
        own = [next(said) for _ in range(len(item.chosen) * len(item.rejected))]
        right.append(None if np.isnan(own).any() else min(own) > 0.5)
        chances.append(own)
    return benchmark(subsets, chances, right)


def _sigma(gap: float) -> float:
    return 1 / (1 + math.exp(-gap)) if gap > -700 else 0.0


# -- against a gold reward ---------------------------------------------------------------------------------------------
def against_gold(
    scorer: Scorer, recipe: LanguageRecipe, policy: str, candidates: int, optimised: Sequence[str] = ()
) -> dict[str, Any]:
    """JSON data: best-of-n curves of a policy's samples for the recipe's held-out prompts, n up to `candidates`, and
    gold, proxy and divergence of policies that were optimised, each a point. The gold reward is the recipe's verifier.
    """
    if scorer.worth is None:
        raise RecipeError(
            f"{scorer.name} compares pairs and gives no scores; curves need a reward model, or a judge with ask: score"
        )
    section = recipe.evaluation or EvaluationSection()
    if verifier_name(recipe.tasks) is None:
        raise RecipeError("the gold reward is the tasks' verifier; set tasks.verifier in the recipe")
    device = choose_device("auto")
    start, tokenizer = load_language(policy).to(device), load_tokenizer(policy)
    tasks = recipe.tasks.model_copy(update={"reference_answer": scorer.template})
    entries = fitting(tasks, held_out_entries(tasks, section), tokenizer, start.positions)
    world = make_world(tasks, entries, tokenizer, start.positions)
    try:
        engine = engine_for(start, world)
        found = samples_of(start, world, engine, EVALUATION_SEED, candidates)
        answers = [entry.answer for entry in entries for _ in range(candidates)]
        shown = zip(found.texts, answers, strict=True)
        said = scorer.worth([Completion(prompt, text, answer) for (prompt, text), answer in shown])
        shape = (world.size, candidates)
        counts = [2**k for k in range(candidates.bit_length()) if 2**k <= candidates]
        points = curve(np.array(said).reshape(shape), np.array(found.gold).reshape(shape), counts)
        others = [_point(path, scorer, start, world, engine, section.samples) for path in optimised]
        return {"prompts": world.size, "candidates": candidates, "best_of_n": points, "policies": others}
    finally:
        close_world(world)


def _point(path: str, scorer: Scorer, start: Any, world: Any, engine: Any, samples: int) -> dict[str, Any]:
    model = load_language(path).to(next(start.parameters()).device)
    if scorer.model is None:
        raise RecipeError("points of optimised policies need a reward model of a folder, not a judge behind an API")
    found = rewarded(model, world, engine, EVALUATION_SEED, samples, {"reward": scorer.model}, start)
    named = {"gold": GOLD, "proxy": proxy("reward"), "kl": KL}
    means = {}
    for name, column in named.items():
        values = found[column][np.isfinite(found[column])]
        interval = mean_interval(values)
        bounds = [bound if np.isfinite(bound) else None for bound in (interval.low, interval.high)]
        means |= {name: interval.estimate, f"{name}_interval": bounds}
    return {"policy": path, **means}
