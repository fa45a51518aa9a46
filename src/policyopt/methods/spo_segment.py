"""SPO: segment policy optimization (arXiv 2505.23564, sections 3 to 5).

A_edge = V(child) - V(parent) ;   V(node) = mean of its children's V, V(leaf) = R            (SPO-tree)
A_t = V(c_(j+1)) - V(c_j), V(c) the mean reward of N rollouts from the cut c, V(end) = R     (`spo_segment_chain`)
L = sum_t m_t p_t max(-A r, -A clip(r, 1 - e, 1 + e)) / sum_t m_t p_t,  p_t = 1[pi_old(a_t) < 0.9],  A whitened
"""

from dataclasses import replace

from policyopt.claim import Arm, Claim, Tuning
from policyopt.compose import About, Chain, Term
from policyopt.credit.trees import EdgesOnce, NodeDifference, UncertainSteps, Whitened
from policyopt.credit.turns import AddedAdvantages
from policyopt.methods.grpo import grpo
from policyopt.sampling.trees import ProbedGroup, TreeGroup
from policyopt.selection.tasks import Selection
from policyopt.update.averaging import TokenMean

spo_segment = replace(
    grpo,
    about=About(
        key="spo_segment",
        title="Segment Policy Optimization: Effective Segment-Level Credit Assignment in RL for Large Language Models",
        paper="arXiv 2505.23564",
        equation="eq. 2 (segment advantage), section 4 (probability mask), section 5 (tree)",
        mechanism="A row is cut into segments whose advantage is the difference of Monte Carlo values at their ends, "
        "without a critic. In the tree form rows share their first segments, and siblings are the baseline; in the "
        "chain form each cut is probed by fresh rollouts. Only steps that were sampled with doubt are trained.",
        departures="Edges of earlier rounds are not replayed. Whitening covers the round, not the optimiser step. In "
        "the tree form each shared segment is trained once, in the first row that holds it.",
        when_to_use="Long rows of which few steps decide, and an engine that can go on from stored prefixes.",
        seed=61,
        family="A1",
        nearest="grpo",
        policies=("language", "tabular"),
    ),
    selection=Selection(count=16),
    sampling=TreeGroup((6, 6, 6), steps=80),
    credit=Chain((NodeDifference(), EdgesOnce(), UncertainSteps(0.9), Whitened(ddof=0))),
    objective=(Term("policy", grpo.objective[0].loss, TokenMean()),),
    constraint=(),
    roles={"old": grpo.roles["old"]},
    models={},
)

spo_segment_chain = replace(
    spo_segment,
    about=replace(
        spo_segment.about,
        key="spo_segment_chain",
        equation="section 4 (chain, probability mask)",
        policies=("language",),
    ),
    sampling=ProbedGroup(size=1, probes=9, every=5, most=0.9),
    credit=Chain((AddedAdvantages({"value_after": 1.0, "value_before": -1.0}), UncertainSteps(0.9), Whitened(ddof=0))),
    update=replace(grpo.update, epochs=2),
)

claim = Claim(
    statement="Where one token decides, segment advantages of a tree of shared prefixes reach success with fewer "
    "generated tokens than group-relative advantages of whole rows.",
    source="arXiv 2505.23564, section 5; specification 61",
    experiment="tokens_until_success",
    observable="generated tokens until the probability of success is 0.9",
    higher_is_better=False,
    smallest_effect=200.0,
    treated=Arm("spo_segment", {"selection.count": 1, "sampling.branching": (2, 2, 2), "sampling.steps": 7}),
    baseline=Arm("grpo", {"selection.count": 1, "sampling.size": 8, "constraint.kl.weight": 0.0}),
    rounds=40,
    tuning=Tuning("update.learning_rate", (0.1, 0.3)),
    budget="cost",
    scope="Strings of 21 of 4 symbols, a table as policy: 8 leaves cost 98 tokens as a tree and 168 as rows.",
)
