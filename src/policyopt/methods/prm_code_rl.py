"""Process supervision for programs (Process Supervision-Guided Policy Optimization, arXiv 2410.17621, section 3).

y_k = 1 for the lines up to the last prefix that some completion still makes right (binary search), -1 behind it
PRM by mean (PRM(l_1..l_k) - y_k)^2 ;   r_t = 1[t = last] R + lambda PRM_k 1[t ends line k] / m
then PPO, whose critic begins as the PRM. `prm_code_rl_labels` is the first stage.
"""

from dataclasses import replace

from policyopt.claim import Arm, Claim, Tuning
from policyopt.compose import About, Chain, Copy, Critic, Role, Term, Twin
from policyopt.credit.tokens import PrefixLabels, labelled_steps
from policyopt.methods.ppo import ppo
from policyopt.objective.successors import StepRegression
from policyopt.reward.dense import TurnReward
from policyopt.reward.parts import Verified
from policyopt.update.averaging import TokenMean
from policyopt.update.gradient import GradientSteps
from policyopt.update.optimizers import AdamW

prm_code_rl = replace(
    ppo,
    about=About(
        key="prm_code_rl",
        title="Process Supervision-Guided Policy Optimization for Code Generation",
        paper="arXiv 2410.17621",
        equation="section 3.1 (labels by binary search, PRM loss), section 3.2 (dense reward, value initialisation)",
        mechanism="Completions sampled from prefixes of a program say up to which line it could still pass its "
        "tests. A process model that learned this pays for every line, over the number of lines so that more of them "
        "do not pay, and is what the critic begins as.",
        departures="No official code is known; the length normalisation is a division by the number of lines, the "
        "model's output is cut to -1..1. The KL is ppo's term of the loss, not part of the reward. Comments and blank "
        "lines are not recognised, so they are labelled like others. A line is a turn.",
        when_to_use="Programs with tests that pass all or nothing, and completions that are cheap to test.",
        seed=84,
        family="A2",
        nearest="ppo",
        policies=("language", "tabular"),
    ),
    reward=Chain((Verified(), TurnReward(weight=0.1))),
    models={"reference": Copy(), "process": Critic(), "critic": Twin("process")},
)

prm_code_rl_labels = replace(
    prm_code_rl,
    about=replace(prm_code_rl.about, key="prm_code_rl_labels", equation="section 3.1 (labels, PRM loss)"),
    reward=Verified(),
    credit=PrefixLabels(count=8),
    objective=(Term("labels", StepRegression(), TokenMean(), mask=labelled_steps, trains="process"),),
    constraint=(),
    update=GradientSteps({"process": AdamW(1e-5)}),
    roles={"old": Role(when="collected")},
    models={"process": Critic()},
)
"""The process model alone: a stage of a program."""

_WORLD = {
    "selection.count": 32,
    "constraint.kl.weight": 0.0,
    "update.minibatches": 2,
    "update.optimizers.critic.learning_rate": 0.05,
}

claim = Claim(
    statement="Paying for lines by a process model, and beginning the critic as it, reaches right programs from fewer "
    "rows than the reward of tests alone.",
    source="arXiv 2410.17621, section 4.2 (dense reward and value initialisation); specification 84",
    experiment="lines_of_a_program",
    observable="probability of a right program, mean over rounds, exact",
    higher_is_better=True,
    smallest_effect=0.05,
    treated=Arm("prm_code_rl", {**_WORLD, "reward.turn_reward.weight": 0.5}),
    baseline=Arm(
        "prm_code_rl",
        {**_WORLD, "reward.turn_reward.weight": 0.0, "models": {**prm_code_rl.models, "critic": Critic()}},
        label="the same without the process model",
    ),
    rounds=40,
    tuning=Tuning("update.optimizers.policy.learning_rate", (0.01, 0.03)),
    scope="Programs of 6 lines of 4 in a table, not code. Both arms generate the rows that label prefixes; the dense "
    "reward's weight is 0.5, as a row has few lines.",
)
