"""Knobs of importance weights."""

from test_dead_knobs import Knob, weight

from policyopt.objective.importance import TruncatedSequenceImportance

KNOBS = (Knob(TruncatedSequenceImportance(), weight, {"cap": 0.9}),)
