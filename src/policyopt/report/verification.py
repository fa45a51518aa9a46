"""`policyopt verify`: run claims with a progress bar, store the results, write the cards."""

from __future__ import annotations

import multiprocessing
import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from pathlib import Path

import torch
from rich.console import Console

from policyopt.claim import ClaimError
from policyopt.compose import CompositionError
from policyopt.evaluation.costs import keep
from policyopt.evaluation.methods import REPOSITORY, list_methods
from policyopt.evaluation.verify import STORE, Verification, claim_of, save, stored, verify
from policyopt.methods import keys, load
from policyopt.report.cards import write
from policyopt.report.catalogue import catalogue
from policyopt.report.listing import markdown
from policyopt.runtime.progress import counting

ELSEWHERE = Path("verifications")


class UntestedError(ClaimError):
    """Some of several claims could not be tested."""


class UnknownFamilyError(CompositionError):
    """No published method belongs to that family."""


def in_families(names: str) -> list[str]:
    """Keys of the methods of some families ("A1,A2"); all of them for ""."""
    asked = {name.strip() for name in names.split(",") if name.strip()}
    families = {key: load(key).about.family for key in keys()}
    strange = sorted(asked - set(families.values()))
    if strange:
        known = ", ".join(sorted({family for family in families.values() if family}))
        raise UnknownFamilyError(f"no method is of the families {strange}; there are {known}")
    return [key for key, family in families.items() if not asked or family in asked]


def verify_and_report(
    wanted: Sequence[str], seeds: int | None, console: Console, jobs: int | None = None
) -> list[Verification]:
    """Test the claims of some methods, several at a time in processes of their own (jobs: as many as there are cores);
    print each verdict and what it cost, and write its result and card.

    In a checkout a published method's result under its full criterion goes to the package's own store and
    docs/methods; anything else (fewer seeds, a method of one's own, an installed package) to ./verifications.
    """
    if len(wanted) == 1:
        return [_reported(wanted[0], _with_bar(wanted[0], seeds, console), console)]
    results: dict[str, Verification] = {}
    with counting(console) as bar:
        task = bar.add_task("methods", total=len(wanted))

        def tell(done: int, running: Sequence[str]) -> None:
            bar.update(task, completed=done, description=", ".join(running) or "methods")

        for result in side_by_side(wanted, seeds, jobs or os.cpu_count() or 1, tell=tell):
            results[result.key] = _reported(result.key, result, console)
    cpu = sum(result.cpu for result in results.values())
    console.print(f"{len(results)} methods, {cpu:.0f} CPU s", soft_wrap=True)
    return [results[key] for key in wanted]


def side_by_side(
    wanted: Sequence[str],
    seeds: int | None,
    jobs: int,
    *,
    tell: Callable[[int, Sequence[str]], None],
    rounds: int | None = None,
) -> Iterator[Verification]:
    """Results as they come, of `jobs` processes with one thread each. tell: how many are done, and which are next in
    line or running. UntestedError: at the end, if some failed."""
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(min(jobs, len(wanted)), context, initializer=torch.set_num_threads, initargs=(1,)) as pool:
        futures = {pool.submit(verify, key, seeds, rounds): key for key in wanted}
        waiting, failed = list(wanted), {}
        tell(0, waiting[:jobs])
        try:
            for done, future in enumerate(as_completed(futures), start=1):
                waiting.remove(futures[future])
                tell(done, waiting[:jobs])
                error = future.exception()
                if error is None:
                    yield future.result()
                else:
                    failed[futures[future]] = error
        finally:
            pool.shutdown(wait=True, cancel_futures=True)
    if failed:
        said = "; ".join(f"{key}: {type(error).__name__}: {error}" for key, error in failed.items())
        raise UntestedError(
            f"{len(failed)} of {len(wanted)} claims could not be tested ({said}); results of the others are stored. "
            f"policyopt verify {next(iter(failed))} says more"
        ) from next(iter(failed.values()))


def _reported(key: str, result: Verification, console: Console) -> Verification:
    folder = _store(key, result)
    console.print(
        f"{result.key}: [bold]{result.verdict}[/]  {result.treated.label} - {result.baseline.label} = "
        f"{result.difference}  ({result.criterion['observable']}; {result.criterion['direction']} is better, "
        f"{result.criterion['smallest_effect']:g} counts)  {result.seconds:.0f} s, {result.cpu:.0f} CPU s",
        soft_wrap=True,
    )
    console.print(f"  {folder / (result.key + '.md')}", markup=False, soft_wrap=True)
    return result


def _with_bar(key: str, seeds: int | None, console: Console) -> Verification:
    with counting(console) as bar:
        task = bar.add_task(key, total=None)
        return verify(
            key,
            seeds,
            progress=lambda done, total, what: bar.update(
                task, completed=done, total=total, description=f"{key}: {what}"
            ),
        )


def _store(key: str, result: Verification) -> Path:
    """Write result and card; the folder of the card."""
    cards = REPOSITORY / "docs" / "methods"
    published = key in keys() and dict(result.criterion) == claim_of(key).criterion() and cards.is_dir()
    save(result, STORE if published else ELSEWHERE)
    write(load(key), result, cards if published else ELSEWHERE)
    if published:
        keep(key, result.cpu)
        _write_index(cards)
    return cards if published else ELSEWHERE


def rewrite_cards(folder: Path | None = None) -> None:
    """Write every card and the index again from the stored results, without running anything."""
    folder = folder or REPOSITORY / "docs" / "methods"
    for key in keys():
        if stored(key) is not None:
            write(load(key), stored(key), folder)
    _write_index(folder)


def _write_index(folder: Path) -> None:
    """The page of all methods that have a result, and the catalogue beside the folder."""
    verified = [method for method in list_methods("family") if method["verdict"] != "unverified"]
    (folder / "index.md").write_text(markdown(verified), encoding="utf-8")
    (folder.parent / "catalogue.md").write_text(catalogue(), encoding="utf-8")
