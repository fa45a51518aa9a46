"""The world of single-turn language tasks: a prompt is answered token by token until EOS or a limit."""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from policyopt.ops.sequences import prefix_keys
from policyopt.types import NO_TOKEN, PROMPT, Batch, Finish, Source, StepKind, Tasks, empty_batch
from policyopt.worlds.compared import Ranked, marked, rows_of

Judge = Callable[[list[str], list[int]], Sequence[float | None]]
"""Answers and the ids of their tasks -> a score each; None where no score could be found."""
Decode = Callable[[list[int]], str]


class Prompter(Protocol):
    """Writes the prompt of a task with what it is told by name: a number, or tokens."""

    @property
    def names(self) -> Collection[str]: ...

    def __call__(self, task: int, told: Mapping[str, float | list[int]]) -> list[int]: ...


class WorldError(ValueError):
    """Task data that no policy could answer, or a question that this world has no data for."""


@dataclass(frozen=True)
class Judgments:
    """Tasks that judge comparisons: the comparison (N,) of each, and whether its sides are swapped (N,)."""

    comparison: Int[Tensor, " N"]
    swapped: Bool[Tensor, " N"]

    def orders(self) -> Int[Tensor, "M 2"]:
        """A task of each order for every comparison that has both, the plain one first."""
        found = []
        for one in self.comparison.unique():
            here = self.comparison == one
            plain, turned = (here & ~self.swapped).nonzero()[:, 0], (here & self.swapped).nonzero()[:, 0]
            found += [torch.stack([plain[0], turned[0]])] if len(plain) and len(turned) else []
        return torch.stack(found) if found else self.comparison.new_zeros(0, 2)


@dataclass(frozen=True)
class TokenWorld:
    """Implements `compose.World` for prompts of tokens.

    prompts: token ids per task, never empty. eos: ends an answer; it is the answer's last own, trained step. limit:
    own steps at most; an answer that reaches it without eos is TRUNCATED. judge: see `Judge`; None if the tasks
    have no reward. decode: tokens to clean text; decode_raw: special tokens kept. recorded_answers, pairs (or lists, or
    single answers with labels): one per task, or None. contexts: other prompts of every task, by name. positions: what
    the model can hold of prompt and answer together. prompter: for tasks that are told more than their prompt says.
    closing: see `conclude`.

    Why a row ended is known from lengths and from what was sampled, never from looking for padding ids.
    """

    prompts: Sequence[list[int]]
    eos: int
    limit: int
    decode: Decode
    judge: Judge | None = None
    heads: Mapping[str, Judge] = field(default_factory=dict)  # rewards by name
    checkers: Mapping[str, Judge] = field(default_factory=dict)  # what each answer is checked for
    decode_raw: Decode | None = None
    recorded_answers: Sequence[list[int]] | None = None
    pairs: Sequence[Ranked] | None = None
    contexts: Mapping[str, Sequence[list[int]]] = field(default_factory=dict)
    positions: int | None = None
    prompter: Prompter | None = None
    closing: Sequence[int] = ()  # tokens that end a thought, after which an answer is asked for
    asking: Any = None  # what answers can be asked about (`asking.Asking`)
    close: Callable[[], None] | None = None  # ends the processes of its judges
    judgments: Judgments | None = None  # if tasks are comparisons to be judged, in both orders

    def __post_init__(self) -> None:
        if self.limit < 1:
            raise WorldError(f"an answer needs room for at least one token, limit is {self.limit}")
        empty = sum(not prompt for prompt in self.prompts)
        if empty:
            raise WorldError(
                f"every prompt needs at least one token; {empty} of {self.size} prompts are empty: remove those tasks "
                "or use a tokenizer that starts texts with a BOS token"
            )
        recordings = {"recorded_answers": self.recorded_answers, "pairs": self.pairs, **self.contexts}
        for name, recorded in recordings.items():
            if recorded is not None and len(recorded) != self.size:
                raise WorldError(f"{name} needs one entry per task: {len(recorded)} for {self.size} tasks")
        self._check_room()

    def _check_room(self) -> None:
        if self.positions is None:
            return
        room = self.positions - self.limit
        prompts = [prompt for prompts in (self.prompts, *self.contexts.values()) for prompt in prompts]
        lengths = [len(prompt) for prompt in prompts]
        long = sum(length > room for length in lengths)
        if long:
            raise WorldError(
                f"prompt and answer together must fit the model's {self.positions} positions; {long} of {self.size} "
                f"prompts leave no room for {self.limit} tokens (the longest has {max(lengths)}): "
                "remove them (tasks.overlong=drop does), lower the limit or use a model with more positions. The "
                f"longest begins {self.decode(max(prompts, key=len)[:64])[:60]!r}"
            )
        over = sum(max(self._recorded_lengths(task), default=0) + 1 > self.positions for task in range(self.size))
        if over:
            raise WorldError(
                f"prompt, recorded answer and EOS must fit the model's {self.positions} positions; {over} of "
                f"{self.size} tasks do not: remove them (tasks.overlong=drop does) or use a model with more positions"
            )

    def longest_prompt(self, task: int) -> list[int]:
        """Of a task: its prompt, or the longest of its contexts."""
        return max((self.prompts[task], *(prompts[task] for prompts in self.contexts.values())), key=len)

    def fits(self, task: int, positions: int) -> bool:
        """Whether a task's prompt leaves room for an answer, and for each of its recorded answers with EOS."""
        own = max(self._recorded_lengths(task), default=0) + 1
        return max(own, len(self.longest_prompt(task)) + self.limit) <= positions

    def _recorded_lengths(self, task: int) -> list[int]:
        """Of the prompt, or the longest of a task's contexts, and each recorded answer of a task together."""
        prompt = self.longest_prompt(task)
        found = [] if self.recorded_answers is None else [len(prompt) + len(self.recorded_answers[task])]
        if self.pairs is not None:
            held = self.pairs[task]
            starts = held.starts or [prompt] * len(held)
            found += [len(start) + len(answer) for start, answer in zip(starts, held.answers, strict=True)]
        return found

    # -- compose.World -------------------------------------------------------------------------------------
    @property
    def size(self) -> int:
        return len(self.prompts)

    def tasks(self, ids: Int[Tensor, " N"]) -> Tasks:
        """Tasks with their prompts and contexts, padded on the left with NO_TOKEN."""
        held = {PROMPT: self.prompts, **{f"{PROMPT}:{name}": prompts for name, prompts in self.contexts.items()}}
        chosen = ids.tolist()
        return Tasks(ids, {name: _padded([each[task] for task in chosen], ids.device) for name, each in held.items()})

    @property
    def instructions(self) -> Collection[str]:
        """What tasks can be told; see `instruct`."""
        return () if self.prompter is None else self.prompter.names

    def instruct(self, tasks: Tasks, name: str, values: Tensor) -> Tasks:
        """Tasks whose prompts say one thing more, beside what they were told before. values: (N,) or (N, W) tokens.
        What a task was told stays in its row columns (tokens as a context of that name)."""
        assert self.prompter is not None
        column = name if values.dim() == 1 else f"{PROMPT}:{name}"
        told = tasks.with_rows({column: values})
        said = {what: _values(told, what) for what in self.instructions if _column(told, what) is not None}
        prompts = [
            self.prompter(task, {what: column[n] for what, column in said.items()})
            for n, task in enumerate(tasks.id.tolist())
        ]
        longest = max(map(len, prompts), default=0)
        if self.positions is not None and longest + self.limit > self.positions:
            raise WorldError(
                f"a prompt with its {name} has {longest} tokens, which leaves no room for {self.limit} more in the "
                f"model's {self.positions} positions: say less, lower the limit or use a model with more positions"
            )
        return told.with_rows({PROMPT: _padded(prompts, tasks.id.device)})

    def start(self, tasks: Tasks) -> Batch:
        return empty_batch(tasks, {"_token": torch.zeros(len(tasks), 0, dtype=torch.int64, device=tasks.id.device)})

    def append(self, batch: Batch, step: Tensor, logp: Tensor, live: Tensor, version: int) -> Batch:
        """One token (B,) for every live row."""
        return self.extend(batch, step[:, None], logp[:, None], live[:, None], version)

    def extend(
        self,
        batch: Batch,
        token: Int[Tensor, "B n"],
        logp: Float[Tensor, "B n"],
        live: Bool[Tensor, "B n"],
        version: int,
    ) -> Batch:
        """Several tokens at once: row b takes its first live[b].sum() ones, right behind the steps it has."""
        taken = {
            "_token": token,
            "kind": torch.full_like(token, int(StepKind.OWN)),
            "train": torch.ones_like(live),
            "behaviour": logp,
            "version": torch.full_like(token, version),
        }
        batch = batch.behind(taken, live)
        stopped = (live & (token == self.eos)).any(1)
        truncated = live.any(1) & (batch.lengths >= self.limit)
        finish = batch.row["finish"].masked_fill(truncated, int(Finish.TRUNCATED))
        return batch.with_rows({"finish": finish.masked_fill(stopped, int(Finish.STOPPED))})

    def state_keys(self, batch: Batch) -> Int[Tensor, "B T"]:
        """Equal where two tokens followed the same tokens of the same task."""
        return prefix_keys(batch.row["task"], batch.step["_token"])

    def conclude(self, batch: Batch) -> Batch:
        """Rows that answer now: an EOS at their end is taken back, and the closing tokens stand there as a hint."""
        if not self.closing:
            raise WorldError(
                "rows can not be asked for an answer at once; give TokenWorld(closing=the tokens to say it)"
            )
        if bool((batch.lengths >= self.limit).any()):
            raise WorldError(f"a row has used all of its {self.limit} steps and can not answer; raise the limit")
        length = batch.valid.sum(1)
        last = batch.step["_token"].gather(1, (length - 1).clamp(min=0)[:, None])[:, 0] if batch.steps else length
        ended = (length > 0) & (last == self.eos)
        batch = batch.rewound(length - ended.long())
        told = torch.tensor([*self.closing], device=batch.device).expand(len(batch), -1)
        columns = {"_token": told, "kind": torch.full_like(told, int(StepKind.HINT))}
        return batch.behind(columns, torch.ones_like(told, dtype=torch.bool))

    def grade(self, batch: Batch) -> Float[Tensor, " B"]:
        """The judge's score of every row's answer, NaN where it has none."""
        if self.judge is None:
            raise WorldError("these tasks have no judge, so answers have no reward; use tasks with a verifier")
        return self._judged(self.judge, batch)

    def grade_heads(self, batch: Batch) -> dict[str, Float[Tensor, " B"]]:
        """The scores of every row's answer by name, NaN where a judge has none."""
        if not self.heads:
            raise WorldError("these tasks have no rewards by name; in a recipe: tasks.heads.NAME.verifier")
        return {name: self._judged(judge, batch) for name, judge in self.heads.items()}

    def checks(self, batch: Batch) -> Float[Tensor, "B J"]:
        """How far every row's answer passes each check, in 0..1, NaN where it is no check of the task."""
        if not self.checkers:
            raise WorldError("these tasks have no checks; in a recipe: tasks.checks.NAME.verifier")
        return torch.stack([self._judged(judge, batch) for judge in self.checkers.values()], 1)

    def answer_keys(self, batch: Batch) -> Int[Tensor, " B"]:
        """Equal for answers whose texts are equal but for surrounding white space; -1 for an empty one."""
        seen: dict[str, int] = {"": -1}
        keys = [seen.setdefault(text.strip(), len(seen)) for text in self.texts(batch)]
        return torch.tensor(keys, dtype=torch.int64, device=batch.device)

    def _judged(self, judge: Judge, batch: Batch) -> Float[Tensor, " B"]:
        scores = judge(self.texts(batch), batch.row["task"].tolist())
        if len(scores) != len(batch):
            raise WorldError(f"a judge returns one score per answer: {len(scores)} for {len(batch)} answers")
        values = [math.nan if score is None else float(score) for score in scores]
        return torch.tensor(values, dtype=torch.get_default_dtype(), device=batch.device)

    # -- what others say of answers (see `asking.Asking`) -----------------------------------------------------
    def _asked(self) -> Any:
        if self.asking is None:
            raise WorldError("these tasks have no words to ask about answers; in a recipe: tasks.ask")
        return self.asking

    def prefer(self, first: Batch, second: Batch) -> Float[Tensor, " B"]:
        """The probability that each first row is preferred to the second one."""
        return self._asked().preferred(self, first, second)

    def verdicts(self, first: Batch, second: Batch, own: Batch | None = None) -> tuple[Batch, Batch]:
        """Rows of a judge that say that the first is better, and rows that say that the second is."""
        return self._asked().verdicts(self, first, second, own)

    def follow_ups(self, batch: Batch) -> tuple[Batch, Tensor, Tensor]:
        """What users may say next, the row each is about, and whether it is of a pleased user."""
        return self._asked().followed(self, batch)

    def corrupted(self, rows: Batch, rng: torch.Generator) -> Batch:
        """Copies of right rows whose answer is wrong."""
        return self._asked().corrupted(self, rows, rng)

    def judged_wrong(self, batch: Batch) -> Bool[Tensor, " B"]:
        """Which critiques call their solution wrong."""
        return self._asked().judged_wrong(self, batch)

    def refine(self, batch: Batch) -> Batch:
        """Rows that are about to solve again what each row criticised."""
        return self._asked().refine(self, batch)

    def refined(self, rows: Batch) -> Float[Tensor, " B"]:
        """Whether new solutions are right."""
        return self._asked().refined(self, rows)

    def comparisons(self, batch: Batch) -> Int[Tensor, " B"]:
        """Which comparison every row judges."""
        return self._judgments().comparison.to(batch.device)[batch.row["task"]]

    def swapped(self, batch: Batch) -> Bool[Tensor, " B"]:
        """Whether a row judges it with its sides swapped."""
        return self._judgments().swapped.to(batch.device)[batch.row["task"]]

    def task_pairs(self) -> tuple[Int[Tensor, "M 2"], Float[Tensor, " M"]]:
        """Both orders of every comparison, and how similar they are: 1."""
        pairs = self._judgments().orders()
        return pairs, torch.ones(len(pairs), dtype=torch.get_default_dtype())

    def _judgments(self) -> Judgments:
        if self.judgments is None:
            raise WorldError(
                "these tasks are no comparisons in both orders; use data with 'comparison' (a name or number) and "
                "'swapped' (true or false) in every record"
            )
        return self.judgments

    # -- what an answer says -------------------------------------------------------------------------------
    def answers(self, batch: Batch) -> list[list[int]]:
        """Own tokens of every row, EOS included."""
        own = batch.own
        tokens = batch.step["_token"][own].tolist()
        lists, start = [], 0
        for length in own.sum(1).tolist():
            lists.append(tokens[start : start + length])
            start += length
        return lists

    def texts(self, batch: Batch) -> list[str]:
        """Clean text of every answer, without the EOS that ended it."""
        stopped = (batch.row["finish"] == Finish.STOPPED).tolist()
        return [
            self.decode(tokens[:-1] if ended and tokens and tokens[-1] == self.eos else tokens)
            for tokens, ended in zip(self.answers(batch), stopped, strict=True)
        ]

    def raw_texts(self, batch: Batch) -> list[str]:
        """Text of every answer with its special tokens, EOS included: for rewards that look at them."""
        if self.decode_raw is None:
            raise WorldError("raw texts need decode_raw, a function that keeps special tokens")
        return [self.decode_raw(tokens) for tokens in self.answers(batch)]

    # -- rows that were not sampled ------------------------------------------------------------------------
    def complete(self, tasks: Tasks, answers: Sequence[list[int]], source: Source = Source.DATASET) -> Batch:
        """Finished rows from given answers (EOS is added where missing). Their behaviour log-probability is NaN:
        nobody sampled them, and a ratio against them would be made up."""
        ended = [row if row and row[-1] == self.eos else [*row, self.eos] for row in answers]
        width = max((len(row) for row in ended), default=0)
        device = tasks.id.device
        token = torch.tensor([row + [0] * (width - len(row)) for row in ended], dtype=torch.int64, device=device)
        token = token.view(len(ended), width)
        length = torch.tensor([len(row) for row in ended], dtype=torch.int64, device=device)
        live = torch.arange(width, device=device) < length[:, None]
        blank = torch.full(token.shape, math.nan, dtype=torch.get_default_dtype(), device=device)
        batch = self.extend(self.start(tasks), token, blank, live, 0)
        finish = torch.full_like(batch.row["finish"], int(Finish.STOPPED))
        return batch.with_rows({"finish": finish, "source": torch.full_like(batch.row["source"], int(source))})

    def recorded(self, tasks: Tasks) -> Batch:
        """The recorded answer of every task."""
        answers = self.recorded_answers
        if answers is None:
            raise WorldError("these tasks have no recorded answers; use data with a 'demonstration' per record")
        return self.complete(tasks, [answers[index] for index in tasks.id.tolist()])

    def recorded_pairs(self, tasks: Tasks) -> Batch:
        """The rows of every task's recordings, side by side: of a pair the chosen answer (rank 0) and the rejected one
        (rank 1), of a list all by their ranks, of an answer judged by itself that one. `pair` is the task's draw, so
        the same task drawn twice makes two pairs; further columns: what the data says of answers in numbers, `label`
        among them."""
        if self.pairs is None:
            raise WorldError("these tasks have no preference pairs; use data with 'chosen' and 'rejected'")
        held = [self.pairs[index] for index in tasks.id.tolist()]
        rows, answers = rows_of(held, tasks)
        if any(one.starts for one in held):
            own = zip(held, tasks.id.tolist(), strict=True)
            starts = [start for one, task in own for start in (one.starts or [self.prompts[task]] * len(one))]
            rows = rows.with_rows({PROMPT: _padded(starts, tasks.id.device)})
        batch = self.complete(rows, answers)
        return batch.with_steps(marked(held, batch.step["kind"]))

    def rewind(self, batch: Batch, steps: Int[Tensor, " B"]) -> Batch:
        """The first `steps` steps of every row, to be continued differently."""
        return batch.rewound(steps)


def _padded(rows: Sequence[list[int]], device: torch.device) -> Int[Tensor, "N P"]:
    """Padded on the left with NO_TOKEN."""
    width = max((len(row) for row in rows), default=0)
    padded = [[NO_TOKEN] * (width - len(row)) + row for row in rows]
    return torch.tensor(padded, dtype=torch.int64, device=device).view(len(rows), width)


def _column(tasks: Tasks, name: str) -> Tensor | None:
    return tasks.row.get(name, tasks.row.get(f"{PROMPT}:{name}"))


def _values(tasks: Tasks, name: str) -> list[float] | list[list[int]]:
    """What every task is told: numbers, or tokens without their padding."""
    column = _column(tasks, name)
    assert column is not None
    if column.dim() == 1:
        return column.tolist()
    return [[token for token in row if token != NO_TOKEN] for row in column.tolist()]
