"""Implicit process rewards (Free Process Rewards without Process Labels, arXiv 2412.01981, eq. 4 and 6).

r(y) = beta sum_t (log pi_phi - log pi_ref) ;   L = -l log sigma(r) - (1 - l) log(1 - sigma(r)),  l: the row is right
r_k = q_k - q_{k-1},  q_k = beta sum_{t <= T_k} log pi_phi / pi_ref = beta log E_{y ~ pi_ref | prefix} exp(r(y) / beta)
"""

from dataclasses import replace

from policyopt.claim import Arm, Claim
from policyopt.compose import About, Chain, Copy, Given, Method, Role, Term, trained_rows
from policyopt.methods.dpo import dpo
from policyopt.methods.ppo import ppo
from policyopt.objective.implicit import ImplicitClassifier
from policyopt.objective.preference import PairLogistic
from policyopt.reward.implicit_rewards import ImplicitProcess
from policyopt.reward.parts import Verified
from policyopt.sampling.samplers import Recorded
from policyopt.selection.tasks import Selection
from policyopt.update.averaging import RowMean
from policyopt.update.gradient import GradientSteps
from policyopt.update.optimizers import AdamW

implicit_prm = Method(
    about=About(
        key="implicit_prm",
        title="Free Process Rewards without Process Labels",
        paper="arXiv 2412.01981",
        equation="eq. 4 (implicit process reward), eq. 6 (cross-entropy)",
        mechanism="The log-ratio of a model to its reference is fitted to the outcome of whole rows. Its sums over "
        "prefixes are then soft values under the reference, so their differences reward single steps of reasoning that "
        "nobody labelled. What is trained here is the process reward model; `implicit_prm_rewards` uses it.",
        departures="Labels are the world's grades of recorded rows. KTO and NCA losses on the same log-ratio are those "
        "of other methods. Weighted voting over answers is left out.",
        when_to_use="Outcome labels, one response a prompt is enough, and a reward wanted for every step.",
        seed=25,
        family="B1",
        nearest="pacs",
        policies=("language", "denoising", "tabular"),
    ),
    selection=Selection(count=64),
    sampling=Recorded(),
    reward=Verified(),
    objective=(
        Term("outcome", ImplicitClassifier(0.05, comparison="none", balanced=False), RowMean(), mask=trained_rows),
    ),
    update=GradientSteps({"policy": AdamW(5e-7)}),
    roles={"old": Role("reference", when="collected")},
    models={"reference": Copy()},
)

implicit_prm_dpo = replace(
    dpo,
    about=replace(implicit_prm.about, key="implicit_prm_dpo", equation="eq. 4; DPO loss on pairs", nearest="dpo"),
    objective=(replace(dpo.objective[0], loss=PairLogistic(beta=0.05)),),
    update=implicit_prm.update,
)
"""The same model from pairs of a right and a wrong row."""

implicit_prm_rewards = replace(
    ppo,
    about=replace(implicit_prm.about, key="implicit_prm_rewards", equation="eq. 4, paid along the row", nearest="ppo"),
    reward=Chain((Verified(), ImplicitProcess())),
    roles={
        **ppo.roles,
        "reference": Role("reference", when="collected"),
        "implicit": Role("implicit", when="collected"),
    },
    models={
        **ppo.models,
        "reference": Copy(),
        "implicit": Given("a model that implicit_prm trained, from the same reference"),
    },
)
"""A policy that is paid by it for every step of reasoning, beside the verified outcome."""

_WORLD = {"selection.count": 1000, "objective.beta": 1.0, "update.learning_rate": 0.1, "update.clip_norm": None}

claim = Claim(
    statement="Trained on outcomes alone, it tells the first wrong step of a row from the right ones before it; the "
    "same model's outcome spread evenly over the steps does not.",
    source="arXiv 2412.01981, section 3.2 (proposition 3.1) and section 5; specification 25",
    experiment="wrong_moves",
    observable="AUC of -r_k, first wrong steps against the right steps before them, over all wrong rows",
    higher_is_better=True,
    smallest_effect=0.2,
    threshold=0.95,
    treated=Arm("implicit_prm", _WORLD),
    baseline=Arm("implicit_prm", _WORLD, given={"spread": True}, label="its outcome reward, spread evenly"),
    rounds=30,
    scope="Paths of 6 moves with 3 choices, one of them wrong in every place; a table over the 364 places, 3000 random "
    "paths with their outcome; beta 1 and the learning rate 0.1 of the specification. A "
    "development seed was looked at before.",
)
