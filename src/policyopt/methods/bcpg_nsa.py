"""BCPG-NSA: policy optimization with negative sample augmentation (arXiv 2505.14403).

A_i = sg[ R_i - mean_x R - tau (log pi(o_i) - log mu(o_i)) ] ;   L = -mean_i sum_t w_it A_i log pi_it
w_it = beta if A_i < 0 and both judges call the step of token t right, else 1
"""

from policyopt.claim import Arm, Claim, Tuning
from policyopt.compose import About, Method, Term
from policyopt.credit.groups import GroupCentred
from policyopt.feedback.steps import AgreedSteps
from policyopt.objective.offline import BehaviourConstrained
from policyopt.reward.parts import Verified
from policyopt.sampling.samplers import Recorded
from policyopt.selection.tasks import Selection
from policyopt.update.averaging import SequenceSum
from policyopt.update.gradient import GradientSteps
from policyopt.update.optimizers import AdamW, Cosine

bcpg_nsa = Method(
    about=About(
        key="bcpg_nsa",
        title="Unearthing Gems from Stones: Policy Optimization with Negative Sample Augmentation for LLM Reasoning",
        paper="arXiv 2505.14403",
        equation="behaviour-constrained policy gradient, negative sample augmentation",
        mechanism="Offline, on recorded answers. In wrong ones the steps that two judges both call right are pushed "
        "away less, or rewarded; a small charge on the distance from who wrote the data keeps the policy near it.",
        departures="instantiation: gradient of E[R] - tau KL(pi || mu). Judges are the world's, which also records "
        "several answers a task with the log-probabilities of who wrote them. The eight passes are over the rows of a "
        "round, one after another, not over all data.",
        when_to_use="Fixed data with more wrong than right answers, and judges of steps.",
        seed=82,
        family="A2",
        nearest="reinforce",
        policies=("language",),
    ),
    selection=Selection(count=512),
    sampling=Recorded(),
    reward=Verified(),
    feedback=AgreedSteps(("judge_steps", "judge_again")),
    credit=GroupCentred(),
    objective=(Term("policy", BehaviourConstrained(tau=0.001, good=0.5), SequenceSum()),),
    update=GradientSteps({"policy": AdamW(learning_rate=5e-7, schedule=Cosine(final=0.5))}, epochs=8),
)

_WORLD = {"selection.count": 8, "update.epochs": 1}

claim = Claim(
    statement="Sparing the right steps of wrong answers makes the policy succeed more often after few passes over "
    "fixed data than punishing wrong answers as a whole.",
    source="arXiv 2505.14403, main results; specification 82",
    experiment="recorded_chains",
    observable="probability of success, mean over tasks, exact, after 20 passes",
    higher_is_better=True,
    smallest_effect=0.01,
    treated=Arm("bcpg_nsa", _WORLD),
    baseline=Arm("bcpg_nsa", {**_WORLD, "objective.good": 1.0}, label="plain behaviour-constrained gradient"),
    rounds=20,
    tuning=Tuning("update.learning_rate", (0.03, 0.1)),
    scope="Chains of 6 of 4 symbols, 16 recorded answers a task, judges that err one time in ten each; a table as "
    "policy, which shares nothing between places.",
)
