"""A world that says of rows what a test gives it."""

from typing import Any

import torch


class Said:
    """What it is given by name (grade, judge_steps, checks, answer_keys ...), row by row (`_row`); `heads`: named
    grades."""

    def __init__(self, heads: dict[str, Any] | None = None, **said: Any):
        self._said = {name: torch.as_tensor(value) for name, value in said.items()}
        if heads is not None:
            columns = {name: torch.as_tensor(value) for name, value in heads.items()}
            self.grade_heads = lambda batch: {name: column[batch.row["_row"]] for name, column in columns.items()}

    def __getattr__(self, name: str) -> Any:
        if name == "_said" or name not in self._said:
            raise AttributeError(name)
        return lambda batch: self._said[name][batch.row["_row"]]
