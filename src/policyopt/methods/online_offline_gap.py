"""The performance gap between online and offline alignment (arXiv 2405.08448), measured with one loss in all regimes.

L = ( rho(y_w) - rho(y_l) - 1 / (2 beta) )^2,  rho = log pi - log pi_ref     (IPO)
online: y, y' ~ pi_theta, labelled by a proxy ; offline: y, y' ~ pi_ref ; replay: the online pairs, shuffled
"""

from dataclasses import replace

from policyopt.claim import Arm, Claim, Study
from policyopt.compose import Nothing
from policyopt.feedback.duels import Duels
from policyopt.methods.dpo import dpo
from policyopt.objective.pairwise import PairPreference
from policyopt.sampling.samplers import Group
from policyopt.selection.tasks import PairedRows, Selection

online_offline_gap = replace(
    dpo,
    about=replace(
        dpo.about,
        key="online_offline_gap",
        title="Understanding the performance gap between online and offline alignment algorithms",
        paper="arXiv 2405.08448",
        equation="IPO in every regime (section 3)",
        mechanism="A measurement of over-optimisation: the same loss on pairs that the policy writes as it learns, on "
        "recorded pairs, and on the online pairs once more in another order. Gold win rate against divergence from the "
        "first policy, one point a round.",
        departures="The composition is the online arm; the world compares (`prefer`), as the paper's proxy preference "
        "model does. A study of bandits with exact win rates instead of language models.",
        when_to_use="To see whether sampling anew pays for its cost on a task.",
        seed=217,
        nearest="dpo",
    ),
    selection=Selection(count=64, rows=PairedRows()),
    sampling=Group(size=2),
    reward=Nothing(),
    feedback=Duels(),
    objective=(replace(dpo.objective[0], loss=PairPreference(0.1, link="squared")),),
)

_WORLD = {"update.learning_rate": 0.03, "update.schedule": "constant"}


def _arm(data: str, beta: float = 0.1) -> Arm:
    label = {"online": "online pairs", "offline": "offline pairs", "replay": "online pairs, replayed"}[data]
    return Arm("", {**_WORLD, "objective.beta": beta}, {"data": data}, label)


claim = Claim(
    statement="From as many pairs labelled by one proxy, the policy that writes them itself reaches a higher gold win "
    "rate at its best round than on pairs of the first policy.",
    source="arXiv 2405.08448, section 4 (figure 1); specification 217",
    experiment="preference_regimes",
    observable="highest gold win rate of a round over the first policy, exact",
    higher_is_better=True,
    smallest_effect=0.02,
    treated=_arm("online"),
    baseline=_arm("offline"),
    rounds=200,
    scope="20 contexts, 100 answers, a log-linear policy of 12 features, beta 0.1; the paper's gap is about 10 points "
    "on language models. The specification's own trial saw 3 points.",
)

study = Study(
    question="Is the gap between online and offline learning one of the data, or of who writes them when?",
    experiment="preference_regimes",
    observable="highest gold win rate of a round over the first policy, exact",
    higher_is_better=True,
    smallest_effect=0.02,
    arms=tuple(
        replace(_arm(data, beta), label=f"beta {beta:g}: {_arm(data).label}")
        for beta in (0.1, 0.3, 1.0)
        for data in ("online", "offline", "replay")
    ),
    rounds=200,
)
