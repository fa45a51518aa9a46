"""PF-PPO: policy filtration in RLHF (arXiv 2409.06957).

o_1..o_G with rewards R_i of a model ;   w by rank: best 1; best and worst 1; best 0.4, others 0.1; |R|^2
PPO on rows drawn with probability w / sum w from the round ;   the rule with the largest R^2(R, true score) is chosen
"""

from dataclasses import replace

from policyopt.claim import Arm, Claim
from policyopt.compose import About
from policyopt.methods.ppo import ppo
from policyopt.sampling.samplers import Group
from policyopt.selection.ranked import RankFiltered
from policyopt.selection.tasks import Selection

pf_ppo = replace(
    ppo,
    about=About(
        key="pf_ppo",
        title="Policy Filtration in RLHF to Fine-Tune LLM for Code Generation",
        paper="arXiv 2409.06957",
        equation="algorithm 1 (filtered buffer); weights of BoN, BR, BW; released code: power",
        mechanism="A reward model ranks very good and very bad responses more reliably than middling ones. Of a group "
        "only some are trained on, chosen by the rank of their rewards: best and random, best and worst. The rule is "
        "picked beforehand by how well rewards explain true scores on what it keeps (`selection.ranked.explained`).",
        departures="Rows are drawn once a round, from the whole round, and the epochs go over these "
        "(released code: drawn for every minibatch). The default rule is best and worst.",
        when_to_use="A noisy reward model whose extremes can be trusted.",
        seed=118,
        family="B1",
        nearest="ppo",
    ),
    selection=Selection(count=32, rows=RankFiltered("best_worst")),
    sampling=Group(size=8),
)

_WORLD = {"update.optimizers.critic.learning_rate": 0.1, "update.optimizers.policy.learning_rate": 0.05}

claim = Claim(
    statement="Where a reward model errs in the middle of the scale, PPO on the best and the worst of every group "
    "reaches a higher true score than PPO on all of as many samples.",
    source="arXiv 2409.06957, section 4 and table 2; specification 118",
    experiment="noisy_middle",
    observable="true score of the policy after training, expected, exact",
    higher_is_better=True,
    smallest_effect=0.05,
    treated=Arm("pf_ppo", _WORLD),
    baseline=Arm(
        "pf_ppo", {**_WORLD, "selection.rows.rule": "all", "selection.rows.resampled": False}, label="all rows"
    ),
    rounds=60,
    scope="32 prompts, 50 answers with true scores in -2..2, errors of the model of standard deviation "
    "0.9 exp(-(s / 1.2)^2), fixed per answer; tables. R^2 of the rules is in the notes.",
)
