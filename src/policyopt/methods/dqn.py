"""Deep Q-learning with a store and a target that stands still for a while (DQN, arXiv 1312.5602; Mnih et al., Nature
518, 2015, algorithm 1). The policy *is* the action value: it takes the best choice, or with probability epsilon any.

    dqn:        y = r + gamma max_a Q'(s', a)
    double_dqn: y = r + gamma Q'(s', argmax_a Q(s', a))                    (arXiv 1509.06461)
    L = huber(Q(s, a) - y),   Q' = a copy of Q from at most 50 updates before
"""

from dataclasses import replace

from policyopt.compose import About, Copy, Method, Term
from policyopt.objective.action_values import GreedyValue, TemporalDifference
from policyopt.reward.parts import Verified
from policyopt.sampling.exploration import Annealed
from policyopt.sampling.streams import Stream
from policyopt.selection.tasks import Selection
from policyopt.update.averaging import TokenMean
from policyopt.update.following import Refresh
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
