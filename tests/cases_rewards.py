"""Cases of losses that came with graded rewards."""

import cases
import loops
from policyopt.constraint.entropy_target import EntropyBelowTarget


def below_target(target):
    def reference(p):
        value, slope = loops.entropy(p)
        strength = max(0.0, (target - value) / target)
        return -strength * value, [-strength * s for s in slope]

    return reference


CASES = {
    "entropy_below_target": cases.Case(
        EntropyBelowTarget(3.5), cases.by_distribution(below_target(3.5), None), full=True
    ),
}
