"""Mirror descent policy optimisation off policy (MDPO, arXiv 2005.09814, section 4.2).

L_pi = c log pi(a|s) + (lam - c) log pi_old(a|s) - Q_1(s, a),   a ~ pi(.|s) reparameterised
L_Q  = sum_e (Q_e(s, a) - (r + gamma V'(s')))^2 / 2
L_V  = (V(s) - (min_e Q_e(s, a) - lam log pi(a|s)))^2 / 2
pi_old = pi from before the last m updates;  V' <- 0.995 V' + 0.005 V after every update
"""

from policyopt.claim import Arm, Claim
from policyopt.compose import About, Copy, Critic, Method, QCritic, Role, Term
from policyopt.objective.action_values import SoftStateValue, StateValue, TemporalDifference
from policyopt.objective.pathwise import MirrorDescent
from policyopt.reward.parts import Verified
from policyopt.sampling.samplers import Group
from policyopt.sampling.streams import Stream
from policyopt.selection.tasks import Selection
from policyopt.update.averaging import TokenMean
from policyopt.update.following import Average, Refresh
from policyopt.update.optimizers import AdamW
from policyopt.update.replay import ReplaySteps

mdpo_off = Method(
    about=About(
        key="mdpo_off",
        title="Mirror Descent Policy Optimization",
        paper="arXiv 2005.09814",
        equation="section 4.2 (off-policy loss); released code manantomar/Mirror-Descent-Policy-Optimization",
        mechanism="SAC with a second distance: several updates towards larger values that are charged for leaving the "
        "policy from before them. With c = lam nothing of that policy is left, and the loss is SAC's.",
        departures="Updates come in blocks of 32 after 32 steps; one critic optimiser for both heads; no Tsallis form.",
        when_to_use="Where sac's policy moves too fast for its critics: a larger c holds it back.",
        seed=91,
        family="A1",
        nearest="sac",
        policies=("control",),
    ),
    selection=Selection(),
    sampling=Stream(horizon=32),
    reward=Verified(),
    objective=(
        Term("critic", TemporalDifference(StateValue("target")), TokenMean(), trains="critic"),
        Term("value", SoftStateValue(0.2), TokenMean(), trains="value"),
        Term("policy", MirrorDescent(proximity=1.0, temperature=0.2), TokenMean()),
    ),
    update=ReplaySteps(
        {name: AdamW(learning_rate=3e-4) for name in ("critic", "value", "policy")},
        capacity=1_000_000,
        clip_norm=None,
        after_step=(Average("target", "value", decay=0.995), Refresh("old", every=1000)),
    ),
    roles={"old": Role("old")},
    models={"critic": QCritic(), "value": Critic(), "target": Copy("value"), "old": Copy("policy")},
)

_WORLD = {
    "sampling": Group(size=1),
    "selection.count": 32,
    "update.starts": 32,
    "update.size": 64,
    "update.ratio": 0.25,
    "update.after_step.refresh.every": 8,
    **{f"update.optimizers.{name}.learning_rate": 3e-3 for name in ("critic", "value", "policy")},
}

claim = Claim(
    statement="The distance to the policy from before the last updates bounds how far a round's updates move it; with "
    "c = lam the loss is SAC's and nothing does.",
    source="arXiv 2005.09814, section 4.2; specification 91",
    experiment="policy_steps",
    observable="KL(policy after a round || before it), mean over states and rounds (nats)",
    higher_is_better=False,
    smallest_effect=0.01,
    treated=Arm("mdpo_off", _WORLD),
    baseline=Arm("mdpo_off", {**_WORLD, "objective.policy.loss.proximity": 0.2}, label="mdpo_off with c = lam (SAC)"),
    rounds=60,
    scope="One-step tasks and 8 updates a round; the paper's comparison of returns with SAC on MuJoCo is not covered.",
)
