"""Deep Q-learning with a store and a target that stands still for a while (DQN, arXiv 1312.5602; Mnih et al., Nature
518, 2015, algorithm 1). The policy *is* the action value: it takes the best choice, or with probability epsilon any.

    dqn:        y = r + gamma max_a Q'(s', a)
    double_dqn: y = r + gamma Q'(s', argmax_a Q(s', a))                    (arXiv 1509.06461)
    L = huber(Q(s, a) - y),   Q' = a copy of Q from at most 50 updates before
"""

from dataclasses import replace

from policyopt.claim import Arm, Claim, Tuning
from policyopt.compose import About, Copy, Method, Term
from policyopt.objective.action_values import GreedyValue, TemporalDifference
from policyopt.reward.parts import Verified
from policyopt.sampling.exploration import Annealed
from policyopt.sampling.samplers import Group
from policyopt.sampling.streams import Stream
from policyopt.selection.tasks import Selection
from policyopt.update.averaging import TokenMean
from policyopt.update.following import Refresh
from policyopt.update.gradient import GradientSteps
from policyopt.update.optimizers import AdamW
from policyopt.update.replay import ReplaySteps

dqn = Method(
    about=About(
        key="dqn",
        title="Playing Atari with Deep Reinforcement Learning; Human-level control through deep reinforcement learning",
        paper="arXiv 1312.5602; Nature 518, 529-533 (2015)",
        equation="arXiv 1312.5602, eq. 2-3; Nature, algorithm 1",
        mechanism="Q-learning with a network: transitions are stored and drawn again at random, and targets come from "
        "a copy that is renewed now and then, so that the network does not chase itself.",
        departures="Sizes are those for small tasks (a store of 10,000, 128 transitions an update, one update per 10 "
        "steps), not Atari's; Adam instead of RMSProp, as is common now.",
        when_to_use="Finitely many choices, and steps of the environment that are worth keeping. Give the policy "
        "head=q. double_dqn where values are overestimated.",
        nearest="sac",
        policies=("control",),
    ),
    selection=Selection(),
    sampling=Stream(horizon=40, exploration=Annealed(1.0, 0.05, 0.5)),
    reward=Verified(),
    objective=(Term("error", TemporalDifference(GreedyValue(), critic="policy", huber=1.0), TokenMean()),),
    update=ReplaySteps(
        {"policy": AdamW(learning_rate=2.5e-4)},
        capacity=10_000,
        size=128,
        ratio=0.1,
        clip_norm=10.0,
        after_step=(Refresh("target", every=50),),
    ),
    models={"target": Copy("policy")},
)

double_dqn = replace(
    dqn,
    about=replace(
        dqn.about,
        key="double_dqn",
        title="Deep Reinforcement Learning with Double Q-learning",
        paper="arXiv 1509.06461",
        equation="eq. 4",
        nearest="dqn",
    ),
    objective=(
        Term("error", TemporalDifference(GreedyValue(chooser="policy"), critic="policy", huber=1.0), TokenMean()),
    ),
)

_WORLD = {"sampling": Group(size=1), "selection.count": 4, "objective.error.loss.gamma": 0.9}
_HOOKS = (Refresh("target", every=8),)

claim = Claim(
    statement="Transitions that are stored and drawn again teach more than the round's own ones, in as many updates.",
    source="Nature 518 (2015), extended data table 3 (with and without replay)",
    experiment="choosing_process",
    observable="share of the attainable return, mean over training",
    higher_is_better=True,
    smallest_effect=0.02,
    treated=Arm(
        "dqn",
        {
            **_WORLD,
            "update": ReplaySteps({"policy": AdamW()}, size=40, ratio=0.2, starts=1, clip_norm=None, after_step=_HOOKS),
        },
    ),
    baseline=Arm(
        "dqn",
        {
            **_WORLD,
            "update": GradientSteps({"policy": AdamW()}, epochs=8, unit="step", clip_norm=None, after_step=_HOOKS),
        },
        label="dqn without a store",
    ),
    rounds=40,
    tuning=Tuning("update.optimizers.policy.learning_rate", (0.05, 0.15)),
    scope="A table, in which states do not disturb each other: less than what a store is for with networks.",
)
