"""RLHF as online inverse RL from offline demonstrations (Sun, arXiv 2310.06147): what cloning leaves, a reward mends.

d(s, a) = log mu_pi(s, a) / mu_expert(s, a), by a discriminator of own and demonstrated steps ;  r_t = -c d_t
cloning: failure like eps T^2 of the horizon T ;  on-policy optimisation of r: like eps T
"""

from dataclasses import replace

from policyopt.claim import Arm, Claim, Study
from policyopt.compose import About, QCritic, Term
from policyopt.methods.reinforce import reinforce
from policyopt.objective.ratio import Authorship, steps_of_first, steps_of_others
from policyopt.reward.occupancy import LogRatioPenalty
from policyopt.sampling.samplers import Group
from policyopt.selection.tasks import Selection
from policyopt.update.averaging import TokenMean
from policyopt.update.first import RECORDED, TrainedFirst
from policyopt.update.gradient import GradientSteps
from policyopt.update.optimizers import AdamW

rl_view_of_rlhf = replace(
    reinforce,
    about=About(
        key="rl_view_of_rlhf",
        title="Reinforcement Learning in the Era of LLMs: What is Essential? What is needed? An RL Perspective on "
        "RLHF, Prompting, and Beyond",
        paper="arXiv 2310.06147",
        equation="sections 3 and 4 (RLHF as online inverse RL)",
        mechanism="A perspective, not a method of its own: supervised fine-tuning is behaviour cloning, whose errors "
        "compound where no demonstration goes; a reward learned from demonstrations against own rows, "
        "optimised on own rows, corrects them. The composition is that second half: a discriminator's odds "
        "as the reward, policy gradients.",
        departures="The paper has no experiment; the discriminator is a table of states and actions, cut at its "
        "learning rate. RLHF itself learns the reward from comparisons, which `reward_model` does.",
        when_to_use="Few demonstrations, long horizons, and a world to act in.",
        seed=235,
        family="B1",
        nearest="reinforce",
        policies=("control", "tabular"),
    ),
    selection=Selection(count=32),
    sampling=Group(size=1),
    reward=LogRatioPenalty(coefficient=1.0, bound=5.0),
    models={"discriminator": QCritic(heads=1)},
    before=(
        TrainedFirst(
            terms=(
                Term("ours", Authorship(), TokenMean(), mask=steps_of_first, trains="discriminator"),
                Term("theirs", Authorship(), TokenMean(), mask=steps_of_others, trains="discriminator"),
            ),
            update=GradientSteps({"discriminator": AdamW(learning_rate=0.1)}, epochs=4),
            authors=("policy", RECORDED),
            count=16,
        ),
    ),
)

_OWN = {"update.policy.learning_rate": 0.1}
_CLONE = {"selection.count": 64, "update.learning_rate": 0.1, "update.schedule": "constant"}


def _arms(steps: int, label: str = "") -> tuple[Arm, Arm]:
    given = {"steps": steps}
    return Arm("", _OWN, given, f"{label}a learned reward"), Arm("sft", _CLONE, given, f"{label}cloning")


claim = Claim(
    statement="After cloning 20 demonstrations of 40 steps, policy gradients on a reward that tells own from "
    "demonstrated steps fail less often than more cloning on as many rows.",
    source="arXiv 2310.06147, section 3 (compounding errors of behaviour cloning); specification 235",
    experiment="imitation_horizon",
    observable="probability of falling within 40 steps, exact",
    higher_is_better=False,
    smallest_effect=0.1,
    treated=_arms(40)[0],
    baseline=_arms(40)[1],
    rounds=120,
    scope="A path beside a cliff, slips of 5%, a table; half of the rounds clone in both arms.",
)

study = Study(
    question="How does failure grow with the horizon for cloning, and for on-policy optimisation of a learned reward?",
    experiment="imitation_horizon",
    observable="probability of falling, exact",
    higher_is_better=False,
    smallest_effect=0.05,
    arms=tuple(arm for steps in (5, 10, 20, 40) for arm in _arms(steps, f"{steps} steps: ")),
    rounds=120,
)
