"""GVM: gradient variance minimisation for rejection sampling and RL (arXiv 2505.02391).

pilot: acceptance rate p_i, mean gradient norm G_i of accepted rows;  N_i ~ G_i / sqrt(p_i + alpha / p_i^(beta - 1))
RAFT: L = -mean_i mean over accepted rows log pi(o);   RAFT++: -mean over accepted tokens min(r, clip(r));   or GRPO
"""

from dataclasses import replace

from policyopt.claim import Arm, Claim
from policyopt.compose import About, Nothing, Term
from policyopt.credit.groups import GroupStandardised
from policyopt.credit.subgroups import Accepted
from policyopt.methods.dapo import dapo
from policyopt.objective.supervised import NegativeLogLikelihood
from policyopt.objective.surrogates import ClippedSurrogate
from policyopt.reward.parts import Verified
from policyopt.sampling.adaptive import AllocatedGroup
from policyopt.selection.scored import RightRows
from policyopt.selection.tasks import EveryRow, Selection
from policyopt.update.averaging import TokenMean
from policyopt.update.grouped import EvenGroups

gvm_raft = replace(
    dapo,
    about=About(
        key="gvm_raft",
        title="Optimizing Chain-of-Thought Reasoners via Gradient Variance Minimization in Rejection Sampling and RL",
        paper="arXiv 2505.02391",
        equation="allocation of least gradient variance, for RAFT, RAFT++ and GRPO",
        mechanism="For a fixed number of generations the error of the gradient is least if a task gets attempts in "
        "proportion to the size of its gradient over the root of its success rate. A few pilot attempts estimate both.",
        departures="In RAFT's weight 1 / (N_i p_i) the expected number of accepted rows is replaced by their actual "
        "one: the mean over a task's accepted rows, then over tasks. Pilot rows are not trained on. Tasks whose pilot "
        "has no right row get no attempts. No KL term: the released runs of RAFT++ and GRPO have one of 0.001. "
        "Variants gvm_raft:gvm_raft_plus (RAFT++) and gvm_raft:gvm_grpo.",
        when_to_use="Rejection sampling with a fixed budget over tasks of very different difficulty.",
        seed=166,
        family="A2",
        nearest="sft",
        policies=("language", "tabular"),
    ),
    selection=Selection(count=32, rows=RightRows()),
    sampling=AllocatedGroup(size=8, pilot=8),
    reward=Verified(),
    credit=Nothing(),
    objective=(Term("policy", NegativeLogLikelihood(), EvenGroups()),),
    roles={},
)

gvm_raft_plus = replace(
    gvm_raft,
    about=replace(gvm_raft.about, key="gvm_raft_plus", nearest="gvm_raft"),
    credit=Accepted(),
    objective=(Term("policy", ClippedSurrogate(0.2, 0.3), TokenMean()),),
    roles=dapo.roles,
)
"""RAFT with a clipped ratio."""

gvm_grpo = replace(
    gvm_raft_plus,
    about=replace(gvm_raft.about, key="gvm_grpo", nearest="grpo"),
    selection=Selection(count=32, rows=EveryRow()),
    credit=GroupStandardised(),
)
"""Groups of allocated sizes."""

_WORLD = {"selection.count": 40, "sampling.size": 16, "sampling.pilot": 16}

claim = Claim(
    statement="Allocated attempts give the gradient of accepted rows with a smaller error than equally many for each "
    "task.",
    source="arXiv 2505.02391, lemma 1 and figure 2; specification 166",
    experiment="accepted_gradients",
    observable="ln of the mean squared error of the gradient",
    higher_is_better=False,
    smallest_effect=0.1,
    treated=Arm("gvm_raft", _WORLD),
    baseline=Arm("gvm_raft", {**_WORLD, "sampling.uniform": True}, label="equal numbers of attempts"),
    rounds=40,
    scope="A fixed policy. Both arms draw the same pilot rows and use none of them for the gradient.",
)
