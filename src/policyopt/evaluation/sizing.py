"""What a run of a language policy needs, by arithmetic on its model's shape: memory, traffic, and who waits for whom.

Memory counts what this program holds, in the policy's precision of b bytes a number, for P parameters:

trainer   b P  the whole policy, which scores;  b P  each frozen model;  4 b P / trainers  the sharded twin: weights,
          gradients and AdamW's two moments (FSDP2), and where b = 2 rather (2 b + 16) P / trainers, because sums of
          gradients, moments and what they move are in float32 then (`update.masters`);  activations of the tokens of a
          micro-batch: 34 hidden bytes a token and layer in 16 bit (Korthikanti et al., arXiv 2205.05198, eq. 2, without
          the attention matrix, which is never stored);  a critic takes what the policy does, once more
sampler   b P;  2 layers kv_heads head_size b  for every token of the rows it generates at once

Seconds are those of a machine that reaches a given share of its peak: training is bound by arithmetic (6 P operations a
token forward and backward, 2 P for every model that scores), generation by memory (each step reads all weights and the
cache).
"""

from __future__ import annotations

import math
from dataclasses import dataclass

GIB = 2**30
CHEAP = 2.0  # times the least cost of a row that fewer accelerators a sampler are worth


@dataclass(frozen=True)
class Shape:
    """A decoder. bytes: of a number in its precision. trained: parameters that are, if not all (adapters)."""

    name: str
    parameters: int
    layers: int
    hidden: int
    kv_heads: int
    head_size: int
    bytes: int = 2
    trained: int | None = None

    @property
    def weights(self) -> int:
        return self.bytes * self.parameters

    @property
    def cache(self) -> int:
        """Of a token."""
        return 2 * self.layers * self.kv_heads * self.head_size * self.bytes


@dataclass(frozen=True)
class Work:
    """A round: rows of prompt and answer tokens; epochs over them; frozen models beside the policy, and critics, which
    are trained, all of its size; scores taken before the update. micro_rows: of a micro-batch; None: as many as there
    is room for."""

    rows: int = 1024
    prompt: int = 512
    answer: int = 2048
    epochs: int = 1
    micro_rows: int | None = None
    frozen: int = 1
    scores: int = 1
    critics: int = 0

    @property
    def tokens(self) -> int:
        return self.rows * (self.prompt + self.answer)


@dataclass(frozen=True)
class Machine:
    """One accelerator. flops, memory_rate (bytes/s): peak in 16 bit; used, read: the share of each that is reached.
    network: bytes/s between machines."""

    name: str
    memory: float
    flops: float
    memory_rate: float
    network: float = 25e9
    used: float = 0.4
    read: float = 0.6


# Vendors' figures: bytes of memory, dense 16-bit operations a second, bytes a second.
MACHINES = {
    one.name: one
    for one in (
        Machine("a100", 80e9, 312e12, 2.04e12),
        Machine("h100", 80e9, 989e12, 3.35e12),
        Machine("h200", 141e9, 989e12, 4.8e12),
    )
}


@dataclass(frozen=True)
class Plan:
    """What runs where. Memory in bytes, times in seconds of one round. held: frozen models that the trainers have room
    for; the others are on scorers (`runtime.scorers`)."""

    shape: Shape
    work: Work
    machine: Machine
    trainers: int
    held: int
    micro_rows: int
    samplers: int
    sampler_gpus: int  # that share the weights of one sampler
    trainer_memory: float
    sampler_memory: float
    train: float
    generate: float  # by one sampler
    sync: float  # of the weights, to all samplers one after another

    @property
    def fits(self) -> bool:
        return self.trainer_memory <= self.machine.memory and self.sampler_memory <= self.machine.memory

    @property
    def round(self) -> float:
        """With samplers that run ahead: the slower of the two sides."""
        return max(self.train, self.generate / self.samplers + self.sync)


def trainer_memory(shape: Shape, work: Work, trainers: int, held: int, micro_rows: int) -> float:
    """Bytes on each of `trainers` accelerators."""
    trained = shape.parameters if shape.trained is None else shape.trained
    # One trainer has no twin: its gradients and moments are of the whole policy.
    kept = shape.bytes + (4 * 4 if shape.bytes < 4 else 2 * shape.bytes)
    twin = (shape.bytes * shape.parameters * (trainers > 1) + kept * trained) / trainers
    activations = 17 * shape.bytes * shape.hidden * shape.layers * micro_rows * (work.prompt + work.answer)
    return (1 + work.critics) * (shape.weights + twin) + held * shape.weights + activations


def sampler_memory(shape: Shape, tokens: int, gpus: int) -> float:
    """Bytes on each of `gpus` accelerators that share a sampler's weights and cache."""
    return (shape.weights + shape.cache * tokens) / gpus


def rows_at_once(shape: Shape, work: Work, machine: Machine, gpus: int) -> int:
    """Rows whose cache a sampler has room for beside the weights, with a tenth of the memory to spare."""
    room = 0.9 * machine.memory * gpus - shape.weights
    return max(0, min(work.rows, int(room / (shape.cache * (work.prompt + work.answer)))))


def train_seconds(shape: Shape, work: Work, machine: Machine, trainers: int) -> float:
    passes = 6 * work.epochs * (1 + work.critics) + 2 * (work.scores + work.frozen + work.critics)
    return shape.parameters * work.tokens * passes / (machine.flops * machine.used * trainers)


def generate_seconds(shape: Shape, work: Work, machine: Machine, gpus: int, at_once: int) -> float:
    """All rows by one sampler: every step reads the weights and, on average, a cache of the prompt and half an answer;
    prompts are read at the rate of training."""
    waves = math.ceil(work.rows / at_once)
    rows = min(at_once, work.rows)
    step = shape.weights + rows * shape.cache * (work.prompt + work.answer / 2)
    read = waves * work.answer * step / (machine.memory_rate * machine.read * gpus)
    return read + 2 * shape.parameters * work.rows * work.prompt / (machine.flops * machine.used * gpus)


def plan(shape: Shape, work: Work, machine: Machine, most: int = 64) -> Plan:
    """The fewest trainers, in powers of 2, on which a micro-batch of a row fits, with the frozen models beside the
    policy or without them; accelerators of a sampler for about the least cost of a row; samplers that keep up with
    training. Where nothing up to `most` fits, `Plan.fits` says so."""
    counts = [2**n for n in range(most.bit_length()) if 2**n <= most]
    least = work.micro_rows or 1
    fitting = [
        (trainers, held)
        for trainers in counts
        for held in sorted({work.frozen, 0}, reverse=True)
        if trainer_memory(shape, work, trainers, held, least) <= machine.memory
    ]
    trainers, held = fitting[0] if fitting else (counts[-1], 0)
    micro = least
    while work.micro_rows is None and 2 * micro * trainers <= work.rows:
        if trainer_memory(shape, work, trainers, held, 2 * micro) > 0.9 * machine.memory:
            break
        micro *= 2
    shared = [n for n in counts if n <= 8 and rows_at_once(shape, work, machine, n)] or counts[-1:]

    def seconds(gpus: int) -> float:
        return generate_seconds(shape, work, machine, gpus, max(1, rows_at_once(shape, work, machine, gpus)))

    least_cost = min(n * seconds(n) for n in shared)
    gpus = next(n for n in shared if n * seconds(n) <= CHEAP * least_cost)
    train = train_seconds(shape, work, machine, trainers)
    samplers = max(1, math.ceil(seconds(gpus) / train))
    tokens = max(1, rows_at_once(shape, work, machine, gpus)) * (work.prompt + work.answer)
    return Plan(
        shape,
        work,
        machine,
        trainers,
        held,
        micro,
        samplers,
        gpus,
        trainer_memory(shape, work, trainers, held, micro),
        sampler_memory(shape, tokens, gpus),
        train,
        seconds(gpus),
        shape.weights * samplers / machine.network,
    )


# -- the pipeline ------------------------------------------------------------------------------------------------------
@dataclass(frozen=True)
class Stages:
    """Seconds of a round: generation by one sampler, what of sampling is not divided (grading, traffic), training."""

    generate: float
    apart: float
    train: float


def simulated(stages: Stages, samplers: int, staleness: int, rounds: int = 200) -> float:
    """Seconds of a round of the pipeline, the start left out. Round n is sampled when round n - 1 has been and the
    weights before round n - staleness are there; it is trained when its rows are there and round n - 1 is trained."""
    sampled: list[float] = []
    trained: list[float] = []
    for n in range(rounds):
        weights = trained[n - 1 - staleness] if n > staleness else 0.0
        begin = max(sampled[-1] if sampled else 0.0, weights)
        sampled.append(begin + stages.generate / samplers + stages.apart)
        trained.append(max(sampled[n], trained[-1] if trained else 0.0) + stages.train)
    half = rounds // 2
    return (trained[-1] - trained[half - 1]) / (rounds - half)
