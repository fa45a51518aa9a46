"""URPO: unified reward and policy optimization (arXiv 2507.17515).

preference tasks: the policy scores N candidates, R = Kendall's tau with the true order ;   verifiable tasks: R = rule
open-ended tasks: R_i = sg of the mean score that the policy itself gives o_i, reading its group as a referee
A = (R - mean_g R) / std_g R in every case ;  one clipped loss and KL. `urpo_warm_up`: without open-ended tasks
"""

from dataclasses import replace

from policyopt.claim import Arm, Claim
from policyopt.compose import About, Chain
from policyopt.methods.grpo import grpo
from policyopt.reward.parts import Verified
from policyopt.reward.referee import Refereed
from policyopt.selection.kinds import OfKinds
from policyopt.selection.tasks import Selection

urpo = replace(
    grpo,
    about=About(
        key="urpo",
        title="URPO: A Unified Reward & Policy Optimization Framework for Large Language Models",
        paper="arXiv 2507.17515",
        equation="unified data format, rank reward of the referee, self-generated rewards",
        mechanism="One model in two roles: on preference data it learns to score candidates in people's order; on "
        "open-ended tasks the same weights score its own group of answers, and these scores are the rewards.",
        departures="instantiation: Kendall's tau, two referee calls in random orders, a warm-up stage without "
        "open-ended tasks (`urpo_warm_up`, the first stage of a Program). Prompts of both roles are the world's.",
        when_to_use="Preference data and open-ended tasks together, where a frozen reward model would be outgrown.",
        seed=18,
        family="A2",
        nearest="grpo",
        policies=(),
    ),
    selection=Selection(count=32, tasks=OfKinds(("preference", "verifiable", "open"))),
    reward=Chain((Verified(), Refereed(calls=2))),
)

urpo_warm_up = replace(
    urpo,
    about=replace(urpo.about, key="urpo_warm_up", equation="first phase: preference and verifiable tasks"),
    selection=Selection(count=32, tasks=OfKinds(("preference", "verifiable"))),
)

_WORLD = {"selection.count": 16, "sampling.size": 8, "constraint.kl.weight": 0.0, "update.learning_rate": 0.1}

claim = Claim(
    statement="A player that is judged by the referee it goes on training becomes better than one judged by the "
    "referee as it was after the warm-up.",
    source="arXiv 2507.17515, section 4; specification 18",
    experiment="players_and_referees",
    observable="true quality of the items that the player chooses, expected, exact, in 0..1",
    higher_is_better=True,
    smallest_effect=0.03,
    treated=Arm("urpo", _WORLD),
    baseline=Arm("urpo", _WORLD, {"frozen": True}, label="the referee of the warm-up"),
    rounds=80,
    scope="16 items of hidden quality; a table in both roles, so they share nothing but the run. 10 rounds of warm-up.",
)
