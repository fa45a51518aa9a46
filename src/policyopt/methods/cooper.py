"""Cooper: co-optimizing policy and reward model (arXiv 2508.05613).

stage 1 (policy): R_i = sg sigma(f_phi(o_i)), then GRPO
stage 2 (reward model): L = -log sigma(f_phi(y+) - f_phi(y-)),  y+ a rollout the rule accepts, y- its corrupted copy
"""

from dataclasses import replace

from policyopt.claim import Arm, Claim
from policyopt.compose import About, RewardModel, Term, chosen_rows, trained_rows
from policyopt.constraint.divergence import K3Loss
from policyopt.methods.grpo import grpo
from policyopt.objective.reward_models import PairRanking, RowCrossEntropy
from policyopt.objective.surrogates import ClippedSurrogate
from policyopt.reward.parts import Verified
from policyopt.reward.reward_models import ModelReward
from policyopt.sampling.corrupted import GroupAndCorrupted, attempted_steps
from policyopt.update.averaging import RowMean, SequenceMean
from policyopt.update.gradient import GradientSteps
from policyopt.update.optimizers import AdamW

cooper = replace(
    grpo,
    about=About(
        key="cooper",
        title="Cooper: Co-Optimizing Policy and Reward Models in Reinforcement Learning for Large Language Models",
        paper="arXiv 2508.05613",
        equation="two stages of a training step (policy, reward model)",
        mechanism="The policy follows a reward model, and the reward model goes on learning from what the policy "
        "writes now: a row that a rule is sure to be right against a copy of it whose answer was made wrong. Both "
        "share the surface of the present policy, so rightness, not the surface, gains weight.",
        departures="Rewriting is the world's (there is no assistant model here). A group of equal rewards has "
        "advantage 0. The reward model reads the answer to be found only if the world writes it into the prompt. "
        "`cooper_verifier` is the training of the reward model on labels that comes before.",
        when_to_use="A precise but incomplete rule and a reward model that the policy would otherwise outwit.",
        seed=30,
        family="B1",
        nearest="grpo",
        policies=("language",),
    ),
    sampling=GroupAndCorrupted(size=8),
    reward=ModelReward(probability=True),
    objective=(
        Term("policy", ClippedSurrogate(0.2, 0.2), SequenceMean(), mask=attempted_steps),
        Term("reward", PairRanking(), RowMean(), mask=chosen_rows, trains="reward", couples=("pair",)),
    ),
    constraint=(Term("kl", K3Loss(), SequenceMean(), mask=attempted_steps, weight=0.001),),
    update=GradientSteps({"policy": AdamW(), "reward": AdamW()}),
    models={**grpo.models, "reward": RewardModel()},
)

cooper_verifier = replace(
    grpo,
    about=replace(
        cooper.about,
        key="cooper_verifier",
        equation="training of VerifyRM",
        nearest="sft",
        policies=("language", "tabular"),
    ),
    reward=Verified(),
    objective=(Term("labels", RowCrossEntropy(label=None), RowMean(), mask=trained_rows, trains="reward"),),
    constraint=(),
    update=GradientSteps({"reward": AdamW()}),
    roles={},
    models={"reward": RewardModel()},
)
"""The reward model alone, by cross-entropy on the rule's labels of the policy's rows: a stage of a Program."""

_WORLD = {
    "selection.count": 10,
    "constraint.kl.weight": 0.0,
    "update.optimizers.policy.learning_rate": 0.03,
    "update.optimizers.reward.learning_rate": 0.02,
}

claim = Claim(
    statement="A reward model that pays for a shortcut is outwitted by the policy; one that goes on learning from "
    "right rows and their corrupted copies is not.",
    source="arXiv 2508.05613, section 4 (reward hacking of a static reward model); specification 30",
    experiment="junk_answers",
    observable="probability of the right answer after training, mean over tasks, exact",
    higher_is_better=True,
    smallest_effect=0.2,
    threshold=0.9,
    treated=Arm("cooper", _WORLD),
    baseline=Arm("cooper", {**_WORLD, "update.optimizers.reward.learning_rate": 1e-12}, label="a frozen reward model"),
    rounds=200,
    scope="10 answers and a junk answer in a table; a linear reward model that at first pays 3 for junk and 2 for "
    "being right. A mark that right and corrupted rows share cancels in the difference and is not unlearnt. "
    "A development seed was looked at before.",
)
