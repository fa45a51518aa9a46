"""MCTS-DPO: Monte Carlo tree search and step-level DPO in turn (arXiv 2405.00451).

search by PUCT with pi's own probabilities, v = C / max(d - 3, 1) + O, Q = r + gamma V; at every depth of the best path
y_w = argmax Q, y_l = argmin Q among siblings;  e = min(1 - conf, 1/2), conf = 1 / (1 + N_l / max(1, N_w))
L = -(1 - e) log sigma(beta D) - e log sigma(-beta D),  D of the steps alone, from the first token that differs
"""

from dataclasses import replace

from policyopt.claim import Arm, Claim
from policyopt.compose import About, Nothing
from policyopt.methods.dpo import dpo_online
from policyopt.objective.pairwise import PairPreference
from policyopt.sampling.siblings import JudgedSiblings

mcts_dpo = replace(
    dpo_online,
    about=About(
        key="mcts_dpo",
        title="Monte Carlo Tree Search Boosts Reasoning via Iterative Preference Learning",
        paper="arXiv 2405.00451",
        equation="section 2.1 (search), eq. 6 (step-level DPO); released code YuxiXie/MCTS-DPO",
        mechanism="A search that the policy guides compares steps that follow the same beginning, by what they lead to "
        "and by how right they are judged. The best and the worst step at every depth become a pair of DPO that says "
        "which step it is about; labels are believed as far as the search visited the winner. The policy then searches "
        "again.",
        departures="The judge of single steps is the world's (`judge_steps`; sampling.confidence 0 asks none), where "
        "the paper asks the policy itself; a step is a fixed number of tokens. The reference stays the first policy. "
        "IPO on mean log-ratios: `objective.link` and `mean`. The released code counts the root twice an iteration.",
        when_to_use="Reasoning in steps with a check of the outcome, and the time to search.",
        seed=142,
        family="B1",
        nearest="dpo",
        policies=("language", "tabular"),
    ),
    sampling=JudgedSiblings(),
    feedback=Nothing(),
    objective=(replace(dpo_online.objective[0], loss=PairPreference(0.1, doubt="doubt")),),
)

_WORLD = {
    "selection.count": 6,
    "sampling.iterations": 2,
    "sampling.steps": 1,
    "sampling.depth": 5,
    "sampling.branching": (4, 3),
    "update.learning_rate": 1.0,
    "update.clip_norm": None,
    "update.schedule": "constant",
}

claim = Claim(
    statement="Searching with the policy as it learns finds right chains; searching with the first policy, for the "
    "same updates, does not.",
    source="arXiv 2405.00451, section 4 (online against offline); specification 142",
    experiment="judged_chains",
    observable="steps generated until the probability of a right chain is 0.1 (all if never)",
    higher_is_better=False,
    smallest_effect=2000.0,
    treated=Arm("mcts_dpo", _WORLD),
    baseline=Arm("mcts_dpo", {**_WORLD, "sampling.model": "reference"}, label="searched by the first policy"),
    rounds=16,
    budget="cost",
    scope="6 tasks of 5 steps, one of 4 moves right at each, a table as policy; a judge of steps that errs by noise. A "
    "development seed was looked at before.",
)
