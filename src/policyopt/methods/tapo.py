"""TAPO: thought-augmented policy optimization (arXiv 2505.15692).

T(q) = the pattern of the complexity nearest to the question's;   o_i ~ pi_old(. | q, T_i(q));   GRPO under (q, T_i(q))
"""

from dataclasses import replace

from policyopt.claim import Arm, Claim
from policyopt.compose import About
from policyopt.methods.grpo import grpo
from policyopt.sampling.told import MatchingPattern, ToldGroup

tapo = replace(
    grpo,
    about=About(
        key="tapo",
        title="Thought-Augmented Policy Optimization: Bridging External Guidance and Internal Capabilities",
        paper="arXiv 2505.15692",
        equation="thought patterns in the prompt of GRPO",
        mechanism="Patterns of thought (decompose, verify, try cases) are matched to questions by complexity and told "
        "in the prompt, one per attempt; the policy still finds the concrete steps. Update and reward are GRPO's.",
        departures="The library of patterns is given: mining it by tree search on 500 seed problems is data work that "
        "is not here. Its texts stand in the world's instruction, its complexities in sampling.words.complexities; "
        "with none, nothing is told and the method is GRPO. Questions' complexities come from the world or are listed.",
        when_to_use="Strategies are known in words, and the policy seldom tries the right one by itself.",
        seed=73,
        family="A2",
        nearest="grpo",
        policies=("language", "tabular"),
    ),
    sampling=ToldGroup(size=8, name="pattern", words=MatchingPattern()),
)

_WORLD = {"selection.count": 12, "sampling.size": 8, "update.learning_rate": 0.05, "constraint.kl.weight": 0.0}

claim = Claim(
    statement="Trained with patterns, tasks that need the rarer strategy are solved more often, even when nothing is "
    "told, than after GRPO.",
    source="arXiv 2505.15692, section 5; specification 73",
    experiment="rare_strategy",
    observable="chance of a right string on tasks of the rarer strategy, told nothing",
    higher_is_better=True,
    smallest_effect=0.05,
    treated=Arm("tapo", {**_WORLD, "sampling.words.complexities": (1.0, 2.0)}),
    baseline=Arm("grpo", _WORLD),
    rounds=150,
    scope="Two strategies, patterns that match them; tables in which a pattern's effect is shared. No KL term.",
)
