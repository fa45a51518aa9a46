"""What recipes say of preference data: how it is read and changed, and which methods it fits."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import replace
from itertools import combinations, pairwise
from statistics import mean

from policyopt.compose import Method, chosen_rows
from policyopt.objective.pairwise import Stated
from policyopt.objective.reward_models import ListRanking
from policyopt.recipe.base import RecipeError
from policyopt.recipe.language.sections import Pairing, TasksSection
from policyopt.worlds.compared import names
from policyopt.worlds.label_noise import FLIPPED, LabelNoise, noisy
from policyopt.worlds.tasks import Candidate, Entry
from policyopt.worlds.tokens import TokenWorld

log = logging.getLogger("policyopt")


def check_preferences(method: Method, world: TokenWorld) -> None:
    """RecipeError: the method learns from recorded preferences of another kind than these."""
    if method.sampling.data != "pairs":
        return
    if world.pairs is None:
        raise RecipeError(
            f"method {method.key!r} learns from preference pairs, but the tasks have none; use data of "
            "{prompt, chosen, rejected}, or method dpo:dpo_online with a verifier"
        )
    parts = (method.feedback, *(term.loss for term in method.terms))
    most = max(map(len, world.pairs))
    if most == 1 and any("pair" in part.reads for part in parts):
        raise RecipeError(
            f"method {method.key!r} compares answers to one prompt, but every record of the tasks has a single answer "
            "with a label; use a method of single answers (dpo:kto, dpo:bco), or data of {prompt, chosen, rejected}"
        )
    of_two = [term for term in method.terms if term.mask is chosen_rows and not isinstance(term.loss, ListRanking)]
    if most > 2 and of_two:
        raise RecipeError(
            f"method {method.key!r} compares two answers, but the tasks have ranked lists of up to {most}; say "
            "tasks.pairing=best_worst (or neighbours, every), or use a method of lists (pro, lipo_lambda)"
        )
    if of_two:
        _tell_of_ties(method, world)
    known, of_tokens = names(world.pairs), {term.loss.by for term in method.terms if isinstance(term.loss, Stated)}
    known = (*known, *world.pairs[0].marks)
    for column in getattr(method.sampling, "columns", ()):
        if column in of_tokens and column not in known:
            raise RecipeError(
                f"method {method.key!r} weighs tokens by {column!r}, which the tasks do not have; name the field that "
                f"holds numbers of answers or of their parts with tasks.columns.{column}=FIELD, or weigh tokens alike "
                "with sampling.columns=[] and by='' of the loss"
            )
        if column not in known:
            raise RecipeError(
                f"method {method.key!r} reads the number {column!r} of recorded answers, but the tasks have only "
                f"{sorted(known)}; say which field holds it, tasks.columns.{column}=FIELD"
            )


def _tell_of_ties(method: Method, world: TokenWorld) -> None:
    """A pair whose numbers say that both answers are equally good is no preference, but is learned as one."""
    labels = [one.numbers["label"] for one in world.pairs or () if len(one) == 2 and "label" in one.numbers]
    ties = sum(first == second for first, second in labels)
    if ties:
        log.warning(
            "%d of %d pairs have answers with equal labels, of which method %r prefers the one that the record has "
            "first; drop these records, or use a method that reads labels (lipo_lambda, pro)",
            ties,
            len(world.pairs or ()),
            method.key,
        )


def prepared(tasks: TasksSection, entries: Sequence[Entry], seed: int) -> list[Entry]:
    """Training entries as pairs of their lists and with wrong labels, where the recipe asks for it."""
    for name in ("pairing", "noise"):
        if getattr(tasks, name) is not None and not any(entry.candidates for entry in entries):
            raise RecipeError(f"tasks.{name} has no effect: the tasks have no preferences; remove it")
    found = list(entries) if tasks.pairing is None else as_pairs(entries, tasks.pairing)
    if tasks.noise is None:
        return found
    said = LabelNoise(**tasks.noise.model_dump(exclude={"seed"}))
    found = noisy(found, said, seed if tasks.noise.seed is None else tasks.noise.seed)
    flipped = [candidate.numbers[FLIPPED] for entry in found for candidate in entry.candidates]
    log.info("tasks.noise: %.1f %% of %d recorded answers have a wrong label", 100 * mean(flipped), len(flipped))
    return found


def as_pairs(entries: Sequence[Entry], pairing: Pairing) -> list[Entry]:
    """Every list as pairs: its best answer with its worst, each with the next one, or every two. Equal labels make no
    pair. RecipeError: there is no list of more than two answers."""
    if max(len(entry.candidates) for entry in entries) < 3:
        raise RecipeError(f"tasks.pairing={pairing} has no effect: no record ranks more than two answers; remove it")
    found = []
    for entry in entries:
        several = entry.candidates
        chosen = {"best_worst": [(several[0], several[-1])], "neighbours": pairwise(several)}
        for first, second in chosen.get(pairing, combinations(several, 2)):
            if first.worth != second.worth:
                found.append(replace(entry, candidates=_side_by_side(first, second)))
    return found


def _side_by_side(first: Candidate, second: Candidate) -> tuple[Candidate, Candidate]:
    return replace(first, rank=0), replace(second, rank=1)
