"""DMOSpeech 2: GRPO for the duration predictor of a frozen synthesiser (arXiv 2507.14988, section 3.2).

c_j ~ pi(. | text, prompt), j = 1..K;  R_j = -(L_recognition + 3 L_speaker) of the sample made with duration c_j
A_j = (R_j - mean) / (std + eps) per prompt, 0 if they differ by 1e-6 or less
L = mean_j -(min(r A, clip(r, 1 - 0.2, 1 + 0.2) A) - 0.04 (exp(d) - d - 1)), d = log pi_ref - log pi
"""

from dataclasses import replace

from policyopt.claim import Arm, Claim, Tuning
from policyopt.compose import About, Chain, Method, Role, Term
from policyopt.constraint.divergence import K3Loss
from policyopt.credit.flat import FlatGroups
from policyopt.credit.groups import GroupStandardised
from policyopt.methods.grpo import grpo
from policyopt.selection.flat import UnlessFlat
from policyopt.selection.tasks import Selection
from policyopt.update.averaging import SequenceMean

dmospeech2_duration_grpo: Method = replace(
    grpo,
    about=About(
        key="dmospeech2_duration_grpo",
        title="DMOSpeech 2: Reinforcement Learning for Duration Prediction in Metric-Optimized Speech Synthesis",
        paper="arXiv 2507.14988",
        equation="section 3.2 (duration policy), section 3.3 (teacher-guided sampling)",
        mechanism="The one part of a synthesiser that has no gradient, the total duration, is a choice of one step; "
        "the frozen synthesiser behind it is the environment. A group of durations of one prompt is standardised and "
        "clipped as in GRPO; a round without any difference is left out.",
        departures="A hard Gumbel-softmax draw is a categorical draw; its gradient is not used. The published k3 term "
        "(K3Loss) is kept. The release lets flat groups keep their raw reward (variant "
        "dmospeech2_duration_grpo:released). Teacher-guided sampling is a property of the policy: "
        "`policies.denoisers.Switched`.",
        when_to_use="A frozen generator with one discrete choice in front, and a measure of what it makes.",
        seed=14,
        family="D",
        nearest="grpo",
        policies=("tabular", "language", "control"),
    ),
    selection=Selection(count=32, rows=UnlessFlat(0.01)),
    credit=Chain((GroupStandardised(), FlatGroups(1e-6))),
    constraint=(Term("kl", K3Loss(), SequenceMean(), weight=0.04),),
    roles={"old": Role(when="collected"), "reference": Role("reference", when="collected")},
)

released = replace(dmospeech2_duration_grpo, credit=Chain((GroupStandardised(), FlatGroups(1e-6, raw=True))))

_FOUR = {"selection.count": 4, "sampling.size": 8}

claim = Claim(
    statement="Rewards of a frozen generator move a duration predictor that starts 25 bins off to the best duration, "
    "closer than reinforce does with as many samples.",
    source="arXiv 2507.14988, section 4.2; specification 14",
    experiment="duration_of_a_frozen_generator",
    observable="mean distance of the predictor's mode from the best bin, of 301 bins",
    higher_is_better=False,
    smallest_effect=2.0,
    threshold=2.0,
    treated=Arm("dmospeech2_duration_grpo", _FOUR),
    baseline=Arm("reinforce", _FOUR),
    rounds=600,
    tuning=Tuning("update.learning_rate", (0.003, 0.01, 0.03)),
    scope="A generator in the plane instead of a voice: an exact flow run for as many Euler steps as the duration "
    "allows. The predictor is a table.",
)
