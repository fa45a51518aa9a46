"""Verifiers of tests, as a user would write them; grading workers import this module."""

import time


def length(text, entry, divisor=3):
    """A reward that differs between answers."""
    return (len(text) % divisor) / (divisor - 1)


def raises(text, entry):
    raise RuntimeError("the judge has a bug")


def raises_on_odd(text, entry):
    if len(text) % 2:
        raise RuntimeError("odd answers are beyond me")
    return float(len(text) % 4 == 0)


def nan(text, entry):
    return float("nan")


def hangs(text, entry):
    time.sleep(600)


def hangs_on_odd(text, entry):
    if len(text) % 2:
        time.sleep(600)
    return float(len(text) % 4 == 0)
