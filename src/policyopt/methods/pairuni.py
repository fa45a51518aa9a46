"""PairUni: pairwise training for unified models (arXiv 2510.25682).

w_p = 1 for members made for each other, sqrt(max(s_p, 0)) for retrieved pairs of cosine s_p
A_i = w_p (R_i - mean_g R) / (std_g R + 1e-6) ;   L = -(1/2) sum over both members of the GRPO loss + beta KL
"""

from dataclasses import replace

from policyopt.claim import Arm, Claim, Tuning
from policyopt.compose import About, Chain
from policyopt.credit.pairs import SimilarityWeighted
from policyopt.methods.grpo import grpo
from policyopt.selection.pairs import PairedTasks
from policyopt.selection.tasks import Selection

pairuni = replace(
    grpo,
    about=About(
        key="pairuni",
        title="PairUni: Pairwise Training for Unified Multimodal Language Models",
        paper="arXiv 2510.25682",
        equation="Pair-GRPO: similarity-modulated advantage",
        mechanism="A batch is made of pairs of an understanding and a generation task. Both are rolled out as in GRPO, "
        "each with its own group; the advantages of a pair are multiplied by how similar its members are, so that "
        "loosely related pairs move what the tasks share less.",
        departures="The weight's form is from public reviews of the paper. Images, their embeddings and rewards were "
        "the paper's data; the world names the pairs and their similarity.",
        when_to_use="Two tasks on shared weights whose examples can be matched.",
        seed=32,
        family="A2",
        nearest="grpo",
        policies=("language", "tabular"),
    ),
    selection=Selection(count=32, tasks=PairedTasks()),
    credit=Chain((grpo.credit, SimilarityWeighted())),
)

_WORLD = {"selection.count": 16, "sampling.size": 8, "constraint.kl.weight": 0.0}

claim = Claim(
    statement="Weighting pairs by their similarity makes the worse of two tasks better than weighting all pairs alike.",
    source="arXiv 2510.25682, section 4; specification 32",
    experiment="tasks_in_pairs",
    observable="accuracy of the worse task after training, exact over its examples",
    higher_is_better=True,
    smallest_effect=0.02,
    treated=Arm("pairuni", _WORLD),
    baseline=Arm("pairuni", {**_WORLD, "credit.power": 0.0}, label="all pairs weigh the same"),
    rounds=100,
    tuning=Tuning("update.learning_rate", (0.01, 0.03)),
    scope="Two output heads on one linear layer of feature vectors. Loosely matched generation examples ask for what "
    "their partner would, which is wrong for themselves the more often the less similar they are.",
)
