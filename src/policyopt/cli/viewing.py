"""The command that shows runs as a page."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from policyopt.cli.console import console


def _print(found: dict[str, Any]) -> None:
    """Slot by slot where the runs have stored that, else line by line."""
    if not found["lines"]:
        console.print("The executed objectives are the same, word for word.")
    for number, stage in enumerate(found["stages"], 1):
        console.print(f"stage {number} of {len(found['stages'])}: {'no difference' if not stage else ''}")
        for change in stage:
            console.print(f"  {change['slot']}: {change['before']} -> {change['after']}", markup=False, soft_wrap=True)
    for sign, text in () if found["stages"] else found["lines"]:
        console.print(f"{sign} {text}", markup=False, soft_wrap=True)


def view(
    runs: Annotated[list[str], typer.Argument(metavar="RUN...", help="Folders of runs.")],
    output: Annotated[
        str | None, typer.Option(help="The page to write. Default: view.html in the run, or here for several.")
    ] = None,
    serve: Annotated[bool, typer.Option("--serve", help="Follow runs that still train, until Ctrl-C.")] = False,
    port: Annotated[int, typer.Option(help="With --serve; 0: a free one.", min=0, max=65535)] = 0,
    diff: Annotated[bool, typer.Option("--diff", help="How the executed objectives of two runs differ.")] = False,
) -> None:
    """Curves, rollouts step by step and objectives of runs as one page that works without server and network."""
    from policyopt.report.viewer import Server, ViewError, collect, write_page
    from policyopt.runtime.folder import RunFolder

    folders = [RunFolder.open(run) for run in runs]
    if diff and len(folders) != 2:
        raise ViewError(f"--diff compares two runs, got {len(folders)}; give two folders")
    if serve and output is not None:
        raise ViewError("--serve writes no file; leave out --output")
    opened = {"tab": "objective", "first": 0, "second": 1} if diff else None
    if serve:
        with Server(folders, port, opened) as server:
            console.print(f"{server.url}  (Ctrl-C ends it)", soft_wrap=True)
            try:
                server.serve_forever()
            except KeyboardInterrupt:
                return
    collected = collect(folders, opened)
    if diff:
        _print(collected.index["differences"]["0,1"])
    path = Path(output) if output else (folders[0].path / "view.html" if len(folders) == 1 else Path("view.html"))
    write_page(collected, path)
    what = f"{len(folders)} runs" if len(folders) > 1 else "1 run"
    count, size = len(collected.index["rollouts"]["run"]), path.stat().st_size / 1e6
    console.print(f"{path}  ({what}, {count:,} rollouts, {size:.1f} MB; open it in a browser)", soft_wrap=True)
