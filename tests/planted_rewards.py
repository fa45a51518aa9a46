"""Verifiers with faults, as users have written them. Grading workers import this module, so it is light."""

import os
import time
import zlib


def opening(text, entry):
    """A healthy one: right if the answer begins with the letter asked for."""
    return float(text[:1] == entry.answer[:1])


def noisy(text, entry):
    """A judge that answers otherwise every time."""
    return int.from_bytes(os.urandom(2), "big") / 65535


def slow(text, entry):
    time.sleep(1.1)
    return float(text[:1] == entry.answer[:1])


def crashes(text, entry):
    """It has not thought of every answer."""
    if zlib.crc32(text.encode()) % 3 == 0:
        raise KeyError("no such answer")
    return float(text[:1] == entry.answer[:1])


def hangs(text, entry):
    if zlib.crc32(text.encode()) % 3 == 0:
        time.sleep(60)
    return float(text[:1] == entry.answer[:1])


def long_answers(text, entry):
    """It pays for length."""
    return min(1.0, len(text) / 100)


def always(text, entry):
    return 1.0


def repetition(text, entry):
    """It pays for a form: the share of characters that were there before."""
    return 1 - len(set(text)) / max(1, len(text))
