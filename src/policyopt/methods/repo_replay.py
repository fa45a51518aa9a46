"""RePO: replay-enhanced policy optimization (arXiv 2506.09340).

fresh rows: A = (R - mean_on R) / (std_on R + e), r = pi / pi_old;   replayed: A = (R - mean_off R) / (std_off R + e),
r = pi / (pi that wrote them);   L = -1/N [sum_fresh + lambda sum_replayed] mean_t min(r A, clip(r, 1 - e, 1 + e) A)
"""

from dataclasses import replace

from policyopt.claim import Arm, Claim
from policyopt.compose import RECORDED, About, Term
from policyopt.credit.groups import GroupStandardised
from policyopt.methods.grpo import grpo
from policyopt.objective.surrogates import ClippedSurrogate
from policyopt.objective.weighted import BySource
from policyopt.sampling.replay import ReplayedGroup
from policyopt.update.averaging import SequenceMean

repo_replay = replace(
    grpo,
    about=About(
        key="repo_replay",
        title="RePO: Replay-Enhanced Policy Optimization",
        paper="arXiv 2506.09340",
        equation="replay strategies, split advantages, two clipped terms",
        mechanism="Every task keeps its latest rows with their behaviour log-probabilities and rewards. When it is "
        "asked again some of them join its group: random, recent, of highest reward or of largest variance. Fresh and "
        "replayed rows are standardised apart, and ratios are against whoever wrote the row.",
        departures="Ratios of fresh rows are against the recorded log-probabilities, too. Both terms are one loss "
        "whose rows weigh by source. Mixed normalisation is credit.within=('group',). No KL term (the default, beta = "
        "0).",
        when_to_use="Groups often have one outcome, and the same tasks return; sampling is dearer than updates.",
        seed=80,
        family="A2",
        nearest="grpo",
    ),
    sampling=ReplayedGroup(size=8, replayed=8, capacity=16, least=16),
    credit=GroupStandardised(epsilon=1e-4, within=("group", "source")),
    objective=(Term("policy", ClippedSurrogate(0.2, 0.2), SequenceMean(), weight=BySource(replayed=1.0)),),
    constraint=(),
    roles={"old": RECORDED},
    models={},
)

_WORLD = {"selection.count": 16, "sampling.size": 8, "update.learning_rate": 0.03}

claim = Claim(
    statement="With replayed rows a larger share of groups teaches than with GRPO, for the same number of new rows.",
    source="arXiv 2506.09340, section 5 (effective optimisation steps +48%); specification 80",
    experiment="rare_right_answers",
    observable="share of groups whose rows have advantages, mean over training",
    higher_is_better=True,
    smallest_effect=0.05,
    treated=Arm("repo_replay", _WORLD),
    baseline=Arm("grpo", {**_WORLD, "constraint.kl.weight": 0.0}),
    rounds=240,
    scope="64 bandits of 64 arms with one right arm. One learning rate; success after training is in the notes.",
)
