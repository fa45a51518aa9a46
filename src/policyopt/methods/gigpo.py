"""GiGPO: group-in-group policy optimization (arXiv 2505.10978, section 4).

A^E_i = R_i - mean_g R ;   g_it = sum_{k>=t} gamma^(k-t) r_ik ;   A^S_it = g_it - mean_U g,
U = all turns of the group that began in the state s_it ;   A_it = A^E_i + w A^S_it, on the tokens of turn t

`gigpo_scaled` divides both by the deviation; `gigpo_pooled` is the released code's episode level, one value a turn.
"""

from dataclasses import replace

from policyopt.claim import Arm, Claim, Tuning
from policyopt.compose import About, Chain, Method
from policyopt.credit.turns import AddedAdvantages, TurnAdvantage
from policyopt.methods.grpo import grpo
from policyopt.selection.tasks import Selection

EPISODE = TurnAdvantage(column=None, of="total", advantage="advantage:episode")
STATE = TurnAdvantage(among="state", gamma=0.95, advantage="advantage:state")
SUM = AddedAdvantages({"advantage:episode": 1.0, "advantage:state": 1.0})

gigpo = replace(
    grpo,
    about=About(
        key="gigpo",
        title="Group-in-Group Policy Optimization for LLM Agent Training",
        paper="arXiv 2505.10978",
        equation="eq. 3 (episodes), 6 and 7 (anchor states, steps), 8 (sum); mean_norm of the release",
        mechanism="Episodes of a task are each other's baseline, as in GRPO; besides, all turns of the group that "
        "began in the same state, of any episode and time, are each other's baseline for what came after. Credit per "
        "turn without a critic and without more rollouts.",
        departures="States are equal or not by the world's `state_keys`; clusters of similar texts are the world's "
        "matter. The KL term is the one of grpo.",
        when_to_use="Episodes of many turns that pass the same states; sparse rewards.",
        seed=74,
        family="A2",
        nearest="grpo",
        policies=("language", "tabular"),
    ),
    selection=Selection(count=16),
    credit=Chain((EPISODE, STATE, SUM)),
)

gigpo_scaled = replace(
    gigpo,
    about=replace(gigpo.about, key="gigpo_scaled", equation="mean_std_norm of the release"),
    credit=Chain((replace(EPISODE, scaled=True), replace(STATE, scaled=True), SUM)),
)

gigpo_pooled: Method = replace(
    gigpo,
    about=replace(gigpo.about, key="gigpo_pooled", equation="episode level over turns, as released"),
    credit=Chain((replace(EPISODE, column="turn"), STATE, SUM)),
)

_WORLD = {"selection.count": 2, "sampling.size": 8, "constraint.kl.weight": 0.0}

claim = Claim(
    statement="Comparing turns that began in the same state learns a sparsely rewarded chain of sub-goals with fewer "
    "episodes than comparing episodes alone.",
    source="arXiv 2505.10978, sections 4 and 5; specification 74",
    experiment="key_and_door",
    observable="probability of success, exact, mean over the rounds of training",
    higher_is_better=True,
    smallest_effect=0.03,
    treated=Arm("gigpo", _WORLD),
    baseline=Arm("gigpo", {**_WORLD, "credit.advantage:state": 0.0}, label="episodes alone (w = 0)"),
    rounds=20,
    tuning=Tuning("update.learning_rate", (0.03, 0.1, 0.3)),
    scope="A grid with a key and a door; a table as policy, one action a turn. Not ALFWorld or WebShop.",
)
