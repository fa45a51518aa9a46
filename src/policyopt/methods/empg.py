"""EMPG: entropy-modulated policy gradients (arXiv 2509.09265, eq. 8 and 10 to 12).

h_s = entropy of turn s, scaled to 0..1 over the batch;  g_s = exp(-k h_s) / mean exp(-k h);  f_s = exp(-k' h_{s+1})
A_s = A_row g_s + zeta f_s - mean of that over turns ;   then GRPO's loss
"""

from dataclasses import replace

from policyopt.claim import Arm, Claim
from policyopt.compose import About, Chain
from policyopt.credit.entropies import EntropyModulated, StepEntropies
from policyopt.methods.grpo import grpo
from policyopt.update.gradient import GradientSteps
from policyopt.update.optimizers import SGD

empg = replace(
    grpo,
    about=About(
        key="empg",
        title="Harnessing Uncertainty: Entropy-Modulated Policy Gradients for Long-Horizon LLM Agents",
        paper="arXiv 2509.09265",
        equation="eq. 8 (advantage), 10 (self-calibrating scaling), 11 (future clarity), 12 (entropies of the batch)",
        mechanism="The score of a softmax choice is large where the policy is unsure, whether or not the choice "
        "mattered. Turns that were sure are weighed up and unsure ones down, mean one, and a turn is paid a little for "
        "leading to a sure one.",
        departures="Entropies are of whole distributions, not estimated from the sampled tokens.",
        when_to_use="Outcome rewards over many turns, of which few decide.",
        seed=229,
        family="A1",
        nearest="grpo",
    ),
    credit=Chain((grpo.credit, StepEntropies(), EntropyModulated())),
)

_WORLD = {
    "selection.count": 1,
    "sampling.size": 16,
    "constraint.kl.weight": 0.0,
    "update": GradientSteps({"policy": SGD(3.0)}, clip_norm=None),
}

claim = Claim(
    statement="Where 2 of 10 turns decide, weighing sure turns up and unsure ones down succeeds more often at equal "
    "samples.",
    source="arXiv 2509.09265, section 4 (long-horizon agents); specification 229",
    experiment="decisive_turns",
    observable="probability of success, mean over rounds, exact",
    higher_is_better=True,
    smallest_effect=0.03,
    treated=Arm("empg", _WORLD),
    baseline=Arm("grpo", _WORLD),
    rounds=60,
    scope="Ten choices of four, one a turn, in a table; two decide. Plain gradient steps: an optimiser that scales "
    "every parameter's step undoes most of the modulation. Both at one learning rate, as in the paper; on development "
    "seeds a rate ten times larger leaves a gap of 0.01.",
)
