"""SAPO: swarm sampling policy optimization ("Sharing is Caring", arXiv 2509.08721).

every node: I groups of its own, J groups of rows that other nodes published ;   R_i by its own verifier, A_i inside the
original group ;   r = pi / pi_old with pi_old the node's own, also for rows of others ;   clipped loss, no KL
"""

from dataclasses import replace

from policyopt.claim import Arm, Claim
from policyopt.compose import About, Role, Term
from policyopt.methods.grpo import grpo
from policyopt.objective.surrogates import ClippedSurrogate
from policyopt.sampling.exchange import Exchanged
from policyopt.selection.tasks import Selection
from policyopt.update.averaging import SequenceMean

sapo_swarm = replace(
    grpo,
    about=About(
        key="sapo_swarm",
        title="Sharing is Caring: Efficient LM Post-Training with Collective RL Experience Sharing",
        paper="arXiv 2509.08721",
        equation="algorithm 1 (swarm sampling)",
        mechanism="Nodes with policies of their own publish what they write. Each trains on a mixture of its own "
        "groups and of groups of others, whose rows it treats as if they were its own samples: no ratio to who wrote "
        "them, so a good solution spreads as shared text.",
        departures="A node is a run; what is published is the world's (`publish`, `offered`), and is not part of a "
        "run's saved state. The network is a pool in memory, rows travel as symbols, not as text of another "
        "tokenizer. Where too few useful groups are offered a node adds own ones, so that every round has as many.",
        when_to_use="Many small trainers with different strengths and no fast network between them.",
        seed=146,
        family="A2",
        nearest="grpo",
    ),
    selection=Selection(count=4),
    sampling=Exchanged(size=8, external=4),
    objective=(Term("policy", ClippedSurrogate(0.2, 0.28), SequenceMean()),),
    constraint=(),
    roles={"old": Role(when="collected")},
    models={},
)

claim = Claim(
    statement="Nodes that share half of their batches collect more reward than isolated nodes at the same batch.",
    source="arXiv 2509.08721, section 5 (4 own and 4 external against 8 and 0); specification 146",
    experiment="shared_experience",
    observable="probability of a right string, mean over nodes, tasks and rounds",
    higher_is_better=True,
    smallest_effect=0.05,
    treated=Arm("sapo_swarm", {"update.learning_rate": 0.1}),
    baseline=Arm(
        "sapo_swarm",
        {"update.learning_rate": 0.1, "selection.count": 8, "sampling.external": 0},
        label="isolated nodes, 8 own",
    ),
    rounds=60,
    scope="Eight tables that begin with one known kind of task each; nodes take turns in one process. The paper's "
    "mixture of 2 own and 6 external is not compared.",
)
