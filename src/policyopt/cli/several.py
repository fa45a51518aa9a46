"""Training by several processes: started here, or by torchrun."""

from __future__ import annotations

import os
import sys

import typer

from policyopt.cli.console import console
from policyopt.recipe.base import RuntimeSection
from policyopt.recipe.cluster import placing
from policyopt.recipe.trainers import Asked, check_count, follow, lead
from policyopt.runtime.launch import StoppedError, launch, on_this_rank, under_torchrun
from policyopt.runtime.placed import launch_placed
from policyopt.runtime.ranks import Ranks


def several(asked: Asked, runtime: RuntimeSection) -> None:
    """Train on `asked.trainers` processes; ends as the command of one process would."""
    if under_torchrun():
        check_count(int(os.environ["WORLD_SIZE"]), asked)
        on_this_rank(rank, (asked,), runtime.deadline)
        return
    try:
        if runtime.on == "ray":
            with placing(runtime) as (needs, deadline):
                launch_placed(asked.trainers, rank, (asked,), deadline, needs)
        else:
            launch(asked.trainers, rank, (asked,), runtime.deadline)
    except StoppedError as stopped:
        raise typer.Exit(stopped.code) from None


def rank(ranks: Ranks, asked: Asked) -> None:
    """What one of the processes does."""
    if not ranks.leads:
        follow(ranks, asked)
        return
    from policyopt.cli.app import finish
    from policyopt.runtime.progress import log_to, progress

    log_to(console)
    try:
        with lead(ranks, asked, progress(console)) as training:
            finish(training)
    except typer.Exit as over:
        sys.exit(over.exit_code)
