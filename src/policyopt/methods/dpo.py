"""DPO: direct preference optimization (arXiv 2305.18290, eq. 7), from recorded pairs and, as `dpo_online`, from the
policy's own samples ranked by the reward.

    L = -log sigma( beta (rho(y_w) - rho(y_l)) ),  rho(y) = sum_t (log pi - log pi_ref)
"""

from dataclasses import replace

from policyopt.claim import Arm, Claim, Tuning
from policyopt.compose import About, Copy, Method, Role, Term, chosen_rows
from policyopt.feedback.preferences import BestVersusWorst
from policyopt.objective.preference import PairLogistic
from policyopt.reward.parts import Verified
from policyopt.sampling.samplers import Group, RecordedPairs
from policyopt.selection.tasks import PairedRows, Selection
from policyopt.update.averaging import RowMean
from policyopt.update.gradient import GradientSteps
from policyopt.update.optimizers import AdamW, Constant

dpo = Method(
    about=About(
        key="dpo",
        title="Direct Preference Optimization: Your Language Model is Secretly a Reward Model",
        paper="arXiv 2305.18290",
        equation="eq. 7",
        mechanism="The policy is its own reward model: beta times its log-ratio to the reference is fitted to "
        "preferences by logistic regression on pairs. No sampling, no reward model.",
        departures="None for recorded pairs. dpo_online pairs the best with the worst of a fresh group and drops "
        "groups of equal rewards.",
        when_to_use="Preference data and no verifier; dpo_online when there is one and pairs are cheap.",
        seed=27,
        family="B1",
    ),
    selection=Selection(count=64),
    sampling=RecordedPairs(),
    objective=(Term("preference", PairLogistic(beta=0.1), RowMean(), mask=chosen_rows, couples=("pair",)),),
    update=GradientSteps({"policy": AdamW(schedule=Constant(warmup=150))}),
    roles={"reference": Role("reference", when="collected")},
    models={"reference": Copy()},
)

dpo_online = replace(
    dpo,
    about=replace(dpo.about, key="dpo_online", title="Direct Preference Optimization on the policy's own samples"),
    selection=Selection(count=16, rows=PairedRows()),
    sampling=Group(size=4),
    reward=Verified(),
    feedback=BestVersusWorst(),
)

_WORLD = {"selection.count": 1024, "update.schedule": "linear"}

claim = Claim(
    statement="DPO recovers pi_ref exp(r / beta) / Z from preferences; imitating the preferred answers does not.",
    source="arXiv 2305.18290, section 4; specification 27",
    experiment="preference_bandit",
    observable="total-variation distance to pi_ref exp(r / beta) / Z",
    higher_is_better=False,
    smallest_effect=0.03,
    threshold=0.03,
    treated=Arm("dpo", {**_WORLD, "objective.beta": 0.5}),
    baseline=Arm("sft", _WORLD, label="sft on the preferred answers"),
    rounds=200,
    tuning=Tuning("update.learning_rate", (0.03, 0.1, 0.3)),
    scope="The learning rates were raised once after a development seed, for both arms, before the run.",
)
