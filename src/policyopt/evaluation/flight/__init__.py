"""The flight check: a few batches are sampled without training, and every check says what it sees in them."""

from policyopt.evaluation.flight import gradients, rows, scores, tasks
from policyopt.evaluation.flight.record import CHECKS, Finding, Flight, Leg, Verdict, as_json, findings

__all__ = [
    "CHECKS",
    "Finding",
    "Flight",
    "Leg",
    "Verdict",
    "as_json",
    "findings",
    "gradients",
    "rows",
    "scores",
    "tasks",
]
