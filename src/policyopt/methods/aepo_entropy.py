"""AEPO: arbitrary entropy policy optimization (arXiv 2510.08141).

Beside the group a second pass at temperature T > 1 while the entropy is at most H*, T < 1 above it. Its rows with a
standardised reward above 0.05 get A = 1, replace as many rows of the first pass, and are trained at temperature 1:
grad J = grad J_GRPO + alpha E_{o ~ pi^T}[R(o) grad log pi(o)]
"""

from dataclasses import replace

from policyopt.claim import Arm, Claim
from policyopt.compose import About, Role
from policyopt.credit.given import OfOwnRows
from policyopt.methods.grpo import grpo
from policyopt.sampling.heated import EntropyControlled
from policyopt.update.gradient import GradientSteps
from policyopt.update.optimizers import SGD

aepo_entropy = replace(
    grpo,
    about=About(
        key="aepo_entropy",
        title="Arbitrary Entropy Policy Optimization: Entropy Is Controllable in Reinforcement Fine-tuning",
        paper="arXiv 2510.08141",
        equation="temperature-adjusted REINFORCE terms, switching rule; released code: selection of rows",
        mechanism="No entropy bonus: good rows of a flatter (sharper) policy are learned beside the group, which "
        "raises (lowers) the entropy without ever rewarding noise. Which of both depends on the last round's entropy.",
        departures="The entropy is that of the rows kept by the last round; the first round counts as above the "
        "target (released: as below it). The last rows of the first pass make room, and stay in the statistics of "
        "their groups. Temperatures are 1.5 and 0.6 (released: 1.2 and 0.8), and the second pass asks every task "
        "(released: the first quarter of them).",
        when_to_use="Binary rewards with several right answers, and a wish for a given entropy. With graded rewards "
        "only the best answer is above the mean at the end, and the control fails.",
        seed=51,
        family="A1",
        nearest="grpo",
    ),
    sampling=EntropyControlled(),
    credit=OfOwnRows(given=1.0),
    constraint=(),
    roles={"old": Role(when="collected")},
    models={},
)

_WORLD = {"selection.count": 32, "update": GradientSteps({"policy": SGD(32.0)}, clip_norm=None)}

claim = Claim(
    statement="The entropy after training is nearer to the target of 1 nat than GRPO's.",
    source="arXiv 2510.08141, section 5 (controllable entropy); specification 51",
    experiment="entropy_near_target",
    observable="|entropy - 1| (nats), entropy exact, mean over the last 30 rounds",
    higher_is_better=False,
    smallest_effect=0.2,
    treated=Arm(
        "aepo_entropy",
        {**_WORLD, "sampling.size": 16, "sampling.extra": 16, "sampling.most": 128, "sampling.target": 1.0},
    ),
    baseline=Arm("grpo", {**_WORLD, "sampling.size": 32, "constraint": ()}, label="grpo without KL"),
    rounds=200,
    scope="Tables, eight of 32 arms right, binary rewards. With graded rewards the control fails (specification).",
)
