"""Rows in ranked lists, for tests of preferences."""

import torch

from policyopt.compose import Term
from policyopt.distributions import Deterministic
from policyopt.objective.listwise import listed
from policyopt.update.averaging import RowMean
from support import Columns, Grid, context, full_step, grids, method, ragged, with_row

LENGTHS = (3, 1, 7, 2, 13, 4, 2, 5)


def lists():
    """Lists 5 (four rows), 2 (three) and 9 (one row, so none); ranks and rows mixed; two labels are equal."""
    batch = with_row(ragged(LENGTHS), pair=[5, 2, 5, 2, 5, 2, 5, 9], rank=[2, 0, 0, 2, 3, 1, 1, 0])
    return batch.with_rows({"label": torch.tensor([0.5, 0.9, 1.0, 0.0, 0.1, 0.2, 0.5, 1.0], dtype=torch.float64)})


BEST_FIRST = {5: [2, 6, 0, 4], 2: [1, 5, 3]}


class Written(Columns):
    @property
    def writes(self):
        return (*super().writes, "label", "strength", "severity")


def step(loss, batch=None, models=None, mask=listed, average=None, micro_rows=None):
    term = Term("one", loss, average or RowMean(), mask, couples=("pair",))
    made = method(term, sampling=Written())
    return full_step(context(made, models or grids()), lists() if batch is None else batch, micro_rows)


class Actor(Grid):
    """A table of actions of two numbers."""

    def at(self, batch, *, following=False):
        mean = self.values[batch.row["_row"], : batch.steps]
        return Deterministic(mean, torch.zeros_like(mean))

    def taken(self, batch):
        return batch.step["_action"]


def every(seen, batch):
    return batch.trained.any(1)
