"""VerIPO: verifier-guided iterative policy optimization (arXiv 2505.19000, section 3). Stages, repeated:

`veripo`: GRPO, A = (R - mean_g R) / std_g R, its rows kept; solved tasks are dropped with probability 0.8
`veripo_dpo`: pairs of kept rows by a verifier; L = -log sigma(beta [rho(o+) - rho(o-)]), rho = sum (log pi - log
pi_ref), the reference being the policy at the end of the first stage
"""

from dataclasses import replace

from policyopt.claim import Arm, Claim, Tuning
from policyopt.compose import About
from policyopt.methods.dpo import dpo
from policyopt.methods.grpo import grpo
from policyopt.reward.parts import Verified
from policyopt.sampling.verified_pairs import StoredPairs, StoreRows
from policyopt.selection.dropped import MostlyUnsolved
from policyopt.selection.tasks import PairedRows, Selection
from policyopt.update.optimizers import AdamW

veripo = replace(
    grpo,
    about=About(
        key="veripo",
        title="VerIPO: Cultivating Long Reasoning in Video-LLMs via Verifier-Guided Iterative Policy Optimization",
        paper="arXiv 2505.19000",
        equation="section 3 (GRPO, rollout-aware verifier, DPO, in a loop)",
        mechanism="GRPO searches with answer rewards; a verifier then reads its stored rows and pairs good ones with "
        "wrong, inconsistent, repetitive or short ones; DPO on these pairs moves the policy fast, without sampling. "
        "The next GRPO stage begins where it ends.",
        departures="Stages are methods of a Program: veripo, veripo_dpo, veripo ... instantiation: one random pair per "
        "task and cause. Solved tasks are dropped after every round, not once a loop. Video and the judge model were "
        "the paper's; causes are the world's `checks`.",
        when_to_use="Rewards of answers alone, while the reasoning before them can be checked afterwards.",
        seed=104,
        family="A2",
        nearest="grpo",
    ),
    selection=Selection(count=32, tasks=MostlyUnsolved()),
    after=(StoreRows(capacity=32),),
)

veripo_dpo = replace(
    dpo,
    about=replace(veripo.about, key="veripo_dpo", equation="section 3.3 (DPO stage)", nearest="dpo", policies=()),
    selection=Selection(count=32, rows=PairedRows()),
    sampling=StoredPairs(),
    reward=Verified(),
    update=replace(dpo.update, optimizers={"policy": AdamW(learning_rate=5e-7)}),
)

claim = Claim(
    statement="Stages of DPO on verified pairs of stored rows make reasoning agree with answers more often than GRPO "
    "on answers alone, from the same generated rows.",
    source="arXiv 2505.19000, section 4; specification 104",
    experiment="scratchpads",
    observable="probability that the result of the scratchpad is the answer, exact, mean over tasks",
    higher_is_better=True,
    smallest_effect=0.1,
    treated=Arm("veripo", {"selection.count": 4, "sampling.size": 8, "constraint.kl.weight": 0.0}),
    baseline=Arm(
        "veripo",
        {"selection.count": 4, "sampling.size": 8, "constraint.kl.weight": 0.0},
        {"passes": 0},
        label="GRPO alone",
    ),
    rounds=20,
    tuning=Tuning("update.learning_rate", (0.03, 0.1)),
    scope="Scratchpads of 3 symbols, the last of them its result, before an answer; a table by position. 2 loops of 20 "
    "GRPO rounds and 20 DPO updates with a fixed learning rate. Score of tuning: probability of a right answer.",
)
