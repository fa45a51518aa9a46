"""Checks of the tasks: ends of answers, chat templates, leaked evaluation tasks; and what the recipe will cost."""

from __future__ import annotations

import re
import unicodedata
from collections import Counter

import torch

from policyopt.evaluation.flight.record import Flight, Leg, Said, graded, recipe_check, skipped, stage_check
from policyopt.types import Finish

LEARNED_LEAST = 0.5


@stage_check("EOS is learnable")
def ends(leg: Leg, flight: Flight) -> Said:
    """The end token is the right one, gets a gradient, and is in the loss mask of rows that ended."""
    said = flight.ends
    if said is None:
        return skipped("answers are not texts")
    broken = _wrong_end(flight)
    if broken is not None:
        return broken
    ended, learned = learned_ends(leg, said.world)
    value = f"{learned} of {ended} ends are trained" if ended else "no row ended"
    if said.pad == said.world:
        value += " (the padding token is the same)"
    return graded(
        value,
        "the last own step of an answer that ended must be trained, also where the padding token equals EOS: mask by "
        "length, never by token id",
        fault=ended > 0 and learned == 0,
        warn=ended > 0 and learned < LEARNED_LEAST * ended,
        ended=ended,
        learned=learned,
    )


def _wrong_end(flight: Flight) -> Said | None:
    said = flight.ends
    assert said is not None
    if said.tokenizer != said.world or not 0 <= said.world < said.vocabulary:
        return graded(
            f"answers end with token {said.world}, the tokenizer's end is {said.tokenizer}, the model has "
            f"{said.vocabulary} tokens",
            "set policy.eos_token to the token that ends an answer",
            fault=True,
        )
    if said.unlearnable:
        return graded(
            f"token {said.world} is the padding index of the model's embedding: its gradient is dropped",
            "give the tokenizer a padding token of its own, or clear the embedding's padding_idx",
            fault=True,
        )
    if said.turn is not None and said.turn != said.world:
        return graded(
            f"answers end with token {said.world}, turns of the chat template with {said.turn}",
            "set policy.eos_token to the token that ends a turn",
            fault=True,
        )
    return None


def learned_ends(leg: Leg, eos: int) -> tuple[int, int]:
    """Rows that ended with EOS and are trained at all, and those of them whose EOS is trained."""
    ended = learned = 0
    for batch in leg.judged:
        if "_token" not in batch.step or not batch.steps:
            continue
        last = (batch.own.long() * torch.arange(1, batch.steps + 1)).argmax(1)
        rows = torch.arange(len(batch))
        at_end = (batch.row["finish"] == Finish.STOPPED) & (batch.step["_token"][rows, last] == eos)
        at_end &= batch.trained.any(1)
        ended += int(at_end.sum())
        learned += int((at_end & batch.trained[rows, last]).sum())
    return ended, learned


@recipe_check("chat template keeps turns")
def template(flight: Flight) -> Said:
    """Tokens of a turn stay what they were once more turns follow."""
    drift = flight.drift
    if drift is None:
        return skipped("the tasks are no conversations")
    moved = [name for name, kept in drift.kept.items() if not kept]
    value = f"{len(drift.kept) - len(moved)} of {len(drift.kept)} kinds of reply keep their tokens"
    if moved:
        value += f", not: {', '.join(moved)}"
    return graded(
        f"{value}; {drift.read_again:.0%} of sampled answers give other tokens when tokenised again",
        "keep token ids over turns instead of tokenising texts again, or take a template that leaves earlier turns as "
        "they were (no trimming, no removed thoughts)",
        fault="plain" in moved,
        warn=bool(moved),
        moved=len(moved),
        read_again=drift.read_again,
    )


@recipe_check("evaluation tasks are apart")
def leaked(flight: Flight) -> Said:
    """Held-out tasks that are training tasks too, or that occur twice."""
    if not flight.held_out:
        return skipped("there are no held-out tasks to compare")
    training = {plain(text) for text in flight.training}
    held = Counter(plain(text) for text in flight.held_out)
    inside = [text for text in held if text in training]
    twice = sum(count - 1 for count in held.values())
    return graded(
        f"{len(inside)} of {len(held)} held-out tasks are training tasks too, {twice} occur again"
        + (f" (for example {inside[0][:60]!r})" if inside else ""),
        "take them out of the training tasks, or evaluate on tasks of another source",
        fault=bool(inside),
        warn=twice > 0,
        leaked=len(inside),
        twice=twice,
    )


def plain(text: str) -> str:
    """A task's text without what does not tell it from another: forms of characters, white space, what stands last."""
    text = unicodedata.normalize("NFKC", text)
    return re.sub(r"\s+", " ", text).strip().rstrip(".?!:")


@recipe_check("time, memory and tokens")
def forecast(flight: Flight) -> Said:
    """What the whole recipe will cost here, if later rounds cost what the first ones do."""
    said, costs = flight.forecast, [leg.cost for leg in flight.legs if leg.cost is not None]
    if said is None or not costs:
        return skipped("no round was timed")
    untimed = [leg for leg in flight.legs if leg.cost is None or leg.cost.update is None]
    seconds = sum(cost.seconds for cost in costs) + said.evaluation
    steps = sum(cost.rounds * cost.steps for cost in costs)
    value = f"about {_time(seconds)}, {steps:,.0f} {'tokens' if flight.kind == 'language' else 'steps'}"
    measured = {"seconds": seconds, "steps": steps, "evaluation": said.evaluation}
    full = 0.0
    if said.memory is not None:
        value += f", {said.memory / 2**30:.2g} GiB"
        measured["memory"] = float(said.memory)
        full = said.memory / said.available if said.available else 0.0
    if untimed:
        value += f", and updates of stage {', '.join(str(leg.index) for leg in untimed)}, which could not be timed"
    return graded(
        value,
        f"{full:.0%} of this machine's memory: use a smaller model, lora, or fewer rows at a time (update.micro_rows)",
        fault=full > 1,
        warn=full > 0.8,
        measured=measured,
    )


def _time(seconds: float) -> str:
    if seconds < 120:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 7200 else f"{seconds / 3600:.1f} h"
