"""RLFR: reinforcement learning with flow rewards (arXiv 2510.10201).

    flow loss on right rows: mean_d (v(x_s, s, c) - (h - n))^2, x_s = s h + (1 - s) n, h a token's hidden state
    z_t = minmax over the row of s / (1 - s) mean_d (v - (h - n))^2 at s = 0.8, 0 where not above the threshold
    A_t = gamma^(T - t) A_row - c_flow sum_{k >= t} gamma^(k - t) z_k ;   then GRPO's loss

`rlfr_flow` fits the flow to recorded rows, for the rounds before.
"""

from dataclasses import replace

from policyopt.claim import Arm, Claim, Tuning
from policyopt.compose import About, Chain, Nothing, Term
from policyopt.credit.flow import DenseAdvantage, FlowDeviation
from policyopt.methods.grpo import grpo
from policyopt.objective.flow import HiddenFlowMatching, steps_of_right
from policyopt.policies.flow import FlowOfHidden
from policyopt.sampling.samplers import Recorded
from policyopt.update.averaging import SequenceMean
from policyopt.update.gradient import GradientSteps
from policyopt.update.optimizers import AdamW

_FLOW = Term("flow", HiddenFlowMatching(), SequenceMean(), mask=steps_of_right, trains="flow")

rlfr = replace(
    grpo,
    about=About(
        key="rlfr",
        title="RLFR: Extending Reinforcement Learning for LLMs with Flow Environment",
        paper="arXiv 2510.10201",
        equation="flow matching, deviation of a step, advantage",
        mechanism="A small flow is fitted to the hidden states of right rows, first recorded ones, then the "
        "policy's own. A token whose state the flow explains badly lies off the paths of right answers and is "
        "charged, beside the outcome that the whole row is judged by.",
        departures="One layer is hooked, the last; the condition is the token before. The flow trains at uniform "
        "times; the token mask by entropy is left out. KL stays a term of the loss. Numbers are defaults of the "
        "released program; its scripts have threshold=0.6, top=15, 1e-4 for the flow and no KL.",
        when_to_use="Outcome rewards, some right answers at hand, and hidden states to look at.",
        seed=4,
        family="A2",
        nearest="grpo",
        policies=("language",),
    ),
    credit=Chain((grpo.credit, FlowDeviation(shares=(0.8,)), DenseAdvantage(weight=-0.01))),
    objective=(*grpo.objective, _FLOW),
    update=GradientSteps({"policy": AdamW(), "flow": AdamW(1e-6)}),
    models={**grpo.models, "flow": FlowOfHidden()},
)

rlfr_flow = replace(
    rlfr,
    about=replace(rlfr.about, key="rlfr_flow", equation="flow matching on recorded rows"),
    sampling=Recorded(),
    credit=Nothing(),
    objective=(_FLOW,),
    constraint=(),
    update=GradientSteps({"flow": AdamW(1e-3)}),
    roles={},
    models={"flow": FlowOfHidden()},
)
"""The flow alone, on recorded rows: a stage of a program."""

_WORLD = {
    "selection.count": 2,
    "sampling.size": 16,
    "constraint.kl.weight": 0.0,
    "update.optimizers.flow.learning_rate": 0.001,
}
_FIRST = {"first": "rlfr:rlfr_flow", "warm": 20}

claim = Claim(
    statement="Charging steps that a flow of right rows' hidden states explains badly reaches right rows from fewer "
    "samples than their outcome alone.",
    source="arXiv 2510.10201, section 4; specification 4",
    experiment="off_the_path",
    observable="probability of a right row, mean over rounds, exact",
    higher_is_better=True,
    smallest_effect=0.05,
    treated=Arm("rlfr", {**_WORLD, "credit.dense_advantage.weight": -0.1}, _FIRST),
    baseline=Arm("rlfr", {**_WORLD, "credit.dense_advantage.weight": 0.0}, _FIRST, label="the same without the charge"),
    rounds=60,
    tuning=Tuning("update.optimizers.policy.learning_rate", (0.03, 0.1)),
    scope="Strings of 6 of 4 symbols, a policy linear in random features of its states, which are its hidden "
    "states; 64 right recordings. Both arms fit the flow. The weight is 0.1, as rows have 6 steps.",
)
