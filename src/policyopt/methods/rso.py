"""RSO: statistical rejection sampling, then a normalised preference loss (arXiv 2309.06657, algorithm 1).

y_1 .. y_N ~ pi_sft; accept with exp((r - max r) / beta) in passes until M are; pairs of accepted rows by reward
L = -log sigma(gamma D)  or  max(0, 1 - gamma D),  D = rho(y_w) - rho(y_l), rho = log pi - log pi_sft
"""

from dataclasses import replace

from policyopt.claim import Arm, Claim
from policyopt.feedback.lists import AcceptedPairs
from policyopt.methods.dpo import dpo
from policyopt.objective.pairwise import PairPreference
from policyopt.reward.parts import Verified
from policyopt.sampling.samplers import Group
from policyopt.selection.tasks import PairedRows, Selection

rso = replace(
    dpo,
    about=replace(
        dpo.about,
        key="rso",
        title="Statistical Rejection Sampling Improves Preference Optimization",
        paper="arXiv 2309.06657",
        equation="algorithm 1 and the sigmoid-norm loss (rso_hinge: hinge-norm)",
        mechanism="Preferences teach the most about the optimal policy if the pairs are drawn from it. Rejection "
        "sampling by exponentiated rewards turns many answers of the supervised policy into such draws; they are "
        "paired at random and labelled by the reward.",
        departures="Reward and pair labels are those of the world or a reward model; the paper's pairwise ranker gives "
        "both (its reward is the logit against a baseline answer). Pairs of first-round ranking.",
        when_to_use="A reward model and a supervised policy, offline, and compute for many samples.",
        seed=133,
        nearest="dpo",
    ),
    selection=Selection(count=16, rows=PairedRows()),
    sampling=Group(size=64, model="reference"),
    reward=Verified(),
    feedback=AcceptedPairs(count=8, beta=0.5),
    objective=(replace(dpo.objective[0], loss=PairPreference(0.05)),),
)

rso_hinge = replace(
    rso,
    about=replace(rso.about, key="rso_hinge", equation="algorithm 1 and the hinge-norm loss"),
    objective=(replace(dpo.objective[0], loss=PairPreference(0.05, link="hinge")),),
)

_WORLD = {
    "selection.count": 8,
    "update.schedule": "constant",
    "update.learning_rate": 0.1,
    "update.clip_norm": None,
    "objective.beta": 0.5,
}

claim = Claim(
    statement="From as many preferences, pairs of rows accepted by rejection sampling teach a higher reward than pairs "
    "of the supervised policy's own rows.",
    source="arXiv 2309.06657, section 5 (rso-sample-rank against sft-sample-rank); specification 133",
    experiment="gold_reward",
    observable="expected reward of the policy, exact",
    higher_is_better=True,
    smallest_effect=0.1,
    treated=Arm("rso", {**_WORLD, "feedback.beta": 0.5}),
    baseline=Arm("rso", {**_WORLD, "feedback.beta": 1e6}, label="pairs of the supervised policy"),
    rounds=60,
    scope="8 contexts, 50 answers, a table; the larger true reward is preferred, as a ranker says it; 32 "
    "pairs a round. The learning rate is from a development seed; with Bradley-Terry labels drawn and 60 rounds of "
    "0.05, pairs of the supervised policy were ahead there.",
)
