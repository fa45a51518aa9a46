"""What loops say of losses of single rows' worth."""

from policyopt.objective.reward_models import RowTarget


def target(worth, aim=-1.0):
    return (worth - aim) ** 2, 2 * (worth - aim)


REFERENCES = {RowTarget: target}
