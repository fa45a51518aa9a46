"""Warnings about data: a set is read for training and for evaluation, and what is wrong with it is told once."""

from __future__ import annotations

import functools
import logging

log = logging.getLogger("policyopt")


@functools.cache
def warn_once(message: str) -> None:
    log.warning("%s", message)
