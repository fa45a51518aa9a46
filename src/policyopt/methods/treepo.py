"""TreePO: heuristic tree-based modelling (arXiv 2508.17445, sections 3 and 4).

a_id = R_i - mean of R over the leaves that share i's first d segments ;   A_i = mean over d of a_id
A_it = (A_i - mean A) / sqrt(var A + 1e-8) over all tokens of the batch ;  clip-higher surrogate, mean over tokens
"""

from dataclasses import replace

from policyopt.claim import Arm, Claim, Tuning
from policyopt.compose import About, Chain, Term
from policyopt.credit.trees import NestedGroups, Whitened
from policyopt.methods.grpo import grpo
from policyopt.objective.surrogates import ClippedSurrogate
from policyopt.sampling.trees import BudgetedTree
from policyopt.selection.tasks import InformativeGroups, Selection
from policyopt.update.averaging import TokenMean

treepo = replace(
    grpo,
    about=About(
        key="treepo",
        title="TreePO: Bridging the Gap of Policy Optimization and Efficacy and Inference Efficiency with Heuristic "
        "Tree-based Modeling",
        paper="arXiv 2508.17445",
        equation="section 3 (segment trees with a leaf budget), section 4 (advantage over nested subgroups)",
        mechanism="Rollouts of a prompt are decoded in segments and branch at their ends while the budget of leaves "
        "lasts; missing leaves restart inside finished rows. A leaf is compared with all leaves, with those that share "
        "its first segment, its first two and so on.",
        departures="Nested groups weigh alike, as in the released run (weighting=size: by their sizes). Uninformative "
        "groups are dropped before advantages are whitened, as released, but none are drawn in their place. Rows stop "
        "early by their end token alone: the detection of repetition belongs to the world.",
        when_to_use="Long rows, where shared prefixes save decoding.",
        seed=138,
        family="A2",
        nearest="grpo",
        policies=("language",),
    ),
    selection=Selection(count=512, rows=InformativeGroups()),
    sampling=BudgetedTree(size=16),
    credit=Chain((NestedGroups("simple"), Whitened(flat=False))),
    objective=(Term("policy", ClippedSurrogate(0.2, 0.28), TokenMean()),),
    constraint=(),
    update=replace(grpo.update, minibatches=16),
    roles={"old": grpo.roles["old"]},
    models={},
)

_WORLD = {"selection.count": 1, "sampling.steps": 8, "sampling.depth": 3, "update.minibatches": 1}
_LEAVES = {"limit": 24, "decisive": 3, "choices": 3, "level": 0.8}

claim = Claim(
    statement="Trees with nested groups reach the same success with fewer generated tokens than as many independent "
    "rows that are compared with each other.",
    source="arXiv 2508.17445, section 5; specification 138",
    experiment="tokens_until_success",
    observable="generated tokens until the probability of success is 0.8",
    higher_is_better=False,
    smallest_effect=300.0,
    treated=Arm("treepo", _WORLD, _LEAVES),
    baseline=Arm("treepo", {**_WORLD, "sampling.first": (16, 16)}, _LEAVES, label="16 independent rows"),
    rounds=40,
    tuning=Tuning("update.learning_rate", (0.1, 0.3)),
    budget="cost",
    scope="Strings of 24 of 3 symbols, one decisive symbol in each of 3 segments of 8; a table as policy. Independent "
    "rows share no segment, so that only the whole group counts: REINFORCE with a group baseline, whitened.",
)
