"""`policyopt verify`: run claims with a progress bar, store the results, write the cards."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from policyopt.compose import CompositionError
from policyopt.evaluation.methods import REPOSITORY, list_methods
from policyopt.evaluation.verify import STORE, Verification, claim_of, save, stored, verify
from policyopt.methods import keys, load
from policyopt.report.cards import write
from policyopt.report.catalogue import catalogue
from policyopt.report.listing import markdown

ELSEWHERE = Path("verifications")


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


def verify_and_report(wanted: Sequence[str], seeds: int | None, console: Console) -> list[Verification]:
    """Test the claims of some methods; print each verdict and write its result and card.

    In a checkout a published method's result under its full criterion goes to the package's own store and
    docs/methods; anything else (fewer seeds, a method of one's own, an installed package) to ./verifications.
    """
    results = []
    for each in wanted:
        result = _with_bar(each, seeds, console)
        results.append(result)
        folder = _store(each, result)
        console.print(
            f"{result.key}: [bold]{result.verdict}[/]  {result.treated.label} - {result.baseline.label} = "
            f"{result.difference}  ({result.criterion['observable']}; {result.criterion['direction']} is better, "
            f"{result.criterion['smallest_effect']:g} counts)  {result.seconds:.0f} s",
            soft_wrap=True,
        )
        console.print(f"  {folder / (result.key + '.md')}", markup=False, soft_wrap=True)
    return results


def _with_bar(key: str, seeds: int | None, console: Console) -> Verification:
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, TimeRemainingColumn(), console=console, transient=True) as bar:
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
