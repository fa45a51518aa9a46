"""What the loops say of losses of lists."""

from __future__ import annotations

import loops_pairs as by_hand
from policyopt.objective.listwise import LabelledList, ListImitation, PairsOfDistances, PairsOfStated, RankedList

REFERENCES = {
    PairsOfStated: by_hand.pairs_of_list,
    PairsOfDistances: by_hand.pairs_of_list,
    RankedList: by_hand.ranked,
    LabelledList: by_hand.labelled,
    ListImitation: by_hand.imitation,
}
"""Functions of one list: scores, labels and the order of the rows in the batch -> value, derivative by each score.
`ListImitation`: log-probabilities of the best row's steps and the size of its list -> values, derivative."""
