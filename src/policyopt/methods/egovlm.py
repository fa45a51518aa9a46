"""EgoVLM (arXiv 2506.03097): GRPO with a reward for the frames that an answer is based on.

R_i = 1[right] + w_f 1[format] + w_k |K_i & K*| / |K_i | K*|, K_i the frames named, K* the salient ones
"""

from dataclasses import replace

from policyopt.claim import Arm, Claim, Tuning
from policyopt.compose import About
from policyopt.methods.grpo import grpo
from policyopt.reward.heads import HeadSum

egovlm = replace(
    grpo,
    about=About(
        key="egovlm",
        title="EgoVLM: Policy Optimization for Egocentric Video Understanding",
        paper="arXiv 2506.03097",
        equation="accuracy, format and keyframe rewards",
        mechanism="Plain GRPO from a base model on multiple-choice questions about video; the policy is also paid when "
        "the frames that it names are the salient ones.",
        departures="The overlap of frames is an instantiation, and so are its weight, 1, and that of the format, 0.5. "
        'The world grades rows by the names "accuracy", "format" and "frames" (`ops.metrics.jaccard`). Video and the '
        "vision-language model are not here.",
        when_to_use="Answers that rest on a few places of a long input, where those places are labelled.",
        seed=65,
        family="A2",
        nearest="grpo",
    ),
    reward=HeadSum({"accuracy": 1.0, "format": 0.5, "frames": 1.0}),
)

_WORLD = {"selection.count": 16, "sampling.size": 8, "constraint.kl.weight": 0.0}

claim = Claim(
    statement="Paid for naming salient frames, the policy answers right sooner than with accuracy and format alone.",
    source="arXiv 2506.03097, keyframe-based reward; specification 65",
    experiment="salient_frames",
    observable="probability of a right answer, mean over tasks and rounds",
    higher_is_better=True,
    smallest_effect=0.05,
    treated=Arm("egovlm", _WORLD),
    baseline=Arm("egovlm", {**_WORLD, "reward.weights.frames": 0.0}, label="accuracy and format"),
    rounds=120,
    tuning=Tuning("update.learning_rate", (0.05, 0.1)),
    scope="Sixteen symbols in place of video; what two salient ones show is told only to a policy that names both.",
)
