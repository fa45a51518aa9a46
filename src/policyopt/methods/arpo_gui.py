"""ARPO: end-to-end policy optimization for GUI agents with experience replay (arXiv 2505.16282, section 3).

R_i = s_i + 0.5 format_i;   where std_g s < 0.05 and mean_g s < 0.2: the first row is replaced by a stored success
A_i = (R_i - mean R) / std R;   L = token mean of -min(r A, clip(r, 1 - e_low, 1 + e_high) A)
"""

from dataclasses import replace

from policyopt.claim import Arm, Claim
from policyopt.compose import About, Chain, Term
from policyopt.methods.dapo import dapo
from policyopt.objective.surrogates import ClippedSurrogate
from policyopt.reward.checks import Checked
from policyopt.reward.parts import Verified
from policyopt.reward.score import ScoreSoFar
from policyopt.sampling.replay import RescuedGroup
from policyopt.selection.scored import Probed, ReachableTasks
from policyopt.selection.tasks import Selection
from policyopt.update.averaging import TokenMean

arpo_gui = replace(
    dapo,
    about=About(
        key="arpo_gui",
        title="ARPO: End-to-End Policy Optimization for GUI Agents with Experience Replay",
        paper="arXiv 2505.16282",
        equation="section 3.2 (reward), 3.3 (experience replay), 3.4 (task selection)",
        mechanism="Every task keeps its latest successes. Where a whole group fails, one failure is replaced by a "
        "stored success, so that the group teaches again; other groups stay as sampled. Tasks on which the starting "
        "policy never succeeds are left out.",
        departures="Screens, virtual machines and the 7B agent are not here: the method is the replay, the filter and "
        "the reward, on strings whose end is the format. Format is what the world's `checks` say.",
        when_to_use="Long episodes with rare successes, dear environments, tasks that return.",
        seed=81,
        family="A2",
        nearest="dapo",
    ),
    selection=Selection(count=32, tasks=ReachableTasks()),
    sampling=RescuedGroup(size=8, score="score"),
    reward=Chain((Verified(), ScoreSoFar(), Checked(weight=0.5))),
    objective=(Term("policy", ClippedSurrogate(0.2, 0.3), TokenMean()),),
    before=(Probed(attempts=16, score="score"),),
)

_WORLD = {"selection.count": 20, "sampling.size": 8, "update.learning_rate": 0.03}

claim = Claim(
    statement="With a stored success in groups that all fail, more tasks come to be done than without, after equally "
    "many episodes.",
    source="arXiv 2505.16282, table 2 (replay ablation); specification 81",
    experiment="rare_episodes",
    observable="chance that a task is done after training, mean over tasks",
    higher_is_better=True,
    smallest_effect=0.05,
    treated=Arm("arpo_gui", _WORLD),
    baseline=Arm("arpo_gui", {**_WORLD, "sampling.capacity": 0}, label="nothing stored"),
    rounds=200,
    scope="20 strings of 2 to 6 actions, tables. Both arms filter tasks by 16 attempts of the starting policy, which "
    "solve none of these tasks or very few: where none is solved all are trained, else those few alone. An earlier "
    "form, whose filter took rows that only kept the form for successes and so left nothing out, came out as shown.",
)
