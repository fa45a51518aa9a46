"""StepSearch: step-wise PPO for agents that search (arXiv 2505.15107).

search t:  r = w_step (G_t - P_t), G_t = (1/m) sum_j max(c_tj - best so far_j, 0), P_t = share of documents seen before
row:       R = F1(answer) + w_key K, K = mean over keyword groups of the best query's F1 ;   less kl_coef KL a token
then PPO with a critic over the policy's own tokens, both losses clipped
"""

from dataclasses import replace

from policyopt.claim import Arm, Claim, Tuning
from policyopt.compose import About, Chain, Term
from policyopt.methods.ppo import ppo
from policyopt.objective.surrogates import ClippedSurrogate
from policyopt.objective.value import SquaredValueError
from policyopt.reward.parts import ReferencePenalty, Verified
from policyopt.reward.search import SearchReward
from policyopt.update.averaging import TokenMean
from policyopt.update.optimizers import AdamW

stepsearch = replace(
    ppo,
    about=About(
        key="stepsearch",
        title="StepSearch: Igniting LLMs Search Ability via Step-Wise Proximal Policy Optimization",
        paper="arXiv 2505.15107",
        equation="gain, redundancy and reward of a step; answer and keyword rewards",
        mechanism="A search is paid when it is made: for what it adds about the gold passages beyond the best so far, "
        "less for what had been found already. Searches with good words are paid at the end. The critic sees tokens of "
        "the policy only; what the search engine wrote is skipped.",
        departures="The world says what its searches returned and how it resembles the gold passages (tf-idf, gold "
        "data and keywords are its part, not the method's), and grades answers, -1 for one that is missing. A "
        "keyword group counts its best query; the release keeps the last assigned one. Its code adds 0.6 of the step "
        "rewards to a row that holds them already, so 1.6 of them arrive (reward.search_reward.step), pays no steps of "
        "rows without an answer, and its script has 5e-7 for the critic, too.",
        when_to_use="Search agents trained on questions with known evidence.",
        seed=108,
        family="A2",
        nearest="ppo",
        policies=("language", "tabular"),
    ),
    reward=Chain((Verified(), SearchReward(), ReferencePenalty(beta=0.001))),
    objective=(
        Term("policy", ClippedSurrogate(0.2, 0.2), TokenMean()),
        Term("value", SquaredValueError(clip=0.2), TokenMean(), trains="critic"),
    ),
    constraint=(),
    update=replace(ppo.update, optimizers={"policy": AdamW(5e-7), "critic": AdamW(1e-5)}),
)

_WORLD = {
    "selection.count": 32,
    "update.minibatches": 2,
    "update.optimizers.critic.learning_rate": 0.05,
}

claim = Claim(
    statement="Paying searches for new information and charging them for repetitions leaves fewer than one search in "
    "twenty that repeats an earlier one; with the reward of the answer alone more remain.",
    source="arXiv 2505.15107, section 4 (against PPO with outcome rewards); specification 108",
    experiment="two_hops",
    observable="share of repeated documents among what searches return, mean over the last ten rounds",
    higher_is_better=False,
    smallest_effect=0.03,
    threshold=0.05,
    treated=Arm("stepsearch", _WORLD),
    baseline=Arm(
        "stepsearch",
        {**_WORLD, "reward.search_reward.step": 0.0, "reward.search_reward.keywords": 0.0},
        label="ppo with the answer's reward",
    ),
    rounds=60,
    tuning=Tuning("update.optimizers.policy.learning_rate", (0.01, 0.03)),
    scope="A knowledge base of four documents, queries and answers of one step; tables. "
    "Learning rates are those with more right answers over training.",
)
