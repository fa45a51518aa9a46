"""The numbers that the papers give, as the methods ship them."""

from policyopt.methods import load
from policyopt.objective.preference import PairLogistic
from policyopt.objective.surrogates import ClippedSurrogate, ProductSequenceSurrogate
from policyopt.reward.parts import OverlongPenalty, ReferencePenalty
from policyopt.update.averaging import SequenceMean, TokenMean


def test_published_settings() -> None:
    grpo, dapo, rloo, dpo, ppo, gspo = (load(key) for key in ("grpo", "dapo", "rloo", "dpo", "ppo", "gspo"))
    assert grpo.objective[0].loss == ClippedSurrogate(0.2, 0.2, None)
    assert grpo.objective[0].average == SequenceMean()
    assert grpo.constraint[0].weight == 0.04
    assert dapo.objective[0].loss == ClippedSurrogate(0.2, 0.28, None)
    assert dapo.objective[0].average == TokenMean()
    assert dapo.reward.parts[1] == OverlongPenalty(limit=20480, buffer=4096)
    assert (dapo.sampling.size, dapo.constraint) == (16, ())
    assert rloo.reward.parts[1] == ReferencePenalty(0.03)
    assert rloo.objective[0].loss == ProductSequenceSurrogate(0.2, 0.2)
    assert dpo.objective[0].loss == PairLogistic(0.1, 0.0)
    assert dpo.update.optimizers["policy"].learning_rate == 1e-6
    assert dpo.update.optimizers["policy"].schedule.warmup == 150
    assert ppo.objective[0].loss == ClippedSurrogate(0.2, 0.2, None)
    assert ppo.credit.lam == 0.95
    assert gspo.update.minibatches == 4
