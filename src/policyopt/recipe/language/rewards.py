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
from policyopt.policies.reward_checkpoint import holds_reward, load_reward
from policyopt.policies.tokenizer import load_tokenizer
from policyopt.recipe.base import RecipeError, problems
from policyopt.recipe.kinds import EVALUATION_SEED, choose_device
from policyopt.recipe.language.judges import judges_of
from policyopt.recipe.language.sections import EvaluationSection, JudgeSection, LanguageRecipe
from policyopt.recipe.language.tasks import close_world, held_out_entries, make_world, verifier_name
from policyopt.worlds.prompts import token_world
from policyopt.worlds.reward_bench import Item
from policyopt.worlds.tasks import Entry

CHUNK = 64  # completions that are scored together


@dataclass(frozen=True)
class Scorer:
    """worth: numbers for prompts and their completions, nan where there is none. chances: of pairs, for judges of
    pairs, which give no numbers. model: with `worth(batch)`, None if texts are all it reads."""

    name: str
    worth: Callable[[Sequence[tuple[Any, str]]], list[float]] | None
    chances: Callable[[Sequence[tuple[Any, str, str]]], list[float]] | None = None
    model: Any = None


def open_scorer(path: str, reference: str | None = None, beta: float = 0.1) -> Scorer:
    """A reward model of a folder, the implicit reward of a policy's folder beside its reference's, or a judge of a
    YAML file with what a recipe's `judges.NAME` holds."""
    if Path(path).suffix in (".yaml", ".yml"):
        return _judge(path)
    if holds_reward(path):
        model: Any = load_reward(path)
    elif reference is None:
        raise RecipeError(
            f"{path!r} is a policy, whose implicit reward needs the policy that it was trained from: give --reference, "
            "or the folder of a sequence classifier"
        )
    else:
        model = ImplicitReward(load_language(path), load_language(reference), beta)
    device = choose_device("auto")
    model, tokenizer = model.to(device), load_tokenizer(path)

    def worth(asked: Sequence[tuple[Any, str]]) -> list[float]:
        entries = [_entry(prompt, text) for prompt, text in asked]
        world = token_world(entries, tokenizer, 1)
        found: list[float] = []
        for ids in torch.arange(world.size, device=device).split(CHUNK):
            with torch.no_grad():
                found += model.worth(world.recorded(world.tasks(ids))).double().tolist()
        return found

    return Scorer(path, worth, model=model)


def _entry(prompt: Any, text: str) -> Entry:
    plain = isinstance(prompt, str)
    return Entry(prompt if plain else None, None if plain else prompt, demonstration=text)


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
        return Scorer(path, lambda asked: numbers(judge.scores(asked)))
    pairs: PairJudge = judge
    return Scorer(path, None, lambda asked: numbers(pairs.chances(asked)))


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
    texts = scorer.model is None  # a judge reads the prompt as one text
    asked = [(item.question if texts else item.prompt, text) for item in items for text in item.completions]
    scores, chances, right = iter(scorer.worth(asked)), [], []
    for item in items:
        chosen = [next(scores) for _ in item.chosen]
        rejected = [next(scores) for _ in item.rejected]
        right.append(is_right(chosen, rejected))
        chances.append([_sigma(one - other) for one in chosen for other in rejected])
    return benchmark(subsets, chances, right)


def _by_pairs(scorer: Scorer, items: Sequence[Item], subsets: Sequence[str]) -> dict[str, Any]:
    assert scorer.chances is not None
    asked = [(item.question, one, other) for item in items for one in item.chosen for other in item.rejected]
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
        raise RecipeError(f"{scorer.name} compares pairs and gives no scores; curves need a judge with ask: score")
    section = recipe.evaluation or EvaluationSection()
    if verifier_name(recipe.tasks) is None:
        raise RecipeError("the gold reward is the tasks' verifier; set tasks.verifier in the recipe")
    device = choose_device("auto")
    start, tokenizer = load_language(policy).to(device), load_tokenizer(policy)
    world = make_world(recipe.tasks, held_out_entries(recipe.tasks, section), tokenizer, start.positions)
    try:
        engine = engine_for(start, world)
        found = samples_of(start, world, engine, EVALUATION_SEED, candidates)
        said = scorer.worth(found.texts)
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
