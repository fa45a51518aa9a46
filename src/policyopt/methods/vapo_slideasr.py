"""VAPO: visually-anchored policy optimization (arXiv 2510.08618).

R_i = 1[format] + max(0, 1 - WER(read, slide)) + max(0, 1 - WER(heard, reference)) + |E & read & heard| / |E|,
E the entities that the slide shows and the speech contains
"""

from dataclasses import replace

from policyopt.claim import Arm, Claim, Tuning
from policyopt.compose import About
from policyopt.methods.grpo import grpo
from policyopt.reward.heads import HeadSum

vapo_slideasr = replace(
    grpo,
    about=About(
        key="vapo_slideasr",
        title="Look before Transcription: End-to-End SlideASR with Visually-Anchored Policy Optimization",
        paper="arXiv 2510.08618",
        equation="sum of four rewards: format, OCR, ASR, visual anchoring",
        mechanism="The policy writes what it reads on the slide before it writes what it hears. The sum of rewards "
        "pays for both products and for spoken entities that are carried over from the first to the second.",
        departures="The reward for entities is a share of those that are in both blocks; summaries of the paper "
        'describe it as such a recall, its exact form was not at hand. The world grades rows by the names "format", '
        '"slide", "transcript" and "entities" (`ops.metrics.error_rate` and `recall`). Sound and images are not here.',
        when_to_use="Answers with an intermediate product that can be checked.",
        seed=12,
        family="A2",
        nearest="grpo",
    ),
    sampling=replace(grpo.sampling, size=4),
    reward=HeadSum({"format": 1.0, "slide": 1.0, "transcript": 1.0, "entities": 1.0}),
    constraint=tuple(replace(term, weight=0.01) for term in grpo.constraint),
)

_WORLD = {"selection.count": 8, "sampling.size": 8, "constraint.kl.weight": 0.0}

claim = Claim(
    statement="The four rewards get rare words right sooner than the transcription reward alone.",
    source="arXiv 2510.08618, abstract (domain-specific terms); specification 12",
    experiment="two_channels",
    observable="probability of the right word at places of rare words, mean over rounds",
    higher_is_better=True,
    smallest_effect=0.05,
    treated=Arm("vapo_slideasr", _WORLD),
    baseline=Arm(
        "vapo_slideasr",
        {**_WORLD, "reward": HeadSum({"format": 1.0, "transcript": 1.0})},
        label="format and transcription",
    ),
    rounds=80,
    tuning=Tuning("update.learning_rate", (0.1, 0.3)),
    scope="Two symbolic channels; the policy's prior over words stands for what it hears.",
)
