"""DNO: direct Nash optimization (arXiv 2404.03715).

R(y) = E_{y' ~ pi_t} P(y > y') ;   D = rho(y_1) - rho(y_2), rho = log pi - log pi_t ;   q = sigma(R(y_1) - R(y_2))
L = -q log sigma(eta D) - (1 - q) log sigma(-eta D) ;   `dno_prct`: DPO to pi_t on pairs of a large gap, teacher too
"""

from dataclasses import replace

from policyopt.claim import Arm
from policyopt.compose import About, Role, Term, chosen_rows
from policyopt.feedback.duels import Duels, RankedPairs
from policyopt.methods.dpo import dpo_online
from policyopt.methods.spo import claim as of_self_play
from policyopt.objective.games import WinRateLogistic
from policyopt.objective.preference import PairLogistic
from policyopt.reward.parts import Verified
from policyopt.reward.wins import WinRate
from policyopt.sampling.beside import GroupAndRecorded
from policyopt.sampling.samplers import Group
from policyopt.update.averaging import RowMean
from policyopt.update.gradient import GradientSteps
from policyopt.update.optimizers import AdamW

dno = replace(
    dpo_online,
    about=About(
        key="dno",
        title="Direct Nash Optimization: Teaching Language Models to Self-Improve with General Preferences",
        paper="arXiv 2404.03715",
        equation="algorithm 1 (regression on win rates), algorithm 2 (`dno_prct`)",
        mechanism="A row's reward is its win rate over the policy's other rows. The next policy fits the difference "
        "of two rows' win rates by logistic regression of its log-ratio to the last policy: a mirror descent step "
        "without importance weights. In practice DPO with the last policy as reference, on pairs of a large gap in "
        "win rate in which a teacher's row may win.",
        departures="Win rates are over the group, not over the whole policy. Neighbours of a group make the pairs. "
        "dno_prct keeps at most three pairs of a group, the best against the worst.",
        when_to_use="A comparison oracle, rounds of several samples; dno_prct with a stronger teacher's answers.",
        seed=125,
        family="B1",
        nearest="dpo",
    ),
    sampling=Group(size=6),
    reward=WinRate(),
    feedback=Duels(drawn=False),
    objective=(Term("preference", WinRateLogistic(), RowMean(), mask=chosen_rows, couples=("pair",)),),
    roles={"old": Role(when="collected")},
    models={},
)

dno_prct = replace(
    dno,
    about=replace(dno.about, key="dno_prct", equation="algorithm 2"),
    sampling=GroupAndRecorded(size=5, recorded=1),
    feedback=RankedPairs(gap=0.1, most=3),
    objective=(Term("preference", PairLogistic(beta=0.1), RowMean(), mask=chosen_rows, couples=("pair",)),),
    roles={"reference": Role(when="collected")},
)

_WORLD = {
    "selection.count": 4,
    "sampling.size": 128,
    "objective.eta": 2.0,
    "update": GradientSteps({"policy": AdamW(learning_rate=0.05)}, epochs=10, clip_norm=None),
}
_FIVE = {"iterate": "average", "answers": 5}

claim = replace(
    of_self_play,
    statement="On cyclic preferences the average policy of DNO is nearly unexploitable; with the rewards of the best "
    "Bradley-Terry model in place of win rates the same regression ends at one answer.",
    source="arXiv 2404.03715, theorem 1 (average policy) and section 1; specification 125",
    threshold=0.05,
    treated=Arm("dno", _WORLD, _FIVE),
    baseline=Arm("dno", {**_WORLD, "reward": Verified()}, _FIVE, label="rewards of a Bradley-Terry model"),
    rounds=100,
    scope="4 cycles of 5 answers per seed, each beating the next two; tables. The last policy cycles.",
)
