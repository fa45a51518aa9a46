"""HBPO: hierarchical budget policy optimization (arXiv 2507.15844, eq. 1 to 6).

R_i = f2(b) within budget b, f1(n_i, b) beyond it, 0 if wrong;  f2(b) = beta cos(pi b / 2L),  f1 = f2(n) - alpha |n - b|
A_i = (mean R of i's budget - f2(b_i)) + (R_i - mean R) / std R
"""

from dataclasses import replace

from policyopt.claim import Arm, Claim
from policyopt.compose import About, Chain
from policyopt.credit.groups import GroupStandardised
from policyopt.credit.subgroups import AgainstPar
from policyopt.methods.dapo import dapo
from policyopt.reward.lengths import WithinBudget
from policyopt.reward.parts import Verified
from policyopt.sampling.told import Shared, ToldGroup
from policyopt.selection.tasks import Selection

hbpo = replace(
    dapo,
    about=About(
        key="hbpo",
        title="Hierarchical Budget Policy Optimization for Adaptive Reasoning",
        paper="arXiv 2507.15844",
        equation="eq. 1 to 3 (budget rewards), eq. 4 (advantage in the whole group), eq. 5 (sum with that of a budget)",
        mechanism="The attempts of a task are told different token budgets. Within its budget a right answer is worth "
        "more the smaller the budget, beyond it less the longer it is. Advantages compare all attempts of the task "
        "and add how far those of a budget are from its par: which budget suits a task is learned without labels.",
        departures="The sum is the paper's; released code adds a budget's term twice (weight=2) and takes the smaller "
        "of both curves within the budget (lesser=true). That term is not normalised, so advantages reach -beta.",
        when_to_use="Answers should be as long as the task needs, and nobody knows how long that is.",
        seed=13,
        family="A2",
        nearest="dapo",
        policies=("language", "tabular"),
    ),
    selection=Selection(count=64),
    sampling=ToldGroup(size=16, name="budget", words=Shared((512.0, 1024.0, 2048.0, 2560.0))),
    reward=Chain((Verified(), WithinBudget(limit=4096, beta=4.0))),
    credit=Chain((GroupStandardised(), AgainstPar())),
)

_WORLD = {"selection.count": 8, "sampling.size": 16, "update.learning_rate": 0.03}

claim = Claim(
    statement="Trained with budgets, answers that are told none are shorter than GRPO's.",
    source="arXiv 2507.15844, section 4.2; specification 13",
    experiment="announced_budgets",
    observable="expected length of an answer that is told no budget",
    higher_is_better=False,
    smallest_effect=2.0,
    treated=Arm(
        "hbpo", {**_WORLD, "sampling.words.values": (4.0, 8.0, 16.0, 32.0), "reward.within_budget.limit": 32.0}
    ),
    baseline=Arm("grpo", {**_WORLD, "constraint.kl.weight": 0.0}),
    rounds=200,
    scope="Tables over lengths; a budget adds to the logits alike for all tasks. GRPO rows are told nothing. "
    "Accuracies are in the notes.",
)
